"""Canary: each stage gives the candidate a larger share of the traffic, one group of services after the other."""

from __future__ import annotations

from collections.abc import Sequence

from evaluator.policy.rollout import RolloutSection
from evaluator.records.rollouts import Step
from evaluator.rollout.strategies.stages import list_by_group


def list_steps(section: RolloutSection, groups: Sequence[Sequence[str]]) -> tuple[Step, ...]:
    """List the steps: stages without users, then the rising shares of each group of services."""
    return list_by_group(section, groups)
