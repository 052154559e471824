"""Blocks of users: the arms are equal at every moment, on every worker, for every class and instance."""

from __future__ import annotations

from collections import Counter
from itertools import cycle, islice
from math import lcm

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator.sources.arms import interleave


def make_lanes(classes: str, arms: int, instances: int) -> dict[str, tuple[tuple[str, ...], ...]]:
    return {c: tuple(tuple(f"{c}:{a}:{i}" for i in range(instances)) for a in range(arms)) for c in classes}


def arm_of(name: str) -> str:
    return name.split(":")[1]


@given(arms=st.integers(2, 4), instances=st.integers(1, 3), workers=st.integers(1, 6), blocks=st.integers(1, 60))
def test_arms_are_equal_after_every_block(arms: int, instances: int, workers: int, blocks: int) -> None:
    spawned = interleave(cycle("AAB"), make_lanes("AB", arms, instances), workers)
    users = list(islice(spawned, arms * blocks))
    for block in range(blocks):
        counts = Counter(arm_of(name) for name in users[: arms * (block + 1)] if name)
        assert set(counts.values()) == {block + 1}


@given(arms=st.integers(2, 4), workers=st.integers(1, 6))
def test_every_worker_gets_every_arm(arms: int, workers: int) -> None:
    users = list(islice(interleave(cycle("A"), make_lanes("A", arms, 1), workers), arms * lcm(arms, workers)))
    pairs = Counter((arm_of(name), k % workers) for k, name in enumerate(users) if name)
    assert len(set(pairs.values())) == 1
    assert len(pairs) == arms * workers


def test_instances_get_the_same_mix_of_classes() -> None:
    users = islice(interleave(cycle("AB"), make_lanes("AB", 2, 2), 1), 80)
    assert set(Counter(users).values()) == {10}


@pytest.mark.parametrize("workers", [pytest.param(0, id="none-yet"), pytest.param(3, id="three")])
def test_no_class_left_is_passed_on(workers: int) -> None:
    assert list(islice(interleave(iter([None, "A"]), make_lanes("A", 2, 1), workers), 3)) == [None, "A:0:0", "A:1:0"]
