"""Promoting, holding and rolling back from the command line: same intents, same checks."""

import json
import os
import pty
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluator.__main__ import run as run_command
from evaluator.policy import load_policy
from evaluator.store import Store

ME = pwd.getpwuid(os.getuid()).pw_name
HOOKS = """hooks:
  promote:
    - command:
        run: [sh, -c, "echo promoted-${canary} >> out.txt"]
        undo: [sh, -c, "echo back >> out.txt"]
        folder: HERE
"""


@pytest.fixture
def run(judged_store, tmp_path, capfd, monkeypatch):
    folder = tmp_path / "place"
    shutil.copytree(judged_store.parent, folder)
    monkeypatch.chdir(folder)

    def call(*arguments, policy=None, **environment):
        if policy is not None:
            (folder / "evaluator.yaml").write_text(policy.replace("HERE", str(folder)))
        with monkeypatch.context() as patch, Path(os.devnull).open() as nothing:
            patch.setattr(sys, "stdin", nothing)
            for name, value in environment.items():
                patch.setenv(name, value)
            code = run_command(arguments)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    call.folder = folder
    return call


def lines(run):
    out = run.folder / "out.txt"
    return out.read_text().split() if out.exists() else []


def test_tested_promoted_and_rolled_back(run):
    code, out, _ = run("hooks", "test", policy=HOOKS)
    assert (code, out.splitlines()[0]) == (0, "ok      promote: runs sh -c 'echo promoted-${canary} >> out.txt'")
    assert run("hooks", "log")[1] == "there are no intents yet\n"
    code, out, _ = run("promote", "cart@1.9.0", "--dry-run")
    assert code == 0
    assert "1. promote: runs sh -c 'echo promoted-1.9.0 >> out.txt'" in out
    assert "needs 1 approval" in out
    assert lines(run) == []
    code, out, _ = run("promote", "cart@1.9.0", "--yes")
    assert (code, out.splitlines()[0]) == (0, "i1 promote cart@1.9.0: acknowledged: 1 hook done")
    assert lines(run) == ["promoted-1.9.0"]
    assert run("promote", "cart@1.9.0", "--yes")[0] == 0
    assert lines(run) == ["promoted-1.9.0"]
    code, _, err = run("rollback", "cart@1.9.0", "--yes")
    assert (code, "the reason is missing" in err) == (2, True)
    code, out, _ = run("rollback", "cart@1.9.0", "--yes", "--reason", "carts are odd")
    assert code == 0
    assert lines(run) == ["promoted-1.9.0", "back"]
    code, out, _ = run("hooks", "log", "cart@1.9.0", "--json")
    assert [(row["event"], row["state"], row["attempts"]) for row in json.loads(out)] == [
        ("promote", "acknowledged", 1),
        ("undo", "acknowledged", 1),
    ]
    assert run("audit", "verify")[1].startswith("sha256:")
    assert run("audit", "note", "cart@1.9.0", "<b>prices</b> shown twice")[0] == 0
    run("verdict", "cart@1.9.0", "--dry-run", "--format", "html=report.html")
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "rolled back at" in page.partition("<main>")[0]  # in the summary on top
    happened = page.partition('id="life"')[2].partition("</section>")[0]
    order = ("judged GO", "promotion requested", "promotion done", "rollback requested", "carts are odd")
    places = [happened.index(part) for part in order]
    assert places == sorted(places)
    assert f"{ME}:</span> &lt;b&gt;prices&lt;/b&gt; shown twice" in happened


def test_a_no_go_exits_as_one_and_conditions_that_are_not_met_as_three(run):
    code, _, err = run("promote", "cart@1.6.0", "--yes", policy=HOOKS)
    assert (code, "cart@1.6.0 is not promoted: the verdict is NO-GO" in err) == (1, True)
    assert (
        "would be refused now: cart@1.6.0 is not promoted: the verdict is"
        in run("promote", "cart@1.6.0", "--dry-run")[1]
    )
    assert "would be refused" not in run("promote", "cart@1.9.0", "--dry-run")[1]
    code, _, err = run("promote", "cart@1.9.0", "--yes", policy="")
    assert (code, "the policy names no hooks that promote" in err) == (3, True)
    code, _, err = run("promote", "cart@1.9.1", "--yes")
    assert (code, "did you mean" in err) == (2, True)
    code, _, err = run("rollback", "cart@1.9.0", "--yes", "--reason", "x")
    assert (code, "nothing to roll back" in err) == (3, True)


