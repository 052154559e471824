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
    """One judged stage of a rollout."""

    exposed: float
    """Share of the users that the candidate serves."""
    compared: float
    """The candidate's share of the traffic that is compared."""
    needs_go: bool = False
    """Does the rollout continue only after a GO?"""
    paired: bool = True
    """Do both arms run at the same time?"""
    instances: tuple[int, int] | None = None
    """Instances of baseline and candidate; `None`: twice the goal's in all, split as the traffic."""


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
    history: History, rulebook: Rulebook, goal: Goal, *, replications: int = REPLICATIONS, seed: int = 1
) -> tuple[Exposure, ...]:
    """Simulate how each strategy rolls out an unchanged release, and one with the goal's regression of latency.

    Returns the outcomes of each strategy, in the order of `STRATEGIES`.
    """
    return tuple(
        _StrategySimulator(history, rulebook, goal, replications).describe(name, strategy, seed)
        for name, strategy in STRATEGIES.items()
    )


@dataclass(frozen=True, slots=True)
class StageChances:
    """What an unchanged release shows in one stage; shares of the replications."""

    go: float
    no_go: float


def find_chances(
    history: History,
    rulebook: Rulebook,
    *,
    seconds: float,
    share: float,
    instances: tuple[int, int],
    rate_per_s: float | None,
    seed: int = 1,
) -> StageChances:
    """Find the chances of an unchanged release in one stage.

    Args:
        history: How precise earlier comparisons of the service were.
        rulebook: The policy of the stage.
        seconds: How long it lasts.
        share: Share of the requests that the candidate gets.
        instances: Of baseline and candidate.
        rate_per_s: Requests per second of both arms together; `None`: as in the history.
        seed: Of the simulation.
    """
    result = simulate_stage(
        history,
        rulebook,
        seconds=seconds,
        share=share,
        instances=instances,
        rate_per_s=rate_per_s,
        regression=0.0,
        random=np.random.default_rng([seed, 0]),
    )
    is_stopped = np.isfinite(result.stop_s)
    return StageChances(go=float((result.go & ~is_stopped).mean()), no_go=float(is_stopped.mean()))


@dataclass(frozen=True, slots=True)
class StageResult:
    """A stage over all replications."""

    stop_s: FloatArray
    """Seconds after which NO-GO was given; infinite: it was not."""
    go: BoolArray


def simulate_stage(
    history: History,
    rulebook: Rulebook,
    *,
    seconds: float,
    share: float,
    instances: tuple[int, int],
    rate_per_s: float | None,
    regression: float,
    random: np.random.Generator,
) -> StageResult:
    """Judge one stage in `REPLICATIONS` simulated releases, whose latency has a relative `regression`.

    The other arguments are those of `find_chances`. Two stages with the same state of `random` have the same errors
    between instances.
    """
    rate_of_arm = None if rate_per_s is None else rate_per_s / 2
    goal = Goal(duration_s=seconds, instances=max(instances), rate_per_s=rate_of_arm)
    simulator = _StrategySimulator(history, rulebook, goal, REPLICATIONS)
    return simulator.judge(Stage(share, share, needs_go=True, instances=instances), regression, random)


@dataclass(frozen=True, slots=True)
class _StageErrors:
    """Standard normal errors of the estimates of one stage."""

    persistent: FloatArray
    """Between instances, shape (replications,): the same at each look."""
    moving: FloatArray
    """What time averages out, shape (replications, looks)."""
    of_variance: FloatArray
    """Of the estimated variance, shape (replications,)."""


@dataclass(slots=True)
class _SimulatedReleases:
    """All replications of one rollout, shape (replications,)."""

    alive: BoolArray
    """Is it still rolled out further?"""
    full: BoolArray
    """Was it rolled out fully?"""
    stopped: BoolArray
    """Was it stopped before full rollout?"""
    caught: BoolArray
    """Was it stopped in the watch after full rollout?"""
    exposed: FloatArray
    """Requests that the candidate served."""
    seconds: float
    """Time to full rollout."""


