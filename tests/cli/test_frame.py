import os
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest

import evaluator.cli as frame
from evaluator.__main__ import run
from evaluator.errors import EvaluatorError, LoadError, PolicyError, StoreBusy, UnknownName, UsageError

EVALUATOR = str(Path(sys.executable).with_name("evaluator"))


@pytest.fixture
def plug_in(monkeypatch):
    """Make a function the command `probe`."""

    def plug(function):
        module = types.ModuleType("probe")
        module.command = click.command("probe")(click.pass_obj(function))
        monkeypatch.setitem(sys.modules, "probe", module)
        monkeypatch.setattr(frame, "COMMANDS", {**frame.COMMANDS, "probe": ("probe", "Try something.")})

    return plug


def raising(error):
    def body(session):
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EvaluatorError("it broke", hint="mend it"), 4),
        (LoadError("it broke", hint="mend it"), 4),
        (StoreBusy("it broke", hint="mend it"), 4),
        (UsageError("it broke", hint="mend it"), 2),
        (PolicyError("it broke", hint="mend it"), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_become_a_message_a_hint_and_a_code(plug_in, capfd, error, code):
    plug_in(raising(error))
    assert run(["probe"]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "Error: it broke\nHint: mend it\n"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ZeroDivisionError("division\nby zero"), "unexpected ZeroDivisionError: division by zero"),
        (RecursionError(), "unexpected RecursionError: no message"),
        (PermissionError(13, "Permission denied", "/x/y"), "Permission denied: /x/y"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_is_one_sentence_and_never_a_no_go(plug_in, capfd, error, says):
    plug_in(raising(error))
    assert run(["probe"]) == 4
    err = capfd.readouterr().err
    assert says in err
    assert "Traceback" not in err


def test_a_traceback_is_shown_on_request(plug_in, capfd):
    plug_in(raising(ZeroDivisionError("x")))
    assert run(["probe", "-vv"]) == 4
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()], ids=["ctrl-c", "abort"])
def test_interrupted(plug_in, capfd, error):
    plug_in(raising(error))
    assert run(["probe"]) == 130
    assert "interrupted" in capfd.readouterr().err


@pytest.mark.parametrize("module", ["logging", "traceback", "click", "yaml"])
@pytest.mark.parametrize("command", [[sys.executable, "-m", "evaluator"], [EVALUATOR]], ids=["module", "script"])
def test_interrupted_while_modules_are_imported(tmp_path, command, module):
    """A module of that name, imported instead of the real one, sends Ctrl-C."""
    (tmp_path / f"{module}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "policy", "show"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr


def test_importing_the_program_keeps_ctrl_c():
    code = "import signal, evaluator.__main__; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n"


def test_quoted_text_cannot_control_the_terminal(plug_in, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    plug_in(raising(UsageError("no \x1b[31mGET /\u202e\nsecond line", hint="try \x07")))
    assert run(["probe"]) == 2
    err = capfd.readouterr().err
    assert "no \\x1b[31mGET /\\u202e\nsecond line\n" in err
    assert "Hint: try \\x07" in err


@pytest.mark.parametrize(
    ("args", "code"), [(["--version"], 0), (["verdict", "none"], 4), (["verdit"], 2)], ids=["done", "no-store", "usage"]
)
@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)], ids=str)
def test_closed_streams_change_nothing(tmp_path, args, code, closed):
    def close():
        for descriptor in closed:
            os.close(descriptor)

    command = [sys.executable, "-m", "evaluator", *args]
    done = subprocess.run(command, cwd=tmp_path, preexec_fn=close, check=False, timeout=60)
    assert done.returncode == code


@pytest.mark.parametrize("code", [0, 1, 3, None])
def test_a_command_returns_its_exit_code(plug_in, code):
    plug_in(lambda session: code)
    assert run(["probe"]) == (code or 0)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["verdit"], "did you mean 'verdict'?"),
        (["policy", "shw"], "'show'"),
        (["policy", "show", "--formt", "json"], "'--format'"),
        (["--stor", "x"], "'--store'"),
        (["policy", "show", "--format", "xml"], "'xml'"),
        ([], "Usage"),
    ],
    ids=str,
)
def test_wrong_usage_is_2_and_suggests_what_was_meant(capfd, args, says):
    assert run(args) == 2
    out, err = capfd.readouterr()
    assert says in out + err


@pytest.mark.parametrize("args", [["--store", "s.db", "-q", "probe"], ["probe", "--store", "s.db", "-q"]], ids=str)
def test_common_options_are_accepted_before_and_after_the_command(plug_in, monkeypatch, args):
    sessions = []
    monkeypatch.setenv("EVALUATOR_STORE", "from-environment.db")
    monkeypatch.setenv("EVALUATOR_POLICY", "p.yaml")
    plug_in(sessions.append)
    assert run(args) == 0
    assert (str(sessions[0].store_path), str(sessions[0].policy_path), sessions[0].verbosity) == ("s.db", "p.yaml", -1)


def test_the_store_may_come_from_the_environment(plug_in, monkeypatch):
    paths = []
    monkeypatch.setenv("EVALUATOR_STORE", "from-environment.db")
    plug_in(paths.append)
    assert run(["probe"]) == 0
    assert str(paths[0].store_path) == "from-environment.db"


def test_quiet_shows_no_progress(plug_in, capfd):
    plug_in(lambda session: session.say("half done"))
    run(["probe"])
    assert capfd.readouterr().err == "half done\n"
    run(["probe", "-q"])
    assert capfd.readouterr().err == ""


def test_every_command_has_a_module_with_the_same_name_and_a_help():
    context = click.Context(frame.evaluator)
    for name in frame.COMMANDS:
        command = frame.evaluator.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help


def test_common_options_are_added_once():
    context = click.Context(frame.evaluator)
    for _ in range(2):
        command = frame.evaluator.get_command(context, "releases")
    options = [name for param in command.params for name in param.opts]
    assert len(options) == len(set(options))


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from evaluator.__main__ import run; run(['--help']); "
        "heavy = {'numpy', 'duckdb', 'pyarrow', 'scipy', 'pandas', 'pydantic', 'yaml', 'locust'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in frame.COMMANDS)


def test_a_reader_that_closes_the_pipe_changes_nothing():
    code = (
        "import sys, evaluator.cli as c; from evaluator.__main__ import run; import time; time.sleep(0.3); "
        "sys.exit(run(['policy', 'schema']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), err) == (0, b"")


@pytest.mark.parametrize(
    ("environment", "terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
    ids=str,
)
def test_colour(monkeypatch, environment, terminal, expected):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert frame.wants_color(types.SimpleNamespace(isatty=lambda: terminal)) is expected


def test_console_script_and_module_are_the_same():
    done = subprocess.run([sys.executable, "-m", "evaluator", "nope"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: there is no command 'nope'")
    assert UnknownName("command", "nope", frame.COMMANDS).message in done.stderr


def test_shell_completion_offers_the_commands():
    environment = {
        **os.environ,
        "_EVALUATOR_COMPLETE": "bash_complete",
        "COMP_WORDS": "evaluator ver",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from evaluator.__main__ import main; main()"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "plain,verdict"


def test_an_error_that_cannot_be_printed_is_no_no_go(tmp_path):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        command = [sys.executable, "-m", "evaluator", "verdict", "nothing"]
        done = subprocess.run(command, cwd=tmp_path, stderr=full, stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (4, b"")