def test_without_a_terminal_it_has_to_be_confirmed(run):
    code, _, err = run("promote", "cart@1.9.0", policy=HOOKS)
    assert (code, "promote needs a confirmation, and stdin is not a terminal" in err) == (2, True)
    assert lines(run) == []


@pytest.mark.parametrize(("typed", "code"), [("cart@1.9.0", 0), ("cart@1.6.0", 2), ("", 2)])
def test_a_person_types_the_name(run, typed, code):
    run("policy", "check", policy=HOOKS)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "evaluator", "promote", "cart@1.9.0"],
        cwd=run.folder, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        os.write(ours, f"{typed}\n".encode())
        _, err = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == code
    assert b"Type cart@1.9.0 to confirm: promote" in err
    assert len(lines(run)) == (code == 0)


def test_the_person_does_not_come_from_the_environment(run):
    policy = f"{HOOKS}roles: {{approver: [bob]}}\n"
    code, _, err = run("promote", "cart@1.9.0", "--yes", policy=policy, LOGNAME="bob", USER="bob", USERNAME="bob")
    assert (code, f"{ME} is a viewer" in err) == (3, True)
    assert run("audit", "show")[1].count(f"{ME}  refused") == 1


def test_a_request_waits_for_the_approvals_of_others(run):
    code, out, err = run("promote", "cart@1.9.0", "--yes", policy=f"{HOOKS}sensitive: true\n")
    assert (code, "2 people other than" in err) == (3, True)
    assert out == "i1 promote cart@1.9.0: requested\n"
    request, step = run("approve")[1].splitlines()
    assert request.endswith(f"requested by {ME}: the verdict is GO")
    assert step == "  1. promote: runs sh -c 'echo promoted-1.9.0 >> out.txt'"
    code, _, err = run("approve", "i1")
    assert (code, f"{ME} requested i1 and cannot approve it too" in err) == (2, True)
    code, out, _ = run("reject", "i1", "--reason", "not today")
    assert (code, out) == (0, "i1 promote cart@1.9.0: cancelled: not today\n")
    assert run("approve")[1] == "no request waits for approval\n"
    assert lines(run) == []


def test_an_approver_executes_what_an_analyst_requested(run):
    from evaluator.intents import ActionRequest, ask
    from evaluator.records.intents import Action, Person

    run("policy", "check", policy=f"{HOOKS}roles: {{analyst: [ana], approver: ['{ME}']}}\n")
    store, policy = Store.open(run.folder / "evaluator.duckdb"), load_policy(run.folder / "evaluator.yaml")
    ask(store, policy, Person("ana", ("ana",)), ActionRequest(Action.PROMOTE, "cart@1.9.0", "fine"))
    code, out, _ = run("approve", "i1")
    assert (code, "acknowledged" in out) == (0, True)
    assert lines(run) == ["promoted-1.9.0"]


def test_a_hook_that_fails_is_four_and_tried_again(run):
    policy = 'hooks: {promote: [{command: {run: [sh, -c, "test -e HERE/ready"]}}]}\n'
    code, out, err = run("promote", "cart@1.9.0", "--yes", policy=policy)
    assert (code, "failed: hook 1 (command) failed" in out, "hooks retry i1" in err) == (4, True, True)
    (run.folder / "ready").touch()
    code, out, _ = run("hooks", "retry", "i1")
    assert (code, "acknowledged" in out) == (0, True)
    code, _, err = run("hooks", "retry", "i9")
    assert (code, "there is no intent 'i9'" in err) == (2, True)


