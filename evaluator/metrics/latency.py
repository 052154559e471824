"""Response times of requests: the mean and the geometric mean of successes, and quantiles of time to success."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, Self

from evaluator.metrics.base import (
    MIN_REQUESTS,
    EndpointMetric,
    Pair,
    RequestMetric,
    UnitTotals,
    answer,
    explain_few,
    find_equal_times,
    find_shortage,
)
from evaluator.metrics.options import MIN_BEYOND, QuantileMetric
from evaluator.records import Comparison, Rule
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.estimate import Estimate
from evaluator.stats.estimators.order_statistics import RunTimes, compare_run_times, count_needed, take_run_times
from evaluator.stats.estimators.quantile_pairs import QuantileEstimate, QuantileQuestion
from evaluator.stats.estimators.quantiles import compare_quantiles
from evaluator.stats.estimators.typical import compare_typical_times
from evaluator.stats.shaping.groups import all_together
from evaluator.stats.variance.longrun import MIN_BUCKETS
from evaluator.wording import format_number

MEDIAN = 0.5


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

    def check(self, pair: Pair) -> str | None:
        """Why the pair cannot be compared, or `None`. Few repeated runs decide a median, but no mean."""
        why = super().check(pair)
        if why and pair.design.kind == "replicates" and min(pair.requests(0), pair.requests(1)) < MIN_REQUESTS:
            return f"{why} (a median is decided from {count_needed(MEDIAN, pair.alpha)} runs on)"
        return why

    def estimate(self, pair: Pair, rule: Rule) -> Estimate:
        """Compare the mean response times of successes, of all endpoints or of each of the pair's groups."""
        return pair.compare_means(rule)

    def of_units(self, units: UnitTotals) -> FloatArray:
        """Mean response time of successes of each instance or run (ms), shape (units,)."""
        return units.sum_ms / (units.n - units.failures)


class TypicalTime(LatencyMetric, EndpointMetric):
    """Geometric mean of the response times of successes, in ms; used by the endpoint scan."""

    type: ClassVar[str] = "latency_typical"
    short: ClassVar[str] = "geometric mean"
    is_geometric_mean: ClassVar[bool] = True
    method: ClassVar[str] = "geometric mean"

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

    def find_few(self, pair: Pair) -> str | None:
        """Say what there are too few of for the usual test, by the share of requests done; `None`: there are enough.

        With too few, the times of repeated runs may still decide (`take_run_times`).
        """
        # The candidate needs no successes: its failures count as infinitely slow.
        why = find_shortage(pair, successes=True, on_both_arms=False)
        # Expected number of requests that are slower than the quantile.
        expected_beyond = min(pair.requests(0), pair.requests(1)) * self.tail
        if expected_beyond >= MIN_BEYOND or pair.panel.slots < MIN_BUCKETS:  # too short a run has a reason of its own
            return why
        # This quantile needs more requests than the general minimum, so the reason names the larger number.
        return explain_few(pair, max(self.least, MIN_REQUESTS), " for this quantile")

    def take_run_times(self, pair: Pair) -> RunTimes | str | None:
        """Take one time of each run, to compare few runs exactly; or say how many runs would be enough for that.

        Only repeated runs show how much runs differ. The median of a run with several requests stands for the run; for
        other quantiles each run needs to have a single request. `None` if this is no way to a result: there are many
        requests, but few beyond the quantile, or the only run is too short.
        """
        enough_runs, has_runs = count_needed(self.quantile, pair.alpha), pair.design.kind == "replicates"
        times = take_run_times(pair.panel) if has_runs else None
        is_lone = times is not None and times.lone
        is_short = pair.panel.slots < MIN_BUCKETS
        few_requests = min(pair.requests(0), pair.requests(1)) < MIN_REQUESTS
        if (is_short and not has_runs) or not (is_lone or few_requests or is_short):
            return None
        if times is None or not (is_lone or self.quantile == MEDIAN):
            return f"{enough_runs} repeated runs with one request each on one endpoint are enough"
        if times.runs < enough_runs:
            return f"{enough_runs} runs with requests of both arms are enough; there are {times.runs}"
        return times

    def compare(self, pair: Pair, rule: Rule) -> Comparison:
        """Answer the metric's rule; without enough data, by a comparison without data."""
        return self.compare_all(pair, ((self, rule),))[0]

    @classmethod
    def compare_all(cls, pair: Pair, rules: Sequence[tuple[Self, Rule]]) -> tuple[Comparison, ...]:
        """Answer several rules of quantiles at once, as their estimates share work; in the order of the rules."""
        equal_times = find_equal_times(pair)
        too_few = [metric.find_few(pair) for metric, _ in rules]  # of each rule; `None`: there are enough requests
        usual = [] if equal_times else [pair_of for pair_of, few in zip(rules, too_few, strict=True) if not few]
        estimates: Iterator[QuantileEstimate] = iter(())  # of the rules that are tested by shares, in their order
        if usual:
            questions = [metric.ask(rule) for metric, rule in usual]
            sd_instance, depth = pair.prior.sd_latency, pair.depth
            estimates = iter(
                compare_quantiles(
                    pair.panel, pair.design, questions, alpha=pair.alpha, sd_instance=sd_instance, depth=depth
                )
            )
        answers = []
        for (metric, rule), few in zip(rules, too_few, strict=True):
            if few:
                answers.append(metric.compare_few(pair, rule, few))
            elif equal_times:
                answers.append(pair.no_data(rule, equal_times))
            else:
                answers.append(_answer(pair, rule, next(estimates), method="quantile test"))
        return tuple(answers)

    def ask(self, rule: Rule) -> QuantileQuestion:
        """Make the question of a rule on this quantile."""
        return QuantileQuestion(self.quantile, rule.margin, rule.direction, rule.limit)

    def compare_few(self, pair: Pair, rule: Rule, few: str) -> Comparison:
        """Answer the rule from few requests, by order statistics of repeated runs.

        Without enough runs it is a comparison without data: `few` says what there are too few of.
        """
        times = self.take_run_times(pair)
        if times is None or isinstance(times, str):
            return pair.no_data(rule, f"{few} ({times})" if times else few)
        equal_times = find_equal_times(pair)
        if equal_times:
            return pair.no_data(rule, equal_times)
        result = compare_run_times(times, self.ask(rule), pair.panel, pair.alpha)
        return _answer(pair, rule, result, method="order statistics")

    def of_units(self, units: UnitTotals) -> FloatArray:
        """Quantile of the time to success of each instance or run (ms), shape (units,)."""
        return units.quantiles(self.quantile)


def _answer(pair: Pair, rule: Rule, result: QuantileEstimate, *, method: str) -> Comparison:
    """Turn the estimate of a quantile into a comparison; if the baseline has no usable quantile, without data.

    `method`: name of the statistical method, as a verdict shows it.
    """
    if result.estimate is None and result.problem == "zero":
        return pair.no_data(
            rule, "on baseline this quantile is 0 ms, so there is no ratio; record times in finer steps"
        )
    if result.estimate is None:
        return pair.no_data(rule, "on baseline so many requests fail that this quantile is a failed request")
    return answer(pair, rule, result.estimate, method=f"{method}, {pair.design.kind}")
