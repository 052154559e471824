import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hooks_world import make_context, paste
from metrics_servers import wait_for

from evaluator.errors import PolicyError
from evaluator.hooks import make_hook

PATH = os.environ["PATH"]


def python(code, *arguments, **options):
    return make_hook("command", {"run": [sys.executable, "-c", code, *arguments], **options}, {"PATH": PATH})


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"


@pytest.mark.parametrize(("code", "state"), [(0, "acknowledged"), (3, "failed")])
def test_its_exit_code_decides_and_its_output_is_kept(code, state):
    outcome = python(f"import sys; print('out'); print('err', file=sys.stderr); sys.exit({code})").execute(
        make_context()
    )
    assert outcome.state == state
    assert {"out", "err"} == set(outcome.response.split())


def test_no_shell_reads_the_arguments():
    context = make_context(reason="$(touch /tmp/owned); `id` ${canary}")
    outcome = python("import sys; print(sys.argv[1:])", "${release}", "why: ${reason}", "; ls").execute(context)
    assert outcome.response == str(["cart@1.5.0", "why: $(touch /tmp/owned); `id` ${canary}", "; ls"])


def test_it_is_given_what_is_listed_and_what_was_decided():
    hook = make_hook(
        "command",
        {"run": [sys.executable, "-c", "import os; print(*sorted(os.environ))"], "environment": ["GIVEN"]},
        {"PATH": PATH, "HIDDEN": "x", "GIVEN": "y"},
    )
    names = set(hook.execute(make_context()).response.split())
    assert {"PATH", "GIVEN", "EVALUATOR_RELEASE", "EVALUATOR_IDEMPOTENCY_KEY"} <= names
    assert "HIDDEN" not in names


def test_a_version_that_is_not_known_is_not_set():
    hook = python("import os; print(*sorted(name for name in os.environ if name.startswith('EVALUATOR_')))")
    names = set(hook.execute(make_context(canary="", reason="")).response.split())
    assert {"EVALUATOR_BASELINE", "EVALUATOR_REASON"} <= names
    assert "EVALUATOR_CANARY" not in names


def test_output_that_repeats_the_environment_is_not_kept():
    hook = make_hook(
        "command",
        {"run": [sys.executable, "-c", "import os; print('got', os.environ['TOKEN'])"], "environment": ["TOKEN"]},
        {"PATH": PATH, "TOKEN": "hunter2-token"},
    )
    assert hook.execute(make_context()).response == "got [secret]"


@pytest.mark.parametrize(("idempotent", "state"), [(False, "unknown"), (True, "failed")])
def test_one_that_was_cut_off_may_have_done_it(idempotent, state, tmp_path):
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "print('half done', flush=True); time.sleep(60)"
    )
    began = time.monotonic()
    hook = python(code, timeout="1s", idempotent=idempotent)
    outcome = hook.execute(make_context())
    assert (outcome.state, outcome.response) == (state, "half done")
    assert hook.idempotent is idempotent
    assert time.monotonic() - began < 6
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    while any(alive(pid) for pid in pids):  # killed, and not yet buried by the system
        assert time.monotonic() - began < 6
        time.sleep(0.05)


def test_what_it_leaves_running_goes_on():
    code = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)"
    outcome = python(code).execute(make_context())
    pid = int(outcome.response)
    assert outcome.state == "acknowledged"
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_it_is_ended_with_the_process_that_runs_it(tmp_path):
    """Otherwise it would act after others have taken it back."""
    program = [
        "sh",
        "-c",
        f"trap 'touch {tmp_path}/ended; exit' TERM; sleep 0.2; touch {tmp_path}/begun; sleep 30 & wait",
    ]
    code = (
        "import sys; sys.path[:0] = sys.argv[1:2]\n"
        "from hooks_world import make_context\nfrom evaluator.hooks import make_hook\n"
        f"make_hook('command', {{'run': {program}}}).execute(make_context())"
    )
    runs_it = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parents[1])])
    try:
        wait_for((tmp_path / "begun").exists, "the program runs")
    finally:
        runs_it.kill()
        runs_it.wait()
    wait_for((tmp_path / "ended").exists, "the program was asked to end")


