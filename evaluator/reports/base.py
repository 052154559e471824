"""What a format is, and the words and numbers that all of them share."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from evaluator.records import WHOLE, Comparison, Evidence, Finding, Level, MetricStatus, Role, Verdict, VerdictWord
from evaluator.wording import (
    format_change,
    format_count,
    format_duration,
    format_interval,
    format_margin,
    format_value,
    name_left_out,
    name_metric,
    write_command,
)


@dataclass(frozen=True, slots=True)
class Page:
    """What the output can show."""

    width: int = 80
    color: bool = False
    unicode: bool = True


Render = Callable[[Verdict, Page], str]

VERDICT_WORDS = {
    VerdictWord.GO: "GO ✓",
    VerdictWord.NO_GO: "NO-GO ✗",
    VerdictWord.INCONCLUSIVE: "INCONCLUSIVE ?",
}
STATUS_MARKS = {
    MetricStatus.PASS: "✓ pass",
    MetricStatus.FAIL: "✗ fail",
    MetricStatus.INCONCLUSIVE: "? inconclusive",
    MetricStatus.NO_DATA: "∅ no data",
}
HEALTH_MARKS = {Level.OK: "✓", Level.WARN: "!", Level.FAIL: "✗"}
ASCII = str.maketrans(
    {"✓": "+", "✗": "x", "∅": "0", "…": "..", "−": "-", "–": "-", "·": ".", "∞": "inf", "≤": "<=", "≥": ">=", "µ": "u"}
)


# ------------------------------------------------------------------ text


def plain_text(text: str) -> str:
    """Escape characters that would move the cursor, colour the terminal or change the direction of the text."""
    if text.isprintable():
        return text
    unsafe = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        character.encode("unicode_escape").decode("ascii") if unicodedata.category(character) in unsafe else character
        for character in text
    )


def to_ascii(text: str) -> str:
    """Write a text in ASCII only."""
    return text.translate(ASCII).encode("ascii", "backslashreplace").decode()


def write_line(text: str, page: Page) -> str:
    """Text as the page can show it."""
    text = plain_text(text)
    return text if page.unicode else to_ascii(text)


def align_columns(rows: Sequence[Sequence[str]], page: Page, *, indent: str = "  ") -> list[str]:
    """Columns of equal width, the first row as their heads; numbers are never wrapped."""
    safe = [[write_line(cell, page) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in safe) for column in range(len(safe[0]))]
    return [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in safe
    ]


def shorten(text: str, most: int) -> str:
    """Cut a text that is longer than `most` in the middle: the numbers of a sentence are at its end.

    >>> shorten("p95 of GET /a/very/long/path rose 41 %", 24)
    'p95 of GET /a/…rose 41 %'
    """
    if len(text) <= most:
        return text
    tail = (most - 1) * 2 // 5
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def tame(text: str, most: int) -> str:
    """Make a text plain, and at most `most` characters long."""
    return shorten(plain_text(shorten(text, most)), most)


def harmless_cell(text: str) -> str:
    """Make text of what a spreadsheet would take for a formula; changes with their sign stay as they are."""
    change = text[1:2].isdigit() and not set(text) & set("|!=\"'")
    formula = text.startswith(("=", "@", "\t", "\r")) or (text.startswith(("+", "-")) and not change)
    return f"'{text}" if formula else text


# ------------------------------------------------------------------ a metric


def format_both(row: Comparison) -> tuple[str, str]:
    """Both arms' own values."""
    return format_value(row.baseline.value, row.unit), format_value(row.candidate.value, row.unit)


def format_effect(row: Comparison) -> str:
    """The change with its interval, signs always: `+17.8 % (+12.9 … +23)`."""
    if row.effect is None:
        return "–"
    return f"{format_change(row.effect, row.unit)} ({format_interval(row.effect, row.unit)})"


