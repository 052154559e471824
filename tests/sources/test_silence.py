"""Requests whose end Locust never reports: those in flight when a load ends, and those that end without an event."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from evaluator.records import InFlight, LeftOut, LeftOutKind, Run, RunFacts, RunState
from evaluator.segments import segment_paths
from evaluator.sources.load import LoadPlan, RunOutcome, run_locust

from .conftest import read_rows, start_silent

WATCHED = """
from locust import FastHttpUser, HttpUser, between, task

class Fast(FastHttpUser):
    wait_time = between(0.02, 0.06)

    @task
    def products(self):
        self.client.get("/products?page=1")

class Slow(HttpUser):
    wait_time = between(0.02, 0.06)

    @task
    def search(self):
        self.client.get("/products", params={"q": "a b"})

    @task
    def cart(self):
        with self.client.rename_request("/shop"), self.client.post("/cart", json={}, catch_response=True) as response:
            response.success()
"""

ENDPOINTS = {"GET /products?page=1", "GET /products?q=a+b", "POST /shop"}


@pytest.fixture
def watched(plan: LoadPlan) -> LoadPlan:
    """Six users of both HTTP clients in each arm, for five seconds."""
    plan.locustfile.write_text(WATCHED)
    return replace(plan, arms=plan.arms[:1], run_time_s=5)


def check_account(facts: RunFacts, folder: Path) -> Counter[str]:
    """Requests read = requests recorded + requests left out, in each arm; returns those recorded."""
    rows = Counter(read_rows(folder)["arm"].to_pylist())
    left_out: Counter[str] = Counter()
    for part in facts.left_out:
        left_out[part.arm] += part.rows
    assert facts.read == rows + left_out
    assert facts.counted == rows.total()
    return rows


def in_flight_of(outcome: RunOutcome, arm: str) -> list[InFlight]:
    return [request for request in outcome.facts.in_flight if request.arm == arm]


@pytest.mark.parametrize(
    ("after_s", "half", "stopped"),
    [
        pytest.param(0.0, False, True, id="never-answers-and-is-stopped"),
        pytest.param(2.5, False, False, id="half-the-time"),
        pytest.param(3.5, True, False, id="heads-without-bodies-near-the-end"),
    ],
)
def test_what_waits_when_a_load_ends_is_kept_with_its_age(
    watched: LoadPlan, run: Run, tmp_path: Path, after_s: float, half: bool, stopped: bool
) -> None:
    def why_stop() -> str:
        return "enough" if stopped and len(segment_paths(tmp_path / "run")) > 2 else ""

    with start_silent("canary", after_s, half=half) as canary:
        plan = replace(watched, arms=(*watched.arms, canary))
        outcome = run_locust(plan, run, tmp_path / "run", why_stop=why_stop)
    rows, recorded = check_account(outcome.facts, tmp_path / "run"), read_rows(tmp_path / "run").to_pylist()
    assert outcome.state is RunState.COMPLETE
    assert rows["baseline"] > 20
    assert (rows["canary"] > 0) is (after_s > 0)
    assert outcome.facts.users_stopped
    assert outcome.started
    assert outcome.started < outcome.facts.users_stopped <= outcome.ended
    stopped_s = outcome.facts.users_stopped.timestamp()
    waiting = in_flight_of(outcome, "canary")
    # Every user waits for one answer since the target fell silent.
    assert len(waiting) == 6
    assert {request.instance for request in waiting} == {"canary"}
    assert {request.endpoint for request in waiting} <= ENDPOINTS
    assert {request.endpoint for request in waiting} & {"GET /products?q=a+b", "POST /shop"}
    assert "GET /products?page=1" in {request.endpoint for request in waiting}
    for request in waiting:
        assert request.started_s + request.age_s == pytest.approx(stopped_s, abs=0.05)
    last_s = max((row["ts"].timestamp() for row in recorded if row["arm"] == "canary"), default=0.0)
    assert min(request.started_s for request in waiting) > last_s - 0.5
    # A healthy arm has only what it was asked just before.
    assert all(0 < request.age_s < 1 for request in in_flight_of(outcome, "baseline"))


def test_several_processes_report_what_waits_and_end_in_order(watched: LoadPlan, run: Run, tmp_path: Path) -> None:
    with start_silent("canary", 0) as canary:
        # Locust's leader does not wait for users who have more time than half a second to end.
        plan = replace(watched, arms=(*watched.arms, canary), processes=2, arguments=("--stop-timeout", "8"))
        outcome = run_locust(plan, run, tmp_path / "run")
    assert (outcome.state, outcome.facts.stopped_by) == (RunState.COMPLETE, "")
    check_account(outcome.facts, tmp_path / "run")
    assert len(in_flight_of(outcome, "canary")) == 6
    assert outcome.facts.users_stopped
    for request in in_flight_of(outcome, "canary"):
        assert request.age_s > 1
        assert request.started_s + request.age_s < outcome.facts.users_stopped.timestamp() + 0.05
    assert all(0 < request.age_s < 1 for request in in_flight_of(outcome, "baseline"))


LEAVING = """
from locust import FastHttpUser, constant, task
from locust.exception import StopUser

