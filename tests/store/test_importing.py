from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluator.errors import InputError
from evaluator.pipeline.importing import import_release
from evaluator.records import BASELINE, LeftOutKind, Release
from evaluator.sources.files import plan_landing
from evaluator.store.engine import transaction

HEADER = "timestamp,request_type,name,response_time_ms,response_length,status_code,exception"
T0 = 1_790_000_000


def write_locust(path, count=200, seed=0, *, spoiled=None):
    rng = np.random.default_rng(seed)
    lines = [HEADER]
    for k, time_ms in enumerate(np.round(rng.lognormal(3, 1, count), 2)):
        bad = k % 20 == 0
        value = spoiled if spoiled is not None and k == 7 else time_ms
        error = '"broken\npipe"' if bad else ""
        lines.append(f"{T0 + k / 10},GET,/cart,{value},{k},{0 if bad else 200},{error}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def land(store, arms, release="cart@2", **options):
    return import_release(store, Release(release), plan_landing(arms, **options))


def test_locust_files_become_replicates(store, tmp_path):
    for k in range(2):
        write_locust(tmp_path / f"b{k}.csv", seed=k)
        write_locust(tmp_path / f"c{k}.csv", seed=k + 10)
    landed = land(store, {"baseline": [str(tmp_path / "b*.csv")], "canary": [f"{tmp_path}/c0.csv,{tmp_path}/c1.csv"]})
    assert (landed.rows, landed.segments, len(landed.runs)) == (800, 4, 2)
    cells = store.read_cells(landed.runs)
    assert cells.arms == cells.instances == (BASELINE, "canary")
    assert cells.endpoints == ("GET /cart",)
    assert (cells.bucket_s, cells.grid_us) == (1, 10)
    assert cells.moments.failures.sum() == 40
    assert set(cells.failure_kinds.exception) == {"broken\npipe"}
    assert set(cells.failure_kinds.status.tolist()) == {-1}
    run = store.runs("cart@2")[0]
    assert (run.started, run.replicate, run.landed) == (datetime.fromtimestamp(T0, UTC), 0, 400)


def test_same_files_again_change_nothing(store, tmp_path):
    arms = {"baseline": [write_locust(tmp_path / "b.csv")], "canary": [write_locust(tmp_path / "c.csv", seed=1)]}
    first = land(store, arms)
    again = land(store, arms)
    assert (again.rows, again.already, again.runs) == (0, 2, first.runs)
    assert len(store.runs("cart@2")) == 1
    copy = tmp_path / "copy.csv"
    copy.write_text((tmp_path / "b.csv").read_text())
    with pytest.raises(InputError, match=r"copy\.csv has been imported into 'cart@2' already"):
        land(store, {"baseline": [str(copy)], "canary": [write_locust(tmp_path / "new.csv", seed=2)]})
    swapped = land(store, {"baseline": arms["canary"], "canary": arms["baseline"]})
    assert swapped.rows == 400
    assert store.data_hash(swapped.runs) != store.data_hash(first.runs)


@pytest.mark.parametrize("value", ["nan", "-1", "inf", "abc", ""])
def test_bad_time_is_named_and_nothing_lands(store, tmp_path, value):
    path = write_locust(tmp_path / "c.csv", spoiled=value)
    with pytest.raises(InputError, match=r"c\.csv:10: column 'response_time_ms' has .*nothing was imported") as caught:
        land(store, {"canary": [path]})
    assert repr(value) in caught.value.message or "no value" in caught.value.message
    assert store.releases() == ()
    assert [path.name for path in store.data_dir.rglob("*.parquet")] == ["schema.parquet"]
    landed = land(store, {"canary": [path]}, skip_bad_rows=True)
    assert (landed.rows, landed.count(LeftOutKind.BAD_ROW)) == (199, 1)
    assert [part.rows for part in store.runs("cart@2")[0].facts.left_out] == [1]


PLAIN = "ts,endpoint,response_time_ms,failed\n2026-10-01T12:00:00Z,GET /,3.5,false\n"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        pytest.param("2026-10-01T12:00:01Z,GET /,3.5", r":3: the row has 3 values, the header 4", id="ragged"),
        pytest.param("2076-10-01T12:00:01Z,GET /,3.5,false", r":3: column 'ts' has the value '2076", id="future"),
        pytest.param("1969-12-31T23:59:59Z,GET /,3.5,false", r":3: column 'ts' has the value '1969", id="past"),
        pytest.param("yesterday,GET /,3.5,false", r":3: column 'ts' has the value 'yesterday'", id="no-time"),
        pytest.param("2026-10-01T12:00:01Z,,3.5,false", r":3: column 'endpoint' has no value", id="no-endpoint"),
        pytest.param("2026-10-01T12:00:01Z,GET /,3.5,perhaps", r":3: column 'failed' has the value", id="no-boolean"),
    ],
)
def test_bad_rows_of_a_plain_csv(store, tmp_path, line, problem):
    path = tmp_path / "c.csv"
    path.write_text(PLAIN + line + "\n")
    with pytest.raises(InputError, match=problem):
        land(store, {"canary": [str(path)]})
    landed = land(store, {"canary": [str(path)]}, skip_bad_rows=True)
    assert (landed.rows, landed.count(LeftOutKind.BAD_ROW)) == (1, 1)


