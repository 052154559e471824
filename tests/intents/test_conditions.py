"""Each condition of a promotion, met and not met, with its other text."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from evaluator.intents import conditions
from evaluator.intents.checking import BEFORE_RESTART
from evaluator.intents.conditions import NO_HOOKS, PromotionCondition, list_conditions
from evaluator.records import Evidence, Period, Reason, Release, Service, Verdict, VerdictWord
from evaluator.records.intents import Action, HookEntry


def compared(*arms, **fields):
    """What is known of a release whose candidates `arms` were compared."""
    return Evidence(comparisons=tuple(SimpleNamespace(arm=arm) for arm in arms), **fields)


GO = Verdict(Release("cart@2"), VerdictWord.GO, (), "promote cart@2", compared("canary"), "native", "fixed", 0.05)
AGAIN = "judge it again: `evaluator verdict cart@2`"


@pytest.fixture
def listed(monkeypatch):
    """List the conditions of a verdict of so many seconds ago, under what the store and the policy say."""

    def unmet(
        age_s=60.0,
        *,
        stale=False,
        live=False,
        data="sha256:d",
        policy="sha256:p",
        hooks=True,
        command=(),
        link="",
        stored=None,
        by_hand="",
        restart_s=None,
        **changes,
    ):
        now = datetime.now(UTC)
        monkeypatch.setattr(conditions, "datetime", SimpleNamespace(now=lambda zone: now))
        monkeypatch.setattr(conditions, "is_stale", lambda runs, judged_at: stale)
        monkeypatch.setattr(conditions, "is_live", lambda runs: live)
        monkeypatch.setattr(conditions, "hash_data_now", lambda store, release, judged: data)
        monkeypatch.setattr(conditions, "services_of", lambda store, release: ("cart",))
        monkeypatch.setattr(conditions, "find_of_services", lambda store, release, services: None)
        monkeypatch.setattr(conditions, "hash_policy_now", lambda store, rules, release: policy)
        at = None if age_s is None else now - timedelta(seconds=age_s)
        monkeypatch.setattr(conditions, "explain_change_by_hand", lambda store, release: by_hand)
        current = {"policy_hash": "sha256:p", "data_hash": "sha256:d", "judged_at": at} | changes
        fields = {name: getattr(GO, name) for name in GO.__dataclass_fields__}
        rules = SimpleNamespace(
            command=lambda release: f"evaluator verdict {release}",
            promotion=SimpleNamespace(
                approvals=SimpleNamespace(max_age=1800.0),
                link=link,
                hooks={Action.PROMOTE if hooks else Action.HOLD: (HookEntry("command", {"run": command}),)},
            ),
        )
        restarted_at = None if restart_s is None else now - timedelta(seconds=restart_s)
        control = SimpleNamespace(
            release=lambda release: stored or changes.get("release", GO.release),
            restarted_at=lambda: restarted_at,
            intents=lambda release: (),
            audit=lambda release: (),
        )
        store = SimpleNamespace(data=SimpleNamespace(runs=lambda release: ()), control=control, reading=nullcontext)
        listed = list_conditions(store, rules, Verdict(**(fields | current)))
        assert len(listed) == 18
        return [(condition.text, condition.description, condition.remedy) for condition in listed if not condition.met]

    return unmet


YOUNG = "it was judged within the last 30 min"


@pytest.mark.parametrize(
    ("changes", "text", "says", "remedy"),
    [
        ({"word": VerdictWord.NO_GO}, "the verdict is GO", "the verdict is NO-GO", "promote cart@2"),
        ({"word": VerdictWord.INCONCLUSIVE}, "the verdict is GO", "the verdict is INCONCLUSIVE", "promote cart@2"),
        (
            {"period": Period(None, datetime(2026, 3, 1, tzinfo=UTC))},
            "the verdict is on the whole time",
            "the verdict is on a part of the time (--from, --to)",
            "judge the whole time: `evaluator verdict cart@2`",
        ),
        (
            {"step": "25%", "only_step": True},
            "the verdict is on the release, not on one step alone",
            "the verdict is on step 25% alone (--step)",
            "judge the release, which takes its newest step and all else that was recorded: `evaluator verdict cart@2`",
        ),
        ({"stale": True}, "nothing landed after the verdict", "data landed after the verdict", AGAIN),
        ({"live": True}, "no load or import is running", "a run is still being recorded", "wait, then judge again"),
        (
            {"policy": "sha256:x"},
            "the policy is the one that judged",
            "the policy is not the one that judged",
            AGAIN,
        ),
        (
            {"evidence": compared("canary", incomplete=True)},
            "every run was complete",
            "a run ended early",
            "load it again",
        ),
        (
            {"data": ""},
            "the data are unchanged since the verdict",
            "its data have changed, or there are newer data",
            AGAIN,
        ),
        ({"age_s": 1801.0}, YOUNG, "it was judged 30 min ago", AGAIN),
        ({"age_s": None}, YOUNG, "it is not known when it was judged", AGAIN),
        ({"age_s": -61.0}, YOUNG, "it was judged 61 s from now: the clock was set back", AGAIN),
        (
            {"restart_s": 30.0},
            "no decision was lost since the verdict",
            f"the verdict is {BEFORE_RESTART}",
            AGAIN,
        ),
        ({"hooks": False}, "the policy names hooks that promote", "the policy names no hooks that promote", NO_HOOKS),
    ],
)
def test_each_condition_that_is_not_met_shows_the_other_text(listed, changes, text, says, remedy):
    assert listed(**changes) == [(text, says, remedy)]


def test_a_restart_before_the_verdict_forbids_nothing(listed):
    assert listed(60.0, restart_s=61.0) == []


@pytest.mark.parametrize("age_s", [-60.0, -0.5, 0.0, 60.0, 1800.0])
def test_a_go_of_the_last_half_hour_meets_all(listed, age_s):
    """A minute from now is what two clocks may differ by."""
    assert listed(age_s) == []


@pytest.mark.parametrize(
    ("arms", "best", "says"),
    [
        (["canary", "blue"], "canary", ""),
        (["canary", "blue"], "blue", "the candidate is blue, and hooks get the version of canary"),
        (["canary", "canary"], "", ""),
        (["blue", "blue"], "", "the candidate is blue, and hooks get the version of canary"),
        (["canary", "blue"], "", "none of blue, canary is GO"),
        ([], "", "canary was not compared"),
    ],
)
def test_hooks_promote_no_other_arm_than_the_one_that_is_go(listed, arms, best, says):
    """Of several candidates a reason names the one that is GO; a single one is it, whatever its name."""
    reasons = (Reason("best_arm", f"{best}: p95 is within its margin", arm=best),) if best else ()
    which = "blue" if "is blue" in says else "each candidate"
    remedy = f"import or load {which} alone, as canary of a release of its own, and judge that"
    unmet = [("hooks get the version of the candidate that was judged", says, remedy)] if says else []
    assert listed(evidence=compared(*arms), reasons=reasons) == unmet


@pytest.mark.parametrize(
    ("judged", "stored", "says"),
    [
        ([("cart", "1", "2")], [("cart", "1", "2")], ""),
        ([("", "1", "2")], [("cart", "1", "2")], ""),
        ([("cart", "1", "2")], [("cart", "1", "9")], "canary is 9, not 2"),
        ([("cart", "1", "")], [("cart", "1", "2")], "canary is 2, not of an unknown version"),
        (
            [("cart", "1", "2")],
            [("cart", "1", "2"), ("", "", "9")],
            "baseline is of an unknown version, not 1 and canary is cart=2,=9, not 2",
        ),
    ],
)
def test_hooks_get_the_versions_that_were_judged(listed, judged, stored, says):
    release, now = (
        Release("cart@2", tuple(Service(*service) for service in services)) for services in (judged, stored)
    )
    text = "the versions are those that were judged"
    unmet = [(text, f"the versions are not those that were judged: {says}", AGAIN)] if says else []
    assert listed(release=release, stored=now) == unmet


@pytest.mark.parametrize(
    ("services", "command", "unknown"),
    [
        ((), ["deploy"], []),
        ((Service("cart"),), ["deploy", "${release}"], []),
        ((Service("cart", "1", "2"),), ["deploy", "${canary}", "${baseline}"], []),
        ((), ["deploy", "v${canary}"], ["canary"]),
        ((Service("cart", "", "2"),), ["deploy", "${canary}"], []),
        ((Service("cart", "1", ""),), ["deploy", "${canary}"], ["canary"]),
        ((Service("cart", "1", "2"), Service("shop", "1", "")), ["deploy", "${canary}"], ["canary"]),
        ((Service("cart"),), ["deploy", "${canary}", "${baseline}"], ["baseline", "canary"]),
    ],
)
def test_no_hook_acts_with_an_empty_version(listed, services, command, unknown):
    says = " and ".join(f"a hook uses ${{{arm}}}, and no version of {arm} is known" for arm in unknown)
    remedy = "land its data again with " + " and ".join(f"--{arm}-version" for arm in unknown)
    unmet = [("the versions that hooks use are known", says, remedy)] if unknown else []
    assert listed(release=Release("cart@2", services), command=command) == unmet


def test_the_version_of_a_promotion_is_that_of_the_candidate(listed):
    release, command = Release("cart@2", (Service("cart", "1", ""),)), ["deploy", "${version}"]
    says = "a hook uses ${version}, and no version of canary is known"
    remedy = "land its data again with --canary-version"
    assert listed(release=release, command=command) == [("the versions that hooks use are known", says, remedy)]
    assert listed(release=Release("cart@2", (Service("cart", "", "2"),)), command=command) == []


@pytest.mark.parametrize(
    ("word", "service", "link", "remedy"),
    [
        ("service", "", "", "set the service: `evaluator data service cart@2 NAME`"),
        ("service", "cart", "", ""),
        ("link", "", "", "add `link` to the policy"),
        ("link", "", "https://ci.example.org", ""),
        ("step", "cart", "https://ci.example.org", "leave ${step} out: a promotion is no step of a rollout"),
    ],
)
def test_no_promotion_begins_that_a_word_without_a_value_stops_half_way(listed, word, service, link, remedy):
    release = Release("cart@2", (Service(service, "1", "2"),))
    says = f"a hook uses ${{{word}}}, which has no value"
    unmet = [("the words that hooks use have a value", says, remedy)] if remedy else []
    assert listed(release=release, command=["set", f"--it=${{{word}}}"], link=link) == unmet


def test_a_condition_shows_the_text_that_is_true():
    assert PromotionCondition("it is", met=True, otherwise="it is not").description == "it is"
    assert PromotionCondition("it is", met=False, otherwise="it is not").description == "it is not"
