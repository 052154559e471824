"""Share of requests that failed."""

from __future__ import annotations

from evaluator.metrics.base import Pair, answer, check_enough, no_data
from evaluator.records import Comparison, Rule
from evaluator.stats.failures import compare_failures

__all__ = ["compare_failure_rate"]


def compare_failure_rate(pair: Pair, rule: Rule) -> Comparison:
    """Failures per request, as a fraction of 1."""
    why = check_enough(pair, successes=False)
    if why:
        return no_data(pair, rule, "fraction", why)
    estimate = compare_failures(
        pair.panel,
        pair.design,
        alpha=pair.alpha,
        margin=rule.margin,
        sd_instance=pair.prior.sd_failures,
        limit=rule.limit,
        depth=pair.depth,
    )
    counts = pair.requests(0), pair.requests(1)
    return answer(pair, rule, estimate, unit="fraction", method=f"score test, {pair.design.kind}", n=counts)
