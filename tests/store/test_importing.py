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


def write_locust(path, count=200, seed=0, *, spoiled=None, start=T0):
    """Write ten requests a second, of which each twentieth fails."""
    rng = np.random.default_rng(seed)
    lines = [HEADER]
    for k, time_ms in enumerate(np.round(rng.lognormal(3, 1, count), 2)):
        bad = k % 20 == 0
        value = spoiled if spoiled is not None and k == 7 else time_ms
        error = '"broken\npipe"' if bad else ""
        lines.append(f"{start + k / 10},GET,/cart,{value},{k},{0 if bad else 200},{error}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def land(store, arms, release="cart@2", **options):
    return import_release(store, Release(release), plan_landing(arms, **options))


def test_files_of_repeated_runs_become_replicates(store, tmp_path):
    for k in range(2):
        write_locust(tmp_path / f"b{k}.csv", seed=k, start=T0 + 30 * k)
        write_locust(tmp_path / f"c{k}.csv", seed=k + 10, start=T0 + 30 * k)
    canary = [f"{tmp_path}/c0.csv", f"{tmp_path}/c1.csv"]
    landed = land(store, {"canary": canary}, patterns={"baseline": [str(tmp_path / "b*.csv")]})
    assert (landed.rows, landed.segments, len(landed.runs)) == (800, 4, 2)
    cells = store.data.read_cells(landed.runs)
    assert cells.arms == cells.instances == (BASELINE, "canary")
    assert cells.endpoints == ("GET /cart",)
    assert (cells.bucket_s, cells.grid) == (1, 10)
    assert cells.moments.failures.sum() == 40
    assert set(cells.failure_kinds.exception) == {"broken\npipe"}
    assert set(cells.failure_kinds.status.tolist()) == {-1}
    runs = store.data.runs("cart@2")
    assert [(run.started.timestamp(), run.replicate, run.landed) for run in runs] == [(T0, 0, 400), (T0 + 30, 1, 400)]
    assert runs[1].fingerprint["files"] == {"baseline": [f"{tmp_path}/b1.csv"], "canary": [f"{tmp_path}/c1.csv"]}
    rows = store.data.query("SELECT run, count(*) AS n FROM requests GROUP BY run ORDER BY min(ts)").to_pylist()
    assert rows == [{"run": run.id, "n": 400} for run in runs]


def test_same_files_again_change_nothing(store, tmp_path):
    arms = {"baseline": [write_locust(tmp_path / "b.csv")], "canary": [write_locust(tmp_path / "c.csv", seed=1)]}
    first = land(store, arms)
    again = land(store, arms)
    assert (again.rows, again.already, again.runs) == (0, 2, first.runs)
    assert len(store.data.runs("cart@2")) == 1
    copy = tmp_path / "copy.csv"
    copy.write_text((tmp_path / "b.csv").read_text())
    with pytest.raises(InputError, match=r"copy\.csv has been imported into 'cart@2' already"):
        land(store, {"baseline": [str(copy)], "canary": [write_locust(tmp_path / "new.csv", seed=2)]})
    swapped = land(store, {"baseline": arms["canary"], "canary": arms["baseline"]})
    assert swapped.rows == 400
    assert store.data.content_hash(swapped.runs) != store.data.content_hash(first.runs)


@pytest.mark.parametrize("value", ["nan", "-1", "inf", "abc", ""])
def test_bad_time_is_named_and_nothing_lands(store, tmp_path, value):
    path = write_locust(tmp_path / "c.csv", spoiled=value)
    with pytest.raises(InputError, match=r"c\.csv:10: column 'response_time_ms' has .*nothing was imported") as caught:
        land(store, {"canary": [path]})
    assert repr(value) in caught.value.message or "no value" in caught.value.message
    assert store.releases() == ()
    assert [path.name for path in store.file.folder.rglob("*.parquet")] == ["schema.parquet"]
    landed = land(store, {"canary": [path]}, skip_bad_rows=True)
    assert (landed.rows, landed.count(LeftOutKind.BAD_ROW)) == (199, 1)
    assert [part.rows for part in store.data.runs("cart@2")[0].facts.left_out] == [1]


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
    cells = store.data.read_cells(landed.runs)
    assert (cells.endpoints, cells.grid) == (("home",), 12_000)
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
    moments = store.data.read_cells(landed.runs).moments
    assert (moments.n.sum(), moments.failures.sum(), moments.sum_time.sum()) == (2, 1, 250_000)
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
    cells = store.data.read_cells(landed.runs)
    assert cells.instances == ("pod-1", "pod-2")
    assert cells.moments.sum_time.sum() == 36_000
    bad = table.set_column(2, "response_time_ms", pa.array([1.0] * 4 + [float("nan")] * 6))
    pq.write_table(bad, tmp_path / "bad.parquet")
    with pytest.raises(InputError, match=r"row 5: column 'response_time_ms' has the value 'nan'.*6 rows"):
        land(store, {"baseline": [str(tmp_path / "bad.parquet")]}, release="other")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("response_time_ms", pa.array([["5"]])),
        ("endpoint", pa.array([["GET", "/"]])),
    ],
)
def test_parquet_of_types_that_mean_something_else_is_refused(store, tmp_path, name, values):
    columns = {"ts": [T0], "endpoint": ["/"], "response_time_ms": [5.0], "failed": [True]} | {name: values}
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=rf"b\.parquet: column '{name}' is of type list"):
        land(store, {"baseline": [str(tmp_path / "b.parquet")]})


