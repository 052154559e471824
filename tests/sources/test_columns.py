"""Columns by `--column`: sums, constants, formats of times, fields inside of others, and the error for missing ones."""

import json
import re
import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluator.errors import InputError
from evaluator.pipeline.importing import import_release
from evaluator.records import LeftOutKind, Release
from evaluator.sources.files import plan_landing
from evaluator.sources.files.columns import check_time_format, determine_instant_unit, parse_columns
from evaluator.store import Store

T = 1_790_000_000
ISO = "2026-09-21 14:13:20"


@pytest.fixture
def land(tmp_path):
    """Import one file, and return its request rows as tuples."""

    def land_file(text, *columns, name="a.csv", **options):
        path = tmp_path / name
        if isinstance(text, pa.Table):
            pq.write_table(text, path)
        else:
            path.write_text(text)
        store = Store.open(tmp_path / "s.duckdb", create=True)
        landed = import_release(store, Release("r"), plan_landing({"canary": [str(path)]}, columns=columns, **options))
        rows = store.data.query(
            "SELECT epoch_ms(ts) AS ms, endpoint, response_time_ms, failed, instance, status_code FROM requests"
            " ORDER BY ts"
        ).to_pylist()
        return landed, [tuple(row.values()) for row in rows]

    return land_file


def test_response_times_are_summed_up(land):
    text = f"ts,endpoint,failed,a,b\n{T},/,false,1.5,2\n{T + 1},/,true,,\n"
    _, rows = land(text, "response_time_ms=a+b:s")
    assert [row[2] for row in rows] == [3500.0, 0.0]  # a failure may have no time
    with pytest.raises(InputError, match=r"a\.csv:2: column 'a \+ b' has the value '1'"):
        land(f"ts,endpoint,failed,a,b\n{T},/,true,1,\n", "response_time_ms=a+b")  # but not half of one


def test_response_times_of_different_units_are_not_summed_up(land):
    text = f"ts,endpoint,failed,a_ns,b_us\n{T},/,false,1000,2\n"
    with pytest.raises(InputError, match=r"their names end in different units \(ns, us\)"):
        land(text, "response_time_ms=a_ns+b_us")
    row = {"ts": T, "endpoint": "/", "failed": False, "n": 1}
    table = pa.Table.from_pylist([row])
    for name, kind in (("a", pa.duration("us")), ("b", pa.duration("us")), ("c", pa.duration("ns"))):
        table = table.append_column(name, pa.array([1500], kind))
    assert land(table, "response_time_ms=a+b", name="a.parquet")[1][0][2] == 3.0
    for columns in ("a+c", "a+n"):
        with pytest.raises(InputError, match="they have no sum"):
            land(table, f"response_time_ms={columns}", name="a.parquet")


def test_an_existing_column_with_a_plus_or_like_a_constant_is_one_column(land):
    header = "ts,a,b,a+b,const:x,failed"
    text = f"{header}\n{T},1,2,7,name,false\n"
    assert land(text, "response_time_ms=a+b", "endpoint=const:x")[1][0][1:3] == ("name", 7.0)


@pytest.mark.parametrize(
    "column", ["failed=a+b", "failed=a+b:status", "status_code=a+b", "response_bytes=a+b", "ts=a+b"]
)
def test_columns_that_cannot_be_joined_are_refused(land, column):
    text = f"ts,endpoint,response_time_ms,failed,a,b\n{T},/,1,false,{T},200\n"
    with pytest.raises(InputError, match="names several columns"):
        land(text, column if column != "ts=a+b" else "ts=a+b:s")


