"""The pages under a policy for each service."""

import shlex
from html import unescape

from stored import STEADY, land

from evaluator.store import Store

PROMOTING = "hooks: {promote: [{command: {run: [sh, -c, 'echo of cart']}}]}\n"


def test_pages_take_the_policy_of_the_service(page, shop, text, html, monkeypatch):
    store = shop()
    folder = store.parent / "policies"
    folder.mkdir()
    (folder / "cart.yaml").write_text(PROMOTING)
    (folder / "other.yaml").write_text("alpha: 0.1\n")
    monkeypatch.setenv("EVALUATOR_POLICY", str(folder))
    page_text = text(page("promote", store, release="cart@1.9.0"))
    assert page_text.count("✓ yes") == 19
    assert "runs sh -c &#39;echo of cart&#39;" in page_text
    shown = page("plan", store, release="cart@1.9.0")
    assert not shown.exception
    assert any(str(folder / "cart.yaml") in element.value for element in shown.code)
    (folder / "cart.yaml").rename(folder / "crat.yaml")
    page_text = unescape(text(page("promote", store, release="cart@1.9.0")))
    assert "there is no policy of service 'cart'; did you mean 'crat'?" in page_text


def test_the_command_that_judges_again_names_the_policy_that_judged(page, shop, html, monkeypatch):
    from datetime import UTC, datetime

    from evaluator.pipeline.judging import judge_release
    from evaluator.policy.selection import policy_of

    path = shop()
    folder = path.parent / "policies"
    folder.mkdir()
    (folder / "cart.yaml").write_text("alpha: 0.04\n")
    monkeypatch.delenv("EVALUATOR_POLICY")
    store = Store.open(path)
    judge_release(
        store, "cart@1.9.0", policy_of(folder, store, ["cart@1.9.0"]), judged_at=datetime.now(UTC), figures=True
    )
    monkeypatch.chdir(path.parent)
    shown = html(page("release", path, release="cart@1.9.0"))
    assert f"--policy {shlex.quote(str(folder / 'cart.yaml'))}" in shown


def test_commands_of_the_pages_judge_by_the_policy_that_applies(page, shop, text, monkeypatch):
    path = shop()
    land(Store.open(path), "cart@2.0.0", STEADY, seed=9)
    named = f"--policy {shlex.quote(str(path.parent / 'loose.yaml'))}"
    (path.parent / "evaluator.yaml").rename(path.parent / "loose.yaml")
    monkeypatch.setenv("EVALUATOR_POLICY", str(path.parent / "loose.yaml"))
    for name in ("release", "promote", "plan", "releases"):
        page_text = unescape(text(page(name, path, release="cart@2.0.0")))
        assert f"evaluator --store {shlex.quote(str(path))} verdict cart@2.0.0 {named}" in page_text, name
    monkeypatch.delenv("EVALUATOR_POLICY")
    (path.parent / "loose.yaml").rename(path.parent / "evaluator.yaml")
    monkeypatch.chdir(path.parent)
    page_text = unescape(text(page("releases", path)))
    assert "evaluator verdict cart@2.0.0<" in page_text


def test_of_a_folder_no_policy_is_named_for_a_verdict_that_names_none(page, shop, html, monkeypatch):
    path = shop()
    folder = path.parent / "policies"
    folder.mkdir()
    (folder / "cart.yaml").write_text("alpha: 0.04\n")
    monkeypatch.setenv("EVALUATOR_POLICY", str(folder))
    assert "--dry-run --policy policy.yaml" in html(page("release", path, release="cart@1.9.0"))