def test_an_unknown_outcome_is_resolved_by_a_person(run):
    policy = 'hooks: {promote: [{command: {run: [sh, -c, "sleep 9"], timeout: 200ms}}]}\n'
    code, out, _ = run("promote", "cart@1.9.0", "--yes", policy=policy)
    assert (code, "unknown" in out) == (4, True)
    assert run("hooks", "resolve", "i1", "1", "done")[0] == 2
    assert run("hooks", "resolve", "i1", "7", "done", "--reason", "x")[0] == 2
    code, out, _ = run("hooks", "resolve", "i1", "1", "done", "--reason", "it runs in production")
    assert (code, "it runs in production" in out, "acknowledged" in out) == (0, True, True)


def test_a_hook_that_could_not_be_executed_fails_its_test(run):
    code, out, err = run("hooks", "test", policy="hooks: {hold: [{command: {run: [no-such-program]}}]}\n")
    assert (code, out.startswith("FAILED  hold"), "1 of 1 hooks could not" in err) == (4, True, True)
    code, _, err = run("hooks", "test", "promot")
    assert (code, "did you mean 'promote'?" in err) == (2, True)


def test_each_hook_is_tested_whatever_is_wrong_with_others(run):
    """The exit code is the worst: 4 if one could not be executed, 2 if the policy has mistakes only."""
    runs, wrong = (
        "{command: {run: ['true']}}",
        "{haproxy: {backend: b, socket: s, servers: {baseline: a, canary: c}, shares: {canary: 40%}}}",
    )
    fails, unknown = "{command: {run: [no-such-program]}}", "{haproxyy: {}}"
    code, out, err = run("hooks", "test", policy=f"hooks: {{promote: [{wrong}, {runs}, {fails}, {unknown}]}}\n")
    assert (code, "3 of 4 hooks could not be executed" in err) == (4, True)
    assert [line.split()[0] for line in out.splitlines() if "  promote: " in line] == [
        "FAILED",
        "ok",
        "FAILED",
        "FAILED",
    ]
    assert "hooks.promote[0].haproxy.shares: must add up to 100%, not 40%" in out
    assert "there is no hook 'haproxyy'; did you mean 'haproxy'?" in out
    code, out, err = run("hooks", "test", policy=f"alpha: 7\nhooks: {{promote: [{runs}], hold: [{wrong}]}}\n")
    assert (code, "1 of 2 hooks could not be executed" in err) == (2, True)
    code, out, err = run("hooks", "test", "promote")
    assert (code, "ok      promote" in out, "hooks.hold" in out, "alpha: must be" in out) == (2, True, False, True)
    assert "the policy has mistakes, so no hook of it is executed" in err
    for text in ("hooks: {promote: [\n", f"hooks: {{promote: {runs}}}\n", "hooks: 3\n", "3\n"):
        code, out, _ = run("hooks", "test", policy=text)
        assert (code, out.startswith("FAILED  policy: it cannot be used\n")) == (2, True), out


