"""Response times of requests: the mean and the typical time of successes, and quantiles of time to success."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, Self

from evaluator.metrics.base import EndpointMetric, Pair, RequestMetric, UnitTotals, answer, check_enough
from evaluator.metrics.options import MIN_BEYOND, QuantileMetric
from evaluator.records import Comparison, Rule
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.estimate import Estimate
from evaluator.stats.estimators.quantile_pairs import QuantileEstimate, QuantileQuestion
from evaluator.stats.estimators.quantiles import compare_quantiles
from evaluator.stats.estimators.typical import compare_typical_times
from evaluator.stats.shaping.groups import all_together
from evaluator.wording import format_number


class LatencyMetric(RequestMetric):
    """A response time, in ms."""

    amounts: ClassVar[Literal["ms"]] = "ms"
    value_unit: ClassVar[str] = "ms"
    is_response_time: ClassVar[bool] = True


class LatencyMean(LatencyMetric, EndpointMetric):
    """Mean response time of successes, in ms."""

    type: ClassVar[str] = "latency_mean"
    short: ClassVar[str] = "mean"
    k6_name: ClassVar[str] = "avg"
    needs_failures_within: ClassVar[bool] = True
    method: ClassVar[str] = "paired mean"

    def estimate(self, pair: Pair, rule: Rule) -> Estimate:
        """Compare the mean response times of successes, of all endpoints or of each of the pair's groups."""
        return pair.compare_means(rule)

    def of_units(self, units: UnitTotals) -> FloatArray:
        """Mean response time of successes of each instance or run (ms), shape (units,)."""
        return units.sum_ms / (units.n - units.failures)


class TypicalTime(LatencyMetric, EndpointMetric):
    """Geometric mean of the response times of successes, in ms; used by the endpoint scan."""

    type: ClassVar[str] = "latency_typical"
    short: ClassVar[str] = "typical time"
    method: ClassVar[str] = "typical time"

    def estimate(self, pair: Pair, rule: Rule) -> Estimate:
        """Compare the geometric means of the response times of successes, in each of the pair's groups of endpoints."""
        return compare_typical_times(
            pair.panel,
            pair.design,
            alpha=pair.alpha,
            margin=rule.margin,
            sd_instance=pair.prior.sd_latency,
            groups=pair.groups or all_together(len(pair.panel.endpoints)),
            depth=pair.depth,
            tolerance=pair.tolerance,
        )


class LatencyQuantile(QuantileMetric, LatencyMetric):
    """A quantile of time to success, in ms; failures count as infinitely slow."""

    type: ClassVar[str] = "latency_quantile"

    def name(self, chosen: str) -> str:
        """Return the short name, such as `p95`, unless the policy's name (`chosen`) is not `p95` or `latency_p95`."""
        # Rows of old verdicts do not contain the quantile.
        short = f"p{format_number(self.quantile * 100)}" if self.quantile else chosen
        return short if chosen in {f"latency_{short}", short} else chosen

    @property
    def k6_name(self) -> str:
        """Name of this statistic in k6: `med`, `p(95)`; empty if the quantile is not known."""
        if not self.quantile:  # rows of old verdicts do not contain it
            return ""
        return "med" if self.quantile == 0.5 else f"p({self.quantile * 100:.6g})"

    def check(self, pair: Pair) -> str | None:
        """Why the pair cannot be compared, or `None`."""
        # The candidate needs no successes: its failures count as infinitely slow.
        why = check_enough(pair, successes=True, on_both_arms=False)
        if why:
            return why
        smaller = min(pair.requests(0), pair.requests(1))
        if smaller * self.tail >= MIN_BEYOND:  # expected requests beyond the quantile
            return None
        return f"only {smaller} requests in the smaller arm, at least {self.least} are needed for this quantile"

    def compare(self, pair: Pair, rule: Rule) -> Comparison:
        """Answer the metric's rule; without enough data, by a comparison without data."""
        return self.compare_all(pair, ((self, rule),))[0]

    @classmethod
    def compare_all(cls, pair: Pair, rules: Sequence[tuple[Self, Rule]]) -> tuple[Comparison, ...]:
        """Answer several rules of quantiles at once, as their estimates share work; in the order of the rules."""
        reasons = [metric.check(pair) for metric, _ in rules]  # of each rule: why it cannot be answered; None: it can
        questions = [
            QuantileQuestion(metric.quantile, rule.margin, rule.direction, rule.limit)
            for (metric, rule), reason in zip(rules, reasons, strict=True)
            if reason is None
        ]
        estimates: Iterator[QuantileEstimate] = iter(())  # of the rules that can be answered, in their order
        if questions:
            sd_instance, depth = pair.prior.sd_latency, pair.depth
            estimates = iter(
                compare_quantiles(
                    pair.panel, pair.design, questions, alpha=pair.alpha, sd_instance=sd_instance, depth=depth
                )
            )
        return tuple(
            _answer(pair, rule, next(estimates)) if reason is None else pair.no_data(rule, reason)
            for (_, rule), reason in zip(rules, reasons, strict=True)
        )

    def of_units(self, units: UnitTotals) -> FloatArray:
        """Quantile of the time to success of each instance or run (ms), shape (units,)."""
        return units.quantiles(self.quantile)


def _answer(pair: Pair, rule: Rule, result: QuantileEstimate) -> Comparison:
    """Turn the estimate of a quantile into a comparison; if the baseline has no usable quantile, without data."""
    if result.estimate is None and result.problem == "zero":
        return pair.no_data(
            rule, "on baseline this quantile is 0 ms, so there is no ratio; record times in finer steps"
        )
    if result.estimate is None:
        return pair.no_data(rule, "on baseline so many requests fail that this quantile is a failed request")
    return answer(pair, rule, result.estimate, method=f"quantile test, {pair.design.kind}")
