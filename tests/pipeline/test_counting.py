"""What a run has recorded so far, also what has not landed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from stored import STEADY

from evaluator.pipeline import counting
from evaluator.pipeline.counting import count_recorded, describe_progress, list_running
from evaluator.records import Release, Run, RunState, Service
from evaluator.segments import segment_paths
from evaluator.simulate import simulate, to_parquet
from evaluator.store import Store

START = datetime(2026, 3, 2, tzinfo=UTC)
RUN = Run("r", "cart@2", "g", "locust", started=START, planned_end=START + timedelta(seconds=45))


@pytest.mark.parametrize(
    ("run", "seconds", "expected"),
    [
        (RUN, 21.4, "21 s of 45 s"),
        (RUN, -3, "0 s of 45 s"),  # the clock of the load may be ahead
        (RUN, 225, "45 s planned, which were over 3 min ago"),
        (replace(RUN, planned_end=None), 21.4, "21 s"),
        (replace(RUN, started=None), 21.4, "just begun"),
    ],
)
def test_progress_is_said_in_words(run, seconds, expected):
    assert describe_progress(run, START + timedelta(seconds=seconds)) == expected


def test_only_runs_that_go_on_are_listed():
    ended = replace(RUN, id="s", state=RunState.COMPLETE)
    assert list_running((ended, RUN)) == (RUN,)


def test_requests_are_counted_by_arm_before_they_land_and_each_segment_is_read_once(tmp_path, monkeypatch):
    requests = simulate(replace(STEADY, duration_s=40.0, failure_rate=0.1), 3)
    requests = replace(requests, runs=("r",))
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    store.data.register_run(Release("cart@2", (Service("cart", "1", "2"),)), RUN)
    assert count_recorded(store, (RUN,)) == ()
    folder = store.data.segment_folder(RUN)
    to_parquet(requests, folder.parent, rows=500)
    arms = count_recorded(store, (RUN,))
    assert [arm.name for arm in arms] == ["baseline", "canary"]
    assert sum(arm.requests for arm in arms) == len(requests.ts_us)
    assert sum(arm.failures for arm in arms) == requests.failed.sum() > 0
    for arm in arms:
        assert arm.rate_per_s == pytest.approx(STEADY.rate_per_s, rel=0.3)

    def refuse(path, **_):
        raise AssertionError(path)

    monkeypatch.setattr(counting.pq, "read_table", refuse)
    assert count_recorded(store, (RUN,)) == arms
    monkeypatch.undo()
    damaged = segment_paths(folder)[-1].with_name("seg-w-999999.parquet")
    damaged.write_bytes(b"PAR1")  # a disk that was full
    assert count_recorded(store, (RUN,)) == arms
