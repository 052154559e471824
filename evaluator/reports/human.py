"""The verdict for a person at a terminal: the answer, what decided it, what to do next, then everything else."""

from __future__ import annotations

import itertools
import math
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import click

from evaluator.records import Comparison, Evidence, Finding, Level, MetricStatus, Verdict, VerdictWord
from evaluator.reports.base import (
    HEALTH_MARKS,
    STATUS_MARKS,
    VERDICT_WORDS,
    format_allowed,
    format_both,
    format_effect,
    is_watched,
    plain_text,
)
from evaluator.wording import format_duration, name_metric

__all__ = ["to_human"]

WIDE = 110
"""Below this width amounts are written closer together, and absolute bounds are left to the reasons."""
LEAST_NAME = 12
MOST_NAME = 36
MAX_ENDPOINTS = 8
MAX_REASONS = 4
COLORS: Mapping[VerdictWord | MetricStatus, str] = {
    VerdictWord.GO: "green",
    VerdictWord.NO_GO: "red",
    VerdictWord.INCONCLUSIVE: "yellow",
    MetricStatus.PASS: "green",
    MetricStatus.FAIL: "red",
}
NBSP = "\N{NO-BREAK SPACE}"
_TIED = re.compile(
    r"(?<=\d) (?=(?:%|pp|ms|s|min|h|µs|us|/s)(?:\W|$))|(?<=\d) (?=…|\.\.)|(?<=…) (?=[+−\-\d∞])|(?<=\.\.) (?=[+\-\di])"
)
_LONG_WORD = re.compile(r"(\S{300})\S+")
"""A name of thousands of characters would hide the rest of the page; JSON has the whole of it."""
ASCII = str.maketrans(
    {"✓": "+", "✗": "x", "∅": "0", "…": "..", "−": "-", "–": "-", "·": ".", "∞": "inf", "≤": "<=", "≥": ">=", "µ": "u"}
)


def to_human(verdict: Verdict, *, width: int = 80, color: bool = False, unicode: bool = True) -> str:
    """Write a verdict for a terminal of `width` columns; without `unicode` in ASCII only. Numbers are never wrapped."""
    sheet = _Sheet(width, color, unicode)
    lines = [*_head(verdict, sheet), ""]
    for arm in dict.fromkeys(row.arm for row in verdict.evidence.comparisons):
        lines += [*_table(arm, [row for row in verdict.evidence.comparisons if row.arm == arm], sheet), ""]
    lines += _health(verdict.evidence.findings, sheet)
    return "\n".join(line.rstrip() for line in lines).rstrip()


