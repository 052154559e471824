"""A policy for each service: every way in takes that of the release's service, and says which it was."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from request_files import write_requests

import evaluator
from evaluator.__main__ import run
from evaluator.intents import execute_waiting
from evaluator.policy.selection import policy_of
from evaluator.reports import from_json
from evaluator.store import Store

_STORED = Path(__file__).parent.parent / "ui" / "stored.py"
POLICIES = {
    "cart": "alpha: 0.04\nhooks: {promote: [{command: {run: [sh, -c, 'echo cart >> out.txt'], folder: HERE}}]}\n",
    "shop": "alpha: 0.03\nhooks: {promote: [{command: {run: [sh, -c, 'echo shop >> out.txt'], folder: HERE}}]}\n",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with a release of cart and one of shop that are fit to be promoted."""
    spec = importlib.util.spec_from_file_location("stored_for_policies", _STORED)
    stored = importlib.util.module_from_spec(spec)
    sys.modules["stored_for_policies"] = stored
    spec.loader.exec_module(stored)
    store = Store.open(tmp_path_factory.mktemp("made") / "evaluator.duckdb", create=True)
    for service in POLICIES:
        stored.land(store, f"{service}@1.9.0", stored.DESIGNS["cart@1.9.0"], service=service)
    return store.path.parent


@pytest.fixture
def call(made, tmp_path, monkeypatch, capfd):
    """Call a command in a folder of its own that has a policy for each service."""
    import shutil

    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "evaluator.policies"
    folder.mkdir()
    for name, text in POLICIES.items():
        (folder / f"{name}.yaml").write_text(text.replace("HERE", str(tmp_path)))

    def invoke(*arguments):
        code = run([*arguments])
        out, err = capfd.readouterr()
        return code, out, err

    invoke.folder = folder
    return invoke


def judged(call, release, *arguments):
    code, out, _ = call("verdict", release, "--format", "json", *arguments)
    assert code == 0
    return json.loads(out)


def test_a_verdict_names_its_policy_and_the_command_that_judges_again_by_it(call):
    for service, alpha in (("cart", 0.04), ("shop", 0.03)):
        verdict = judged(call, f"{service}@1.9.0")
        path = str(call.folder / f"{service}.yaml")
        assert (verdict["alpha"], verdict["policy_path"]) == (alpha, path)
        again = f"evaluator verdict {service}@1.9.0 --policy {path}"
        for name in ("human", "markdown"):
            _, out, _ = call("verdict", f"{service}@1.9.0", "--format", name)
            assert again in " ".join(out.replace("\\", "").split())
        same = judged(call, f"{service}@1.9.0", "--policy", path)
        assert same["policy_hash"] == verdict["policy_hash"]
        assert "policy_path" not in same
        text = json.dumps(verdict)
        assert from_json(text).policy_path == path


def test_a_report_with_figures_has_the_command(call):
    call("verdict", "shop@1.9.0", "--format", "html=report.html")
    assert f"--policy {call.folder}/shop.yaml" in Path("report.html").read_text()


def test_what_is_missing_is_judged_by_the_same_policy(call):
    (call.folder / "shop.yaml").write_text("metrics: [{name: o, type: outcome_mean, outcome: revenue, margin: 1%}]\n")
    code, out, _ = call("verdict", "shop@1.9.0", "--format", "json")
    assert code == 3
    assert f"`evaluator verdict shop@1.9.0 --policy {call.folder}/shop.yaml`" in json.loads(out)["next_action"]


def test_a_watch_judges_by_it_and_does_not_guess_before_there_is_a_release(call):
    code, out, _ = call("watch", "shop@1.9.0", "--format", "json", "--wait", "20s")
    assert (code, json.loads(out)["alpha"]) == (0, 0.03)
    (call.folder / "default.yaml").write_text("")
    code, _, err = call("watch", "shop@2", "--wait", "1s")
    assert (code, "there is no release 'shop@2'" in err) == (2, True)


def test_no_verdict_by_the_policy_of_another_service(call):
    (call.folder / "shop.yaml").unlink()
    code, out, err = call("verdict", "shop@1.9.0")
    assert (code, out) == (2, "")
    assert "there is no policy of service 'shop'; known: 'cart'" in err


