"""Fixtures of the guard's tests."""

from __future__ import annotations

import pytest
from guard_world import world


@pytest.fixture
def running(tmp_path):
    """HAProxy with a baseline and a canary, and a guard that runs."""
    with world(tmp_path) as made:
        made.start()
        yield made
