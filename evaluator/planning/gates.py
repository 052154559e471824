"""Each gate of a policy before the test: its precision, what it finds, how long it needs, how more instances help."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluator.planning.power import find_criticals, find_power
from evaluator.planning.precision import History, PlannedPrecision, Precision, forecast
from evaluator.records import Monitoring, Role, Rulebook, choose_bucket_s
from evaluator.stats.inference.calendar import Calendar, plan_looks
from evaluator.stats.inference.student import t_quantile

LONGEST_S = 7 * 86400.0
SHORTEST_S = 60.0
MOST_INSTANCES = 256


@dataclass(frozen=True, slots=True)
class Goal:
    """The planned test: `duration_s` seconds with `instances` an arm, and the regression that it should find."""

    duration_s: float = 3600.0
    instances: int = 4
    rate_per_s: float | None = None
    """Requests per second of one arm; `None`: as in the history."""
    regression: float = 0.10
    """Relative harm to latency and other relative gates."""
    failures: float = 0.005
    """Harm to absolute gates of failure rates, as a fraction."""
    power: float = 0.8

    def harm(self, precision: Precision) -> float:
        """The goal's regression on the scale of a gate's margin: relative to the baseline, or in the gate's unit."""
        if precision.rule.metric.is_failure_rate:
            relative = self.failures / max(precision.baseline, 1e-12)
            return relative if precision.relative else self.failures
        return self.regression if precision.relative else self.regression * precision.baseline


@dataclass(frozen=True, slots=True)
class GatePlan:
    """One gate at the planned duration and instances. Harms are on the scale of the margin (0.1 = 10 %, or absolute).

    Chances leave out the checks of the last third and of a worsening trend, and limits of gates.
    """

    precision: Precision
    half_width: float
    """One-sided half-width of the interval: about the largest change that an unchanged release shows."""
    finds: float
    """Smallest regression that is NO-GO with the goal's power; infinite where there is none."""
    found_chance: float
    """Chance that the goal's regression is NO-GO."""
    go_chance: float
    """Chance that an unchanged release is shown to be within the margin."""
    persistent: float
    """Share of the variance that only more instances shrink."""
    go_after_s: float
    """Time after which an unchanged release is shown to be within the margin with the goal's power; infinite: never."""
    found_after_s: float
    """The same for finding the goal's regression."""
    go_instances: float
    """Instances an arm with which the planned duration is enough for a GO; infinite: no number is."""
    requests: float
    """Requests an arm at `go_after_s`."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Half-widths of one gate over minutes (rows) and instances an arm (columns)."""

    name: str
    seconds: tuple[float, ...]
    instances: tuple[int, ...]
    half_widths: tuple[tuple[float, ...], ...]


def choose_harms(rulebook: Rulebook) -> tuple[float, float]:
    """Choose which rises of latency (relative) and of failures (absolute) a test should find: twice what is allowed.

    A rise as large as the margin of a gate is allowed, so that gate would hardly ever find it. The widest margins of
    gates count; without any, 10 % and 0.5 pp. Rounded to 1 % and 0.1 pp, at most 100 % and 10 pp.
    """
    gates = [rule for rule in rulebook.rules if rule.role is Role.GATE and rule.margin is not None]
    latency = [gate.margin.value for gate in gates if gate.margin and gate.margin.relative]
    failures = [
        gate.margin.value for gate in gates if gate.margin and not gate.margin.relative and gate.metric.is_failure_rate
    ]
    latency_percent = min(max(round(200 * max(latency, default=0.05)), 1), 100)
    failures_permille = min(max(round(2000 * max(failures, default=0.0025)), 1), 100)
    return latency_percent / 100, failures_permille / 1000


def find_level(history: History, rulebook: Rulebook) -> float:
    """Return the error rate of NO-GO at which each gate is planned: the gates' share of it, divided by their questions.

    The margin of a gate and each of its limits are a question, and all of them share it (Bonferroni).
    """
    gates = [rule for rule in rulebook.rules if rule.role is Role.GATE]
    margins = sum(1 for rule in gates if rule.margin is not None)
    limits = sum(rule.limit.count for rule in gates)
    planned_gates = len(history.precisions)
    # Each planned gate counts at least once, even if neither a margin nor a limit of it is set; never divide by 0.
    questions = max(margins + limits, planned_gates, 1)
    # The scan of all endpoints takes its share first.
    scan_share = rulebook.scan.alpha_share if rulebook.scan.enabled else 0.0
    return rulebook.no_go_level * (1 - scan_share) / questions


