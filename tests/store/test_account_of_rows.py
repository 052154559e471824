"""Rows read = rows landed + rows named, for any content of a file, in every format."""

import csv
import gzip
import io
import json
from collections import Counter
from dataclasses import dataclass

import hypothesis
import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluator.pipeline.importing import import_release
from evaluator.records import LeftOutKind, Release
from evaluator.sources.files import plan_landing
from evaluator.store import Store

T0 = 1_790_000_000_000
STEP = 1000

BAD, SUMMARY, PART, OTHER = LeftOutKind.BAD_ROW, LeftOutKind.SUMMARY, LeftOutKind.PART, LeftOutKind.OTHER_KIND
LANDS = "lands"


@dataclass(frozen=True)
class Odd:
    """Some rows of a file and what must become of them: for each, its fate and whether it is known to have failed."""

    name: str
    rows: tuple
    fates: tuple


def one(name, row, fate, *, failed=False):
    return Odd(name, (row,), ((fate, failed),))


# Values may be functions of the time of the row, in milliseconds since the epoch.
def seconds(ts):
    return ts / 1000


# ------------------------------------------------------------------ a table with the columns of the request row

TABLE = ("ts", "endpoint", "response_time_ms", "failed", "status_code")
OF_TABLE = [
    one("failure", (seconds, "GET /", "3.5", "TRUE", "500"), LANDS, failed=True),
    one("spelt success", (seconds, "GET /", "3.5", "no", "200 OK"), LANDS),
    one("failure without time", (seconds, "GET /", "", "t", ""), LANDS, failed=True),
    one("failure with a word for no time", (seconds, "GET /", "null", "yes", ""), LANDS, failed=True),
    one("failure whose time is no number", (seconds, "GET /", "nan", "yes", ""), BAD, failed=True),
    one("success without time", (seconds, "GET /", "", "f", "200"), BAD),
    one("without endpoint", (seconds, "", "3.5", "1", "500"), BAD, failed=True),
    one("blank endpoint", (seconds, "  ", "3.5", "1", "500"), BAD, failed=True),
    one("unknown outcome", (seconds, "GET /", "3.5", "ERROR", "500"), BAD),
    one("no outcome", (seconds, "GET /", "3.5", "", "500"), BAD),
    one("negative time", (seconds, "GET /", "-1", "true", "500"), BAD, failed=True),
    one("infinite time", (seconds, "GET /", "inf", "false", "200"), BAD),
    one("decimal comma", (seconds, "GET /", "12,5", "true", "500"), BAD, failed=True),
    one("of 1970", (0, "GET /", "3.5", "true", "500"), BAD, failed=True),
    one("uptime", (86_400.5, "GET /", "3.5", "true", "500"), BAD, failed=True),
    one("years before", (lambda ts: ts / 1000 - 3e8, "GET /", "3.5", "true", ""), BAD, failed=True),
    one("milliseconds among seconds", (lambda ts: ts, "GET /", "3.5", "true", ""), BAD, failed=True),
    one("no instant", ("yesterday", "GET /", "3.5", "true", ""), BAD, failed=True),
]
RAGGED = one("ragged", (seconds, "GET /", "3.5"), BAD)
GOOD_TABLE = one("good", (seconds, "GET /", "3.5", "false", "200"), LANDS)

# ------------------------------------------------------------------ Locust

LOCUST = ("timestamp", "request_type", "name", "response_time_ms", "response_length", "status_code", "exception")
OF_LOCUST = [
    one("exception", (seconds, "GET", "/", "3.5", "1", "0", "boom"), LANDS, failed=True),
    one("empty exception", (seconds, "GET", "/", "3.5", "1", "500", ""), LANDS, failed=True),
    one("no answer", (seconds, "POST", "/", "3.5", "1", "0", ""), LANDS, failed=True),
    one("failure without time", (seconds, "POST", "/", "", "1", "0", "boom"), LANDS, failed=True),
    one("status with words", (seconds, "GET", "/", "3.5", "1", "200 OK", ""), LANDS),
    one("other protocol", (seconds, "WSS", "/", "3.5", "1", "0", ""), LANDS),
    one("outcome unknown", (seconds, "GET", "/", "3.5", "1", "", ""), BAD),
    one("no name", (seconds, "GET", "", "3.5", "1", "0", "boom"), BAD, failed=True),
    one("of 1970", (0, "GET", "/", "3.5", "1", "0", "boom"), BAD, failed=True),
]
GOOD_LOCUST = one("good", (seconds, "GET", "/", "3.5", "1", "200", ""), LANDS)

