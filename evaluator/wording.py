"""Numbers and names as people read them: three significant digits, the unit after, the sign on every change.

One place, so that a reason, a table and a report never print the same number in two ways.
"""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from evaluator.records import (
    MICROSECONDS,
    Comparison,
    Effect,
    EvidenceKind,
    FailureCount,
    FailureKind,
    LeftOut,
    LeftOutKind,
    Margin,
    Rule,
)

USERS = "users"
"""What the units of outcomes are called for people; the test may have assigned sessions or other units."""
SIGNIFICANT = 3
DECIMALS_WITHOUT_MARGIN = 2
"""Decimals of changes in percent and percentage points that have no margin."""
MOST_MORE_DECIMALS = 3
"""Decimals that are added to a number so that it is not written like the margin."""
MINUTES_FROM_S = 100
HOURS_FROM_S = 2 * 3600
_TIME_UNITS = (
    (1e-4, "ns", 1e6),
    (0.1, "µs", 1e3),
    (1000.0 * MINUTES_FROM_S, "ms", 1.0),
    (1000.0 * HOURS_FROM_S, "min", 1 / 60_000),
    (math.inf, "h", 1 / 3_600_000),
)
"""Response times below this many ms are written in this unit, of which so many are a millisecond."""


def write_command(release: str, *options: str, policy: str = "") -> str:
    """Write the command that judges a release, quoted for a shell; `policy`: the value of `--policy`, or empty.

    >>> write_command("cart@1 b", "--dry-run", policy="cart.yaml")
    "evaluator verdict 'cart@1 b' --dry-run --policy cart.yaml"
    """
    policy_option = ["--policy", policy] if policy else []
    return shlex.join(["evaluator", "verdict", release, *options, *policy_option])


def quote_command(*words: str) -> str:
    """Write a command of the evaluator, quoted for a shell.

    >>> quote_command("hold", "cart@1 b")
    "evaluator hold 'cart@1 b'"
    """
    return shlex.join(["evaluator", *words])


_COMMAND_IN_TEXT = re.compile(r"`evaluator (?=[a-z])(?P<words>[^`]*)")


def add_options(text: str, options: Mapping[str, str]) -> str:
    """Add options such as `--store` to each command in a text; a command stands in backticks.

    `options`: name → value, which is quoted for a shell. An option that a command has already is not added.

    >>> add_options("run `evaluator hold a`", {"--store": "my store"})
    "run `evaluator --store 'my store' hold a`"
    """

    def add(match: re.Match[str]) -> str:
        """Return the beginning of the command in `match` with the options that it lacks."""
        added = [word for name, value in options.items() if name not in match["words"] for word in (name, value)]
        return f"`{quote_command(*added)} {match['words']}"

    return _COMMAND_IN_TEXT.sub(add, text)


def format_number(value: float, *, sign: bool = False) -> str:
    """Write a number with three significant digits, thousands grouped, never an exponent: `0.012`, `31.4`, `1,240`.

    `sign`: with a plus above 0. NaN is `?`.

    >>> format_number(0.01234), format_number(31.44), format_number(1239.6), format_number(5, sign=True)
    ('0.0123', '31.4', '1,240', '+5')
    """
    if math.isnan(value):
        return "?"
    if value == -math.inf:
        return "−∞"
    if value == math.inf:
        return "+∞" if sign else "∞"
    if not value:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))  # 0: from 1 to below 10
    decimals = SIGNIFICANT - 1 - magnitude  # negative: digits before the point are rounded as well
    rounded = round(value, decimals)
    text = f"{abs(rounded):,.{min(max(decimals, 0), 9)}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    if not text.strip("0."):  # smaller than nine decimals show
        return "0"
    if rounded < 0:
        return "−" + text
    return "+" + text if sign else text


def format_count(count: int) -> str:
    """Write a whole number with grouped thousands: `1,200`."""
    return f"{count:,}"


def count_of(count: int, noun: str) -> str:
    """Write a number with its noun (given in the singular): `1 run`, `1,200 requests`."""
    return f"{format_count(count)} {noun}" if count == 1 else f"{format_count(count)} {noun}s"


