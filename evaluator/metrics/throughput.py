"""Requests per second that an arm answered, failed or not; compared per user where users were recorded.

Under closed-loop load this falls when responses get slower, so it says little by itself; it is watched.
"""

from __future__ import annotations

import numpy as np

from evaluator.metrics.base import Pair, answer, check_enough, is_higher_better, no_data
from evaluator.records import Comparison, Rule
from evaluator.stats.rates import compare_rates

__all__ = ["compare_throughput"]


def compare_throughput(pair: Pair, rule: Rule) -> Comparison:
    """Requests per second, compared as a ratio."""
    why = check_enough(pair, successes=False)
    if why:
        return no_data(pair, rule, "/s", why)
    panel = pair.panel
    estimate = compare_rates(
        panel.n.sum(axis=1),
        panel,
        exposure=pair.users or (1.0, 1.0),
        alpha=pair.alpha,
        margin=rule.margin,
        limit=rule.limit,
        sign=-1.0 if is_higher_better(rule) else 1.0,
    )
    counts = (int(np.sum(panel.n[0])), int(np.sum(panel.n[1])))
    return answer(pair, rule, estimate, unit="/s", method="paired rate", n=counts)
