"""Real instances of the sample service, and load tests against them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from evaluator.records import Arm, Run
from evaluator.segments import read_segment, segment_paths
from evaluator.sources.load import LoadPlan, free_port, wait_for_targets
from evaluator.sources.sample import start_arms

LOCUSTFILE = """
from locust import FastHttpUser, HttpUser, constant, task

class Reader(FastHttpUser):
    weight = 3
    wait_time = constant(0.05)

    @task
    def products(self):
        self.client.get("/products")

class Buyer(HttpUser):
    wait_time = constant(0.05)

    @task
    def cart(self):
        with self.client.post("/cart", json={}, catch_response=True) as response:
            response.failure("not today")

class Guard(FastHttpUser):
    fixed_count = 1
    wait_time = constant(0.05)

    @task
    def health(self):
        self.client.get("/missing", context={"tenant": "a"})
"""


@pytest.fixture(scope="session")
def shop() -> Iterator[tuple[Arm, ...]]:
    """Two instances of two arms."""
    with start_arms([("baseline", "1", "none"), ("canary", "2", "none")], instances=2, leak_over_s=60) as arms:
        wait_for_targets([url for arm in arms for url in arm.urls])
        yield arms


@pytest.fixture
def locustfile(tmp_path: Path) -> Path:
    path = tmp_path / "locustfile.py"
    path.write_text(LOCUSTFILE)
    return path


@pytest.fixture
def plan(shop: tuple[Arm, ...], locustfile: Path) -> LoadPlan:
    """Two arms with two instances, six users each."""
    return LoadPlan(shop, locustfile, users=6, spawn_rate=20, run_time_s=3, service="shop")


@pytest.fixture
def run() -> Run:
    return Run("run-1", "shop@2", "run-1", "locust")


def read_rows(folder: Path) -> pa.Table:
    return pa.concat_tables([read_segment(path) for path in segment_paths(folder)]).unify_dictionaries()


@contextmanager
def start_silent(name: str, after_s: float, *, half: bool = False) -> Iterator[Arm]:
    """An arm whose only instance falls silent `after_s` seconds after its first request."""
    port = str(free_port())
    script = Path(__file__).with_name("silent.py")
    process = subprocess.Popen([sys.executable, str(script), port, str(after_s), *(["half"] if half else [])])
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for_targets([url])
        yield Arm(name, (url,))
    finally:
        process.kill()
        process.wait()
