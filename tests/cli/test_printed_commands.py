"""Obeying a printed command does what the text says: it is quoted for a shell, and names store and policy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from recordings import record
from request_files import write_requests

from evaluator.__main__ import run
from evaluator.store import Store
from evaluator.wording import add_options, quote_command

NAMES = ("a b", "$(touch x)", "it's; touch x")
STORE = "else where/$(touch x).duckdb"
POLICY = "the policy.yaml"
HOOKS = """
approvals: {promote: 1}
hooks:
  promote: [command: {run: [sh, -c, "test -e promoted || exit 1"]}]
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(STORE).parent.mkdir()
    Path(POLICY).write_text(HOOKS)
    yield tmp_path
    assert not Path("x").exists()


def split_by_shell(command):
    """Let a shell split a command into words, as if it was pasted there; the first is `evaluator`."""
    script = f"evaluator() {{ printf '%s\\0' \"$@\"; }}\n{command}"
    output = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    return output.split("\0")[:-1]


def call(capsys, *arguments, options=("--store", STORE, "--policy", POLICY)):
    """Call a command; returns its exit code, and the commands that it prints which need no further values."""
    code = run([*options, *arguments])
    printed = "\n".join(capsys.readouterr())
    assert "Traceback" not in printed
    commands = re.findall(r"`(evaluator [^`]*)`", printed)
    return code, [command for command in commands if not any(map(is_placeholder, split_by_shell(command)))]


def is_placeholder(word):
    """Does a word stand for a value that the user knows, such as URL?"""
    return word == "…" or (word.isalpha() and word.isupper())


def obey(capsys, commands):
    """Call printed commands without further options: they must find store, policy and release."""
    assert commands
    for command in dict.fromkeys(commands):
        code, _ = call(capsys, *split_by_shell(command), options=())
        assert code in (0, 1, 3), command


def import_release(capsys, name, slower=1.0):
    for arm, factor in (("old", 1.0), ("new", slower)):
        write_requests(Path(f"{arm}.parquet"), slower=factor, seconds=150, seed=3)
    return call(capsys, "import", name, "--baseline", "old.parquet", "--canary", "new.parquet")[1]


@pytest.mark.parametrize("name", NAMES)
def test_after_an_import_and_after_a_verdict(capsys, name):
    obey(capsys, import_release(capsys, name))
    code, commands = call(capsys, "verdict", name)
    assert code in (0, 1, 3)
    obey(capsys, commands)
    assert len(Store.open(Path(STORE)).control.verdicts(name)) == 3


def test_of_promotions(capsys):
    name = NAMES[1]
    import_release(capsys, name)
    code, commands = call(capsys, "promote", name, "--yes")
    assert code == 3
    obey(capsys, commands)  # it was not judged, or another reason that a verdict removes


def test_of_errors(capsys):
    record(Path(STORE), "by hand")
    code, commands = call(capsys, "data", "sql", "SELEC 1")
    assert (code, len(commands)) == (2, 1)
    obey(capsys, commands)


def test_a_command_keeps_the_options_that_it_has():
    text = "run `evaluator verdict r --policy p`, not `evaluator --help` or evaluator"
    assert add_options(text, {"--store": "s t", "--policy": "q"}) == (
        "run `evaluator --store 's t' verdict r --policy p`, not `evaluator --help` or evaluator"
    )
    assert split_by_shell(quote_command("hold", *NAMES)) == ["hold", *NAMES]


def test_a_store_of_the_environment_is_not_repeated(capsys, monkeypatch):
    monkeypatch.setenv("EVALUATOR_STORE", STORE)
    for arm in ("old", "new"):
        write_requests(Path(f"{arm}.parquet"), seconds=20)
    _, commands = call(capsys, "import", "r", "--baseline", "old.parquet", "--canary", "new.parquet", options=())
    assert commands == ["evaluator verdict r"]
    obey(capsys, commands)


def test_tables_of_values_do_not_control_the_terminal(capsys, monkeypatch):
    record(Path(STORE), "r")
    query = "SELECT 'a' || chr(8238) || chr(27) || '[31m' AS v"
    assert run(["--store", STORE, "data", "sql", query]) == 0
    assert r"a\u202e" in capsys.readouterr().out
    assert run(["--store", STORE, "data", "sql", query, "--format", "csv"]) == 0
    assert capsys.readouterr().out == '"v"\n"a\u202e\x1b[31m"\n'  # a program gets the values as they are
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run(["--store", STORE, "data", "sql", query, "--format", "csv"]) == 0
    assert capsys.readouterr().out == '"v"\n"a\\u202e\\x1b[31m"\n'