@dataclass(frozen=True, slots=True)
class _Sheet:
    """How to write on this page."""

    width: int
    color: bool
    unicode: bool

    def text(self, text: str) -> str:
        """Make any text safe for this page."""
        text = plain_text(text)
        return text if self.unicode else NBSP.join(_to_ascii(part) for part in text.split(NBSP))

    def paint(self, text: str, kind: VerdictWord | MetricStatus, *, bold: bool = False) -> str:
        """Colour what has a mark or a word already: colour alone says nothing."""
        return click.style(text, fg=COLORS.get(kind), bold=bold or None) if self.color else text

    def wrap(self, text: str, first: str = "  ", rest: str = "    ") -> list[str]:
        """Break a sentence between words, never within a number and its unit."""
        broken = textwrap.wrap(
            _glue(_LONG_WORD.sub(rf"\1{self.text('…')}", self.text(text))),
            max(self.width, 40),
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return [line.replace(NBSP, " ") for line in broken]


def _to_ascii(text: str) -> str:
    return text.translate(ASCII).encode("ascii", "backslashreplace").decode()


def _glue(text: str) -> str:
    """Tie each number to the unit or the dots beside it, with a space at which no line is broken."""
    return _TIED.sub(NBSP, text)


# ------------------------------------------------------------------ the answer


def _head(verdict: Verdict, sheet: _Sheet) -> list[str]:
    word = sheet.text(VERDICT_WORDS[verdict.word])
    title = sheet.text(f"{verdict.release.id}{_against(verdict)}")
    judged = sheet.text(_judged_on(verdict.evidence))
    gap = sheet.width - _columns(f"{word}  {title}") - _columns(judged)
    painted = f"{sheet.paint(word, verdict.word, bold=True)}  {title}"
    lines = (
        [f"{painted}{' ' * gap}{judged}"] if gap >= 2 and judged else [painted, *(sheet.wrap(judged) if judged else [])]
    )
    for reason in verdict.reasons[:MAX_REASONS]:
        lines += sheet.wrap(reason.text)
    if len(verdict.reasons) > MAX_REASONS:
        more = len(verdict.reasons) - MAX_REASONS
        lines += sheet.wrap(f"+{more} more reason{'s' if more > 1 else ''}: --format json names them")
    return lines + [line for note in _notes(verdict) for line in sheet.wrap(note)]


def _against(verdict: Verdict) -> str:
    services = [s for s in verdict.release.services if s.baseline]
    if len(verdict.release.services) == 1:
        return "".join(f" against {s.baseline}" for s in services)
    return f" against {', '.join(f'{s.name} {s.baseline}' for s in services)}" if services else ""


def _judged_on(evidence: Evidence) -> str:
    if not evidence.arms:
        return ""
    units = " + ".join(f"{arm.units:,}" for arm in evidence.arms) + " units"
    if not any(arm.requests for arm in evidence.arms) and any(arm.units for arm in evidence.arms):
        return f"judged on {units}"
    requests = " + ".join(f"{arm.requests:,}" for arm in evidence.arms)
    instances = " + ".join(str(arm.instances) for arm in evidence.arms)
    many = "" if all(arm.instances == 1 for arm in evidence.arms) else "s"
    runs = max(arm.runs for arm in evidence.arms)
    replicates = f" in {runs} runs" if runs > 1 else ""
    duration = format_duration(evidence.window.seconds)
    text = f"judged on {duration}, {requests} requests, {instances} instance{many}{replicates}"
    return f"{text}, {units}" if any(arm.units for arm in evidence.arms) else text


def _notes(verdict: Verdict) -> Iterable[str]:
    if verdict.evidence.incomplete:
        yield "incomplete: a run ended before its time"
    if verdict.mode == "shadow":
        yield "shadow mode: this verdict is stored and blocks nothing"
    if verdict.override is not None:
        yield "overridden: " + ", ".join(f"{key} {value}" for key, value in verdict.override.items())
    if verdict.next_action:
        yield f"next: {verdict.next_action}"


# ------------------------------------------------------------------ the metrics


COLUMNS = ("metric", "role", "baseline", "canary", "change", "margin", "status", "n")
STATUS = COLUMNS.index("status")
COLUMN_SETS = ((0, 1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 3, 4, 5, 6), (0, 2, 3, 4, 5, 6))
"""What is shown, from wide pages to narrow ones."""


@dataclass(frozen=True, slots=True)
class _Row:
    cells: tuple[str, ...]
    status: MetricStatus | None = None
    note: str = ""


def _table(arm: str, comparisons: Sequence[Comparison], sheet: _Sheet) -> list[str]:
    shown, hidden = _choose_endpoints([row for row in comparisons if row.scan])
    head = _Row(tuple(sheet.text(arm if column == "canary" else column) for column in COLUMNS))
    rows = [head, *(_row(row, sheet) for row in (*(r for r in comparisons if not r.scan), *shown))]
    columns, widths = _fit(rows, sheet)
    rows = [
        replace(row, note="") if row.note == later.note else row for row, later in itertools.pairwise([*rows, _Row(())])
    ]
    lines = [line for row in rows for line in _lay_out(row, columns, widths, sheet)]
    return lines + [line for text in hidden for line in sheet.wrap(text, "    ", "      ")]


def _row(row: Comparison, sheet: _Sheet) -> _Row:
    change, margin = format_effect(row), format_allowed(row)
    status = "·" if is_watched(row) and not row.no_data else STATUS_MARKS[row.status]
    if sheet.width < WIDE:
        change, margin = change.replace(" … ", "…"), margin.split(", ")[0]
        status = status.replace("inconclusive", "unsure")
    role = "scan" if row.scan else row.rule.role.value
    n = f"{row.baseline.n:,} + {row.candidate.n:,}"
    cells = (_label(row), role, *format_both(row), change, margin, status, n)
    return _Row(tuple(map(sheet.text, cells)), None if is_watched(row) else row.status, row.no_data or "")


def _label(row: Comparison) -> str:
    endpoint = row.rule.slice.endpoint
    if row.scan:
        return f"  {endpoint} {name_metric(row.rule)}"
    return name_metric(row.rule) + (f" {endpoint}" if endpoint and endpoint not in row.rule.name else "")


def _choose_endpoints(rows: list[Comparison]) -> tuple[list[Comparison], list[str]]:
    """Pick the endpoints that decide or stand out, worst first, and say how many there are beside them."""
    loud = sorted((row for row in rows if _stands_out(row)), key=_badness, reverse=True)[:MAX_ENDPOINTS]
    names = {row.rule.slice.endpoint for row in rows} - {row.rule.slice.endpoint for row in loud}
    quiet = [row for row in rows if row.rule.slice.endpoint in names]
    if not names:
        return loud, []
    more = f"{'+' if loud else ''}{len(names)} {'more ' if loud else ''}endpoint{'s' if len(names) > 1 else ''}"
    within = all(row.status is MetricStatus.PASS for row in quiet)
    return loud, [f"{more} {'within margin' if within else 'not shown to be worse'}"]


def _stands_out(row: Comparison) -> bool:
    worse = row.effect is not None and row.effect.lower > 0
    return row.status is MetricStatus.FAIL or (row.status is MetricStatus.INCONCLUSIVE and worse)


def _badness(row: Comparison) -> tuple[bool, float]:
    effect, margin = row.effect, row.rule.margin
    size = effect.estimate / margin.value if effect and margin and margin.value else 0.0
    return row.status is MetricStatus.FAIL, size if not math.isnan(size) else 0.0


def _fit(rows: Sequence[_Row], sheet: _Sheet) -> tuple[tuple[int, ...], list[int]]:
    """Choose the columns that the page has room for, and their widths. Only names give way, numbers never."""
    full = [max(_columns(row.cells[i]) for row in rows) for i in range(len(COLUMNS))]
    for columns in COLUMN_SETS:
        spare = sheet.width - sum(full[i] + 2 for i in columns[1:]) - 2
        if spare >= full[0]:
            return columns, [full[i] for i in columns]
    return columns, [min(max(spare, LEAST_NAME), MOST_NAME), *(full[i] for i in columns[1:])]


def _lay_out(row: _Row, columns: Sequence[int], widths: Sequence[int], sheet: _Sheet) -> list[str]:
    """Lay out one row; a name that is too long gets a line of its own."""
    name, lines = row.cells[0], []
    if _columns(name) > widths[0]:
        lines, name = ["  " + _shorten(name, max(sheet.width - 2, LEAST_NAME), sheet)], ""
    cells = [_pad(name, widths[0])]
    for column, room in zip(columns[1:], widths[1:], strict=True):
        cell = _pad(row.cells[column], room)
        cells.append(sheet.paint(cell, row.status) if column == STATUS and row.status else cell)
    lines.append("  " + "  ".join(cells))
    return lines + (sheet.wrap(row.note, "      ", "      ") if row.note else [])


def _shorten(text: str, room: int, sheet: _Sheet) -> str:
    dots = sheet.text("…")
    if _columns(text) <= room:
        return text
    ends = itertools.accumulate(map(_columns, text))
    kept = sum(1 for _ in itertools.takewhile(lambda end: end <= room - _columns(dots), ends))
    return text[:kept] + dots


def _pad(text: str, room: int) -> str:
    return text + " " * (room - _columns(text))


def _columns(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


# ------------------------------------------------------------------ was it fair


def _health(findings: Sequence[Finding], sheet: _Sheet) -> list[str]:
    """Checks that are fine by name, the others with what they saw and what to do."""
    fine = [f"{HEALTH_MARKS[f.level]} {_spoken(f)}" for f in findings if f.level is Level.OK]
    lines = sheet.wrap("  ".join(name.replace(" ", NBSP) for name in fine), "  health  ", " " * 10) if fine else []
    for finding in sorted((f for f in findings if f.level is not Level.OK), key=lambda f: f.level is Level.WARN):
        first = " " * 10 if lines else "  health  "
        named = f"{HEALTH_MARKS[finding.level]} {_spoken(finding)} – {finding.text}"
        lines += sheet.wrap(named, first, " " * 12)
        lines += sheet.wrap(finding.remedy, " " * 12, " " * 12) if finding.remedy else []
    return lines


def _spoken(finding: Finding) -> str:
    return finding.check.replace("_", " ")
