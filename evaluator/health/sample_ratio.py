"""Did every arm get the configured share of users?

The check counts assigned users, never requests: in closed loop a slow arm answers fewer requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from evaluator.health.base import RequestContext, fail, ok, warn
from evaluator.records import Finding
from evaluator.stats.inference.assignment import log_wealth_of_ratio

ALPHA = 0.001
NAME = "sample_ratio"


def check_sample_ratio(context: RequestContext) -> Iterable[Finding]:
    """Assigned users against the configured shares (equal unless the policy sets others).

    Each run is a phase of a test that is valid at any time, as runs are judged while more of them are recorded.
    """
    assigned: dict[str, int] = {}  # runs of one group have the same users, so the largest count is taken
    for run in context.runs:
        for arm, users in run.facts.users.items():
            assigned[arm] = max(assigned.get(arm, 0), users)
    if not assigned:
        yield warn(NAME, "not checked: the data do not record how users were assigned to arms")
        return
    arms = context.cells.arms
    shares = context.rulebook.sample_ratio or dict.fromkeys(arms, 1.0)
    if missing := [arm for arm in arms if arm not in shares]:
        yield fail(NAME, f"the policy's sample_ratio names no share for {', '.join(missing)}")
        return
    weights = [shares[arm] for arm in arms]
    phases = [[run.facts.users.get(arm, 0) for arm in arms] for run in context.runs if run.facts.users]
    wealth = sum(log_wealth_of_ratio(counts, weights) for counts in phases)
    text = ", ".join(f"{arm} {assigned.get(arm, 0)}" for arm in arms)
    if wealth > -math.log(ALPHA):
        total = sum(assigned.get(arm, 0) for arm in arms) / sum(weights)
        expected = ", ".join(f"{arm} {total * share:.0f}" for arm, share in zip(arms, weights, strict=True))
        level = f"p < {math.exp(max(-wealth, -700)):.1g}"
        yield fail(NAME, f"users assigned: {text}; expected: {expected} ({level})")
    else:
        yield ok(NAME, f"users assigned: {text}")
