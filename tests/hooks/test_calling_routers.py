"""Routers that are called: by two programs, or by two HTTP requests."""

import json
import os
import sys
import time

import pytest
from hooks_world import make_context, paste, reply

from evaluator.errors import HookError, PolicyError
from evaluator.hooks import Step, make_hook, run_hook, undo_hook
from evaluator.hooks.network import MaybeSent

PATH = os.environ["PATH"]

SET = """
import json, os, sys
file, shares = sys.argv[1:3]
json.dump(json.loads(shares), open(file, "w"))
open(file + ".calls", "a").write(" ".join(sys.argv[3:]) + " " + os.environ["EVALUATOR_SHARES"] + "\\n")
"""


@pytest.fixture
def programs(tmp_path):
    """A router of two programs and a file; the file."""
    (tmp_path / "set.py").write_text(SET)
    file = tmp_path / "shares"
    file.write_text('{"baseline": 0.9, "canary": 0.1}')
    return file


def hook_for(file, **extra):
    options = {
        "set": [sys.executable, str(file.parent / "set.py"), str(file), "${shares}", "${service}", "${percent}"],
        "get": ["cat", str(file)],
    }
    return make_hook("command", options | extra, {"PATH": PATH})


CONTEXT = {"service": "cart"}


def test_two_programs_are_a_router(programs):
    hook = hook_for(programs)
    assert hook.arms() == ("baseline", "canary")
    assert hook.read_shares() == {"baseline": 0.9, "canary": 0.1}
    realised = hook.set_shares({"baseline": 0.1 + 0.2, "canary": 0.7}, make_context(**CONTEXT))
    assert realised.shares == json.loads(programs.read_text()) == {"baseline": 0.3, "canary": 0.7}
    calls = programs.with_name("shares.calls")
    assert calls.read_text() == 'cart 70 {"baseline": 0.3, "canary": 0.7}\n'
    outcome = hook.execute(make_context(**CONTEXT))
    assert (outcome.state, outcome.earlier) == ("acknowledged", {"baseline": 0.3, "canary": 0.7}), outcome
    assert hook.describe(make_context(**CONTEXT)).endswith("cart '‹share in percent›' to canary 100 %")
    assert hook.undo(make_context(**CONTEXT), outcome.earlier).state == "acknowledged"
    assert hook.read_shares() == {"baseline": 0.3, "canary": 0.7}


def test_a_test_of_it_reads_and_sets_nothing(programs):
    before = programs.stat().st_mtime_ns
    outcome = hook_for(programs).test()
    assert (outcome.state, outcome.did) == (
        "acknowledged",
        "the shares are baseline 90 %, canary 10 %; no share was set",
    )
    assert hook_for(programs).execute(make_context(dry_run=True)).state == "acknowledged"
    assert programs.stat().st_mtime_ns == before
    with_words = hook_for(programs, get=["cat", "${service}"])
    assert "none was, because `get` has words that only a request fills in" in with_words.test().did
    assert with_words.test("hold").state == "acknowledged"
    assert "no program" in hook_for(programs, set=["no-such-thing"]).test().did
    programs.write_text("[]")
    assert "cat: the answer is no JSON object" in hook_for(programs).test().did


def test_words_are_filled_into_both(programs):
    hook = hook_for(programs, get=["cat", f"{programs.parent}/${{service}}"])
    context = make_context(service="shares")
    assert hook.read_shares(context) == {"baseline": 0.9, "canary": 0.1}
    assert hook.execute(context).state == "acknowledged"
    with pytest.raises(HookError, match=r"uses \$\{service\}, which has a value only in a request"):
        hook.read_shares()


