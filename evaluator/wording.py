"""Numbers and names as people read them: three significant digits, the unit after, the sign on every change.

One place, so that a reason, a table and a report never print the same number in two ways.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence

from evaluator.records import Comparison, Effect, LeftOut, LeftOutKind, Margin, Rule

SIGNIFICANT = 3
MINUTES_FROM_S = 100
HOURS_FROM_S = 2 * 3600
STORE_STEP_MS = 0.001
"""The store keeps whole microseconds."""


def write_command(release: str, *options: str, policy: str = "") -> str:
    """Write the command that judges a release; `policy`: the file or folder for `--policy`, where one is needed.

    >>> write_command("cart@1 b", "--dry-run", policy="cart.yaml")
    "evaluator verdict 'cart@1 b' --dry-run --policy cart.yaml"
    """
    return shlex.join(["evaluator", "verdict", release, *options, *(("--policy", policy) if policy else ())])


def format_number(value: float, *, sign: bool = False) -> str:
    """Three significant digits, thousands grouped, never an exponent: `0.012`, `31.4`, `1,240`.

    >>> format_number(0.01234), format_number(31.44), format_number(1239.6), format_number(5, sign=True)
    ('0.0123', '31.4', '1,240', '+5')
    """
    if math.isnan(value):
        return "?"
    if math.isinf(value):
        return ("+" if sign and value > 0 else "−" if value < 0 else "") + "∞"
    digits = SIGNIFICANT - 1 - (math.floor(math.log10(abs(value))) if value else SIGNIFICANT - 1)
    rounded = round(value, digits)
    text = f"{abs(rounded):,.{min(max(digits, 0), 9)}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    if not text.strip("0."):
        return "0"
    return ("−" if rounded < 0 else "+" if sign else "") + text


def format_count(count: int) -> str:
    """A whole number with grouped thousands."""
    return f"{count:,}"


def count_of(count: int, noun: str) -> str:
    """A number with its noun: `1 run`, `1,200 requests`."""
    return f"{format_count(count)} {noun}" if count == 1 else f"{format_count(count)} {noun}s"


def format_duration(seconds: float) -> str:
    """`75 s`, `14 min`, `3.5 h`."""
    if seconds < MINUTES_FROM_S:
        return f"{format_number(seconds)} s"
    if seconds < HOURS_FROM_S:
        return f"{format_number(round(seconds / 60, 1))} min"
    return f"{format_number(seconds / 3600)} h"


def format_value(value: float | None, unit: str) -> str:
    """A metric's own value: fractions as percent, an infinite time as `failed`."""
    if value is None:
        return "–"
    if unit == "fraction":
        return f"{format_number(value * 100)} %"
    if math.isinf(value):
        return "failed"
    return f"{format_number(value)} {unit}"


def format_change(effect: Effect, unit: str) -> str:
    """The estimated change with its sign: `+12.4 %`, `+0.021 pp`, `−3.1 ms`."""
    return _signed(effect.estimate, effect, unit) + _suffix(effect, unit)


def format_interval(effect: Effect, unit: str) -> str:
    """The interval without unit: `+8.1 … +16.9`."""
    return f"{_signed(effect.lower, effect, unit)} … {_signed(effect.upper, effect, unit)}"


def format_margin(margin: Margin | None, unit: str) -> str:
    """The harm that is allowed: `10 %`, `0.1 pp`, `20 ms`; a dash where none is set."""
    if margin is None:
        return "–"
    if margin.relative:
        return f"{format_number(margin.value * 100)} %"
    if unit == "fraction":
        return f"{format_number(margin.value * 100)} pp"
    return f"{format_number(margin.value)} {unit}"


def _signed(value: float, effect: Effect, unit: str) -> str:
    percent = effect.kind == "relative" or unit == "fraction"
    return format_number(value * 100 if percent else value, sign=True)


def _suffix(effect: Effect, unit: str) -> str:
    if effect.kind == "relative":
        return " %"
    return " pp" if unit == "fraction" else f" {unit}"


def name_metric(rule: Rule) -> str:
    """Short name of the metric: `p95`, `mean`, `failures`; or the name that the policy gives it.

    >>> from evaluator.metrics.latency import LatencyMean, LatencyQuantile
    >>> name_metric(Rule("latency_p95", LatencyQuantile(quantile=0.95))), name_metric(Rule("checkout", LatencyMean()))
    ('p95', 'checkout')
    """
    return rule.metric.name(rule.name)


