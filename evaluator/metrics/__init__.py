"""What is compared: one module a metric, and the table that names them.

A metric is a class of this package and its line in `METRICS`. The class is its options, which the policy reads, and
says what must be known of it (`evaluator.records.Metric`). Its base says what it reads:

- `RequestMetric` (`base.py`) the requests of a load: `estimate`, and what stands around it,
- `OutcomeMetric` (`outcome_base.py`) the outcomes of units: `compare`, and what it needs in addition to their sums,
- `ReadingMetric` (`reading_base.py`) the samples of a metrics server: the queries that it asks, the panel that it
  builds of them (`build`), and `answer`.

An option is kept with the verdict's policy, and there again where a verdict is read back.

Each is imported when it is used: a policy must not wait for the statistics of metrics that it does not have.
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
"""What the endpoint scan compares in addition; a policy cannot ask for it."""


def restore_metric(row: Mapping[str, Any], options_of_policy: Iterable[Mapping[str, Any]]) -> MetricModel:
    """The metric of a row of a verdict, with its options as they were asked for: by the verdict's policy.

    Where that has none of this name, what the metric needs is as the row says, or `None`. Raises UnknownName, and
    ValidationError for options that the metric does not have.
    """
    name = row["type"]
    table = SCAN_METRICS if name in SCAN_METRICS else METRICS
    if name not in table:
        raise UnknownName("metric type", name, METRICS)
    kind = table[name]
    options = next(
        (listed for listed in options_of_policy if (listed.get("name"), listed.get("type")) == (row["name"], name)),
        None,
    )
    if options is None:
        return kind.model_construct(**{k: row.get(k) for k, field in kind.model_fields.items() if field.is_required()})
    return kind.model_validate({k: options[k] for k in kind.model_fields if k in options})
