"""What the documents say is what the program does."""

import itertools
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import get_args

import click
import pytest
import yaml

from evaluator import health
from evaluator.api.rows import flatten
from evaluator.cli import COMMANDS, Session, evaluator
from evaluator.cli.reference import PAGES
from evaluator.metrics import METRICS
from evaluator.policy import load_policy
from evaluator.records import ReasonCode

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
VERDICTS = (ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def shell_lines(text):
    """Commands as they are typed: indented by four, or in a fence."""
    return [
        line.strip().split("  #")[0].strip()
        for line in text.splitlines()
        if line.startswith("    ") and line[4:5] > " "
    ]


def commands(text):
    return [line for line in shell_lines(text) if line.startswith("evaluator ")]


def parse(line):
    """Let click read a command line, down to the leaf, without running it."""
    context, command, words = click.Context(evaluator, obj=Session()), evaluator, shlex.split(line)[1:]
    name = ""
    while isinstance(command, click.Group):
        if command.invoke_without_command and (not words or words[0].startswith("-")):
            break  # it is called by itself, such as `demo`
        name, *words = words
        command = command.get_command(context, name)
    return command.make_context(name, words, parent=context)


def fenced(text):
    blocks = re.findall(r"```(?:bash|sh|shell|console)?\n(.*?)```", text, re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


def commands_of_all_pages():
    found = {}
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if path.name == "reference.md":
            continue
        for line in (*commands(text), *(one for one in fenced(text) if one.startswith("evaluator "))):
            if "…" not in line and line.split()[1].split("=")[0] in {*COMMANDS, "--store", "--policy", "-q"}:
                found.setdefault(line, path.name)
    return found


@pytest.mark.parametrize("line", commands_of_all_pages())
def test_commands_of_the_documents_are_understood(line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parse(line).command.name


def test_patterns_of_the_documents_are_given_to_the_options_for_them():
    imports = [shlex.split(line) for line in commands_of_all_pages() if line.startswith("evaluator import ")]
    used = {option for words in imports for option, value in itertools.pairwise(words) if "*" in value}
    assert used
    assert not used & {"--baseline", "--canary", "--arm", "--outcomes", "--arm-outcomes", "--access-log"}


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for line in shell_lines(README) if line.startswith("make ") for word in line.split()[1:]}
    assert named == {"demo", "test"}
    assert named <= targets


def test_the_readme_is_short_and_starts_with_a_verdict_and_the_two_commands():
    assert len(README.splitlines()) < 200
    assert (
        README.index("NO-GO ✗") < README.index("make demo") < README.index("make test") < README.index("evaluator load")
    )


def test_extras_of_the_readme_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"'\.\[(\w+)\]'", README)) <= set(extras)


def test_policies_of_the_readme_are_policies(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        path = tmp_path / "evaluator.yaml"
        path.write_text(block, encoding="utf-8")
        assert load_policy(path).rulebook.rules
        assert yaml.safe_load(block)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_two_versions_of_a_page_were_left_in_it(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith(("<<<<<<<", ">>>>>>>")) or line == "======="]


def leaves():
    root = click.Context(evaluator, info_name="evaluator")
    waiting = [(name, evaluator.get_command(root, name)) for name in COMMANDS]
    while waiting:
        name, command = waiting.pop()
        if isinstance(command, click.Group):
            waiting += [(f"{name} {child}", command.commands[child]) for child in command.commands]
        yield name, command


def squeezed(text):
    return " ".join(text.split())


@pytest.mark.parametrize(("name", "command"), [pytest.param(*leaf, id=leaf[0]) for leaf in leaves()])
def test_every_command_and_option_is_in_the_reference(name, command):
    section = REFERENCE.split(f"## evaluator {name}\n")[1].split("\n## ")[0]
    for param in command.params:
        if isinstance(param, click.Option):
            assert all(option in section for option in param.opts), param.opts
            assert param.help, f"{name} {param.opts} has no help"
            assert squeezed(param.help) in squeezed(section), (
                "run: python -m evaluator.cli.reference commands > docs/reference.md"
            )


@pytest.mark.parametrize(
    ("kind", "page"), [("commands", "reference"), ("policy", "policy"), ("verdict", "verdict-json")]
)
def test_what_is_generated_is_up_to_date(kind, page):
    written = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").rstrip()
    again = f"run: python -m evaluator.cli.reference {kind} > docs/{page}.md"
    if kind == "commands":  # click lays options out by its version
        assert re.findall(r"^## .*$", written, re.MULTILINE) == re.findall(r"^## .*$", PAGES[kind](), re.MULTILINE), (
            again
        )
    else:
        assert written == PAGES[kind](), again


def test_every_key_of_policy_and_verdict_is_explained():
    for kind in ("policy", "verdict"):
        rows = [line for line in PAGES[kind]().splitlines() if line.startswith("| `")]
        assert rows
        assert [row for row in rows if row.rstrip(" |").endswith("`") or row.endswith("|  |")] == []


def test_every_health_check_and_metric_is_explained():
    checks = set(re.findall(r"^\| ([\w, ]+) \|", health.__doc__, re.MULTILINE)) - {"check"}
    named = {name for row in checks for name in row.split(", ")}
    assert "sample_ratio" in named
    assert all(f"`{name}`" in VERDICTS for name in named)
    assert all(f"`{name}`" in VERDICTS for name in METRICS)


def test_every_code_of_a_reason_is_explained():
    """Those that the schema, the table of docs/verdicts.md and the type have; mypy lets the program give no other."""
    codes = list(get_args(ReasonCode))
    section = VERDICTS.split("## Reasons")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == codes
    schema = json.loads((ROOT / "evaluator" / "schemas" / "verdict.schema.json").read_text(encoding="utf-8"))
    assert schema["properties"]["reasons"]["items"]["properties"]["code"]["enum"] == codes
    sources = [*(ROOT / "evaluator" / "judges").glob("*.py"), ROOT / "evaluator" / "pipeline" / "watching.py"]
    given = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert [code for code in codes if f'"{code}"' not in given] == []


def test_columns_of_data_frames_are_explained():
    text = (ROOT / "docs" / "notebook.md").read_text(encoding="utf-8")
    section = text.split("## Columns")[1].split("\n## ")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    explained = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    schema = json.loads((ROOT / "evaluator" / "schemas" / "verdict.schema.json").read_text(encoding="utf-8"))
    keys = schema["properties"]["metrics"]["items"]["required"]
    metric = {**dict.fromkeys(keys), "baseline": {"value": 1.0, "n": 1}, "canary": {"value": 1.0, "n": 1}}
    (row,) = flatten({"release": "cart@1.5.0", "metrics": [metric]})
    assert explained == set(row)


def test_options_of_the_recorder_are_explained():
    source = (ROOT / "evaluator" / "sources" / "locust" / "options.py").read_text(encoding="utf-8")
    options = re.search(r"_OPTIONS: .*?= \{(.*?)\n\}", source, re.DOTALL)
    names = re.findall(r'^    "([\w-]+)":', options[1], re.MULTILINE)
    text = (ROOT / "docs" / "recording.md").read_text(encoding="utf-8")
    assert names
    assert all(f"--evaluator-{name}" in text for name in [*names, "run", "sensitive", "no-retries"])
