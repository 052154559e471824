"""How long a request took is read in the unit that the column's type or name has, or that `--column` names."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluator.cli.import_files import _describe_time_columns
from evaluator.errors import InputError
from evaluator.pipeline.importing import import_release
from evaluator.records import Release
from evaluator.sources.files import plan_landing


def write_parquet(path, response_times, column="response_time_ms"):
    """Write a Parquet file of three requests with these response times, an array of Arrow."""
    table = {
        "ts": pa.array([1_790_000_000_123_456_789] * 3, pa.timestamp("ns", "UTC")),
        "endpoint": ["GET /"] * 3,
        column: response_times,
        "failed": [False] * 3,
    }
    pq.write_table(pa.table(table), path)
    return path


@pytest.mark.parametrize(
    ("arrow_type", "times_ms"),
    [
        (pa.duration("ns"), [0.015486, 0.015562, 3.6]),
        (pa.duration("us"), [15.486, 15.562, 3600.0]),
        (pa.duration("ms"), [15_486.0, 15_562.0, 3_600_000.0]),
        (pa.duration("s"), [15_486_000.0, 15_562_000.0, 3_600_000_000.0]),
        (pa.time64("ns"), [0.015486, 0.015562, 3.6]),
        (pa.time64("us"), [15.486, 15.562, 3600.0]),
        (pa.time32("ms"), [15_486.0, 15_562.0, 3_600_000.0]),
        (pa.int64(), [15_486.0, 15_562.0, 3_600_000.0]),
        (pa.decimal128(12, 3), [15_486.0, 15_562.0, 3_600_000.0]),
    ],
    ids=str,
)
def test_durations_are_read_by_their_unit_whatever_their_column_is_called(store, tmp_path, arrow_type, times_ms):
    numbers = pa.array([15_486, 15_562, 3_600_000], arrow_type)
    path = write_parquet(tmp_path / "requests.parquet", numbers)
    import_release(store, Release("cart@2"), plan_landing({"canary": [str(path)]}))
    rows = store.data.query("SELECT response_time_ms FROM requests ORDER BY ALL").to_pylist()
    assert [row["response_time_ms"] for row in rows] == times_ms


def test_intervals_are_read_as_durations(store, tmp_path):
    path = tmp_path / "requests.parquet"
    query = "SELECT 1790000000 AS ts, 'GET /' AS endpoint, INTERVAL '90 seconds 15 ms' AS took_s, false AS failed"
    duckdb.execute(f"COPY ({query}) TO '{path}'")
    columns = ["response_time_ms=took_s"]
    import_release(store, Release("cart@2"), plan_landing({"canary": [str(path)]}, columns=columns))
    assert store.data.query("SELECT response_time_ms FROM requests").to_pylist() == [{"response_time_ms": 90_015.0}]


def test_a_missing_duration_is_a_bad_row(store, tmp_path):
    path = write_parquet(tmp_path / "requests.parquet", pa.array([15_486, None, -1], pa.duration("ns")))
    with pytest.raises(InputError, match=r"row 2: column 'response_time_ms' has no value.*; 2 rows of this file"):
        import_release(store, Release("cart@2"), plan_landing({"canary": [str(path)]}))


@pytest.mark.parametrize("text", ["0 days 00:00:00.000015486", "00:00:01.5", "PT0.5S"])
def test_durations_as_text_are_not_guessed(store, tmp_path, text):
    """As pandas writes a timedelta to CSV: SQL would read it without its nanoseconds."""
    path = tmp_path / "requests.csv"
    path.write_text(f"ts,endpoint,response_time_ms,failed\n1790000000,GET /,{text},false\n")
    with pytest.raises(InputError, match="a duration as text: write numbers, and name their unit by --column"):
        import_release(store, Release("cart@2"), plan_landing({"canary": [str(path)]}))


@pytest.mark.parametrize(
    ("response_times", "columns", "problem"),
    [
        (
            pa.array([1] * 3, pa.duration("us")),
            ["response_time_ms=took:ms"],
            "is of type duration.us., which has a unit",
        ),
        (pa.array([1] * 3, pa.time64("us")), ["response_time_ms=took:us"], "is of type time64.us., which has a unit"),
        (pa.array([1] * 3, pa.timestamp("us")), ["response_time_ms=took"], "timestamp.us., which is no response time"),
        (pa.array([[1]] * 3), ["response_time_ms=took"], "list.*, which is no response time"),
        (pa.array([True] * 3), ["response_time_ms=took"], "bool, which is no response time"),
    ],
)
def test_types_that_are_no_response_time(tmp_path, response_times, columns, problem):
    path = write_parquet(tmp_path / "requests.parquet", response_times, "took")
    with pytest.raises(InputError, match=problem):
        plan_landing({"canary": [str(path)]}, columns=columns)


@pytest.mark.parametrize(
    ("column", "scale"),
    [("took_ns", 1e6), ("took_us", 1e3), ("took µs", 1e3), ("tookMs", 1.0), ("duration_seconds", 1e-3), ("took", 1.0)],
)
def test_the_name_of_a_column_tells_its_unit_if_column_names_none(store, tmp_path, column, scale):
    path = tmp_path / "requests.csv"
    path.write_text(f"ts,endpoint,{column},failed\n1790000000,GET /,15486,false\n")
    for number, (request, expected) in enumerate(((column, 15_486 / scale), (f"{column}:s", 15_486_000.0))):
        plan = plan_landing({"canary": [str(path)]}, columns=[f"response_time_ms={request}"])
        import_release(store, Release(f"cart@{number}"), plan)
        query = f"SELECT response_time_ms FROM requests JOIN runs ON runs.id = run WHERE release = 'cart@{number}'"
        assert store.data.query(query).to_pylist() == [{"response_time_ms": pytest.approx(expected, rel=1e-15)}]


def test_an_import_says_in_which_unit_it_reads(tmp_path):
    def describe(column, request):
        path = tmp_path / "requests.csv"
        path.write_text(f"ts,endpoint,{column},failed\n1790000000,GET /,15486,false\n")
        return _describe_time_columns(plan_landing({"canary": [str(path)]}, columns=request))

    assert describe("took_ns", ["response_time_ms=took_ns"]) == (
        "response times are read from the column 'took_ns' in nanoseconds",
    )
    assert describe("took", ["response_time_ms=took"]) == (
        "response times are read from the column 'took' in milliseconds",
    )
    assert describe("response_time_ms", []) == ()