class _StrategySimulator:
    """Rollouts of one plan, simulated `replications` times."""

    def __init__(self, history: History, rulebook: Rulebook, goal: Goal, replications: int) -> None:
        """Find what all strategies share: the gates, their error rate, the traffic, and the looks of a stage."""
        self.history, self.rulebook, self.goal, self.replications = history, rulebook, goal, replications
        self.level = find_level(history, rulebook)
        """Error rate of "worse" of one gate."""
        self.gates = [p for p in history.precisions if p.rule.margin]
        self.total_per_s = 2 * (goal.rate_per_s or history.rate_per_s)  # requests of both arms
        self.calendar = plan_calendar(rulebook.monitoring, goal.duration_s)
        self.looks = np.array([*self.calendar.interim, goal.duration_s], dtype=float)
        """Seconds of a stage at each look; the last look is at its end."""

    def describe(self, name: str, strategy: Strategy, seed: int) -> Exposure:
        """Roll out an unchanged release (`same`) and one with the goal's regression (`worse`) by this strategy.

        Chances are shares of the replications.
        """
        # All strategies get the same random numbers, so they differ only by what they do.
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

    def _simulate(
        self, stages: tuple[Stage, ...], regression: float, random: np.random.Generator
    ) -> _SimulatedReleases:
        """Roll a release with this regression (0: unchanged) out through all stages, then watch it.

        Every array has an element for each replication; a replication without an end by NO-GO has an infinite `stop_s`.
        """
        rollouts = _SimulatedReleases(
            alive=np.ones(self.replications, dtype=bool),
            full=np.zeros(self.replications, dtype=bool),
            stopped=np.zeros(self.replications, dtype=bool),
            caught=np.zeros(self.replications, dtype=bool),
            exposed=np.zeros(self.replications),
            seconds=0.0,
        )
        for stage in stages:
            result = self.judge(stage, regression, random)
            lasted_s = np.minimum(result.stop_s, self.goal.duration_s)
            rollouts.exposed += rollouts.alive * stage.exposed * self.total_per_s * lasted_s
            rollouts.stopped |= rollouts.alive & np.isfinite(result.stop_s)
            # A stage that needs GO and is undecided ends the rollout: a person decides.
            may_continue = result.go if stage.needs_go else np.ones(self.replications, dtype=bool)
            rollouts.alive &= np.isinf(result.stop_s) & may_continue
            rollouts.seconds += self.goal.duration_s
        rollouts.full = rollouts.alive.copy()
        # After full rollout the candidate serves all traffic.
        result = self.judge(WATCH, regression, random)
        lasted_s = np.minimum(result.stop_s, self.goal.duration_s)
        rollouts.exposed += rollouts.full * self.total_per_s * lasted_s
        rollouts.caught = rollouts.full & np.isfinite(result.stop_s)
        return rollouts

    def judge(self, stage: Stage, regression: float, random: np.random.Generator) -> StageResult:
        """Judge one stage in every replication, at each look; `regression`: relative harm to latency."""
        instances = self._split_instances(stage)
        # Factor on the variance of a difference. An uneven split of the traffic increases it; equal halves do not.
        noise = noise_of_rate(self.history, self.goal) / (4 * stage.compared * (1 - stage.compared))
        noise *= 1.0 if stage.paired else self.history.unpaired  # arms that do not run together vary more
        stop_s = np.full(self.replications, np.inf)
        go = np.full(self.replications, min(instances) >= 2)  # a single instance never shows a GO
        # A slow instance slows all quantiles, so gates of latency share their errors. Gates of failures share others.
        failure_errors, latency_errors = (self._draw_errors(child) for child in random.spawn(2))
        for gate in self.gates:
            errors = failure_errors if gate.rule.metric.is_failure_rate else latency_errors
            is_worse, is_within = self._judge_gate(gate, errors, instances, noise, regression)
            # The first look at which any gate is worse stops the stage; a GO needs every gate to be within its margin.
            # `is_worse` has the shape (replications, looks); `looks` are the seconds of the stage at each look.
            stop_s = np.minimum(stop_s, np.where(is_worse, self.looks, np.inf).min(axis=1))
            go &= is_within
        return StageResult(stop_s, go)

    def _split_instances(self, stage: Stage) -> tuple[int, int]:
        """Return the instances of baseline and candidate: those of the stage, or split as the traffic; at least 1."""
        if stage.instances is not None:
            return stage.instances
        all_instances = 2 * self.goal.instances
        candidate = max(1, round(all_instances * stage.compared))
        return max(1, all_instances - candidate), candidate

    def _draw_errors(self, random: np.random.Generator) -> _StageErrors:
        """Draw the errors of the estimates of one stage, in every replication."""
        # First what does not depend on the number of looks.
        persistent, of_variance = random.normal(size=(2, self.replications))
        # The error of a mean over time follows a random walk: the sum of independent steps, divided by its sd.
        sd_of_steps = np.sqrt(np.diff(self.looks, prepend=0.0))
        path = np.cumsum(random.normal(size=(self.replications, self.looks.size)) * sd_of_steps, axis=1)
        return _StageErrors(persistent, path / np.sqrt(self.looks), of_variance)

    def _judge_gate(
        self, gate: Precision, errors: _StageErrors, instances: tuple[int, int], noise: float, regression: float
    ) -> tuple[BoolArray, BoolArray]:
        """Judge a gate in every replication.

        Returns at which looks it is shown to be worse, shape (replications, looks), and whether the last look shows it
        to be within its margin, shape (replications,).

        Args:
            gate: Its precision.
            errors: The errors of its estimates.
            instances: Instances of baseline and candidate.
            noise: Factor on the moving part of its variance.
            regression: Relative harm to latency; failures do not change.
        """
        planned = [forecast(gate, float(seconds), instances, noise=noise) for seconds in self.looks]
        # By look, shape (looks,).
        se, df = np.array([look.se for look in planned]), np.array([look.df for look in planned])
        # Share of the variance that time does not shrink.
        persistent_share = np.array([look.between_instance for look in planned])
        if not np.isfinite(se).all():  # too short to decide anything
            never_worse = np.zeros((self.replications, self.looks.size), dtype=bool)
            never_within = np.zeros(self.replications, dtype=bool)
            return never_worse, never_within
        # Of the estimate at each look, shape (replications, looks): a part that stays, and one that time averages out.
        persistent_error = np.sqrt(persistent_share) * se * errors.persistent[:, None]
        error = persistent_error + np.sqrt(1 - persistent_share) * se * errors.moving
        harm = 0.0 if gate.rule.metric.is_failure_rate else regression
        truth = gate.to_scale(harm if gate.relative else harm * gate.baseline)
        # The estimated standard error, divided by the true one. Wilson & Hilferty (1931): the cube root of chi-square
        # over its degrees of freedom is nearly normal.
        cube_root = 1 - 2 / (9 * df) + np.sqrt(2 / (9 * df)) * errors.of_variance[:, None]
        estimated_se = np.maximum(cube_root, 0.02) ** 1.5  # with few degrees of freedom the root may be negative
        # Positive: worse than the margin. To be within the margin, only the last look is tested, at the level alpha.
        statistic = (truth - gate.bound + error) / (se * estimated_se)
        critical = find_criticals(self.calendar, self.looks, self.level, df, persistent_share)
        is_within = statistic[:, -1] < -float(t_quantile(1 - self.rulebook.alpha, df[-1]))
        return statistic > critical, is_within
