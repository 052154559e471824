"""Requests per second of an arm, failed or not; compared per user if users were recorded.

In closed-loop load it falls when responses get slower, so it shows little by itself and is only watched by default.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from evaluator.metrics.base import Pair, RequestMetric, answer, check_enough
from evaluator.records import Comparison, Direction, Rule
from evaluator.stats.estimators.rates import compare_rates


class Throughput(RequestMetric):
    """Requests per second, compared as a ratio."""

    type: ClassVar[str] = "throughput"
    k6_name: ClassVar[str] = "rate"
    amounts: ClassVar[Literal["/s"]] = "/s"
    value_unit: ClassVar[str] = "/s"
    counts_traffic: ClassVar[bool] = True
    direction: ClassVar[Direction] = Direction.HIGHER

    def compare(self, pair: Pair, rule: Rule) -> Comparison:
        """Answer the metric's rule: compare requests per second, and per user if users were recorded."""
        why = check_enough(pair, successes=False)
        if why:
            return pair.no_data(rule, why)
        estimate = compare_rates(
            pair.panel.n.sum(axis=1),  # requests of all endpoints, shape (2, slots)
            pair.panel,
            exposure=pair.users or (1.0, 1.0),  # mean users of each arm
            alpha=pair.alpha,
            margin=rule.margin,
            limit=rule.limit,
            sign=-1.0 if rule.direction is Direction.HIGHER else 1.0,  # the sign of a harmful change
        )
        return answer(pair, rule, estimate, method="paired rate")
