"""Missing values of a foreign file are not guessed, and what cannot be read is named."""

import gzip
import json
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest

from evaluator.cli.import_files import describe_landed
from evaluator.errors import InputError
from evaluator.pipeline.importing import import_release
from evaluator.records import LeftOut, LeftOutKind, Release
from evaluator.sources.files import plan_landing
from evaluator.store.inspection import Inspection

T0 = 1_790_000_000_000


@pytest.fixture
def land(store, tmp_path):
    """Import contents as a file of the candidate; returns what landed and its requests by name and outcome."""

    def land_contents(contents, name="requests.csv", **options):
        path = tmp_path / name
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        landed = import_release(store, Release(name), plan_landing({"canary": [str(path)]}, **options))
        rows = store.data.query(
            "SELECT endpoint, failed, count(*) FROM requests WHERE run = ? GROUP BY ALL ORDER BY ALL", [landed.runs[0]]
        ).to_pylist()
        return landed, [tuple(row.values()) for row in rows]

    return land_contents


# ------------------------------------------------------------------ JMeter

HEADER = "timeStamp,elapsed,label,responseCode,responseMessage,threadName,success\n"
SAMPLES = [
    # Thread, start, time, label, success, and what belongs to it.
    ("t 1-1", 0, 40, "GET /cart", "false", [(0, 20, "true"), (20, 20, "false")]),
    ("t 1-2", 5, 30, "GET /", "true", [(5, 10, "true")]),
    ("t 1-1", 40, 10, "GET /", "true", []),
    ("t 1-1", 50, 9, "GET /-0", "false", []),  # a sample of its own: it begins when the one before has ended
]


def write_jtl():
    """Write samples as JMeter does: each before its parts, and threads as they come."""
    first = f"{T0},40,GET /cart,200,OK,t 1-1,false\n{T0 + 5},30,GET /,200,OK,t 1-2,true\n"
    parts = f"{T0},20,GET /cart-0,302,OK,t 1-1,true\n{T0 + 5},10,GET /-0,302,OK,t 1-2,true\n"
    later_lines = f"{T0 + 20},20,GET /cart-1,500,OK,t 1-1,false\n{T0 + 40},10,GET /,200,OK,t 1-1,true\n"
    return HEADER + first + parts + later_lines + f"{T0 + 50},9,GET /-0,200,OK,t 1-1,false\n"


def write_jtl_xml():
    def write(start, time, label, success, inside=""):
        return f'<httpSample ts="{T0 + start}" t="{time}" lb="{label}" s="{success}">{inside}</httpSample>'

    samples = [
        write(
            start, time, label, success, "".join(write(s, t, f"{label}-{k}", ok) for k, (s, t, ok) in enumerate(parts))
        )
        for _, start, time, label, success, parts in SAMPLES
    ]
    return "<testResults>" + "\n".join(samples) + "</testResults>"


@pytest.mark.parametrize("name", ["a.jtl", "a.jtl.gz", "a.xml"])
def test_csv_and_xml_of_one_run_give_the_same_requests(land, name):
    text = write_jtl_xml() if name.endswith("xml") else write_jtl()
    landed, rows = land(gzip.compress(text.encode()) if name.endswith("gz") else text, name)
    assert rows == [("GET /", False, 2), ("GET /-0", True, 1), ("GET /cart", True, 1)]
    assert landed.left_out == (LeftOut("canary", LeftOutKind.PART, 3, 1),)


@pytest.mark.parametrize("first", ["search-1", "search-0"])
def test_numbered_requests_of_threads_without_names_are_no_parts(land, first):
    # Without the names of threads, requests of other users lie within the time of one; JMeter's first part is -0.
    text = (
        f"timeStamp,elapsed,label,success\n{T0},90,search,true\n{T0 + 10},9,{first},false\n{T0 + 20},9,search-2,true\n"
    )
    landed, rows = land(text + f"{T0 + 900},9,search-0,true\n")
    assert len(rows) == (4 if first == "search-1" else 2)
    assert sum(part.rows for part in landed.left_out) == 4 - len(rows)


