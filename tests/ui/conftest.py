"""Pages as Streamlit's own test harness runs them, over stores made by simulation."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

sys.path.insert(0, str(Path(__file__).parent))  # `import browser`: the app in a real browser

from stored import HOSTILE, STEADY, judge, land, make_store

from evaluator.serving.access import Refusal
from evaluator.store import Store

ROOT = Path(__file__).parent.parent.parent
PAGES = {
    "releases": "evaluator.ui.releases:show_releases",
    "release": "evaluator.ui.release:show_release",
    "rollout": "evaluator.ui.rollout:show_rollout",
    "compare": "evaluator.ui.compare:show_compare",
    "plan": "evaluator.ui.plan:show_plan",
    "promote": "evaluator.ui.promote:show_promote",
    "audit": "evaluator.ui.audit:show_audit",
}


@pytest.fixture(scope="session")
def store_path(build_once) -> Path:
    """A store with a release in each state. Shared: no test may write to it."""
    return build_once("releases", lambda folder: make_store(folder / "evaluator.duckdb")) / "evaluator.duckdb"


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
    """Run a page over a store, with an address's query; return the page. `refusal`: why it may only be read."""

    def run(name: str, store: Path, *, refusal: Refusal | None = None, **query: str) -> AppTest:
        monkeypatch.setenv("EVALUATOR_STORE", str(store))
        monkeypatch.setattr("evaluator.ui.identity.find_page_refusal", lambda _headers: refusal)
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
    """All texts of a page: its HTML, titles and labels."""

    def read(test: AppTest) -> str:
        parts = [element.proto.body for element in test.get("html")]
        parts += [element.value for element in (*test.title, *test.header, *test.caption, *test.code)]
        return "\n".join(parts)

    return read


@pytest.fixture
def shop(judged_store, tmp_path, monkeypatch):
    """The same in a folder of its own; called with a policy, it writes that and gives the path of the store."""

    def make(policy: str = "") -> Path:
        shutil.copytree(judged_store.parent, tmp_path / "shop", dirs_exist_ok=True)
        (tmp_path / "shop" / "evaluator.yaml").write_text(policy.replace("HERE", str(tmp_path / "shop")))
        monkeypatch.setenv("EVALUATOR_POLICY", str(tmp_path / "shop" / "evaluator.yaml"))
        return tmp_path / "shop" / judged_store.name

    return make