def join_names(names: Sequence[str]) -> str:
    """Join names by commas, the last two by `and`.

    >>> join_names(["a"]), join_names(["a", "b"]), join_names(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def format_duration(seconds: float) -> str:
    """Write a duration for people, in the unit that fits: `75 s`, `14 min`, `3.5 h`."""
    if seconds < MINUTES_FROM_S:
        return f"{format_number(seconds)} s"
    if seconds < HOURS_FROM_S:
        return f"{format_number(round(seconds / 60, 1))} min"
    return f"{format_number(seconds / 3600)} h"


def format_time(time_ms: float) -> str:
    """Write a response time in the unit that fits.

    >>> format_time(0.0154862), format_time(0.25), format_time(7.2e6)
    ('15.5 µs', '0.25 ms', '2 h')
    """
    per_ms, unit = choose_time_scale(abs(time_ms))
    return f"{format_number(time_ms * per_ms)} {unit}"


def choose_time_scale(largest_ms: float) -> tuple[float, str]:
    """Choose the unit that fits response times up to this one: how many of it are a millisecond, and its name.

    Milliseconds for 0 and what is not finite, which have no size that a unit could fit.
    """
    if not largest_ms or not math.isfinite(largest_ms):
        return 1.0, "ms"
    return next((per_ms, unit) for below_ms, unit, per_ms in _TIME_UNITS if largest_ms < below_ms)


def format_value(value: float | None, unit: str) -> str:
    """Write the value of a metric on an arm: a fraction as percent, a response time as `format_time`, `None` as a dash.

    An infinite value is a response time that stands for a failed request, and is written as `failed`.
    """
    if value is None:
        return "–"
    if unit == "fraction":
        return f"{format_number(value * 100)} %"
    if math.isinf(value):
        return "failed"
    return format_time(value) if unit == "ms" else f"{format_number(value)} {unit}"


def format_arm_value(comparison: Comparison, value: float | None) -> str:
    """Write the value of the metric on one of the arms: as `format_value`, but rates as precisely as their changes.

    A rate of a margin of 0.5 pp is `0.01 %` or `< 0.01 %`, and not `0.00123 %`.
    """
    margin = comparison.rule.margin
    if comparison.unit != "fraction" or margin is None or margin.relative or not margin.value or not value:
        return format_value(value, comparison.unit)
    percent, decimals = 100 * value, _count_decimals(100 * margin.value)
    if not math.isfinite(percent):
        return format_value(value, comparison.unit)
    rounded = round(percent, decimals)
    return f"{format_number(rounded)} %" if rounded else f"< {10.0**-decimals:.{decimals}f} %"


def format_change(comparison: Comparison) -> str:
    """Write the estimated change with its sign: `+12.4 %`, `+0.02 pp`, `−3.1 ms`; a dash without an effect."""
    if comparison.effect is None:
        return "–"
    _, unit = _choose_effect_unit(comparison.effect, comparison.unit)
    return f"{_format_signed(comparison.effect.estimate, comparison)} {unit}"


def format_interval(comparison: Comparison, *, mark_clips: bool = False) -> str:
    """Write the interval of a change, without its unit: `+8.1 … +16.9`; a dash without an effect.

    Ends that no rate can reach are clipped, as by `clip_interval`; `mark_clips` says so: `min −0.1 … +38.4` if the
    baseline fails 0.1 %.
    """
    effect = comparison.effect
    if effect is None:
        return "–"
    lower, upper = clip_interval(comparison)
    least = "min " if mark_clips and lower > effect.lower else ""
    most = "max " if mark_clips and upper < effect.upper else ""
    return f"{least}{_format_signed(lower, comparison)} … {most}{_format_signed(upper, comparison)}"


def clip_interval(comparison: Comparison) -> tuple[float, float]:
    """Return the ends of a change's interval; those of a rate no further than a candidate of 0 % and of 100 %.

    Raises ValueError without an effect.
    """
    effect, baseline = comparison.effect, comparison.baseline.value
    if effect is None:
        raise ValueError("there is no interval without an effect")
    if comparison.unit != "fraction" or baseline is None or not 0 < baseline < 1:
        return effect.lower, effect.upper
    least, most = (-1.0, 1 / baseline - 1) if effect.kind == "relative" else (-baseline, 1 - baseline)
    # The estimate may be of another mix of endpoints than the baseline's value: it is never cut.
    return max(effect.lower, min(least, effect.estimate)), min(effect.upper, max(most, effect.estimate))


def format_margin(margin: Margin | None, unit: str) -> str:
    """Write the harm that is allowed: `10 %`, `0.1 pp`, `20 ms`; a dash without a margin."""
    if margin is None:
        return "–"
    if margin.relative:
        return f"{format_number(margin.value * 100)} %"
    if unit == "fraction":
        return f"{format_number(margin.value * 100)} pp"
    return format_value(margin.value, unit)


def _format_signed(value: float, comparison: Comparison) -> str:
    """Write a number of a comparison's effect with its sign, in the unit of `_choose_effect_unit`.

    It has at most three significant digits, and no digits below a hundredth of the margin: `±0.00` is a change that
    is not 0 and much smaller than that. A number that is not the margin is never written like it.
    """
    effect = comparison.effect
    if effect is None or not math.isfinite(value) or not value:
        return format_number(value, sign=True)
    factor, unit = _choose_effect_unit(effect, comparison.unit)
    number, margin = value * factor, comparison.rule.margin
    shown_margin = margin.value * factor if margin and margin.relative == (effect.kind == "relative") else 0.0
    decimals = SIGNIFICANT - 1 - math.floor(math.log10(abs(number)))
    if shown_margin > 0:
        decimals = min(decimals, _count_decimals(shown_margin))
    elif unit in ("%", "pp"):
        decimals = min(decimals, DECIMALS_WITHOUT_MARGIN)
    most = decimals + MOST_MORE_DECIMALS
    while (
        decimals < most
        and math.isclose(abs(round(number, decimals)), shown_margin)
        and not math.isclose(abs(number), shown_margin)
    ):
        decimals += 1
    rounded = round(number, decimals)
    if not rounded:
        return f"±{0:.{decimals}f}"
    text = f"{abs(rounded):,.{max(decimals, 0)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{'+' if rounded > 0 else '−'}{text}"


def _count_decimals(margin: float) -> int:
    """Count the decimals of which rounding changes a number by at most a hundredth of the margin (above 0)."""
    return max(0, -math.floor(math.log10(margin / 50) + 1e-9))  # the small term is for errors of log10


def _choose_effect_unit(effect: Effect, unit: str) -> tuple[float, str]:
    """Choose the unit in which a change and its interval are written: how many are one `unit` of the metric, its name.

    It is `%` for relative changes, `pp` for those of fractions, the one that fits for response times, else `unit`.
    """
    if effect.kind == "relative":
        return 100.0, "%"
    if unit == "fraction":
        return 100.0, "pp"
    # The largest number decides, so that the estimate and both ends of its interval have one unit.
    ends = (effect.estimate, effect.lower, effect.upper)
    largest = max((abs(value) for value in ends if math.isfinite(value)), default=0.0)
    return choose_time_scale(largest) if unit == "ms" else (1.0, unit)


def name_metric(rule: Rule) -> str:
    """Short name of the metric: `p95`, `mean`, `failures`; or the name that the policy gives it.

    >>> from evaluator.metrics.latency import LatencyMean, LatencyQuantile
    >>> name_metric(Rule("latency_p95", LatencyQuantile(quantile=0.95))), name_metric(Rule("checkout", LatencyMean()))
    ('p95', 'checkout')
    """
    return rule.metric.name(rule.name)


def name_comparison(comparison: Comparison) -> str:
    """Name the metric of a comparison, and its endpoint if it has one: `p95 of POST /orders`.

    Requests of production are named: `p95 (production)`.
    """
    # The note says how values were changed, such as " (winsorised at 99 %)"; most metrics have none.
    name = name_metric(comparison.rule) + comparison.rule.metric.note
    endpoint = comparison.rule.slice.endpoint
    return (f"{name} of {endpoint}" if endpoint else name) + name_evidence(comparison.evidence)


def write_check_name(check: str) -> str:
    """Write the name of a health check in words: `sample ratio`."""
    return check.replace("_", " ")


def name_evidence(evidence: EvidenceKind | None) -> str:
    """What follows the name of a metric or check on requests of production; empty for any other evidence."""
    return " (production)" if evidence is EvidenceKind.LIVE else ""


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
    LeftOutKind.SEVERAL_ARMS: ("row of a user seen in several arms", "rows of users seen in several arms"),
    LeftOutKind.CUT_OFF: ("request in flight at the end", "requests in flight at the end"),
    LeftOutKind.CLIENT_ABORT: ("request that its client gave up", "requests that their clients gave up"),
    LeftOutKind.STREAM: ("WebSocket or other stream", "WebSockets and other streams"),
    LeftOutKind.LOST: (
        "row that was read and is neither in the store nor named",
        "rows that were read and are neither in the store nor named",
    ),
}


def name_left_out(kind: LeftOutKind, detail: str = "", *, count: int = 2) -> str:
    """Name rows that are not judged: `requests of the warm-up`, `of kind grpc_req_duration`.

    `detail`: what the rows are, if the kind alone does not show it; `count`: their number, which is not written.
    """
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
    """Sum up over all arms what is left out, by kind: `4 bad rows (2 failed), 7 of kind grpc_req_duration`."""
    rows: Counter[tuple[LeftOutKind, str]] = Counter()
    failures: Counter[tuple[LeftOutKind, str]] = Counter()
    for part in parts:
        rows[part.kind, part.detail] += part.rows
        failures[part.kind, part.detail] += part.failures
    all_arms = ""  # a sum is of no single arm
    sums = (LeftOut(all_arms, kind, count, failures[kind, detail], detail) for (kind, detail), count in rows.items())
    return ", ".join(describe_left_out(part) for part in sums)


MAX_EXCEPTION = 80
"""Characters of an exception that are written."""


def name_kind(kind: FailureKind) -> str:
    """Name a kind of failures: `503`, `ConnectionError('refused')`, `503 (upstream timed out)`."""
    exception = " ".join(kind.exception.split())
    if len(exception) > MAX_EXCEPTION:
        exception = exception[: MAX_EXCEPTION - 1] + "…"
    if kind.status < 0:
        return exception or "no status recorded"
    # An exception such as "HTTP 503" repeats the status.
    return str(kind.status) if not exception or str(kind.status) in exception else f"{kind.status} ({exception})"


def list_kinds(count: FailureCount) -> str:
    """List the kinds of failures at a place: `50 × 503, 7 × 500, 3 of other kinds`; empty without failures.

    Kinds that were not recorded are named as that: they are not zero.
    """
    # Kinds whose names are equal differ in a part of the exception that is not written.
    numbers: Counter[str] = Counter()
    for kind in count.kinds:
        numbers[name_kind(kind)] += kind.n
    parts = [f"{format_count(number)} × {name}" for name, number in numbers.most_common()]
    if count.other_kinds:
        parts.append(f"{format_count(count.other_kinds)} of other kinds")
    if count.not_recorded:
        is_all = count.not_recorded == count.failures
        parts.append("kinds not recorded" if is_all else f"{format_count(count.not_recorded)} of kinds not recorded")
    return ", ".join(parts)


def describe_steps(
    steps_ms: Sequence[float], arms: Sequence[str], units_per_ms: int, *, mixed_unit_ms: float = 0.0
) -> str:
    """Describe the steps in which the times of two arms were recorded, and whether the load tool rounded them.

    `steps_ms`: the step of each arm; `arms`: their names. If only one arm has the widest step, it is named.
    `units_per_ms`: unit in which the store keeps the times, as the number of units in a millisecond. `mixed_unit_ms`:
    coarsest unit (ms) of the runs, if the store keeps others in a finer one; else 0.

    >>> describe_steps((0.001, 1.0), ("baseline", "canary"), 1000)
    'the load tool, file or log recorded the times of canary in steps of 1 ms'
    """
    widest = max(steps_ms)
    if widest <= mixed_unit_ms:
        return "the store keeps some of these runs in whole microseconds and others in nanoseconds"
    if is_unit(widest, units_per_ms):
        unit = "microseconds" if units_per_ms == MICROSECONDS else "nanoseconds"
        return f"times are kept in whole {unit}"
    times = "times"
    if min(steps_ms) < widest:
        times = f"the times of {arms[list(steps_ms).index(widest)]}"
    return f"the load tool, file or log recorded {times} in steps of {format_time(widest)}"


def is_unit(step_ms: float, units_per_ms: int) -> bool:
    """Is a step (ms) of recorded times no wider than the unit of the store? `units_per_ms`: units in a millisecond."""
    return step_ms * units_per_ms <= 1


def find_finer_times(step_ms: float, units_per_ms: int, *, mixed_unit_ms: float = 0.0) -> str:
    """Say how to get times in finer steps than `step_ms`; for the other arguments see `describe_steps`."""
    if step_ms <= mixed_unit_ms:
        return "judge only runs of one unit (the newer ones with --run), or import the old files as another release"
    longer = "time several calls together, so that one time is longer"
    if not is_unit(step_ms, units_per_ms):
        return "record times in finer steps"
    # The store keeps microseconds if a file has no finer times; earlier versions always kept them.
    return f"record times in finer steps as a new run, or {longer}" if units_per_ms == MICROSECONDS else longer


def explain_coarse(
    steps_ms: Sequence[float],
    arms: Sequence[str],
    units_per_ms: int,
    level_ms: float,
    margin: Margin,
    *,
    mixed_unit_ms: float = 0.0,
) -> str:
    """Why the recorded times are too coarse to decide about a margin, and what to do.

    `steps_ms`: the step of each arm; `arms`: their names; `units_per_ms`: unit in which the store keeps the times, as
    the number of units in a millisecond; `level_ms`: the baseline's value of the metric; `mixed_unit_ms`: as for
    `describe_steps`.
    """
    widest = max(steps_ms)
    share = format_number(100 * widest / level_ms)
    steps = describe_steps(steps_ms, arms, units_per_ms, mixed_unit_ms=mixed_unit_ms)
    if widest <= mixed_unit_ms:
        steps += ": steps of 1 µs"
    return (
        f"{steps}, {share} % of the baseline's value: too coarse to decide about a margin of"
        f" {format_margin(margin, 'ms')}; {find_finer_times(widest, units_per_ms, mixed_unit_ms=mixed_unit_ms)}, or"
        f" allow more than {share} %"
    )
