"""Lines as the documentation of routers shows them, and those of users: which layout, and what a line says."""

import json
import re
from pathlib import Path

import pytest
from log_lines import is_other, others_in_duckdb, read_in_duckdb, read_line

from evaluator.errors import InputError, UnknownName
from evaluator.sources.access_logs import FORMATS, find_layout
from evaluator.sources.access_logs.apache import ADVICE as ADVICE_FOR_APACHE
from evaluator.sources.access_logs.envoy import ADVICE as ADVICE_FOR_ENVOY
from evaluator.sources.access_logs.json_lines import CADDY as FORMAT_OF_CADDY
from evaluator.sources.access_logs.nginx import ADVICE as ADVICE_FOR_NGINX
from evaluator.sources.access_logs.traefik import ADVICE as ADVICE_FOR_TRAEFIK

HTTP = (
    "10.0.0.9:33312 [29/Nov/2026:21:00:00.123] shop~ cart/c1 0/0/30/69/109 200 2750 - - ---- 1/1/1/1/0 0/0 "
    '{1wt.eu|curl} {} "GET /cart/17?token=t HTTP/1.1"'
)
SYSLOG = "Nov 29 21:00:00 lb1 haproxy[1423]: "
TIMED = '10.0.0.9 - ann [29/Nov/2026:21:00:00 +0000] "GET /cart/17?token=t HTTP/1.1" 200 120 "-" "curl/8"'
NGINX = f"{TIMED} 0.012 10.1.0.1:80, 10.1.0.2:80 502, 200 0.002, 0.010"
ENVOY = (
    '[2026-11-29T21:00:00.310Z] "POST /api/v1/locations?token=t HTTP/2" 204 - 154 0 226 100 "10.0.35.28" "nsq2http" '
    '"cc21d9b0-cf5c-432b-8c7e-98aeb7988cd2" "locations" "10.1.0.2:80"'
)
ISTIO = (
    '[2026-11-29T21:00:00.310Z] "GET /status/418 HTTP/1.1" 503 UF,URX upstream_reset_before_response_started{{conn}} - '
    '"delayed connect error: 111" 0 135 3 - "-" "curl/7.73.0-DEV" "84961386-6d84-929d-98bd-c5aee93b5c88" '
    '"httpbin:8000" "10.44.1.27:80" outbound|80||httpbin 10.44.1.23:37652 10.0.45.184:8000 10.44.1.23:46520 - default'
)
TRAEFIK = (
    '10.0.0.9 - ann [29/Nov/2026:21:00:00 +0000] "GET /cart/17?token=t HTTP/1.1" 200 120 "-" "a \\"b\\"" 42 '
    '"cart@docker" "http://10.1.0.2:80" 12ms'
)
CADDY = json.dumps(
    {
        "level": "info", "ts": 1795987478.815, "logger": "http.log.access", "msg": "handled request",
        "request": {"method": "GET", "uri": "/cart/17?token=t", "headers": {"Authorization": ["REDACTED"]}},
        "duration": 0.000929675, "size": 10900, "status": 200, "resp_headers": {"Server": ["Caddy"]},
        "upstream": "10.1.0.2:80",
    }
)  # fmt: skip
TRAEFIK_JSON = json.dumps(
    {
        "ClientAddr": "10.0.0.9:1", "DownstreamContentSize": 9, "DownstreamStatus": 200, "Duration": 12000000,
        "RequestMethod": "GET", "RequestPath": "/cart/17?token=t", "RetryAttempts": 1, "ServiceAddr": "10.1.0.2:80",
        "ServiceName": "cart@docker", "StartUTC": "2026-11-29T21:00:00.123456789Z", "level": "info", "msg": "",
        "time": "2026-11-29T21:00:00Z",
    }
)  # fmt: skip
ISTIO_JSON = json.dumps(
    {
        "start_time": "2026-11-29T21:00:00.310Z", "method": "GET", "path": "/cart/17?token=t", "response_code": 200,
        "response_flags": "-", "bytes_sent": 9, "duration": 12, "upstream_host": "10.1.0.2:80",
        "upstream_cluster": "outbound|80||cart",
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("line", "format_name", "expected"),
    [
        (HTTP, "haproxy", {"server": "c1", "backend": "cart", "time": "109", "termination": "--", "retries": "0"}),
        (
            NGINX,
            "nginx",
            {"attempt_servers": "10.1.0.1:80, 10.1.0.2:80", "attempt_statuses": "502, 200", "time": "0.012"},
        ),
        (ENVOY, "envoy", {"server": "10.1.0.2:80", "time": "226", "termination": "-", "target": "/api/v1/locations"}),
        (ISTIO, "envoy", {"server": "10.44.1.27:80", "time": "3", "termination": "UF,URX", "status": "503"}),
        (TRAEFIK, "traefik", {"server": "http://10.1.0.2:80", "backend": "cart@docker", "time": "12"}),
        (CADDY, "caddy", {"server": "10.1.0.2:80", "time": "0.000929675", "ended": "1795987478.815"}),
        (TRAEFIK_JSON, "traefik", {"server": "10.1.0.2:80", "time": "12000000", "retries": "1"}),
        (ISTIO_JSON, "envoy", {"server": "10.1.0.2:80", "time": "12", "termination": "-"}),
    ],
)
def test_formats_of_documentation(line, format_name, expected):
    layout = find_layout([line] * 3, "access.log")
    row = read_line(layout, line)
    assert layout.format == format_name
    assert {column: row[column] for column in expected} == expected
    if layout.reader == "text":
        assert read_in_duckdb(layout, [line]) == [row]
        assert "token" not in row["target"]
    named = find_layout([line], "access.log", format=format_name)
    assert named.fields == layout.fields


def test_lines_of_json_may_differ_in_their_keys():
    without_server = json.loads(TRAEFIK_JSON)
    for key in ("ServiceAddr", "ServiceName", "RetryAttempts"):
        del without_server[key]
    lines = [json.dumps(without_server | {"DownstreamStatus": 404}), TRAEFIK_JSON]
    layout = find_layout(lines, "access.log")
    assert [read_line(layout, line)["server"] for line in lines] == ["", "10.1.0.2:80"]
    without_server = json.dumps({key: value for key, value in json.loads(CADDY).items() if key != "upstream"})
    for lines in ([without_server, CADDY], [CADDY, without_server]):
        assert len(find_layout(lines, "access.log").fields) == len(find_layout([CADDY], "access.log").fields)
    by_others = {"time_local": "2026-11-29T21:00:00+00:00", "request": "GET /a HTTP/1.1", "status": "200"}
    by_others |= {"request_time": "0.012", "upstream_addr": "10.1.0.2:80", "upstream_status": "200"}
    layout = find_layout([json.dumps(by_others)], "access.log")
    assert next(field.unit for field in layout.fields if field.column == "ended") == "iso"
    gateway = {**json.loads(ISTIO_JSON), "x-envoy-origin-path": "/cart", "upstream_host": None}
    del gateway["path"]
    layout = find_layout([json.dumps(gateway), ISTIO_JSON.replace("path", "x-envoy-origin-path")], "access.log")
    assert read_line(layout, json.dumps(gateway))["target"] == "/cart"


def test_connections_of_tcp_in_a_log_of_envoy_are_no_requests():
    session = '[2026-11-29T21:00:00.310Z] "- - -" 0 - 901 4875 623 - "-" "-" "-" "-" "10.1.0.2:443"'
    layout = find_layout([ENVOY, session, ENVOY], "access.log")
    assert read_line(layout, session) is None
    assert is_other(layout, session)


def test_units_of_times():
    units = {}
    for line in (HTTP, NGINX, ENVOY, TRAEFIK, CADDY, TRAEFIK_JSON):
        layout = find_layout([line], "access.log")
        when = next(field for field in layout.fields if field.column in {"started", "ended"})
        units[layout.format, layout.reader] = (
            when.column, when.unit, next(field.unit for field in layout.fields if field.column == "time")
        )  # fmt: skip
    clf = "%d/%b/%Y:%H:%M:%S %z"
    assert units == {
        ("haproxy", "text"): ("started", "%d/%b/%Y:%H:%M:%S.%f", "ms"),
        ("nginx", "text"): ("ended", clf, "s"),
        ("envoy", "text"): ("started", "iso", "ms"),
        ("traefik", "text"): ("started", clf, "ms"),
        ("caddy", "json"): ("ended", "s", "s"),
        ("traefik", "json"): ("started", "iso", "ns"),
    }


WRAPPED = {
    "syslog": SYSLOG + HTTP,
    "syslog without a host": "<134>Nov  9 21:00:00 haproxy[1423]: " + HTTP,
    "rsyslog": "2026-11-29T21:00:00.123456+00:00 lb1 haproxy[1423]: " + HTTP,
    "RFC 5424": '<134>1 2026-11-29T21:00:00Z lb1 haproxy 1423 - [x y="1"] ' + HTTP,
    "a priority": "<134>" + HTTP,
    "the name of the program": "haproxy[1423]: " + HTTP,
    "docker compose with times": "haproxy-1         | 2026-11-29T21:00:00.123456789Z " + HTTP,
    "Kubernetes": "2026-11-29T21:00:00.123456789Z stdout F " + HTTP,
    "docker compose": "haproxy-1  | " + HTTP,
    "docker logs -t": "2026-11-29T21:00:00.123456789Z " + HTTP,
    "kubectl --prefix": "[pod/lb-7c9/haproxy] " + HTTP,
    "Docker": json.dumps({"log": HTTP + "\n", "stream": "stdout", "time": "2026-11-29T21:00:00.1Z"}),
    "Filebeat": json.dumps({"@timestamp": "2026-11-29T21:00:00.1Z", "message": SYSLOG + HTTP}),
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_what_collectors_put_around_a_line_is_taken_off(wrapping):
    line = WRAPPED[wrapping]
    layout = find_layout([line] * 3, "access.log")
    assert read_line(layout, line)["server"] == "c1"
    assert read_line(layout, line)["started"] == "29/Nov/2026:21:00:00.123"
    if not layout.wrapped_in:
        assert read_in_duckdb(layout, [line]) == [read_line(layout, line)]


def test_json_after_a_prefix():
    line = f"Nov 29 21:00:00 web caddy[9]: {CADDY}"
    layout = find_layout([line], "access.log")
    assert (layout.reader, layout.groups) == ("json", ("json",))
    assert read_line(layout, line)["server"] == "10.1.0.2:80"
    in_docker = json.dumps({"log": CADDY + "\n", "stream": "stderr"})
    assert read_line(find_layout([in_docker], "x"), in_docker)["status"] == "200"


NOTICES = [
    'Server cart/c1 is DOWN, reason: Layer4 connection problem, info: "Connection refused", check duration: 0ms.',
    "backend cart has no server available!",
    "Proxy cart started.",
    "Connect from 127.0.0.1:1 to 127.0.0.1:2 (shop/HTTP)",
    "10.0.0.9:33312 [29/Nov/2026:21:00:00.123] shop/1: SSL handshake failure",
    "10.0.0.9:33313 [29/Nov/2026:21:00:00.123] db db/d1 0/0/5007 212 -- 0/0/0/0/3 0/0",
]  # fmt: skip


def test_notices_in_the_same_file_are_no_requests():
    lines = [SYSLOG + text for text in [*NOTICES, HTTP, HTTP]]
    layout = find_layout(["cut in the mid", "", *lines], "access.log")
    assert [is_other(layout, line) for line in lines] == [*[True] * len(NOTICES), False, False]
    assert others_in_duckdb(layout, lines) == [is_other(layout, line) for line in lines]
    nginx = find_layout(["2026/11/29 21:00:00 [error] 7#7: *1 connect() failed", NGINX, NGINX], "access.log")
    assert is_other(nginx, "2026/11/29 21:00:00 [error] 7#7: *1 connect() failed")
    assert is_other(nginx, "")
    caddy = find_layout([json.dumps({"level": "info", "ts": 1.0, "logger": "admin", "msg": "up"}), CADDY], "access.log")
    assert is_other(caddy, '{"level":"info","ts":1.0,"logger":"admin","msg":"up"}')


@pytest.mark.parametrize(
    "changes",
    [
        {'"GET /cart/17?token=t HTTP/1.1"': '"<BADREQ>"', "/c1": "/<NOSRV>", "0/0/30/69/109 200": "-1/-1/-1/-1/8 400"},
        {'"GET /cart/17?token=t HTTP/1.1"': '"GET /' + "x" * 990},  # too long for HAProxy: its end is cut off
        {"/109 200 2750": "/+109 200 +2750", "1/1/1/1/0": "1/1/1/1/+2"},
        {"{1wt.eu|curl} {} ": "", "10.0.0.9:": "2001:db8::1:", "---- ": "CD "},
        {"/cart/17?token=t": "https://shop.example/cart/17?token=t", "HTTP/1.1": "HTTP/2.0"},
        {"GET ": "OPTIONS ", "/cart/17?token=t": "*"},
        {"200 2750 - -": "200 2750 - SRV=c1", "----": "--VN", '1.1"': '1.1" 0/0/0/0/0 shop.example/TLSv1.3/TLS_AES'},
    ],
)  # fmt: skip
def test_lines_of_haproxy_that_differ(changes):
    line = HTTP
    for before, after in changes.items():
        assert before in line
        line = line.replace(before, after)
    layout = find_layout([HTTP, HTTP], "access.log")
    row = read_line(layout, line)
    assert row is not None
    assert read_in_duckdb(layout, [line]) == [row]
    assert row["time"].lstrip("-").isdigit()
    assert "token" not in str(row)


def test_a_header_that_haproxy_captured_is_a_column():
    layout = find_layout([SYSLOG + HTTP] * 2, "access.log", columns={"arm": "capture.request.1"})
    assert read_line(layout, SYSLOG + HTTP)["arm"] == "curl"
    assert read_line(find_layout([HTTP], "x", columns={"arm": "capture.response.0"}), HTTP)["arm"] == ""
    with pytest.raises(InputError, match="no variable 'x_version', which is named for 'arm'"):
        find_layout([NGINX], "access.log", columns={"arm": "$x_version"})


@pytest.mark.parametrize("format_name", ["haproxy", "envoy"])
def test_terminations(format_name):
    layout = find_layout([{"haproxy": HTTP, "envoy": ENVOY}[format_name]], "access.log")
    aborts = {"haproxy": ["CD", "CH", "cD", "CC"], "envoy": ["DC", "DC,NR"]}[format_name]
    failures = {
        "haproxy": ["SC", "sH", "SD", "SH", "PH", "sQ", "RC", "IH", "DH"],
        "envoy": ["UF,URX", "UH", "UT", "UC", "UO"],
    }[format_name]
    neither = {"haproxy": ["--", "PR", "LR", "PT"], "envoy": ["-", "NR", "RL", "FI"]}[format_name]
    for value in [*aborts, *failures, *neither]:
        assert bool(re.fullmatch(layout.abort_terminations, value)) == (value in aborts), value
        assert bool(re.fullmatch(layout.failed_terminations, value)) == (value in failures), value


# ------------------------------------------------------------------ log formats as text

FORMAT = (
    "$remote_addr [$time_iso8601] $request_method $scheme://$host$request_uri $status ${request_time}s $upstream_addr"
)


def test_any_log_format_of_nginx():
    line = "10.0.0.9 [2026-11-29T21:00:00+01:00] GET https://shop/cart?token=t 200 0.012s 10.1.0.1:80, 10.1.0.2:80"
    for text in (FORMAT, FORMAT.replace("$request_uri", "$uri$is_args$args")):
        layout = find_layout([line], "access.log", log_format=text)
        assert read_line(layout, line)["target"] == "/cart"
        assert read_line(layout, line)["attempt_servers"] == "10.1.0.1:80, 10.1.0.2:80"
        assert read_in_duckdb(layout, [line]) == [read_line(layout, line)]
    for touching in ("$status$request_time", "$body_bytes_sent$status", "$http_x_a$status"):
        with pytest.raises(InputError, match="nothing separates"):
            find_layout([line], "access.log", log_format=FORMAT.replace("$status", touching))


def test_a_directive_is_taken_as_it_is_pasted():
    texts = [
        f"log_format timed '{FORMAT}';",
        """log_format timed '$remote_addr [$time_iso8601] $request_method '
               '$scheme://$host$request_uri '
               '$status ${request_time}s $upstream_addr';""",
    ]
    line = "10.0.0.9 [2026-11-29T21:00:00+01:00] GET https://shop/cart 200 0.012s 10.1.0.1:80"
    layouts = [find_layout([line], "access.log", log_format=text) for text in texts]
    assert layouts[0] == layouts[1]
    apache = 'LogFormat "%h %{msec}t \\"%r\\" %>s %D %{BALANCER_WORKER_NAME}e" timed'
    line = '10.0.0.9 1795987478815 "GET /a\\"b?token=t HTTP/1.1" 200 1234 http://10.1.0.2:80'
    layout = find_layout([line], "access.log", log_format=apache)
    assert layout.format == "apache"
    row = read_line(layout, line)
    assert (row["target"], row["time"], row["server"]) == ('/a\\"b', "1234", "http://10.1.0.2:80")
    assert read_in_duckdb(layout, [line]) == [row]


def test_the_advice_of_each_router_is_a_format_that_is_read():
    apache = ADVICE_FOR_APACHE.split(", and")[0]
    envoy = ADVICE_FOR_ENVOY.split('inline_string: "')[1].split('\\n"')[0]
    lines = {
        ADVICE_FOR_NGINX.split("; access_log")[0]: (
            '1795987478.815 200 0.012 120 "GET /a HTTP/1.1" "10.1.0.2:80" "200" "0.010" "-" "OK"'
        ),
        apache: '1795987478815000 200 1234 120 "GET /a HTTP/1.1" "http://10.1.0.2:80" "-"',
        envoy: '[2026-11-29T21:00:00.310Z] "GET /a HTTP/2" 200 - 120 12 2 0 "10.1.0.2:80" cart',
    }
    for text, line in lines.items():
        layout = find_layout([line], "access.log", log_format=text)
        row = read_line(layout, line)
        assert (row["target"], row["status"]) == ("/a", "200")
        assert find_layout([line], "access.log") == layout  # recognised without its text


def test_the_page_has_the_advice_of_errors():
    page = (Path(__file__).parents[3] / "docs/access-logs.md").read_text(encoding="utf-8")
    text = " ".join(page.split())
    advice = [ADVICE_FOR_NGINX, ADVICE_FOR_ENVOY, ADVICE_FOR_TRAEFIK, FORMAT_OF_CADDY.advice.partition(": ")[2]]
    for line in [*advice, *ADVICE_FOR_APACHE.split(", and ")]:
        assert line in text
    for name in FORMATS[1:]:
        assert f"| `{name}` |" in page


@pytest.mark.parametrize(
    ("log_format", "line"),
    [
        (
            "%{+json}o %(when)tr %(verb)HM %(path)HP %(code)ST %(took)Ta %(server)s",
            '{"when": "29/Nov/2026:21:00:00.123", "verb": "GET", "path": "/a", "code": 200, "took": 12, "server":"c1"}',
        ),
        (
            'log-format {"t":"%tr","r":%{+Q}r,"code":%ST,"took":%Ta,"to":{"server":"%s","b":"%b"}}',
            '{"t":"29/Nov/2026:21:00:00.123","r":"GET /a HTTP/1.1","code":200,"took":12,"to":{"server":"c1","b":"x"}}',
        ),
    ],
)  # fmt: skip
def test_json_formats_of_haproxy(log_format, line):
    layout = find_layout([line], "access.log", log_format=log_format)
    row = read_line(layout, line)
    assert (row["server"], row["time"], row["status"]) == ("c1", "12", "200")


def test_json_with_named_columns():
    line = json.dumps({"at": 1795987478815, "url": "/a", "code": 200, "took": 12.5, "labels": {"version": "1.5.0"}})
    columns = {"ended": "at", "target": "url", "status": "code", "time": "took:ms", "arm": "labels.version"}
    layout = find_layout([line], "access.log", columns=columns)
    assert {field.column: (field.source, field.unit) for field in layout.fields} == {
        "ended": ("/at", "ms"), "target": ("/url", ""), "status": ("/code", ""), "time": ("/took", "ms"),
        "arm": ("/labels/version", ""),
    }  # fmt: skip
    assert read_line(layout, line)["arm"] == "1.5.0"
    with pytest.raises(InputError, match="the unit of 'took' is not known"):
        find_layout([line], "access.log", columns={**columns, "time": "took"})
    with pytest.raises(InputError, match="no value 'nope'") as caught:
        find_layout([line], "access.log", columns={**columns, "arm": "nope"})
    assert "/labels/version" in caught.value.hint


def test_one_variable_may_be_two_columns():
    layout = find_layout([NGINX], "access.log", columns={"arm": "upstream_addr", "backend": "status"})
    row = read_line(layout, NGINX)
    assert (row["arm"], row["backend"]) == ("10.1.0.1:80, 10.1.0.2:80", "200")
    assert read_in_duckdb(layout, [NGINX]) == [row]
    with pytest.raises(InputError, match="'request' is the path, and cannot be 'arm', too"):
        find_layout([NGINX], "access.log", columns={"arm": "request"})


def test_lines_with_any_bytes():
    layout = find_layout([NGINX], "access.log")
    for agent in ["\\x22 \\x5C", "ü\u2028", "\x01\x7f", "{}|[]()", "-"]:
        line = NGINX.replace("curl/8", agent)
        assert read_line(layout, line) == read_line(layout, NGINX)
        assert read_in_duckdb(layout, [line]) == [read_line(layout, line)]
    assert read_line(layout, NGINX[:70]) is None


def test_an_unknown_format_has_no_layout():
    with pytest.raises(UnknownName):
        find_layout([NGINX], "access.log", format="ngnix")