def test_one_that_fails_before_or_after_it_has_acted(programs):
    context = make_context(**CONTEXT)
    outcome = hook_for(programs, set=["sh", "-c", "echo no permission; exit 3"]).execute(context)
    assert (outcome.state, "sh ended with 3: no permission; the shares are as before" in outcome.did) == (
        "failed",
        True,
    )
    half = ["sh", "-c", f"""echo '{{"baseline": 0.5, "canary": 0.5}}' > {programs}; exit 3"""]
    outcome = hook_for(programs, set=half).execute(context)
    assert (outcome.state, "sh ended with 3: it wrote nothing" in outcome.did) == ("unknown", True)
    late = hook_for(programs, set=["sleep", "20"], timeout="200ms")
    with pytest.raises(MaybeSent, match=r"sleep was ended after 0.2 s"):
        late.set_shares({"canary": 1}, context)
    back = hook_for(programs, set=["sh", "-c", "exit 3"]).execute(make_context(action="rollback", **CONTEXT))
    assert (back.state, "not everything is as before: sh ended with 3" in back.did) == ("failed", True), back


def test_going_back_does_not_wait_for_shares_that_cannot_be_read(programs):
    hook = hook_for(programs, get=["false"])
    assert run_hook(Step(hook), make_context(**CONTEXT)).state == "failed"
    assert json.loads(programs.read_text())["baseline"] == 0.9
    outcome = run_hook(Step(hook), make_context(action="rollback", **CONTEXT))
    assert (outcome.state, "the shares were set, and cannot be read back" in outcome.did) == ("unknown", True), outcome
    assert json.loads(programs.read_text()) == {"baseline": 1, "canary": 0}
    outcome = undo_hook(Step(hook), make_context(**CONTEXT), {"baseline": 0.5, "canary": 0.5})
    assert (outcome.state, json.loads(programs.read_text())["canary"]) == ("unknown", 0.5)


def test_one_that_says_yes_and_does_nothing_is_an_error(programs):
    hook = hook_for(programs, set=["true"])
    with pytest.raises(HookError, match=r"accepted the shares, and then reports others: .*; they are as before"):
        hook.set_shares({"canary": 1})
    assert hook.execute(make_context()).state == "failed"


def test_shares_can_be_set_by_hand(programs):
    hook = hook_for(programs)
    lines, _ = paste(hook, undoes=True, earlier={"baseline": 0.5, "canary": 0.5}, **CONTEXT)
    assert hook.read_shares() == {"baseline": 0.5, "canary": 0.5}
    assert "EVALUATOR_SHARE=0.5" in lines
    paste(hook, action="rollback", **CONTEXT)
    assert hook.read_shares() == {"baseline": 1, "canary": 0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"set": []},
        {"get": []},
        {"run": ["true"]},
        {"undo": ["true"]},
        {"get": ["cat", "${shares}"]},
        {"set": ["x", "${sharess}"]},
        {"arms": ["baseline"]},
        {"shares": {"fast": "100%"}},
        {"shares": {"canary": "50%"}},
    ],
)
def test_programs_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(PolicyError):
        make_hook("command", {"set": ["x"], "get": ["y"]} | wrong)
    with pytest.raises(PolicyError):
        make_hook("command", {})


# ------------------------------------------------------------------ HTTP


@pytest.fixture
def server(receiver):
    """A router at an address: PUT sets what GET answers."""
    receiver.shares = {"baseline": 0.9, "canary": 0.1}

    def answer(handler, request):
        if request.method == "PUT":
            receiver.shares = json.loads(request.body)
        reply(200, json.dumps(receiver.shares).encode())(handler, request)

    receiver.answers = [answer]
    return receiver


def router_at(server, **extra):
    url = f"{server.url}/${{release}}/shares"
    token = {"Authorization": "Bearer ${TOKEN}"}
    options = {
        "set": {"method": "PUT", "url": url, "headers": token},
        "get": {"url": url, "headers": token},
        "allow_hosts": ["127.0.0.1"],
    }
    return make_hook("http", options | extra, {"TOKEN": "s3cret-token"})


def test_two_requests_are_a_router(server):
    hook, context = router_at(server), make_context()
    assert hook.read_shares(context) == {"baseline": 0.9, "canary": 0.1}
    outcome = hook.execute(context)
    assert (outcome.state, outcome.earlier) == ("acknowledged", {"baseline": 0.9, "canary": 0.1}), outcome
    assert server.shares == {"baseline": 0, "canary": 1}
    assert hook.undo(context, outcome.earlier).state == "acknowledged"
    assert server.shares == {"baseline": 0.9, "canary": 0.1}
    puts = [request for request in server.requests if request.method == "PUT"]
    assert puts[0].path == "/cart%401.5.0/shares"
    assert puts[0].headers["authorization"] == "Bearer s3cret-token"
    assert puts[0].headers["content-type"] == "application/json"
    assert "sets the shares of the router at" in hook.describe(context)