def test_much_output_is_no_burden_and_the_end_of_it_is_kept():
    outcome = python("for i in range(300_000): print('line', i)").execute(make_context())
    assert outcome.response.endswith("line 299999")
    assert len(outcome.response) <= 2000


def test_undone_by_another_program():
    hook = make_hook("command", {"run": ["true"], "undo": ["echo", "back to ${baseline}"]}, {"PATH": PATH})
    assert hook.undo(make_context(), None).response == "back to 1.4.1"
    assert make_hook("command", {"run": ["true"]}, {"PATH": PATH}).undo(make_context(), None).state == "failed"


def test_a_test_runs_nothing(tmp_path):
    hook = make_hook("command", {"run": ["touch", str(tmp_path / "ran")]}, {"PATH": PATH})
    assert hook.test().state == "acknowledged"
    assert hook.execute(make_context(dry_run=True)).state == "acknowledged"
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_run_is_an_error(tmp_path):
    assert "no program" in make_hook("command", {"run": ["no-such-thing"]}, {"PATH": PATH}).test().did
    hook = make_hook("command", {"run": ["true"], "folder": str(tmp_path / "none")}, {"PATH": PATH})
    assert "no folder" in hook.execute(make_context()).did


@pytest.mark.parametrize("run", [[], ["${release}"], ["echo", "${TOKEN}"], ["echo", "${canery}"]])
def test_what_cannot_be_meant_is_refused(run):
    with pytest.raises(PolicyError):
        make_hook("command", {"run": run})


def test_half_of_a_secret_at_the_edge_of_what_is_kept_is_none():
    secret = "s3cret-" + "x" * 60
    hook = make_hook(
        "command",
        {"run": [sys.executable, "-c", "import os; print(os.environ['TOKEN'] + 'y' * 1970)"], "environment": ["TOKEN"]},
        {"PATH": PATH, "TOKEN": secret},
    )
    assert "x" not in hook.execute(make_context()).response


def test_secrets_that_shrink_what_is_kept_leave_no_half_of_one_at_its_beginning():
    secret = "s3cret-" + "x" * 3000  # two and a half of them are read, and become a few characters
    hook = make_hook(
        "command",
        {"run": [sys.executable, "-c", "import os; print(os.environ['TOKEN'] * 9)"], "environment": ["TOKEN"]},
        {"PATH": PATH, "TOKEN": secret},
    )
    assert "x" not in hook.execute(make_context()).response


def test_a_word_that_would_be_an_option_is_refused():
    hook = make_hook("command", {"run": ["echo", "${reason}"]}, {"PATH": PATH})
    outcome = hook.execute(make_context(reason="-rf /"))
    assert (outcome.state, "which the program takes for an option" in outcome.did) == ("failed", True)
    hook = make_hook("command", {"run": ["echo", "--why=${reason}", "-"]}, {"PATH": PATH})
    assert hook.execute(make_context(reason="-rf /")).response == "--why=-rf / -"


def test_the_program_that_takes_it_back_can_be_run_by_hand(tmp_path):
    out = tmp_path / "it's out"
    script = f'printf "%s|" "$1" "$EVALUATOR_REASON" "$PWD" "$TOKEN" > "{out}"'
    options = {
        "run": ["true"], "undo": ["sh", "-c", script, "x", "--to=${baseline} $HOME"], "folder": str(tmp_path),
        "environment": ["TOKEN"],
    }  # fmt: skip
    hook = make_hook("command", options, {"TOKEN": "s3cr3t", "PATH": os.environ["PATH"]})
    assert hook.undo(make_context(reason="it's `id`"), None).state == "acknowledged"
    by_hook = out.read_text()
    out.unlink()
    lines, _ = paste(hook, undoes=True, reason="it's `id`", environment={"TOKEN": "s3cr3t"})
    assert out.read_text() == by_hook == f"--to=1.4.1 $HOME|it's `id`|{tmp_path}|s3cr3t|"
    assert "s3cr3t" not in lines
    assert lines.startswith("# it needs these variables in its environment: TOKEN\n")