# ------------------------------------------------------------------ JMeter

JTL = ("timeStamp", "elapsed", "label", "responseCode", "responseMessage", "threadName", "success", "SampleCount")
MESSAGE = "Number of samples in transaction : 2, number of failing samples : 1"


def same(ts):
    return ts


def later(ms):
    return lambda ts: ts + ms


OF_JTL = [
    one("failure", (same, "40", "home", "500", "no", "t 1-1", "false", "1"), LANDS, failed=True),
    one("failure without time", (same, "", "home", "", "no", "t 1-1", "false", "1"), LANDS, failed=True),
    one("failed transaction", (same, "40", "buy", "500", MESSAGE, "t 1-1", "false", "1"), SUMMARY, failed=True),
    one("statistic", (same, "40", "home", "200", "OK", "t 1-1", "true", "7"), BAD),
    one("no label", (same, "40", "", "500", "no", "t 1-1", "false", "1"), BAD, failed=True),
    one("of 1970", (0, "40", "home", "500", "no", "t 1-1", "false", "1"), BAD, failed=True),
    one("unknown outcome", (same, "40", "home", "500", "no", "t 1-1", "", "1"), BAD),
    Odd(
        "redirect, with a row of another thread between",
        (
            (same, "400", "home", "200", "OK", "t 1-1", "true", "1"),
            (later(10), "9", "home", "200", "OK", "t 1-2", "true", "1"),
            (same, "100", "home-0", "302", "Found", "t 1-1", "true", "1"),
            (later(100), "300", "home-1", "500", "no", "t 1-1", "false", "1"),
            (later(150), "20", "logo.png-0", "200", "OK", "t 1-1", "true", "1"),
        ),
        ((LANDS, False), (LANDS, False), (PART, False), (PART, True), (PART, False)),
    ),
    Odd(
        "labels that end in a number",
        (
            (same, "100", "page", "200", "OK", "t 1-1", "true", "1"),
            (later(100), "100", "page-0", "500", "no", "t 1-1", "false", "1"),
            (later(200), "1", "page-1", "200", "OK", "t 1-1", "true", "1"),
        ),
        ((LANDS, False), (LANDS, True), (LANDS, False)),
    ),
]
GOOD_JTL = one("good", (same, "40", "home", "200", "OK", "t 1-1", "true", "1"), LANDS)


def sample(ts="{ts}", t=40, s="true", lb="home", name="httpSample", attributes="", inside=""):
    return f'<{name} ts="{ts}" t="{t}" s="{s}" lb="{lb}" {attributes}>{inside}</{name}>'


def spelt(*, success, label="<label>pay</label>"):
    fields = f"<timeStamp>{{ts}}</timeStamp>{label}<elapsedTime>9</elapsedTime><success>{success}</success>"
    return f"<com.example.Sampled>{fields}</com.example.Sampled>"


OF_XML = [
    one("failure", sample(s="false"), LANDS, failed=True),
    one("another element", sample(name="jdbcSample", s="false"), LANDS, failed=True),
    one("a class", spelt(success="false"), LANDS, failed=True),
    one("no label", sample(lb="", s="false"), BAD, failed=True),
    one("no time", '<sample ts="{ts}" s="true" lb="home"/>', BAD),
    one("of 1970", sample(ts=0, s="false"), BAD, failed=True),
    one("statistic", sample(attributes='sc="5"', s="false"), BAD, failed=True),
    one("no sample", spelt(success="false", label=""), OTHER, failed=True),
    one("something else", "<note><label>x</label></note>", OTHER),
    one(
        "answer that is no text",
        sample(s="false", inside="<responseData>a&#x0;b\x01\x1f</responseData>"),
        LANDS,
        failed=True,
    ),
    Odd(
        "parts and transactions",
        (
            sample(
                name="sample",
                lb="buy",
                s="false",
                attributes=f'rm="{MESSAGE}"',
                inside=sample(s="false", inside=sample(lb="home-0", s="false"))
                + spelt(success="true")
                + sample(lb="home-1"),
            ),
        ),
        ((SUMMARY, True), (LANDS, True), (PART, True), (LANDS, False), (LANDS, False)),
    ),
]
GOOD_XML = one("good", sample(), LANDS)

# ------------------------------------------------------------------ k6

