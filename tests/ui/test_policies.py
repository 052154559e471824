"""The pages under a policy for each service."""

import shlex
from html import unescape

from evaluator.store import Store

PROMOTING = "hooks: {promote: [{command: {run: [sh, -c, 'echo of cart']}}]}\n"


def test_pages_take_the_policy_of_the_service(page, shop, text, html, monkeypatch):
    store = shop()
    folder = store.parent / "policies"
    folder.mkdir()
    (folder / "cart.yaml").write_text(PROMOTING)
    (folder / "other.yaml").write_text("alpha: 0.1\n")
    monkeypatch.setenv("EVALUATOR_POLICY", str(folder))
    said = text(page("promote", store, release="cart@1.9.0"))
    assert said.count("✓ yes") == 9
    assert "runs sh -c echo of cart" in said
    shown = page("plan", store, release="cart@1.9.0")
    assert not shown.exception
    assert any(str(folder / "cart.yaml") in one.value for one in shown.code)
    (folder / "cart.yaml").rename(folder / "crat.yaml")
    said = unescape(text(page("promote", store, release="cart@1.9.0")))
    assert "there is no policy of service 'cart'; did you mean 'crat'?" in said


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
