"""Strategies: each is a pure function from the policy's section `rollout` to the steps of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from evaluator.policy.rollout import RolloutSection
from evaluator.records.rollouts import Step
from evaluator.rollout.strategies.ab_test import list_steps as list_ab_test
from evaluator.rollout.strategies.big_bang import list_steps as list_big_bang
from evaluator.rollout.strategies.blue_green import list_steps as list_blue_green
from evaluator.rollout.strategies.canary import list_steps as list_canary
from evaluator.rollout.strategies.rolling import list_steps as list_rolling

STRATEGIES: Mapping[str, Callable[[RolloutSection, Sequence[Sequence[str]]], tuple[Step, ...]]] = {
    "canary": list_canary,
    "blue_green": list_blue_green,
    "rolling": list_rolling,
    "ab_test": list_ab_test,
    "big_bang": list_big_bang,
}
"""Name in the policy → function of the section and the groups of services, which go one after the other."""