K6 = ("metric_name", "timestamp", "metric_value", "expected_response", "method", "name", "status")
NOTHING = ()
OF_K6 = [
    one("failure", ("http_req_duration", seconds, "3.5", "false", "GET", "/", "500"), LANDS, failed=True),
    one("status only", ("http_req_duration", seconds, "3.5", "", "GET", "/", "503"), LANDS, failed=True),
    one("no answer", ("http_req_duration", seconds, "0", "", "GET", "/", "0"), LANDS, failed=True),
    one("expected", ("http_req_duration", seconds, "3.5", "true", "GET", "/", "404"), LANDS),
    one("outcome unknown", ("http_req_duration", seconds, "3.5", "", "GET", "/", ""), BAD),
    one("no name", ("http_req_duration", seconds, "3.5", "false", "GET", "", "500"), BAD, failed=True),
    one("of 1970", ("http_req_duration", 7, "3.5", "false", "GET", "/", "500"), BAD, failed=True),
    one("failed call", ("grpc_req_duration", seconds, "3.5", "", "/a.B/C", "x", "14"), OTHER, failed=True),
    one("call", ("grpc_req_duration", seconds, "3.5", "", "/a.B/C", "x", "0"), OTHER),
    one("failed check", ("checks", seconds, "0", "", "", "", ""), OTHER, failed=True),
    one("dropped", ("dropped_iterations", seconds, "1", "", "", "", ""), OTHER, failed=True),
    one("socket", ("ws_connecting", seconds, "1", "", "GET", "x", "101"), OTHER),
    one("page", ("browser_http_req_duration", seconds, "1", "", "GET", "x", "500"), OTHER, failed=True),
    Odd("describing", (("http_req_waiting", seconds, "1", "false", "GET", "/", "500"),), NOTHING),
    Odd("passed check", (("checks", seconds, "1", "", "", "", ""),), NOTHING),
    Odd("virtual users", (("vus", seconds, "5", "", "", "", ""),), NOTHING),
]
BROKEN_LINE = one("broken", '{"metric":"http_req_dur', BAD)
GOOD_K6 = one("good", ("http_req_duration", seconds, "3.5", "true", "GET", "/", "200"), LANDS)


# ------------------------------------------------------------------ Vegeta


def nanoseconds(ts):
    return ts * 1_000_000


def hit(*, timestamp="{iso}", latency="3500001", code=200, error="", url="http://h/a?x=1"):
    return (
        f'{{"attack":"","seq":1,"code":{code},"timestamp":"{timestamp}","latency":{latency},"bytes_in":2,'
        f'"error":"{error}","body":"eHg=","method":"GET","url":"{url}","headers":null}}'
    )


OF_VEGETA = [
    one("failure", hit(code=500, error="500 Internal Server Error"), LANDS, failed=True),
    one("failure without text", hit(code=503), LANDS, failed=True),
    one("no answer", hit(code=0, error="dial tcp: refused", latency=0), LANDS, failed=True),
    one("error in spite of a status", hit(error="EOF"), LANDS, failed=True),
    one("redirect", hit(code=302), LANDS),
    one("no target", hit(url="", code=0, error="no targets"), LANDS, failed=True),
    one("outcome unknown", hit(code="null"), BAD),
    one("no latency", hit(latency="null"), BAD),
    one("no time", hit(timestamp="yesterday", code=500), BAD, failed=True),
    one("cut", '{"attack":"","seq":1,"code":500,"time', BAD),
    one("no object", "17", BAD),
    one("something else", '{"a": 1}', BAD),
]
OF_VEGETA_CSV = [
    one(
        "failure",
        (nanoseconds, 500, 35, 0, 2, "500 Bad, very", "eHg=", "", 1, "GET", "http://h/a", ""),
        LANDS,
        failed=True,
    ),
    one("no answer", (nanoseconds, 0, 35, 0, 0, "EOF", "", "", 1, "GET", "http://h/a", ""), LANDS, failed=True),
    one("of an old version", (nanoseconds, 503, 35, 0, 2, "", "eHg=", "", 1), LANDS, failed=True),
    one("too few values", (nanoseconds, 503, 35), BAD),
    one("outcome unknown", (nanoseconds, "", 35, 0, 2, "", "", "", 1, "GET", "http://h/a", ""), BAD),
]
GOOD_VEGETA = one("good", hit(), LANDS)
GOOD_VEGETA_CSV = one("good", (nanoseconds, 200, 35, 0, 2, "", "", "", 1, "GET", "http://h/a", ""), LANDS)

# ------------------------------------------------------------------ Gatling

