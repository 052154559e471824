"""Files of JMeter (XML) and k6 land like those of other tools."""

import gzip
import json

import pytest

from evaluator.errors import InputError
from evaluator.pipeline.importing import import_release
from evaluator.records import LeftOutKind, Release
from evaluator.sources.files import plan_landing

XML = """<?xml version="1.0" encoding="UTF-8"?>
<testResults version="1.2">
<httpSample t="12" ts="1777968000000" s="true" lb="GET /a" rc="200" rm="OK" by="300" na="5" dt="text">
  <httpSample t="3" ts="1777968000001" s="true" lb="GET /a-redirect" rc="302" rm="" by="1" na="1"/>
</httpSample>
<sample t="30" ts="1777968001000" s="false" lb="buy" rc="" rm="Number of samples in transaction : 2, of x" na="5">
  <httpSample t="10" ts="1777968001000" s="true" lb="GET /cart" rc="200" rm="OK" by="7" na="5"/>
  <httpSample t="20" ts="1777968001010" s="false" lb="POST /pay" rc="200" rm="OK" by="8" na="5">
    <assertionResult><failure>true</failure><failureMessage>expected &lt;paid&gt;</failureMessage></assertionResult>
  </httpSample>
</sample>
<sample t="4" ts="1777968002000" s="false" lb="tcp" rc="Non HTTP response code: Timeout" rm="Read timed out" na="5"/>
</testResults>
"""


def point(time, value, *, metric="http_req_duration", **tags):
    usual = {"method": "GET", "name": "http://h:8080/a?x=1", "status": "200", "expected_response": "true"}
    data = {"time": time, "value": value, "tags": {**usual, **tags}}
    return json.dumps({"metric": metric, "type": "Point", "data": data})


K6 = "\n".join(
    [
        json.dumps({"type": "Metric", "data": {"name": "http_req_duration"}, "metric": "http_req_duration"}),
        point("2026-05-05T10:00:01+02:00", 1, metric="http_reqs"),
        point("2026-05-05T10:00:01.123456789+02:00", 123.456),
        point("2026-05-05T08:00:02Z", 20, name="login", method="POST", status="404"),
        point("2026-05-05T08:00:03Z", 30, status="503", expected_response="false", error="boom"),
        point("2026-05-05T08:00:04Z", 0, name="http://h:8080", status="0", expected_response="false"),
    ]
)
K6_CSV = (
    "metric_name,timestamp,metric_value,check,error,error_code,expected_response,group,method,name,proto,scenario,"
    "service,status,subproto,tls_version,url,extra_tags,metadata\n"
    "http_reqs,1777968001,1,,,,true,,GET,http://h/a,HTTP/1.1,d,,200,,,http://h/a,,\n"
    "http_req_duration,1777968001,250,,,,true,,GET,http://h/a,HTTP/1.1,d,,200,,,http://h/a,,\n"
    "http_req_duration,1777968002,40,,,,,,GET,,HTTP/1.1,d,,500,,,https://h/b?c#d,,\n"
)
COLUMNS = "endpoint, response_time_ms, failed, status_code, exception, response_bytes, user_count, epoch_us(ts) AS us"


@pytest.fixture
def land(store, tmp_path):
    """Import texts as files of the baseline and return the rows in their order of time."""

    def land_text(text, name, **options):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        landed = import_release(store, Release("r"), plan_landing({"baseline": [str(path)]}, **options))
        rows = store.data.query(f"SELECT {COLUMNS} FROM requests ORDER BY ts").to_pylist()
        return landed, [tuple(row.values()) for row in rows]

    return land_text


@pytest.mark.parametrize("name", ["results.jtl", "results.xml.gz"])
def test_jmeter_xml(land, name):
    landed, rows = land(XML, name)
    assert rows == [
        ("GET /a", 12, False, 200, None, 300, 5, 1777968000000000),
        ("GET /cart", 10, False, 200, None, 7, 5, 1777968001000000),
        ("POST /pay", 20, True, 200, "expected <paid>", 8, 5, 1777968001010000),
        ("tcp", 4, True, None, "Read timed out", None, 5, 1777968002000000),
    ]
    assert (landed.rows, landed.count(LeftOutKind.SUMMARY)) == (4, 1)


def test_k6_json(land):
    _, rows = land(K6, "k6.json")
    assert rows == [
        ("GET /a", 123.456, False, 200, None, None, None, 1777968001000000),
        ("POST login", 20, False, 404, None, None, None, 1777968001980000),
        ("GET /a", 30, True, 503, "boom", None, None, 1777968002970000),
        ("GET /", 0, True, None, None, None, None, 1777968004000000),
    ]


def test_k6_json_compressed(land):
    assert land(K6, "k6.json.gz")[0].rows == 4


def test_k6_csv(land):
    _, rows = land(K6_CSV, "k6.csv")
    assert rows == [
        ("GET /a", 250, False, 200, None, None, None, 1777968000750000),
        ("GET /b", 40, True, 500, None, None, None, 1777968001960000),
    ]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        pytest.param(
            "a.jtl", XML.replace('t="10"', 't="ten"'), "a.jtl:7: column 'elapsed' has the value 'ten'", id="t"
        ),
        pytest.param("a.jtl", XML.replace('ts="1777968002000"', ""), "a.jtl:12: column 'timeStamp' has no", id="ts"),
        pytest.param("a.jtl", XML[:600], r"a.jtl:\d+: the XML is broken", id="cut"),
        pytest.param("k.json", K6.replace(": 20,", ': "x",'), "k.json:4: column 'value' has the value 'x'", id="value"),
        pytest.param("k.json", K6 + '\n{"metric":"http', "k.json:7: the line is not a point of k6", id="killed"),
        pytest.param("k.csv", K6_CSV.replace("2,40", "2,slow"), "k.csv:4: column 'metric_value' has the", id="csv"),
    ],
)
def test_bad_rows_are_named_and_skipped_on_demand(land, name, text, says):
    with pytest.raises(InputError, match=says):
        land(text, name)
    if "broken" not in says:
        assert land(text, name, skip_bad_rows=True)[0].count(LeftOutKind.BAD_ROW) == 1


def test_entities_are_never_expanded(land):
    text = '<?xml version="1.0"?>\n<!DOCTYPE t [<!ENTITY a "aaaa">]>\n<testResults>&a;</testResults>'
    with pytest.raises(InputError, match=r"results\.xml:2: a document type is not allowed"):
        land(text, "results.xml")


def test_other_xml_and_json(land):
    with pytest.raises(InputError, match="is a summary of k6, which cannot be imported"):
        land('{"metrics": {"http_reqs": 1}}', "summary.json")
    with pytest.raises(InputError, match="is XML, but not a result file of JMeter"):
        land("<html></html>", "page.xml")
