"""Where in the distribution it moved: the change at every quantile, and the share of requests done by each time."""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluator.assess.requests import RequestPairs
from evaluator.figure_data.base import round_value, round_values
from evaluator.stats.estimators.quantile_pairs import QuantileQuestion, standardise_both
from evaluator.stats.estimators.quantiles import compare_quantiles
from evaluator.stats.variance.longrun import MIN_BUCKETS

QUANTILES = (1, 2, 5, *range(10, 90, 5), 90, 92, 94, 95, 96, 97, 98, 99, 99.5, 99.9)
"""In percent."""
MIN_BEYOND = 5
"""Requests that each arm must have beyond a quantile, so that its estimate is worth drawing."""
POINTS = 120
FIRST_SHARE, LAST_SHARE = 0.001, 0.9995
"""Shares of the successful requests between which a distribution is drawn."""


def trace_quantiles(requests: RequestPairs, arm: str) -> dict[str, Any] | None:
    """Compute the relative change of time to success at quantiles from 1 to 99.9 %, of one candidate.

    Each interval is valid by itself, not all of them together. Returns lists with an entry per quantile that has
    enough data; `None` if none has, or if the arms have no time in common.
    """
    pair = requests.find_pair(arm)
    if pair is None or pair.panel.slots < MIN_BUCKETS:
        return None
    fewest_requests = min(pair.requests(0), pair.requests(1))  # of baseline and candidate
    # Enough requests must be beyond a quantile, on the side where there are fewer.
    percents = [q for q in QUANTILES if fewest_requests * min(q, 100 - q) / 100 >= MIN_BEYOND]
    answers = compare_quantiles(
        pair.panel,
        pair.design,
        [QuantileQuestion(q / 100) for q in percents],
        alpha=pair.alpha,
        sd_instance=pair.prior.sd_latency,  # how much instances are known to differ (log ratio)
    )
    estimates = [(q, answer.estimate) for q, answer in zip(percents, answers, strict=True)]
    # All arrays of an estimate have one entry, [0]: all endpoints are one group.
    finite = [(q, estimate) for q, estimate in estimates if estimate is not None and np.isfinite(estimate.effect[0])]
    if not finite:
        return None
    return {
        "arm": arm,
        "percent": [q for q, _ in finite],
        "baseline_ms": round_values(estimate.baseline[0] for _, estimate in finite),
        "candidate_ms": round_values(estimate.candidate[0] for _, estimate in finite),
        "estimate": round_values(estimate.effect[0] for _, estimate in finite),
        "lower": round_values(estimate.lower[0] for _, estimate in finite),
        "upper": round_values(estimate.upper[0] for _, estimate in finite),
    }


def trace_distribution(requests: RequestPairs, arm: str) -> dict[str, Any] | None:
    """Compute the distribution of response times: for `POINTS` times, the share of requests that succeeded by then.

    `baseline` and `candidate` are the shares of these arms at the times `ms`, which are evenly spaced on a logarithmic
    axis. A median is `None` if half of an arm's requests fail. Returns `None` if an arm has no successful request, or
    if there is no time in which both arms had requests.
    """
    pair = requests.find_pair(arm)
    if pair is None or not pair.successes(0) or not pair.successes(1):
        return None
    curves = standardise_both(pair.panel)  # baseline, candidate
    success_shares = [float(curve.cumulative[-1]) for curve in curves]
    # Failures are never done, so the shares of all requests end at the success share.
    first_ms = min(c.quantile(FIRST_SHARE * success) for c, success in zip(curves, success_shares, strict=True))
    last_ms = max(c.quantile(LAST_SHARE * success) for c, success in zip(curves, success_shares, strict=True))
    # A logarithmic axis needs a start above 0 and an end beyond it, also if all times are equal.
    unit_ms = 1 / pair.panel.units_per_ms
    times_ms = np.geomspace(max(first_ms, unit_ms), max(last_ms, first_ms * 1.01, 2 * unit_ms), POINTS)
    return {
        "arm": arm,
        "ms": round_values(times_ms),
        "baseline": round_values(curves[0].at(times_ms)),
        "candidate": round_values(curves[1].at(times_ms)),
        "medians_ms": [round_value(curve.quantile(0.5)) for curve in curves],
    }