def test_a_worker_executes_what_is_queued_and_ends_on_a_signal(run):
    code, out, _ = run("promote", "cart@1.9.0", "--yes", "--queue", policy=HOOKS)
    assert (code, out) == (0, "i1 promote cart@1.9.0: approved\n")
    assert lines(run) == []
    code, out, _ = run("hooks", "worker", "--once")
    assert (code, "i1 promote cart@1.9.0: acknowledged" in out) == (0, True)
    worker = subprocess.Popen(
        [sys.executable, "-m", "evaluator", "hooks", "worker"],
        cwd=run.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        code, out, _ = run("rollback", "cart@1.9.0", "--yes", "--queue", "--wait", "30s", "--reason", "odd")
        assert (code, "acknowledged" in out) == (0, True)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
    finally:
        worker.kill()
        worker.communicate()
    assert lines(run) == ["promoted-1.9.0", "back"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_a_promotion_complete_its_hooks(number, run):
    """A program that went on by itself could overtake a rollback. A second signal does not wait."""
    slow = f"{{command: {{run: [sh, -c, 'echo begun >> {run.folder}/out.txt; sleep 1']}}}}"
    after = f"{{command: {{run: [sh, -c, 'echo after >> {run.folder}/out.txt']}}}}"
    (run.folder / "evaluator.yaml").write_text(f"hooks: {{promote: [{slow}, {after}]}}\n")
    # A shell that started the tests in the background may have made the signal ignored.
    code = f"import signal, runpy; signal.signal({int(number)}, signal.default_int_handler)"
    promoting = subprocess.Popen(
        [sys.executable, "-c", f"{code}; runpy.run_module('evaluator', run_name='__main__')", "promote", "cart@1.9.0",
         "--yes"],
        cwd=run.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while not lines(run):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        promoting.send_signal(number)
        out, err = promoting.communicate(timeout=10)
    finally:
        promoting.kill()
        promoting.wait()
    assert (promoting.returncode, "2 hooks done" in out, "it ends after the hooks" in err) == (0, True, True), err
    assert lines(run) == ["begun", "after"]


def test_a_hold_is_recorded_even_where_no_hook_is_named(run):
    code, out, _ = run("hold", "cart@1.9.0", "--yes", "--reason", "support reports odd carts", policy=HOOKS)
    assert (code, "the policy names no hooks for it" in out) == (0, True)


def test_against_the_verdict(run):
    code, _, err = run("promote", "cart@1.6.0", "--break-glass", "--yes", policy=HOOKS)
    assert (code, "the reason is missing" in err) == (2, True)
    code, out, _ = run("promote", "cart@1.6.0", "--break-glass", "--yes", "--reason", "the old one is on fire")
    assert (code, out) == (3, "i1 override cart@1.6.0: requested\n")


def test_waiting_ends_with_its_time(run):
    began = time.monotonic()
    code, out, _ = run("promote", "cart@1.9.0", "--yes", "--wait", "2s", policy=f"{HOOKS}sensitive: true\n")
    assert (code, out) == (3, "i1 promote cart@1.9.0: requested\n")
    assert time.monotonic() - began >= 2


def test_what_is_refused_when_it_is_executed_is_three(run):
    code, _, _ = run("promote", "cart@1.9.0", "--yes", "--queue", policy=HOOKS)
    (run.folder / "evaluator.yaml").write_text(HOOKS.replace("back", "forth").replace("HERE", str(run.folder)))
    code, out, err = run("promote", "cart@1.9.0", "--yes", "--wait", "1s")
    assert (code, "hooks or approvals have changed" in out) == (3, True)
    assert "nothing was executed" in err
    assert "hooks retry" not in err


def test_a_request_whose_hooks_have_changed_is_not_shown_with_others(run):
    run("promote", "cart@1.9.0", "--yes", policy=f"{HOOKS}sensitive: true\n")
    (run.folder / "evaluator.yaml").write_text(f"{HOOKS}sensitive: true\n".replace("HERE", "/"))
    assert "it will be refused: the policy's hooks or approvals have changed since" in run("approve")[1]
    (run.folder / "evaluator.yaml").write_text("hooks: [")
    assert "its hooks cannot be shown" in run("approve")[1]


def test_a_hook_that_would_be_refused_says_so_beforehand(run, monkeypatch):
    monkeypatch.setattr("evaluator.hooks.command.Command.find_obstacle", lambda *_: "canary is drained")
    code, out, _ = run("promote", "cart@1.9.0", "--dry-run", policy=HOOKS)
    assert (code, "\n     would be refused now: canary is drained\n" in out) == (0, True)


def test_hooks_of_a_rollback_are_tested_as_such(run):
    with pytest.MonkeyPatch.context() as patch:
        actions = []
        patch.setattr("evaluator.hooks.command.Command._check_target", lambda *_: actions.append("checked"))
        run(
            "hooks",
            "test",
            policy='hooks: {promote: [{command: {run: ["true"]}}], rollback: [{command: {run: ["true"]}}]}\n',
        )
    assert actions == ["checked"], "of the promotion only"


def test_what_waits_for_others_is_three_in_the_queue_too(run):
    code, _, _ = run("promote", "cart@1.9.0", "--yes", "--queue", policy=f"{HOOKS}sensitive: true\n")
    assert code == 3


def test_what_people_write_is_escaped_for_the_terminal(run):
    turned = "fine \u202eenif"
    run("promote", "cart@1.9.0", "--yes", "--reason", turned, policy=f"{HOOKS}sensitive: true\n")
    for command in (["approve"], ["hooks", "log"], ["audit", "show"]):
        out = run(*command)[1]
        assert "\u202e" not in out
    assert "\\u202e" in run("approve")[1]


def test_notes_need_an_analyst(run):
    code, _, err = run("audit", "note", "cart@1.9.0", "fine", policy="roles: {analyst: [bob]}\n")
    assert (code, "writing notes needs an analyst" in err) == (3, True)


def test_a_go_on_a_part_of_the_time_promotes_nothing(run):
    run("--version", policy=HOOKS)
    window = json.loads(run("verdict", "cart@1.9.0", "--format", "json")[1])["window"]
    code, out, _ = run("verdict", "cart@1.9.0", "--from", window["start"])
    assert (code, out[:4]) == (0, "GO ✓")
    assert (
        "next: a part of the time is GO, which promotes nothing; judge the whole: `evaluator verdict cart@1.9.0`"
        in " ".join(out.split())
    )
    code, _, err = run("promote", "cart@1.9.0", "--reason", "only the good part", "--yes")
    assert (code, "the verdict is on a part of the time (--from, --to)" in err) == (3, True)
    _, _, err = run("promote", "cart@1.9.0", "--break-glass", "--reason", "only the good part", "--yes")
    assert "Hint: judge the whole time: evaluator verdict cart@1.9.0" in err
    assert run("verdict", "cart@1.9.0")[0] == 0
    assert run("promote", "cart@1.9.0", "--reason", "all of it", "--yes")[0] == 0


def test_the_list_of_releases_says_what_was_done_with_each(run):
    """Promoted, rolled back, and refused until it is judged again."""
    assert run("promote", "cart@1.9.0", "--yes", policy=HOOKS)[0] == 0
    assert "● live" in run("releases")[1]
    assert run("rollback", "cart@1.9.0", "--yes", "--reason", "prices shown twice")[0] == 0
    code, _, err = run("promote", "cart@1.9.0", "--yes")
    assert (code, "it was rolled back by" in err, "prices shown twice" in err) == (3, True, True)
    assert "judge it again: evaluator verdict cart@1.9.0" in err
    plain = {row["release"]: row for row in json.loads(run("releases", "--json")[1])}
    assert (plain["cart@1.9.0"]["state"], plain["cart@1.9.0"]["live"]) == ("rolled back", False)
    assert plain["cart@1.9.0"]["state_text"].endswith(": prices shown twice")
    assert plain["cart@1.6.0"]["state"] == "judged"


def test_a_verdict_says_what_is_next_with_a_release_that_is_held_live_or_rolled_back(run):
    def find_next(*options):
        code, out, _ = run("verdict", "cart@1.9.0", *options)
        assert code == 0
        return " ".join(out.split("next: ")[1].split("\n\n")[0].split())

    assert run("policy", "check", policy=HOOKS)[0] == 0
    assert find_next("--dry-run").startswith("promote cart@1.9.0")
    assert run("hold", "cart@1.9.0", "--reason", "the cart is odd", "--yes")[0] == 0
    assert find_next("--dry-run").startswith("when the cause of the hold is gone, judge it again")
    assert find_next().startswith("promote cart@1.9.0")  # judged since
    assert run("promote", "cart@1.9.0", "--yes")[0] == 0
    assert find_next().startswith("nothing: it is live; `evaluator rollback cart@1.9.0")
    assert "nothing: it is live" in json.loads(run("verdict", "cart@1.9.0", "--format", "json")[1])["next_action"]
    assert run("rollback", "cart@1.9.0", "--reason", "empty carts", "--yes")[0] == 0
    assert find_next("--dry-run").startswith("find and fix the cause, and load a new candidate")
