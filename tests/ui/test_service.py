"""What is done with a release, on the pages: live, rolled back, rolled out; and the page of its service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rollouts_stored import store_rollouts
from stored import DESIGNS, HOSTILE, STEADY, edit_decisions, judge, land, repeat_verdict

from evaluator.intents import ActionRequest, ask, execute, system_person
from evaluator.policy import load_policy
from evaluator.records.intents import Action
from evaluator.store import Store
from evaluator.store.control_file import to_text

HOOKS = "hooks: {promote: [{command: {run: ['true'], undo: ['true']}}]}\n"


@pytest.fixture
def acting(shop):
    """A store with hooks that do nothing; called with an action and a reason, it is done with cart@1.9.0."""
    path = shop(HOOKS)
    store, policy = Store.open(path), load_policy(path.parent / "evaluator.yaml")
    # It is the newest release of its service.
    edit_decisions(store, "UPDATE releases SET created_at = ? WHERE id = 'cart@1.9.0'", to_text(datetime.now(UTC)))

    def act(action: Action, reason: str = "release of Monday", release: str = "cart@1.9.0") -> None:
        intent = ask(store, policy, system_person(), ActionRequest(action, release, reason))
        execute(store, lambda _: policy, intent.id, "w")

    act.path, act.store = path, store
    return act


def test_the_banner_says_what_was_done_with_a_release(page, acting, text):
    shown = text(page("promote", acting.path, release="cart@1.9.0"))
    assert "· judged</strong> no action was requested" in shown
    assert "Next:</strong> promote cart@1.9.0" in shown
    acting(Action.PROMOTE)
    shown = text(page("promote", acting.path, release="cart@1.9.0"))
    assert "Next:</strong> nothing: it is live" in shown
    assert "● live</strong> promoted " in shown
    acting(Action.ROLLBACK, "prices <b>shown</b> twice")
    for name in ("release", "promote"):
        shown = text(page(name, acting.path, release="cart@1.9.0"))
        assert "Next:</strong> promote" not in shown
        assert "↩ rolled back</strong> " in shown
        assert "prices &lt;b&gt;shown&lt;/b&gt; twice" in shown
        assert "to promote this one all the same, judge it again first: <code>evaluator" in shown
    assert "✗ no</span> it was rolled back by" in shown  # the condition, on Promote
    repeat_verdict(acting.store, "cart@1.9.0")
    shown = text(page("promote", acting.path, release="cart@1.9.0"))
    assert "Next:</strong> promote cart@1.9.0" in shown
    assert "judged again since: GO" in shown


def test_safe_to_promote_is_said_only_where_promote_agrees(page, acting, text):
    assert "</strong> is safe to promote" in text(page("releases", acting.path))
    policy = acting.path.parent / "evaluator.yaml"
    policy.write_text(HOOKS + "alpha: 0.04\n")
    shown = text(page("releases", acting.path))
    assert "is safe to promote" not in shown
    assert "is GO, but cannot be promoted now: the policy is not the one that judged" in shown
    policy.write_text("alpha: 7\n")
    shown = text(page("releases", acting.path))
    assert "is GO, and it is not known whether it can be promoted" in shown
    policy.write_text(HOOKS)
    acting(Action.PROMOTE)
    acting(Action.ROLLBACK, "prices shown twice")
    shown = text(page("releases", acting.path, state="rolled back"))
    assert "is safe to promote" not in shown
    assert "Nothing among these releases." in shown
    assert '↩ rolled back</strong><span class="reason">' in shown
    assert "cart@1.6.0" not in shown  # neither in the table by metrics nor in the list


def test_a_load_that_is_recorded_says_how_far_it_is(page, acting, text):
    land(acting.store, "cart@2.1.0", STEADY, seed=3, live=True)
    now = datetime.now(UTC)
    with acting.store.data.file.opened(write=True) as engine:
        times = [now - timedelta(seconds=21), now + timedelta(minutes=10), "cart@2.1.0"]
        engine.execute("UPDATE store.runs SET started = ?, planned_end = ? WHERE release = ?", times)
    shown = text(page("releases", acting.path))
    assert "is being recorded, 2" in shown  # seconds
    assert "is safe to promote" not in shown  # the newest release of the service counts
    assert "→ being recorded, 2" in shown


@pytest.mark.parametrize(("key", "value"), [("word", "maybe"), ("state", "gone"), ("of", "basket")])
def test_an_unknown_filter_of_an_address_hides_nothing_silently(page, store_path, text, key, value):
    shown = page("releases", store_path, **{key: value})
    assert not shown.exception
    assert f"there is no {'verdict' if key == 'word' else 'service' if key == 'of' else key} '{value}'" in text(
        shown
    ).replace("&#39;", "'")
    assert "All releases" not in text(shown)


# ------------------------------------------------------------------ the page of a service


def test_the_page_of_a_service_says_what_is_live(page, acting, text):
    shown = page("service", acting.path)
    assert not shown.exception
    assert "No promotion of cart stands" in text(shown)
    acting(Action.PROMOTE, "release of <i>Monday</i>")
    shown = text(page("service", acting.path, service="cart"))
    assert "live: promoted " in shown
    assert "release of &lt;i&gt;Monday&lt;/i&gt;" in shown
    assert "Last candidates" in shown
    for metric in ("failures", "p95", "p99"):
        assert f"<strong>{metric}</strong>" in shown  # its trend
    assert "to promote</dt><dd>1 hook, 1 approval" in shown
    acting(Action.ROLLBACK, "prices shown twice")
    assert "No promotion of cart stands" in text(page("service", acting.path, service="cart"))


def test_the_changes_of_releases_that_followed_each_other_are_added_up(page, acting, text):
    acting(Action.PROMOTE)
    shown = text(page("service", acting.path, service="cart"))
    assert "cart@1.9.0 follows 1.4.1, which was not promoted here" in shown
    land(acting.store, "cart@2.0.0", DESIGNS["cart@1.9.0"], seed=5)
    services = '[{"name": "cart", "baseline": "1.9.0", "canary": "2.0.0"}]'
    edit_decisions(acting.store, "UPDATE releases SET services = ? WHERE id = 'cart@2.0.0'", services)
    assert judge(acting.store, "cart@2.0.0", load_policy(acting.path.parent / "evaluator.yaml")) == "go"
    repeat_verdict(acting.store, "cart@2.0.0")
    acting(Action.PROMOTE, release="cart@2.0.0")
    shown = text(page("service", acting.path, service="cart"))
    assert "Since 1.4.1" in shown
    assert "The changes of 2 releases that were promoted one after the other, added up" in shown


def test_a_service_that_is_unknown_stays_so(page, store_path, text):
    shown = page("service", store_path, service="basket")
    assert "there is no service" in text(shown)
    assert "Last candidates" not in text(shown)


def test_a_service_with_a_hostile_name(page, hostile, html):
    shown = page("service", hostile)
    assert not shown.exception
    assert HOSTILE not in html(shown)


@pytest.mark.parametrize(
    ("case", "live", "state"),
    [
        (
            "running",
            "No promotion of cart stands: users who do not meet cart@1.5.0 by the rollout meet what was deployed",
            "→ 5 % of users",
        ),
        ("back", "No promotion of cart stands: users meet what was deployed", "↩ rolled back"),
        ("promoted", "live: promoted ", "● live"),
    ],
)
def test_a_service_whose_release_was_rolled_out(page, build_once, text, monkeypatch, case, live, state):
    folder = build_once("rollouts", store_rollouts) / case
    monkeypatch.setenv("EVALUATOR_POLICY", str(folder / "evaluator.yaml"))
    shown = page("service", folder / "evaluator.duckdb")
    assert not shown.exception
    assert live in text(shown)
    assert state in text(shown)
    assert ("Exposed now: 5 % of cart&#39;s users meet cart@1.5.0" in text(shown)) is (case == "running")
