"""The page Rollout: what it says in each state, and what may be done there."""

from __future__ import annotations

import html as html_texts
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
from rollout_cases import START, at, start_rollout
from rollouts_stored import copy_store, drive, store_rollouts
from stored import edit_decisions

from evaluator.errors import NotReached, Refused, StoreBusy
from evaluator.guard.client import GuardClient
from evaluator.guard.setup import GuardReading, GuardStatus
from evaluator.intents import system_person
from evaluator.policy import parse_policy
from evaluator.records import Release
from evaluator.records.intents import IntentState
from evaluator.records.rollouts import EventKind, RolloutOutcome
from evaluator.reports.rollout import StepRequests
from evaluator.rollout.starting import continue_held
from evaluator.serving.access import Refusal
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

RELEASE = "cart@1.5.0"
READING = "cart canary: 61 requests in 10 s, 0 failed, p95 121 ms"
LOOKED = GuardStatus(
    "r1",
    RELEASE,
    is_exposed=True,
    wanted={"cart": {"baseline": 0.95, "canary": 0.05}},
    realised={"cart": {"baseline": 0.94, "canary": 0.06}},
    readings=(GuardReading("cart", "canary", text=READING),),
    looked_at=START.timestamp(),
)


@pytest.fixture(scope="module")
def stores(build_once):
    """A folder with a store of each case. No test may write to them."""
    return build_once("rollouts", store_rollouts)


@pytest.fixture
def guard(monkeypatch):
    """What the guard answers; at first none does."""
    answers = [None]

    def look(_client, _rollout, **_):
        if answers[0] is None:
            raise NotReached("no guard answers")
        return answers[0]

    monkeypatch.setattr(GuardClient, "look", look)
    return answers


@pytest.fixture
def shown(page, text, stores, guard, monkeypatch):
    """Show the page of a case without markup; `driven`: a process drives its rollout."""

    def show(name, *, driven=False, of="rollout", **query):
        path = stores / name / "evaluator.duckdb"
        monkeypatch.setenv("EVALUATOR_POLICY", str(stores / name / "evaluator.yaml"))
        with drive(path) if driven else nullcontext():
            test = page(of, path, **query)
        assert not test.exception
        return test, html_texts.unescape(re.sub(r"<[^>]+>", "", text(test)))

    return show


@pytest.mark.parametrize(
    ("name", "sentences", "buttons"),
    [
        (
            "running",
            [
                "RUNNING",
                "step 4 of 10, observe 5 %",
                "needs no harm",
                "it is judged in ",
                "driver: process ",
                "wanted 5 %, got 6 %",
                READING,
                "the router says baseline 94 %, canary 6 %",
            ],
            ["Hold", "Roll back"],
        ),
        (
            "asked",
            [
                "WAITS FOR A PERSON",
                "waits for 1 agreement",
                "without an answer within",
                "it goes back to the baseline",
                "one person has to approve",
            ],
            ["Approve", "Reject", "Hold", "Roll back"],
        ),
        ("unanswered", ["missing: 84 of 500 requests of the canary were judged"], ["Hold", "Roll back"]),
        ("held", ["HELD", "held: lunch", "lets it continue"], ["Continue", "Roll back"]),
        ("going", ["GOING BACK", "Turned back at 50 %: the guard: 38 of 61", "off the traffic 0.4 s after"], []),
        ("back", ["ROLLED BACK", "turned back here", "Turned back at 50 %", "all acts are undone"], []),
        ("promoted", ["PROMOTED", "promoted: all users have the candidate"], []),
    ],
)
def test_each_state_says_what_it_is_and_offers_what_may_be_done(shown, guard, name, sentences, buttons):
    guard[0] = LOOKED
    test, words = shown(name, driven=True)
    assert [sentence for sentence in sentences if sentence not in words] == []
    assert [button.label for button in test.button] == buttons


def test_a_driver_that_is_gone_is_red_and_the_command_is_there(shown, html):
    for of in ("rollout", "releases"):
        test, words = shown("running", of=of)
        assert '<span class="status fail ev-driver">driver: GONE' in html(test)
        assert "is-no_go" in html(test)
        assert "rollout resume cart@1.5.0 goes on with it" in words
        _, words = shown("running", driven=True, of=of)
        assert "GONE" not in words
        _, words = shown("back", of=of)
        assert "GONE" not in words


def test_a_rollout_without_its_driver_is_not_continued_here(shown):
    test, words = shown("held")
    assert [button.label for button in test.button] == ["Roll back"]
    assert "rollout resume cart@1.5.0 goes on with it" in words