def test_ctrl_c_after_the_commit_keeps_what_landed(store, tmp_path, monkeypatch):
    arms = {"baseline": [write_locust(tmp_path / "b.csv")], "canary": [write_locust(tmp_path / "c.csv", seed=1)]}

    @contextmanager
    def interrupted(engine):
        with transaction(engine):
            yield
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("evaluator.store.file.transaction", interrupted)
        with pytest.raises(KeyboardInterrupt):
            land(store, arms)
    assert store.data.query("SELECT count(*) AS n FROM requests").to_pylist() == [{"n": 400}]
    assert land(store, arms).already == 2


def test_one_bad_time_does_not_spoil_the_others(store, tmp_path):
    """The unit of times is that of most rows: in microseconds all but the first would be of 1970."""
    path = tmp_path / "b.csv"
    rows = [f"{T0 + k},GET /,3.5,false" for k in range(9)]
    path.write_text("\n".join(["ts,endpoint,response_time_ms,failed", f"{T0}000000,GET /,3.5,false", *rows]) + "\n")
    with pytest.raises(InputError, match=r"b\.csv:2: column 'ts' has the value .*; nothing was imported"):
        land(store, {"baseline": [str(path)]})
    assert land(store, {"baseline": [str(path)]}, skip_bad_rows=True).rows == 9
    assert store.data.query("SELECT year(min(ts)) AS first FROM requests").to_pylist() == [{"first": 2026}]


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


# ------------------------------------------------------------------ how files form runs


def write_workers(folder, arm, *, workers=3, runs=1, seconds=20):
    """Write the files of several load generators for each run; the requests take turns between them."""
    paths = []
    for run in range(runs):
        for worker in range(workers):
            path = folder / f"{arm}-{run}-{worker}.csv"
            start = T0 + run * (seconds + 10) + worker / 40
            paths.append(
                write_locust(path, seconds * 10, seed=100 * (arm == "canary") + 10 * run + worker, start=start)
            )
    return paths


def test_workers_of_repeated_runs_land_as_parts_of_replicates(store, tmp_path):
    arms = {arm: write_workers(tmp_path, arm, runs=2) for arm in ("baseline", "canary")}
    landed = land(store, {**arms, "canary": arms["canary"][::-1]})
    assert (landed.rows, landed.segments, len(landed.runs), landed.parts) == (2400, 12, 2, (3,))
    runs = store.data.runs("cart@2")
    assert [(run.replicate, run.landed, run.facts.read) for run in runs] == [
        (k, 1200, {"baseline": 600, "canary": 600}) for k in range(2)
    ]
    assert [sorted(run.fingerprint["files"]["canary"]) for run in runs] == [arms["canary"][:3], arms["canary"][3:]]
    stored = store.data.query(
        "SELECT run, arm, count(*) AS n, min(ts) AS first FROM requests GROUP BY ALL ORDER BY ALL"
    )
    assert [row["n"] for row in stored.to_pylist()] == [600] * 4
    assert store.data.read_cells(landed.runs).moments.n.sum() == 2400


