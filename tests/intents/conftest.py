"""Releases with a verdict, policies with hooks, and people."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from evaluator.intents import ActionRequest
from evaluator.policy import load_policy
from evaluator.records.intents import Action, Person
from evaluator.store import Store

_UI = Path(__file__).parent.parent / "ui" / "stored.py"


def _stored():
    spec = importlib.util.spec_from_file_location("stored_releases", _UI)
    module = importlib.util.module_from_spec(spec)
    sys.modules["stored_releases"] = module
    spec.loader.exec_module(module)
    return module


stored = _stored()


@pytest.fixture(scope="session")
def judged(tmp_path_factory) -> Path:
    """A store with a GO (cart@1.9.0) and a NO-GO (cart@1.6.0), judged just now."""
    from datetime import UTC, datetime

    from evaluator.pipeline.judging import judge_release

    path = tmp_path_factory.mktemp("judged") / "evaluator.duckdb"
    store = Store.open(path, create=True)
    for release, seed in (("cart@1.9.0", 5), ("cart@1.6.0", 2)):
        stored.land(store, release, stored.DESIGNS[release], seed=seed)
        judge_release(store, release, load_policy(), judged_at=datetime.now(UTC))
    assert [json.word for json in store.control.verdicts("cart@1.9.0")] == ["go"]
    assert [json.word for json in store.control.verdicts("cart@1.6.0")] == ["no_go"]
    return path


@pytest.fixture
def folder(judged, tmp_path) -> Path:
    """The same store, to write to, in a folder of its own."""
    shutil.copytree(judged.parent, tmp_path / "place")
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
def person():
    """Somebody who signed in."""
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
    """A command hook that notes what it was told, as an entry of the policy."""

    def entry(*words: str, undo: str = "", extra: str = "", code: int = 0) -> str:
        run = f"echo {'-'.join(words)} >> HERE/out.txt; exit {code}"
        back = f', undo: [sh, -c, "echo {undo} >> HERE/out.txt"]' if undo else ""
        return f'{{command: {{run: [sh, -c, "{run}"]{back}{extra}}}}}'

    return entry