def test_constants(land):
    text = f"ts,response_time_ms\n{T},1\n"
    name = 'it\'s "{x}" %s; -- \\'
    columns = (f"endpoint=const:{name}", "failed=const:No", "instance=const:web 1", "status_code=const:200")
    _, rows = land(text, *columns)
    assert rows == [(T * 1000, name, 1.0, False, "web 1", 200)]
    assert land(text, *columns)[0].already == 1
    later = text.replace(str(T), str(T + 1))
    assert land(later, "endpoint=const:/", "failed=const:true")[1][-1][1:] == ("/", 1.0, True, "canary", None)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("ts=const:1790000000", "a time cannot be the same"),
        ("response_time_ms=const:5", "a time cannot be the same"),
        ("failed=const:maybe", "does not show whether requests failed"),
        ("failed=const:", "does not show whether requests failed"),
        ("endpoint=const: ", "has no text of one line"),
        ("endpoint=const:a\nb", "has no text of one line"),
        ("status_code=const:600", "is not a whole number from 0 to 599"),
        ("user_count=const:-1", "is not a whole number"),
        ("response_bytes=const:1e3", "is not a whole number"),
    ],
)
def test_constants_that_cannot_be(column, problem):
    with pytest.raises(InputError, match=problem) as raised:
        parse_columns([column])
    assert raised.value.hint


@pytest.mark.parametrize(
    ("columns", "values", "ms"),
    [
        ("ts=t", "21/Sep/2026:16:13:20 +0200", T * 1000),
        ("ts=t", "[21/Sep/2026:14:13:20 +0000]", T * 1000),
        ("ts=t", f"'{ISO},250'", T * 1000 + 250),
        ("ts=t", f"{ISO}Z", T * 1000),
        ("ts=t", f"{ISO}+02:00", T * 1000 - 7_200_000),
        ("ts=t:%d/%b/%Y:%H:%M:%S %z", "21/Sep/2026:14:13:20 +0000", T * 1000),
        ("ts=t:%d.%m.%Y %H:%M:%S", "21.09.2026 14:13:20", T * 1000),
        ("ts=t:%m/%d/%y %I:%M:%S %p", "09/21/26 02:13:20 PM", T * 1000),
        ("ts=t:it''s %Y%j %H%M%S.%n", "it''s 2026264 141320.250000000", T * 1000 + 250),
        ("ts=t+u", "2026-09-21|14:13:20.5", T * 1000 + 500),
        ("ts=t+u:%d.%m.%Y %H:%M:%S", "21.09.2026|14:13:20", T * 1000),
        ("ts=t:us", f"{T}000000", T * 1000),
    ],
)
def test_formats_of_times(land, columns, values, ms):
    text = f"t|u|endpoint|response_time_ms|failed\n{values.strip(chr(39))}" + "|" * ("|" not in values) + "|/|1|false\n"
    assert land(text, columns)[1][0][0] == ms


def test_a_time_in_another_format_or_half_of_one_is_a_bad_row(land):
    text = "t,u,endpoint,response_time_ms,failed\n2026-09-21,14:13:20,/,1,false\n2026-09-21,,/,1,false\n"
    with pytest.raises(InputError, match=r"a\.csv:3: column 't \+ u' has the value '2026-09-21', not a time"):
        land(text, "ts=t+u")
    with pytest.raises(InputError, match=r"a\.csv:2: column 't' has the value '2026-09-21', not a time"):
        land(text, "ts=t:%d.%m.%Y %H")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("%Q %Y-%m-%d %H", "has %Q, which is not known"),
        ("%Y-%m-%d %H%", "has %, which is not known"),
        ("%H:%M:%S", "needs year, month, day and hour"),
        ("%Y-%m-%d", "needs year, month, day and hour"),
        ("%Y-%m-%d %I:%M", "needs year, month, day and hour"),
    ],
)
def test_formats_that_do_not_say_when(text, problem):
    with pytest.raises(InputError, match=problem):
        check_time_format(text)


def test_a_format_may_have_colons_and_so_may_the_name_of_a_column():
    [request] = parse_columns(["ts=log:time:%d/%b/%Y:%H:%M:%S"])
    assert (request.source, request.unit) == ("log:time", "%d/%b/%Y:%H:%M:%S")
    [request] = parse_columns(["ts=log:time"])
    assert (request.source, request.unit) == ("log:time", "")
    assert determine_instant_unit("21/Sep/2026:14:13:20 +0000") == "%d/%b/%Y:%H:%M:%S %z"


