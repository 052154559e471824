"""A file without faults is read in one pass, and lands as it would by SQL."""

from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from evaluator.pipeline.importing import import_release
from evaluator.records import LeftOut, LeftOutKind, Release
from evaluator.segments import REQUEST_SCHEMA
from evaluator.sources.files import plan_landing
from evaluator.store import Store, clean_csv, importing, inspection
from evaluator.store.clean_csv import write_clean_segment
from evaluator.store.engine import open_engine
from evaluator.store.inspection import Inspection, are_quotes_plain

T0 = 1_790_000_000
JTL = (
    "timeStamp,elapsed,label,responseCode,responseMessage,threadName,dataType,success,failureMessage,bytes,allThreads\n"
    f"{T0}000,12,home,200,OK,t 1-1,text,true,,100,3\n"
    f"{T0}500,14,home,Non HTTP response code: x,refused,t 1-1,text,false,refused,0,4\n"
    f"{T0}600,,cart,500,refused,t 1-1,text,FALSE,,,\n"
    f'{T0}000,26,both,200,"Number of samples in transaction : 2, failing : 1",t,,false,,100,4\n'
)
LOCUST = (
    "timestamp,request_type,name,response_time_ms,response_length,status_code,exception\n"
    f"{T0}.1234567,GET,/cart,12.25,100,200,\n"
    f'{T0}.5,POST,/cart,1e3,0,0,"broken\n""pipe"", twice"\n'
    f"\n{T0}.25,GET,/,0.001,5,404,HTTPError('404')\n"
    f"{T0}.6,GET,/,5,5,200,None\n{T0}.65,GET,/,5,5,500,-\n"
    f"{T0}.75,GET,/,5,5,500,\n{T0}.8,POST,/cart,5,5,0,\n{T0}.85,WSS,/,5,5,0,\n"
)
PLAIN = (
    "ts,endpoint,response_time_ms,failed,instance,user_count\n"
    '2026-10-01T12:00:00.5Z,GET /,3.5,false,pod-1,7\n2026-10-01 12:00:01+00:00,"GET /é",4,1,,\n'
)
CUSTOM = f"when;method;path;took;code\r\n{T0}123;GET;/;0.25;200\r\n{T0}500;GET;/x;0.5;503\r\n"
COLUMNS = ["ts=when:ms", "endpoint=method+path", "response_time_ms=took:s", "failed=code:status", "status_code=code"]
FILES = [
    pytest.param(JTL, [], id="jtl"),
    pytest.param(LOCUST, [], id="locust"),
    pytest.param(PLAIN, [], id="plain"),
    pytest.param("\ufeff" + PLAIN, [], id="byte-order-mark"),
    pytest.param(CUSTOM, COLUMNS, id="columns"),
    pytest.param(PLAIN.rstrip("\n"), [], id="no-last-line-end"),
]


@pytest.fixture
def land(tmp_path, monkeypatch):
    """Land a text in a store of its own and return the rows, with what was landed."""

    def land_text(text, columns=(), *, clean=True, **options):
        with monkeypatch.context() as patch:
            if not clean:
                patch.setattr(importing, "write_clean_segment", lambda *_: None)
            path = tmp_path / "requests.csv"
            path.write_bytes(text.encode())
            store = Store.open(tmp_path / ("clean" if clean else "long") / "evaluator.duckdb", create=True)
            plan = plan_landing({"canary": [str(path)]}, columns=columns, **options)
            landed = import_release(store, Release("r"), plan)
            rows = store.data.query("SELECT * EXCLUDE (run) FROM requests ORDER BY ts, endpoint").to_pylist()
            [segment] = store.data.segment_folder(store.data.runs("r")[0]).glob("*.parquet")
            # Only the short way leaves the types of the schema in the file.
            assert (pq.read_schema(segment).field("arm").type == REQUEST_SCHEMA.field("arm").type) is clean
            return rows, (
                landed.rows,
                landed.left_out,
                store.data.runs("r")[0].started,
                store.data.runs("r")[0].ended,
            )

    (tmp_path / "clean").mkdir()
    (tmp_path / "long").mkdir()
    return land_text


@pytest.mark.parametrize("piece_bytes", [40, 8 << 20])
@pytest.mark.parametrize(("text", "columns"), FILES)
def test_both_ways_give_the_same_rows(land, monkeypatch, text, columns, piece_bytes):
    monkeypatch.setattr(clean_csv, "_PIECE_BYTES", piece_bytes)
    # Only where rows are longer than pieces of text may be is the short way given up.
    monkeypatch.setattr(clean_csv, "_MOST_PIECES", 1000)
    assert land(text, columns) == land(text, columns, clean=False)


