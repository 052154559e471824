"""Did every arm get the configured share of users?

The check counts assigned users, never requests: in closed loop a slow arm answers fewer requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from evaluator.health.base import RequestContext, fail, ok, warn
from evaluator.health.router_shares import check_router_shares
from evaluator.records import Finding
from evaluator.stats.inference.assignment import log_wealth_of_ratio

ALPHA = 0.001
"""Probability, at most, of a finding although users were assigned in the configured shares."""
NAME = "sample_ratio"


def check_sample_ratio(context: RequestContext) -> Iterable[Finding]:
    """Compare assigned users with the configured shares (equal unless the policy sets others).

    Every run starts and assigns its users itself, so each run is new evidence. It is measured as a wealth: what a bet
    of 1 against the shares becomes. If the shares are right, the product of the wealths of all runs exceeds 1 / ALPHA
    with probability of at most ALPHA, however many runs are still to come.

    If a router chose the arm of each request, no users were assigned: requests are compared with the router's shares.
    """
    if context.traffic_is_routed:
        yield from check_router_shares(context)
        return
    # Only for the text: the most users that an arm had in any run. Their sum over runs would be more than ran at once.
    most_users: dict[str, int] = {}
    for run in context.runs:
        for arm, users in run.facts.users.items():
            most_users[arm] = max(most_users.get(arm, 0), users)
    if not most_users:
        yield warn(NAME, "not checked: the data do not record how users were assigned to arms")
        return
    arms = context.cells.arms
    shares = context.rulebook.sample_ratio or dict.fromkeys(arms, 1.0)
    if missing := [arm for arm in arms if arm not in shares]:
        yield fail(NAME, f"the policy's sample_ratio names no share for {', '.join(missing)}")
        return
    weights = [shares[arm] for arm in arms]
    users_by_run = [[run.facts.users.get(arm, 0) for arm in arms] for run in context.runs if run.facts.users]
    # The log of the product of the runs' wealths.
    log_wealth = sum(log_wealth_of_ratio(users, weights) for users in users_by_run)
    text = ", ".join(f"{arm} {most_users.get(arm, 0)}" for arm in arms)
    if log_wealth > -math.log(ALPHA):
        users_per_weight = sum(most_users.get(arm, 0) for arm in arms) / sum(weights)
        expected = ", ".join(
            f"{arm} {users_per_weight * weight:.0f}" for arm, weight in zip(arms, weights, strict=True)
        )
        p_value = math.exp(max(-log_wealth, -700))  # the limit prevents a result of 0
        yield fail(NAME, f"users assigned: {text}; expected: {expected} (p < {p_value:.1g})")
    else:
        yield ok(NAME, f"users assigned: {text}")
