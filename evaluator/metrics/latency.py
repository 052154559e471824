"""Response times of requests: the mean and the typical time of successes, and quantiles of time to success."""

from __future__ import annotations

from collections.abc import Sequence
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
        """Mean of successes."""
        return pair.compare_means(rule)

    def of_units(self, units: UnitTotals) -> FloatArray:
        """Mean of successes."""
        return units.sum_ms / (units.n - units.failures)


class TypicalTime(LatencyMetric, EndpointMetric):
    """Geometric mean of the response times of successes, in ms; used by the endpoint scan."""

    type: ClassVar[str] = "latency_typical"
    short: ClassVar[str] = "typical time"
    method: ClassVar[str] = "typical time"

    def estimate(self, pair: Pair, rule: Rule) -> Estimate:
        """Geometric mean of successes."""
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
        """`p95`."""
        # Rows of old verdicts do not contain the quantile.
        short = f"p{format_number(self.quantile * 100)}" if self.quantile else chosen
        return short if chosen in {f"latency_{short}", short} else chosen

    @property
    def k6_name(self) -> str:
        """`med`, `p(95)`."""
        return "med" if self.quantile == 0.5 else f"p({self.quantile * 100:.6g})" if self.quantile else ""

    def check(self, pair: Pair) -> str | None:
        """Why the pair cannot be compared, or `None`."""
        why = check_enough(pair, successes=True, both=False)
        smaller = min(pair.requests(0), pair.requests(1))
        if why or smaller * self.tail >= MIN_BEYOND:
            return why
        return f"only {smaller} requests in the smaller arm, at least {self.least} are needed for this quantile"

    def compare(self, pair: Pair, rule: Rule) -> Comparison:
        """Answer its rule."""
        return self.compare_all(pair, ((self, rule),))[0]

    @classmethod
    def compare_all(cls, pair: Pair, rules: Sequence[tuple[Self, Rule]]) -> tuple[Comparison, ...]:
        """Answer several rules at once."""
        missing = [metric.check(pair) for metric, _ in rules]
        questions = [
            QuantileQuestion(metric.quantile, rule.margin, rule.direction, rule.limit)
            for (metric, rule), why in zip(rules, missing, strict=True)
            if not why
        ]
        answered: tuple[QuantileEstimate, ...] = ()
        if questions:
            sd_instance, depth = pair.prior.sd_latency, pair.depth
            answered = compare_quantiles(
                pair.panel, pair.design, questions, alpha=pair.alpha, sd_instance=sd_instance, depth=depth
            )
        estimates = iter(answered)
        return tuple(
            pair.no_data(rule, why) if why else _answer(pair, rule, next(estimates))
            for (_, rule), why in zip(rules, missing, strict=True)
        )

    def of_units(self, units: UnitTotals) -> FloatArray:
        """Quantile of all requests."""
        return units.quantiles(self.quantile)


def _answer(pair: Pair, rule: Rule, result: QuantileEstimate) -> Comparison:
    if result.estimate is None:
        zero = "on baseline this quantile is 0 ms, so there is no ratio; record times in finer steps"
        failing = "on baseline so many requests fail that this quantile is a failed request"
        return pair.no_data(rule, zero if result.problem == "zero" else failing)
    return answer(pair, rule, result.estimate, method=f"quantile test, {pair.design.kind}")
