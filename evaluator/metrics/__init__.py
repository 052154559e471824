"""What is compared: one module a metric, and the table that names them.

A new metric is a function `compare_…(pair, rule) -> Comparison` in a module of this room and one line in `METRICS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from evaluator.metrics.base import Compare, Pair
from evaluator.metrics.failure_rate import compare_failure_rate
from evaluator.metrics.latency import compare_latency_mean, compare_latency_quantile
from evaluator.metrics.throughput import compare_throughput

__all__ = ["METRICS", "Compare", "Pair"]

METRICS: Mapping[str, Compare] = {
    "failure_rate": compare_failure_rate,
    "latency_mean": compare_latency_mean,
    "latency_quantile": compare_latency_quantile,
    "throughput": compare_throughput,
}
