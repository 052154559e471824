"""Full release: all traffic moves at once, and is then watched; nothing else can be known before."""

from __future__ import annotations

from collections.abc import Sequence

from evaluator.policy.rollout import RolloutSection
from evaluator.records.rollouts import Step
from evaluator.rollout.strategies.stages import list_last, list_with_traffic, list_without_traffic


def list_steps(section: RolloutSection, groups: Sequence[Sequence[str]]) -> tuple[Step, ...]:
    """List the steps: stages without traffic, then all traffic of all services at once."""
    services = [service for group in groups for service in group]
    return (*list_without_traffic(section, services), *list_with_traffic(section, services), *list_last(section))
