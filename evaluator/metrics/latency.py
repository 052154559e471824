"""Response times of requests: the mean of successes, and quantiles of time to success."""

from __future__ import annotations

from collections.abc import Sequence

from evaluator.metrics.base import Pair, answer, check_enough, no_data
from evaluator.records import Comparison, Rule
from evaluator.stats.means import compare_means
from evaluator.stats.quantiles import QuantileEstimate, QuantileQuestion, compare_quantiles

__all__ = ["compare_latency_mean", "compare_latency_quantile", "compare_latency_quantiles"]

MIN_BEYOND = 5


def compare_latency_mean(pair: Pair, rule: Rule) -> Comparison:
    """Mean response time of successes, in ms."""
    why = check_enough(pair, successes=True)
    if why:
        return no_data(pair, rule, "ms", why)
    estimate = compare_means(
        pair.panel,
        pair.design,
        alpha=pair.alpha,
        margin=rule.margin,
        sd_instance=pair.prior.sd_latency,
        direction=rule.direction,
        limit=rule.limit,
        depth=pair.depth,
    )
    counts = pair.successes(0), pair.successes(1)
    return answer(pair, rule, estimate, unit="ms", method=f"paired mean, {pair.design.kind}", n=counts)


def compare_latency_quantile(pair: Pair, rule: Rule) -> Comparison:
    """A quantile of time to success, in ms; failures count as infinitely slow."""
    return compare_latency_quantiles(pair, (rule,))[0]


def compare_latency_quantiles(pair: Pair, rules: Sequence[Rule]) -> tuple[Comparison, ...]:
    """The same for several rules, in one go."""
    counts = pair.requests(0), pair.requests(1)
    why = check_enough(pair, successes=True, both=False)
    missing = [why or _too_few_beyond(counts, _probability(rule)) for rule in rules]
    asked = [rule for rule, lack in zip(rules, missing, strict=True) if not lack]
    found = iter(_compare_quantiles(pair, asked))
    return tuple(
        no_data(pair, rule, "ms", lack) if lack else _answer(pair, rule, next(found), counts)
        for rule, lack in zip(rules, missing, strict=True)
    )


def _compare_quantiles(pair: Pair, rules: Sequence[Rule]) -> tuple[QuantileEstimate, ...]:
    questions = [QuantileQuestion(_probability(rule), rule.margin, rule.direction, rule.limit) for rule in rules]
    if not questions:
        return ()
    return compare_quantiles(
        pair.panel, pair.design, questions, alpha=pair.alpha, sd_instance=pair.prior.sd_latency, depth=pair.depth
    )


def _answer(pair: Pair, rule: Rule, found: QuantileEstimate, counts: tuple[int, int]) -> Comparison:
    if found.estimate is None:
        zero = "on baseline this quantile is 0 ms, so there is no ratio and no step that would tell it from more"
        failing = "on baseline so many requests fail that this quantile is a failure"
        return no_data(pair, rule, "ms", zero if found.problem == "zero" else failing)
    return answer(pair, rule, found.estimate, unit="ms", method=f"quantile test, {pair.design.kind}", n=counts)


def _probability(rule: Rule) -> float:
    return rule.quantile if rule.quantile is not None else 0.5


def _too_few_beyond(counts: tuple[int, int], probability: float) -> str | None:
    smaller = min(counts)
    if smaller * min(1 - probability, probability) >= MIN_BEYOND:
        return None
    needed = round(MIN_BEYOND / min(1 - probability, probability))
    return f"only {smaller} requests in the smaller arm, at least {needed} are needed for this quantile"
