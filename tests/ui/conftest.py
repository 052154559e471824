"""Pages as Streamlit's own test harness runs them, over stores made by simulation."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

sys.path.insert(0, str(Path(__file__).parent))  # `import stored`: the releases that these tests look at

from stored import HOSTILE, STEADY, judge, land, make_store

from evaluator.store import Store

ROOT = Path(__file__).parent.parent.parent
PAGES = {
    "releases": "evaluator.ui.releases:show_releases",
    "release": "evaluator.ui.release:show_release",
    "compare": "evaluator.ui.compare:show_compare",
    "plan": "evaluator.ui.plan:show_plan",
    "promote": "evaluator.ui.promote:show_promote",
    "audit": "evaluator.ui.audit:show_audit",
}


@pytest.fixture(scope="session")
def store_path(tmp_path_factory) -> Path:
    """A store with a release in each state. Shared: nobody may write to it."""
    path = tmp_path_factory.mktemp("stored") / "evaluator.duckdb"
    make_store(path)
    return path


@pytest.fixture
def own(store_path, tmp_path) -> Path:
    """The same store, to write to."""
    shutil.copytree(store_path.parent, tmp_path / "own")
    return tmp_path / "own" / store_path.name


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Path:
    """A release whose names are HTML."""
    from dataclasses import replace

    path = tmp_path_factory.mktemp("hostile") / "evaluator.duckdb"
    store = Store.open(path, create=True)
    land(store, f"{HOSTILE}@1", replace(STEADY, duration_s=120.0), service=HOSTILE, endpoint_prefix=HOSTILE)
    judge(store, f"{HOSTILE}@1")
    return path


@pytest.fixture
def page(monkeypatch):
    """Run a page over a store, with an address's query; the page as it stands is returned."""

    def run(name: str, store: Path, **query: str) -> AppTest:
        monkeypatch.setenv("EVALUATOR_STORE", str(store))
        module, function = PAGES[name].split(":")
        script = f"from {module} import {function}\nfrom evaluator.ui.frame import guarded\nguarded({function})()\n"
        test = AppTest.from_string(script, default_timeout=60)
        for key, value in query.items():
            test.query_params[key] = value
        return test.run()

    return run


@pytest.fixture
def html():
    """What a page puts out as HTML; all else Streamlit shows as text."""
    return lambda test: "\n".join(element.proto.body for element in test.get("html"))


@pytest.fixture
def text():
    """All that a page says: its HTML, titles and labels."""

    def read(test: AppTest) -> str:
        parts = [element.proto.body for element in test.get("html")]
        parts += [element.value for element in (*test.title, *test.subheader, *test.caption, *test.code)]
        return "\n".join(parts)

    return read


@pytest.fixture(scope="session")
def fresh(tmp_path_factory) -> Path:
    """A GO (cart@1.9.0) and a NO-GO (cart@1.6.0), judged just now. Shared: nobody may write to it."""
    from datetime import UTC, datetime

    from stored import DESIGNS

    from evaluator.pipeline.judging import judge_release
    from evaluator.policy import load_policy

    path = tmp_path_factory.mktemp("fresh") / "evaluator.duckdb"
    store = Store.open(path, create=True)
    for release, seed in (("cart@1.9.0", 5), ("cart@1.6.0", 2)):
        land(store, release, DESIGNS[release], seed=seed)
        judge_release(store, release, load_policy(), judged_at=datetime.now(UTC))
    return path


@pytest.fixture
def shop(fresh, tmp_path, monkeypatch):
    """The same in a folder of its own; called with a policy, it writes that and gives the path of the store."""

    def make(policy: str = "") -> Path:
        shutil.copytree(fresh.parent, tmp_path / "shop", dirs_exist_ok=True)
        (tmp_path / "shop" / "evaluator.yaml").write_text(policy.replace("HERE", str(tmp_path / "shop")))
        monkeypatch.setenv("EVALUATOR_POLICY", str(tmp_path / "shop" / "evaluator.yaml"))
        return tmp_path / "shop" / fresh.name

    return make
