"""What is compared: one module a metric, and the table that names them.

A new metric is a function `compare_…(pair, rule) -> Comparison` in a module of this room and one line in a table here:
`REQUEST_METRICS` for what is read from the cells of a load, `OUTCOME_METRICS` for what is read from outcomes of units,
`READING_METRICS` for what a metrics server is asked.
"""

from __future__ import annotations

from collections.abc import Mapping

from evaluator.metrics.base import Compare, CompareTogether, Pair
from evaluator.metrics.failure_rate import compare_failure_rate
from evaluator.metrics.latency import compare_latency_mean, compare_latency_quantile, compare_latency_quantiles
from evaluator.metrics.outcome_base import OutcomeMetric, OutcomePair
from evaluator.metrics.outcome_mean import OUTCOME_MEAN
from evaluator.metrics.outcome_proportion import OUTCOME_PROPORTION
from evaluator.metrics.outcome_quantile import OUTCOME_QUANTILE
from evaluator.metrics.outcome_ratio import OUTCOME_RATIO
from evaluator.metrics.reading_base import ReadingMetric, ReadingPair
from evaluator.metrics.reading_counter import COUNTER_RATE, COUNTER_RATIO
from evaluator.metrics.reading_gauge import GAUGE_MAX, GAUGE_MEAN, GAUGE_SLOPE
from evaluator.metrics.reading_histogram import HISTOGRAM_MEAN, HISTOGRAM_QUANTILE, HISTOGRAM_SHARE
from evaluator.metrics.response_size import compare_response_size
from evaluator.metrics.throughput import compare_throughput

__all__ = [
    "ASKED_TOGETHER",
    "METRICS",
    "OUTCOME_METRICS",
    "READING_METRICS",
    "REQUEST_METRICS",
    "Compare",
    "CompareTogether",
    "OutcomeMetric",
    "OutcomePair",
    "Pair",
    "ReadingMetric",
    "ReadingPair",
]

REQUEST_METRICS: Mapping[str, Compare] = {
    "failure_rate": compare_failure_rate,
    "latency_mean": compare_latency_mean,
    "latency_quantile": compare_latency_quantile,
    "response_size": compare_response_size,
    "throughput": compare_throughput,
}
"""Read the cells of a load."""

ASKED_TOGETHER: Mapping[str, CompareTogether] = {"latency_quantile": compare_latency_quantiles}
"""Those of them that answer several rules in one go, as they would answer each."""

OUTCOME_METRICS: Mapping[str, OutcomeMetric] = {
    "outcome_mean": OUTCOME_MEAN,
    "outcome_proportion": OUTCOME_PROPORTION,
    "outcome_quantile": OUTCOME_QUANTILE,
    "outcome_ratio": OUTCOME_RATIO,
}
"""Read the outcomes of units; each says what it needs beside their sums."""

READING_METRICS: Mapping[str, ReadingMetric] = {
    "counter_ratio": COUNTER_RATIO,
    "counter_rate": COUNTER_RATE,
    "histogram_quantile": HISTOGRAM_QUANTILE,
    "histogram_mean": HISTOGRAM_MEAN,
    "histogram_share": HISTOGRAM_SHARE,
    "gauge_mean": GAUGE_MEAN,
    "gauge_max": GAUGE_MAX,
    "gauge_slope": GAUGE_SLOPE,
}
"""Read what a metrics server said; each says what kinds of queries it asks."""

METRICS: tuple[str, ...] = (*REQUEST_METRICS, *OUTCOME_METRICS, *READING_METRICS)
"""All types, in the order of the tables."""
