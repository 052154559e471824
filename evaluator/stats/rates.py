"""Events per second of two arms, compared bucket by bucket as a ratio."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluator.records import Limit, Margin
from evaluator.stats.estimate import Estimate, ask, detectable, needed_time, trend
from evaluator.stats.longrun import time_variance
from evaluator.stats.panel import Panel
from evaluator.stats.uncertainty import Uncertainty, time_only

__all__ = ["compare_rates"]

FloatArray = npt.NDArray[np.float64]


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
    is taken relative to the baseline's rate. `exposure`: what the rates are compared per (users of each arm).
    """
    seconds = panel.slots * panel.bucket_s
    totals = events.sum(axis=1)
    rates = totals / seconds
    influence = (panel.slots * (events[1] / totals[1] - events[0] / totals[0]))[None, :]
    theta = np.array([np.log(rates[1] / exposure[1]) - np.log(rates[0] / exposure[0])])
    uncertainty = _uncertain(influence)
    bound = _log_bound(margin, float(rates[0]), sign)
    half = uncertainty.reach(alpha)
    variance, df = uncertainty.binding(alpha)
    relative = margin is None or margin.relative
    effect = np.expm1(np.concatenate([theta, theta - half, theta + half])) * (1.0 if relative else rates[0])
    own = _uncertain((panel.slots * (events[1] / totals[1]) - 1)[None, :])
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
        detectable=np.expm1(detectable(uncertainty, alpha)),
        needed=needed_time(sign * theta - bound, uncertainty, alpha),
        lasting=np.zeros(1),
        se=np.sqrt(variance) * (1.0 if relative else rates[0]),
        df=df,
        against_limit=tuple(
            ask(s * np.log(rates[1:] / max(bound, 1e-12)), own) for s, bound in limits if bound is not None
        ),
    )


def _uncertain(influence: FloatArray) -> Uncertainty:
    return time_only(time_variance(influence))


def _log_bound(margin: Margin | None, rate: float, sign: float) -> float:
    if margin is None:
        return 0.0
    share = margin.value if margin.relative else margin.value / rate
    return float(np.log1p(share) if sign > 0 else -np.log1p(-min(share, 1 - 1e-12)))
