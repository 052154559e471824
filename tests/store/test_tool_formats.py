"""What is read of the files of Vegeta, Gatling, hey, oha, pyperf and Google Benchmark."""

import gzip
import json
from datetime import UTC, datetime

import pytest

from evaluator.errors import InputError
from evaluator.pipeline.importing import import_release
from evaluator.records import LeftOutKind, Release
from evaluator.sources.files import plan_landing


@pytest.fixture
def land(store, tmp_path):
    """Import a text as a file of the candidate; returns what landed, and its requests in the order of their times."""

    def land_text(text, *, encoding="utf-8", **options):
        path = tmp_path / "results"
        path.write_bytes(text.encode(encoding))
        landed = import_release(store, Release("r"), plan_landing({"canary": [str(path)]}, **options))
        rows = store.data.query(
            """SELECT endpoint, instance, response_time_ms, failed, status_code, exception, epoch_us(ts) AS us
            FROM requests WHERE run = ? ORDER BY ts""",
            [landed.runs[0]],
        ).to_pylist()
        return landed, rows

    return land_text


def name_left_out(landed):
    return {(part.kind, part.detail): (part.rows, part.failures) for part in landed.left_out}


# ------------------------------------------------------------------ Vegeta

HIT = {
    "attack": "shop", "seq": 0, "code": 200, "timestamp": "2026-09-21T16:53:20.000001234+02:00", "latency": 15486,
    "bytes_out": 0, "bytes_in": 5, "error": "", "body": "eA==", "method": "GET", "url": "http://h:80/a?x=1",
    "headers": {"Date": ["today"]},
}  # fmt: skip


def write_hits(*changes):
    return "".join(json.dumps({**HIT, **change}) + "\n" for change in changes)


def test_json_of_vegeta(land):
    refused = {"timestamp": "2026-09-21T14:53:21Z", "code": 0, "error": "connection refused", "method": "POST"}
    _, [first, second] = land(write_hits({}, refused))
    assert first == {
        "endpoint": "GET /a", "instance": "canary", "response_time_ms": pytest.approx(0.015486, rel=1e-12),
        "failed": False, "status_code": 200, "exception": None, "us": 1_790_002_400_000_001,
    }  # fmt: skip
    assert (second["endpoint"], second["failed"]) == ("POST /a", True)
    assert (second["status_code"], second["exception"]) == (None, "connection refused")


def test_json_of_an_old_vegeta_has_no_addresses(land):
    old = {name: HIT[name] for name in ("attack", "seq", "code", "timestamp", "latency", "bytes_in", "error")}
    _, rows = land("".join(json.dumps({**old, "attack": attack}) + "\n" for attack in ("shop", "")))
    assert {row["endpoint"] for row in rows} == {"shop", "all requests"}


def test_csv_of_vegeta(land):
    text = (
        '1790000000000001234,200,15486,0,5,,eA==,,0,GET,http://h/a?x=1,\n'
        '1790000001000000000,500,20000000,0,5,"500, ""very"" bad",eA==,,1,POST,http://h/b,\n'
    )  # fmt: skip
    _, [first, second] = land(text)
    assert (first["endpoint"], first["response_time_ms"]) == ("GET /a", pytest.approx(0.015486, rel=1e-12))
    assert (second["endpoint"], second["failed"], second["exception"]) == ("POST /b", True, '500, "very" bad')
    assert second["us"] == 1_790_000_001_000_000


def test_a_body_may_be_long(land):
    hits = write_hits({"body": "x" * 3_000_000}, {"timestamp": "2026-09-21T16:53:21Z"})
    assert len(land(hits)[1]) == 2
    row = "1790000000000000000,200,15486,0,5,,{},,0,GET,http://h/a,\n"
    assert len(land(row.format("") + row.format("x" * 3_000_000))[1]) == 2


def test_halves_of_characters_are_replaced(land):
    assert land(write_hits({"url": "http://h/\ud800"}))[1][0]["endpoint"] == "GET /\ufffd"


