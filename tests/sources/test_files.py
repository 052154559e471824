from importlib.metadata import EntryPoint

import pytest

from evaluator.errors import InputError, SourceError, UnknownName, UsageError
from evaluator.sources.files import SOURCES, plan_landing

PLAIN = "ts,endpoint,response_time_ms,failed\n1790000000,GET /,3.5,false\n"


def plan(path, **options):
    return plan_landing({"canary": [str(path)]}, **options)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param("ts,endpoint,response_time_ms,failed\n", "has a header but no rows", id="header-only"),
        pytest.param("a,b\n1,2\n", "has no column 'ts'", id="other-columns"),
        pytest.param("1790000000000,12,home,200\n", "has no header line", id="no-header"),
        pytest.param("2026/05/28 20:26:40.056,19,Home,200,OK,true,,1,1\n", "has no header line", id="no-header-dates"),
        pytest.param("home-0,200,,t 1-1,text,true,1,1,1,0\n", "has no header line", id="no-header-labels"),
        pytest.param("12:30:01,GET /,ok\n", "has no header line", id="no-header-times"),
        pytest.param(
            "response-time,DNS+dialup,DNS\n0.1,0,0\n", "a current hey: it has no column 'offset'", id="old-hey"
        ),
        pytest.param("\nSummary:\n  Total:\t1.0 secs\n", "is a summary of hey or oha", id="hey-summary"),
        pytest.param('{"summary":{},"responseTimeHistogram":{}}', "is a summary of oha", id="oha-summary"),
        pytest.param(
            '{"latencies":{},"success":1,"status_codes":{}}', "is a report of Vegeta, which cannot", id="vegeta-report"
        ),
        pytest.param(
            '{"machine_info":{},"commit_info":{},"benchmarks":[]}', "is JSON of pytest-benchmark", id="pytest-benchmark"
        ),
        pytest.param("SQLite format 3\0...", "is a database of SQLite", id="sqlite"),
        pytest.param(
            "\0\0\0\0\x063.13.5\0", "is a binary simulation.log of Gatling 3.13 or newer", id="gatling-binary"
        ),
        pytest.param(
            "\x7f\x03\x01\x01\x06Result\x01\x0c\x01\x06Attack\x01\x0c\x03Seq\x04Code\x09Timestamp\x07Latency",
            "is a binary file of Vegeta",
            id="vegeta-binary",
        ),
        pytest.param('127.0.0.1 - - [28/May/2026:20:26:40 +0000] "GET / HTTP/1.1" 200 5\n', "an access log", id="log"),
        pytest.param("Label,# Samples,Average,Min,Max\nhome,5,1,1,1\n", "aggregate report, which cannot", id="jmeter"),
        pytest.param("starttime\tseconds\tctime\tdtime\tttime\twait\nx\t1\t1\t1\t1\t1\n", "ApacheBench", id="ab"),
        pytest.param('{"aggregate":{},"intermediate":[]}\n', "a report of Artillery", id="artillery"),
        pytest.param("<?xml version='1.0'?>\n<report/>\n", "is XML, but not a result file of JMeter", id="xml"),
        pytest.param('{"type":"Point"}\n', "has no column 'ts'", id="json"),
        pytest.param(
            "timeStamp,elapsed,label,success,timestamp,metric_name,metric_value\n1,1,a,true,1,a,1\n",
            "looks like files of several formats: jtl, k6",
            id="two-formats",
        ),
        pytest.param("ts,ts\n1,2\n", "column 'ts' appears twice", id="column-twice"),
        pytest.param(
            "Type,Name,Request Count,Failure Count,Median Response Time\nGET,/,1,0,2\n",
            "_stats.csv: its percentiles are rounded to two digits and the arms are merged",
            id="locust-stats",
        ),
        pytest.param(
            "Timestamp,User Count,Type,Name,Requests/s,Total Request Count,Total Failure Count\n1,2,GET,/,1,1,0\n",
            "_stats_history.csv",
            id="locust-history",
        ),
    ],
)
def test_files_that_cannot_be_taken(tmp_path, text, problem):
    path = tmp_path / "requests.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=problem):
        plan(path)


def test_a_column_with_a_name_of_a_thousand_characters_is_not_suggested(tmp_path):
    path = tmp_path / "requests.csv"
    path.write_text(f"{'start' * 1000},endpoint\n1790000000,GET /\n")
    with pytest.raises(InputError) as raised:
        plan(path)
    assert "--column ts=COLUMN" in str(raised.value.hint)
    assert len(str(raised.value.hint)) < 1000


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("p50,ts,endpoint,response_time_ms,failed", "7,1790000000,GET /,3,false"),
        ("ts,endpoint,response_time_ms,failed,99", "1790000000,GET /,3,false,5"),
    ],
)
def test_a_column_may_have_a_number_in_its_name(tmp_path, header, row):
    path = tmp_path / "requests.csv"
    path.write_text(f"{header}\n{row}\n")
    assert plan(path).files[0].layout.format == "csv"