def test_no_guard_is_red_while_users_meet_the_candidate(shown, html):
    test, _ = shown("running", driven=True)
    assert '<p class="status fail">guard: none answers' in html(test)
    test, _ = shown("new", driven=True)
    assert '<p class="warn">guard: none answers' in html(test)


def test_the_verdict_of_a_stage_has_a_link_to_its_evidence(shown, html):
    test, words = shown("back")
    assert "./release?release=cart%401.5.0&amp;verdict=3" in html(test)
    assert "p50 rose" in words


def test_requests_of_users_are_counted_and_stay_while_the_data_are_used(shown, monkeypatch):
    met = [(StepRequests("5 %", 0.05, 12_040, 903, 3, 11),), 2]

    def read(*_):
        if not met:
            raise StoreBusy("process 4711 writes")
        return met[0], met[1]

    monkeypatch.setattr("evaluator.ui.rollout.read_rollout_requests", read)
    test, words = shown("promoted")
    assert "wanted 5 %, got 7.5 %" in words
    assert "903 (7.5 %)" in words
    assert "2 requests were logged after the step was closed" in words
    met.clear()
    assert "903 (7.5 %)" in "\n".join(element.proto.body for element in test.run().get("html"))
    _, words = shown("promoted")
    assert "The requests of users cannot be read now: process 4711 writes" in words
    assert "PROMOTED" in words


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("plan", '{"evaluator_version": "9.0", "steps": 3, "services": ["cart"]}', "was made by version 9.0"),
        ("plan_hash", "sha256:0", "is not the one that was started"),
    ],
)
def test_a_plan_that_cannot_be_used_is_a_sentence(stores, tmp_path, page, text, guard, column, value, sentence):
    store = copy_store(stores, "running", tmp_path)
    edit_decisions(Store.open(store), f"UPDATE rollouts SET {column} = ?", value)
    test = page("rollout", store)
    assert not test.exception
    assert "Its plan cannot be used" in text(test)
    assert sentence in text(test)
    assert "unexpected" not in text(test)
    assert [button.label for button in test.button] == ["Roll back"]
    guard[0] = LOOKED
    assert "Exposed now: 6 % of cart" in html_texts.unescape(text(page("releases", store)))
    guard[0] = None
    if column == "plan":
        assert "It is not known whether users meet cart@1.5.0" in text(page("releases", store))


def test_a_verdict_of_another_version_leaves_the_rest(stores, tmp_path, page, text):
    store = copy_store(stores, "running", tmp_path)
    edit_decisions(Store.open(store), "UPDATE verdicts SET verdict = replace(verdict, 'schema', 'scheme')")
    words = text(page("rollout", store))
    assert "RUNNING" in words
    assert "unexpected" not in words


def test_names_from_outside_run_nothing(shown, html):
    for of in ("rollout", "releases"):
        test, _ = shown("hostile", of=of)
        assert not re.search(r"<script|<img|\x1b|\u202e", html(test))


def test_what_users_meet_is_on_top_of_the_releases(shown, html, guard):
    guard[0] = LOOKED
    test, words = shown("running", driven=True, of="releases")
    assert words.index("Exposed now: 6 % of cart's users meet cart@1.5.0") < words.index("Releases by metrics")
    assert "./rollout?release=cart%401.5.0&amp;rollout=r1" in html(test)
    guard[0] = None
    assert "Exposed now: 5 % of cart's users meet cart@1.5.0" in shown("running", of="releases")[1]
    assert "cart@1.5.0 is being rolled out, and no user meets it now" in shown("new", of="releases")[1]
    assert "Exposed" not in shown("back", of="releases")[1]


def test_a_release_has_a_link_to_its_rollout_also_before_anything_has_landed(judged_store, tmp_path, page, html, text):
    shutil.copytree(judged_store.parent, tmp_path / "own")
    store = Store.open(tmp_path / "own" / judged_store.name)
    store.control.add_release(Release("cart@2"))
    for release in ("cart@1.9.0", "cart@2"):
        rollout = Rollouts(store.control.file).start(start_rollout(release))
        shown = page("release", store.path, release=release)
        link = f"./rollout?release={release.replace('@', '%40')}&amp;rollout={rollout.id}"
        assert (link in html(shown)) is (release == "cart@1.9.0")
        Rollouts(store.control.file).add_event(rollout, at(5, EventKind.ENDED, outcome=RolloutOutcome.ROLLED_BACK))
    assert "NOT JUDGED" in text(shown)