@pytest.mark.parametrize("text", [json.dumps(HIT, indent=1), json.dumps([HIT, HIT])])
def test_json_of_vegeta_that_was_rearranged(land, text):
    with pytest.raises(InputError, match="its first line is not a request"):
        land(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(write_hits({}) + write_hits({})[:60], ":2: '{.*' is not a whole row of format 'vegeta'", id="cut"),
        pytest.param(write_hits({}, {"latency": None}), ":2: column 'latency' has no value", id="no-latency"),
        pytest.param(
            '1790000000000000000,200,15486,0,5,"a\n1790000000000000000', ":2: the row cannot be read", id="quote"
        ),
        pytest.param(
            "1790000000000000000,200,15486,0,5,,,,0\n,,,,,,,,\n", ":2: column 'timestamp' has no value", id="empty"
        ),
        pytest.param(write_hits({}) + "x" * (17 << 20), ":2 is longer than 16 MB", id="long"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(land, text, problem):
    with pytest.raises(InputError, match=problem):
        land(text)


# ------------------------------------------------------------------ Gatling

LOG = """ASSERTION\tAAECAgAAAAAAAHlA
RUN\tshop.Shop\tshop\t1790000000000\t \t3.9.5
USER\tShop\tSTART\t1790000000000
REQUEST\t\tGET /\t1790000000100\t1790000000117\tOK\t 
REQUEST\tBuy,Pay\tPOST /pay\t1790000000200\t1790000000250\tKO\tstatus.find.is(200), but actually found 500
GROUP\tBuy,Pay\t1790000000200\t1790000000250\t50\tKO
ERROR\tNo attribute named 'x' is defined \t1790000000300
USER\tShop\tEND\t1790000000400
"""  # noqa: W291 - Gatling writes a space for no message


@pytest.mark.parametrize("before", ["", "7\t", "Shop\t7\t"])
def test_simulation_log_of_gatling(land, before):
    text = LOG.replace("REQUEST\t", f"REQUEST\t{before}").replace("GROUP\t", f"GROUP\t{before}")
    landed, [first, second] = land(text)
    assert (first["endpoint"], first["response_time_ms"], first["failed"]) == ("GET /", 17, False)
    assert first["us"] == 1_790_000_000_100_000
    assert (second["endpoint"], second["response_time_ms"]) == ("Buy / Pay / POST /pay", 50)
    assert (second["failed"], second["exception"]) == (True, "status.find.is(200), but actually found 500")
    assert name_left_out(landed) == {
        (LeftOutKind.SUMMARY, ""): (1, 1),
        (LeftOutKind.OTHER_KIND, "error of the simulation"): (1, 1),
    }


def test_an_error_that_gatling_writes_under_the_name_of_a_group(land):
    landed, requests = land(LOG.replace("ERROR\t", "GROUP\t"))
    assert len(requests) == 2
    assert name_left_out(landed)[LeftOutKind.OTHER_KIND, "error of the simulation"] == (1, 1)


def test_a_log_without_requests(land):
    with pytest.raises(InputError, match=r"has no request$"):
        land("\n".join(LOG.splitlines()[:3]))


# ------------------------------------------------------------------ hey, oha

HEY = """response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read,status-code,offset
0.0213,0.0001,0.0000,0.0000,0.0212,0.0000,200,0.0010
0.0300,0.0000,0.0000,0.0000,0.0299,0.0000,503,1.5000
"""
OHA = """request-start,DNS,DNS+dialup,Response-delay,request-duration,bytes,status
0.001,0.00002,0.0001,0.0212,0.021312345,12,200
1.5,0,0,0.0299,0.03,12,503
"""


@pytest.mark.parametrize("encode", [str, lambda text: "\ufeff" + text.replace("\n", "\r\n")])
@pytest.mark.parametrize(("text", "ms"), [(HEY, 21.3), (OHA, 21.312345)])
def test_csv_of_hey_and_oha(land, text, ms, encode):
    _, [first, second] = land(encode(text))
    assert (first["endpoint"], first["failed"], first["us"]) == ("all requests", False, 1000)
    assert first["response_time_ms"] == pytest.approx(ms, rel=1e-12)
    assert (second["status_code"], second["failed"], second["us"]) == (503, True, 1_500_000)


def test_a_user_may_add_endpoints(land):
    lines = HEY.splitlines()
    added = "\n".join([f"{lines[0]},endpoint", *(f"{line},GET /cart" for line in lines[1:])])
    assert {row["endpoint"] for row in land(added)[1]} == {"GET /cart"}


@pytest.mark.parametrize("text", [HEY, OHA])
def test_files_without_requests_that_got_no_answer(store, land, text):
    land(text)
    [run] = store.data.runs("r")
    assert run.facts.unseen.startswith("requests without an answer (a refused connection, a timeout)")
    # The user's knowledge is part of how the files are read, so they land again.
    landed, _ = land(text, all_answered=True)
    assert not landed.already
    assert [run.facts.unseen for run in store.data.runs("r") if run.id in landed.runs] == [""]


def test_more_rows_than_hey_writes(land, monkeypatch):
    monkeypatch.setattr("evaluator.sources.files.hey._MOST_OF_HEY", 2)
    with pytest.raises(InputError, match="has 2 rows, the most that hey writes"):
        land(HEY)
    assert len(land(OHA)[1]) == 2


def test_decimal_commas_are_refused(land):
    with pytest.raises(InputError, match="write numbers with a decimal point"):
        land("\n".join(line.replace(",", ";").replace("0.", "0,") for line in HEY.splitlines()))


# ------------------------------------------------------------------ pyperf

PROCESS = {
    "metadata": {"date": "2026-09-21 14:13:20.500000", "loops": 1024},
    "warmups": [[1, 3e-5], [1024, 2e-5]],
    "values": [1.5486e-05, 1.5562e-05],
}
PYPERF = {
    "benchmarks": [{
        "metadata": {"name": "json_loads"},
        "runs": [
            {"metadata": {"date": "2026-09-21 14:13:10", "calibrate_loops": 1024}, "warmups": [[1, 2e-5]]},
            PROCESS,
        ],
    }],
    "metadata": {"unit": "second", "inner_loops": 2},
    "version": "1.0",
}  # fmt: skip


def test_json_of_pyperf(land):
    landed, [first, second] = land(json.dumps(PYPERF))
    assert (first["endpoint"], first["instance"], first["failed"]) == ("json_loads", "process 2", False)
    assert first["response_time_ms"] == 1.5486e-05 * 1000
    # After the warm-up values: 1 · 2 loops of 30 µs, 1024 · 2 of 20 µs. Each value takes 1024 · 2 loops.
    start_us = datetime(2026, 9, 21, 14, 13, 20, 500_000, UTC).timestamp() * 1e6
    assert first["us"] == pytest.approx(start_us + 2 * 30 + 2048 * 20, abs=1)
    assert second["us"] - first["us"] == pytest.approx(2048 * 15.486, abs=1)
    assert name_left_out(landed) == {(LeftOutKind.WARM_UP, ""): (3, 0)}


def test_pyperf_before_1_0_wrote_warm_ups_of_all_loops(land):
    older = json.loads(json.dumps(PYPERF | {"version": 6}))
    for run in older["benchmarks"][0]["runs"]:
        run["warmups"] = [[loops, value * loops * 2] for loops, value in run["warmups"]]
    assert land(json.dumps(older))[1] == land(json.dumps(PYPERF), files_are="parts")[1]


def test_pyperf_without_dates_counts_from_the_start(land):
    text = json.dumps(PYPERF).replace('"date"', '"day"')
    assert [row["us"] for row in land(text)[1]] == [pytest.approx(41_060, abs=1), pytest.approx(72_775, abs=1)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(PYPERF | {"version": 5}, "has version 5 of pyperf's format", id="version"),
        pytest.param(PYPERF | {"metadata": {"unit": "byte"}}, "its 5 rows are 5 of kind value in byte", id="bytes"),
        pytest.param(PYPERF | {"benchmarks": [{"runs": "x"}]}, "'runs' is not a list", id="runs"),
        pytest.param(PYPERF | {"benchmarks": ["x"], "x": "runs"}, "'benchmarks' has no entries", id="benchmarks"),
        pytest.param(PYPERF | {"benchmarks": [{"runs": [PROCESS]}]}, "row 3: column 'name' has no value", id="no-name"),
        pytest.param(
            PYPERF | {"benchmarks": [{"metadata": {"name": "x"}, "runs": [PROCESS | {"values": ["fast"]}]}]},
            "column 'value' has the value '\"fast\"'",
            id="no-number",
        ),
    ],
)
def test_json_of_pyperf_that_cannot_be_read(land, content, problem):
    with pytest.raises(InputError, match=problem):
        land(json.dumps(content))


def test_json_that_is_cut(land):
    with pytest.raises(InputError, match=r":1: the JSON is cut short or broken"):
        land(json.dumps(PYPERF)[:-20])


# ------------------------------------------------------------------ Google Benchmark


def repeat(**changes):
    return {
        "name": "BM_Find/8", "run_name": "BM_Find/8", "run_type": "iteration", "iterations": 1000, "real_time": 155.25,
        "cpu_time": 150.0, "time_unit": "ns", **changes,
    }  # fmt: skip


def write_google(*benchmarks, date="2026-09-21T16:13:20+02:00"):
    context = {"date": date, "num_cpus": 4, "mhz_per_cpu": 3000}
    return json.dumps({"context": context, "benchmarks": benchmarks}, indent=2)


def test_json_of_google_benchmark(land):
    landed, [first, second, failed] = land(
        write_google(
            repeat(),
            repeat(real_time=1.5, time_unit="us"),
            repeat(name="BM_Find/8_mean", run_type="aggregate", aggregate_name="mean"),
            repeat(error_occurred=True, error_message="no file", iterations=0, real_time=0),
            repeat(skipped=True, iterations=0),
        )
    )
    assert (first["endpoint"], first["failed"]) == ("BM_Find/8", False)
    assert first["response_time_ms"] == pytest.approx(155.25e-6, rel=1e-12)
    assert second["response_time_ms"] == pytest.approx(1.5e-3, rel=1e-12)
    assert second["us"] - first["us"] == 155  # 1000 iterations
    assert datetime.fromtimestamp(first["us"] / 1e6, UTC) == datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC)
    assert (failed["failed"], failed["exception"]) == (True, "no file")
    assert name_left_out(landed) == {
        (LeftOutKind.SUMMARY, ""): (1, 0),
        (LeftOutKind.OTHER_KIND, "skipped benchmark"): (1, 0),
    }


