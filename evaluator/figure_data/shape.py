"""Where in the distribution it moved: the change at every quantile, and the share of requests done by each time."""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluator.assess.requests import RequestPairs
from evaluator.figure_data.base import plain, round_all
from evaluator.stats.estimators.quantile_pairs import QuantileQuestion, standardise_both
from evaluator.stats.estimators.quantiles import compare_quantiles
from evaluator.stats.variance.longrun import MIN_BUCKETS

QUANTILES = (1, 2, 5, *range(10, 90, 5), 90, 92, 94, 95, 96, 97, 98, 99, 99.5, 99.9)
"""In percent."""
MIN_BEYOND = 5
POINTS = 120
TAIL = 0.9995


def trace_quantiles(requests: RequestPairs, arm: str) -> dict[str, Any] | None:
    """Relative change at quantiles from 1 to 99.9 %, each with an interval by itself; those that have enough data."""
    pair = requests.find_pair(arm)
    if pair is None or pair.panel.slots < MIN_BUCKETS:
        return None
    fewest = min(pair.requests(0), pair.requests(1))
    percents = [q for q in QUANTILES if fewest * min(q, 100 - q) / 100 >= MIN_BEYOND]
    answers = compare_quantiles(
        pair.panel,
        pair.design,
        [QuantileQuestion(q / 100) for q in percents],
        alpha=pair.alpha,
        sd_instance=pair.prior.sd_latency,
    )
    estimates = [(q, answer.estimate) for q, answer in zip(percents, answers, strict=True)]
    finite = [(q, estimate) for q, estimate in estimates if estimate is not None and np.isfinite(estimate.effect[0])]
    if not finite:
        return None
    return {
        "arm": arm,
        "percent": [q for q, _ in finite],
        "baseline_ms": round_all(estimate.baseline[0] for _, estimate in finite),
        "candidate_ms": round_all(estimate.candidate[0] for _, estimate in finite),
        "estimate": round_all(estimate.effect[0] for _, estimate in finite),
        "lower": round_all(estimate.lower[0] for _, estimate in finite),
        "upper": round_all(estimate.upper[0] for _, estimate in finite),
    }


def trace_distribution(requests: RequestPairs, arm: str) -> dict[str, Any] | None:
    """Share of requests that both arms have done by each of some times, evenly spread over their logarithm."""
    pair = requests.find_pair(arm)
    if pair is None or not pair.successes(0) or not pair.successes(1):
        return None
    curves = standardise_both(pair.panel)
    top = [float(curve.cumulative[-1]) for curve in curves]
    first = min(curve.quantile(0.001 * most) for curve, most in zip(curves, top, strict=True))
    last = max(curve.quantile(TAIL * most) for curve, most in zip(curves, top, strict=True))
    times = np.geomspace(max(first, 1e-3), max(last, first * 1.01, 2e-3), POINTS)
    medians = [plain(curve.quantile(0.5)) for curve in curves]
    return {
        "arm": arm,
        "ms": round_all(times),
        "baseline": round_all(curves[0].at(times)),
        "candidate": round_all(curves[1].at(times)),
        "medians_ms": medians,
    }
