"""What is compared: one module a metric, and the table that names them.

A new metric is a module of this room and its line in `METRICS`, which says what it reads, where it is, and what the
policy must know of it. What compares is

- of `requests` (the cells of a load) a function `(Pair, Rule) -> Comparison`,
- of `outcomes` (of units) an `OutcomeMetric`, which says what it needs beside their sums as well,
- of `readings` (of a metrics server) a `ReadingMetric`, which says what kinds of queries it asks as well.

Each is imported when it is used: the policy reads this table too, and must not import the statistics for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evaluator.metrics.types import Loaded, MetricType
from evaluator.records import Direction, QueryKind

if TYPE_CHECKING:
    from evaluator.metrics.base import Compare
    from evaluator.metrics.outcome_base import OutcomeMetric
    from evaluator.metrics.reading_base import ReadingMetric

__all__ = ["METRICS", "OUTCOME_METRICS", "READING_METRICS", "REQUEST_METRICS", "MetricType"]

LOWER, HIGHER = Direction.LOWER, Direction.HIGHER
COUNTER, GAUGE, HISTOGRAM = QueryKind.COUNTER, QueryKind.GAUGE, QueryKind.HISTOGRAM

METRICS: Mapping[str, MetricType] = {
    "failure_rate": MetricType("requests", "failure_rate:compare_failure_rate", "share", LOWER, shown="fraction"),
    "latency_quantile": MetricType(
        "requests",
        "latency:compare_latency_quantile",
        "ms",
        LOWER,
        takes_quantile=True,
        together="latency:compare_latency_quantiles",
    ),
    "latency_mean": MetricType("requests", "latency:compare_latency_mean", "ms", LOWER),
    "response_size": MetricType("requests", "response_size:compare_response_size", "abs", LOWER, shown="bytes"),
    "throughput": MetricType("requests", "throughput:compare_throughput", "/s", HIGHER),
    "outcome_proportion": MetricType(
        "outcomes", "outcome_proportion:OUTCOME_PROPORTION", "share", HIGHER, any_direction=True
    ),
    "outcome_mean": MetricType("outcomes", "outcome_mean:OUTCOME_MEAN", "abs", HIGHER, any_direction=True),
    "outcome_ratio": MetricType("outcomes", "outcome_ratio:OUTCOME_RATIO", "abs", HIGHER, any_direction=True),
    "outcome_quantile": MetricType(
        "outcomes", "outcome_quantile:OUTCOME_QUANTILE", "abs", HIGHER, any_direction=True, takes_quantile=True
    ),
    "counter_ratio": MetricType("readings", "reading_counter:COUNTER_RATIO", "share", LOWER, asks=COUNTER),
    "counter_rate": MetricType(
        "readings", "reading_counter:COUNTER_RATE", "abs", LOWER, asks=COUNTER, any_direction=True
    ),
    "histogram_quantile": MetricType(
        "readings", "reading_histogram:HISTOGRAM_QUANTILE", "abs", LOWER, asks=HISTOGRAM, takes_quantile=True
    ),
    "histogram_mean": MetricType("readings", "reading_histogram:HISTOGRAM_MEAN", "abs", LOWER, asks=HISTOGRAM),
    "histogram_share": MetricType("readings", "reading_histogram:HISTOGRAM_SHARE", "share", HIGHER, asks=HISTOGRAM),
    "gauge_mean": MetricType("readings", "reading_gauge:GAUGE_MEAN", "abs", LOWER, asks=GAUGE, any_direction=True),
    "gauge_max": MetricType("readings", "reading_gauge:GAUGE_MAX", "abs", LOWER, asks=GAUGE, any_direction=True),
    "gauge_slope": MetricType("readings", "reading_gauge:GAUGE_SLOPE", "abs", LOWER, asks=GAUGE, any_direction=True),
}
"""Type, as the policy names it → what is known of it."""

REQUEST_METRICS: Mapping[str, Compare] = Loaded(METRICS, "requests")
"""Read the cells of a load."""

OUTCOME_METRICS: Mapping[str, OutcomeMetric] = Loaded(METRICS, "outcomes")
"""Read the outcomes of units."""

READING_METRICS: Mapping[str, ReadingMetric] = Loaded(METRICS, "readings")
"""Read what a metrics server said."""