def name_comparison(comparison: Comparison) -> str:
    """Metric and slice: `p95 of POST /orders`."""
    name, endpoint = name_metric(comparison.rule) + comparison.rule.metric.note, comparison.rule.slice.endpoint
    return f"{name} of {endpoint}" if endpoint else name


_LEFT_OUT = {
    LeftOutKind.BAD_ROW: ("bad row", "bad rows"),
    LeftOutKind.SUMMARY: ("sum of other rows", "sums of other rows"),
    LeftOutKind.PART: ("part of another request", "parts of other requests"),
    LeftOutKind.OTHER_KIND: ("row of another kind", "rows of another kind"),
    LeftOutKind.OUTSIDE_PERIOD: ("request outside of the requested time", "requests outside of the requested time"),
    LeftOutKind.WARM_UP: ("request of the warm-up", "requests of the warm-up"),
    LeftOutKind.NO_COUNTERPART: (
        "request of a time in which only one arm ran",
        "requests of a time in which only one arm ran",
    ),
    LeftOutKind.LONE_REPLICATE: (
        "request of a replicate that only one arm has",
        "requests of replicates that only one arm has",
    ),
    LeftOutKind.DUPLICATE: ("repeated row", "repeated rows"),
    LeftOutKind.SEVERAL_ARMS: ("row of a unit seen in several arms", "rows of units seen in several arms"),
    LeftOutKind.CUT_OFF: ("request in flight at the end", "requests in flight at the end"),
    LeftOutKind.LOST: (
        "row that was read and is neither in the store nor named",
        "rows that were read and are neither in the store nor named",
    ),
}


def name_left_out(kind: LeftOutKind, detail: str = "", *, count: int = 2) -> str:
    """Name rows that are not judged: `requests of the warm-up`, `of kind grpc_req_duration`."""
    singular, plural = _LEFT_OUT[kind]
    if kind is LeftOutKind.NO_COUNTERPART and detail:
        return f"{'request' if count == 1 else 'requests'} without a counterpart ({detail})"
    if kind is LeftOutKind.OTHER_KIND and detail:
        return f"of kind {detail}"
    name = singular if count == 1 else plural
    return f"{name} ({detail})" if detail else name


def describe_left_out(part: LeftOut) -> str:
    """Count and name rows that are not judged: `24 requests of the warm-up (2 failed)`."""
    failed = f" ({format_count(part.failures)} failed)" if part.failures else ""
    return f"{format_count(part.rows)} {name_left_out(part.kind, part.detail, count=part.rows)}{failed}"


def list_left_out(parts: Iterable[LeftOut]) -> str:
    """What is left out over all arms: `4 bad rows (2 failed), 7 of kind grpc_req_duration`."""
    rows: Counter[tuple[LeftOutKind, str]] = Counter()
    failures: Counter[tuple[LeftOutKind, str]] = Counter()
    for part in parts:
        rows[part.kind, part.detail] += part.rows
        failures[part.kind, part.detail] += part.failures
    alike = (LeftOut("", kind, count, failures[kind, detail], detail) for (kind, detail), count in rows.items())
    return ", ".join(describe_left_out(part) for part in alike)


def describe_steps(steps_ms: Sequence[float], arms: Sequence[str]) -> str:
    """The steps in which the times of two arms were recorded, and whether the load tool or this store rounded them.

    >>> describe_steps((0.001, 1.0), ("baseline", "canary"))
    'the load tool or its file recorded the times of canary in steps of 1 ms'
    """
    widest = max(steps_ms)
    if widest <= STORE_STEP_MS:
        return f"this store keeps times in steps of {format_number(STORE_STEP_MS)} ms"
    subject = "" if min(steps_ms) == widest else f"the times of {arms[list(steps_ms).index(widest)]} "
    return f"the load tool or its file recorded {subject or 'times '}in steps of {format_number(widest)} ms"


def explain_coarse(steps_ms: Sequence[float], arms: Sequence[str], level_ms: float, margin: Margin) -> str:
    """Why the recorded times are too coarse to decide about a margin, and what to do."""
    step = max(steps_ms)
    by_store = step <= STORE_STEP_MS
    remedy = "time several calls together, so that one time is longer" if by_store else "record times in finer steps"
    share = format_number(100 * step / level_ms)
    return (
        f"{describe_steps(steps_ms, arms)}, {share} % of the baseline's value: too coarse to decide about a "
        f"margin of {format_margin(margin, 'ms')}; {remedy}, or allow more than {share} %"
    )