def test_a_statistical_row_is_refused(land):
    text = f"timeStamp,elapsed,label,success,SampleCount\n{T0},40,home,true,1\n{T0},40,home,true,25\n"
    with pytest.raises(InputError, match=r":3: column 'SampleCount' has the value '25', so the row sums up several"):
        land(text)
    with pytest.raises(InputError, match=r":1: column 'SampleCount' has the value '25', so the row sums up several"):
        land(f'<testResults><sample ts="{T0}" t="4" s="true" lb="a" sc="25"/></testResults>', "a.xml")


MESSAGE = '"Number of samples in transaction : 1, number of failing samples : 0"'
TRANSACTIONS = HEADER + "".join(f"{T0 + k},40,buy,200,{MESSAGE},t 1-1,{'true' if k else 'false'}\n" for k in range(9))


def test_transactions_are_known_without_a_type_of_data(land):
    landed, rows = land(TRANSACTIONS + f"{T0},40,home,200,OK,t 1-1,true\n")
    assert rows == [("home", False, 1)]
    assert landed.left_out == (LeftOut("canary", LeftOutKind.SUMMARY, 9, 1),)


@pytest.mark.parametrize("name", ["a.jtl", "a.xml"])
def test_transactions_alone_can_be_judged_where_the_format_is_given(land, name):
    text = TRANSACTIONS
    if name == "a.xml":
        samples = "".join(
            f'<sample ts="{T0 + k}" t="4" s="{"true" if k else "false"}" lb="buy" rm={MESSAGE}/>' for k in range(9)
        )
        text = f"<testResults>{samples}</testResults>"
    with pytest.raises(InputError, match="all 9 rows sum up other rows") as caught:
        land(text, name)
    assert "--format jtl-transactions" in caught.value.hint
    assert land(text, name, format="jtl-transactions")[1] == [("buy", False, 8), ("buy", True, 1)]


def test_with_transactions_their_samples_are_parts(land):
    text = TRANSACTIONS + f"{T0},40,home,500,no,t 1-1,false\n"
    landed, _ = land(text, format="jtl-transactions")
    assert (landed.rows, landed.left_out) == (9, (LeftOut("canary", LeftOutKind.PART, 1, 1),))


def test_transactions_need_their_message(land):
    with pytest.raises(InputError, match="no column 'responseMessage', by which transactions are recognised"):
        land(f"timeStamp,elapsed,label,success\n{T0},40,buy,true\n", format="jtl-transactions")


@pytest.mark.parametrize(
    "character",
    ["&#x0;", "&#0;", "&#x1F;", "&#xFFFE;", pytest.param(f"&#{'9' * 5000};", id="huge"), "\x00", "\x08", "\x1b"],
)
@pytest.mark.parametrize("place", [0, (1 << 20) - 3])
def test_characters_that_xml_does_not_allow_stop_nothing(land, character, place):
    """Also where a chunk of the file ends within one."""
    before = f'<testResults><httpSample ts="{T0}" t="4" s="false" lb="home"><responseData>'
    text = f"{before}{'x' * (place - len(before))}{character}</responseData></httpSample></testResults>"
    assert land(text, "a.xml")[1] == [("home", True, 1)]


def test_an_answer_in_another_encoding_stops_nothing(land):
    text = f'<?xml version="1.0" encoding="ISO-8859-1"?><testResults><sample ts="{T0}" t="4" s="true" lb="caf\xe9"/>'
    assert land((text + "</testResults>").encode("latin-1"), "a.xml")[1] == [("café", False, 1)]
    raw = f'<testResults><sample ts="{T0}" t="4" s="true" lb="a"><responseData>'.encode() + b"\xff\xd8\xff"
    assert land(raw + b"</responseData></sample></testResults>", "b.xml")[1] == [("a", False, 1)]