OF_GATLING = [
    one("failure", "REQUEST\tBuy\tPay\t{ts}\t{ts}\tKO\tfound 500", LANDS, failed=True),
    one("of 3.0", "REQUEST\t7\tBuy\tPay\t{ts}\t{ts}\tKO\tfound 500", LANDS, failed=True),
    one("of 2.3", "REQUEST\tShop\t7\tBuy\tPay\t{ts}\t{ts}\tKO\tfound 500", LANDS, failed=True),
    one("group", "GROUP\tBuy\t{ts}\t{ts}\t5\tKO", SUMMARY, failed=True),
    one("group of 3.0", "GROUP\t7\tBuy\t{ts}\t{ts}\t5\tOK", SUMMARY),
    one("error", "ERROR\tNo attribute named 'x' is defined\t{ts}", OTHER, failed=True),
    Odd("user", ("USER\tShop\tSTART\t{ts}",), NOTHING),
    Odd("run", ("RUN\tshop.Shop\tshop\t{ts}\t \t3.9.5",), NOTHING),
    one("cut", "REQUEST\tBuy\tPay\t{ts}", BAD),
    one("cut at the start", "REQ", BAD),
    one("ended before it began", "REQUEST\t\tPay\t{ts}\t5\tKO\t ", BAD, failed=True),
    one("unknown status", "REQUEST\t\tPay\t{ts}\t{ts}\tMAYBE\t ", BAD),
]
GOOD_GATLING = one("good", "REQUEST\t\tPay\t{ts}\t{ts}\tOK\t ", LANDS)

# ------------------------------------------------------------------ hey, oha


def since_start(ts):
    return (ts - T0) / 1000


HEY = (
    "response-time",
    "DNS+dialup",
    "DNS",
    "Request-write",
    "Response-delay",
    "Response-read",
    "status-code",
    "offset",
)
OF_HEY = [
    one("failure", ("0.0035", 0, 0, 0, 0, 0, 500, since_start), LANDS, failed=True),
    one("no status", ("0.0035", 0, 0, 0, 0, 0, "", since_start), BAD),
    one("no number", ("0,0035", 0, 0, 0, 0, 0, 500, since_start), BAD, failed=True),
    one("cut", ("0.0035", 0, 0), BAD),
]
GOOD_HEY = one("good", ("0.0035", 0, 0, 0, 0, 0, 200, since_start), LANDS)
OHA = ("request-start", "DNS", "DNS+dialup", "Response-delay", "request-duration", "bytes", "status")
OF_OHA = [
    one("failure", (since_start, 0, 0, 0, "3.5e-3", 12, 404), LANDS, failed=True),
    one("no status", (since_start, 0, 0, 0, "3.5e-3", 12, ""), BAD),
    one("bytes that are no number", (since_start, 0, 0, 0, "3.5e-3", "x", 404), BAD, failed=True),
    one("cut", (since_start, 0, 0), BAD),
]
GOOD_OHA = one("good", (since_start, 0, 0, 0, "3.5e-3", 12, 200), LANDS)

# ------------------------------------------------------------------ files


def fill(row, ts):
    return [value(ts) if callable(value) else value for value in row]


