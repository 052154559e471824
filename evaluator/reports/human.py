"""The verdict for a person at a terminal: the answer, what decided it, what to do next, then everything else."""

from __future__ import annotations

import itertools
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import click

from evaluator.records import Comparison, Finding, Level, MetricStatus, Verdict, VerdictWord
from evaluator.reports.base import (
    HEALTH_MARKS,
    VERDICT_WORDS,
    Page,
    choose_endpoints,
    count_both,
    describe_data,
    format_allowed,
    format_both,
    format_effect,
    is_watched,
    label_row,
    list_notes,
    mark_status,
    name_check,
    name_role,
    put_worst_first,
    tame,
    title_of,
    to_ascii,
)

WIDE = 110
"""Below this width amounts are written closer together, and absolute bounds are shown in the reasons only."""
LEAST_NAME = 12
MOST_NAME = 36
MAX_REASONS = 4
MAX_TEXT = 5_000
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
"""Spaces between a number and its unit, or the dots next to it: no line is broken there."""
_LONG_WORD = re.compile(r"(\S{300})\S+")
"""A name of thousands of characters would hide the rest of the page; the JSON has all of it."""
_COMMAND = re.compile(r"(^\s*)(:)(?=:)|(##\w*)(\[)")
"""What GitHub, Azure and TeamCity take for a command in a log: `::error::`, `##[error]`, `##vso[…]`."""


def render(verdict: Verdict, page: Page) -> str:
    """Write a verdict for the terminal, or the file, that `page` describes."""
    return to_human(verdict, width=page.width, color=page.color, unicode=page.unicode)


def to_human(verdict: Verdict, *, width: int = 80, color: bool = False, unicode: bool = True) -> str:
    """Write a verdict for a terminal of `width` columns; without `unicode` in ASCII only. Numbers are never wrapped."""
    writer = _Writer(width, color, unicode)
    lines = [*_head(verdict, writer), ""]
    for arm in dict.fromkeys(row.arm for row in verdict.evidence.comparisons):
        lines += [*_table(arm, [row for row in verdict.evidence.comparisons if row.arm == arm], writer), ""]
    lines += _health(verdict.evidence.findings, writer)
    return "\n".join(_COMMAND.sub(_disarm, line.rstrip()) for line in lines).rstrip()


def _disarm(match: re.Match[str]) -> str:
    """Escape the character that makes a line of a CI log a command."""
    sign = match[2] or match[4]
    return f"{match[1] or match[3] or ''}\\x{ord(sign):02x}"


