"""Rollout strategies, compared by the cost of a regression: simulated on the sequential test statistics.

No requests are drawn. Each replication draws, for every judged stage, the path of each gate's estimate: the truth, plus
a persistent error (instances), plus a Brownian error whose variance falls with time. Latency gates share both errors
(one slow instance slows all quantiles), failures have their own; estimated variances vary as chi-square. The looks and
boundaries are the judge's.

Assumptions:
- a judged stage lasts the planned duration and ends early only by NO-GO, which returns all traffic at once;
- a stage before the last that is undecided at its end is raised; the last judged stage needs GO, else it is held;
- blue-green is judged on test traffic that behaves as production traffic does;
- after full rollout a watch of the planned duration compares with the time before, unpaired, and may still stop it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluator.planning.gates import Goal, find_level, noise_of_rate, plan_calendar
from evaluator.planning.power import find_criticals
from evaluator.planning.precision import History, Precision, forecast
from evaluator.records import Rulebook
from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.stats.inference.student import t_quantile

REPLICATIONS = 2000


@dataclass(frozen=True, slots=True)
class Stage:
    """One judged stage: the candidate's share of users and of the compared traffic, and whether it needs a GO."""

    exposed: float
    compared: float
    needs_go: bool = False
    paired: bool = True


WATCH = Stage(1.0, 0.5, paired=False)
"""After full rollout: the candidate now against the baseline before."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to roll out: its name in tables and figures, and the judged stages before full rollout."""

    label: str
    stages: tuple[Stage, ...]


STRATEGIES: Mapping[str, Strategy] = {
    "big_bang": Strategy("big bang", ()),
    "blue_green": Strategy("blue-green", (Stage(0.0, 0.5, needs_go=True),)),
    "canary": Strategy(
        "canary", (Stage(0.01, 0.01), Stage(0.05, 0.05), Stage(0.25, 0.25), Stage(0.5, 0.5, needs_go=True))
    ),
    "ab_test": Strategy("A/B test", (Stage(0.5, 0.5, needs_go=True),)),
}
"""By the name that JSON has. Every strategy is watched after full rollout."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One strategy. Chances are shares of the replications."""

    strategy: str
    label: str
    full_after_s: float
    """Time to full rollout of an unchanged release; NaN if no replication gets there."""
    completes: float
    """Chance that an unchanged release is rolled out fully."""
    false_stop: float
    """Chance that an unchanged release is stopped (before or after full rollout)."""
    stopped: float
    """Chance that the regression is stopped before full rollout."""
    caught_after: float
    """Chance that the regression is stopped in the watch after full rollout."""
    held: float
    """Chance that it is neither stopped nor rolled out: a person decides."""
    exposed: float
    """Mean number of requests that the regression serves until it is stopped or the watch ends."""


def compare_strategies(
    hioutcomes: History, rulebook: Rulebook, goal: Goal, *, replications: int = REPLICATIONS, seed: int = 1
) -> tuple[Exposure, ...]:
    """Roll out an unchanged release and one with the goal's regression of latency by every strategy."""
    return tuple(
        _Rollout(hioutcomes, rulebook, goal, replications).describe(name, strategy, seed)
        for name, strategy in STRATEGIES.items()
    )


@dataclass(frozen=True, slots=True)
class _StageResult:
    """A stage over all replications."""

    stop_s: FloatArray
    """Seconds after which NO-GO was given; infinite: it was not."""
    go: BoolArray


@dataclass(slots=True)
class _Rollouts:
    """All replications of one rollout."""

    alive: BoolArray
    full: BoolArray
    stopped: BoolArray
    caught: BoolArray
    exposed: FloatArray
    seconds: float


