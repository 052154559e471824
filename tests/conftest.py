"""Fixtures of the whole suite, and the order of its modules."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))  # `import judging`: modules that tests of several packages share

LONGEST = (
    "test_ci.py",
    "test_notebooks.py",
    "intents/test_overtaking.py",
    "ui/test_browser.py",
    "ui/test_promote.py",
    "intents/test_executing.py",
    "test_first_verdict.py",
    "rollout/test_kills.py",
    "rollout/test_lockstep.py",
    "rollout/test_rolling.py",
    "test_rollout_tutorial.py",
    "rollout/test_winning.py",
    "rollout/test_rolling_kills.py",
    "ui/test_journeys.py",
    "cli/test_promote.py",
    "sources/test_load.py",
    "pipeline/test_collecting.py",
    "pipeline/test_tailing_routers.py",
    "cli/test_load.py",
    "sources/test_silence.py",
    "cli/test_demo_live.py",
    "cli/test_demo_rollout.py",
    "cli/test_watch.py",
    "cli/test_collect.py",
    "intents/test_asking.py",
    "test_contributing.py",
    "cli/test_import_and_data.py",
    "reports/test_html_browser.py",
    "sources/prometheus/test_live.py",
    "golden/test_golden.py",
    "ui/test_snippets.py",
    "ui/test_release.py",
    "stats/test_sensitivity.py",
    "sources/test_recorder.py",
    "reports/test_html.py",
    "metrics/test_readings.py",
    "guard/test_haproxy.py",
    "guard/test_kills.py",
    "guard/test_opening.py",
    "guard/test_nginx.py",
)
"""Modules of half a minute and more. They start first, so that no process is left with a long one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the longest modules to the front; all others keep their order."""
    rank = {TESTS / name: position for position, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder for second copies of journals, which otherwise would be on another file system of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Fill a folder once for all processes of a test run, by a name; each process gets a copy of its own."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def build(name: str, fill: Callable[[Path], object]) -> Path:
        folder = shared / f"built-{name}"
        with (shared / f"built-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                unfinished = shared / f"building-{name}"
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                fill(unfinished)
                unfinished.rename(folder)
        return Path(shutil.copytree(folder, tmp_path_factory.mktemp(name) / name))

    return build


@pytest.fixture(scope="session")
def judged_store(build_once) -> Path:
    """A store with a GO (cart@1.9.0) and a NO-GO (cart@1.6.0), judged just now; a test that writes copies it."""
    from stored import judge_now

    return build_once("judged", lambda folder: judge_now(folder / "evaluator.duckdb")) / "evaluator.duckdb"
