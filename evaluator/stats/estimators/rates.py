"""Compare events per second of two arms, bucket by bucket, as a ratio (method B.2, throughput; variance: B.3, time)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evaluator.records import Limit, Margin
from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.stats.estimators.contrast import Estimand, Spread, ask_limits, contrast, log_bound
from evaluator.stats.estimators.estimate import Estimate
from evaluator.stats.shaping.panel import Panel


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
    """Compare the rates of events of baseline and candidate (method B.2; variance: B.3, time).

    A rate is a property of the arm, not of its instances: only its variation over time counts. If the arms ran one
    after the other, each rate is over the time that the arm ran.

    Args:
        events: Events in each slot, shape (2, slots).
        panel: Baseline and candidate.
        alpha: One-sided level of the interval.
        margin: Largest harm that is tolerated; an absolute one is divided by the baseline's rate. `None`: none is.
        limit: Bounds on the candidate's own rate, per second.
        sign: 1 if lower is better, -1 if higher is.
        exposure: What the rates of the arms are divided by before they are compared (users of each arm).
    """
    active = active_slots(panel)
    ran, totals = active.sum(axis=1, keepdims=True), events.sum(axis=1, keepdims=True)
    rates = totals / (ran * panel.bucket_s)
    # Influence of each slot on the logarithm of each arm's rate, (2, slots); mean 0.
    influence = np.where(active, (events / (totals / ran) - 1) * panel.slots / ran, 0.0)
    own = [Estimand(np.log(rates[arm]), influence[[arm]]) for arm in (0, 1)]
    shares = [replace(estimand, value=np.log(rates[arm] / exposure[arm])) for arm, estimand in enumerate(own)]
    estimate = contrast(
        (rates[0], rates[1]),
        shares[1] - shares[0],
        Spread(),
        panel.position,
        alpha=alpha,
        bound=log_bound(margin, sign, float(rates[0, 0])),
        sign=sign,
        relative=True,
        against_limit=ask_limits(own[1], Spread(), limit, log=True),
        joint=False,
    )
    if margin is None or margin.relative:
        return estimate
    in_unit = {name: getattr(estimate, name) * rates[0] for name in ("effect", "lower", "upper", "se")}
    return replace(estimate, **in_unit)


def active_slots(panel: Panel) -> BoolArray:
    """Find when each arm ran, shape (2, slots): always, or in runs whose arms did not overlap, from first to last."""
    active = np.ones((2, panel.slots), dtype=bool)
    for run in (code for code, paired in panel.paired.items() if not paired):
        slots_of_run = np.flatnonzero(panel.run == run)
        for arm in (0, 1):
            busy = np.flatnonzero(panel.n[arm][:, slots_of_run].sum(axis=0))
            active[arm, slots_of_run] = False
            if busy.size:
                active[arm, slots_of_run[busy[0] : busy[-1] + 1]] = True
    return active