class _Rollout:
    def __init__(self, hioutcomes: History, rulebook: Rulebook, goal: Goal, replications: int) -> None:
        self.hioutcomes, self.rulebook, self.goal, self.replications = hioutcomes, rulebook, goal, replications
        self.level = find_level(hioutcomes, rulebook)
        self.gates = [p for p in hioutcomes.precisions if p.rule.margin]
        self.total_per_s = 2 * (goal.rate_per_s or hioutcomes.rate_per_s)
        self.calendar = plan_calendar(rulebook.monitoring, goal.duration_s)
        self.looks = np.array([*self.calendar.interim, goal.duration_s], dtype=float)

    def describe(self, name: str, strategy: Strategy, seed: int) -> Exposure:
        same = self._simulate(strategy.stages, 0.0, np.random.default_rng([seed, 0]))
        worse = self._simulate(strategy.stages, self.goal.regression, np.random.default_rng([seed, 1]))
        return Exposure(
            strategy=name,
            label=strategy.label,
            full_after_s=same.seconds if same.full.any() else math.nan,
            completes=float(same.full.mean()),
            false_stop=float((same.stopped | same.caught).mean()),
            stopped=float(worse.stopped.mean()),
            caught_after=float(worse.caught.mean()),
            held=float((~worse.full & ~worse.stopped).mean()),
            exposed=float(worse.exposed.mean()),
        )

    def _simulate(self, stages: tuple[Stage, ...], regression: float, random: np.random.Generator) -> _Rollouts:
        none = np.zeros(self.replications, dtype=bool)
        rollouts = _Rollouts(~none, none.copy(), none.copy(), none.copy(), np.zeros(self.replications), 0.0)
        for stage in stages:
            judged = self._judge(stage, regression, random)
            ends = np.minimum(judged.stop_s, self.goal.duration_s)
            rollouts.exposed += rollouts.alive * stage.exposed * self.total_per_s * ends
            rollouts.stopped |= rollouts.alive & np.isfinite(judged.stop_s)
            rollouts.alive &= np.isinf(judged.stop_s) & (judged.go | (not stage.needs_go))
            rollouts.seconds += self.goal.duration_s
        rollouts.full = rollouts.alive.copy()
        judged = self._judge(WATCH, regression, random)
        ends = np.minimum(judged.stop_s, self.goal.duration_s)
        rollouts.exposed += rollouts.full * self.total_per_s * ends
        rollouts.caught = rollouts.full & np.isfinite(judged.stop_s)
        return rollouts

    def _judge(self, stage: Stage, regression: float, random: np.random.Generator) -> _StageResult:
        """Every look of one stage in every replication."""
        instances = self._instances(stage)
        noise = noise_of_rate(self.hioutcomes, self.goal) / (4 * stage.compared * (1 - stage.compared))
        noise *= 1.0 if stage.paired else self.hioutcomes.unpaired
        stop_s = np.full(self.replications, np.inf)
        go = np.full(self.replications, min(instances) >= 2)
        errors = {True: self._draw(random), False: self._draw(random)}
        for gate in self.gates:
            crossed, within = self._cross(gate, errors[_is_failures(gate)], instances, noise, regression)
            stop_s = np.minimum(stop_s, np.where(crossed, self.looks, np.inf).min(axis=1))
            go &= within
        return _StageResult(stop_s, go)

    def _instances(self, stage: Stage) -> tuple[int, int]:
        """Instances of baseline and candidate: a fleet of twice the goal's, split as the traffic is."""
        fleet = 2 * self.goal.instances
        candidate = max(1, round(fleet * stage.compared))
        return max(1, fleet - candidate), candidate

    def _draw(self, random: np.random.Generator) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Standard normal errors: between instances (replications,), moving (replications, looks), of the variance."""
        steps = np.sqrt(np.diff(self.looks, prepend=0.0))
        path = np.cumsum(random.normal(size=(self.replications, self.looks.size)) * steps, axis=1)
        between_instance, spread = random.normal(size=(2, self.replications))
        return between_instance, path / np.sqrt(self.looks), spread

    def _cross(
        self,
        gate: Precision,
        errors: tuple[FloatArray, FloatArray, FloatArray],
        instances: tuple[int, int],
        noise: float,
        regression: float,
    ) -> tuple[BoolArray, BoolArray]:
        """At which looks one gate is shown to be worse, and whether the last shows it to be within its margin."""
        at = [forecast(gate, float(s), instances, noise=noise) for s in self.looks]
        se = np.array([a.se for a in at])
        df = np.array([a.df for a in at])
        if not np.isfinite(se).all():
            nothing = np.zeros((self.replications, self.looks.size), dtype=bool)
            return nothing, nothing[:, 0]
        between_instance, moving, spread = errors
        share = np.array([a.between_instance for a in at])
        error = np.sqrt(share) * se * between_instance[:, None] + np.sqrt(1 - share) * se * moving
        harm = 0.0 if _is_failures(gate) else regression
        truth = gate.to_scale(harm if gate.relative else harm * gate.baseline)
        # Wilson & Hilferty (1931): the cube root of chi-square over its degrees of freedom is nearly normal.
        scatter = np.maximum(1 - 2 / (9 * df) + np.sqrt(2 / (9 * df)) * spread[:, None], 0.02) ** 1.5
        statistic = (truth - gate.bound + error) / (se * scatter)
        critical = find_criticals(self.calendar, self.looks, self.level, df, share)
        within = statistic[:, -1] < -float(t_quantile(1 - self.rulebook.alpha, df[-1]))
        return statistic > critical, within


def _is_failures(gate: Precision) -> bool:
    return gate.rule.metric.is_failure_rate