def test_the_same_files_in_another_order_or_declared_otherwise_change_nothing(store, tmp_path):
    arms = {arm: write_workers(tmp_path, arm) for arm in ("baseline", "canary")}
    first = land(store, arms)
    assert len(first.runs) == 1
    turned = {"canary": arms["canary"][::-1], "baseline": arms["baseline"][1:] + arms["baseline"][:1]}
    again = land(store, turned)
    assert (again.rows, again.already, again.runs, again.doubts) == (0, 6, first.runs, ())
    declared = land(store, turned, files_are="replicates")
    assert (declared.rows, declared.already, declared.runs) == (0, 6, first.runs)
    assert "import them under another release id" in declared.doubts[0]
    assert land(store, arms, files_are="parts").doubts == ()
    assert len(store.data.runs("cart@2")) == 1
    second = land(store, turned, release="cart@3", files_are="replicates")
    assert len(second.runs) == 3
    assert all(run.fingerprint["replicates_overlap"] for run in store.data.runs("cart@3"))
    assert land(store, arms, release="cart@3").already == 6


def test_what_is_not_clear_leaves_nothing_behind(store, tmp_path):
    paths = [write_locust(tmp_path / "a.csv"), write_locust(tmp_path / "b.csv", seed=1, start=T0 + 23)]
    with pytest.raises(InputError, match=r"b\.csv begins 3\.1 s after .*a\.csv ends"):
        land(store, {"canary": paths})
    assert store.releases() == ()
    assert [path.name for path in store.file.folder.rglob("*.parquet")] == ["schema.parquet"]
    assert len(land(store, {"canary": paths}, files_are="replicates").runs) == 2


def test_a_long_pause_within_files_is_no_restart_between_them(store, tmp_path):
    """Ten seconds between files mean nothing where requests are eight seconds apart."""
    for k in range(3):
        rows = [f"{T0 + 66 * k + 8 * i},GET /,{3 + i + k},false" for i in range(8)]
        (tmp_path / f"{k}.csv").write_text("\n".join(["ts,endpoint,response_time_ms,failed", *rows]) + "\n")
    with pytest.raises(InputError, match=r"begins 10 s after .* and pauses of 8 s are within them"):
        land(store, {}, patterns={"canary": [str(tmp_path / "*.csv")]})


def test_the_same_content_twice(store, tmp_path):
    path = write_locust(tmp_path / "a.csv")
    (tmp_path / "copy.csv").write_bytes((tmp_path / "a.csv").read_bytes())
    with pytest.raises(
        InputError, match=r"a\.csv and .*copy\.csv have the same content: their requests would count twice"
    ):
        land(store, {"canary": [path, str(tmp_path / "copy.csv")]})
    assert store.releases() == ()
    landed = land(store, {"baseline": [path], "canary": [str(tmp_path / "copy.csv")]})
    assert "have the same content, so they cannot show a difference" in landed.doubts[0]


def test_the_bucket_is_that_of_the_whole_run(store, tmp_path):
    """Twenty rotated files of 20 s are a run of 400 s, which is summed up by 5 s."""
    paths = [write_locust(tmp_path / f"{k:02}.csv", seed=k, start=T0 + 20 * k) for k in range(20)]
    landed = land(store, {"canary": paths})
    run = store.data.runs("cart@2")[0]
    assert (run.ended - run.started).total_seconds() == pytest.approx(399.9)
    assert store.data.read_cells(landed.runs).bucket_s == 5


# ------------------------------------------------------------------ a period


def moment(second):
    return datetime.fromtimestamp(T0 + second, UTC)


@pytest.mark.parametrize("way", ["one pass", "SQL"])
def test_rows_outside_the_period_are_named_with_their_failures(store, tmp_path, way):
    """Half open: the request at the start lands, that at the end does not; both ways of reading count equally."""
    bad = {"spoiled": "nan"} if way == "SQL" else {}
    arms = {
        "baseline": [write_locust(tmp_path / "b.csv", **bad)],
        "canary": [write_locust(tmp_path / "c.csv", seed=1, **bad)],
    }
    landed = land(store, arms, start=moment(2), end=moment(11), skip_bad_rows=way == "SQL")
    assert landed.rows == 180
    run = store.data.runs("cart@2")[0]
    outside = [part for part in run.facts.left_out if part.kind is LeftOutKind.OUTSIDE_PERIOD]
    skipped = int(way == "SQL")  # the eighth row, which lies before the period
    assert [(part.arm, part.rows, part.failures) for part in outside] == [
        (arm, 110 - skipped, 5) for arm in ("baseline", "canary")
    ]
    assert run.facts.read == {"baseline": 200, "canary": 200}
    assert run.landed + sum(part.rows for part in run.facts.left_out) == 400
    assert (run.started, run.ended) == (moment(2), moment(10.9))
    times = store.data.query("SELECT min(ts) AS first, max(ts) AS last, count(*) AS n FROM requests").to_pylist()
    assert times == [{"first": moment(2), "last": moment(10.9), "n": 180}]
    assert store.data.read_cells(landed.runs).moments.failures.sum() == 2 * 5


