"""What a format is, and the words and numbers that all of them share."""

from __future__ import annotations

import math
import shlex
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from evaluator.records import (
    WHOLE,
    Comparison,
    Evidence,
    Finding,
    Level,
    MetricStatus,
    Period,
    Role,
    Verdict,
    VerdictWord,
)
from evaluator.wording import (
    format_change,
    format_duration,
    format_interval,
    format_margin,
    format_value,
    name_left_out,
    name_metric,
)

__all__ = [
    "HEALTH_MARKS",
    "STATUS_MARKS",
    "VERDICT_WORDS",
    "Page",
    "Render",
    "choose_endpoints",
    "command_of",
    "describe_data",
    "format_allowed",
    "format_both",
    "format_effect",
    "harmless_cell",
    "is_watched",
    "label_row",
    "list_notes",
    "list_what_is_not_judged",
    "name_check",
    "name_opponents",
    "plain_text",
    "shorten",
    "tame",
]


@dataclass(frozen=True, slots=True)
class Page:
    """What the text is written on."""

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


def plain_text(text: str) -> str:
    """Show what would move the cursor, colour the terminal or turn the line round, instead of doing it."""
    return text if text.isprintable() else "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape").decode("ascii")
    return character


def shorten(text: str, most: int) -> str:
    """Cut a text that is longer than `most` in the middle: the numbers of a sentence stand at its end.

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
    """Tell whether a row is only shown."""
    return row.rule.role is Role.WATCH


MAX_ENDPOINTS = 8


def name_opponents(verdict: Verdict) -> str:
    """What the candidates were compared with: ` against 1.4.1`; nothing where no version is known."""
    services = [s for s in verdict.release.services if s.baseline]
    if len(verdict.release.services) == 1:
        return "".join(f" against {s.baseline}" for s in services)
    return f" against {', '.join(f'{s.name} {s.baseline}' for s in services)}" if services else ""


def describe_data(evidence: Evidence) -> str:
    """How much was looked at: `judged on 5 min, 84,112 + 84,590 requests, 3 + 3 instances`."""
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
    seconds = evidence.window.seconds
    duration = f"{format_duration(seconds)}, " if math.isfinite(seconds) else ""
    text = f"judged on {duration}{requests} requests, {instances} instance{many}{replicates}"
    return f"{text}, {units}" if any(arm.units for arm in evidence.arms) else text


NOTABLE = 0.001


def list_what_is_not_judged(verdict: Verdict) -> Iterable[str]:
    """The part of the time that was asked for, and the rows that were read and left out."""
    if verdict.period != WHOLE:
        yield f"only a part is judged: {_describe_period(verdict.period)}"
    if left_out := _describe_left_out_rows(verdict.evidence):
        yield left_out


def _describe_left_out_rows(evidence: Evidence) -> str:
    """What is left out: `not judged of 3,600 + 3,588 rows read: 288 + 0 requests of the warm-up`; empty where all is.

    A few rows of which none failed are left to the JSON.
    """
    arms = [arm for arm in evidence.arms if arm.read]
    kinds = dict.fromkeys((part.kind, part.detail) for arm in arms for part in arm.left_out)
    parts = []
    for kind, detail in kinds:
        alike = [[part for part in arm.left_out if (part.kind, part.detail) == (kind, detail)] for arm in arms]
        rows, failures = (
            [sum(getattr(part, name) for part in parts) for parts in alike] for name in ("rows", "failures")
        )
        if not any(failures) and all(n < NOTABLE * arm.read for n, arm in zip(rows, arms, strict=True)):
            continue
        text = f"{_join_counts(rows)} {name_left_out(kind, detail)}"
        parts.append(f"{text} ({_join_counts(failures)} failed)" if any(failures) else text)
    return f"not judged of {_join_counts([arm.read for arm in arms])} rows read: {', '.join(parts)}" if parts else ""


def _join_counts(counts: list[int]) -> str:
    return " + ".join(f"{count:,}" for count in counts)


def _describe_period(period: Period) -> str:
    start = f"from {period.start:%Y-%m-%d %H:%M:%S} UTC" if period.start else "from the start"
    return f"{start} to {period.end:%Y-%m-%d %H:%M:%S} UTC" if period.end else f"{start} to the end"


def list_notes(verdict: Verdict) -> Iterable[str]:
    """What must be known beside the reasons: how the verdict is limited, and what to do next."""
    yield from list_what_is_not_judged(verdict)
    if verdict.evidence.incomplete:
        yield "incomplete: a run ended before its time"
    if verdict.mode == "shadow":
        yield "shadow mode: this verdict is stored and blocks nothing"
    if verdict.override is not None:
        yield "overridden: " + ", ".join(f"{key} {value}" for key, value in verdict.override.items())
    if verdict.next_action:
        yield f"next: {verdict.next_action}"
    if verdict.policy_path:
        yield f"judged by {verdict.policy_path}; judge again by it: `{command_of(verdict)}`"


def command_of(verdict: Verdict, *options: str) -> str:
    """Write the command that judges again by the same policy; policy.yaml stands for one that has no path here."""
    path = verdict.policy_path or "policy.yaml"
    return shlex.join(["evaluator", "verdict", verdict.release.id, *options, "--policy", path])


def label_row(row: Comparison) -> str:
    """Name a row of the table of metrics; rows of the endpoint scan are indented."""
    endpoint = row.rule.slice.endpoint
    if row.scan:
        return f"  {endpoint} {name_metric(row.rule)}"
    return name_metric(row.rule) + (f" {endpoint}" if endpoint and endpoint not in row.rule.name else "")


def choose_endpoints(rows: list[Comparison]) -> tuple[list[Comparison], list[str]]:
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


def name_check(finding: Finding) -> str:
    """Name a health check as people say it."""
    return finding.check.replace("_", " ")