def test_who_may_only_read_sees_no_button(stores, page, text):
    for name in ("asked", "held"):
        test = page("rollout", stores / name / "evaluator.duckdb", refusal=Refusal.NO_SESSION)
        assert list(test.button) == []
        assert "This browser may only read." in text(test)


def test_without_a_rollout_the_page_names_the_command_that_plans_one(page, text, tmp_path, stores):
    missing = tmp_path / "evaluator.duckdb"
    assert "rollout plan RELEASE" in text(page("rollout", missing))
    store = copy_store(stores, "running", tmp_path)
    Store.open(store).control.add_release(Release("cart@2"))
    words = text(page("rollout", store, release="cart@2"))
    assert "cart@2 was not rolled out yet." in words
    assert "rollout plan cart@2" in words
    for query in ({"release": "no"}, {"rollout": "r9"}):
        words = text(page("rollout", store, **query))
        assert "there is no" in words
        assert "RUNNING" not in words


def test_the_newest_rollout_is_shown_and_a_link_keeps_its_own(page, text, tmp_path, stores):
    store = copy_store(stores, "back", tmp_path)
    rollouts = Rollouts(Store.open(store).control.file)
    [first] = rollouts.rollouts()
    rollouts.start(replace(first, id="", reason="the second"))
    assert "RUNNING" in text(page("rollout", store))
    assert "ROLLED BACK" in text(page("rollout", store, release=RELEASE, rollout="r1"))


# ------------------------------------------------------------------ acting


def press(test, label: str, *, typed: str = RELEASE, reason: str = "lunch is over"):
    """Fill in the form, and press one of its buttons."""
    test.text_input(key="reason-r1").input(reason)
    test.text_input(key="typed-r1").input(typed)
    next(button for button in test.button if button.label == label).click().run()
    assert not test.exception
    return test


def list_kinds(path) -> list[tuple[EventKind, str]]:
    """Kind and text of the events of people at the end of the one rollout of a store."""
    return [(event.kind, event.text) for event in Rollouts(Store.open(path).control.file).events("r1")[-2:]]


def test_it_is_held_continued_and_turned_back(stores, tmp_path, page, text, monkeypatch, guard):
    store = copy_store(stores, "running", tmp_path)
    monkeypatch.setenv("EVALUATOR_POLICY", str(store.parent / "evaluator.yaml"))
    with drive(store):
        test = page("rollout", store)
        press(test, "Hold", typed="cart@1.4.0", reason="odd carts")
        assert "cart@1.4.0 was typed, not cart@1.5.0: nothing was done" in text(test)
        assert EventKind.HELD not in dict(list_kinds(store))
        press(test, "Hold", reason="odd carts")
        assert list_kinds(store)[-1] == (EventKind.HELD, "odd carts")
        assert "HELD" in text(test)
        press(test, "Continue")
        assert list_kinds(store)[-1] == (EventKind.CONTINUED, "lunch is over")
        press(test, "Roll back", reason="carts are empty")
        assert list_kinds(store)[-1] == (EventKind.STOPPED, "carts are empty")
        assert "GOING BACK" in text(test)
        assert list(test.button) == []


def test_an_agreement_is_given_here(stores, tmp_path, page, monkeypatch, guard):
    store = copy_store(stores, "asked", tmp_path)
    monkeypatch.setenv("EVALUATOR_POLICY", str(store.parent / "evaluator.yaml"))
    with drive(store):
        test = page("rollout", store)
        test.text_input(key="typed-i1").input(RELEASE)
        test.button(key="yes-i1").click().run()
    assert Store.open(store).control.intent("i1").state is IntentState.APPROVED


def test_roles_decide_who_may_act(stores, tmp_path, page, text, monkeypatch, guard):
    store = copy_store(stores, "held", tmp_path)
    policy = store.parent / "evaluator.yaml"
    policy.write_text('service: cart\nroles: {viewer: "*", approver: [ann]}\n')
    monkeypatch.setenv("EVALUATOR_POLICY", str(policy))
    with drive(store):
        test = page("rollout", store)
        assert [button.disabled for button in test.button] == [True, True]
        assert "needs an approver" in text(test)


def test_a_rollout_that_is_not_held_is_not_continued(stores, tmp_path):
    store = Store.open(copy_store(stores, "running", tmp_path))
    [rollout] = Rollouts(store.control.file).rollouts()
    with pytest.raises(Refused, match="r1 is not held"):
        continue_held(store, rollout, parse_policy({}).promotion, system_person(), "")
    assert list_kinds(store.path)[-1][0] is EventKind.BEGUN