def format_allowed(row: Comparison) -> str:
    """Margin and absolute bounds: `10 %`, `0.1 pp, ≤ 1 %`."""
    margin, limit = row.rule.margin, row.rule.limit
    parts = [format_margin(margin, row.unit)] if margin else []
    parts += [f"≥ {format_value(limit.min, row.unit)}"] if limit.min is not None else []
    parts += [f"≤ {format_value(limit.max, row.unit)}"] if limit.max is not None else []
    return ", ".join(parts) or "–"


def is_watched(row: Comparison) -> bool:
    """Does a row decide nothing?"""
    return row.rule.role is Role.WATCH


def is_only_shown(row: Comparison) -> bool:
    """Does a row decide nothing, but have data to show?"""
    return is_watched(row) and not row.no_data


def mark_status(row: Comparison, shown: str = "· watched") -> str:
    """Mark and word of a row's status; `shown` where it decides nothing."""
    return shown if is_only_shown(row) else STATUS_MARKS[row.status]


def name_role(row: Comparison) -> str:
    """The role of a row in the verdict: `gate`, `hold`, `watch`, `scan`."""
    return "scan" if row.scan else row.rule.role.value


def count_both(row: Comparison) -> str:
    """What both values were computed from: `9,321 + 9,248`."""
    return f"{format_count(row.baseline.n)} + {format_count(row.candidate.n)}"


MAX_ENDPOINTS = 8


def label_row(row: Comparison) -> str:
    """Name a row of the table of metrics; rows of the endpoint scan are indented."""
    endpoint = row.rule.slice.endpoint
    if row.scan:
        return f"  {endpoint} {name_metric(row.rule)}"
    return name_metric(row.rule) + (f" {endpoint}" if endpoint and endpoint not in row.rule.name else "")


def choose_endpoints(rows: list[Comparison]) -> tuple[list[Comparison], list[str]]:
    """Pick the endpoints that decide or stand out, worst first, and count the others."""

    def stands_out(row: Comparison) -> bool:
        worse = row.effect is not None and row.effect.lower > 0
        return row.status is MetricStatus.FAIL or (row.status is MetricStatus.INCONCLUSIVE and worse)

    def badness(row: Comparison) -> tuple[bool, float]:
        effect, margin = row.effect, row.rule.margin
        size = effect.estimate / margin.value if effect and margin and margin.value else 0.0
        return row.status is MetricStatus.FAIL, size if not math.isnan(size) else 0.0

    shown = sorted(filter(stands_out, rows), key=badness, reverse=True)[:MAX_ENDPOINTS]
    names = {row.rule.slice.endpoint for row in rows} - {row.rule.slice.endpoint for row in shown}
    unremarkable = [row for row in rows if row.rule.slice.endpoint in names]
    if not names:
        return shown, []
    unlisted = f"{'+' if shown else ''}{len(names)} {'more ' if shown else ''}endpoint{'s' if len(names) > 1 else ''}"
    within = all(row.status is MetricStatus.PASS for row in unremarkable)
    return shown, [f"{unlisted} {'within margin' if within else 'not shown to be worse'}"]


# ------------------------------------------------------------------ the head of a report


def name_opponents(verdict: Verdict) -> str:
    """What the candidates were compared with: `1.4.1`, `cart 1.4.1, pay 2.0`; empty where no version is known."""
    services = verdict.release.services
    named = [f"{s.name} {s.baseline}" if len(services) > 1 else s.baseline for s in services if s.baseline]
    return ", ".join(named)


def title_of(verdict: Verdict) -> str:
    """Name the release and what it was compared with: `cart@1.5.0 against 1.4.1`."""
    opponents = name_opponents(verdict)
    return f"{verdict.release.id} against {opponents}" if opponents else verdict.release.id


