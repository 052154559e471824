"""A recorder in a team's own Locust: alone, and with a master and workers started by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evaluator.pipeline.landing import land_release
from evaluator.records import Arm, RunState
from evaluator.segments import data_folder, run_folder
from evaluator.store import Store

from .conftest import read_rows, start_silent

OWN = """
from locust import FastHttpUser, constant, task
from evaluator import Recorder

Recorder(release="shop@own", service="shop")

class Old(FastHttpUser):
    host = "{baseline}"
    wait_time = constant(0.05)

    def context(self):
        return {{"arm": "baseline"}}

    @task
    def products(self):
        self.client.get("/products")

class New(Old):
    host = "{canary}"

    def context(self):
        return {{"arm": "canary"}}
"""


@pytest.fixture
def own(shop: tuple[Arm, ...], tmp_path: Path) -> Path:
    path = tmp_path / "locustfile.py"
    path.write_text(OWN.format(baseline=shop[0].urls[0], canary=shop[1].urls[0]))
    return path


def start(folder: Path, *arguments: str, module: str = "locust") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, "-f", "locustfile.py", "--only-summary", *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_one_line_in_a_locustfile_records_and_the_store_finds_it(own: Path, tmp_path: Path) -> None:
    locust = start(tmp_path, "--headless", "-u", "6", "-r", "20", "-t", "3s")
    assert locust.communicate(timeout=30)[0] is None
    assert locust.returncode == 0
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    (landed,) = land_release(store, "shop@own")
    (run,) = store.data.runs("shop@own")
    assert run.state is RunState.COMPLETE
    assert run.facts.counted == landed.rows == run.landed > 50
    assert store.control.release("shop@own").services[0].name == "shop"
    assert str(run.fingerprint["locustfile"]).startswith("sha256:")
    assert store.data.segment_folder(run) == run_folder(data_folder(store.path), "shop@own", run.id)
    cells = store.data.read_cells([run.id])
    assert (cells.arms, set(cells.instances)) == (("baseline", "canary"), {"baseline-1", "canary-1"})
    assert land_release(store, "shop@own")[0].rows == 0


def test_master_and_workers_started_by_hand_record_one_run(own: Path, tmp_path: Path) -> None:
    port = "15791"
    options = ("--master-port", port, "--master-host", "127.0.0.1")
    workers = [start(tmp_path, "--worker", *options) for _ in range(2)]
    master = start(
        tmp_path, "--master", "--headless", "--expect-workers", "2", "-u", "6", "-r", "20", "-t", "6s",
        "--master-bind-host", "127.0.0.1", "--master-bind-port", port,
    )  # fmt: skip
    for process in (master, *workers):
        process.communicate(timeout=40)
    (folder,) = (tmp_path / "evaluator.data" / "shop@own").glob("*")
    assert len(set(read_rows(folder)["worker"].to_pylist())) == 2
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    (landed,) = land_release(store, "shop@own")
    (run,) = store.data.runs("shop@own")
    assert (run.state, run.facts.stopped_by) == (RunState.COMPLETE, "")
    assert (run.facts.workers_expected, run.facts.workers_seen) == (2, 2)
    assert run.facts.counted == landed.rows == sum(run.facts.read.values()) > 50
    assert set(run.facts.read) == {"baseline", "canary"}
    assert run.facts.users_stopped
    assert all(request.age_s < 1 for request in run.facts.in_flight)


def test_what_waits_at_the_end_is_in_the_store_and_a_sensitive_release_tells_its_path(
    shop: tuple[Arm, ...], tmp_path: Path
) -> None:
    with start_silent("canary", 0) as canary:
        text = OWN.format(baseline=shop[0].urls[0], canary=canary.urls[0]).replace(
            '"/products"', '"/products?ann=4111"'
        )
        (tmp_path / "locustfile.py").write_text(text.replace('{"arm": "canary"}', '{"arm": 7, "instance": "i1"}'))
        files = ("--csv", "locust", "--logfile", "locust.log")
        locust = start(tmp_path, "--headless", "-u", "6", "-r", "20", "-t", "3s", "--evaluator-sensitive", *files)
        locust.communicate(timeout=30)
    recorded = [*tmp_path.glob("locust?*.csv"), tmp_path / "locust.log", *(tmp_path / "evaluator.data").rglob("*")]
    assert len(recorded) > 8
    assert {path.stat().st_mode & 0o777 for path in recorded} == {0o600, 0o700}  # others cannot read them
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    (landed,) = land_release(store, "shop@own")
    (run,) = store.data.runs("shop@own")
    assert run.state is RunState.COMPLETE
    assert run.facts.read == {"baseline": landed.rows}
    assert run.facts.users_stopped
    waiting = [request for request in run.facts.in_flight if request.arm == "7"]
    assert {(request.instance, request.endpoint) for request in waiting} == {("i1", "GET /products")}
    assert len(waiting) == 3
    assert all(1 < request.age_s < 4 for request in waiting)
    assert not [path for path in (tmp_path / "evaluator.data").rglob("*.json") if "4111" in path.read_text()]


def test_the_plug_in_needs_no_line_at_all(shop: tuple[Arm, ...], tmp_path: Path) -> None:
    (tmp_path / "locustfile.py").write_text(
        "from locust import FastHttpUser, task\n"
        "class Web(FastHttpUser):\n"
        "    @task\n"
        "    def a(self): self.client.get('/products')\n"
    )
    locust = start(
        tmp_path, "--headless", "-u", "2", "-r", "20", "-t", "2s", "--host", shop[0].urls[0],
        "--evaluator-release", "team/shop@2", "--evaluator-arm", "canary", module="evaluator.sources.locust",
    )  # fmt: skip
    locust.communicate(timeout=30)
    assert locust.returncode == 0
    (folder,) = (tmp_path / "evaluator.data").glob("*/*")
    assert set(read_rows(folder)["arm"].to_pylist()) == {"canary"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param((), "does not know the release: give --evaluator-release", id="release"),
        pytest.param(("--evaluator-release", "r"), "does not know the arm of Web: give --evaluator-arm", id="arm"),
        pytest.param(
            ("--evaluator-release", "r", "--evaluator-arm=-rf"), "the name of the arm -rf begins with a dash", id="dash"
        ),
    ],
)
def test_a_recorder_that_would_not_know_what_it_records_refuses(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "locustfile.py").write_text(
        "from locust import User, task\nclass Web(User):\n    @task\n    def a(self): pass\n"
    )
    locust = start(tmp_path, "--headless", "-t", "1s", *arguments, module="evaluator.sources.locust")
    _, log = locust.communicate(timeout=30)
    assert locust.returncode == 2
    assert says in log
    assert "Traceback" not in log
    assert not os.path.exists(tmp_path / "evaluator.data")  # noqa: PTH110
