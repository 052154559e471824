"""Logs that HAProxy and nginx wrote are read: what a line says is what its client saw."""

import re

import pytest
from log_lines import is_other, others_in_duckdb, read_in_duckdb, read_line
from routers import ask, haproxy_router, leave, nginx_router, send_raw, service, upgrade

from evaluator.errors import InputError
from evaluator.sources.access_logs import find_layout
from evaluator.sources.access_logs.nginx import KNOWN_FORMATS
from evaluator.sources.load import free_port

PATHS = ["/cart?token=secret", "/status/404", "/status/301", "/status/503", "/size/5000", "/delay/40", "/x%22y'%7B%7D|"]
COMBINED = KNOWN_FORMATS[2]
NGINX_JSON = (
    'escape=json {"time":"$time_iso8601","request_time":$request_time,"status":$status,'
    '"request_method":"$request_method","request_uri":"$request_uri","upstream_addr":"$upstream_addr","upstream_status":"$upstream_status",'
    '"upstream_response_time":"$upstream_response_time","agent":"$http_user_agent"}'
)
HAPROXY_JSON = (
    '{"time":"%tr","method":"%HM","path":%{+Q}HU,"status":%ST,"ms":%Ta,"server":"%s","end":"%tsc","retries":"%rc",'
    '"bytes":%B,"header_bytes":"%[var(txn.header_bytes)]"}'
)
HAPROXY_HEADER_BYTES = "http-response set-var(txn.header_bytes) res.hdrs,length,add(16)"


@pytest.fixture(scope="module")
def shop():
    with service("1.4.1") as baseline, service("1.5.0") as canary:
        yield {"b1": baseline.port, "c1": canary.port}


def use(router):
    """Requests of all kinds; the answers are in the order of the lines."""
    headers = {"User-Agent": 'a "quoted" \\ {agent} | ü'.encode().decode("latin-1"), "X-Arm": "blue"}
    answers = [ask(router.port, path, headers=headers) for path in PATHS]
    answers.append(ask(router.port, "/orders/17", "POST"))
    assert upgrade(router.port) == b"HTTP/1.1 101 Switching Protocols"
    router.wait_for_lines(len(answers) + 1)  # a session is logged at its end
    leave(router.port, "/delay/900", 100)
    router.wait_for_lines(len(answers) + 2)
    send_raw(router.port, b"garbage \x00\xff\r\n\r\n")
    return answers, router.wait_for_lines(len(answers) + 3)


def check(layout, lines, answers, *, servers, names):
    """Every line has what the client saw; DuckDB reads the same as Python."""
    rows = [read_line(layout, line) for line in lines]
    assert None not in rows
    if layout.reader == "text":
        assert read_in_duckdb(layout, lines) == rows
    for row, answer in zip(rows, answers, strict=False):
        assert (row["method"], row["target"].partition("?")[0]) == (answer.method, answer.path.partition("?")[0])
        assert row["status"] == str(answer.status)
        scale = {"s": 1000, "ms": 1}[next(field.unit for field in layout.fields if field.column == "time")]
        least = 39 if "delay" in answer.path else 0
        assert least <= float(row["time"]) * scale <= answer.time_ms + 20
        assert row[servers] == names[answer.version]
    session, left, garbage = rows[len(answers) :]
    assert (session["status"], session["target"]) == ("101", "/upgrade")
    assert left["target"] == "/delay/900"
    assert 90 <= float(left["time"]) * scale < 900
    assert garbage["status"] == "400"
    return rows


@pytest.mark.parametrize(
    ("log_option", "syslog"),
    [
        ("option httplog", ""),
        ("option httplog", "rfc3164"),
        ("option httpslog", "rfc5424"),
        ("option httplog clf", ""),
    ],
)
def test_haproxy_s_own_formats(tmp_path, shop, log_option, syslog):
    with haproxy_router(tmp_path, shop, log_option=log_option, syslog=syslog) as router:
        answers, lines = use(router)
    layout = find_layout(lines, "haproxy.log")
    assert layout.format == "haproxy"
    rows = check(layout, lines, answers, servers="server", names={"1.4.1": "b1", "1.5.0": "c1"})
    assert [row["termination"] for row in rows] == ["--"] * (len(answers) + 1) + ["CH", "PR"]
    assert {row["backend"] for row in rows[:-1]} == {"shop"}
    assert rows[-1]["server"] == "<NOSRV>"
    assert all("secret" not in value for row in rows for value in row.values())


def test_haproxy_s_json_by_the_text_of_its_format(tmp_path, shop):
    option = "log-format '" + HAPROXY_JSON.replace("'", "") + "'"
    with haproxy_router(tmp_path, shop, log_option=option, frontend=HAPROXY_HEADER_BYTES) as router:
        answers, lines = use(router)
    layout = find_layout(lines, "haproxy.log", log_format=HAPROXY_JSON)
    assert (layout.format, layout.reader) == ("haproxy", "json")
    check(layout, lines, answers, servers="server", names={"1.4.1": "b1", "1.5.0": "c1"})
    rows = [read_line(layout, line) for line in lines[: len(answers)]]
    contents = [int(row["bytes"]) - int(row["header_bytes"]) for row in rows if row["status"] == "200"]
    sizes = [len(answer.body) for answer in answers if answer.status == 200]
    assert max(abs(content - size) for content, size in zip(contents, sizes, strict=True)) <= 8