def test_another_period_of_the_same_files_is_other_data(store, tmp_path):
    arms = {"baseline": [write_locust(tmp_path / "b.csv")], "canary": [write_locust(tmp_path / "c.csv", seed=1)]}
    all_rows, part = land(store, arms), land(store, arms, start=moment(5))
    assert (all_rows.rows, part.rows) == (400, 300)
    assert land(store, arms, start=moment(5)).already == 2
    assert len(store.data.runs("cart@2")) == 2
    assert store.data.content_hash(all_rows.runs) != store.data.content_hash(part.runs)


def test_files_and_runs_without_a_request_in_the_period(store, tmp_path):
    """They make no run; their rows are counted with those of the first."""
    arms = {arm: write_workers(tmp_path, arm, workers=2, runs=3) for arm in ("baseline", "canary")}
    landed = land(store, arms, start=moment(30), end=moment(55))
    assert (landed.rows, len(landed.runs)) == (800, 1)
    run = store.data.runs("cart@2")[0]
    assert (run.id, run.replicate, run.landed) == (run.group, 0, 800)
    assert run.facts.read == {"baseline": 1200, "canary": 1200}
    assert landed.count(LeftOutKind.OUTSIDE_PERIOD) == 1600
    assert land(store, arms, start=moment(30), end=moment(55)).already == 12
    assert store.data.query("SELECT DISTINCT run FROM requests").to_pylist() == [{"run": run.id}]
    store.data.compact(run.id)
    assert store.data.query("SELECT count(*) AS n FROM requests").to_pylist() == [{"n": 800}]


def test_a_period_that_leaves_an_arm_empty_is_refused(store, tmp_path):
    arms = {
        "baseline": [write_locust(tmp_path / "b.csv")],
        "canary": [write_locust(tmp_path / "c.csv", seed=1, start=T0 + 10)],
    }
    with pytest.raises(InputError, match=r"no request of canary .* from 2026-09-21T14:13:30Z to 2026-09-21T14:13:49Z"):
        land(store, arms, end=moment(10))
    assert store.releases() == ()
    assert land(store, arms, end=moment(10.1)).rows == 102


def test_times_from_the_start_of_a_test_have_no_period(store, tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("ts,endpoint,response_time_ms,failed\n" + "".join(f"{k},GET /,{k},false\n" for k in range(1, 60)))
    with pytest.raises(InputError, match="count from the start of a test, not from 1970, so --from and --to cannot"):
        land(store, {"canary": [str(path)]}, start=moment(0))
    assert land(store, {"canary": [str(path)]}).rows == 59


def test_a_time_that_the_statistics_of_its_file_rule_out_is_damage(store, tmp_path):
    """DuckDB leaves a test out that a file's statistics answer: such a row would be taken for good."""
    times_us = [T0 * 1_000_000 + k * 100_000 for k in range(200)]
    rows = {
        "ts": pa.array(times_us, pa.timestamp("us", "UTC")),
        "endpoint": ["/"] * 200,
        "response_time_ms": [5.0] * 200,
        "failed": [False] * 200,
    }
    path = tmp_path / "b.parquet"
    pq.write_table(pa.table(rows), path, compression="none", use_dictionary=False)
    content = path.read_bytes()
    assert content.count(times_us[7].to_bytes(8, "little")) == 1
    path.write_bytes(content.replace(times_us[7].to_bytes(8, "little"), (-(2**62)).to_bytes(8, "little", signed=True)))
    with pytest.raises(InputError, match=r"b\.parquet is damaged: it has times that its own statistics rule out"):
        land(store, {"baseline": [str(path)]})
