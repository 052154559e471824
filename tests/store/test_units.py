"""The unit in which the times of a run are kept: nanoseconds where microseconds would lose digits that matter."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import numpy as np
import pytest

from evaluator.records import MICROSECONDS, NANOSECONDS
from evaluator.stats.shaping.cells import TABLES, join
from evaluator.store import Store, landing
from evaluator.store.engine import open_engine
from evaluator.store.migrations import MIGRATIONS
from evaluator.store.rollup import choose_units_per_ms

HOUR_NS = 3_600_000_000_000


def list_columns(cells):
    """All numbers of cells as lists, NaN as -1."""
    return {
        f"{table}.{name}": np.nan_to_num(np.asarray(getattr(getattr(cells, table), name), float), nan=-1).tolist()
        for table in TABLES
        for name in getattr(cells, table).__slots__
        if name != "exception"
    }


@pytest.fixture
def land(store, new_run, rows, write):
    """Land requests with these times (ms) as a run, and return the id of the run."""

    def land_times(times_ms, run_id="run-1"):
        run = new_run(run_id)
        table = rows(len(times_ms), response_time_ms=times_ms, failed=[False] * len(times_ms))
        write(store.data.segment_folder(run), [table])
        store.data.land_segments(run.id)
        return run.id

    return land_times


@pytest.mark.parametrize(
    ("times_ms", "units_per_ms"),
    [
        pytest.param([0.0154862] * 9, NANOSECONDS, id="fractions of a short time"),
        pytest.param([0.015] * 9, MICROSECONDS, id="whole microseconds"),
        pytest.param([float(np.float32(0.999))] * 9, MICROSECONDS, id="whole microseconds of 32 bits"),
        pytest.param([3.1e-7] * 9, NANOSECONDS, id="below a nanosecond"),
        pytest.param([15.1234567] * 9, MICROSECONDS, id="long times"),
        pytest.param([0.999999] * 9, NANOSECONDS, id="below a millisecond"),
        pytest.param([1.000001] * 9, MICROSECONDS, id="above a millisecond"),
        pytest.param([0.0154862] * 3 + [15.0] * 397, MICROSECONDS, id="less than 1 % of very short times"),
        pytest.param([0.0154862] * 4 + [15.0] * 396, NANOSECONDS, id="1 % of very short times"),
        pytest.param([0.015] * 40 + [0.0154862] * 3 + [15.0] * 357, MICROSECONDS, id="whole ones do not count"),
        pytest.param([0.1154862] * 4 + [15.0] * 6, MICROSECONDS, id="less than half below a millisecond"),
        pytest.param([0.0154862] * 8 + [2e9], MICROSECONDS, id="and a time of weeks"),
        pytest.param([0.0154862] * 8 + [3.6e6], NANOSECONDS, id="and a time of an hour"),
        pytest.param([float("nan"), float("inf"), -0.0154862], MICROSECONDS, id="no times"),
    ],
)
def test_the_unit_is_chosen_by_what_rounding_would_lose(tmp_path, rows, write, times_ms, units_per_ms):
    count = len(times_ms)
    table = rows(count, endpoint=["GET /"] * count, response_time_ms=times_ms, failed=[False] * count)
    with open_engine() as engine:
        assert choose_units_per_ms(engine, write(tmp_path, [table])) == units_per_ms


def test_one_short_endpoint_is_enough_and_failures_do_not_count(tmp_path, rows, write):
    def choose(folder, failed):
        endpoints, times_ms = ["POST /order"] * 97 + ["GET /health"] * 3, [40.5] * 97 + [0.0154862] * 3
        table = rows(100, endpoint=endpoints, response_time_ms=times_ms, failed=failed)
        with open_engine() as engine:
            return choose_units_per_ms(engine, write(tmp_path / folder, [table]))

    assert choose("succeeded", [False] * 100) == NANOSECONDS
    assert choose("failed", [False] * 97 + [True] * 3) == MICROSECONDS


def test_sums_are_exact(store, land):
    """Jobs of an hour next to calls of microseconds: as Python adds their nanoseconds up."""
    random = np.random.default_rng(1)
    times_ns = [*random.integers(1, 999_999, 300).tolist(), *(HOUR_NS + random.integers(0, HOUR_NS, 20)).tolist()]
    run = land([time / 1e6 for time in times_ns])
    query = """SELECT sum(sum_time)::VARCHAR AS total, sum(sum_sq_time)::VARCHAR AS squares, min(min_time) AS least,
        max(max_time) AS most FROM moments"""
    assert store.data.query(query).to_pylist() == [
        {
            "total": str(sum(times_ns)),
            "squares": str(sum(time * time for time in times_ns)),
            "least": min(times_ns),
            "most": max(times_ns),
        }
    ]
    assert store.data.read_cells([run]).units_per_ms == NANOSECONDS


def test_the_same_numbers_in_another_unit_are_the_same_cells(store, land):
    times = np.random.default_rng(2).lognormal(9.6, 0.05, 400).round()  # about 15,000
    ns = store.data.read_cells([land(times / 1e6, "ns")])
    us = store.data.read_cells([land(times / 1e3, "us")])
    assert (ns.units_per_ms, us.units_per_ms) == (NANOSECONDS, MICROSECONDS)
    assert ns.grid == us.grid == 1
    assert list_columns(ns) == list_columns(us)


def test_runs_of_both_units_are_read_in_the_finer_one(store, land):
    times_us = np.random.default_rng(3).integers(2, 900, 400)
    whole, fine = land(times_us / 1e3, "whole"), land([0.015487] * 40, "fine")
    both = store.data.read_cells([whole, fine])
    assert (both.units_per_ms, both.grid) == (NANOSECONDS, 1)
    # What the times in microseconds are if they land in nanoseconds.
    as_ns = times_us * 1000
    moments, bins = both.moments, both.bins
    assert moments.sum_time[moments.run == 0].sum() == as_ns.sum()
    assert moments.sum_sq_time[moments.run == 0].sum() == (as_ns**2).sum()
    assert np.nanmin(moments.min_time[moments.run == 0]) == as_ns.min()
    counts = np.bincount(bins.bin[bins.run == 0], weights=bins.n[bins.run == 0])
    assert counts.tolist() == np.bincount(np.floor(115 * np.log10(as_ns)).astype(int)).tolist()
    assert both.coarsest_unit == 1000
    assert (store.data.read_cells([whole]).coarsest_unit, store.data.read_cells([fine]).coarsest_unit) == (1, 1)
    # Parts that are joined become the same.
    parts = [replace(store.data.read_cells([run]), runs=("whole", "fine")) for run in (whole, fine)]
    joined = join(parts)
    assert (joined.units_per_ms, joined.grid) == (NANOSECONDS, 1)
    assert joined.coarsest_unit == 1000
    assert joined.moments.sum_time.sum() == moments.sum_time.sum()
    assert sum(joined.bins.n) == sum(bins.n)
    assert sorted(joined.bins.bin.tolist()) == sorted(bins.bin.tolist())


def test_coarse_steps_of_both_units_have_a_common_one(store, land):
    whole, fine = land([0.3, 0.6, 1.2], "whole"), land([0.0002, 0.0004, 0.001], "fine")
    assert store.data.read_cells([whole]).grid == 300
    assert store.data.read_cells([fine]).grid == 200
    assert store.data.read_cells([whole, fine]).grid == 200  # of 300,000 and 200 ns


def test_a_run_of_failures_alone_has_no_unit(store, land, new_run, rows, write):
    failing = new_run("failing")
    write(store.data.segment_folder(failing), [rows(20, response_time_ms=[5.0] * 20, failed=[True] * 20)])
    store.data.land_segments(failing.id)
    fine = land([0.015487] * 40, "fine")
    assert store.data.read_cells([failing.id, fine]).coarsest_unit == 1


def test_later_segments_are_kept_in_the_unit_of_the_run(store, new_run, rows, write):
    """Failures alone decide no unit; the first times do."""
    run = new_run()
    for worker, times_ms, failed in (
        ("a", [0.0001] * 50, True),
        ("b", [0.0154862] * 50, False),
        ("c", [700.5] * 50, False),
    ):
        table = rows(50, response_time_ms=times_ms, failed=[failed] * 50)
        write(store.data.segment_folder(run), [table], worker=worker)
        store.data.land_segments(run.id)
    cells = store.data.read_cells([run.id])
    assert cells.units_per_ms == NANOSECONDS
    assert cells.moments.sum_time.sum() == 50 * (15_486 + 700_500_000)
    assert cells.grid == 6  # of 15,486 and 700,500,000


def test_a_unit_that_another_process_chose_meanwhile_is_used(store, new_run, rows, write, monkeypatch):
    run = new_run()
    folder = store.data.segment_folder(run)
    [long] = write(folder, [rows(50, response_time_ms=[700.5004] * 50, failed=[False] * 50)], worker="a")
    called = False

    def choose_late(engine, paths):
        nonlocal called
        if not called:
            called = True
            # Before this process has written the long times, another one lands short times of the same run.
            away = long.rename(long.with_suffix(".away"))
            write(folder, [rows(50, response_time_ms=[0.0154862] * 50, failed=[False] * 50)], worker="b")
            assert Store.open(store.path).data.land_segments(run.id).rows == 50
            away.rename(long)
        return choose_units_per_ms(engine, paths)

    monkeypatch.setattr(landing, "choose_units_per_ms", choose_late)
    assert store.data.land_segments(run.id).rows == 50
    cells = store.data.read_cells([run.id])
    assert cells.units_per_ms == NANOSECONDS
    assert cells.moments.sum_time.sum() == 50 * (15_486 + 700_500_400)


def test_times_of_an_older_store_are_microseconds(tmp_path):
    path = tmp_path / "old.duckdb"
    with duckdb.connect() as engine:
        engine.execute(f"ATTACH '{path}' AS store")
        engine.execute("USE store")
        units_step = next(k for k, step in enumerate(MIGRATIONS) if "units_per_ms" in step[0])
        for step in MIGRATIONS[:units_step]:
            for statement in step:
                engine.execute(statement)
        engine.execute("UPDATE meta SET schema_version = ?", [units_step])
        engine.execute("INSERT INTO groups VALUES ('g', 0, 'cart@2', 'import', 1)")
        engine.execute(
            """INSERT INTO runs VALUES ('r', 0, 'cart@2', 'g', 'import', 0, NULL, NULL, NULL, 'complete', '{}', '{}',
            1, 5)"""
        )
        engine.execute("INSERT INTO names VALUES (0, 'arm', 'baseline'), (1, 'endpoint', 'a'), (2, 'instance', 'i')")
        engine.execute("INSERT INTO moments VALUES (0, 0, 1, 2, 7, 2, 0, 40, 850, 15, 25, 0, 0)")
        engine.execute("INSERT INTO bin_lists VALUES (0, 0, 1, 7, [135, 160], [1, 1])")
        engine.execute("USE memory")
        engine.execute("DETACH store")
    cells = Store.open(path).data.read_cells(["r"])
    assert (cells.units_per_ms, cells.grid) == (MICROSECONDS, 5)
    assert (cells.moments.sum_time, cells.moments.sum_sq_time) == (40, 850)
    assert (cells.moments.min_time, cells.moments.max_time) == (15, 25)
    assert cells.bins.bin.tolist() == [135, 160]
    assert (cells.moments.statuses, cells.moments.redirects, cells.moments.client_errors) == (0, 0, 0)  # not known