# ------------------------------------------------------------------ fields inside of others

ROW = {"@t": f"{ISO}Z", "http": {"verb": "GET", "a.b": {"code": 503}}, "url/path~": "/x", "took": 2500000, "tags": [1]}
NESTED = (
    "ts=@t", "endpoint=http.verb+url/path~", "response_time_ms=took:ns", "failed=http.a.b.code:status",
    "status_code=http.a.b.code",
)  # fmt: skip
AS_READ = [(T * 1000, "GET /x", 2.5, True, "canary", 503)]


def test_fields_of_json_lines(land):
    text = json.dumps(ROW) + "\n\n"
    assert land(text, *NESTED, name="a.jsonl")[1] == AS_READ


def test_fields_of_parquet(land):
    assert land(pa.Table.from_pylist([ROW]), *NESTED, name="a.parquet")[1] == AS_READ


def test_lines_that_are_no_objects_are_bad_rows(land):
    good = json.dumps({"ts": T, "endpoint": "/", "response_time_ms": 1, "failed": False})
    text = f"{good}\nnot json\n5\n{good[:-9]}\n"
    with pytest.raises(
        InputError, match=r"a\.jsonl:row 2: the line is no JSON object, or has no value of 'ts'; 3 rows"
    ):
        land(text, name="a.jsonl")
    landed, rows = land(text, name="a.jsonl", skip_bad_rows=True)
    assert (len(rows), landed.count(LeftOutKind.BAD_ROW)) == (1, 3)


def test_a_field_that_occurs_late_is_found(land, monkeypatch):
    monkeypatch.setattr("evaluator.sources.files.json_lines._LINES_OF_HEAD", 1)
    lines = [
        json.dumps({"ts": T + k, "endpoint": "/", "response_time_ms": 1, **({"err": "x"} if k == 5 else {})})
        for k in range(9)
    ]
    assert sum(row[3] for row in land("\n".join(lines), "failed=err:text", name="a.jsonl")[1]) == 1
    with pytest.raises(InputError, match="no column 'eror'"):  # absence in the whole file is no success
        land("\n".join(lines), "failed=eror:text", name="a.jsonl")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[\n {"ts": 1},\n {"ts": 2}\n]\n', "not JSON lines: it is one list"),
        ('{\n "ts": 1\n}\n', "not JSON lines: no line is an object"),
        ('{"a.b": 1, "a": {"b": 2}}\n', "column 'a.b' appears twice"),
    ],
)
def test_json_of_another_form(land, text, problem):
    with pytest.raises(InputError, match=problem):
        land(text, name="a.json")


def test_columns_of_parquet_that_differ_only_in_case(land):
    row = {"ts": T, "endpoint": "/", "response_time_ms": 1.0, "failed": False, "Failed": True}
    with pytest.raises(InputError, match="the columns 'failed' and 'Failed', which differ only in case"):
        land(pa.Table.from_pylist([row]), name="a.parquet")
    row = {"ts": T, "endpoint": "/", "response_time_ms": 1.0, "s": {"X": 1, "f": True, "x": 2}}
    assert land(pa.Table.from_pylist([row]), "failed=s.f", name="b.parquet")[1][0][3]


def test_a_format_that_was_named_is_not_replaced_by_another(land):
    for name in ("locust", "csv", "jtl"):
        with pytest.raises(InputError, match=f"is not a file of format '{name}': it looks like a Parquet file"):
            land(pa.Table.from_pylist([ROW]), name="a.parquet", format=name)


def test_spaces_around_names_do_not_hide_the_unit(land):
    assert land(f" ts ,endpoint, response_time_ms,failed\n{T}000,/,1,no\n")[1][0][0] == T * 1000


