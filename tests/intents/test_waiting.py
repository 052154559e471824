"""Which releases wait for a person, and what for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evaluator.errors import PolicyError
from evaluator.intents import PromotionCondition
from evaluator.intents.waiting import Waiting, WaitsFor, describe_recording, find_waiting
from evaluator.records import Evidence, Release, ReleaseSummary, Service, Verdict, VerdictWord
from evaluator.records.intents import Action, Intent, IntentState
from evaluator.records.life import Life, LifeState
from evaluator.wording import write_command

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
MET = (PromotionCondition("it is GO", met=True, otherwise=""),)
UNMET = (*MET, PromotionCondition("young", met=False, otherwise="it is too old", remedy="judge it again"))


def summary(release="cart@2", verdict="go", *, judged=0, last=-10, rows=100, services=("cart",), **fields):
    """A release that was judged, and last loaded, so many minutes from now."""
    return ReleaseSummary(
        Release(release, tuple(Service(name) for name in services)),
        rows=rows,
        last_run=None if last is None else NOW + timedelta(minutes=last),
        verdict=verdict,
        judged_at=NOW + timedelta(minutes=judged) if verdict else None,
        **fields,
    )


def life(state=LifeState.JUDGED, release="cart@2", *, is_live=False, **fields):
    return Life(release, state, fields.pop("what", str(state)), is_live=is_live, **fields)


def intent(state=IntentState.REQUESTED, *, release="cart@2", number=1, expires_min=60, action=Action.PROMOTE):
    expires = NOW + timedelta(minutes=expires_min)
    return Intent(f"i{number}", "k", release, action, "ann", "faster", "", "", "", NOW, expires, state=state)


def find(summaries, *, lives=(), intents=(), conditions=MET):
    """Find what waits; the verdicts are those of the summaries, and each release that has no life was only judged."""
    verdicts = {
        entry.release.id: Verdict(
            entry.release, VerdictWord(entry.verdict), (), f"next of {entry.verdict}", Evidence(), "native", "fixed",
            0.05, judged_at=entry.judged_at,
        )
        for entry in summaries
        if entry.verdict
    }  # fmt: skip
    known = {entry.release.id: life(release=entry.release.id) for entry in summaries}
    known |= {entry.release: entry for entry in lives}

    def check(_verdict):
        if isinstance(conditions, Exception):
            raise conditions
        return conditions

    return find_waiting(summaries, known, intents, verdicts, check, write_command, NOW)


JUDGE = "judge it: `evaluator verdict cart@2`"


@pytest.mark.parametrize(
    ("changes", "kind", "why", "next_step"),
    [
        ({}, WaitsFor.PROMOTION, "is safe to promote", ""),
        ({"verdict": "no_go"}, WaitsFor.CAUSE, "must not be promoted", "next of no_go"),
        ({"verdict": "inconclusive"}, WaitsFor.CAUSE, "is not decided", "next of inconclusive"),
        ({"verdict": None}, WaitsFor.VERDICT, "has data and was not judged yet", JUDGE),
        ({"last": 1}, WaitsFor.VERDICT, "has newer data than its verdict", JUDGE),
        ({"last": 0}, WaitsFor.PROMOTION, "is safe to promote", ""),
        ({"last": None}, WaitsFor.PROMOTION, "is safe to promote", ""),
        ({"rows": 0}, WaitsFor.PROMOTION, "is safe to promote", ""),
        ({"running": 1}, WaitsFor.RECORDING, "is being recorded", ""),
        ({"running": 1, "verdict": None, "rows": 0}, WaitsFor.RECORDING, "is being recorded", ""),
    ],
)
def test_what_a_release_waits_for(changes, kind, why, next_step):
    (row,) = find([summary(**changes)])
    assert (row.kind, row.why, row.next_step) == (kind, why, next_step)


def test_safe_to_promote_is_only_what_can_be_promoted():
    (row,) = find([summary()], conditions=UNMET)
    assert (row.why, row.next_step) == ("is GO, but cannot be promoted now: it is too old", "judge it again")
    (row,) = find(
        [summary()], conditions=PolicyError("evaluator.yaml:3: alpha: must be less than 1", hint="correct it")
    )
    assert "it is not known whether it can be promoted: evaluator.yaml:3" in row.why
    assert row.next_step == "correct it"


def test_a_release_without_data_and_verdict_does_not_wait():
    assert find([summary(verdict=None, rows=0)]) == ()
    assert find([]) == ()


@pytest.mark.parametrize(
    ("state", "fields", "why"),
    [
        (LifeState.LIVE, {"is_live": True}, None),
        (LifeState.LIVE, {"is_live": None}, None),
        (LifeState.HELD, {}, None),
        (LifeState.HELD, {"judged_since": True}, "is safe to promote"),
        (LifeState.ROLLED_BACK, {}, None),
        (LifeState.ROLLED_BACK, {"judged_since": True}, "is safe to promote"),
        (LifeState.REPLACED, {}, None),
        (LifeState.APPROVED, {}, None),
        (LifeState.EXECUTING, {"is_live": None}, None),
        (LifeState.ROLLING_OUT, {}, None),
        (LifeState.FAILED, {"is_live": None, "what": "promotion failed; requested", "why": "x"}, "promotion failed: x"),
        (LifeState.FAILED, {}, "is safe to promote"),
        (
            LifeState.UNKNOWN,
            {"is_live": None, "what": "the outcome is not known; requested"},
            "the outcome is not known: ",
        ),
    ],
)
def test_what_was_done_with_a_release_settles_it_or_not(state, fields, why):
    waiting = find([summary()], lives=[life(state, **fields)])
    assert [row.why for row in waiting] == ([] if why is None else [why])


def test_what_is_live_and_became_no_go_waits():
    (row,) = find([summary(verdict="no_go")], lives=[life(LifeState.LIVE, is_live=True)])
    assert row.kind is WaitsFor.GOING_BACK


def test_a_release_with_a_request_has_one_row_and_comes_first():
    rows = find(
        [summary("shop@1", services=("shop",)), summary()],
        lives=[life(LifeState.REQUESTED)],
        intents=[intent(), intent(release="old@1", number=2)],
    )
    assert [(row.release, row.kind) for row in rows] == [
        ("cart@2", WaitsFor.REQUEST), ("old@1", WaitsFor.REQUEST), ("shop@1", WaitsFor.PROMOTION),
    ]  # fmt: skip
    assert (rows[0].why, rows[0].by, rows[0].intent) == ("promote waits for approval: faster", "ann", "i1")


@pytest.mark.parametrize(
    ("request_", "lives", "waits"),
    [
        (intent(expires_min=-1), [], False),
        (intent(IntentState.UNKNOWN), [life(LifeState.UNKNOWN, is_live=None, intent="i1")], True),
        (intent(IntentState.UNKNOWN), [life(LifeState.ROLLED_BACK, intent="i2")], False),
        (intent(IntentState.UNKNOWN), [life(LifeState.FAILED, intent="i2", is_live=None)], True),
        (intent(IntentState.ACKNOWLEDGED), [life(LifeState.LIVE, is_live=True)], False),
    ],
)
def test_a_request_waits_until_it_is_settled(request_, lives, waits):
    rows = find([summary(verdict=None, rows=0)], lives=lives, intents=[request_])
    assert [row.intent for row in rows if row.kind is WaitsFor.REQUEST] == (["i1"] if waits else [])


def test_only_the_newest_release_of_a_service_waits():
    """Summaries are the newest first; a release of several services is not one of either."""
    waiting = find([summary("cart@3"), summary("cart@2"), summary("shop@1", services=("cart", "shop"))])
    assert [entry.release for entry in waiting] == ["cart@3", "shop@1"]
    nameless = find([summary("a", services=()), summary("b", services=()), summary("a", services=())])
    assert [entry.release for entry in nameless] == ["a", "b"]


@pytest.mark.parametrize(
    ("since_s", "until_s", "says"),
    [
        (-21, 24, "is being recorded, 21 s of 45 s"),
        (-21, None, "is being recorded, for 21 s so far"),
        (None, None, "is being recorded"),
    ],
)
def test_how_far_a_recording_is(since_s, until_s, says):
    since, until = (None if s is None else NOW + timedelta(seconds=s) for s in (since_s, until_s))
    assert describe_recording(summary(running=1, running_since=since, running_until=until), NOW) == says


def test_a_command_quotes_the_name():
    (row,) = find([summary("my cart", None)])
    assert row == Waiting(
        "my cart", WaitsFor.VERDICT, row.why, "judge it: `evaluator verdict 'my cart'`", NOW - timedelta(minutes=10)
    )