def test_statistics_of_an_old_google_benchmark(land):
    old = [{name: value for name, value in repeat().items() if name not in ("run_name", "run_type")} for _ in range(3)]
    landed, rows = land(write_google(*old, {**old[0], "name": "BM_Find/8_stddev"}))
    assert len(rows) == 3
    assert name_left_out(landed) == {(LeftOutKind.SUMMARY, ""): (1, 0)}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"time_unit": "min"}, "no value"),
        ({"real_time": None}, "no value"),
        ({"real_time": "fast"}, "the value '\"fast\"'"),
        ({"real_time": True}, "the value 'true'"),
        ({"real_time": float("nan")}, "the value 'nan'"),
        ({"real_time": 10**400}, "the value '1000"),
    ],
)
def test_a_time_is_not_guessed(land, changes, problem):
    with pytest.raises(InputError, match=f"column 'real_time' has {problem}"):
        land(write_google(repeat(**changes)))


# ------------------------------------------------------------------ packed, and in other encodings

TABLE = "ts,endpoint,response_time_ms,failed\n" + "".join(
    f"{1_790_000_000 + k},GET /ä,{k + 1},false\n" for k in range(9)
)
JTL = '<?xml version="1.0" encoding="UTF-16"?>\n<testResults>\n<sample ts="1790000000000" t="4" s="true" lb="ä"/>\n</testResults>'  # noqa: E501
OBJECTS = "".join(
    f'{{"ts": {1_790_000_000 + k}, "endpoint": "GET /ä", "response_time_ms": 5, "failed": false}}\n' for k in range(9)
)
POINT = (
    '{"type":"Point","metric":"http_req_duration","data":{"time":"2026-09-21T14:00:00Z","value":3.5,'
    '"tags":{"method":"GET","name":"/ä","status":"200"}}}\n'
)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize(
    "text", [TABLE, OBJECTS, JTL, POINT, LOG.replace("/pay", "/ä"), write_hits({"url": "http://h/ä"})]
)
def test_text_of_other_encodings(land, text, encoding):
    assert any("ä" in row["endpoint"] for row in land(text, encoding=encoding)[1])


