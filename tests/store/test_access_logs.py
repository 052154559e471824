"""What lines of access logs become: rows of arms, attempts, and what the router did by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from router_lines import ARMS, HAPROXY, JSON, NGINX, OPTIONS, write_haproxy, write_nginx

from evaluator.errors import InputError, UsageError
from evaluator.records import EndpointRule, LeftOut, LeftOutKind, LogField
from evaluator.segments import REQUEST_SCHEMA
from evaluator.store.access_logs import LogBatch, LogReader

ARM_OPTIONS = replace(OPTIONS, arm_from="arm", arms={"baseline": ("1.*",), "canary": ("2.*",)})


def read(lines, layout=HAPROXY, options=OPTIONS, **keywords) -> LogBatch:
    with LogReader(layout, options, "run-1", **keywords) as reader:
        return reader.read_lines(lines)


def list_rows(batch, *columns):
    """Rows of a batch, sorted."""
    return sorted(tuple(row[column] for column in columns) for row in batch.rows.to_pylist())


def test_a_line_of_haproxy_becomes_a_request():
    batch = read([write_haproxy("c2", request="GET /users/7?token=hidden HTTP/1.1", ms="25")])
    assert batch.rows.schema == REQUEST_SCHEMA
    [row] = batch.rows.to_pylist()
    assert (row["arm"], row["instance"]) == ("canary", "c2")
    assert row["ts"] == datetime(2025, 11, 29, 10, 0, 0, 250_000, UTC)
    assert (row["endpoint"], row["response_time_ms"], row["response_bytes"]) == ("GET /users/{id}", 25.0, 512)
    assert (row["status_code"], row["failed"], row["exception"], row["run"]) == (200, False, None, "run-1")
    assert batch.watermark == datetime(2025, 11, 29, 10, 0, 0, 275_000, UTC)
    assert (batch.counts.lines, batch.counts.read, batch.counts.router.answers) == (1, {"canary": 1}, 1)
    assert batch.bad_line is None


@pytest.mark.parametrize(
    ("size", "header", "content"), [("312", "114", 198), ("114", "114", 0), ("110", "114", 0), ("312", "-", 312)]
)
def test_the_size_of_an_answer_is_without_its_header_where_the_line_has_that(size, header, content):
    fields = (*JSON.fields, LogField("bytes", "/size"), LogField("header_bytes", "/header"))
    line = '{"at":"2025-11-29T10:00:00Z","request":{"method":"GET","uri":"/a"},"status":200,"took":1,"version":"1.0"'
    batch = read(
        [f'{line},"size":{size},"header":"{header}"}}', f'{line},"header":"{header}"}}'],
        replace(JSON, fields=fields), ARM_OPTIONS,
    )  # fmt: skip
    assert batch.rows["response_bytes"].to_pylist() == [content, None]


def test_a_time_without_a_zone_is_in_that_of_the_options():
    batch = read([write_haproxy()], options=replace(OPTIONS, time_zone="America/New_York"))
    assert batch.rows["ts"][0].as_py() == datetime(2025, 11, 29, 15, 0, 0, 250_000, UTC)


def test_the_end_minus_the_time_is_the_start():
    batch = read([write_nginx(at=1764410400.5, s="0.200")], NGINX)
    assert batch.rows["ts"][0].as_py() == datetime(2025, 11, 29, 10, 0, 0, 300_000, UTC)
    assert batch.watermark == datetime(2025, 11, 29, 10, 0, 0, 500_000, UTC)


@pytest.mark.parametrize(
    ("ended", "status", "failed", "exception"),
    [
        ("--", "200", False, None),
        ("--", "404", False, None),
        ("--", "503", True, None),
        ("SD", "200", True, "termination SD"),
        ("sH", "504", True, "termination sH"),
        ("--", "-1", True, "no answer"),
    ],
)
def test_failures_are_statuses_and_terminations(ended, status, failed, exception):
    [row] = list_rows(read([write_haproxy(ended=ended, status=status)]), "failed", "exception")
    assert row == (failed, exception)


def test_the_policy_says_which_statuses_fail():
    lines = [write_haproxy(status=status) for status in ("404", "429", "500")]
    batch = read(lines, options=replace(OPTIONS, failures=("429", "5xx")))
    assert list_rows(batch, "status_code", "failed") == [(404, False), (429, True), (500, True)]


def test_aborts_and_streams_are_left_out_by_name():
    batch = read(
        [write_haproxy("c1", ended="CD"), write_haproxy("c1", ended="CH", status="-1"), write_haproxy(status="101")]
    )
    assert batch.rows.num_rows == 0
    assert batch.counts.read == {"baseline": 1, "canary": 2}
    assert set(batch.counts.left_out) == {
        LeftOut("canary", LeftOutKind.CLIENT_ABORT, 2),
        LeftOut("baseline", LeftOutKind.STREAM, 1),
    }
    assert read([write_nginx(status="499", statuses="-")], NGINX).counts.left_out[0].kind is LeftOutKind.CLIENT_ABORT


def test_what_is_an_abort_and_a_failure_is_a_failure():
    layout = replace(HAPROXY, abort_terminations="[Cc].", failed_terminations="C[DQ]")
    batch = read([write_haproxy("c1", ended="CD"), write_haproxy("c1", ended="CH")], layout)
    assert batch.rows["exception"].to_pylist() == ["termination CD"]
    assert batch.counts.left_out == (LeftOut("canary", LeftOutKind.CLIENT_ABORT, 1),)


def test_a_status_of_zero_may_say_that_the_client_left():
    line = b'{"at": "2025-11-29T10:00:00Z", "status": 0, "took": 9.5, "version": "1.0"}'
    assert read([line], JSON, ARM_OPTIONS).rows["exception"].to_pylist() == ["no answer"]
    batch = read([line], replace(JSON, abort_statuses=(499, 0)), ARM_OPTIONS)
    assert batch.counts.left_out == (LeftOut("baseline", LeftOutKind.CLIENT_ABORT, 1),)


def test_a_failed_websocket_is_a_request():
    line = b'{"at": "2025-11-29T10:00:00Z", "status": %d, "took": 9.5, "version": "1.0", "upgrade": "websocket"}'
    assert read([line % 502], JSON, ARM_OPTIONS).rows["failed"].to_pylist() == [True]
    assert read([line % 101], JSON, ARM_OPTIONS).counts.left_out == (LeftOut("baseline", LeftOutKind.STREAM, 1),)


def test_requests_without_a_server_belong_to_no_arm():
    batch = read(
        [write_haproxy("<NOSRV>", status="503", ended="SC"), write_haproxy("<NOSRV>", status="302", ended="LR")]
    )
    router = batch.counts.router
    assert (batch.rows.num_rows, batch.counts.read) == (0, {})
    assert (router.answers, router.without_server, router.without_server_failures) == (2, 2, 1)


def test_failures_of_a_backend_without_servers_are_those_of_its_arm():
    options = replace(OPTIONS, arm_from="backend", arms={"baseline": ("old",), "canary": ("new",)})
    lines = [write_haproxy("<NOSRV>", status=status, ended="SC", backend="new") for status in ("503", "503")]
    batch = read([*lines, write_haproxy("<NOSRV>", status="302", backend="new", ended="LR")], options=options)
    assert list_rows(batch, "arm", "instance", "failed") == [("canary", "canary", True)] * 2
    assert batch.counts.router.without_server == 1


def test_servers_of_no_arm_are_counted_by_name():
    batch = read([write_haproxy("static"), write_haproxy("static"), write_haproxy("b1")])
    assert batch.counts.router.other_servers == {"static": 2}
    assert batch.counts.read == {"baseline": 1}
    many = read([write_haproxy(f"x{number}") for number in range(30)]).counts.router.other_servers
    assert len(many) == 21
    assert sum(many.values()) == 30


# ------------------------------------------------------------------ attempts


def test_each_attempt_of_nginx_counts_for_the_arm_that_was_tried():
    lines = [
        write_nginx("c:1, c:2, b:1", statuses="502, 504, 200", times="0.010, 0.050, 0.040", s="0.100", at=1764410400.5)
    ]
    batch = read(lines, NGINX)
    assert list_rows(batch, "arm", "instance", "failed", "status_code", "response_time_ms", "exception") == [
        ("baseline", "b:1", False, 200, pytest.approx(40), None),
        ("canary", "c:1", True, 502, pytest.approx(10), "retried by the router"),
        ("canary", "c:2", True, 504, pytest.approx(50), "retried by the router"),
    ]
    starts = {row["instance"]: row["ts"] for row in batch.rows.to_pylist()}
    first = datetime(2025, 11, 29, 10, 0, 0, 400_000, UTC)
    assert starts == {
        "c:1": first,
        "c:2": first + timedelta(milliseconds=10),
        "b:1": first + timedelta(milliseconds=60),
    }
    assert batch.counts.router.retried == {"canary": 2}
    assert (batch.counts.router.answers, batch.counts.read) == (1, {"baseline": 1, "canary": 2})


def test_a_redirect_inside_of_nginx_is_no_failed_attempt():
    batch = read([write_nginx("c:1 : b:1", statuses="200 : 200", times="0.01 : 0.02")], NGINX)
    assert list_rows(batch, "instance", "failed") == [("b:1", False)]
    batch = read([write_nginx("c:1 : b:1", statuses="503 : 200", times="0.01 : 0.02")], NGINX)
    assert list_rows(batch, "instance", "failed") == [("b:1", False), ("c:1", True)]


def test_a_page_for_errors_does_not_hide_a_failure():
    assert read([write_nginx("c:1", status="200", statuses="503")], NGINX).rows["failed"].to_pylist() == [True]


def test_nginx_without_a_live_server_names_its_group_which_is_no_server():
    batch = read([write_nginx("c:1, shop", status="502", statuses="502, 502", times="0.01, 0.00")], NGINX)
    assert list_rows(batch, "instance", "failed") == [("c:1", True)]
    assert batch.counts.router.without_server_failures == 1


def test_retries_of_haproxy_at_one_server_are_failures_of_it():
    batch = read([write_haproxy("c1", retries="3", status="503", ended="SC")])
    assert list_rows(batch, "instance", "failed") == [("c1", True)] * 4
    assert batch.counts.router.retried == {"canary": 3}


@pytest.mark.parametrize(
    ("arms", "arm", "instance"),
    [
        ({"baseline": ("b1",), "canary": ("c1", "c2")}, "canary", "canary"),
        ({"baseline": ("b1", "b2"), "canary": ("c1",)}, None, None),
        (ARMS, None, None),
    ],
)
def test_a_redispatch_of_haproxy_is_the_other_arm_s_if_only_that_can_have_failed(arms, arm, instance):
    batch = read([write_haproxy("b1", retries="+2")], options=replace(OPTIONS, arms=arms))
    tried = [row for row in batch.rows.to_pylist() if row["failed"]]
    assert [(row["arm"], row["instance"]) for row in tried] == [(arm, instance)] * (2 if arm else 0)
    assert batch.counts.router.retried_by_unknown == (0 if arm else 2)


def test_a_redispatch_within_a_backend_is_its_arm_s():
    options = replace(OPTIONS, arm_from="backend", arms={"baseline": ("old",), "canary": ("new",)})
    batch = read([write_haproxy("s1", retries="+1", backend="new")], options=options)
    assert list_rows(batch, "arm", "instance", "failed") == [("canary", "canary", True), ("canary", "s1", False)]


def test_a_router_that_counts_attempts_does_not_say_who_failed():
    fields = tuple(replace(field, unit="attempts") if field.column == "retries" else field for field in HAPROXY.fields)
    batch = read([write_haproxy(retries="1"), write_haproxy(retries="3")], replace(HAPROXY, fields=fields))
    assert batch.counts.router.retried_by_unknown == 2
    assert batch.rows.num_rows == 2


def test_a_layout_of_a_router_that_hides_retries_says_so():
    assert read([write_haproxy()], replace(HAPROXY, retries_hidden=True)).counts.router.retries_hidden
    assert not read([write_haproxy()]).counts.router.retries_hidden


# ------------------------------------------------------------------ gRPC


def test_a_status_of_grpc_is_a_failure_unless_it_is_ok():
    line = '{"at": "2025-11-29T10:00:00Z", "status": 200, "took": 0.5, "version": "2.0", "grpc": "%s"}'
    batch = read([(line % status).encode() for status in ("0", "OK", "14", "Unavailable")], JSON, ARM_OPTIONS)
    assert batch.rows["failed"].to_pylist() == [False, False, True, True]
    assert batch.rows["exception"].to_pylist()[2] == "grpc-status 14"


def test_grpc_without_a_status_is_named_as_unread():
    request = "POST /shop.Cart/Add HTTP/2.0"
    assert read([write_haproxy("c1", request=request)]).counts.router.grpc_unread == {"canary": 1}
    assert read([write_haproxy("c1", request="POST /v1.0/Add HTTP/2.0")]).counts.router.grpc_unread == {}


# ------------------------------------------------------------------ endpoints


def test_rules_of_the_policy_come_first():
    rules = (EndpointRule("^/shops/[^/]+", "/shops/{shop}"), EndpointRule("^/old/", "/new/"))
    lines = [write_haproxy(request=f"GET {path} HTTP/1.1") for path in ("/shops/anna/7", "/old/x")]
    batch = read(lines, options=replace(OPTIONS, endpoint_rules=rules))
    assert batch.rows["endpoint"].to_pylist() == ["GET /shops/{shop}/{id}", "GET /new/x"]


def test_endpoints_beyond_the_most_are_pooled_and_counted():
    lines = [write_haproxy(request=f"GET /{name} HTTP/1.1") for name in ("a", "b", "c", "d", "a", "d")]
    with LogReader(HAPROXY, OPTIONS, "run-1", ["GET /d"], most_endpoints=3) as reader:
        first, second = reader.read_lines(lines), reader.read_lines(lines[2:4])
        assert reader.kept_endpoints == ("GET /d", "GET /a", "GET /b")
    assert sorted(first.rows["endpoint"].to_pylist()) == sorted(
        ["GET /a", "GET /b", "other endpoints", "GET /d", "GET /a", "GET /d"]
    )
    assert (first.counts.router.endpoints_pooled, first.counts.router.pooled_example) == (1, "GET /c")
    assert second.rows["endpoint"].to_pylist() == ["other endpoints", "GET /d"]


# ------------------------------------------------------------------ bad lines


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"garbage\n", "the line does not have the format 'haproxy'"),
        (b"\xff\xfe garbage\n", "the line does not have the format 'haproxy'"),
        (write_haproxy().replace(b"29/Nov/2025", b"31/Foo/2025"), "its time cannot be read"),
        (write_haproxy().replace(b"29/Nov/2025", b"29/Nov/2199"), "its time is in the future"),
        (write_haproxy(ms="-1"), "it has no response time of 0 to 31 years"),
        (write_haproxy(ms="99999999999999999999999"), "it has no response time of 0 to 31 years"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line, problem):
    batch = read([b"\n", write_haproxy(), line, b"also garbage"])
    assert batch.bad_line is not None
    assert batch.bad_line.number == 2
    assert batch.bad_line.problem.startswith(problem)
    assert batch.rows.num_rows == 1
    assert batch.counts.read == {"baseline": 1, "": 2}
    assert batch.counts.left_out == (LeftOut("", LeftOutKind.BAD_ROW, 2),)


def test_what_a_router_writes_in_addition_to_requests_does_not_count():
    notice = b"Nov 29 10:00:00 lb haproxy[7]: Server shop/c1 is DOWN, reason: Layer4 connection problem\n"
    batch = read([notice, write_haproxy(), b"\r\n", b"\0\0\0"])
    assert (batch.bad_line, batch.rows.num_rows, batch.counts.read) == (None, 1, {"baseline": 1})


@pytest.mark.parametrize("ms", ["-1", "-", ""])
def test_a_failure_may_have_no_time(ms):
    line = write_nginx(status="502", statuses="502", s=ms or "-", times="-")
    assert read([line], NGINX).rows["response_time_ms"].to_pylist() == [0.0]


def test_line_ends_and_types_of_lines_do_not_matter():
    line = write_haproxy()
    variants = [line, line.rstrip(), line.replace(b"\n", b"\r\n")]
    assert read(variants).rows.num_rows == 3
    assert read(pa.array([variant.decode() for variant in variants])).rows.num_rows == 3
    assert read(pa.array(variants, pa.binary())).rows.num_rows == 3


def test_a_request_that_is_no_http_has_an_endpoint_of_its_own():
    batch = read([write_haproxy("b1", status="400", request="\\x16\\x03\\x01")])
    assert batch.rows["endpoint"].to_pylist() == ["no request line"]


@pytest.mark.parametrize(
    "text", ["[1, 2]", '{"at":', '{"status": 200}', "null", '{"at": {}, "status": "x", "took": []}']
)
def test_json_that_is_no_request_is_a_bad_line(text):
    batch = read([text.encode()], JSON, ARM_OPTIONS)
    assert (batch.rows.num_rows, batch.bad_line is not None) == (0, True)


# ------------------------------------------------------------------ options


@pytest.mark.parametrize("name", ["b.1", "b%", "b_1", "b'1", 'b"1', "b\\1", "b[1]", "b{1}", "(b)+"])
def test_a_name_is_matched_as_it_is(name):
    options = replace(OPTIONS, arms={"baseline": (name,), "canary": (f"{name}-new?", "x*")})
    lines = [write_haproxy(server) for server in (name, f"{name}-new1", "bx1")]
    batch = read(lines, options=options)
    assert batch.rows["arm"].to_pylist() == ["baseline", "canary"]
    assert batch.counts.router.other_servers == {"bx1": 1}


@pytest.mark.parametrize(
    ("first", "second"), [("b*", "b1"), ("*", "c*"), ("a*c", "*b*"), ("?1", "b1"), ("x", "x"), ("a?c*", "ab*d")]
)
def test_patterns_that_match_the_same_name_are_refused(first, second):
    with pytest.raises(UsageError, match="match the same names"):
        read([], options=replace(OPTIONS, arms={"baseline": (first,), "canary": (second,)}))


@pytest.mark.parametrize(("first", "second"), [("b*", "c*"), ("a?", "a??"), ("*x", "*y"), ("b1", "b2")])
def test_patterns_that_match_different_names_are_taken(first, second):
    assert read([], options=replace(OPTIONS, arms={"baseline": (first,), "canary": (second,)})).rows.num_rows == 0


def test_options_that_fit_no_line_are_refused():
    with pytest.raises(UsageError, match="which arm is not known"):
        read([], options=replace(OPTIONS, arms={}))
    with pytest.raises(InputError, match="do not have the column 'arm'"):
        read([], options=replace(OPTIONS, arm_from="arm"))
    with pytest.raises(UsageError, match="time zone 'Mars/Olympus' is not known"):
        read([], options=replace(OPTIONS, time_zone="Mars/Olympus"))
    with pytest.raises(UsageError, match="'abc' is no status"):
        read([], options=replace(OPTIONS, failures=("abc",)))


def test_a_line_in_a_line_of_json_is_unwrapped():
    wrapped = replace(HAPROXY, wrapped_in="/log")
    line = write_haproxy().decode().strip().replace('"', '\\"')
    assert read([f'{{"log": "{line}\\n", "stream": "stdout"}}'.encode()], wrapped).rows.num_rows == 1


def test_an_iso_time_without_a_zone_is_local():
    line = '{"at": "2025-11-29T10:00:00%s", "status": 200, "took": 0.5, "version": "2.0"}'
    options = replace(ARM_OPTIONS, time_zone="Europe/Berlin")
    batch = read([(line % zone).encode() for zone in ("", "Z", ".000+02:00")], JSON, options)
    assert [moment.hour for moment in batch.rows["ts"].to_pylist()] == [9, 10, 8]


def test_a_layout_of_one_column_of_the_server_reads_instances_from_it():
    fields = (*JSON.fields, LogField("server", "/pod"))
    line = b'{"at": "2025-11-29T10:00:00Z", "status": 200, "took": 0.5, "version": "2.0", "pod": "p-7"}'
    assert read([line], replace(JSON, fields=fields), ARM_OPTIONS).rows["instance"].to_pylist() == ["p-7"]