XML = f'<testResults>\n<sample ts="{T0}" t="4" s="true" lb="a"/>\n</testResults>\n'


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        pytest.param(XML[:-16], "a test that was killed", id="killed"),
        pytest.param(XML[:-30], "a test that was killed", id="killed-in-a-sample"),
        pytest.param(XML + XML, "several runs were written into one file", id="two-runs"),
        pytest.param(XML + '<?xml version="1.0"?>' + XML, "several runs were written into one file", id="two-heads"),
        pytest.param(XML.replace("</test", "</sample></test"), "lines are missing", id="mismatch"),
        pytest.param(XML.replace('lb="a"', 'lb="a&b"'), "was the file edited", id="ampersand"),
        pytest.param(XML.replace('lb="a"', 'lb="&nbsp;"'), "write others as characters", id="entity"),
        pytest.param('<?xml version="1.0" encoding="klingon"?>' + XML, "JMeter writes UTF-8", id="encoding"),
        pytest.param('<?xml version="1.0" encoding="hex"?>' + XML, "JMeter writes UTF-8", id="no-encoding-of-text"),
        pytest.param('<?xml version="1.0" encoding="idna"?>' + XML, "JMeter writes UTF-8", id="encoding-of-names"),
    ],
)
def test_each_fault_of_xml_has_a_hint_of_its_own(land, text, hint):
    with pytest.raises(InputError, match=r"a\.xml:\d+: ") as caught:
        land(text, "a.xml")
    assert hint in caught.value.hint


def test_elements_that_are_no_samples_are_named(land):
    text = XML.replace("</test", "<com.example.Page><success>false</success></com.example.Page><note/></test")
    landed, _ = land(text, "a.xml")
    assert set(landed.left_out) == {
        LeftOut("canary", LeftOutKind.OTHER_KIND, 1, 1, "com.example.Page"),
        LeftOut("canary", LeftOutKind.OTHER_KIND, 1, 0, "note"),
    }


# ------------------------------------------------------------------ k6 and Locust


def point(metric="http_req_duration", value=3.5, **tags):
    data = {"time": "2026-10-01T12:00:00Z", "value": value, "tags": {"method": "GET", "name": "/", **tags}}
    return json.dumps({"metric": metric, "type": "Point", "data": data}) + "\n"


def test_points_that_do_not_show_failure_are_refused(land):
    with pytest.raises(InputError, match=r"k\.json:1: .* so it is not known whether the request failed \(k6 writes"):
        land(point() * 3, "k.json")
    with pytest.raises(InputError, match="has no request that can be used; its 3 rows are 3 bad rows"):
        land(point() * 3, "k.json", skip_bad_rows=True)
    with pytest.raises(InputError, match=r"k\.csv has no column 'status' or 'expected_response', so it is not known"):
        land("metric_name,timestamp,metric_value,method,name\nhttp_req_duration,1790000000,3,GET,/\n", "k.csv")


def test_one_tag_that_shows_failure_is_enough(land):
    assert land(point(expected_response="true") + point(status="503"), "k.json")[1] == [
        ("GET /", False, 1),
        ("GET /", True, 1),
    ]
    text = (
        "metric_name,timestamp,metric_value,expected_response,method,name\nhttp_req_duration,1790000000,3,false,GET,a\n"
    )
    assert land(text, "k.csv")[1] == [("GET a", True, 1)]


def test_other_metrics_of_k6_are_named(land):
    others = point("grpc_req_duration", status="14") + point("checks", 0) + point("checks", 1) + point("my_trend", 7)
    landed, rows = land(point(status="200") + point("http_req_waiting") + others, "k.json")
    assert rows == [("GET /", False, 1)]
    assert set(landed.left_out) == {
        LeftOut("canary", LeftOutKind.OTHER_KIND, 1, 1, "grpc_req_duration"),
        LeftOut("canary", LeftOutKind.OTHER_KIND, 1, 1, "checks"),
        LeftOut("canary", LeftOutKind.OTHER_KIND, 1, 0, "my_trend"),
    }


def test_an_import_reports_what_it_left_out(land):
    others = point("grpc_req_duration", status="14") * 2 + point("dropped_iterations", 1) + point()
    landed, _ = land(point(status="200") + others, "k.json", skip_bad_rows=True)
    assert describe_landed("cart@2", landed) == (
        "cart@2: 1 request from 1 file in 1 run; left out: 2 of kind grpc_req_duration (2 failed), 1 bad row,"
        " 1 of kind dropped_iterations (1 failed)"
    )


