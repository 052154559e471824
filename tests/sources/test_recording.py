"""Facts of the processes of a run, merged."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from evaluator.records import InFlight, LeftOut, LeftOutKind
from evaluator.sources.recording import WorkerFacts, merge_facts, read_worker_facts, utc

AT = 1_795_418_924.0
BAD = LeftOut("canary", LeftOutKind.BAD_ROW, 2, 0, "no usable response time")
ODD = LeftOut("canary", LeftOutKind.OTHER_KIND, 3, 3, "ended without a request event: KeyError")
WAITS = InFlight("canary", "i1", "GET /", AT - 20, 20.0)

FIRST = WorkerFacts(
    "a", "worker", read={"baseline": 10, "canary": 8}, left_out=(BAD, ODD), in_flight=(WAITS,), users_stopped=AT,
    closed=True,
)  # fmt: skip
SECOND = WorkerFacts("b", "worker", read={"canary": 5}, left_out=(BAD,), users_stopped=AT + 0.5, closed=True)
MASTER = WorkerFacts("master", "master", workers_expected=2, users_stopped=AT - 30, closed=True)


def test_what_the_processes_read_and_left_out_is_summed() -> None:
    facts = merge_facts([FIRST, SECOND, MASTER])
    assert facts.read == {"baseline": 10, "canary": 13}
    assert facts.left_out == (replace(BAD, rows=4), ODD)
    assert facts.in_flight == (WAITS,)


def test_the_users_were_told_to_stop_when_the_last_process_told_them() -> None:
    assert merge_facts([FIRST, SECOND, MASTER]).users_stopped == utc(AT) + timedelta(seconds=0.5)
    untold = [replace(FIRST, users_stopped=None), replace(SECOND, users_stopped=None)]
    assert merge_facts([*untold, MASTER]).users_stopped == utc(AT - 30)
    assert merge_facts(untold).users_stopped is None


def test_a_process_that_was_killed_or_is_missing_leaves_the_count_open() -> None:
    killed = replace(SECOND, closed=False)
    assert merge_facts([FIRST, killed, MASTER]).read == {}
    assert merge_facts([FIRST, MASTER]).read == {}
    assert merge_facts([FIRST], workers_expected=2).read == {}
    # What is known to be left out stays known.
    assert merge_facts([FIRST, killed, MASTER]).left_out == (replace(BAD, rows=4), ODD)


def test_a_sidecar_reads_back_as_it_was_written(tmp_path: Path) -> None:
    FIRST.write(tmp_path)
    assert read_worker_facts(tmp_path) == (FIRST,)
