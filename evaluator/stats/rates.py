"""Events per second of two arms, compared bucket by bucket as a ratio."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluator.records import Limit, Margin
from evaluator.stats.estimate import Estimate, ask, detectable, needed_time, trend
from evaluator.stats.longrun import time_variance
from evaluator.stats.panel import Panel
from evaluator.stats.uncertainty import Uncertainty, time_only

__all__ = ["active_slots", "compare_rates"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def compare_rates(
    events: FloatArray,
    panel: Panel,
    *,
    alpha: float,
    margin: Margin | None,
    limit: Limit,
    sign: float,
    exposure: tuple[float, float] = (1.0, 1.0),
) -> Estimate:
    """Compare `events` (2, slots) per second. `sign` is 1 where lower is better, -1 where higher is.

    A rate is a property of the arm, not of its instances: only its variation over time counts. An absolute margin
    is taken relative to the baseline's rate. `exposure`: what the rates are compared per (users of each arm). Where
    the arms ran one after the other, each has the time that it ran.
    """
    active = active_slots(panel)
    totals = events.sum(axis=1)
    rates = totals / (active.sum(axis=1) * panel.bucket_s)
    own_influence = _influence(events, active)
    influence = (own_influence[1] - own_influence[0])[None, :]
    theta = np.array([np.log(rates[1] / exposure[1]) - np.log(rates[0] / exposure[0])])
    uncertainty = _uncertain(influence)
    bound = _log_bound(margin, float(rates[0]), sign)
    deciding = uncertainty.binding(alpha)
    half = deciding.reach
    relative = margin is None or margin.relative
    effect = np.expm1(np.concatenate([theta, theta - half, theta + half])) * (1.0 if relative else rates[0])
    own = _uncertain(own_influence[1:])
    limits = [(1.0, limit.max), (-1.0, limit.min)]
    return Estimate(
        baseline=rates[:1],
        candidate=rates[1:],
        effect=effect[:1],
        lower=effect[1:2],
        upper=effect[2:],
        against_margin=ask(sign * theta - bound, uncertainty),
        against_zero=ask(sign * theta, uncertainty),
        trend=trend(sign * influence, panel.position, sign * theta - bound),
        detectable=np.expm1(detectable(deciding)),
        needed=needed_time(sign * theta - bound, deciding),
        lasting=np.zeros(1),
        se=deciding.se * (1.0 if relative else rates[0]),
        df=deciding.df,
        against_limit=tuple(
            ask(s * np.log(rates[1:] / max(bound, 1e-12)), own) for s, bound in limits if bound is not None
        ),
    )


def active_slots(panel: Panel) -> BoolArray:
    """When each arm ran, (2, slots): all the time, or in runs where the arms did not overlap, its own part of it."""
    active = np.ones((2, panel.slots), dtype=bool)
    for run in (code for code, paired in panel.paired.items() if not paired):
        here = np.flatnonzero(panel.run == run)
        for arm in (0, 1):
            seen = np.flatnonzero(panel.n[arm][:, here].sum(axis=0))
            active[arm, here] = False
            if seen.size:
                active[arm, here[seen[0] : seen[-1] + 1]] = True
    return active


def _influence(events: FloatArray, active: BoolArray) -> FloatArray:
    """Of each slot on the logarithm of each arm's rate, (2, slots); mean 0."""
    slots = active.sum(axis=1, keepdims=True)
    mean = events.sum(axis=1, keepdims=True) / slots
    return np.asarray(np.where(active, (events / mean - 1) * active.shape[1] / slots, 0.0))


def _uncertain(influence: FloatArray) -> Uncertainty:
    return time_only(time_variance(influence))


def _log_bound(margin: Margin | None, rate: float, sign: float) -> float:
    if margin is None:
        return 0.0
    share = margin.value if margin.relative else margin.value / rate
    return float(np.log1p(share) if sign > 0 else -np.log1p(-min(share, 1 - 1e-12)))
