"""A load whose arms do not all answer is a run that is kept, with the cause."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evaluator.errors import LoadError
from evaluator.pipeline import loading
from evaluator.pipeline.judging import judge_release
from evaluator.pipeline.loading import load_release
from evaluator.policy import load_policy
from evaluator.records import Arm, InFlight, LeftOut, LeftOutKind, Release, RunFacts, RunState, VerdictWord
from evaluator.sources.load import LoadPlan, RunOutcome
from evaluator.store import Store

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
"""When the loads of these tests end."""

LOCUSTFILE = """
from locust import HttpUser, between, task

class Reader(HttpUser):
    wait_time = between(0.03, 0.07)

    @task
    def read(self):
        self.client.get("/")
"""

SERVER = """
import asyncio, sys

async def answer(reader, writer):
    while await reader.readuntil(b"\\r\\n\\r\\n"):
        if sys.argv[1] == "refuse":
            writer.close()
            return
        if sys.argv[1] == "answer":
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


@contextmanager
def serve(name: str, how: str) -> Iterator[Arm]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout
        yield Arm(name, (f"http://127.0.0.1:{process.stdout.readline().strip()}",))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "evaluator.duckdb", create=True)


@pytest.fixture
def plan(tmp_path: Path) -> LoadPlan:
    path = tmp_path / "locustfile.py"
    path.write_text(LOCUSTFILE)
    return LoadPlan((), path, users=2, spawn_rate=10, run_time_s=3)


@pytest.mark.parametrize("how", ["wait", "refuse"])
def test_a_candidate_that_never_answered_has_a_verdict(store: Store, plan: LoadPlan, how: str) -> None:
    with serve("baseline", "answer") as old, serve("canary", how) as new:
        (run,) = load_release(store, Release("shop@2"), replace(plan, arms=(old, new)))
    assert (run.state, run.facts.stopped_by) == (RunState.COMPLETE, "")
    assert sum(run.facts.read.values()) == run.landed == run.facts.counted
    waiting = [request for request in run.facts.in_flight if request.arm == "canary" and request.age_s > 1]
    assert len(waiting) == (2 if how == "wait" else 0)
    assert ("canary" in run.facts.read) is (how == "refuse")
    verdict = judge_release(store, "shop@2", load_policy(None), judged_at=datetime.now(UTC))
    assert verdict.word is not VerdictWord.GO
    assert [stored.word for stored in store.control.verdicts("shop@2")] == [verdict.word.value]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        pytest.param(
            {"in_flight": (InFlight("b", "b", "GET /", 1.0, 9.0), *[InFlight("a", "a", "GET /", 1.0, 9.0)] * 2)},
            r"no request of run .* was answered: .* \(2 of a, 1 of b\)",
            id="all-wait",
        ),
        pytest.param(
            {"left_out": (LeftOut("a", LeftOutKind.OTHER_KIND, 5, 5, "ended without a request event: KeyError"),)},
            "no request that can be judged: 5 ended without a request event: KeyError",
            id="none-can-be-judged",
        ),
        pytest.param({}, "made no request: ValueError: no cart", id="none-was-sent"),
    ],
)
def test_a_load_without_landed_requests_names_the_cause_and_is_kept(
    store: Store, plan: LoadPlan, monkeypatch: pytest.MonkeyPatch, facts: dict[str, object], says: str
) -> None:
    run_facts = RunFacts(users_stopped=AT, **facts)  # type: ignore[arg-type]
    outcome = RunOutcome(
        RunState.COMPLETE, AT - timedelta(seconds=3), AT, AT, run_facts, exit_code=0, trouble="ValueError: no cart"
    )
    monkeypatch.setattr(loading, "run_locust", lambda *_: outcome)
    monkeypatch.setattr(loading, "check_plan", lambda _: None)
    with pytest.raises(LoadError, match=says) as caught:
        load_release(store, Release("shop@2"), replace(plan, arms=(Arm("a", ("http://a",)), Arm("b", ("http://b",)))))
    assert caught.value.hint
    (run,) = store.data.runs("shop@2")
    assert (run.state, run.facts) == (RunState.COMPLETE, run_facts)
    verdict = judge_release(store, "shop@2", load_policy(None), judged_at=AT)
    assert verdict.word is VerdictWord.INCONCLUSIVE