def test_jtl(store, tmp_path):
    path = tmp_path / "r.jtl"
    path.write_text(
        "timeStamp,elapsed,label,responseCode,responseMessage,threadName,dataType,success,failureMessage,bytes,allThreads\n"
        f"{T0}000,12,home,200,OK,t 1-1,text,true,,100,3\n"
        f"{T0}500,14,home,Non HTTP response code: x,refused,t 1-1,text,false,refused,0,4\n"
        f'{T0}000,26,both,200,"Number of samples in transaction : 2, number of failing samples : 1",t,,false,,100,4\n'
    )
    landed = land(store, {"canary": [str(path)]})
    assert (landed.rows, landed.count(LeftOutKind.SUMMARY)) == (2, 1)
    cells = store.read_cells(landed.runs)
    assert (cells.endpoints, cells.grid_us) == (("home",), 12_000)
    assert cells.failure_kinds.exception == ("refused",)
    assert cells.loads.users.tolist() == [4]


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        pytest.param(
            ["ts=when:ms", "endpoint=method+path", "response_time_ms=took:s", "failed=ok"],
            f"when;method;path;took;ok\n{T0}000;GET;/;0.25;true\n{T0}500;GET;/;0.5;false\n",
            id="seconds-and-success",
        ),
        pytest.param(
            ["endpoint=what", "response_time_ms=us:us", "failed=code:status"],
            f"ts,what,us,code\n{T0},GET /,250000,200\n{T0}.5,GET /,500000,503\n",
            id="microseconds-and-status",
        ),
        pytest.param(
            ["failed=error:text"],
            'ts,endpoint,response_time_ms,error\n"2026-09-21 14:13:20+00",/,250,\n2026-09-21T14:13:20.5Z,/,500,x\n',
            id="iso-and-text",
        ),
    ],
)
def test_column_mapping(store, tmp_path, columns, text):
    path = tmp_path / "c.csv"
    path.write_text(text)
    landed = land(store, {"canary": [str(path)]}, columns=columns)
    moments = store.read_cells(landed.runs).moments
    assert (moments.n.sum(), moments.failures.sum(), moments.sum_us.sum()) == (2, 1, 250_000)
    assert set(moments.bucket.tolist()) == {T0}


def test_parquet(store, tmp_path):
    start = datetime.fromtimestamp(T0, UTC)
    table = pa.table(
        {
            "ts": [start + timedelta(seconds=k) for k in range(10)],
            "endpoint": ["GET /"] * 10,
            "response_time_ms": [float(k) for k in range(10)],
            "failed": [False] * 9 + [True],
            "instance": ["pod-1", "pod-2"] * 5,
        }
    )
    pq.write_table(table, tmp_path / "b.parquet")
    landed = land(store, {"baseline": [str(tmp_path / "b.parquet")]})
    cells = store.read_cells(landed.runs)
    assert cells.instances == ("pod-1", "pod-2")
    assert cells.moments.sum_us.sum() == 36_000
    bad = table.set_column(2, "response_time_ms", pa.array([1.0] * 4 + [float("nan")] * 6))
    pq.write_table(bad, tmp_path / "bad.parquet")
    with pytest.raises(InputError, match=r"row 5: column 'response_time_ms' has the value 'nan'.*6 rows"):
        land(store, {"baseline": [str(tmp_path / "bad.parquet")]}, release="other")


def test_ctrl_c_after_the_commit_keeps_what_landed(store, tmp_path, monkeypatch):
    arms = {"baseline": [write_locust(tmp_path / "b.csv")], "canary": [write_locust(tmp_path / "c.csv", seed=1)]}

    @contextmanager
    def interrupted(engine):
        with transaction(engine):
            yield
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("evaluator.store.importing.transaction", interrupted)
        with pytest.raises(KeyboardInterrupt):
            land(store, arms)
    assert store.query("SELECT count(*) AS n FROM requests").to_pylist() == [{"n": 400}]
    assert land(store, arms).already == 2


def test_one_bad_time_does_not_spoil_the_others(store, tmp_path):
    """The unit of times is told by most rows: in microseconds all but the first would be of 1970."""
    path = tmp_path / "b.csv"
    rows = [f"{T0 + k},GET /,3.5,false" for k in range(9)]
    path.write_text("\n".join(["ts,endpoint,response_time_ms,failed", f"{T0}000000,GET /,3.5,false", *rows]) + "\n")
    with pytest.raises(InputError, match=r"b\.csv:2: column 'ts' has the value .*; nothing was imported"):
        land(store, {"baseline": [str(path)]})
    assert land(store, {"baseline": [str(path)]}, skip_bad_rows=True).rows == 9
    assert store.query("SELECT year(min(ts)) AS first FROM requests").to_pylist() == [{"first": 2026}]


def test_a_row_that_no_reader_can_read_is_reported_by_its_line_and_can_be_skipped(store, tmp_path):
    path = tmp_path / "b.csv"
    write_locust(path)
    lines = path.read_text().splitlines()
    lines.insert(30, f'{T0},GET,"/{"x" * 200_000}",5,1,200,')  # longer than Python's reader takes
    path.write_text("\n".join([*lines, f"{T0},GET,/cart,fast,1,200,"]) + "\n")
    with pytest.raises(InputError, match=r"b\.csv:\d+: .*'fast'"):
        land(store, {"baseline": [str(path)]})
    assert land(store, {"baseline": [str(path)]}, skip_bad_rows=True).rows == 201


def test_a_file_that_starts_with_nothing(store, tmp_path):
    (tmp_path / "b.csv").write_text("\n\n")
    with pytest.raises(InputError, match="starts with an empty line"):
        land(store, {"baseline": [str(tmp_path / "b.csv")]})
