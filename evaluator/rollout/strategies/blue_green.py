"""Blue-green: the new version is judged without users, before one switch moves all traffic to it."""

from __future__ import annotations

from collections.abc import Sequence

from evaluator.policy.rollout import RolloutSection
from evaluator.records.rollouts import Step
from evaluator.rollout.strategies.stages import list_by_group


def list_steps(section: RolloutSection, groups: Sequence[Sequence[str]]) -> tuple[Step, ...]:
    """List the steps: the new version is judged without users, then each group of services is switched and watched."""
    return list_by_group(section, groups)
