"""Names that differ in each request: endpoints are pooled, and memory does not grow with names × seconds."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluator.records import MICROSECONDS
from evaluator.segments import REQUEST_SCHEMA
from evaluator.stats.shaping.rare import OTHER_ENDPOINTS
from evaluator.store import rollup
from evaluator.store.engine import open_engine

START_US = 1_780_000_000_000_000


def write_segment(path: Path, endpoints: list[str], instances: list[str], step_us: int = 1_000_000) -> Path:
    """Write a request of each endpoint and instance, one after another; every second one is of the canary."""
    rows = [
        {
            "run": "r",
            "arm": ("baseline", "canary")[k % 2],
            "service": "s",
            "instance": instance,
            "worker": "w",
            "ts": START_US + k * step_us,
            "endpoint": endpoint,
            "response_time_ms": 10.0 + k % 7,
            "failed": k % 5 == 0,
        }
        for k, (endpoint, instance) in enumerate(zip(endpoints, instances, strict=True))
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=REQUEST_SCHEMA), path)
    return path


def count_by_endpoint(engine) -> dict[str, int]:
    return dict(
        engine.execute(
            "SELECT endpoint, CAST(sum(n) AS BIGINT) FROM cells_moments JOIN series USING (series) GROUP BY endpoint"
        ).fetchall()
    )


@pytest.mark.parametrize(("most_kept", "pooled"), [(3, 4), (5, 0), (1, 10)])
def test_the_endpoints_with_the_fewest_requests_are_pooled_and_no_request_is_lost(
    tmp_path, monkeypatch, most_kept, pooled
):
    monkeypatch.setattr(rollup, "MOST_KEPT", most_kept)
    requests = {"GET /": 20, "GET /cart": 4, "GET /a": 2, "GET /b": 2, "GET /c": 2}
    endpoints = [name for name, count in requests.items() for _ in range(count)]
    path = write_segment(tmp_path / "seg.parquet", endpoints, ["i"] * len(endpoints))
    with open_engine() as engine:
        rollup.roll_up(engine, [path], bucket_s=1, units_per_ms=MICROSECONDS)
        counted = count_by_endpoint(engine)
        failures = dict(engine.execute("SELECT endpoint, sum(n) FROM cells_failure_kinds GROUP BY endpoint").fetchall())
    kept = dict(list(requests.items())[:most_kept])
    assert counted == (kept | {OTHER_ENDPOINTS: pooled} if pooled else kept)
    assert sum(counted.values()) == len(endpoints)
    assert sum(failures.values()) == len(endpoints) // 5


def test_the_next_run_of_an_engine_is_not_pooled_by_the_names_of_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(rollup, "MOST_KEPT", 2)
    many = write_segment(tmp_path / "many.parquet", ["/a", "/b", "/c", "/d"], ["i"] * 4)
    few = write_segment(tmp_path / "few.parquet", ["/x", "/y"], ["i"] * 2)
    with open_engine() as engine:
        rollup.roll_up(engine, [many], bucket_s=1, units_per_ms=MICROSECONDS)
        rollup.roll_up(engine, [few], bucket_s=1, units_per_ms=MICROSECONDS)
        assert count_by_endpoint(engine) == {"/x": 1, "/y": 1}


def test_plain_arrays_are_used_only_where_they_are_small(tmp_path):
    few = write_segment(tmp_path / "few.parquet", ["/a"] * 10, ["i"] * 10)
    names = [f"i-{k}" for k in range(1000)]
    many = write_segment(tmp_path / "many.parquet", ["/a"] * 1000, names)  # 1,000 series × 1,000 s
    with open_engine() as engine:
        for path, bits in ((few, rollup._DIRECT_BITS), (many, 0)):
            rollup.roll_up(engine, [path], bucket_s=1, units_per_ms=MICROSECONDS)
            assert rollup._find_direct_bits(engine, "") == bits
        # For moments, with many sums for each key, never.
        [(bits,)] = engine.execute("SELECT current_setting('perfect_ht_threshold')").fetchall()
        assert int(bits) < rollup._DIRECT_BITS


@pytest.mark.parametrize("wrong", [float("nan"), -1.0, float("inf")])
def test_failures_whose_time_is_left_out_are_of_no_kind(tmp_path, wrong):
    path = write_segment(tmp_path / "seg.parquet", ["/a"] * 20, ["i"] * 20)  # four of them failed
    table = pq.read_table(path)
    place = table.schema.get_field_index("response_time_ms")
    times = pa.array([wrong, *table["response_time_ms"].to_pylist()[1:]])
    cut = table.set_column(place, table.schema.field(place), times)
    for rows, failures in ((table, 4), (cut, 3)):
        pq.write_table(rows, path)
        with open_engine() as engine:
            rollup.roll_up(engine, [path], bucket_s=1, units_per_ms=MICROSECONDS)
            kinds, moments = (
                engine.execute(f"SELECT CAST(sum({column}) AS BIGINT) FROM cells_{name}").fetchone()[0]
                for name, column in (("failure_kinds", "n"), ("moments", "failures"))
            )
        assert kinds == moments == failures


def test_the_step_of_times_is_found_of_sums_beyond_64_bits(tmp_path):
    path = write_segment(tmp_path / "seg.parquet", ["/a"] * 20, ["i"] * 20, step_us=1)
    table = pq.read_table(path)
    longest = pa.array([1e12] * 20)
    place = table.schema.get_field_index("response_time_ms")
    pq.write_table(table.set_column(place, table.schema.field(place), longest), path)
    with open_engine() as engine:
        rollup.roll_up(engine, [path], bucket_s=60, units_per_ms=MICROSECONDS)
        assert rollup.find_grid(engine) == 10**15
