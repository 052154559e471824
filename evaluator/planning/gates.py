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
        """The regression on the scale of a gate's margin: relative, or absolute in the gate's unit."""
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


def find_level(history: History, rulebook: Rulebook) -> float:
    """Level of the first question of all gates: the share of alpha of all gates, divided by the number of questions."""
    gates = [rule for rule in rulebook.rules if rule.role is Role.GATE]
    questions = sum((rule.margin is not None) + rule.limit.count for rule in gates)
    share = rulebook.scan.alpha_share if rulebook.scan.enabled else 0.0
    return rulebook.alpha * (1 - share) / max(questions, len(history.precisions), 1)


def plan_gates(history: History, rulebook: Rulebook, goal: Goal) -> tuple[GatePlan, ...]:
    """Plan every gate of the history that has a margin."""
    return tuple(_Planner(p, history, rulebook, goal).plan() for p in history.precisions if p.rule.margin)


def noise_of_rate(history: History, goal: Goal) -> float:
    """Factor on the moving part for another rate: less traffic increases it in proportion, more does not reduce it.

    It is not known how much of the moving part is due to requests and how much to drift, so this is the safe side.
    """
    if not goal.rate_per_s or not history.rate_per_s:
        return 1.0
    return max(1.0, history.rate_per_s / goal.rate_per_s)


def plan_calendar(monitoring: Monitoring, seconds: float) -> Calendar:
    """The looks of a test that lasts this long."""
    return plan_looks(
        monitoring, bucket_s=choose_bucket_s(seconds), covered_s=seconds, planned_s=float(math.ceil(seconds))
    )


class _Planner:
    """The computations for one gate."""

    def __init__(self, precision: Precision, history: History, rulebook: Rulebook, goal: Goal) -> None:
        self.precision, self.rulebook, self.goal = precision, rulebook, goal
        self.level = find_level(history, rulebook)
        self.noise = noise_of_rate(history, goal)
        self.rate_per_s = goal.rate_per_s or history.rate_per_s
        self.shift = precision.to_scale(goal.harm(precision)) - precision.bound

    def plan(self) -> GatePlan:
        goal, p = self.goal, self.precision
        at_goal = self._at(goal.duration_s, goal.instances)
        after = _first_time(lambda s: self.go_chance(s, goal.instances) >= goal.power)
        return GatePlan(
            precision=p,
            half_width=self.half_width(goal.duration_s, goal.instances),
            finds=self._smallest(),
            found_chance=self.found_chance(goal.duration_s, goal.instances),
            go_chance=self.go_chance(goal.duration_s, goal.instances),
            persistent=at_goal.between_instance,
            go_after_s=after,
            found_after_s=_first_time(lambda s: self.found_chance(s, goal.instances) >= goal.power),
            go_instances=_first_count(lambda m: self.go_chance(goal.duration_s, m) >= goal.power),
            requests=after * self.rate_per_s,
        )

    def _at(self, seconds: float, instances: int) -> PlannedPrecision:
        return forecast(self.precision, seconds, (instances, instances), noise=self.noise)

    def half_width(self, seconds: float, instances: int) -> float:
        """One-sided half-width of the interval, as a harm."""
        at = self._at(seconds, instances)
        return self.precision.from_scale(float(t_quantile(1 - self.rulebook.alpha, at.df)) * at.se)

    def go_chance(self, seconds: float, instances: int) -> float:
        """Chance that an unchanged release is shown to be within the margin; 0 with one instance a side."""
        at = self._at(seconds, instances)
        if instances < 2 or not math.isfinite(at.se):
            return 0.0
        critical = float(t_quantile(1 - self.rulebook.alpha, at.df))
        return find_power(self.precision.bound, at.se, at.df, critical)

    def found_chance(self, seconds: float, instances: int, shift: float | None = None) -> float:
        """Chance that a regression `shift` beyond the margin is shown to be worse by the last look."""
        at = self._at(seconds, instances)
        if not math.isfinite(at.se):
            return 0.0
        shift = self.shift if shift is None else shift
        se = at.se * self._inflation(shift + self.precision.bound)
        null_se = at.se * self._inflation(self.precision.bound)
        calendar = plan_calendar(self.rulebook.monitoring, seconds)
        end_s, df, between_instance = np.array([calendar.planned_s]), np.array([at.df]), np.array([at.between_instance])
        critical = find_criticals(calendar, end_s, self.level, df, between_instance)
        return find_power(shift, se, at.df, float(critical[0]), null_se=null_se)

    def _inflation(self, shift: float) -> float:
        """Factor on the standard error of an unchanged release: a higher failure rate varies more."""
        p = self.precision
        if not p.rule.metric.is_failure_rate or p.relative or not 0 < p.baseline < 1:
            return 1.0
        worse = min(max(p.baseline + shift, 0.0), 1.0)
        own = p.baseline * (1 - p.baseline)
        return math.sqrt(max(worse * (1 - worse) + own, 1e-300) / (2 * own))

    def _smallest(self) -> float:
        """Smallest harm that is found with the goal's power, by bisection."""
        goal, p = self.goal, self.precision
        low, high = 0.0, 8.0 if p.relative else max(1.0, 8 * p.baseline)

        def is_found(shift: float) -> bool:
            return self.found_chance(goal.duration_s, goal.instances, shift) >= goal.power

        if not is_found(high):
            return math.inf
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if is_found(middle) else (middle, high)
        return p.from_scale(high + p.bound)


def _first_time(enough: Callable[[float], bool]) -> float:
    """Shortest time for which `enough` holds, to about 2 %; infinite where a week is not enough."""
    steps = [SHORTEST_S * 1.25**k for k in range(math.ceil(math.log(LONGEST_S / SHORTEST_S, 1.25)) + 1)]
    first = next((k for k, seconds in enumerate(steps) if enough(seconds)), None)
    if first is None:
        return math.inf
    low, high = (steps[first - 1] if first else steps[0]), steps[first]
    for _ in range(5):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _first_count(enough: Callable[[int], bool]) -> float:
    """Smallest number of instances for which `enough` holds; infinite where there is none."""
    if not enough(MOST_INSTANCES):
        return math.inf
    low, high = 1, MOST_INSTANCES
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return float(high)


def tabulate(
    history: History, rulebook: Rulebook, goal: Goal, seconds: Sequence[float], instances: Sequence[int]
) -> tuple[Grid, ...]:
    """Half-widths of each gate over durations (seconds) and instances: how much either helps."""
    planners = [_Planner(p, history, rulebook, goal) for p in history.precisions if p.rule.margin]
    return tuple(
        Grid(
            name=planner.precision.rule.name,
            seconds=tuple(seconds),
            instances=tuple(instances),
            half_widths=tuple(tuple(planner.half_width(s, m) for m in instances) for s in seconds),
        )
        for planner in planners
    )
