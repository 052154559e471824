import json
import time

import pytest
from hooks_world import make_context, paste, reply

from evaluator.errors import PolicyError
from evaluator.hooks import make_hook

TOKEN = "s3cr3t-t0ken"


def hook_for(receiver, **extra):
    options = {"url": receiver.url + "/v1/${release}?why=${reason}", "allow_hosts": ["127.0.0.1"]}
    return make_hook("http", options | extra, {"TOKEN": TOKEN})


def test_words_are_escaped_for_where_they_stand(receiver):
    hook = hook_for(
        receiver,
        method="PUT",
        headers={"Authorization": "Bearer ${TOKEN}", "X-Reason": "${reason}", "Idempotency-Key": "${idempotency_key}"},
        body='{"version": "${canary}", "why": "${reason}"}',
    )
    assert hook.execute(make_context()).state == "acknowledged"
    request = receiver.requests[0]
    assert request.method == "PUT"
    assert request.path == "/v1/cart%401.5.0?why=it%20is%20%22better%22%0Athan%20before"
    assert json.loads(request.body) == {"version": "1.5.0", "why": make_context().reason}
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["x-reason"] == 'it is "better"%0Athan before'
    assert request.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "where", [{"url": "/${canary}"}, {"method": "PUT", "body": '"${canary}"'}, {"headers": {"X-Version": "${canary}"}}]
)
def test_nothing_is_sent_with_a_version_that_is_not_known(where, receiver):
    hook = hook_for(receiver, **where | {"url": receiver.url + where.get("url", "/")})
    outcome = hook.execute(make_context(canary=""))
    assert (outcome.state, "the version of canary is not known" in outcome.did) == ("failed", True)
    assert receiver.requests == []
    assert hook.execute(make_context(canary="", outcome="failed")).state == "acknowledged", "an announcement"


def test_a_form_is_escaped_as_one(receiver):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    hook_for(receiver, headers=form, body="content=${canary}&why=${reason}").execute(make_context(reason="a&b=c"))
    assert receiver.requests[0].body == b"content=1.5.0&why=a%26b%3Dc"


@pytest.mark.parametrize("reason", ["${TOKEN}", "${canary}", '", "admin": "yes', "\r\nX-Evil: 1"])
def test_what_people_write_is_nothing_but_text(reason, receiver):
    hook = hook_for(receiver, headers={"X-Why": "${reason}", "X-Token": "${TOKEN}"}, body='{"why": "${reason}"}')
    assert hook.execute(make_context(reason=reason)).state == "acknowledged"
    request = receiver.requests[0]
    assert json.loads(request.body) == {"why": reason}
    assert "x-evil" not in request.headers
    assert TOKEN not in request.headers["x-why"] + request.path


@pytest.mark.parametrize(
    ("status", "state"), [(204, "acknowledged"), (302, "failed"), (409, "failed"), (500, "unknown"), (503, "failed")]
)
def test_its_status_decides(status, state, receiver):
    receiver.answers = [reply(status, b"" if status == 204 else b"said", Location="http://127.0.0.1:1/")]
    assert hook_for(receiver).execute(make_context()).state == state
    assert len(receiver.requests) == 1


def test_other_statuses_and_contents_may_decide(receiver):
    receiver.answers = [reply(409), reply(200, b"false"), reply(200, b"true")]
    assert hook_for(receiver, accept=[200, 409]).execute(make_context()).state == "acknowledged"
    states = [hook_for(receiver, contains="true").execute(make_context()).state for _ in range(2)]
    assert states == ["failed", "acknowledged"]


def test_no_answer_may_have_been_done(receiver):
    receiver.answers = [lambda *_: time.sleep(1)]
    outcome = hook_for(receiver, timeout="200ms").execute(make_context())
    assert outcome.state == "unknown"
    assert not hook_for(receiver).idempotent
    assert hook_for(receiver, method="PUT").idempotent


def test_undone_by_another_request(receiver):
    hook = hook_for(receiver, undo={"method": "DELETE", "url": receiver.url + "/v1/${release}"})
    assert hook.undo(make_context(), None).state == "acknowledged"
    assert receiver.requests[0].method == "DELETE"
    assert hook_for(receiver).undo(make_context(), None).state == "failed"


def test_test_and_dry_run_send_nothing(receiver):
    hook = hook_for(receiver, headers={"X-Token": "${TOKEN}"})
    assert hook.test().state == "acknowledged"
    assert hook.execute(make_context(dry_run=True)).state == "acknowledged"
    assert "UNSET" in hook_for(receiver, headers={"X-Token": "${UNSET}"}).test().did
    assert not receiver.requests


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://${release}/"},
        {"url": "http://u:p@h/"},
        {"url": "http://h/${TOKEN}"},
        {"body": '{"v": ${canary}}'},
        {"body": '{"v": "${TOKEN}"}'},
        {"headers": {"Authorization": "Bearer written-here"}},
        {"headers": {"X-A": "${token}"}},
        {"headers": {"X A": "b"}},
        {"headers": {"host": "other.example.org"}},
        {"headers": {"X-A": "b\r\nc: d"}},
        {"method": "TRACE"},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(PolicyError):
        make_hook("http", {"url": "http://h/"} | wrong)


def test_the_request_that_takes_it_back_can_be_sent_by_hand(receiver):
    undo = {
        "method": "PUT",
        "url": receiver.url + "/v1/${release}?why=${reason}",
        "headers": {"Authorization": "Bearer ${TOKEN}", "X-Reason": "it's ${reason} $HOME `id`"},
        "body": '{"version": "${baseline}", "why": "${reason}"}',
    }
    reason = 'it\'s "better" than ${TOKEN} $HOME `id`!'
    hook = hook_for(receiver, undo=undo)
    assert hook.undo(make_context(reason=reason), None).state == "acknowledged"
    lines, _ = paste(hook, undoes=True, environment={"TOKEN": TOKEN}, reason=reason)
    sent, by_hand = receiver.requests
    assert (by_hand.method, by_hand.path, by_hand.body) == (sent.method, sent.path, sent.body)
    for name in ("authorization", "x-reason", "content-type"):
        assert by_hand.headers[name] == sent.headers[name]
    assert TOKEN not in lines
    assert "\n" not in lines
