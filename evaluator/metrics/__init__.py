"""The metrics: one module for each, and the table that names them.

A metric is a class of this package and its line in `METRICS`. The fields of the class are its options in the policy;
its class variables are the facts of `evaluator.records.Metric`. Its base class determines the evidence that it reads:

- `RequestMetric` (`base.py`): requests; it defines `compare`, or as an `EndpointMetric` only `estimate`,
- `OutcomeMetric` (`outcome_base.py`): outcomes of units; it defines `compare`, and `needs` for more than their sums,
- `ReadingMetric` (`reading_base.py`): samples of a metrics server; it defines its queries, `build` (the panel) and
  `answer`.

The options are stored with the policy of a verdict, so they are known when a verdict is read back.

Each metric is imported when it is used: a policy must not load the statistics of metrics that it does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from evaluator.errors import UnknownName
from evaluator.extensions import Lazy

if TYPE_CHECKING:
    from evaluator.metrics.options import MetricModel

__all__ = ["METRICS", "SCAN_METRICS", "restore_metric"]


_PACKAGE = "evaluator.metrics"

METRICS: Mapping[str, type[MetricModel]] = Lazy(
    {
        "failure_rate": f"{_PACKAGE}.failure_rate:FailureRate",
        "latency_quantile": f"{_PACKAGE}.latency:LatencyQuantile",
        "latency_mean": f"{_PACKAGE}.latency:LatencyMean",
        "redirect_rate": f"{_PACKAGE}.status_mix:RedirectRate",
        "client_error_rate": f"{_PACKAGE}.status_mix:ClientErrorRate",
        "response_size": f"{_PACKAGE}.response_size:ResponseSize",
        "throughput": f"{_PACKAGE}.throughput:Throughput",
        "outcome_proportion": f"{_PACKAGE}.outcome_proportion:OutcomeProportion",
        "outcome_mean": f"{_PACKAGE}.outcome_mean:OutcomeMean",
        "outcome_ratio": f"{_PACKAGE}.outcome_ratio:OutcomeRatio",
        "outcome_quantile": f"{_PACKAGE}.outcome_quantile:OutcomeQuantile",
        "counter_ratio": f"{_PACKAGE}.reading_counter:CounterRatio",
        "counter_rate": f"{_PACKAGE}.reading_counter:CounterRate",
        "histogram_quantile": f"{_PACKAGE}.reading_histogram:HistogramQuantile",
        "histogram_mean": f"{_PACKAGE}.reading_histogram:HistogramMean",
        "histogram_share": f"{_PACKAGE}.reading_histogram:HistogramShare",
        "gauge_mean": f"{_PACKAGE}.reading_gauge:GaugeMean",
        "gauge_max": f"{_PACKAGE}.reading_gauge:GaugeMax",
        "gauge_slope": f"{_PACKAGE}.reading_gauge:GaugeSlope",
    },
    "metric",
)
"""Type, as the policy names it → its class."""

SCAN_METRICS: Mapping[str, type[MetricModel]] = Lazy({"latency_typical": f"{_PACKAGE}.latency:TypicalTime"}, "metric")
"""Metrics of the endpoint scan only; a policy cannot use them."""


def restore_metric(row: Mapping[str, Any], options_of_policy: Iterable[Mapping[str, Any]]) -> MetricModel:
    """Restore the metric of a row of a verdict's JSON, with the options that the verdict's policy set.

    `options_of_policy`: the metrics of that policy, as mappings. If none of them has the name and type of the row,
    required options are taken from the row, or are `None`. Raises UnknownName for an unknown type, and ValidationError
    for options that the metric does not have.
    """
    type_name = row["type"]
    table = SCAN_METRICS if type_name in SCAN_METRICS else METRICS
    if type_name not in table:
        raise UnknownName("metric type", type_name, METRICS)
    metric_class = table[type_name]
    for options in options_of_policy:
        if options.get("name") == row["name"] and options.get("type") == type_name:
            return metric_class.model_validate(
                {key: options[key] for key in metric_class.model_fields if key in options}
            )
    required = [key for key, field in metric_class.model_fields.items() if field.is_required()]
    return metric_class.model_construct(**{key: row.get(key) for key in required})  # without validation