def test_each_is_promoted_by_the_hooks_of_its_service(call):
    for service in POLICIES:
        call("verdict", f"{service}@1.9.0")
        code, out, _ = call("promote", f"{service}@1.9.0", "--yes")
        assert (code, "acknowledged" in out) == (0, True)
    assert Path("out.txt").read_text().split() == ["cart", "shop"]
    code, out, _ = call("hooks", "test")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines() if line.startswith("ok")] == [
        f"{call.folder}/{service}.yaml:" for service in POLICIES
    ]


def test_who_promotes_is_told_to_judge_by_the_policy_that_applies(call):
    call("verdict", "shop@1.9.0", "--policy", str(call.folder / "cart.yaml"))
    code, _, err = call("promote", "shop@1.9.0", "--yes")
    assert (code, "the policy is not the one that judged" in err) == (3, True)
    assert f"judge it again: evaluator verdict shop@1.9.0 --policy {call.folder}/shop.yaml" in " ".join(err.split())


def test_a_worker_takes_the_policy_of_each_release(call):
    for service in POLICIES:
        call("verdict", f"{service}@1.9.0")
        assert call("promote", f"{service}@1.9.0", "--yes", "--queue")[0] == 0
    store = Store.open(Path("evaluator.duckdb"))
    done = execute_waiting(store, lambda release: policy_of(call.folder, store, [release]), "w")
    assert [one.release for one in done] == ["cart@1.9.0", "shop@1.9.0"]
    assert Path("out.txt").read_text().split() == ["cart", "shop"]
    code, out, _ = call("hooks", "worker", "--once")
    assert (code, out) == (0, "nothing waits\n")


def test_replay_and_calibration_and_plans(call):
    for service in POLICIES:
        call("verdict", f"{service}@1.9.0")
    code, out, _ = call("replay")
    assert (code, f"0 of 2 verdicts would change under {call.folder}" in out) == (0, True)
    code, _, err = call("calibrate")
    assert (code, "these releases have policies of their own" in err) == (2, True)
    code, out, _ = call("calibrate", "shop@1.9.0", "--json", "--splits", "2")
    assert (code, json.loads(out)["alpha"]) == (0, 0.03)
    assert call("plan", "shop@1.9.0")[0] == 0
    code, _, err = call("plan", "--rate", "30")
    assert (code, "the service is not known" in err) == (2, True)


def test_what_records_needs_to_know_the_service(call):
    for arm in ("old", "new"):
        write_requests(Path(f"{arm}.parquet"), slower=1.0, seed=1 if arm == "old" else 2)
    files = ("--baseline", "old.parquet", "--canary", "new.parquet")
    code, _, err = call("import", "shop@2", *files)
    assert (code, "the service is not known" in err, "--service" in err) == (2, True, True)
    assert call("import", "shop@2", *files, "--service", "shop")[0] == 0
    assert call("import", "shop@2", *files)[0] == 0
    code, _, err = call("load", "mail@1", "--baseline", "http://h:1", "--canary", "http://h:2", "--service", "mail")
    assert (code, "there is no policy of service 'mail'" in err) == (2, True)
    code, _, err = call("collect", "shop@2")
    assert (code, "the service is not known" in err) == (2, False)


def test_policies_are_written_checked_and_shown(call):
    assert call("init", "--service", "mail")[0] == 0
    assert (call.folder / "mail.yaml").exists()
    code, out, _ = call("policy", "check")
    assert (code, [line.split(":")[0] for line in out.splitlines()]) == (
        0,
        [str(call.folder / f"{name}.yaml") for name in ("cart", "mail", "shop")],
    )
    code, out, _ = call("policy", "show", "--service", "shop")
    assert (code, "alpha: 0.03" in out) == (0, True)
    assert call("policy", "show")[0] == 2
    assert call("init", "--service", "a/b")[0] == 2
    (call.folder / "mail.yaml").write_text("service: cart\n")
    code, _, err = call("policy", "check")
    assert (code, "the policy of cart is" in err) == (2, True)


def test_a_notebook_judges_by_it(call):
    release = evaluator.open().release("shop@1.9.0")
    assert release.compare().verdict.alpha == 0.03
    assert release.compare(policy=call.folder / "cart.yaml").verdict.alpha == 0.04
    assert release.compare(policy=call.folder, mode="shadow").verdict.mode == "shadow"
