"""Examples in docstrings run, and print what they say that they print."""

import doctest
import importlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from judging import SMALL

import evaluator
from evaluator.pipeline.judging import judge_release
from evaluator.pipeline.simulating import land_simulated
from evaluator.policy import load_policy
from evaluator.records import Release
from evaluator.simulate import Change, simulate
from evaluator.store import Store

ROOT = Path(evaluator.__file__).parent
SHOWN = [path for path in sorted(ROOT.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


def name_module(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """What examples of the API are about: a release that is 30 % slower, and was judged."""
    path = tmp_path_factory.mktemp("examples") / "evaluator.duckdb"
    store = Store.open(path, create=True)
    slower = replace(SMALL, changes=(Change(latency=0.3),), rate_per_s=100.0, instance_sd=0.005)
    land_simulated(store, Release("cart@1.5.0"), simulate(slower, 3))
    judge_release(store, "cart@1.5.0", load_policy(), judged_at=datetime(2026, 1, 5, tzinfo=UTC))
    opened = evaluator.open(path)
    return {"store": opened, "release": opened.release("cart@1.5.0")}


@pytest.mark.parametrize("name", [name_module(path) for path in SHOWN])
def test_examples_run(name, known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    globs = known if name.startswith("evaluator.api") else {}
    found = doctest.testmod(importlib.import_module(name), extraglobs=globs, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_api_shows_how_it_is_used():
    assert {"evaluator.api", "evaluator.simulate", "evaluator.pipeline.simulating"} <= {name_module(p) for p in SHOWN}
