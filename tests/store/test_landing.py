import itertools
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from evaluator.errors import StoreError
from evaluator.records import BASELINE, RunFacts, RunState
from evaluator.segments import VERSION_KEY, read_segment
from evaluator.store import Store, landing

LAND = """
import sys
from pathlib import Path
from evaluator.store import Store
print(Store.open(Path(sys.argv[1])).data.land_segments(sys.argv[2]).rows)
"""


def flatten(cells):
    """All numbers and names of cells, comparable by ==."""
    parts = [cells.arms, cells.endpoints, cells.instances, cells.bucket_s, cells.grid]
    for table in (cells.moments, cells.bins, cells.instance_bins, cells.loads, cells.failure_kinds):
        for name in table.__slots__:
            column = getattr(table, name)
            parts.append(np.nan_to_num(column, nan=-1).tolist() if isinstance(column, np.ndarray) else column)
    return parts


def test_rows_become_cells(store, new_run, rows, write):
    run = new_run()
    table = rows(3000)
    write(store.data.segment_folder(run), [table.slice(0, 1000), table.slice(1000)])
    landed = store.data.land_segments(run.id)
    assert (landed.rows, landed.segments, landed.already) == (3000, 2, 0)
    cells = store.data.read_cells([run.id])
    failed = table["failed"].to_numpy()
    us = np.round(table["response_time_ms"].to_numpy() * 1000)[~failed]
    assert cells.bucket_s == 1
    assert cells.arms == (BASELINE, "canary")
    assert cells.instances == (BASELINE, "canary", "pod-1", "pod-2")
    assert cells.moments.n.sum() == 3000
    assert cells.moments.failures.sum() == failed.sum()
    assert cells.moments.sum_time.sum() == us.sum()
    assert np.nanmax(cells.moments.max_time) == us.max()
    assert cells.bins.n.sum() == cells.instance_bins.n.sum() == len(us)
    expected = np.bincount(np.floor(115 * np.log10(us)).astype(int))
    assert np.array_equal(np.bincount(cells.bins.bin, weights=cells.bins.n), expected)
    assert cells.failure_kinds.n.sum() == failed.sum()
    assert set(cells.failure_kinds.exception) == {"boom 0", "boom 1", "boom 2"}


def test_successes_are_counted_by_their_status_also_where_a_run_lands_in_parts(store, new_run, rows, write):
    run = new_run()
    table = rows(3000)
    statuses = [None, 0, 100, 200, 299, 300, 302, 399, 400, 404, 499, 500, 599]
    drawn = np.random.default_rng(1).choice(len(statuses), 3000)
    column = pa.array([statuses[k] or None for k in drawn], pa.int16())
    table = table.set_column(table.schema.get_field_index("status_code"), table.schema.field("status_code"), column)
    for part in (table.slice(0, 1100), table.slice(1100)):
        write(store.data.segment_folder(run), [part], worker=f"w{len(part)}")
        store.data.land_segments(run.id)
    moments = store.data.read_cells([run.id]).moments
    succeeded = ~table["failed"].to_numpy()
    status = np.array([statuses[k] or -1 for k in drawn])[succeeded]
    assert moments.statuses.sum() == (status > 0).sum()
    assert moments.redirects.sum() == ((status >= 300) & (status < 400)).sum()
    assert moments.client_errors.sum() == ((status >= 400) & (status < 500)).sum()
    arm = np.array(table["arm"].to_pylist())[succeeded]
    for code, name in enumerate((BASELINE, "canary")):
        of_arm = moments.redirects[moments.arm == code].sum()
        assert of_arm == ((status >= 300) & (status < 400) & (arm == name)).sum()
    assert (moments.redirects + moments.client_errors <= moments.statuses).all()
    assert (moments.statuses <= moments.n - moments.failures).all()


def test_twice_changes_nothing(store, new_run, rows, write):
    run = new_run()
    write(store.data.segment_folder(run), [rows(100)])
    store.data.land_segments(run.id)
    before = flatten(store.data.read_cells([run.id]))
    landed = store.data.land_segments(run.id)
    assert (landed.rows, landed.segments, landed.already) == (0, 0, 1)
    assert flatten(store.data.read_cells([run.id])) == before