def test_a_captured_header_of_haproxy_names_the_arm(tmp_path, shop):
    captures = "capture request header User-Agent len 40\n  capture request header X-Arm len 10"
    with haproxy_router(tmp_path, shop, frontend=captures) as router:
        _, lines = use(router)
    layout = find_layout(lines, "haproxy.log", columns={"arm": "capture.request.1"})
    assert [read_line(layout, line)["arm"] for line in lines[: len(PATHS)]] == ["blue"] * len(PATHS)
    both = captures + "\n  capture response header X-Version len 10"
    folder = tmp_path / "both"
    folder.mkdir()
    with haproxy_router(folder, shop, frontend=both) as router:
        answers, lines = use(router)
    layout = find_layout(lines, "haproxy.log", columns={"arm": "capture.response.0"})
    versions = [answer.version for answer in answers]
    assert [read_line(layout, line)["arm"] for line in lines[: len(answers)]] == versions
    assert [row["arm"] for row in read_in_duckdb(layout, lines)[: len(answers)]] == versions


def test_haproxy_s_retries_and_notices(tmp_path, shop):
    servers = {**shop, "c2": free_port()}
    defaults = "option redispatch 1\n  option logasap"
    with haproxy_router(tmp_path, servers, defaults=defaults) as router:
        answers = [ask(router.port, "/") for _ in range(6)]
        lines = router.wait_for_lines(6)
    assert {answer.status for answer in answers} == {200}
    layout = find_layout(lines, "haproxy.log")
    rows = read_in_duckdb(layout, lines)
    assert sorted(row["retries"] for row in rows) == ["+1", "+1", "0", "0", "0", "0"]
    assert all(row["time"].isdigit() for row in rows)
    assert "logasap" in layout.response_time
    folder = tmp_path / "dead"
    folder.mkdir()
    checked = "check inter 50ms fall 1"
    with haproxy_router(folder, {"c2": servers["c2"]}, server_options=checked, syslog="rfc3164") as router:
        router.wait_for_lines(2)
        assert ask(router.port, "/").status == 503
        lines = router.wait_for_lines(3)
    layout = find_layout(lines, "haproxy.log")
    assert (
        [is_other(layout, line) for line in lines]
        == others_in_duckdb(layout, lines)
        == [True] * (len(lines) - 1) + [False]
    )
    row = read_line(layout, lines[-1])
    assert (row["server"], row["status"], row["termination"]) == ("<NOSRV>", "503", "SC")


def test_a_tcp_log_is_refused_by_name(tmp_path, shop):
    with haproxy_router(tmp_path, shop, log_option="option tcplog", defaults="mode tcp") as router:
        ask(router.port, "/")
        lines = router.wait_for_lines(1)
    with pytest.raises(InputError, match="a TCP log of HAProxy") as caught:
        find_layout(lines, "haproxy.log")
    assert "option httplog" in caught.value.hint


@pytest.mark.parametrize("log_format", [COMBINED, KNOWN_FORMATS[-1], NGINX_JSON])
def test_nginx_s_formats(tmp_path, shop, log_format):
    with nginx_router(tmp_path, shop, log_format=log_format, server_options="max_fails=0") as router:
        answers, lines = use(router)
    layout = find_layout(lines, "access.log")
    assert layout.format == "nginx"
    escape, _, text = log_format.rpartition("escape=json ")
    by_text = find_layout(lines, "access.log", log_format=f"log_format x {escape and 'escape=json'} '{text}';")
    assert by_text.fields == layout.fields
    names = {"1.4.1": f"127.0.0.1:{shop['b1']}", "1.5.0": f"127.0.0.1:{shop['c1']}"}
    rows = check(layout, lines, answers, servers="attempt_servers", names=names)
    assert rows[-2]["status"] == "499"


def test_nginx_names_each_server_that_it_tried(tmp_path, shop):
    dead = free_port()
    with nginx_router(tmp_path, {"c2": dead, **shop}, log_format=COMBINED) as router:
        answers = [ask(router.port, "/") for _ in range(3)]
        ask(router.port, "/close")  # all servers fail now: nginx has none left
        ask(router.port, "/")
        lines = router.wait_for_lines(5)
    assert {answer.status for answer in answers} == {200}
    layout = find_layout(lines, "access.log")
    rows = read_in_duckdb(layout, lines)
    assert rows == [read_line(layout, line) for line in lines]
    tried = [row for row in rows[:3] if ", " in row["attempt_servers"]]
    assert [row["attempt_statuses"] for row in tried] == ["502, 200"]
    assert tried[0]["attempt_servers"].startswith(f"127.0.0.1:{dead}, ")
    assert tried[0]["attempt_times"].count(", ") == 1
    assert rows[-1]["attempt_servers"] == "shop"
    assert re.fullmatch(layout.without_server, "shop")
    assert not re.fullmatch(layout.without_server, f"127.0.0.1:{dead}")


def test_nginx_knows_who_left_in_the_middle_of_an_answer(tmp_path, shop):
    with nginx_router(tmp_path, shop, log_format=KNOWN_FORMATS[-1]) as router:
        ask(router.port, "/size/1000")
        leave(router.port, "/size/30000000", 100)
        lines = router.wait_for_lines(2)
    layout = find_layout(lines, "access.log")
    assert [read_line(layout, line)["termination"] for line in lines] == ["OK", ""]
    assert read_line(layout, lines[1])["status"] in {"200", "499"}


def test_combined_without_a_time_is_refused(tmp_path, shop):
    with nginx_router(tmp_path, shop, log_format="combined") as router:
        ask(router.port, "/?key=secret")
        lines = router.wait_for_lines(1)
    with pytest.raises(InputError, match=r"access\.log:1: .* no response time") as caught:
        find_layout(lines, "access.log")
    assert "$upstream_addr" in caught.value.hint
    assert "secret" not in str(caught.value)
