"""Levels compared as a difference on their own scale: gauges that may be 0 or negative, and slopes (method B.2).

As `compare_means`, but instances are told apart by differences too, where a logarithm would not exist.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from evaluator.records import Direction, Limit
from evaluator.stats.estimate import Asked, Estimate, ask, detectable, lasting_share, load, needed_time, trend
from evaluator.stats.instances import InstanceFrame, InstanceVariance
from evaluator.stats.longrun import TimeVariance, time_variance
from evaluator.stats.panel import Panel
from evaluator.stats.strata import Levels, Strata, build_strata, levels, run_levels
from evaluator.stats.uncertainty import Design, Uncertainty, centre, combine, replicate_uncertainty

__all__ = ["compare_differences"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Parts:
    panel: Panel
    design: Design
    strata: Strata
    arms: tuple[Levels, Levels]
    instances: InstanceVariance
    prior: FloatArray
    floor: FloatArray
    fitted: int


def compare_differences(
    panel: Panel,
    design: Design,
    *,
    alpha: float,
    margin: float,
    sd_instance: float,
    direction: Direction = Direction.LOWER,
    limit: Limit | None = None,
    floor: tuple[float, float] = (0.0, 0.0),
    fitted: int = 0,
) -> Estimate:
    """Compare Σ `sum_ms` / Σ `n` of both arms; margin, limits and `sd_instance` are in its unit.

    `sd_instance`: standard deviation assumed for an arm with a single instance. `floor`: least variance of the level
    of each arm. `fitted`: slow cosines that the level itself has taken out of its influences: a line takes two.
    Where nothing varies at all the answer is exact.
    """
    strata = build_strata(panel, panel.n)
    arms = levels(strata, 0, panel.sum_ms[0]), levels(strata, 1, panel.sum_ms[1])
    theta = arms[1].level - arms[0].level
    rows, sign = panel.rows, 1.0 if direction is Direction.LOWER else -1.0
    instances = InstanceFrame(rows, rows.n, strata.groups).variance(rows.sum_ms, theta, relative=False)
    behind = np.array([said or 1 for said in design.declared])
    prior = (sd_instance**2 / behind)[:, None] + np.zeros(theta.size)
    parts = _Parts(panel, design, strata, arms, instances, prior, np.array(floor)[:, None], fitted)
    influence = arms[1].influence - arms[0].influence
    by_run = _by_run(parts, 1) - _by_run(parts, 0)
    theta, uncertainty = _uncertain(parts, theta, influence, by_run, (0, 1))
    deciding = uncertainty.binding(alpha)
    beyond = sign * theta - margin
    return Estimate(
        baseline=arms[0].level,
        candidate=arms[1].level,
        effect=theta,
        lower=theta - deciding.reach,
        upper=theta + deciding.reach,
        against_margin=ask(beyond, uncertainty),
        against_zero=ask(sign * theta, uncertainty),
        trend=trend(sign * influence, panel.position, beyond),
        detectable=detectable(deciding),
        needed=needed_time(beyond, deciding),
        lasting=lasting_share(deciding),
        se=deciding.se,
        df=deciding.df,
        against_limit=_limits(parts, limit or Limit()),
        loadings=load(sign * influence, _scores(parts, by_run, sign), deciding.variance),
    )


def _by_run(parts: _Parts, arm: int) -> FloatArray:
    """Level of one arm in each run (groups, runs); all together where runs are no replicates."""
    if parts.design.kind != "replicates":
        return parts.arms[arm].level[:, None]
    return run_levels(parts.strata, arm, parts.panel.sum_ms[arm])


def _uncertain(
    parts: _Parts, theta: FloatArray, influence: FloatArray, by_run: FloatArray, arms: tuple[int, ...]
) -> tuple[FloatArray, Uncertainty]:
    time = _free(time_variance(influence), parts.fitted)
    if parts.design.kind == "replicates":
        theta, uncertainty = replicate_uncertainty(by_run, time)
    else:
        uncertainty = combine(time, parts.instances, parts.prior, arms=arms)
    return theta, uncertainty.also(parts.floor[list(arms)].sum(axis=0))


def _free(time: TimeVariance, fitted: int) -> TimeVariance:
    """The same with what is left of the cosines."""
    left = max(time.df - fitted, 1.0)
    return replace(time, variance=time.variance * (time.df / left), df=left)


def _limits(parts: _Parts, limit: Limit) -> tuple[Asked, ...]:
    """The candidate's own level against `max` and `min`."""
    own = parts.arms[1]
    level, uncertainty = _uncertain(parts, own.level, own.influence, _by_run(parts, 1), (1,))
    bounds = [(1.0, limit.max), (-1.0, limit.min)]
    return tuple(ask(sign * (level - bound), uncertainty) for sign, bound in bounds if bound is not None)


def _scores(parts: _Parts, by_run: FloatArray, sign: float) -> FloatArray | None:
    if parts.design.kind == "replicates":
        return np.asarray(sign * centre(by_run).T)
    return sign * parts.instances.scores if parts.design.kind == "instances" else None
