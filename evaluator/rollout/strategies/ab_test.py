"""A/B test: users are split and keep their arm; at the planned end the arm that won gets all of them, or none does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evaluator.policy.rollout import RolloutSection
from evaluator.records.rollouts import Act, Step
from evaluator.rollout.strategies.stages import list_last, list_with_traffic, list_without_traffic


def list_steps(section: RolloutSection, groups: Sequence[Sequence[str]]) -> tuple[Step, ...]:
    """List the steps: stages without users, then those that split them, then all users to the arm that won."""
    services = [service for group in groups for service in group]
    steps = [*list_without_traffic(section, services), *list_with_traffic(section, services), *list_last(section)]
    return tuple(_give_to_winner(step) if isinstance(step, Act) and step.share == 1 else step for step in steps)


def _give_to_winner(act: Act) -> Act:
    """Make the act that gives all users to one candidate one that gives them to the arm that won."""
    return replace(act, name=f"{', '.join(act.services)} to the arm that won", to_winner=True)
