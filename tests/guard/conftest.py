"""Fixtures of the guard's tests."""

from __future__ import annotations

import itertools

import pytest
from guard_world import world

KEYS = itertools.count(1)


@pytest.fixture
def running(tmp_path):
    """HAProxy with a baseline and a canary, and a guard that runs."""
    with world(tmp_path) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory):
    """One for all tests of a module: starting it takes longer than most of them."""
    with world(tmp_path_factory.mktemp("world")) as made:
        made.start()
        yield made


@pytest.fixture
def shared(shared_world):
    """The same as `running`, for tests that kill nothing."""
    shared_world.key = f"k{next(KEYS)}"
    yield shared_world
    shared_world.end_rollout()
