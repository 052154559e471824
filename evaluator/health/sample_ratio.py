"""Did every arm get the share of users that it was meant to get?

Asked of what was assigned, never of what was answered: a slow arm answers fewer requests in closed loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from evaluator.health.base import Scene, ok, warn
from evaluator.records import Finding, Level

__all__ = ["check_sample_ratio"]

ALPHA = 0.001
NAME = "sample_ratio"


def check_sample_ratio(scene: Scene) -> Iterable[Finding]:
    """χ² of assigned users against the configured shares (equal unless the policy says otherwise)."""
    assigned = _assigned(scene)
    if not assigned:
        yield warn(NAME, "not checked: nothing recorded how users were assigned to arms")
        return
    shares = scene.rulebook.sample_ratio or dict.fromkeys(scene.cells.arms, 1.0)
    arms = [arm for arm in scene.cells.arms if arm in shares]
    users = np.array([assigned.get(arm, 0) for arm in arms], dtype=float)
    expected = np.array([shares[arm] for arm in arms], dtype=float)
    expected *= users.sum() / expected.sum()
    p_value = _p_value(users, expected)
    text = ", ".join(f"{arm} {assigned.get(arm, 0)}" for arm in arms)
    if p_value < ALPHA:
        wanted = ", ".join(f"{arm} {count:.0f}" for arm, count in zip(arms, expected, strict=True))
        yield Finding(NAME, Level.FAIL, f"users assigned: {text}; expected: {wanted} (p = {p_value:.1g})")
    else:
        yield ok(NAME, f"users assigned: {text}")


def _assigned(scene: Scene) -> Mapping[str, int]:
    """Users per arm, over all runs; runs of one group have the same, so the largest is taken."""
    out: dict[str, int] = {}
    for run in scene.runs:
        for arm, users in run.facts.users.items():
            out[arm] = max(out.get(arm, 0), users)
    return out


def _p_value(users: np.ndarray, expected: np.ndarray) -> float:
    from scipy.special import chdtrc

    if users.sum() == 0:
        return 0.0
    statistic = float(((users - expected) ** 2 / expected).sum())
    return float(chdtrc(users.size - 1, statistic))