def test_the_error_for_a_file_without_requests_over_http_names_what_it_has(land):
    with pytest.raises(InputError, match="its 2 rows are 2 of kind grpc_req_duration") as caught:
        land(point("grpc_req_duration", status="0") * 2, "k.json")
    assert "http_req_duration" in caught.value.hint


def test_many_names_are_not_all_listed(land):
    landed, _ = land(point(status="200") + "".join(point(f"metric_{k}") for k in range(200)), "k.json")
    assert len(landed.left_out) == 21
    assert sum(part.rows for part in landed.left_out) == 200


def test_a_point_without_a_metric_is_a_bad_row(land):
    text = "metric_name,timestamp,metric_value,status,method,name\n,1790000000,3,200,GET,a\n"
    with pytest.raises(InputError, match=r":2: column 'metric_name' has no value, so it is not known what the row is"):
        land(text, "k.csv")


LOCUST = "timestamp,request_type,name,response_time_ms,response_length,status_code,exception\n"


def test_an_empty_exception_is_no_success_where_the_status_is_an_error(land):
    text = LOCUST + "".join(f"1790000000,{method},/,5,1,{status},\n" for method, status in [("GET", 500), ("POST", 0)])
    _, rows = land(text + "1790000000,GET,/,5,1,200,\n1790000000,WSS,/,5,1,0,\n")
    assert rows == [("GET /", False, 1), ("GET /", True, 1), ("POST /", True, 1), ("WSS /", False, 1)]
    with pytest.raises(InputError, match="so it is not known whether the request failed"):
        land(LOCUST + "1790000000,GET,/,5,1,,\n", "none.csv")


# ------------------------------------------------------------------ values

TABLE = "ts,endpoint,response_time_ms,failed\n"


@pytest.mark.parametrize(
    ("unit", "spelt"),
    [
        (
            "status",
            {"200 OK": False, "503 Service Unavailable": True, "0": True, "404.0": True, "HTTP/1.1 301 x": False},
        ),
        ("failure", {"TRUE": True, "yes": True, "t": True, "1.0": True, "N": False, " off ": False, "0": False}),
    ],
)
def test_spellings_of_failure(land, unit, spelt):
    text = "ts,endpoint,response_time_ms,x\n" + "".join(f"1790000000,{k},5,{word}\n" for k, word in enumerate(spelt))
    _, rows = land(text, columns=[f"failed=x:{unit}"])
    assert [failed for _, failed, _ in rows] == list(spelt.values())


@pytest.mark.parametrize("status", ["OK", "", "16", "-1", "none"])
def test_what_is_no_status_is_a_bad_row(land, status):
    text = f"ts,endpoint,response_time_ms,x,y\n1790000000,a,5,{status},1\n"
    with pytest.raises(InputError, match=r"column 'x' has .*(is not known|does not show) whether the request failed"):
        land(text, columns=["failed=x:status"])


def test_a_status_corrects_an_empty_text(land):
    text = "ts,endpoint,response_time_ms,error,status_code\n1790000000,a,5,,500\n1790000000,a,5,,200\n"
    assert land(text, columns=["failed=error:text"])[1] == [("a", False, 1), ("a", True, 1)]


@pytest.mark.parametrize("nothing", ["None", "null", "NaN", "n/a", "-"])
def test_a_word_for_nothing_is_no_text(land, nothing):
    # str(None) with every success: taken for failures, all requests of both arms would have failed.
    rows = f"1790000000,a,5,{nothing}\n1790000000,b,5,broken: {nothing}\n"
    text = f"ts,endpoint,response_time_ms,error\n{rows}"
    assert land(text, columns=["failed=error:text"])[1] == [("a", False, 1), ("b", True, 1)]
    locust = "timestamp,request_type,name,response_time_ms,response_length,status_code,exception\n"
    locust += f"1790000000,GET,a,5,5,200,{nothing}\n1790000000,GET,b,5,5,500,{nothing}\n1790000000,WSS,c,5,5,0,x\n"
    assert [failed for _, failed, _ in land(locust)[1]] == [False, True, True]


