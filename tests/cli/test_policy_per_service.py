"""A policy for each service: every command takes the one for the release's service, and names it."""

import json
import re
import shlex
from pathlib import Path

import pytest
from request_files import write_requests
from stored import DESIGNS, land

import evaluator
from evaluator.__main__ import run
from evaluator.errors import UsageError
from evaluator.intents import execute_waiting
from evaluator.policy.selection import policy_of
from evaluator.records import Release, Service
from evaluator.reports import from_json
from evaluator.store import Store

POLICIES = {
    "cart": "alpha: 0.04\nhooks: {promote: [{command: {run: [sh, -c, 'echo cart >> out.txt'], folder: HERE}}]}\n",
    "shop": "alpha: 0.03\nhooks: {promote: [{command: {run: [sh, -c, 'echo shop >> out.txt'], folder: HERE}}]}\n",
}


@pytest.fixture(scope="module")
def stored_folder(tmp_path_factory):
    """A store with a release of cart and one of shop that can be promoted."""
    store = Store.open(tmp_path_factory.mktemp("made") / "evaluator.duckdb", create=True)
    for service in POLICIES:
        land(store, f"{service}@1.9.0", DESIGNS["cart@1.9.0"], service=service)
    return store.path.parent


@pytest.fixture
def call(stored_folder, tmp_path, monkeypatch, capfd):
    """Call a command in a folder of its own that has a policy for each service."""
    import shutil

    shutil.copytree(stored_folder, tmp_path, dirs_exist_ok=True)
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
            assert f"judge again by it: `{again}`" in " ".join(out.split())
        same = judged(call, f"{service}@1.9.0", "--policy", path)
        assert same["policy_hash"] == verdict["policy_hash"]
        assert same["policy_path"] == path
        text = json.dumps(verdict)
        assert from_json(text).policy_path == path


def test_the_path_of_a_policy_is_whole_and_that_of_a_file_is_named_too(call, monkeypatch):
    loose = Path("loose.yaml")
    loose.write_text("")
    assert judged(call, "cart@1.9.0", "--policy", "loose.yaml")["policy_path"] == str(loose.absolute())
    monkeypatch.setenv("EVALUATOR_POLICY", "loose.yaml")
    assert judged(call, "cart@1.9.0")["policy_path"] == str(loose.absolute())
    monkeypatch.delenv("EVALUATOR_POLICY")
    call.folder.rename("policies")
    monkeypatch.chdir("policies")
    in_folder = judged(call, "cart@1.9.0", "--store", "../evaluator.duckdb", "--policy", ".")
    assert in_folder["policy_path"] == str(Path("cart.yaml").absolute())
    Path("cart.yaml").rename("../evaluator.yaml")
    assert "policy_path" not in judged(call, "cart@1.9.0", "--store", "../evaluator.duckdb")


def test_following_the_command_that_is_printed_ends_with_a_promotion(call):
    Path("loose.yaml").write_text("alpha: 0.02\n" + POLICIES["cart"].partition("\n")[2].replace("HERE", "."))
    call("verdict", "cart@1.9.0")
    code, _, err = call("promote", "cart@1.9.0", "--policy", "loose.yaml", "--yes")
    again = f"evaluator verdict cart@1.9.0 --policy {Path('loose.yaml').absolute()}"
    assert (code, again in " ".join(err.split())) == (3, True)
    assert call(*again.split()[1:])[0] == 0
    assert call("promote", "cart@1.9.0", "--policy", "loose.yaml", "--yes")[0] == 0


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
    code, out, _ = call("watch", "shop@2", "--wait", "1s")
    assert (code, "the deadline passed after 1 s: there is no such release in the store" in out) == (3, True)


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


def test_a_promotion_asks_to_judge_by_the_policy_that_applies(call):
    call("verdict", "shop@1.9.0", "--policy", str(call.folder / "cart.yaml"))
    code, _, err = call("promote", "shop@1.9.0", "--yes")
    words = " ".join(err.split())
    assert code == 3
    assert f"it was judged by {call.folder}/cart.yaml, and {call.folder}/shop.yaml applies here" in words
    assert f"judge it again: evaluator verdict shop@1.9.0 --policy {call.folder}/shop.yaml" in words


