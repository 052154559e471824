"""Releases with a verdict, policies with hooks, and people."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from stored import repeat_verdict

from evaluator.intents import ActionRequest
from evaluator.policy import load_policy
from evaluator.records.intents import Action, Person
from evaluator.store import Store


@pytest.fixture
def folder(judged_store, tmp_path) -> Path:
    """The same store, to write to, in a folder of its own."""
    shutil.copytree(judged_store.parent, tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def store(folder) -> Store:
    return Store.open(folder / "evaluator.duckdb")


@pytest.fixture
def policy(folder):
    """Write a policy into the folder and load it."""

    def write(text: str = ""):
        (folder / "evaluator.yaml").write_text(text.replace("HERE", str(folder)))
        return load_policy(folder / "evaluator.yaml")

    return write


@pytest.fixture
def judge_again(store):
    """Judge a release again: the same verdict, of this moment."""
    return lambda release="cart@1.9.0": repeat_verdict(store, release)


@pytest.fixture
def person():
    """A person who signed in."""
    return lambda name, *extra: Person(name, (name, *extra))


@pytest.fixture
def action_request():
    return lambda action="promote", release="cart@1.9.0", reason="all is well": ActionRequest(
        Action(action), release, reason
    )


@pytest.fixture
def lines(folder):
    """What hooks wrote."""
    return lambda: (folder / "out.txt").read_text().split() if (folder / "out.txt").exists() else []


@pytest.fixture
def script():
    """A command hook that writes down what it gets, as an entry of the policy."""

    def entry(*words: str, undo: str = "", extra: str = "", code: int = 0) -> str:
        run = f"echo {'-'.join(words)} >> HERE/out.txt; exit {code}"
        back = f', undo: [sh, -c, "echo {undo} >> HERE/out.txt"]' if undo else ""
        return f'{{command: {{run: [sh, -c, "{run}"]{back}{extra}}}}}'

    return entry