@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(cuts=st.lists(st.integers(1, 399), min_size=1, max_size=4, unique=True), order=st.randoms(use_true_random=False))
def test_any_partition_in_any_order_gives_the_same_cells(tmp_path_factory, rows, write, new_run, cuts, order):
    table = rows(400, seed=3)
    reference, parts = (Store.open(tmp_path_factory.mktemp("s") / "e.duckdb", create=True) for _ in range(2))
    for segments in (reference, parts):
        new_run(into=segments)
    run = reference.data.runs("cart@2")[0]
    write(reference.data.segment_folder(run), [table])
    reference.data.land_segments(run.id)
    bounds = [0, *sorted(cuts), 400]
    pieces = [table.slice(low, high - low) for low, high in itertools.pairwise(bounds)]
    order.shuffle(pieces)
    for k, piece in enumerate(pieces):
        write(parts.data.segment_folder(run), [piece], worker=f"w{k}")
        parts.data.land_segments(run.id)
    assert flatten(parts.data.read_cells([run.id])) == flatten(reference.data.read_cells([run.id]))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-50]), "cannot be read", id="truncated"),
        pytest.param(lambda path: path.write_bytes(b""), "cannot be read", id="empty"),
        pytest.param(lambda path: path.write_bytes(b"PAR1" + b"x" * 500 + b"PAR1"), "cannot be read", id="garbage"),
    ],
)
def test_unreadable_segment_is_quarantined_by_name(store, new_run, rows, write, spoil, problem):
    run = new_run()
    good, bad = write(store.data.segment_folder(run), [rows(100), rows(100, seed=1)])
    spoil(bad)
    landed = store.data.land_segments(run.id)
    assert (landed.rows, landed.quarantined) == (100, (bad.name,))
    assert store.data.runs("cart@2")[0].facts.quarantined == (bad.name,)
    [row] = store.data.query("SELECT reason FROM segments WHERE state = 'quarantined'").to_pylist()
    assert problem in row["reason"]
    assert store.data.query("SELECT count(*) AS n FROM requests").to_pylist() == [{"n": 100}]
    assert store.data.land_segments(run.id).quarantined == ()
    assert bad.with_name(bad.name + ".unreadable").exists()
    assert good.exists()


def test_damaged_page_is_quarantined(store, new_run, rows, write):
    run = new_run()
    _, bad = write(store.data.segment_folder(run), [rows(100), rows(5000, seed=1)])
    content = bytearray(bad.read_bytes())
    content[100:4000] = b"\xff" * 3900
    bad.write_bytes(content)
    assert store.data.land_segments(run.id).quarantined == (bad.name,)
    assert store.data.read_cells([run.id]).moments.n.sum() == 100


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_impossible_times_are_quarantined(store, new_run, rows, write, value):
    run = new_run()
    times = [1.0] * 99 + [value]
    _, bad = write(store.data.segment_folder(run), [rows(100), rows(100, response_time_ms=times)])
    landed = store.data.land_segments(run.id)
    assert (landed.rows, landed.quarantined) == (100, (bad.name,))
    assert np.isfinite(store.data.read_cells([run.id]).moments.sum_time).all()


def test_times_beyond_64_bit_squares(store, new_run, rows, write):
    run = new_run()
    write(store.data.segment_folder(run), [rows(10, response_time_ms=[4e6] * 10, failed=[False] * 10)])
    store.data.land_segments(run.id)
    assert store.data.read_cells([run.id]).moments.sum_sq_time.sum() == 10 * (4e9) ** 2


@pytest.mark.parametrize(
    ("times", "grid"),
    [
        pytest.param([3.0, 7.0, 11.0], 1000, id="milliseconds"),
        pytest.param([10.0, 30.0, 40.0], 10_000, id="ten-milliseconds"),
        pytest.param([3.0, 7.125, 11.0], 125, id="eighths"),
        pytest.param([3.001, 7.002, 11.0], 1, id="none"),
    ],
)
def test_grid_is_the_same_over_landings(store, new_run, rows, write, times, grid):
    run = new_run()
    for k, time_ms in enumerate(times):
        table = rows(50, seed=k, response_time_ms=[time_ms] * 50, failed=[False] * 50)
        write(store.data.segment_folder(run), [table], worker=f"w{k}")
        store.data.land_segments(run.id)
    assert store.data.read_cells([run.id]).grid == grid


def test_processes_land_at_once_and_lose_nothing(store, new_run, rows, write):
    runs = [new_run(f"run-{k}", group="g", replicate=k) for k in range(2)]
    for run in runs:
        write(store.data.segment_folder(run), [rows(200, seed=k, run=run.id) for k in range(10)])
    landers = [
        subprocess.Popen([sys.executable, "-c", LAND, str(store.path), runs[k % 2].id], stdout=subprocess.PIPE)
        for k in range(4)
    ]
    landed = [int(process.communicate(timeout=60)[0]) for process in landers]
    assert sum(landed) == 4000
    assert store.data.read_cells([run.id for run in runs]).moments.n.sum() == 4000