def write_csv(header, rows, path):
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_headless(_, rows, path):
    """CSV without a header line."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue())


def write_lines(_, rows, path):
    path.write_text("".join(f"{row}\n" for row in rows))


def write_parquet(header, rows, path):
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    numbers = {"ts", "response_time_ms"}
    table = {
        name: [_to_number(value) if name in numbers else value or None for value in values]
        for name, values in columns.items()
    }
    pq.write_table(pa.table(table), path)


def _to_number(value):
    try:
        return float(value)
    except ValueError:
        return None


def write_xml(_, rows, path):
    path.write_text('<?xml version="1.0"?>\n<testResults version="1.2">\n' + "\n".join(rows) + "\n</testResults>\n")


def write_json(_, rows, path):
    path.write_text("\n".join(row if isinstance(row, str) else _point(row) for row in rows) + "\n")


def write_json_lines(header, rows, path):
    lines = [row if isinstance(row, str) else json.dumps(dict(zip(header, row, strict=True))) for row in rows]
    path.write_text("\n".join(lines) + "\n")


def _point(row):
    metric, time, value, *tags = row
    filled = {name: tag for name, tag in zip(K6[3:], tags, strict=True) if tag}
    data = {"time": f"{_to_iso(time)}", "value": float(value), "tags": filled}
    return json.dumps({"metric": metric, "type": "Point", "data": data})


def _to_iso(epoch_s):
    from datetime import UTC, datetime

    return datetime.fromtimestamp(epoch_s, UTC).isoformat()


# A table of Parquet has numbers where a text could be anything.
OF_PARQUET = [odd for odd in OF_TABLE if odd.name != "decimal comma"]
FORMATS = {
    "csv": ("a.csv", TABLE, write_csv, [*OF_TABLE, RAGGED], GOOD_TABLE),
    "csv-gz": ("b.csv.gz", TABLE, write_csv, [*OF_TABLE, RAGGED], GOOD_TABLE),
    "parquet": ("c.parquet", TABLE, write_parquet, OF_PARQUET, GOOD_TABLE),
    "locust": ("d.csv", LOCUST, write_csv, OF_LOCUST, GOOD_LOCUST),
    "locust-gz": ("e.csv.gz", LOCUST, write_csv, OF_LOCUST, GOOD_LOCUST),
    "jtl": ("f.jtl", JTL, write_csv, OF_JTL, GOOD_JTL),
    "jtl-gz": ("g.jtl.gz", JTL, write_csv, OF_JTL, GOOD_JTL),
    "jtl-xml": ("h.xml", (), write_xml, OF_XML, GOOD_XML),
    "k6-csv": ("i.csv", K6, write_csv, OF_K6, GOOD_K6),
    "k6-json": ("j.json", K6, write_json, [*OF_K6, BROKEN_LINE], GOOD_K6),
    "json": ("p.jsonl", TABLE, write_json_lines, [*OF_TABLE, BROKEN_LINE], GOOD_TABLE),
    "vegeta-json": ("k.json", (), write_lines, OF_VEGETA, GOOD_VEGETA),
    "vegeta-csv": ("l.csv", (), write_headless, OF_VEGETA_CSV, GOOD_VEGETA_CSV),
    "gatling": ("m.log", (), write_lines, OF_GATLING, GOOD_GATLING),
}
RELATIVE = {
    "hey": ("n.csv", HEY, write_csv, OF_HEY, GOOD_HEY),
    "oha": ("o.csv", OHA, write_csv, OF_OHA, GOOD_OHA),
}


def build(odds, good, folder, name, header, write):
    """Write a file of odd rows among as many good ones; return what must become of its rows."""
    mixed = [good] + [one_of for odd in odds for one_of in (odd, good)]
    rows = []
    for number, odd in enumerate(mixed):
        ts = T0 + number * STEP
        rows += [_fill_text(row, ts) if isinstance(row, str) else fill(row, ts) for row in odd.rows]
    folder.mkdir(exist_ok=True)
    write(header, [row for row in rows if row], folder / name)
    return Counter(fate for odd in mixed for fate in odd.fates)


def _fill_text(row, ts):
    return row.replace("{ts}", str(ts)).replace("{iso}", _to_iso(ts / 1000))


def check(store, files, expected):
    landed = import_release(store, Release("r"), plan_landing(files, skip_bad_rows=True))
    [run] = store.data.runs("r")
    counts = {arm: Counter() for arm in files}
    for arm, failed, count in (
        tuple(row.values())
        for row in store.data.query("SELECT arm, failed, count(*) FROM requests GROUP BY ALL").to_pylist()
    ):
        counts[arm][LANDS, failed] += count
    for part in landed.left_out:
        counts[part.arm][part.kind, True] += part.failures
        counts[part.arm][part.kind, False] += part.rows - part.failures
    for arm, fates in expected.items():
        assert +counts[arm] == +fates, arm
        assert run.facts.read[arm] == fates.total(), arm
    assert run.facts.left_out == landed.left_out


@pytest.mark.parametrize("arm", [*FORMATS, *RELATIVE])
def test_each_odd_row_alone(tmp_path, arm):
    """One by one, so that a failure names the row: each file is an arm of one run."""
    name, header, write, odds, good = (FORMATS | RELATIVE)[arm]
    arms = {f"arm-{number}": odd for number, odd in enumerate(odds)}
    expected = {key: build([odd], good, tmp_path / key, name, header, write) for key, odd in arms.items()}
    files = {key: [str(tmp_path / key / name)] for key in arms}
    check(Store.open(tmp_path / "store" / "evaluator.duckdb", create=True), files, expected)


@st.composite
def mixtures(draw):
    return {arm: draw(st.lists(st.sampled_from(FORMATS[arm][3]), max_size=12)) for arm in FORMATS}


@hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)
@hypothesis.given(mixtures())
def test_mixtures_of_odd_rows(tmp_path_factory, mixture):
    folder = tmp_path_factory.mktemp("mixture")
    expected, files = {}, {}
    for arm, (name, header, write, _, good) in FORMATS.items():
        expected[arm] = build(mixture[arm], good, folder / arm, name, header, write)
        files[arm] = [str(folder / arm / name)]
    check(Store.open(folder / "store" / "evaluator.duckdb", create=True), files, expected)
