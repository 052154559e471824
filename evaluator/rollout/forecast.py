"""How a whole rollout will probably go, for an unchanged and for a worse release: its own stages, simulated.

No requests are drawn: each stage is judged in many simulated releases by what earlier comparisons of the services show
(`evaluator.planning`). Assumptions:

- NO-GO of any service returns the users of all services at once; the guard, which acts on gross harm, does nothing;
- a stage that shows what it needs ends at its bake, another one at its deadline; then a person is asked, which ends
  the rollout here;
- the regression is in the response times of all services, and is the same in all stages;
- errors between instances are the same at bake and deadline of a stage, and new in each stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluator.planning import REPLICATIONS, History, StageResult, simulate_stage
from evaluator.records import Rulebook
from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.records.rollouts import Observe, StepNeeds
from evaluator.wording import format_count, format_duration, format_number


@dataclass(frozen=True, slots=True)
class JudgedService:
    """What is known of one service in one stage before it begins."""

    history: History | None
    """How precise comparisons of it are; None: not known."""
    rulebook: Rulebook
    instances: tuple[int, int]
    """Of baseline and candidate."""
    rate_per_s: float
    """Requests of its users per second, of both arms."""
    no_harm: float = 1.0
    """Chance that a release that is not NO-GO has enough requests, and few enough failures, for `no_harm`."""
    never_go: bool = False
    """Can it not be GO, because its servers differ too much in their load?"""
    note: str = ""
    """What its servers mean for it; empty: nothing."""


@dataclass(frozen=True, slots=True)
class ForecastStage:
    """A stage of the rollout with its services."""

    step: Observe
    services: tuple[JudgedService, ...]


@dataclass(frozen=True, slots=True)
class RolloutForecast:
    """Chances are shares of the simulated releases."""

    completes: float
    """Chance that an unchanged release gets all users without a person who is asked."""
    full_after_s: float
    """Median time of those; NaN: there are none."""
    asked: float
    """Chance that a person is asked about an unchanged release."""
    goes_back: float
    """Chance that an unchanged release is turned back."""
    regression: float
    """Relative rise of the response times of the worse release."""
    caught: float
    """Chance that the worse release is turned back before it has all users."""
    caught_at: str
    """The stage in which most of these are; empty: none is."""
    caught_after_s: float
    """Median time after which they are; NaN: there are none."""
    exposed: float
    """Mean number of requests that the worse release serves until it is turned back, or the last stage ends."""


@dataclass(slots=True)
class _SimulatedRollouts:
    """Simulated releases of one kind, shape (replications,)."""

    alive: BoolArray
    asked: BoolArray
    stopped_at: FloatArray
    """Number of the stage that turned a release back; -1: none did."""
    seconds: FloatArray
    """Time until it ended, or until now."""
    exposed: FloatArray


def forecast_rollout(stages: Sequence[ForecastStage], regression: float, *, seed: int = 1) -> RolloutForecast:
    """Simulate a rollout of an unchanged release, and of one whose response times rose by `regression`."""
    same, worse = _run(stages, 0.0, seed), _run(stages, regression, seed + 1)
    watched = next((number for number, stage in enumerate(stages) if stage.step.share == 1), len(stages))
    caught = (worse.stopped_at >= 0) & (worse.stopped_at < watched)
    by_stage = [int((worse.stopped_at == number).sum()) for number in range(watched)]
    return RolloutForecast(
        completes=float(same.alive.mean()),
        # The watch with all users is no part of the way to them.
        full_after_s=_median(same.seconds[same.alive] - sum(stage.step.bake_s for stage in stages[watched:])),
        asked=float(same.asked.mean()),
        goes_back=float((same.stopped_at >= 0).mean()),
        regression=regression,
        caught=float(caught.mean()),
        caught_at=stages[int(np.argmax(by_stage))].step.name if any(by_stage) else "",
        caught_after_s=_median(worse.seconds[caught]),
        exposed=float(worse.exposed.mean()),
    )


def describe_forecast(forecast: RolloutForecast) -> str:
    """Say how the rollout will probably go: the rest of a sentence, and a second one."""
    parts = [f"by itself with a chance of {_percent(forecast.completes)}"]
    if forecast.asked >= LEAST:
        parts.append(f"a person is asked with {_percent(forecast.asked)}")
    if forecast.goes_back >= LEAST:
        parts.append(f"it goes back with {_percent(forecast.goes_back)}")
    when = "" if math.isnan(forecast.full_after_s) else f" after {format_duration(forecast.full_after_s)}"
    same = f"an unchanged release has all users{when} {'; '.join(parts)}."
    rise = f"+{format_number(100 * forecast.regression)} % response time"
    if forecast.caught_at:
        worse = (
            f"One with {rise} goes back before that with {_percent(forecast.caught)}, mostly at {forecast.caught_at}, "
            f"and serves {format_count(round(forecast.exposed))} requests."
        )
    else:
        worse = (
            f"One with {rise} is not turned back before, and serves {format_count(round(forecast.exposed))} requests."
        )
    return f"{same} {worse}"


LEAST = 0.005
"""Chance from which an outcome is named."""


def _percent(share: float) -> str:
    """Write a chance as whole percent."""
    return f"{format_number(round(100 * share))} %"


def _median(seconds: FloatArray) -> float:
    """Return the median; NaN of nothing."""
    return float(np.median(seconds)) if seconds.size else math.nan


def _run(stages: Sequence[ForecastStage], regression: float, seed: int) -> _SimulatedRollouts:
    """Take releases through all stages."""
    rollouts = _SimulatedRollouts(
        alive=np.ones(REPLICATIONS, dtype=bool),
        asked=np.zeros(REPLICATIONS, dtype=bool),
        stopped_at=np.full(REPLICATIONS, -1.0),
        seconds=np.zeros(REPLICATIONS),
        exposed=np.zeros(REPLICATIONS),
    )
    for number, stage in enumerate(stages):
        step = stage.step
        first = _judge(stage, step.bake_s, regression, (seed, number))
        lasted_s = np.minimum(first.stop_s, step.bake_s)
        is_stopped, is_shown = np.isfinite(first.stop_s), _shows_need(stage, first, (seed, number))
        if step.deadline_s > step.bake_s:
            last = _judge(stage, step.deadline_s, regression, (seed, number))
            goes_on = ~is_stopped & ~is_shown
            lasted_s = np.where(goes_on, np.minimum(last.stop_s, step.deadline_s), lasted_s)
            is_stopped = np.where(goes_on, np.isfinite(last.stop_s), is_stopped)
            is_shown = np.where(goes_on, _shows_need(stage, last, (seed, number)) & ~is_stopped, is_shown)
        rate_per_s = sum(service.rate_per_s for service in stage.services)
        rollouts.exposed += rollouts.alive * step.share * rate_per_s * lasted_s
        rollouts.seconds += rollouts.alive * lasted_s
        rollouts.stopped_at[rollouts.alive & is_stopped] = number
        rollouts.asked |= rollouts.alive & ~is_stopped & ~is_shown
        rollouts.alive &= ~is_stopped & is_shown
    return rollouts


def _judge(stage: ForecastStage, seconds: float, regression: float, seed: tuple[int, int]) -> StageResult:
    """Judge all services of a stage: the first NO-GO of one stops all, and GO needs each of them."""
    stop_s, go = np.full(REPLICATIONS, np.inf), np.ones(REPLICATIONS, dtype=bool)
    if stage.step.needs is StepNeeds.NOTHING or stage.step.share == 1:
        return StageResult(stop_s, go)
    for number, service in enumerate(stage.services):
        if service.history is None or not service.history.precisions:
            go[:] = False
            continue
        result = simulate_stage(
            service.history,
            service.rulebook,
            seconds=seconds,
            share=stage.step.share or 0.5,
            instances=service.instances,
            rate_per_s=service.rate_per_s,
            regression=regression,
            random=np.random.default_rng([*seed, number]),
        )
        stop_s, go = np.minimum(stop_s, result.stop_s), go & result.go & (not service.never_go)
    return StageResult(stop_s, go)


def _shows_need(stage: ForecastStage, result: StageResult, seed: tuple[int, int]) -> BoolArray:
    """Which releases show what the stage needs."""
    is_stopped = np.isfinite(result.stop_s)
    if stage.step.needs is StepNeeds.GO:
        return result.go & ~is_stopped
    if stage.step.needs is StepNeeds.NO_HARM:
        chance = math.prod(service.no_harm for service in stage.services)
        return ~is_stopped & (np.random.default_rng([*seed, len(stage.services)]).random(REPLICATIONS) < chance)
    return ~is_stopped