def test_shares_can_be_sent_by_hand(server):
    hook = router_at(server)
    earlier = {"baseline": 0.25, "canary": 0.75}
    lines, _ = paste(hook, undoes=True, earlier=earlier, environment={"TOKEN": "s3cret-token"})
    assert server.shares == earlier
    assert "s3cret-token" not in lines
    assert server.requests[-1].headers["authorization"] == "Bearer s3cret-token"


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (
            '{"weights": ${shares}, "by": "${requester}"}',
            '{"weights": {"baseline": 0.75, "canary": 0.25}, "by": "ann@example.org"}',
        ),
        ('{"canary": ${percent}, "text": "${share} of ${version}"}', '{"canary": 25, "text": "0.25 of 1.5.0"}'),
    ],
)
def test_the_body_has_the_shares_as_it_needs_them(body, sent, server):
    hook = router_at(server, set={"method": "POST", "url": server.url, "body": body})
    server.shares = {"baseline": 0.75, "canary": 0.25}
    hook.set_shares({"baseline": 0.75, "canary": 0.25}, make_context())
    assert [request.body for request in server.requests if request.body] == [sent.encode()]


@pytest.mark.parametrize(
    ("status", "state"), [(409, "failed"), (302, "failed"), (503, "failed"), (500, "unknown"), (502, "unknown")]
)
def test_its_status_decides(status, state, server):
    works = server.answers[0]

    def answer(handler, request):
        (reply(status, b"no") if request.method == "PUT" else works)(handler, request)

    server.answers = [answer]
    outcome = router_at(server).execute(make_context())
    assert (outcome.state, f"the answer was {status}: no" in outcome.did) == (state, True), outcome


def test_half_an_answer_and_none(server):
    works = server.answers[0]
    server.answers = [reply(200, b'{"baseline": 0.9, "can')]
    assert router_at(server).execute(make_context()).state == "failed"
    with pytest.raises(HookError, match="no JSON object"):
        router_at(server).read_shares(make_context())
    server.answers = [reply(500, b"s3cret-token")]
    with pytest.raises(HookError, match=r"was 500: \[secret\]"):
        router_at(server).read_shares(make_context())

    def answer(handler, request):
        if request.method == "PUT":
            time.sleep(0.6)
        works(handler, request)

    server.answers = [answer]
    assert router_at(server, timeout="200ms").execute(make_context()).state == "unknown"


def test_a_server_that_says_yes_and_does_nothing_is_an_error(server):
    server.answers = [reply(200, b'{"baseline": 0.9, "canary": 0.1}')]
    outcome = router_at(server).execute(make_context())
    assert (outcome.state, "and then reports others" in outcome.did) == ("failed", True)


def test_a_test_of_it_sends_what_reads_or_says_why_not(server):
    assert "because `get` has words that only a request fills in" in router_at(server).test().did
    assert not server.requests
    hook = router_at(server, get={"url": server.url})
    assert hook.test().did == "the shares are baseline 90 %, canary 10 %; no share was set"
    assert [request.method for request in server.requests] == ["GET"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"set": None},
        {"get": None},
        {"url": "http://h/"},
        {"undo": {"url": "http://h/"}},
        {"headers": {"X-A": "b"}},
        {"set": {"url": "http://h/", "body": '{"shares": "${shares}"}'}},
        {"get": {"url": "http://h/${shares}"}},
        {"set": {"url": "http://${service}/"}},
        {"shares": {"canary": "5%"}},
    ],
)
def test_requests_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(PolicyError):
        make_hook("http", {"set": {"url": "http://h/"}, "get": {"url": "http://h/"}} | wrong)
    with pytest.raises(PolicyError):
        make_hook("http", {})