def test_killed_landings_change_nothing(store, new_run, rows, write):
    run = new_run()
    write(store.data.segment_folder(run), [rows(2000, seed=k) for k in range(20)])
    chance = random.Random(4)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", LAND, str(store.path), run.id], stdout=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.3, 1.0))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        landed_rows = store.data.query("SELECT CAST(sum(rows) AS BIGINT) AS n FROM segments").to_pylist()[0]["n"] or 0
        assert store.data.read_cells([run.id]).moments.n.sum() == landed_rows
    store.data.land_segments(run.id)
    assert store.data.read_cells([run.id]).moments.n.sum() == 40_000


def test_large_runs_land_in_batches(store, new_run, rows, write, monkeypatch):
    monkeypatch.setattr(landing, "_BATCH_ROWS", 250)
    run = new_run()
    write(store.data.segment_folder(run), [rows(100, seed=k) for k in range(7)])
    assert store.data.land_segments(run.id).rows == 700
    assert store.data.read_cells([run.id]).moments.n.sum() == 700


def test_ended_run_is_compacted(store, new_run, rows, write):
    run = new_run()
    tables = [rows(300, seed=k) for k in range(5)]
    write(store.data.segment_folder(run), tables)
    store.data.finish_run(run.id, state=RunState.COMPLETE, ended=run.planned_end, facts=RunFacts())
    assert store.data.land_segments(run.id).segments == 5
    before = store.data.content_hash([run.id])
    [merged] = store.data.segment_folder(run).rglob("*.parquet")
    assert read_segment(merged).num_rows == 1500
    assert store.data.query("SELECT count(*) AS n FROM requests").to_pylist() == [{"n": 1500}]
    assert store.data.land_segments(run.id).already == 5
    assert store.data.content_hash([run.id]) == before
    assert store.data.query("SELECT count(DISTINCT sha256) AS n FROM segments").to_pylist() == [{"n": 5}]


def test_unfinished_segments_are_not_seen(store, new_run, rows, write):
    run = new_run()
    [path] = write(store.data.segment_folder(run), [rows(10)])
    path.with_name("seg-w-000001.parquet.tmp").write_bytes(b"half")
    assert store.data.land_segments(run.id).rows == 10


def test_hash_does_not_depend_on_place_order_or_run(tmp_path, new_run, rows, write):
    tables = [rows(50, seed=k) for k in range(3)]
    hashes = set()
    for name, run_id, order in (("a", "run-1", [0, 1, 2]), ("b", "another", [2, 0, 1])):
        store = Store.open(tmp_path / name / "evaluator.duckdb", create=True)
        run = new_run(run_id, into=store)
        for k in order:
            write(store.data.segment_folder(run), [tables[k]], worker=f"w{k}")
            store.data.land_segments(run.id)
        hashes.add(store.data.content_hash([run.id]))
    assert len(hashes) == 1
    assert hashes.pop().startswith("sha256:")


def test_nothing_readable_at_all(store, new_run, rows, write):
    run = new_run()
    [bad] = write(store.data.segment_folder(run), [rows(10)])
    bad.write_bytes(b"no Parquet")
    assert store.data.land_segments(run.id).quarantined == (bad.name,)
    assert store.data.read_cells([run.id]).moments.n.sum() == 0


def test_segments_that_change_while_they_are_read_end_with_an_error(store, new_run, rows, write, monkeypatch):
    """Each segment has all its rows when it is tested alone, and yet all together have fewer."""
    run = new_run()
    write(store.data.segment_folder(run), [rows(100)])
    monkeypatch.setattr(landing, "_explain_unrollable", lambda engine, path: "")
    monkeypatch.setattr(landing, "count_rolled_up", lambda engine: 99)
    with pytest.raises(StoreError, match="changed while they were read"):
        store.data.land_segments(run.id)


def test_statistics_do_not_hide_nan(store, new_run, rows):
    run = new_run()
    folder = store.data.segment_folder(run)
    folder.mkdir(parents=True)
    pq.write_table(rows(100, response_time_ms=[1.0] * 99 + [float("nan")]), folder / "seg-w-000000.parquet")
    assert store.data.land_segments(run.id).quarantined == ("seg-w-000000.parquet",)


def test_a_segment_of_a_newer_evaluator_is_not_quarantined(store, new_run, rows, write):
    run = new_run()
    folder = store.data.segment_folder(run)
    [path] = write(folder, [rows(10)])
    pq.write_table(pq.read_table(path).replace_schema_metadata({VERSION_KEY: b"2"}), path)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StoreError, match="was written by a newer evaluator"):
        store.data.land_segments(run.id)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert store.data.query("SELECT * FROM segments").num_rows == 0