class _Writer(Page):
    """How to write on this page."""

    __slots__ = ()

    def text(self, text: str) -> str:
        """Make any text safe for this page."""
        text = tame(text, MAX_TEXT)
        return text if self.unicode else NBSP.join(map(to_ascii, text.split(NBSP)))

    def paint(self, text: str, kind: VerdictWord | MetricStatus, *, bold: bool = False) -> str:
        """Colour a text that has a mark or a word as well: colour is never the only sign."""
        return click.style(text, fg=COLORS.get(kind), bold=bold or None) if self.color else text

    def wrap(self, text: str, first: str = "  ", following: str = "    ") -> list[str]:
        """Break a sentence between words, never within a number and its unit."""
        broken = textwrap.wrap(
            _TIED.sub(NBSP, _LONG_WORD.sub(rf"\1{self.text('…')}", self.text(text))),
            max(self.width, 40),
            initial_indent=first,
            subsequent_indent=following,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return [line.replace(NBSP, " ") for line in broken]


# ------------------------------------------------------------------ the answer


def _head(verdict: Verdict, writer: _Writer) -> list[str]:
    word = writer.text(VERDICT_WORDS[verdict.word])
    title = writer.text(title_of(verdict))
    judged = writer.text(describe_data(verdict.evidence))
    gap = writer.width - _columns(f"{word}  {title}") - _columns(judged)
    painted = f"{writer.paint(word, verdict.word, bold=True)}  {title}"
    lines = [f"{painted}{' ' * gap}{judged}"] if gap >= 2 and judged else [painted, *writer.wrap(judged)]
    for reason in verdict.reasons[:MAX_REASONS]:
        lines += writer.wrap(reason.text)
    if len(verdict.reasons) > MAX_REASONS:
        unlisted = len(verdict.reasons) - MAX_REASONS
        lines += writer.wrap(f"+{unlisted} more reason{'s' if unlisted > 1 else ''}: --format json names them")
    return lines + [line for note in list_notes(verdict) for line in writer.wrap(note)]


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


def _table(arm: str, comparisons: Sequence[Comparison], writer: _Writer) -> list[str]:
    shown, hidden = choose_endpoints([row for row in comparisons if row.scan])
    head = _Row(tuple(writer.text(arm if column == "canary" else column) for column in COLUMNS))
    label_counts = Counter(map(label_row, comparisons))
    rows = [head, *(_row(row, writer, label_counts) for row in (*(r for r in comparisons if not r.scan), *shown))]
    columns, widths = _fit(rows, writer)
    rows = [
        replace(row, note="") if row.note == later.note else row for row, later in itertools.pairwise([*rows, _Row(())])
    ]
    lines = [line for row in rows for line in _arrange(row, columns, widths, writer)]
    return lines + [line for text in hidden for line in writer.wrap(text, "    ", "      ")]


def _row(row: Comparison, writer: _Writer, label_counts: Mapping[str, int]) -> _Row:
    label, change, margin = label_row(row), format_effect(row), format_allowed(row)
    label += row.rule.metric.note if label_counts[label] > 1 else ""
    status = mark_status(row, "·")
    if writer.width < WIDE:
        change, margin = change.replace(" … ", "…"), margin.split(", ")[0]
        status = status.replace("inconclusive", "unsure")
    cells = (label, name_role(row), *format_both(row), change, margin, status, count_both(row))
    return _Row(tuple(map(writer.text, cells)), None if is_watched(row) else row.status, row.no_data or "")


def _fit(rows: Sequence[_Row], writer: _Writer) -> tuple[tuple[int, ...], list[int]]:
    """Choose the columns that the page has room for, and their widths. Only names are cut, numbers never."""
    full = [max(_columns(row.cells[i]) for row in rows) for i in range(len(COLUMNS))]
    for columns in COLUMN_SETS:
        spare = writer.width - sum(full[i] + 2 for i in columns[1:]) - 2
        if spare >= full[0]:
            return columns, [full[i] for i in columns]
    return columns, [min(max(spare, LEAST_NAME), MOST_NAME), *(full[i] for i in columns[1:])]


def _arrange(row: _Row, columns: Sequence[int], widths: Sequence[int], writer: _Writer) -> list[str]:
    """Arrange one row; a name that is too long gets a line of its own."""
    name, lines = row.cells[0], []
    if _columns(name) > widths[0]:
        available, dots = max(writer.width - 2, LEAST_NAME), writer.text("…")
        if _columns(name) > available:
            ends = itertools.accumulate(map(_columns, name))
            name = (
                name[: sum(1 for _ in itertools.takewhile(lambda end: end <= available - _columns(dots), ends))] + dots
            )
        lines, name = [f"  {name}"], ""
    cells = [_pad(name, widths[0])]
    for column, width in zip(columns[1:], widths[1:], strict=True):
        cell = _pad(row.cells[column], width)
        cells.append(writer.paint(cell, row.status) if column == STATUS and row.status else cell)
    lines.append("  " + "  ".join(cells))
    return lines + writer.wrap(row.note, "      ", "      ")


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _columns(text))


def _columns(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


# ------------------------------------------------------------------ was it fair


def _health(findings: Sequence[Finding], writer: _Writer) -> list[str]:
    """Passed checks by name, the others with what they found and what to do."""
    fine = [f"{HEALTH_MARKS[f.level]} {name_check(f)}" for f in findings if f.level is Level.OK]
    lines = writer.wrap("  ".join(name.replace(" ", NBSP) for name in fine), "  health  ", " " * 10) if fine else []
    for finding in put_worst_first(f for f in findings if f.level is not Level.OK):
        first = " " * 10 if lines else "  health  "
        named = f"{HEALTH_MARKS[finding.level]} {name_check(finding)} – {finding.text}"
        lines += writer.wrap(named, first, " " * 12)
        lines += writer.wrap(finding.remedy, " " * 12, " " * 12)
    return lines