@pytest.mark.parametrize("value", ['"12,5"', '"1,234"', "1'234"])
def test_a_number_as_people_write_it_is_refused_with_a_hint(land, value):
    with pytest.raises(InputError, match="write numbers with a decimal point and no separator of thousands"):
        land(TABLE + f"1790000000,a,{value},false\n")


def test_a_name_of_several_lines_is_a_quote_that_is_missing(land):
    good = "1790000000,a,5,false\n"
    with pytest.raises(InputError, match=r":3: column 'endpoint' has .*a quote before it is not closed"):
        land(TABLE + good + '1790000000,"a,5,false\n' + good + '1790000000,b",5,false\n')


# ------------------------------------------------------------------ times


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize(
    "stray",
    [
        pytest.param("0", id="nothing"),
        pytest.param("86400.25", id="uptime"),
        pytest.param("1790000.0", id="seconds-among-milliseconds"),
        pytest.param("1600000000", id="a-clock-that-jumps"),
    ],
)
def test_stray_times_are_bad_rows_on_both_ways(land, name, stray):
    text = TABLE + f"1790000000,a,5,false\n{stray},a,5,true\n1790000001,a,5,false\n"
    contents = gzip.compress(text.encode()) if name.endswith("gz") else text
    with pytest.raises(InputError, match=rf":3: column 'ts' has the value '{stray}', a year or more .* 2026-09-21"):
        land(contents, name)
    landed, rows = land(contents, name, skip_bad_rows=True)
    assert rows == [("a", False, 2)]
    assert landed.left_out == (LeftOut("canary", LeftOutKind.BAD_ROW, 1, 1),)


def test_of_times_of_1970_among_real_ones_the_real_ones_are_right(land):
    """Also where most requests failed, and failures have no time."""
    text = TABLE + "0,a,5,true\n" * 9 + "1790000001,a,5,false\n"
    landed, _ = land(text, skip_bad_rows=True)
    assert landed.left_out == (LeftOut("canary", LeftOutKind.BAD_ROW, 9, 9),)


def test_times_that_all_count_from_the_start_of_a_test_are_taken(land):
    assert land(TABLE + "0,a,5,false\n86400,a,5,true\n")[0].rows == 2


@pytest.mark.parametrize(("hours", "lands"), [(0.5, True), (0.9, True), (1.1, False), (2, False)])
def test_a_clock_may_be_ahead_by_an_hour(land, hours, lands):
    text = TABLE + f"{(datetime.now(UTC) + timedelta(hours=hours)).timestamp()},a,5,false\n"
    if lands:
        assert land(text)[0].rows == 1
    else:
        with pytest.raises(InputError, match=r"column 'ts' has .* a time in the future"):
            land(text)


@pytest.mark.parametrize(("hours", "lands"), [(14, True), (14.9, True), (15.1, False), (16, False)])
def test_a_time_of_day_may_be_that_of_any_country(land, hours, lands):
    text = TABLE + f"{datetime.now(UTC) + timedelta(hours=hours):%Y-%m-%d %H:%M:%S},a,5,false\n"
    if lands:
        assert land(text)[0].rows == 1
    else:
        with pytest.raises(InputError, match="a time in the future"):
            land(text)


# ------------------------------------------------------------------ files that cannot be read

ROWS = TABLE + "".join(f"{1_790_000_000 + k},GET /{k % 50},{k % 9 + 1},false\n" for k in range(5000))
PACKED = gzip.compress(ROWS.encode())


def flip(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", ["a.csv.gz", "a.xml.gz", "a.json.gz"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut"),
        pytest.param(lambda data: data[:12], id="cut-at-the-top"),
        pytest.param(lambda data: flip(data, len(data) // 2), id="damaged"),
        pytest.param(lambda data: flip(data, 20), id="damaged-at-the-top"),
        pytest.param(lambda data: flip(data, len(data) - 6), id="another-checksum"),
    ],
)
def test_compressed_files_are_whole_or_refused(land, name, damage, skip):
    texts = {"a.csv.gz": ROWS, "a.json.gz": point(status="200") * 3000}
    texts["a.xml.gz"] = XML.replace("\n</test", f'\n<sample ts="{T0}" t="4" s="true" lb="a"/>' * 3000 + "\n</test")
    with pytest.raises(InputError) as caught:
        land(damage(gzip.compress(texts[name].encode())), name, skip_bad_rows=skip)
    assert "is cut short or damaged" in caught.value.message or "not UTF-8" in caught.value.message


