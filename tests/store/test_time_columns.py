"""How long a request took is read in the unit that the column's type or name has, or that `--column` names."""

from __future__ import annotations

import gzip

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluator.cli.import_files import _describe_time_columns, _describe_unread_columns
from evaluator.errors import InputError
from evaluator.pipeline.importing import import_release
from evaluator.records import Release
from evaluator.sources.files import arrow, plan_landing


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


AS_TEXT = r"has the value '{}', a duration as text: write all as numbers in one unit, and name it by --column"
OF_GO = ["12.5ms", "1.5s", "850µs", "850\N{GREEK SMALL LETTER MU}s", "12us", "3m2s", "1m2.5s", "2h45m0s", "5ns", "0s"]


@pytest.mark.parametrize("text", ["0 days 00:00:00.000015486", "00:00:01.5", "PT0.5S", *OF_GO, "12 ms", "1.5 seconds"])
def test_durations_as_text_are_not_guessed(store, tmp_path, text):
    """As pandas writes a timedelta to CSV, which SQL would read without nanoseconds; as Go and others do."""
    path = tmp_path / "requests.csv"
    path.write_text(f"ts,endpoint,response_time_ms,failed\n1790000000,GET /,{text},false\n", encoding="utf-8")
    with pytest.raises(InputError, match=AS_TEXT.format(text)):
        import_release(store, Release("cart@2"), plan_landing({"canary": [str(path)]}))


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
@pytest.mark.parametrize("unit", ["", ":s", ":ns"])
def test_a_duration_as_text_among_numbers_is_refused_in_every_format(store, tmp_path, kind, unit):
    path = tmp_path / "requests"
    times = ["12", "12.5ms", "13"]
    if kind == "parquet":
        write_parquet(path, pa.array(times), "took")
    elif kind == "json":
        path.write_text("".join(f'{{"ts":1790000000,"endpoint":"a","took":"{t}","failed":false}}\n' for t in times))
    else:
        path.write_text("ts,endpoint,took,failed\n" + "".join(f"1790000000,a,{t},false\n" for t in times))
    plan = plan_landing({"canary": [str(path)]}, columns=[f"response_time_ms=took{unit}"])
    with pytest.raises(InputError, match=AS_TEXT.format("12.5ms")):
        import_release(store, Release("cart@2"), plan)


def write_arrow(path, table, *, stream=False, compression=None):
    """Write a table as Arrow IPC in batches of two rows, as a file or a stream."""
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def make_timed(response_times, column="took"):
    """Make a table of three requests, whose endpoints are a dictionary and whose instances are inside of a struct."""
    return pa.table(
        {
            "ts": pa.array([1_790_000_000_123_456_789] * 3, pa.timestamp("ns", "UTC")),
            "endpoint": pa.array(["GET /"] * 3).dictionary_encode(),
            column: response_times,
            "failed": [False] * 3,
            "http": [{"host": "pod-1"}] * 3,
            "unused": pa.array([(1, 2, 3)] * 3, pa.month_day_nano_interval()),
        }
    )


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("coded", [False, True])
def test_arrow_is_read_like_parquet(store, tmp_path, compression, stream, coded):
    times = pa.array([15_486, 15_562, 3_600_000], pa.duration("ns"))
    table = make_timed(times.dictionary_encode() if coded else times)
    path = write_arrow(tmp_path / "requests", table, stream=stream, compression=compression)
    columns = ["response_time_ms=took", "instance=http.host"]
    plan = plan_landing({"canary": [str(path)]}, columns=columns)
    assert plan.files[0].layout.format == "arrow"
    assert import_release(store, Release("cart@2"), plan).rows == 3
    rows = store.data.query("SELECT response_time_ms, instance FROM requests ORDER BY ALL").to_pylist()
    assert [row["response_time_ms"] for row in rows] == [0.015486, 0.015562, 3.6]
    assert {row["instance"] for row in rows} == {"pod-1"}
    with pytest.raises(InputError, match="which has a unit, but --column names 's'"):
        plan_landing({"canary": [str(path)]}, columns=["response_time_ms=took:s"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_no_part_of_an_arrow_file_is_taken_for_the_whole(store, tmp_path, stream, compression):
    """Cut at every place, also between two batches; and with another file after it."""
    table = make_timed(pa.array([1, 2, 3], pa.duration("ms")))
    content = write_arrow(tmp_path / "whole", table, stream=stream, compression=compression).read_bytes()
    path = tmp_path / "requests"
    for length in range(16, len(content), 8):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"Arrow.*cut short"):
            plan_landing({"canary": [str(path)]}, columns=["response_time_ms=took"])
    path.write_bytes(content * 2)
    with pytest.raises(InputError, match="has more after the end of its rows"):
        plan_landing({"canary": [str(path)]}, columns=["response_time_ms=took"])


def test_a_damaged_batch_of_arrow_is_a_fault_of_the_file(store, tmp_path):
    table = make_timed(pa.array([1, 2, 3], pa.duration("ms")))
    path = write_arrow(tmp_path / "requests", table, stream=True, compression="zstd")
    plan = plan_landing({"canary": [str(path)]}, columns=["response_time_ms=took"])
    content = path.read_bytes()
    packed = content.rindex(b"\x28\xb5\x2f\xfd")  # the last packed column
    path.write_bytes(content[:packed] + b"\xff" * 12 + content[packed + 12 :])
    with pytest.raises(InputError, match="is a broken Arrow file"):
        import_release(store, Release("cart@2"), plan)


def test_arrow_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "UNPACKED_WITHOUT_TEST", 1 << 16)
    table = pa.table({"ts": pa.array(np.zeros(1 << 20, np.int64))})
    path = tmp_path / "requests"
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match="unpacks to more than 250 times its size"):
        plan_landing({"canary": [str(path)]})


def test_other_files_of_arrow_are_refused_with_what_to_do(tmp_path):
    path = tmp_path / "requests"
    path.write_bytes(b"FEA1" + b"\0" * 100)
    with pytest.raises(InputError, match="Feather of version 1"):
        plan_landing({"canary": [str(path)]})
    write_arrow(path, make_timed(pa.array([(1, 2, 3)] * 3, pa.month_day_nano_interval())))
    plan = plan_landing({"canary": [str(path)]}, columns=["response_time_ms=took"])
    with pytest.raises(InputError, match=r"type cannot be read, among .*'took' .month_day_nano_interval"):
        plan.files[0].layout.rewrite(path, tmp_path / "target")
    path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="is a packed Arrow file"):
        plan_landing({"canary": [str(path.with_suffix(".gz"))]})


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


@pytest.mark.parametrize(
    ("header", "columns", "options"),
    [
        ("pod,status,error", [], "--column instance=pod --column status_code=status --column exception=error"),
        ("instance,status_code,exception", [], ""),
        ("pod", ["instance=pod"], ""),
        ("httpStatus", ["endpoint=const:all"], "--column status_code=httpStatus"),
        ("note,colour,user_id", [], ""),
    ],
)
def test_an_import_names_the_options_for_columns_that_it_does_not_read(tmp_path, header, columns, options):
    path = tmp_path / "requests.csv"
    values = ",".join("1" for _ in header.split(","))
    path.write_text(f"ts,endpoint,response_time_ms,failed,{header}\n1790000000,GET /,15,false,{values}\n")
    said = _describe_unread_columns(plan_landing({"canary": [str(path)]}, columns=columns))
    assert [text.partition("add ")[2] for text in said] == ([options] if options else [])