def test_binary_file(tmp_path):
    path = tmp_path / "requests.csv"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="cannot be read as text: it is not UTF-8"):
        plan(path)


def test_broken_parquet(tmp_path):
    path = tmp_path / "requests.parquet"
    path.write_bytes(b"PAR1" + b"\0" * 100)
    with pytest.raises(InputError, match="is a broken Parquet file"):
        plan(path)


@pytest.mark.parametrize(
    ("column", "error", "problem"),
    [
        pytest.param("latency=x", UnknownName, "no column of a request row 'latency'", id="target"),
        pytest.param("ts=tss", InputError, "no column 'tss' .did you mean 'ts'", id="source"),
        pytest.param("ts", InputError, "not of the form TARGET=SOURCE", id="form"),
    ],
)
def test_columns_that_do_not_exist(tmp_path, column, error, problem):
    path = tmp_path / "a.csv"
    path.write_text(PLAIN)
    with pytest.raises(error, match=problem):
        plan(path, columns=[column])


def test_unknown_format(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(PLAIN)
    with pytest.raises(UnknownName, match="did you mean 'locust'"):
        plan(path, format="locst")
    with pytest.raises(UsageError, match="is not a request log of Locust"):
        plan(path, format="locust")


@pytest.mark.parametrize(
    ("first", "unit"),
    [
        ("1790000000", "s"),
        ("1790000000.25", "s"),
        ("1790000000000", "ms"),
        ("1790000000000000", "us"),
        ("1790000000000000000", "ns"),
        ("2026-10-01T12:00:00Z", "iso"),
    ],
)
def test_unit_of_instants_is_determined(tmp_path, first, unit):
    path = tmp_path / "a.csv"
    path.write_text(PLAIN.replace("1790000000", first))
    [file] = plan(path).files
    assert file.layout.columns[0].unit == unit


@pytest.mark.parametrize(
    ("text", "named", "problem"),
    [
        ("<results/>", "jtl", "is XML, but not a result file of JMeter"),
        ("<results/>", "k6", "is not a file of format 'k6': it looks like XML"),
        ('{"root_group": 1}', "k6", "is JSON, but not what `k6 run --out json` writes"),
        ('{"root_group": 1}', "locust", "is not a file of format 'locust': it looks like JSON"),
        ("RUN\tx\tx\t1780000000000\t \t3.9\n", "parquet", "looks like a file of format 'gatling'"),
        (PLAIN, "vegeta", "is not what `vegeta encode` writes"),
        (PLAIN, "gatling", "is not a simulation.log of Gatling"),
        (PLAIN, "hey", "is not the CSV of a current hey: it has no column 'offset'"),
        (PLAIN, "oha", "is not the CSV of a current oha: it has no column 'request-start'"),
        ('{"root_group": 1}', "pyperf", "is not what pyperf writes"),
        ('{"root_group": 1}', "google-benchmark", "is not what Google Benchmark writes"),
        ('{"root_group": 1}', "csv", "is not a file of format 'csv': it looks like JSON"),
        (PLAIN, "json", "is not a file of format 'json'"),
        (PLAIN, "parquet", "is not a Parquet file"),
        (PLAIN, "jtl", "is not a JMeter result file: it has no column 'timeStamp'"),
    ],
)
def test_a_file_of_another_kind_than_it_was_named(tmp_path, text, named, problem):
    path = tmp_path / "requests"
    path.write_text(text)
    with pytest.raises(InputError, match=problem):
        plan(path, format=named)


@pytest.fixture
def another_package(monkeypatch):
    """Install an entry point of another package, for as long as a test runs."""

    def install(name, value):
        points = [EntryPoint(name, value, "evaluator.sources")]
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
        vars(SOURCES).pop("places", None)

    yield install
    monkeypatch.undo()
    vars(SOURCES).pop("places", None)


def test_a_format_of_another_package_that_cannot_be_loaded_is_named(tmp_path, another_package):
    another_package("tsung", "no_such_package:TSUNG")
    path = tmp_path / "requests.csv"
    path.write_text(PLAIN)
    with pytest.raises(SourceError, match=r"the source tsung \(no_such_package:TSUNG\) cannot be loaded"):
        plan(path)
    assert plan(path, format="csv").files[0].layout.format == "csv"  # nobody else is asked


def test_a_format_of_another_package_does_not_take_the_name_of_ours(tmp_path, another_package):
    another_package("jtl", "another_package:JTL")
    path = tmp_path / "requests.csv"
    path.write_text(PLAIN)
    with pytest.raises(SourceError, match="two packages have a source jtl"):
        plan(path)
