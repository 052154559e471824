"""The guard as a driver uses it: no guard is left behind that would return traffic after a rollout."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluator.errors import HookError, NotReached
from evaluator.guard.setup import NOT_KNOWN, GuardedService, GuardSetup
from evaluator.records.rollouts import GuardLimits
from evaluator.rollout import guarding

SETUP = GuardSetup("r1", "cart@1.5.0", (GuardedService("cart", "haproxy", {}),), GuardLimits())


class Client:
    """A guard that answers `close` with these errors, then as it should."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.closed = list(errors), 0

    def close(self, rollout: str) -> None:
        self.closed += 1
        if self.errors:
            raise self.errors.pop(0)


def make_traffic(monkeypatch, client, started, setup=SETUP) -> guarding.GuardedTraffic:
    def connect(store, *, start, say):
        assert start
        return started

    monkeypatch.setattr(guarding, "GuardClient", lambda store: client)
    monkeypatch.setattr(guarding, "connect", connect)
    return guarding.GuardedTraffic(Path("evaluator.duckdb"), setup, lambda text: None)


def test_a_guard_that_was_killed_is_started_to_end_its_watch_and_only_once(monkeypatch):
    started = Client()
    traffic = make_traffic(monkeypatch, Client(NotReached("no guard answers")), started)
    traffic.close()
    traffic.close()
    assert started.closed == 1


def test_a_watch_that_was_closed_before_is_closed_and_one_that_goes_on_is_not(monkeypatch):
    make_traffic(monkeypatch, Client(HookError(f"{NOT_KNOWN} r1")), Client()).close()
    traffic = make_traffic(monkeypatch, Client(HookError("users of cart still meet both versions")), Client())
    with pytest.raises(HookError, match="still meet both"):
        traffic.close()
    traffic.close()


def test_a_rollout_without_users_starts_no_guard(monkeypatch):
    traffic = make_traffic(monkeypatch, Client(), Client(), GuardSetup("r1", "cart@1.5.0", (), GuardLimits()))
    traffic.close()