def test_a_worker_takes_the_policy_of_each_release(call):
    for service in POLICIES:
        call("verdict", f"{service}@1.9.0")
        assert call("promote", f"{service}@1.9.0", "--yes", "--queue")[0] == 0
    store = Store.open(Path("evaluator.duckdb"))
    done = execute_waiting(store, lambda release: policy_of(call.folder, store, [release]), "w")
    assert [intent.release for intent in done] == ["cart@1.9.0", "shop@1.9.0"]
    assert Path("out.txt").read_text().split() == ["cart", "shop"]
    code, out, _ = call("hooks", "worker", "--once")
    assert (code, out) == (0, "no intent waits for execution\n")


def test_replay_and_calibration_and_plans(call):
    for service in POLICIES:
        call("verdict", f"{service}@1.9.0")
    code, out, _ = call("replay")
    assert (code, f"0 of 2 verdicts would change under {call.folder}" in out) == (0, True)
    code, _, err = call("calibrate")
    assert (code, "these releases have different policies" in err) == (2, True)
    code, out, _ = call("calibrate", "shop@1.9.0", "--json", "--splits", "2")
    assert (code, json.loads(out)["alpha"]) == (0, 0.03)
    assert call("plan", "shop@1.9.0")[0] == 0
    code, _, err = call("plan", "--rate", "30")
    assert (code, "the service is not known" in err) == (2, True)


def test_commands_that_record_need_the_service(call):
    for arm in ("old", "new"):
        write_requests(Path(f"{arm}.parquet"), slower=1.0, seed=1 if arm == "old" else 2)
    files = ("--baseline", "old.parquet", "--canary", "new.parquet")
    code, _, err = call("import", "shop@2", *files)
    assert (code, "the service is not known" in err, "--service" in err) == (2, True, True)
    assert "--policy" in err.partition("--service")[0]
    code, _, err = call("import", "shop@2", *files, "--service", "shop")
    assert (code, f"next: `evaluator verdict shop@2 --policy {call.folder}/shop.yaml`" in err) == (0, True)
    assert call("import", "shop@2", *files)[0] == 0
    for extra in (
        ["import", "shop@2", *files],
        ["load", "shop@2", "--baseline", "http://h:1", "--canary", "http://h:2"],
    ):
        code, _, err = call(*extra, "--service", "cart")
        assert (code, "cart and shop are released together" in err) == (2, True)
    code, _, err = call("load", "mail@1", "--baseline", "http://h:1", "--canary", "http://h:2", "--service", "mail")
    assert (code, "there is no policy of service 'mail'" in err) == (2, True)
    code, _, err = call("collect", "shop@2")
    assert (code, "the service is not known" in err) == (2, False)


def test_a_missing_or_wrong_service_can_be_set(call):
    for name in ("old", "new", "old2", "new2"):
        write_requests(Path(f"{name}.parquet"), slower=1.0, seed=len(name))
    first, second = (("--baseline", f"old{n}.parquet", "--canary", f"new{n}.parquet") for n in ("", "2"))
    loose = ("--policy", str(call.folder / "cart.yaml"))
    assert call("import", "r@1", *first, "--canary-version", "2", *loose)[0] == 0
    assert call("verdict", "r@1")[0] == 2
    code, out, err = call("import", "r@1", *first, "--service", "crat", *loose)
    assert (code, "no row was added" in out, "r@1 is a release of crat from now on\n" in err) == (0, True, True)
    code, _, err = call("import", "r@1", *second, "--service", "cart", *loose)
    assert (code, "r@1 is a release of crat and cart from now on" in err) == (0, True)
    assert "data service r@1 NAME`" in err
    code, _, err = call("import", "r@1", *second, "--service", "cart", *loose)
    assert (code, "from now on" in err) == (0, False)
    code, _, err = call("verdict", "r@1")
    assert (code, "evaluator data service RELEASE NAME" in err) == (2, True)
    assert call("data", "service", "r@1", "crat")[0] == 0
    code, out, _ = call("data", "service", "r@1", "cart")
    assert (code, out) == (0, "r@1 is a release of cart\n")
    [plain] = [row for row in json.loads(call("releases", "--json")[1]) if row["release"] == "r@1"]
    assert plain["services"] == [{"name": "cart", "baseline": "", "canary": "2"}]
    assert json.loads(call("verdict", "r@1", "--format", "json")[1])["policy_path"] == str(call.folder / "cart.yaml")
    assert "crat → cart" in call("audit", "show", "r@1")[1]
    assert call("audit", "verify")[0] == 0
    assert call("data", "service", "r@2", "cart")[0] == 2
    assert call("data", "service", "r@1", " cart")[0] == 2


