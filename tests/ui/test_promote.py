"""Whether a release may be promoted now."""

from datetime import UTC, datetime

import pytest

from evaluator.records import RunState
from evaluator.store import Store


def conditions(said: str) -> list[str]:
    return [one.split("</span>")[0].split(">")[-1] for one in said.split("<li>") if "status" in one[:30]]


def test_a_go_meets_every_condition(page, made, text):
    shown = page("promote", made, release="cart@1.9.0")
    said = text(shown)
    assert not shown.exception
    assert said.count("✓ yes") == 6
    assert "✗ no" not in said
    assert "1.4.1 → 1.9.0" in said
    assert "no hooks" in said


def test_a_no_go_does_not(page, made, text):
    said = text(page("promote", made, release="cart@1.6.0"))
    assert "✗ no</span> the verdict is NO-GO" in said


def test_newer_data_and_another_policy_forbid_it(page, own, text, tmp_path, monkeypatch):
    store = Store.open(own)
    run = store.runs("cart@1.9.0")[0]
    store.finish_run(run.id, state=RunState.COMPLETE, ended=datetime.now(UTC), facts=run.facts)
    policy = tmp_path / "evaluator.yaml"
    policy.write_text("alpha: 0.1\n")
    monkeypatch.setenv("EVALUATOR_POLICY", str(policy))
    said = text(page("promote", own, release="cart@1.9.0"))
    assert "✗ no</span> nothing landed after the verdict" in said
    assert "✗ no</span> the policy is the one that judged" in said


@pytest.mark.parametrize("forged", ["nobody@1", "' OR 1=1 --", "<b>x</b>"])
def test_forged_releases_are_answered_in_words(page, made, html, forged):
    shown = page("promote", made, release=forged)
    assert not shown.exception
    assert "there is no release" in html(shown)
    assert "<b>x</b>" not in html(shown)


def test_an_unjudged_release_cannot_be_promoted(page, own, text):
    from stored import STEADY, land

    land(Store.open(own), "cart@2.0.0", STEADY, seed=9)
    assert "was not judged yet" in text(page("promote", own, release="cart@2.0.0"))
