"""Response times of requests: the mean of successes, and quantiles of time to success."""

from __future__ import annotations

from evaluator.metrics.base import Pair, answer, check_enough, no_data
from evaluator.records import Comparison, Rule
from evaluator.stats.means import compare_means
from evaluator.stats.quantiles import compare_quantile

__all__ = ["compare_latency_mean", "compare_latency_quantile"]

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
    probability = rule.quantile if rule.quantile is not None else 0.5
    counts = pair.requests(0), pair.requests(1)
    why = check_enough(pair, successes=True, both=False) or _too_few_beyond(counts, probability)
    if why:
        return no_data(pair, rule, "ms", why)
    found = compare_quantile(
        pair.panel,
        pair.design,
        probability,
        alpha=pair.alpha,
        margin=rule.margin,
        sd_instance=pair.prior.sd_latency,
        direction=rule.direction,
        limit=rule.limit,
        depth=pair.depth,
    )
    if found.estimate is None:
        coarse = f"times are recorded in steps of {pair.panel.grid_ms:g} ms, too coarse to show this margin"
        failing = "on baseline so many requests fail that this quantile is a failure"
        return no_data(pair, rule, "ms", coarse if found.problem == "coarse" else failing)
    return answer(pair, rule, found.estimate, unit="ms", method=f"quantile test, {pair.design.kind}", n=counts)


def _too_few_beyond(counts: tuple[int, int], probability: float) -> str | None:
    smaller = min(counts)
    if smaller * min(1 - probability, probability) >= MIN_BEYOND:
        return None
    needed = round(MIN_BEYOND / min(1 - probability, probability))
    return f"only {smaller} requests in the smaller arm, at least {needed} are needed for this quantile"
