"""The targets, checked against finished trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from arena.grid import ALPHA, METRICS, Mode, is_unchanged
from arena.reading import Reading
from arena.shares import State, Tally, judge_at_least, judge_at_most, judge_median, worst
from evaluator.simulate import SCENARIOS

__all__ = ["check_targets", "list_coverage", "list_false_worse"]

Readings = Mapping[str, Reading]
Row = list[str]

AT_MARGIN = {
    "margin_p50": "latency_p50",
    "margin_p95": "latency_p95",
    "margin_p99": "latency_p99",
    "margin_failures": "failure_rate",
    "margin_rare_one_99": "failure_rate",
}
SCAN = "scan"
POWER_ALONE = {"mean+3%": 0.66, "mean+5%": 0.94, "mean+10%": 1.0}
POWER_OF_FIVE = {"mean+3%": 0.45, "mean+5%": 0.90, "mean+10%": 1.0}
MEDIANS = {
    "mean+20%": ("latency_mean", 12.0),
    "p99x1.5": ("latency_p99", 12.0),
    "errx3": ("failure_rate", 18.0),
    "endpoint+30%": (SCAN, 14.0),
    "leak": ("latency_mean", 32.0),
}
BY_TESTS = (
    ("Rare failures (0 v 5 in 1000; 0 v 0; 3 in a million)", "`tests/stats/test_score.py`"),
    ("Published numbers", "`tests/stats/test_published.py`"),
)


def show(state: State) -> str:
    """Text of the last column."""
    return state if state in {"yes", "open"} else f"**{state}**"


def check_targets(readings: Readings) -> Iterable[Row]:
    """Yield rows of property, design, result, target, and whether it is reached."""
    yield from _check_false_no_go(readings)
    yield from _check_false_worse(readings)
    yield from _check_false_go(readings)
    yield from _check_coverage(readings)
    yield from _check_power(readings)
    yield from _check_medians(readings)
    yield from _check_go(readings)
    yield from _check_mix(readings)
    for name, where in BY_TESTS:
        yield [name, where, "", "equal, no crash", "by `make test`"]


# ------------------------------------------------------------------ errors


def _check_false_no_go(readings: Readings) -> Iterable[Row]:
    for name, reading in readings.items():
        if is_unchanged(name):
            found = reading.words("auto", "policy", "no_go")
            state = judge_at_most(found, ALPHA, 0.07)
            yield ["False NO-GO, policy", f"`{name}`", str(found), "≤ 5, upper < 7", show(state)]


def _false_worse(readings: Readings) -> dict[tuple[str, str], Tally]:
    unchanged = [reading for name, reading in readings.items() if is_unchanged(name)]
    return {(r.design, metric): r.worse("auto", metric) for r in unchanged for metric in METRICS}


def _state_of_worse(found: Tally) -> State:
    return judge_at_most(found, ALPHA, 0.075) if found.n else "yes"


def _check_false_worse(readings: Readings) -> Iterable[Row]:
    """One row for each metric; the designs have their own table."""
    found = _false_worse(readings)
    for metric in METRICS:
        mine = {name: one for (name, of), one in found.items() if of == metric and one.n}
        if mine:
            highest = max(mine, key=lambda name: mine[name].share)
            state = worst([_state_of_worse(one) for one in mine.values()])
            where = f"{len(mine)} designs, highest `{highest}`"
            yield [f"False worse, {metric}", where, str(mine[highest]), "≤ 5, upper < 7.5", show(state)]


def list_false_worse(readings: Readings) -> Iterable[Row]:
    """Yield a row for each design of identical versions; missed targets are bold."""
    found = _false_worse(readings)
    for name in readings:
        if is_unchanged(name):
            cells = [(found[name, metric], _state_of_worse(found[name, metric])) for metric in METRICS]
            yield [f"`{name}`", *(_mark(*cell) for cell in cells)]


def _mark(found: Tally, state: State) -> str:
    return f"**{found}** {state}" if state in {"no", "no?"} else str(found)


def _check_false_go(readings: Readings) -> Iterable[Row]:
    for name, metric in AT_MARGIN.items():
        if name in readings:
            for label, found in (
                ("GO", readings[name].words("auto", "policy", "go")),
                (f"pass of {metric}", readings[name].passed("auto", metric)),
            ):
                yield [
                    f"False {label} at the margin",
                    f"`{name}`",
                    str(found),
                    "≤ 5",
                    show(judge_at_most(found, ALPHA)),
                ]
    if "leak_precise" in readings:
        found = readings["leak_precise"].words("auto", "policy", "go")
        yield ["False GO, slow leak", "`leak_precise`", str(found), "≤ 5", show(judge_at_most(found, ALPHA))]


# ------------------------------------------------------------------ coverage


def _coverage(reading: Reading, metric: str) -> tuple[Tally, State]:
    found = reading.covered(metric)
    if not found.n:
        return found, "yes"
    state = judge_at_least(found, 0.88)
    if state == "yes" and _has_four(reading.design):
        state = judge_at_most(found, 0.97)
    return found, state


def _has_four(name: str) -> bool:
    design = SCENARIOS[name]
    return design.labelled and design.lifetime_s is None and {design.count_instances(arm) for arm in (0, 1)} == {4}


def _check_coverage(readings: Readings) -> Iterable[Row]:
    for metric in METRICS:
        found = {name: _coverage(reading, metric) for name, reading in readings.items()}
        found = {name: one for name, one in found.items() if one[0].n}
        if found:
            lowest, highest = (pick(found, key=lambda name: found[name][0].share) for pick in (min, max))
            state = worst([one[1] for one in found.values()])
            where = f"{len(found)} designs, `{lowest}` to `{highest}`"
            figures = f"{found[lowest][0]} to {found[highest][0]}"
            yield [f"Coverage, {metric}", where, figures, "≥ 88, 4 + 4 ≤ 97", show(state)]


def list_coverage(readings: Readings) -> Iterable[Row]:
    """Yield a row for each design; missed targets are bold."""
    for name, reading in readings.items():
        yield [f"`{name}`", *(_mark(*_coverage(reading, metric)) for metric in METRICS)]


# ------------------------------------------------------------------ power


LOOKS: tuple[tuple[Mode, str], ...] = (("fixed", "one look at 60 min"), ("auto", "a look each minute"))


def _check_power(readings: Readings) -> Iterable[Row]:
    for mode, how in LOOKS:
        for name, least in POWER_ALONE.items():
            if name in readings:
                found = readings[name].worse(mode, "latency_mean")
                state = judge_at_least(found, least)
                what = f"Power at margin 0, mean alone, {how}"
                yield [what, f"`{name}`", str(found), f"≥ {100 * least:.0f}", show(state)]
        for name, least in POWER_OF_FIVE.items():
            if name in readings:
                found = readings[name].words(mode, "gates", "no_go")
                state = judge_at_least(found, least)
                what = f"Power at margin 0, five gates, {how}"
                yield [what, f"`{name}`", str(found), f"≥ {100 * least:.0f}", show(state)]


def _check_medians(readings: Readings) -> Iterable[Row]:
    for name, (metric, limit) in MEDIANS.items():
        if name in readings:
            reading = readings[name]
            alone = metric != SCAN
            found = reading.worse_times("auto", metric) if alone else reading.no_go_times("auto", metric)
            state = judge_median(found, limit)
            what = metric if alone else "endpoint scan at margin 0"
            yield [f"Median minute, {what}", f"`{name}`", str(found), f"≤ {limit:.0f}", show(state)]


def _check_go(readings: Readings) -> Iterable[Row]:
    if "AA" in readings:
        found = readings["AA"].words("auto", "policy", "go")
        yield ["GO of identical versions", "`AA`", str(found), "≥ 75", show(judge_at_least(found, 0.75))]


def _check_mix(readings: Readings) -> Iterable[Row]:
    """A harmless change of the mix must not raise more flags than there are without it."""
    if not {"AA", "AA_mix"} <= set(readings):
        return
    for label, book in (("policy", "policy"), ("five gates at margin 0", "gates")):
        plain, mixed = (readings[name].words("auto", book, "no_go") for name in ("AA", "AA_mix"))
        state: State = "yes" if mixed.share <= plain.interval[1] else "no"
        yield [
            f"Flags with another endpoint mix, {label}",
            "`AA_mix`",
            f"{mixed}, `AA` {plain}",
            "as `AA`",
            show(state),
        ]
