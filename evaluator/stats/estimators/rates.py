"""Compare events per second of two arms, bucket by bucket, as a ratio (method B.2, throughput; variance: B.3, time)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evaluator.records import Limit, Margin
from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.stats.estimators.contrast import Estimand, Spread, answer_limits, contrast, log_bound
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
        margin: Largest harm that is tolerated; an absolute margin is divided by the baseline's rate. `None`: the
            question is whether there is any harm.
        limit: Bounds on the candidate's own rate, per second.
        sign: 1 if a lower rate is better, -1 if a higher rate is.
        exposure: What the rates of baseline and candidate are divided by before they are compared (users of each arm).
    """
    active = active_slots(panel)
    # Of each arm, shape (2, 1).
    active_count, totals = active.sum(axis=1, keepdims=True), events.sum(axis=1, keepdims=True)
    rates = totals / (active_count * panel.bucket_s)
    # Influence of each slot on the logarithm of each arm's rate, (2, slots), with mean 0: the slot's events relative to
    # their mean, minus 1. Slots in which the arm did not run have 0; the others count for them (slots / active slots).
    influence = np.where(active, (events / (totals / active_count) - 1) * panel.slots / active_count, 0.0)
    log_rates = [Estimand(np.log(rates[arm]), influence[[arm]]) for arm in (0, 1)]
    # Rates per user are compared; the candidate's limits are for its rate itself.
    baseline, candidate = (replace(log_rates[arm], value=np.log(rates[arm] / exposure[arm])) for arm in (0, 1))
    estimate = contrast(
        (rates[0], rates[1]),
        candidate - baseline,
        Spread(),
        panel.position,
        alpha=alpha,
        bound=log_bound(margin, sign, float(rates[0, 0])),
        sign=sign,
        relative=True,
        against_limit=answer_limits(log_rates[1], Spread(), limit, log=True),
        joint=False,
    )
    if margin is None or margin.relative:
        return estimate
    # An absolute margin: the effect is shown as a difference of rates, too.
    per_second = {name: getattr(estimate, name) * rates[0] for name in ("effect", "lower", "upper", "se")}
    return replace(estimate, **per_second)


def active_slots(panel: Panel) -> BoolArray:
    """Find the slots in which each arm ran, shape (2, slots).

    In a run whose arms overlapped in time, both ran in all slots. In other runs, each arm ran from its first to its
    last slot with requests.
    """
    active = np.ones((2, panel.slots), dtype=bool)
    for run, arms_overlapped in panel.paired.items():
        if arms_overlapped:
            continue
        slots_of_run = np.flatnonzero(panel.run == run)
        for arm in (0, 1):
            active[arm, slots_of_run] = False
            with_requests = np.flatnonzero(panel.n[arm][:, slots_of_run].sum(axis=0))
            if with_requests.size:
                active[arm, slots_of_run[with_requests[0] : with_requests[-1] + 1]] = True
    return active