def test_a_name_decides_nothing(land):
    """Files are recognised by their bytes: plain text under the name of a packed file, and a packed one under any."""
    plain, _ = land(ROWS, "a.csv.gz")
    packed, _ = land(gzip.compress(ROWS.encode()), "b.csv")
    assert plain.rows == packed.rows == 5000


@pytest.mark.parametrize("skip", [False, True])
def test_rows_after_a_quote_that_is_not_closed_are_not_lost_in_silence(land, skip):
    with pytest.raises(
        InputError, match=r":5002: a quote is opened and never closed.* the end of its row cannot be found"
    ):
        land(ROWS + '1790000000,"GET /,3,false\n' + ROWS[len(TABLE) :], skip_bad_rows=skip)


def test_rows_within_a_quote_that_is_not_closed_count(land):
    good = "".join(f"{1_790_000_000 + k},GET /,{k + 1},false\n" for k in range(5))
    stray = '1790000000,"GET /,3,true\n'
    landed, _ = land(TABLE + good + stray + good + stray + good, skip_bad_rows=True)
    assert (landed.rows, landed.count(LeftOutKind.BAD_ROW)) == (10, 7)


def test_what_duckdb_advises_about_its_own_options_is_not_passed_on(land):
    with pytest.raises(InputError) as caught:
        land(point(status="200") + '{"metric":"' + "x" * (15 << 20) + '",' + " " * (15 << 20) + '"a":1}\n', "k.json")
    assert "maximum_object_size" not in caught.value.message
    with pytest.raises(InputError) as caught:
        land(TABLE + '1790000000,"a"b,5,false\n')
    assert "strict_mode" not in caught.value.message


@pytest.mark.parametrize("name", ["a.csv.gz", "a.json.gz", "a.xml.gz"])
def test_a_line_without_end_is_refused_and_not_held(tmp_path, land, name):
    start = {"a.csv.gz": TABLE + "1790000000,", "a.json.gz": point(status="200") + '{"metric":"'}.get(
        name, '<testResults><sample lb="'
    )
    path = tmp_path / name
    with gzip.open(path, "wb", 1) as file:
        file.write(start.encode())
        for _ in range(80):
            file.write(b"x" * 1_000_000)
    tracemalloc.start()
    with pytest.raises(InputError, match="longer than") as caught:
        land(path.read_bytes(), name, skip_bad_rows=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "MB" in caught.value.message or "characters" in caught.value.message
    assert peak < 40_000_000


def test_a_line_without_end_is_seen_also_where_it_ends(tmp_path):
    """DuckDB passes over a line that is longer than its buffer."""
    path = tmp_path / "a.csv"
    path.write_text(ROWS + "1790000000," + "x" * (20 << 20) + ",3,true\n" + ROWS[len(TABLE) :])
    [file] = plan_landing({"canary": [str(path)]}).files
    with Inspection([file]) as inspection, pytest.raises(InputError, match="has a line that is longer than 16 MB"):
        inspection.read(file)


@pytest.mark.parametrize("name", ["requests.csv", "requests.csv.gz"])
def test_large_counts_are_kept(store, land, name):
    """Plain files are read in one pass, compressed ones by SQL: 32,767 and 2,147,483,647 are the limits of types."""
    header = "timeStamp,elapsed,label,responseCode,responseMessage,threadName,success,bytes,allThreads\n"
    rows = "".join(f"{T0 + k},40,GET /,200,OK,t 1-{k},true,3000000000,40000\n" for k in range(50))
    text = (header + rows).encode()
    land(gzip.compress(text) if name.endswith("gz") else text, name)
    [row] = store.data.query("SELECT DISTINCT user_count, response_bytes, status_code FROM requests").to_pylist()
    assert row == {"user_count": 40_000, "response_bytes": 3_000_000_000, "status_code": 200}
