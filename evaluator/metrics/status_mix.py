"""Shares of redirects and client errors: a new version that answers otherwise is changed, though nothing fails.

A canary that sends everybody to the login page, or that does not know a route, answers fast and without a failure. And
fewer redirects or client errors may be a route that now answers 200 with nothing: a shift is harm in both directions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from evaluator.metrics.base import MIN_REQUESTS, Pair, RequestMetric, answer, find_shortage
from evaluator.records import Comparison, Direction, Role, Rule
from evaluator.stats.estimators.shares import compare_shares
from evaluator.stats.shaping.panel import Panel


class StatusShare(RequestMetric):
    """Share of requests with one class of HTTP status, of those that did not fail and whose status is known."""

    amounts: ClassVar[Literal["share"]] = "share"
    value_unit: ClassVar[str] = "fraction"
    both_directions: ClassVar[bool] = True

    def applies(self, pair: Pair | None, rule: Rule) -> bool:
        """Is it compared? A gate or a limit always; else only if an arm has a request with such a status.

        Files without statuses, and loads that have none of these, have nothing to hold a GO for.
        """
        is_required = rule.role is Role.GATE or rule.limit.count > 0
        return is_required or (pair is not None and self._is_seen(pair.panel))

    def _is_seen(self, panel: Panel) -> bool:
        """Does an arm have a request with such a status?"""
        return bool(panel.totals[self.counted_status].any()) if self.counted_status in panel.totals else False

    def compare(self, pair: Pair, rule: Rule) -> Comparison:
        """Answer the metric's rule; `direction` of the answer's rule is that of the change, which is harm."""
        panel = pair.panel
        known = [0, 0]  # requests with a known status, of baseline and candidate
        if "statuses" in panel.totals:
            known = [int(panel.totals["statuses"][arm].sum()) for arm in (0, 1)]
        why = find_shortage(pair, successes=False)
        fewest = 0 if known[0] < known[1] else 1  # the arm with the fewest known statuses
        if why is None and not known[fewest]:
            why = f"the HTTP statuses of {pair.name(fewest)} were not recorded"
        elif why is None and known[fewest] < MIN_REQUESTS:
            why = f"the HTTP status of only {known[fewest]} successes on {pair.name(fewest)} is known, at least "
            why += f"{MIN_REQUESTS} are needed"
        if why:
            return pair.no_data(rule, why)
        change = compare_shares(
            panel,
            pair.design,
            self.counted_status,
            alpha=pair.alpha,
            margin=rule.margin,
            limit=rule.limit,
            depth=pair.depth,
        )
        direction = Direction.HIGHER if change.fell else Direction.LOWER
        method = f"score test, either way, {pair.design.kind}"
        return answer(pair, replace(rule, direction=direction), change.estimate, method=method, n=(known[0], known[1]))


class RedirectRate(StatusShare):
    """Requests that were redirected (status 300 to 399), as a fraction of 1."""

    type: ClassVar[str] = "redirect_rate"
    short: ClassVar[str] = "redirects"
    counted_status: ClassVar[str] = "redirects"


class ClientErrorRate(StatusShare):
    """Requests with a status of 400 to 499 that are no failures, as a fraction of 1."""

    type: ClassVar[str] = "client_error_rate"
    short: ClassVar[str] = "client errors"
    counted_status: ClassVar[str] = "client_errors"