def plan_gates(history: History, rulebook: Rulebook, goal: Goal) -> tuple[GatePlan, ...]:
    """Plan every gate of the history that has a margin."""
    with_margin = [precision for precision in history.precisions if precision.rule.margin]
    return tuple(_Planner(precision, history, rulebook, goal).plan() for precision in with_margin)


def noise_of_rate(history: History, goal: Goal) -> float:
    """Return the factor on the part of the variance that time shrinks, if the test has another request rate.

    Less traffic than in the history increases this part in proportion, more traffic does not reduce it: how much of it
    is due to requests and how much to drift is not known, so this is the safe side. 1 if a rate is not known.
    """
    if not goal.rate_per_s or not history.rate_per_s:
        return 1.0
    return max(1.0, history.rate_per_s / goal.rate_per_s)


def plan_calendar(monitoring: Monitoring, seconds: float) -> Calendar:
    """Plan the looks of a test of this length, up to its end: its data are complete, so every look has become due."""
    # The planned end is the whole second at which all data are there.
    return plan_looks(
        monitoring, bucket_s=choose_bucket_s(seconds), covered_s=seconds, planned_s=float(math.ceil(seconds))
    )


class _Planner:
    """The computations for one gate."""

    def __init__(self, precision: Precision, history: History, rulebook: Rulebook, goal: Goal) -> None:
        """Find what all computations share: error rate, effect of the request rate, size of the goal's regression."""
        self.precision, self.rulebook, self.goal = precision, rulebook, goal
        self.level = find_level(history, rulebook)
        self.noise = noise_of_rate(history, goal)
        self.rate_per_s = goal.rate_per_s or history.rate_per_s
        self.shift = precision.to_scale(goal.harm(precision)) - precision.bound
        """How far the goal's regression is beyond the margin, on the scale of the test."""

    def plan(self) -> GatePlan:
        """Compute all numbers of the gate, at the goal's duration and instances.

        Searched are the shortest times and the fewest instances whose chance reaches the goal's power.
        """
        goal = self.goal
        go_after_s = _find_shortest_time(lambda seconds: self.go_chance(seconds, goal.instances) >= goal.power)
        return GatePlan(
            precision=self.precision,
            half_width=self.half_width(goal.duration_s, goal.instances),
            finds=self._find_smallest_harm(),
            found_chance=self.found_chance(goal.duration_s, goal.instances),
            go_chance=self.go_chance(goal.duration_s, goal.instances),
            persistent=self._forecast(goal.duration_s, goal.instances).between_instance,
            go_after_s=go_after_s,
            found_after_s=_find_shortest_time(lambda seconds: self.found_chance(seconds, goal.instances) >= goal.power),
            go_instances=_find_fewest_instances(lambda count: self.go_chance(goal.duration_s, count) >= goal.power),
            requests=go_after_s * self.rate_per_s,
        )

    def _forecast(self, seconds: float, instances: int) -> PlannedPrecision:
        """Precision after these seconds with this many instances an arm; `se` is infinite if the time is too short."""
        return forecast(self.precision, seconds, (instances, instances), noise=self.noise)

    def half_width(self, seconds: float, instances: int) -> float:
        """One-sided half-width of the interval, as a harm."""
        planned = self._forecast(seconds, instances)
        return self.precision.from_scale(float(t_quantile(1 - self.rulebook.alpha, planned.df)) * planned.se)

    def go_chance(self, seconds: float, instances: int) -> float:
        """Chance that an unchanged release is shown to be within the margin.

        0 with one instance an arm, since such a run cannot show it, and 0 if the time is too short.
        """
        planned = self._forecast(seconds, instances)
        if instances < 2 or not math.isfinite(planned.se):
            return 0.0
        critical = float(t_quantile(1 - self.rulebook.alpha, planned.df))  # in standard errors
        # The distance of an unchanged release from the margin is the margin itself (`bound`).
        return find_power(self.precision.bound, planned.se, planned.df, critical)

    def found_chance(self, seconds: float, instances: int, shift: float | None = None) -> float:
        """Chance that a regression is shown to be worse by the last look.

        `shift`: how far it is beyond the margin, on the scale of the test; `None`: the goal's regression. 0 if the
        time is too short.
        """
        planned = self._forecast(seconds, instances)
        if not math.isfinite(planned.se):
            return 0.0
        shift = self.shift if shift is None else shift
        se = planned.se * self._inflate_se(shift + self.precision.bound)  # if the regression is there
        null_se = planned.se * self._inflate_se(self.precision.bound)  # of the test, which assumes harm at the margin
        calendar = plan_calendar(self.rulebook.monitoring, seconds)
        # The critical value of the last look, which is higher than that of a single look; arrays of one look.
        last_look_s = np.array([calendar.planned_s])
        df, between_instance = np.array([planned.df]), np.array([planned.between_instance])
        critical = find_criticals(calendar, last_look_s, self.level, df, between_instance)
        return find_power(shift, se, planned.df, float(critical[0]), null_se=null_se)

    def _inflate_se(self, harm: float) -> float:
        """Return the factor on the standard error of an unchanged release if the failure rate is higher by `harm`.

        A higher rate varies more. 1 for all other metrics, and for relative margins.
        """
        precision = self.precision
        baseline_rate = precision.baseline
        if not precision.rule.metric.is_failure_rate or precision.relative or not 0 < baseline_rate < 1:
            return 1.0
        candidate_rate = min(max(baseline_rate + harm, 0.0), 1.0)
        baseline_variance = baseline_rate * (1 - baseline_rate)  # of one request (binomial)
        candidate_variance = candidate_rate * (1 - candidate_rate)
        # An unchanged release has the baseline's variance in both arms.
        return math.sqrt(max(candidate_variance + baseline_variance, 1e-300) / (2 * baseline_variance))

    def _find_smallest_harm(self) -> float:
        """Return the smallest harm that is found with the goal's power, by bisection.

        Infinite if not even the largest harm of the search is found.
        """
        goal, precision = self.goal, self.precision
        # The range of the search, as distances beyond the margin on the scale of the test: up to a log ratio of 8, or,
        # in the metric's unit, to 8 times the baseline (at least 1).
        low, high = 0.0, 8.0 if precision.relative else max(1.0, 8 * precision.baseline)

        def is_found(shift: float) -> bool:
            return self.found_chance(goal.duration_s, goal.instances, shift) >= goal.power

        if not is_found(high):
            return math.inf
        for _ in range(50):
            middle = (low + high) / 2
            if is_found(middle):
                high = middle
            else:
                low = middle
        return precision.from_scale(high + precision.bound)


