"""Real Locust processes against real servers on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow.compute as pc
import pytest

from evaluator.errors import EvaluatorError, InputError, LoadError, UsageError
from evaluator.health.comparability import SAME_IN_ALL_RUNS
from evaluator.records import Arm, Run, RunState
from evaluator.segments import segment_paths
from evaluator.sources.load import (
    LoadPlan,
    check_plan,
    fingerprint,
    is_alive,
    is_recording,
    read_outcome,
    run_locust,
    wait_for_targets,
)
from evaluator.sources.recording import read_worker_facts
from evaluator.sources.sample import REGRESSIONS, find_loadtests, start_arms
from evaluator.sources.sample_environments import KINDS

from .conftest import read_rows


def wait_until(ready: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def children_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_a_clean_run_loses_nothing_and_gives_every_arm_the_same(plan: LoadPlan, run: Run, tmp_path: Path) -> None:
    plan.locustfile.write_text(
        plan.locustfile.read_text()
        + "\nfrom evaluator.sources.locust import Recorder\nRecorder(release='of-the-team', arm='canary')\n"
    )
    lines: list[str] = []
    outcome = run_locust(plan, run, tmp_path / "run", lines.append)
    rows = read_rows(tmp_path / "run")
    assert (outcome.state, outcome.facts.stopped_by) == (RunState.COMPLETE, "")
    assert outcome.facts.counted == rows.num_rows > 200
    assert outcome.facts.read == Counter(rows["arm"].to_pylist())
    assert outcome.facts.left_out == ()
    assert outcome.facts.users == {"baseline": 6, "canary": 6}
    assert (outcome.facts.workers_expected, outcome.facts.workers_seen) == (1, 1)
    assert (outcome.facts.pacing, outcome.facts.target_users) == ("closed", 12)
    assert outcome.started
    assert outcome.planned_end
    assert outcome.facts.plateau_start
    assert outcome.started < outcome.facts.plateau_start < outcome.ended
    assert any("All users spawned" in line for line in lines)
    assert pc.max(rows["user_count"]).as_py() == 6
    by_arm = Counter(rows["arm"].to_pylist())
    assert by_arm["baseline"] == pytest.approx(by_arm["canary"], rel=0.2)
    instances = {(row["arm"], row["instance"]) for row in rows.select(["arm", "instance"]).to_pylist()}
    assert instances == {(arm.name, url.removeprefix("http://")) for arm in plan.arms for url in arm.urls}
    rows_of = {row["endpoint"]: row for row in rows.to_pylist()}
    assert set(rows_of) == {"GET /products", "POST /cart", "GET /missing"}
    assert rows_of["POST /cart"]["exception"] == "CatchResponseError: not today"
    assert (rows_of["GET /missing"]["status_code"], rows_of["GET /missing"]["failed"]) == (404, True)
    assert rows_of["GET /missing"]["context"] == [("tenant", "a")]
    assert rows_of["GET /products"]["context"] is None
    assert rows_of["GET /products"]["response_bytes"] > 0


def test_several_processes_share_the_arms_equally(plan: LoadPlan, run: Run, tmp_path: Path) -> None:
    one_address = tuple(replace(arm, urls=arm.urls[:1]) for arm in plan.arms)
    outcome = run_locust(replace(plan, processes=2, arms=one_address, run_time_s=10), run, tmp_path / "run")
    rows = read_rows(tmp_path / "run")
    assert outcome.state is RunState.COMPLETE
    assert outcome.facts.counted == rows.num_rows > 200
    assert outcome.facts.users == {"baseline": 6, "canary": 6}
    assert (outcome.facts.workers_expected, outcome.facts.workers_seen) == (2, 2)
    assert outcome.facts.clock_offset_s is None or outcome.facts.clock_offset_s < 1
    pairs = Counter(zip(rows["worker"].to_pylist(), rows["arm"].to_pylist(), strict=True))
    assert len(pairs) == 4
    assert min(pairs.values()) > 0.6 * max(pairs.values())
    assert set(rows["instance"].unique().to_pylist()) == {"baseline-1", "canary-1"}
    assert pc.max(rows["user_count"]).as_py() == 6


def test_users_of_a_shape_count_per_arm(plan: LoadPlan, run: Run, tmp_path: Path) -> None:
    plan.locustfile.write_text(
        f"import sys\nsys.path.insert(0, {str(find_loadtests())!r})\nfrom users import Shopper\nimport shapes\n"
        "class Short(shapes.Ramp):\n    users, ramp_s, hold_s = 4, 1, 2\n"
    )
    outcome = run_locust(replace(plan, run_time_s=60), run, tmp_path / "run")
    assert outcome.state is RunState.COMPLETE
    assert outcome.planned_end is None
    assert outcome.facts.users == {"baseline": 4, "canary": 4}
    assert outcome.facts.pacing == "open"


def test_a_killed_worker_loses_a_second_and_makes_the_run_incomplete(plan: LoadPlan, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killed: list[tuple[float, int]] = []

    def kill_one() -> None:
        wait_until(lambda: len(segment_paths(folder)) >= 4)
        victim = next(facts for facts in read_worker_facts(folder) if facts.role == "worker")
        time.sleep(0.4)
        killed.append((time.time(), victim.pid))
        os.kill(victim.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    outcome = run_locust(replace(plan, processes=2, run_time_s=6), run, folder)
    killer.join()
    (at, pid), rows = killed[0], read_rows(folder)
    last = pc.max(rows.filter(pc.match_substring(rows["worker"].cast("string"), f"-{pid}"))["ts"]).as_py().timestamp()
    assert at - last < 1.3
    assert outcome.state is RunState.INCOMPLETE
    assert (outcome.facts.workers_expected, outcome.facts.workers_seen) == (2, 1)
    assert "1 of 2 load generator processes" in outcome.facts.stopped_by
    assert not list(folder.glob("*.tmp"))
    # The one that was killed has counted less than it wrote.
    assert outcome.facts.read == {}


RUN_ALONE = """
import json, resource, sys
from dataclasses import replace
from pathlib import Path
from evaluator.records import Arm, Run
from evaluator.sources.load import LoadPlan, run_locust
given = json.loads(sys.argv[1])
if given["file_bytes"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (given["file_bytes"], given["file_bytes"]))
arms = tuple(Arm(name, tuple(urls)) for name, urls in given["arms"])
plan = LoadPlan(arms, Path(given["locustfile"]), 6, 20, given["seconds"], processes=given["processes"])
outcome = run_locust(plan, Run("run-1", "shop@2", "run-1", "locust"), Path(given["folder"]))
print(json.dumps({"state": outcome.state.value, "stopped_by": outcome.facts.stopped_by}))
"""


def start_alone(plan: LoadPlan, folder: Path, *, file_bytes: int = 0, processes: int = 1) -> subprocess.Popen[str]:
    environment = {
        "arms": [(arm.name, arm.urls) for arm in plan.arms],
        "locustfile": str(plan.locustfile),
        "seconds": 30,
        "processes": processes,
        "folder": str(folder),
        "file_bytes": file_bytes,
    }
    return subprocess.Popen(
        [sys.executable, "-c", RUN_ALONE, json.dumps(environment)], stdout=subprocess.PIPE, text=True
    )


def test_orphans_stop_by_themselves_and_what_they_recorded_stays(plan: LoadPlan, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    starter = start_alone(plan, folder, processes=2)
    wait_until(lambda: len(segment_paths(folder)) >= 4)
    orphans = children_of(starter.pid)
    assert is_recording(folder)
    starter.kill()
    starter.communicate()
    killed_at = time.time()
    gone, alive = psutil.wait_procs(orphans, timeout=10)
    assert (len(gone), alive) == (3, [])
    assert time.time() - killed_at < 4
    assert not is_recording(folder)
    outcome = read_outcome(folder, run_time_s=30)
    assert (outcome.state, outcome.facts.orphaned) == (RunState.INCOMPLETE, True)
    assert pc.max(read_rows(folder)["ts"]).as_py().timestamp() > killed_at - 1.5


def test_workers_stop_when_their_master_is_killed(plan: LoadPlan, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    starter = start_alone(plan, folder, processes=2)
    wait_until(lambda: len(segment_paths(folder)) >= 2)
    master = next(facts for facts in read_worker_facts(folder) if facts.role == "master")
    os.kill(master.pid, signal.SIGKILL)
    output, _ = starter.communicate(timeout=20)
    assert json.loads(output) == {"state": "incomplete", "stopped_by": "Locust was killed by SIGKILL"}


@pytest.mark.parametrize("processes", [pytest.param(1, id="alone"), pytest.param(2, id="workers")])
def test_a_full_disk_ends_the_run_with_the_reason(plan: LoadPlan, tmp_path: Path, processes: int) -> None:
    folder = tmp_path / "run"
    starter = start_alone(plan, folder, file_bytes=2048, processes=processes)
    output, _ = starter.communicate(timeout=25)
    result = json.loads(output)
    assert result["state"] == "incomplete"
    assert result["stopped_by"] == f"cannot write to {folder}: File too large"


def test_an_interrupt_ends_the_load_in_order(plan: LoadPlan, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def interrupt() -> None:
        wait_until(lambda: len(segment_paths(folder)) >= 2)
        signal.raise_signal(signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    outcome = run_locust(replace(plan, run_time_s=30), run, folder)
    interrupter.join()
    signal.signal(signal.SIGINT, handler)
    assert outcome.interrupted
    assert (outcome.state, outcome.facts.stopped_by) == (RunState.INCOMPLETE, "interrupted")
    assert outcome.facts.counted == read_rows(folder).num_rows > 0


def test_a_target_that_dies_is_recorded_as_failures(plan: LoadPlan, run: Run, tmp_path: Path) -> None:
    folder, others = tmp_path / "run", set(children_of(os.getpid()))
    with start_arms([("doomed", "1", "none")], instances=1, leak_over_s=60) as doomed:
        wait_for_targets(doomed[0].urls)
        (target,) = set(children_of(os.getpid())) - others

        def kill() -> None:
            wait_until(lambda: len(segment_paths(folder)) >= 1)
            target.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        outcome = run_locust(replace(plan, arms=(plan.arms[0], doomed[0])), run, folder)
        killer.join()
    assert outcome.state is RunState.COMPLETE
    rows = read_rows(folder)
    doomed_rows = rows.filter(pc.equal(rows["arm"].cast("string"), "doomed")).to_pylist()
    assert any("refused" in (row["exception"] or "").lower() for row in doomed_rows), {
        row["exception"] for row in doomed_rows
    }
    assert outcome.facts.counted == rows.num_rows


@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        pytest.param(None, InputError, "there is no locustfile", id="missing"),
        pytest.param("import not_there", InputError, "cannot be imported: ModuleNotFoundError", id="import"),
        pytest.param("def f(:", InputError, r"locustfile\.py:1: .* cannot be imported: SyntaxError", id="syntax"),
        pytest.param("x = 1", InputError, "has no user class|No User class", id="no-users"),
    ],
)
def test_a_locustfile_that_cannot_work_is_named(
    plan: LoadPlan, content: str | None, error: type[EvaluatorError], match: str
) -> None:
    plan.locustfile.unlink()
    if content is not None:
        plan.locustfile.write_text(content)
    with pytest.raises(error, match=match) as caught:
        check_plan(plan)
    assert "Traceback" not in caught.value.message


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        pytest.param({"users": 0}, UsageError, "users must be more than 0", id="users"),
        pytest.param({"run_time_s": float("nan")}, UsageError, "run time", id="time"),
        pytest.param({"processes": 0}, UsageError, "processes", id="processes"),
        pytest.param({"arms": (Arm("baseline", ("ftp://x",)),)}, UsageError, "not an address", id="scheme"),
        pytest.param({"arms": (Arm("baseline", ("http://x:99999",)),)}, UsageError, "not an address", id="port"),
        pytest.param({"arguments": ("--host=http://x",)}, UsageError, "'--host=http://x' is set by", id="host"),
        pytest.param(
            {"arms": (Arm("b", ("http://127.0.0.1:9",)),)}, LoadError, "http://127.0.0.1:9 does", id="refused"
        ),
        pytest.param(
            {"arguments": ("--no-such",)}, UsageError, "its arguments: unrecognized arguments: --no-such", id="unknown"
        ),
    ],
)
def test_a_plan_that_cannot_work_is_refused(
    plan: LoadPlan, changes: dict[str, object], error: type[EvaluatorError], match: str
) -> None:
    with pytest.raises(error, match=match):
        check_plan(replace(plan, **changes))  # type: ignore[arg-type]


def test_the_fingerprint_follows_the_file_and_the_pace(plan: LoadPlan) -> None:
    before = fingerprint(plan)
    assert before == fingerprint(plan)
    assert before["targets"] == {arm.name: list(arm.urls) for arm in plan.arms}
    plan.locustfile.write_text(plan.locustfile.read_text() + "\n")
    assert fingerprint(plan)["locustfile"] != before["locustfile"]
    assert fingerprint(replace(plan, users=9))["users"] == 9
    assert set(SAME_IN_ALL_RUNS) <= set(before)


def test_the_demo_knows_the_regressions_of_the_sample_service() -> None:
    done = subprocess.run(
        [sys.executable, str(find_loadtests() / "target.py"), "--help"], capture_output=True, text=True, check=True
    )
    known = re.search(r"--regression {(.*?)}", " ".join(done.stdout.split()))[1].split(",")
    used = {name for kinds in KINDS.values() for name in kinds.values()}
    assert {*REGRESSIONS, *used} == set(known)


def test_a_recorder_that_is_a_zombie_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert not is_alive(process.pid)
    process.wait()
    assert is_alive(os.getpid())


@pytest.mark.parametrize("content", ["", '{"worker": "a", "ro', "[]", '{"worker": "a", "role": "local", "later": 1}'])
def test_a_damaged_sidecar_makes_the_run_incomplete_and_no_more(tmp_path: Path, content: str) -> None:
    (tmp_path / "facts-host-7.json").write_text(content)
    outcome = read_outcome(tmp_path, run_time_s=3)
    assert outcome.state is RunState.INCOMPLETE
    assert outcome.facts.stopped_by == "facts-host-7.json is damaged"