def _write(tmp_path, text, name="requests.csv"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    [file] = plan_landing({"canary": [str(tmp_path / name)]}).files
    constants = {"run": "r", "arm": "canary", "service": ""}
    with open_engine() as engine:
        return write_clean_segment(engine, file, tmp_path / "out.parquet", constants, datetime(2027, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PLAIN + "2026-10-01T12:00:01Z,GET /,3.5\n", id="ragged"),
        pytest.param(PLAIN + "2076-10-01T12:00:01Z,GET /,3.5,false,,\n", id="future"),
        pytest.param(PLAIN + "yesterday,GET /,3.5,false,,\n", id="no-time"),
        pytest.param(PLAIN + "2026-10-01T12:00:01Z,,3.5,false,,\n", id="no-endpoint"),
        pytest.param(PLAIN + "2026-10-01T12:00:01Z,GET /,3.5,perhaps,,\n", id="no-boolean"),
        pytest.param(PLAIN + "2026-10-01T12:00:01Z,GET /,,false,,\n", id="success-without-time"),
        pytest.param(PLAIN + "2026-10-01T12:00:01Z,GET /,nan,true,,\n", id="nan"),
        pytest.param(PLAIN + "2026-10-01T12:00:01Z,GET /,-1,true,,\n", id="negative"),
        pytest.param(PLAIN + "2026-10-01T12:00:01Z,GET /,1,true,,many\n", id="no-number"),
        pytest.param(PLAIN + "2026-10-01T12:00:01Z,   ,1,true,,1\n", id="blank-endpoint"),
        pytest.param(PLAIN + '2026-10-01T12:00:01Z,"a\nb",1,true,,1\n', id="endpoint-of-two-lines"),
        pytest.param(PLAIN + "1970-01-01T00:00:00Z,GET /,1,true,,1\n", id="of-1970"),
        pytest.param(PLAIN + "2025-01-01T00:00:00Z,GET /,1,true,,1\n", id="another-year"),
        pytest.param(LOCUST + f"{T0},GET,/,1,1,,\n", id="nothing-tells"),
        pytest.param(JTL + f"{T0}000,9,home-0,200,OK,t 1-1,text,true,,9,3\n", id="part-of-a-request"),
        pytest.param(f"timeStamp,elapsed,label,success,SampleCount\n{T0}000,9,home,true,2\n", id="statistic"),
        pytest.param(PLAIN.encode() + b"2026-10-01T12:00:01Z,GET /,1,true,,1\n" * 999 + b"\xff,", id="no-utf-8"),
        pytest.param(PLAIN + '2026-10-01T12:00:01Z,"GET /,1,true,,1\n', id="open-quote"),
        pytest.param(JTL[: JTL.index("\n") + 1] + JTL.splitlines()[-1] + "\n", id="only-summaries"),
    ],
)
def test_a_file_that_is_not_plain_is_left_to_sql(tmp_path, text):
    assert _write(tmp_path, text) is None
    assert not (tmp_path / "out.parquet").exists()


def test_a_plain_file_is_taken(tmp_path):
    done = _write(tmp_path, JTL)
    assert (done.rows, done.left_out) == (3, (LeftOut("canary", LeftOutKind.SUMMARY, 1, 1),))
    assert done.first_request == datetime.fromtimestamp(T0, UTC)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ('\na,"b",c\n', True),
        ('\n"a","b ""c"" d"\n', True),
        ('\na,"b"c,d\n', False),
        ('\na, "b",d\n', False),
        ('\na,b"c,d\n', False),
        ("\na,b,c\n", True),
        ('"ab"', True),
        ('\na,"b\n1,"c",2\n', False),
    ],
)
def test_stray_quotes_are_seen(text, plain):
    assert are_quotes_plain(text.encode(), ",") is plain


def test_a_quote_that_was_opened_before_is_closed_at_the_end_of_a_value():
    assert are_quotes_plain(b'\nb",c\n', ",", starts_open=True)
    assert not are_quotes_plain(b'\nb,"c\n', ",", starts_open=True)


@pytest.mark.parametrize("chunk_bytes", [7, 1 << 20])
def test_quotes_are_counted_over_chunks(tmp_path, monkeypatch, chunk_bytes):
    """A quote that is never closed swallows the rows up to the next one, which is where a quote may open."""
    monkeypatch.setattr(inspection, "_CHUNK_BYTES", chunk_bytes)
    stray = '2026-10-01T12:00:01Z,"GET /,1,true,,1\n'
    for text, plain in [(PLAIN, True), (PLAIN + stray + PLAIN[PLAIN.index("\n") + 1 :] + stray, False)]:
        (tmp_path / "a.csv").write_text(text)
        [file] = plan_landing({"canary": [str(tmp_path / "a.csv")]}).files
        with Inspection([file]) as look:
            assert look.read(file).has_plain_quotes is plain


def test_a_stray_quote_is_named_as_ever(land):
    with pytest.raises(Exception, match=r"requests\.csv:4: .*quote"):
        land(PLAIN + '2026-10-01T12:00:01Z,"GET" /,1,true,,1\n')