def test_packed_json_lines(store, tmp_path):
    (tmp_path / "a").write_bytes(gzip.compress(OBJECTS.encode()))
    assert import_release(store, Release("r"), plan_landing({"canary": [str(tmp_path / "a")]})).rows == 9


def test_a_file_and_its_packed_copy_are_the_same(store, tmp_path):
    (tmp_path / "a.csv").write_text(TABLE)
    (tmp_path / "b").write_bytes(gzip.compress(TABLE.encode()))
    plan = plan_landing({"canary": [str(tmp_path / "a.csv"), str(tmp_path / "b")]})
    with pytest.raises(InputError, match="have the same content: their requests would count twice"):
        import_release(store, Release("r"), plan)


def test_the_error_of_a_row_names_the_packed_file(store, tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress((TABLE + "1790000000,GET /,3\n").encode()))
    with pytest.raises(InputError, match=r"a\.csv\.gz:11: the row has 3 values, the header 4"):
        import_release(store, Release("r"), plan_landing({"canary": [str(path)]}))


def test_a_full_disk_is_named(store, tmp_path, monkeypatch):
    def fill_disk(_source, _target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evaluator.store.readable.copy_plain", fill_disk)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(TABLE.encode()))
    with pytest.raises(InputError, match=r"cannot be unpacked or rewritten in .*: No space left") as caught:
        import_release(store, Release("r"), plan_landing({"canary": [str(path)]}))
    assert "TMPDIR" in caught.value.hint


def test_a_packed_parquet_file_is_refused(tmp_path):
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"PAR1" + bytes(100)))
    with pytest.raises(InputError, match="is a packed Parquet file"):
        plan_landing({"canary": [str(tmp_path / "a.parquet.gz")]})


def test_an_empty_file_that_is_packed(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(InputError, match="holds an empty file"):
        plan_landing({"canary": [str(tmp_path / "a.csv.gz")]})