class Leaving(FastHttpUser):
    wait_time = constant(0.05)
    asked = 0

    @task
    def products(self):
        self.client.get("/products")
        self.asked += 1
        if self.asked == 20:
            raise StopUser()
"""


def test_users_who_leave_by_themselves_are_not_expected_to_the_end(watched: LoadPlan, run: Run, tmp_path: Path) -> None:
    watched.locustfile.write_text(LEAVING)
    outcome = run_locust(watched, run, tmp_path / "run")
    assert outcome.facts.users_stopped
    last_s = max(row["ts"].timestamp() for row in read_rows(tmp_path / "run").to_pylist())
    assert abs(outcome.facts.users_stopped.timestamp() - last_s) < 1.5
    assert outcome.ended.timestamp() - last_s > 1.6


LATE = """
from locust import FastHttpUser, HttpUser, constant, task

class Fast(FastHttpUser):
    wait_time = constant(0)

    @task
    def late(self):
        self.client.get("/late")

class Slow(HttpUser):
    wait_time = constant(0)

    @task
    def late(self):
        self.client.get("/late")
"""


def test_what_is_answered_after_the_users_were_told_to_stop_is_recorded_once(
    watched: LoadPlan, run: Run, tmp_path: Path
) -> None:
    watched.locustfile.write_text(LATE)
    with start_silent("baseline", 60) as first, start_silent("canary", 60) as second:
        plan = replace(watched, arms=(first, second), run_time_s=3, arguments=("--stop-timeout", "5"))
        outcome = run_locust(plan, run, tmp_path / "run")
    check_account(outcome.facts, tmp_path / "run")
    assert outcome.facts.users_stopped
    ends = [row["ts"].timestamp() + row["response_time_ms"] / 1000 for row in read_rows(tmp_path / "run").to_pylist()]
    assert sum(end > outcome.facts.users_stopped.timestamp() for end in ends) == 12
    assert outcome.facts.in_flight == ()


ODD = """
import gevent
from locust import HttpUser, FastHttpUser, LoadTestShape, constant, task
from locust.exception import RescheduleTask

class Slow(HttpUser):
    wait_time = constant(0.01)

    def on_start(self):
        self.turn = 0

    @task
    def walk(self):
        self.turn += 1
        client = self.client
        if self.turn == 1:
            with client.get("/a", catch_response=True) as response:
                response.json()
        elif self.turn == 2:
            with client.get("/a", catch_response=True):
                raise RescheduleTask()
        elif self.turn == 3:
            with client.get("/a", catch_response=True) as response:
                response.failure("no")
                raise ValueError("told before")
        elif self.turn == 4:
            client.get("http://[nowhere")
        elif self.turn == 5:
            with gevent.Timeout(0.2, False):
                client.get("/late")
        elif self.turn == 6:
            with client.get("/a", stream=True, catch_response=True) as response:
                assert response.content == b"ok"
        else:
            while True:
                client.get("/late")

class Fast(FastHttpUser):
    wait_time = constant(0.01)

    def on_start(self):
        self.turn = 0

    @task
    def walk(self):
        self.turn += 1
        if self.turn == 1:
            with self.client.get("/a", catch_response=True) as response:
                response.json()
        elif self.turn == 2:
            gevent.spawn(self.client.get, "/never")  # a greenlet that Locust does not know, and does not stop
            with self.client.get("/b", name="/nice", stream=True, catch_response=True):
                gevent.sleep(60)

class Down(LoadTestShape):
    def tick(self):
        passed = self.get_run_time()
        return None if passed > 5.5 else (2, 10) if passed < 2.5 else (1, 10)
"""


def test_requests_that_end_without_an_event_are_named(watched: LoadPlan, run: Run, tmp_path: Path) -> None:
    watched.locustfile.write_text(ODD)
    with start_silent("baseline", 60) as first, start_silent("canary", 60) as second:
        outcome = run_locust(replace(watched, arms=(first, second), run_time_s=30), run, tmp_path / "run")
    rows = check_account(outcome.facts, tmp_path / "run")
    kind, why = LeftOutKind.OTHER_KIND, "ended without a request event: "
    for arm in ("baseline", "canary"):
        assert [part for part in outcome.facts.left_out if part.arm == arm] == [
            LeftOut(arm, kind, 1, 1, f"{why}InvalidURL"),
            LeftOut(arm, kind, 2, 2, f"{why}JSONDecodeError"),
            LeftOut(arm, kind, 1, 0, f"{why}RescheduleTask"),
            LeftOut(arm, kind, 1, 1, f"{why}Timeout"),
        ]
        assert rows[arm] >= 4
        # Of the two users, one was stopped half way, and the other at the end; what one of them has started goes on.
        waiting = {request.endpoint: request.started_s + request.age_s for request in in_flight_of(outcome, arm)}
        assert len(in_flight_of(outcome, arm)) == 3
        assert outcome.facts.users_stopped
        end_s = outcome.facts.users_stopped.timestamp()
        assert waiting.pop("GET /never") == pytest.approx(end_s, abs=0.05)
        assert set(waiting) == {"GET /nice", "GET /late"}
        assert max(waiting.values()) == pytest.approx(end_s, abs=0.05)
        assert min(waiting.values()) < end_s - 1.5
