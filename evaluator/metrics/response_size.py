"""How many bytes successful responses have: a page that suddenly shrinks is often an error that says 200."""

from __future__ import annotations

from evaluator.metrics.base import Pair, answer, check_enough, no_data
from evaluator.records import Comparison, Rule
from evaluator.stats.means import compare_means

__all__ = ["compare_response_size"]

SD_INSTANCE = 0.0
"""Instances of one version send the same bytes: nothing is assumed of how they differ."""


def compare_response_size(pair: Pair, rule: Rule) -> Comparison:
    """Mean size of successful responses, in bytes."""
    why = check_enough(pair, successes=True)
    if not why and not all(pair.panel.totals["bytes"][arm].sum() > 0 for arm in (0, 1)):
        why = "response sizes were not recorded"
    if why:
        return no_data(pair, rule, "bytes", why)
    estimate = compare_means(
        pair.panel,
        pair.design,
        alpha=pair.alpha,
        margin=rule.margin,
        sd_instance=SD_INSTANCE,
        direction=rule.direction,
        limit=rule.limit,
        depth=pair.depth,
        of="bytes",
    )
    counts = pair.successes(0), pair.successes(1)
    return answer(pair, rule, estimate, unit="bytes", method=f"paired mean, {pair.design.kind}", n=counts)