def describe_data(evidence: Evidence) -> str:
    """How much data was judged: `judged on 5 min, 84,112 + 84,590 requests, 3 + 3 instances`."""
    if not evidence.arms:
        return ""
    units = f"{_join_counts(arm.units for arm in evidence.arms)} units"
    if not any(arm.requests for arm in evidence.arms) and any(arm.units for arm in evidence.arms):
        return f"judged on {units}"
    requests = _join_counts(arm.requests for arm in evidence.arms)
    instances = " + ".join(str(arm.instances) for arm in evidence.arms)
    many = "" if all(arm.instances == 1 for arm in evidence.arms) else "s"
    runs = max(arm.runs for arm in evidence.arms)
    replicates = f" in {runs} runs" if runs > 1 else ""
    seconds = evidence.window.seconds
    duration = f"{format_duration(seconds)}, " if math.isfinite(seconds) else ""
    text = f"judged on {duration}{requests} requests, {instances} instance{many}{replicates}"
    return f"{text}, {units}" if any(arm.units for arm in evidence.arms) else text


NOTABLE = 0.001


def list_what_is_not_judged(verdict: Verdict) -> Iterable[str]:
    """List the requested period, and the rows that were read and left out.

    The rows as in `not judged of 3,600 + 3,588 rows read: 288 + 0 requests of the warm-up`. A few rows of which none
    failed are only in the JSON.
    """
    period = verdict.period
    if period != WHOLE:
        start = f"from {period.start:%Y-%m-%d %H:%M:%S} UTC" if period.start else "from the start"
        end = f"to {period.end:%Y-%m-%d %H:%M:%S} UTC" if period.end else "to the end"
        yield f"only a part is judged: {start} {end}"
    arms = [arm for arm in verdict.evidence.arms if arm.read]
    kinds = dict.fromkeys((part.kind, part.detail) for arm in arms for part in arm.left_out)
    parts = []
    for kind, detail in kinds:
        parts_by_arm = [[part for part in arm.left_out if (part.kind, part.detail) == (kind, detail)] for arm in arms]
        rows, failures = (
            [sum(getattr(part, name) for part in parts) for parts in parts_by_arm] for name in ("rows", "failures")
        )
        if not any(failures) and all(n < NOTABLE * arm.read for n, arm in zip(rows, arms, strict=True)):
            continue
        text = f"{_join_counts(rows)} {name_left_out(kind, detail)}"
        parts.append(f"{text} ({_join_counts(failures)} failed)" if any(failures) else text)
    if parts:
        yield f"not judged of {_join_counts(arm.read for arm in arms)} rows read: {', '.join(parts)}"


def _join_counts(counts: Iterable[int]) -> str:
    return " + ".join(map(format_count, counts))


def list_limits(verdict: Verdict) -> Mapping[str, list[str]]:
    """List how a verdict is limited, by the kind of limit: `part`, `incomplete`, `shadow`, `override`."""
    override = ", ".join(f"{key} {value}" for key, value in (verdict.override or {}).items())
    return {
        "part": list(list_what_is_not_judged(verdict)),
        "incomplete": ["incomplete: a run ended early"] if verdict.evidence.incomplete else [],
        "shadow": ["shadow mode: this verdict is stored and blocks nothing"] if verdict.mode == "shadow" else [],
        "override": [f"overridden: {override}"] if verdict.override is not None else [],
    }


def list_notes(verdict: Verdict) -> Iterable[str]:
    """What must be known in addition to the reasons: how the verdict is limited, and what to do next."""
    for notes in list_limits(verdict).values():
        yield from notes
    if verdict.next_action:
        yield f"next: {verdict.next_action}"
    if verdict.policy_path:
        yield f"judged by {verdict.policy_path}; judge again by it: `{command_of(verdict)}`"


def command_of(verdict: Verdict, *options: str) -> str:
    """Write the command that judges again by the same policy; policy.yaml is the name of one that has no path here."""
    return write_command(verdict.release.id, *options, policy=verdict.policy_path or "policy.yaml")


# ------------------------------------------------------------------ was it fair


def name_check(finding: Finding) -> str:
    """Name a health check in words."""
    return finding.check.replace("_", " ")


def put_worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Failed checks before warnings, and these before what is fine."""
    order = (Level.FAIL, Level.WARN, Level.OK)
    return sorted(findings, key=lambda finding: order.index(finding.level))
