"""Simulated requests as segments."""

from dataclasses import replace

import numpy as np

from evaluator.segments import REQUEST_SCHEMA, count_rows, read_segment
from evaluator.simulate import SCENARIOS, Scenario, simulate, to_parquet


def test_segments_hold_the_requests(tmp_path):
    requests = simulate(replace(SCENARIOS["AA_closed"], duration_s=120.0), 1)
    (path,) = to_parquet(requests, tmp_path, service="cart")
    table = read_segment(path)
    assert path == tmp_path / "run-0" / "seg-simulate-000000.parquet"
    assert table.schema.equals(REQUEST_SCHEMA)
    order = np.argsort(requests.ts_us, kind="stable")
    ts_us = table["ts"].cast("int64").to_numpy()
    assert np.array_equal(ts_us, requests.ts_us[order])
    assert np.array_equal(np.rint(table["response_time_ms"].to_numpy() * 1000), requests.response_us[order])
    assert table["arm"].to_pylist() == [requests.arms[code] for code in requests.arm[order]]
    assert table["instance"].to_pylist() == [requests.instances[code] for code in requests.instance[order]]
    assert table["exception"].to_pylist() == [requests.exceptions[code] or None for code in requests.exception[order]]
    assert set(table["service"].to_pylist()) == {"cart"}
    assert set(table["user_count"].to_pylist()) == {60}


def test_runs_have_folders_and_segments_a_size(tmp_path):
    requests = simulate(Scenario(duration_s=30.0, replicates=2), 1)
    paths = to_parquet(requests, tmp_path, rows=500)
    assert {path.parent.name for path in paths} == {"run-0", "run-1"}
    assert sum(count_rows(path) for path in paths) == len(requests)
    assert max(count_rows(path) for path in paths) == 500
    assert read_segment(paths[0])["user_count"].null_count == 500