@pytest.mark.parametrize(
    ("header", "row"),
    [
        pytest.param(",ts,endpoint,response_time_ms,failed", "0,{},/,2.5,no", id="index-of-pandas"),
        pytest.param("ts,endpoint,response_time_ms,failed,,", "{},/,2.5,no,,", id="empty-columns-of-a-spreadsheet"),
    ],
)
def test_columns_without_a_name_do_not_matter(land, header, row):
    text = f"{header}\n" + "".join(row.format(T + second) + "\n" for second in range(3))
    assert [values[:4] for values in land(text)[1]] == [((T + second) * 1000, "/", 2.5, False) for second in range(3)]
    # A bad row sends the file to the other reader, which must name them the same way.
    landed, rows = land(text + row.format(T).replace("no", "perhaps") + "\n", skip_bad_rows=True)
    assert (len(rows), sum(part.rows for part in landed.left_out)) == (6, 1)


def test_a_column_without_a_name_can_be_named(land):
    _, rows = land(f",ts,response_time_ms,failed\nGET /,{T},2.5,no\n", "endpoint=Unnamed: 0")
    assert rows[0][1] == "GET /"


# ------------------------------------------------------------------ missing columns

GUESSED = [
    pytest.param(
        "time,request_time,status,method,uri\n21/Sep/2026:14:13:20 +0000,0.0025,503,GET,/x\n",
        ("time", "method+uri", "request_time:s", "status:status"), id="nginx",
    ),
    pytest.param(
        "start;dauer;name;ok\n2026-09-21T14:13:20Z;2.5;GET /x;false\n",
        ("start", "name", "dauer:ms", "ok:success"), id="semicolons",
    ),
    pytest.param(
        "Datum,Uhrzeit,elapsed_us,route,is_error\n21.09.2026,14:13:20,2500,GET /x,true\n",
        ("Datum+Uhrzeit:%d.%m.%Y %H:%M:%S", "route", "elapsed_us:us", "is_error:failure"), id="two-columns",
    ),
    pytest.param(
        "startTime,label,responseTime,errorMessage\n1790000000000,GET /x,2.5,broken\n",
        ("startTime", "label", "responseTime:ms", "errorMessage:text"), id="camel",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "guessed"), GUESSED)
def test_one_error_names_all_missing_columns_and_options_that_read_the_file(land, text, guessed):
    with pytest.raises(InputError, match="has no column 'ts', 'endpoint', 'response_time_ms' and 'failed'") as raised:
        land(text)
    options = re.search(r"to read it: (.*?)( \(|$)", raised.value.hint)[1]
    columns = shlex.split(options)[1::2]
    assert columns == [
        f"{a}={b}" for a, b in zip(("ts", "endpoint", "response_time_ms", "failed"), guessed, strict=True)
    ]
    assert land(text, *columns)[1][0][:4] == (T * 1000, "GET /x", 2.5, True)


def test_what_the_file_does_not_show_is_left_to_the_user(land):
    with pytest.raises(InputError) as raised:
        land("when,value\nx,y\n", "ts=when")
    assert raised.value.message.endswith("has no column 'endpoint', 'response_time_ms' and 'failed'")
    assert "--column ts=when --column endpoint=const:all --column response_time_ms=COLUMN:ms" in raised.value.hint
    assert "failed=const:false (" in raised.value.hint
    assert "only if every request of the file succeeded" in raised.value.hint


def test_all_unknown_columns_are_named_at_once(land):
    text = f"ts,endpoint,response_time_ms,failed\n{T},/,1,false\n"
    with pytest.raises(InputError) as raised:
        land(text, "ts=tss", "failed=x+fialed", "instance=pod")
    assert (
        "no columns 'tss' (did you mean 'ts'?), 'x', 'fialed' (did you mean 'failed'?) and 'pod'"
        in raised.value.message
    )
    assert "--column ts=ts --column failed=failed:failure" in raised.value.hint