def test_a_service_is_named_once(call):
    for command in (["import", "r@1"], ["policy", "show"], ["init"]):
        code, _, err = call(*command, "--service", "cart", "--service", "shop")
        assert (code, "--service is given more than once" in err) == (2, True)


def test_policies_are_written_checked_and_shown(call):
    assert call("init", "--service", "mail")[0] == 0
    assert (call.folder / "mail.yaml").exists()
    code, out, _ = call("policy", "check")
    assert (code, [line.split(":")[0] for line in out.splitlines()]) == (
        0,
        [str(call.folder / f"{name}.yaml") for name in ("cart", "mail", "shop")],
    )
    assert [line.split("; ")[1] for line in out.splitlines()] == ["for cart", "for mail", "for shop"]
    code, out, _ = call("policy", "show", "--service", "shop")
    assert (code, "alpha: 0.03" in out) == (0, True)
    assert call("policy", "show")[0] == 2
    for name in ("a/b", ".cart"):
        code, _, err = call("init", "--service", name)
        assert (code, f"write a file in evaluator.policies with the line `service: {name}`" in err) == (2, True)
    (call.folder / "gone.yaml").symlink_to("nowhere")
    assert call("init", "--service", "gone")[0] == 2
    (call.folder / "gone.yaml").unlink()
    (call.folder / "mail.yaml").write_text("service: cart\n")
    code, _, err = call("policy", "check")
    assert (code, "the policy of cart is" in err) == (2, True)


def test_a_notebook_judges_by_it(call):
    release = evaluator.open().release("shop@1.9.0")
    assert release.compare().verdict.alpha == 0.03
    assert release.compare(policy=call.folder / "cart.yaml").verdict.alpha == 0.04
    assert release.compare(policy=call.folder, mode="shadow").verdict.mode == "shadow"


def test_versions_without_a_service_are_refused_where_the_release_has_several(call):
    """They would be those of a service without a name; the command in the advice works."""
    for name in ("old", "new", "old2", "new2"):
        write_requests(Path(f"{name}.parquet"), slower=1.0, seed=len(name))
    first, second = (("--baseline", f"old{n}.parquet", "--canary", f"new{n}.parquet") for n in ("", "2"))
    loose = ("--policy", str(call.folder / "cart.yaml"))
    assert call("import", "r@1", *first, "--service", "cart", *loose)[0] == 0
    assert call("data", "service", "r@1", "cart", "shop", *loose)[0] == 0
    code, _, err = call(*loose, "import", "r@1", *second, "--canary-version", "2.1")
    assert (code, "r@1 is a release of cart and shop: it is not known which of them has" in err) == (2, True)
    advised = re.search(r"`evaluator ([^`]*)`", err)[1]
    code, _, err = call(*shlex.split(advised))
    assert code == 0, err
    [plain] = [row for row in json.loads(call("releases", "--json")[1]) if row["release"] == "r@1"]
    cart = {"name": "cart", "baseline": "", "canary": "2.1"}
    assert plain["services"] == [cart, {"name": "shop", "baseline": "", "canary": ""}]
    store = Store.open(Path("evaluator.duckdb"))
    given = Release("r@1", (Service("", "1", "2"),))
    with pytest.raises(UsageError, match="which of them"):
        store.control.add_release(given)
    with pytest.raises(UsageError, match="which of them"), store.control.landing(given):
        raise AssertionError("nothing lands")