def _find_shortest_time(is_enough: Callable[[float], bool]) -> float:
    """Shortest time (s) for which `is_enough` holds, to about 2 %; infinite if a week is not enough."""
    # Try times from a minute to a week, each 25 % longer than the one before.
    count = math.ceil(math.log(LONGEST_S / SHORTEST_S, 1.25)) + 1
    times_s = [SHORTEST_S * 1.25**k for k in range(count)]
    first_enough = next((k for k, time_s in enumerate(times_s) if is_enough(time_s)), None)
    if first_enough is None:
        return math.inf
    # Bisect on the log scale between the last time that is too short and the first that is enough.
    low, high = times_s[max(first_enough - 1, 0)], times_s[first_enough]
    for _ in range(5):
        middle = math.sqrt(low * high)
        if is_enough(middle):
            high = middle
        else:
            low = middle
    return high


def _find_fewest_instances(is_enough: Callable[[int], bool]) -> float:
    """Smallest number of instances an arm, from 2, for which `is_enough` holds, by bisection; infinite: none does."""
    if not is_enough(MOST_INSTANCES):
        return math.inf
    low, high = 1, MOST_INSTANCES  # `low` is never enough (or not allowed), `high` always is
    while high - low > 1:
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle
    return float(high)


def tabulate(
    history: History, rulebook: Rulebook, goal: Goal, seconds: Sequence[float], instances: Sequence[int]
) -> tuple[Grid, ...]:
    """Tabulate the half-width of the interval of each gate, by duration (seconds) and instances of each arm.

    A half-width has the unit of the gate's margin (0.1 = 10 % if it is relative). Gates without a margin are left out.
    """
    planners = [_Planner(p, history, rulebook, goal) for p in history.precisions if p.rule.margin]
    return tuple(
        Grid(
            name=planner.precision.rule.name,
            seconds=tuple(seconds),
            instances=tuple(instances),
            half_widths=tuple(tuple(planner.half_width(time_s, count) for count in instances) for time_s in seconds),
        )
        for planner in planners
    )
