"""What the headers of an answer say: the arm, the server, and attempts that failed before."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluator.errors import UsageError
from evaluator.records import InFlight, LeftOut, LeftOutKind, RouterFacts
from evaluator.sources.arm_header import ArmHeader, Route, check_header_name, parse_arm_values
from evaluator.sources.recording import Recording, WorkerFacts, merge_facts, read_worker_facts
from evaluator.sources.request_buffer import NO_TIME, RequestBuffer
from evaluator.sources.routed_requests import RETRIED

HEADER = ArmHeader(patterns={"baseline": ("b?", "10.0.0.1:*"), "canary": ("c*",)})
NAMES = {"run": "r1", "service": "shop", "worker": "w0"}


@pytest.mark.parametrize(
    ("values", "route"),
    [
        (("b1", "0"), Route("baseline", "b1", shows_retries=True)),
        (("c1",), Route("canary", "c1")),  # nothing says whether another server was tried before
        ((None,), Route()),
        (("",), Route()),  # HAProxy's own 503
        ((" c1 ", None, None), Route("canary", "c1")),
        (("b12", "0"), Route("", "b12", shows_retries=True)),
        # HAProxy: two attempts failed at c1; one at another server, of which it does not give the name.
        (("c1", "2"), Route("canary", "c1", (("canary", "c1"),) * 2, shows_retries=True)),
        (("b1", "+1"), Route("baseline", "b1", (), 1, shows_retries=True)),
        (("", "3"), Route("", "", (), 3, shows_retries=True)),
        (("b1", "many"), Route("baseline", "b1")),
        # Envoy counts the first attempt, too.
        (("b1", None, "1"), Route("baseline", "b1", shows_retries=True)),
        (("b1", None, "3"), Route("baseline", "b1", (), 2, shows_retries=True)),
        # nginx: all servers that were tried; the last one of a group gave its answer.
        (("10.0.0.1:80",), Route("baseline", "10.0.0.1:80", shows_retries=True)),
        (("c1, b1",), Route("baseline", "b1", (("canary", "c1"),), shows_retries=True)),
        (("x, b1",), Route("baseline", "b1", (), 1, shows_retries=True)),
        (("c1 : b1",), Route("baseline", "b1")),
        (("c1, b2 : b1",), Route("baseline", "b1", (("canary", "c1"),), shows_retries=True)),
        ((["c1", "b1"],), Route("baseline", "b1", (("canary", "c1"),), shows_retries=True)),  # a header set twice
        ((7,), Route("", "7")),
    ],
)
def test_the_route_of_an_answer(values, route):
    assert HEADER.read_route(*values) == route


def test_a_router_without_retries_has_nothing_to_show():
    assert ArmHeader(no_retries=True).read_route("canary") == Route("canary", "canary", shows_retries=True)


def test_a_pattern_is_no_regular_expression():
    header = ArmHeader(patterns={"baseline": ("1.0+[a]",), "canary": ("*.1",)})
    assert [header.find_arm(value) for value in ("1.0+[a]", "1x0+[a]", "2.1", "2.1\n")] == [
        "baseline",
        "",
        "canary",
        "",
    ]


def answer(arm=None, status=200, **headers):
    return SimpleNamespace(status_code=status, headers={"X-Arm": arm, **headers} if arm is not None else headers)


def record(buffer, *responses, exception=None, time=5.0, context=None):
    listen = buffer.listen()
    for response in responses:
        listen(
            request_type="GET", name="/", response_time=time, response_length=3, response=response,
            exception=exception, context=context or {}, start_time=1_795_418_924.25, url="/",
        )  # fmt: skip


def make_buffer(header=HEADER):
    return RequestBuffer(header="X-Instance", arm_header=header, clock=lambda: 1_795_418_925.0)


def test_rows_are_those_of_the_arms_and_of_attempts_before():
    buffer = make_buffer()
    record(buffer, answer("c1", **{"X-Instance": "pod-7"}), answer("c1, b1"), answer("b1", **{"X-Retries": "0"}))
    # Whatever the context says, the arm is that of the answer.
    record(buffer, answer("b1"), context={"arm": "canary", "tenant": "a"})
    record(buffer, answer(status=503), None, SimpleNamespace(), exception=OSError("refused"))
    record(buffer, answer("other"), answer(""))
    table = buffer.take(NAMES, {})
    rows = table.select(["arm", "instance", "failed", "response_time_ms", "exception", "status_code"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("canary", "pod-7", False, 5.0, None, 200),
        ("baseline", "b1", False, 5.0, None, 200),
        ("baseline", "b1", False, 5.0, None, 200),
        ("baseline", "b1", False, 5.0, None, 200),
        ("canary", "pod-7", True, 0.0, RETRIED, None),
    ]
    assert table["context"].to_pylist()[3] == [("tenant", "a")]
    assert dict(buffer.read) == {"baseline": 3, "canary": 2}
    assert buffer.routed.counts.facts == RouterFacts(
        answers=9,
        failed_answers=3,
        without_server=4,
        without_server_failures=3,
        other_servers={"other": 1},
        retried={"canary": 1},
        retries_hidden=True,
    )
    assert not len(buffer)
    assert not len(buffer.take(NAMES, {}))
    buffer.begin()
    assert buffer.routed.counts.facts == RouterFacts()


def test_a_table_without_any_arm_is_empty():
    buffer = make_buffer()
    record(buffer, answer(), answer())
    assert not len(buffer.take(NAMES, {}))
    assert (buffer.routed.counts.facts.answers, dict(buffer.read)) == (2, {})


def test_a_success_without_a_time_is_left_out_of_its_arm():
    buffer = make_buffer()
    record(buffer, answer("c1, b1"), answer(), time=None)
    assert [row["arm"] for row in buffer.take(NAMES, {}).to_pylist()] == ["canary"]  # the attempt
    assert buffer.left_out == (LeftOut("baseline", LeftOutKind.BAD_ROW, 1, detail=NO_TIME),)


class Trap:
    @property
    def headers(self):
        raise RuntimeError("headers")


@pytest.mark.parametrize("response", [Trap(), SimpleNamespace(headers=7)])
def test_an_answer_that_cannot_be_read_has_no_server(response):
    buffer = make_buffer()
    record(buffer, answer("b1"), response, answer("c1"))
    assert [row["arm"] for row in buffer.take(NAMES, {}).to_pylist()] == ["baseline", "canary"]
    assert buffer.routed.counts.facts.without_server == 1


def test_requests_without_an_event_belong_to_the_arm_of_their_answer_or_to_the_router():
    buffer = make_buffer()
    assert buffer.identify("GET", "/", {"arm": "canary"}, answer("b1"))[0] == "baseline"
    assert buffer.identify("GET", "/", {"arm": "canary"}) == ("", "", "GET /")
    buffer.leave_out("", LeftOutKind.OTHER_KIND, "x", failed=True)
    assert buffer.routed.counts.facts.without_server_failures == 1
    assert not buffer.left_out


def test_facts_of_all_processes_are_added_and_who_waited_for_long_has_failed(tmp_path):
    for number in (1, 2):
        facts = RouterFacts(answers=10, without_server=2, retried={"canary": number}, other_servers={"x": 1})
        waiting = (InFlight("", "", "GET /", 1.0, 30.0), InFlight("", "", "GET /", 1.0, 0.5))
        worker = WorkerFacts(f"w{number}", "worker", router=facts, in_flight=waiting, closed=True)
        worker.write(tmp_path)
    merged = merge_facts(read_worker_facts(tmp_path))
    assert merged.in_flight == ()
    assert merged.router == RouterFacts(
        answers=22, without_server=6, without_server_failures=2, retried={"canary": 3}, other_servers={"x": 2}
    )
    assert merge_facts([WorkerFacts("w", "local")]).router is None


def test_a_recording_hands_the_header_on(tmp_path):
    recording = Recording("r", "cart@2", Path("/data"), arm_header=HEADER, parent_pid=os.getpid())
    recording.write(tmp_path / "r.json")
    assert Recording.read(tmp_path / "r.json") == recording


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["canary"], "is not ARM=PATTERN"),
        (["=c*"], "is not ARM=PATTERN"),
        (["canary="], "is not ARM=PATTERN"),
        (["baseline=b*"], "only"),
        (["green=b*", "blue=c*"], "only"),
        (["baseline=b*", "canary=?1"], "match the same names"),
        (["baseline=b*", "ca\x00=c"], "cannot be seen"),
    ],
)
def test_patterns_that_make_no_arms_are_refused(texts, says):
    with pytest.raises(UsageError) as caught:
        parse_arm_values(texts, "--arm-value")
    assert says in caught.value.message


def test_patterns_of_arms_have_the_baseline_first():
    parsed = parse_arm_values(["canary=c*", "baseline=b*", "canary=v2"], "--arm-value")
    assert list(parsed.items()) == [("baseline", ("b*",)), ("canary", ("c*", "v2"))]
    assert parse_arm_values([], "--arm-value") == {}


@pytest.mark.parametrize("name", ["", "X Arm", "X-Arm:", "Ä", "X\n"])
def test_what_is_no_name_of_a_header_is_refused(name):
    with pytest.raises(UsageError):
        check_header_name(name, "--arm-header")
