"""Which releases wait for a person, and what for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from evaluator.intents import conditions
from evaluator.intents.conditions import Waiting
from evaluator.records import Release, ReleaseSummary, Service
from evaluator.records.intents import Action, Intent, IntentState
from evaluator.wording import write_command

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
find_waiting = partial(conditions.find_waiting, command=write_command)


def summary(release="cart@2", verdict="go", *, judged=0, last=-10, rows=100, services=("cart",)):
    """A release that was judged, and last loaded, so many minutes from now."""
    return ReleaseSummary(
        Release(release, tuple(Service(name) for name in services)),
        rows=rows,
        last_run=None if last is None else NOW + timedelta(minutes=last),
        verdict=verdict,
        judged_at=NOW + timedelta(minutes=judged) if verdict else None,
    )


def intent(state=IntentState.ACKNOWLEDGED, *, requested_min=1, release="cart@2"):
    at = NOW + timedelta(minutes=requested_min)
    return Intent("i1", "k", release, Action.PROMOTE, "ann", "", "", "", "", at, at, state=state)


@pytest.mark.parametrize(
    ("changes", "waiting"),
    [
        ({}, ("is safe to promote", "", True)),
        ({"verdict": "no_go"}, ("must not be promoted: see what became worse", "", False)),
        (
            {"verdict": "inconclusive"},
            ("is not decided: see what is missing", "evaluator verdict cart@2", False),
        ),
        ({"verdict": None}, ("has data and was not judged yet", "evaluator verdict cart@2", False)),
        ({"last": 1}, ("has newer data than its verdict", "evaluator verdict cart@2", False)),
        ({"last": 0}, ("is safe to promote", "", True)),
        ({"last": None}, ("is safe to promote", "", True)),
        ({"rows": 0}, ("is safe to promote", "", True)),
    ],
)
def test_what_a_release_waits_for(changes, waiting):
    assert find_waiting([summary(**changes)], []) == (Waiting("cart@2", *waiting),)


def test_a_release_without_data_and_verdict_does_not_wait():
    assert find_waiting([summary(verdict=None, rows=0)], []) == ()
    assert find_waiting([], [intent()]) == ()


@pytest.mark.parametrize(
    ("acted", "settled"),
    [
        (intent(), True),
        (intent(requested_min=0), True),
        (intent(requested_min=-1), False),
        (intent(IntentState.FAILED), False),
        (intent(IntentState.APPROVED), False),
        (intent(release="cart@1"), False),
    ],
)
def test_who_acted_since_the_verdict_settled_it(acted, settled):
    waiting = find_waiting([summary(), summary("shop@1", services=("shop",))], [acted])
    assert [entry.release for entry in waiting] == (["shop@1"] if settled else ["cart@2", "shop@1"])


def test_only_the_newest_release_of_a_service_waits():
    """Summaries are the newest first; a release of several services is not one of either."""
    waiting = find_waiting([summary("cart@3"), summary("cart@2"), summary("shop@1", services=("cart", "shop"))], [])
    assert [entry.release for entry in waiting] == ["cart@3", "shop@1"]
    nameless = find_waiting([summary("a", services=()), summary("b", services=()), summary("a", services=())], [])
    assert [entry.release for entry in nameless] == ["a", "b"]


def test_only_a_go_is_promotable_unless_it_is_said():
    assert not Waiting("cart@2", "").promotable


def test_a_command_quotes_the_name():
    (waiting,) = find_waiting([summary("my cart", None)], [])
    assert waiting.command == "evaluator verdict 'my cart'"
