import json
import socket
import time
from datetime import UTC, datetime, timedelta

import pytest
from hooks_world import make_context, paste, reply
from standardwebhooks import Webhook as Published

from evaluator.hooks import make_hook

SECRET = "whsec_" + "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def hook_for(receiver, **extra):
    options = {"url": receiver.url + "/in?team=a", "secret": "${HOOK_SECRET}", "allow_hosts": ["127.0.0.1"]}
    return make_hook("webhook", options | extra, {"HOOK_SECRET": SECRET})


def test_the_published_library_believes_it(receiver):
    outcome = hook_for(receiver).execute(make_context())
    assert outcome.state == "acknowledged"
    request = receiver.requests[0]
    payload = Published(SECRET).verify(request.body, request.headers)
    assert payload["type"] == "release.promote"
    assert payload["data"] == make_context().known_words()
    assert request.path == "/in?team=a"


def test_a_version_that_is_not_known_is_not_sent(receiver):
    hook_for(receiver).execute(make_context(baseline="", outcome=""))
    data = json.loads(receiver.requests[0].body)["data"]
    assert ("baseline" in data, "canary" in data, data["outcome"]) == (False, True, "")


def test_one_id_over_all_attempts_and_each_is_signed(receiver):
    receiver.answers = [reply(500), reply(503, Retry_After="0"), lambda h, s: h.connection.close(), reply(204, b"")]
    assert hook_for(receiver).execute(make_context()).state == "acknowledged"
    assert {request.headers["webhook-id"] for request in receiver.requests} == {"intent-7"}
    assert len(receiver.requests) == 4
    assert len({request.body for request in receiver.requests}) == 1
    for request in receiver.requests:
        Published(SECRET).verify(request.body, request.headers)


@pytest.mark.parametrize(("status", "state"), [(302, "failed"), (400, "failed"), (410, "failed"), (404, "failed")])
def test_what_is_refused_is_not_sent_again(status, state, receiver):
    receiver.answers = [reply(status, b"no", Location="http://127.0.0.1:1/")]
    outcome = hook_for(receiver).execute(make_context())
    assert (outcome.state, outcome.response, len(receiver.requests)) == (state, "no", 1)


def test_waits_as_long_as_the_receiver_requests(receiver):
    receiver.answers = [reply(429, Retry_After="1"), reply()]
    began = time.monotonic()
    assert hook_for(receiver).execute(make_context()).state == "acknowledged"
    assert 1.0 <= time.monotonic() - began < 2.5


@pytest.mark.parametrize(("status", "state"), [(429, "failed"), (503, "failed"), (500, "unknown")])
def test_gives_up_before_the_intent_expires(status, state, receiver):
    receiver.answers = [reply(status, Retry_After="60")]
    soon = datetime.now(UTC) + timedelta(seconds=1)
    outcome = hook_for(receiver).execute(make_context(expires_at=soon))
    assert outcome.state == state
    assert len(receiver.requests) == 1
    assert datetime.now(UTC) < soon


def test_a_receiver_that_hangs_may_have_it(receiver):
    receiver.answers = [lambda *_: time.sleep(2)]
    soon = datetime.now(UTC) + timedelta(seconds=0.8)
    outcome = hook_for(receiver, timeout="300ms").execute(make_context(expires_at=soon))
    assert outcome.state == "unknown"


def test_undoing_is_another_message(receiver):
    hook_for(receiver).undo(make_context(), None)
    assert receiver.requests[0].headers["webhook-id"] == "intent-7-undo"
    assert json.loads(receiver.requests[0].body)["type"] == "release.promote.undone"


def test_a_dry_run_an_expired_one_and_a_test_send_nothing(receiver):
    hook = hook_for(receiver)
    assert "dry run" in hook.execute(make_context(dry_run=True)).did
    assert hook.test().state == "acknowledged"
    assert hook.execute(make_context(expires_at=datetime.now(UTC))).state == "failed"
    assert not receiver.requests


@pytest.mark.parametrize("secret", [None, "whsec_short", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_***"])
def test_a_secret_that_is_none_sends_nothing(secret, receiver):
    hook = make_hook(
        "webhook",
        {"url": receiver.url, "secret": "${HOOK_SECRET}", "allow_hosts": ["127.0.0.1"]},
        {"HOOK_SECRET": secret} if secret else {},
    )
    for outcome in (hook.test(), hook.execute(make_context())):
        assert outcome.state == "failed"
        assert not secret or secret not in outcome.did
    assert not receiver.requests


def test_what_the_receiver_repeats_is_shown_without_secrets(receiver):
    receiver.answers = [reply(200, f"{SECRET} {SECRET[6:]}".encode())]
    outcome = hook_for(receiver).execute(make_context())
    assert outcome.response == "[secret] [secret]"


@pytest.mark.parametrize("pause", ["²", "soon", "", "Wed, 99 Foo 2026", "-5", "9" * 400])
def test_a_pause_that_cannot_be_read_is_ours(pause, receiver):
    receiver.answers = [reply(503, b"", Retry_After=pause), reply()]
    assert hook_for(receiver).execute(make_context()).state == "acknowledged"


def test_a_refusal_after_an_attempt_that_may_have_been_accepted_is_unknown(receiver):
    receiver.answers = [lambda h, s: h.connection.close(), reply(400)]
    assert hook_for(receiver).execute(make_context()).state == "unknown"


@pytest.mark.parametrize(
    ("options", "is_tried_again"),
    [
        pytest.param({}, True, id="nobody listens yet"),
        pytest.param({"ca": "cannot be reached"}, False, id="a mistake whose text has the words of the other"),
    ],
)
def test_only_a_receiver_that_is_not_there_is_tried_again(options, is_tried_again):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"https://127.0.0.1:{closed.getsockname()[1]}/"
    where = {"url": url, "secret": "${HOOK_SECRET}", "allow_hosts": ["127.0.0.1"]}
    hook = make_hook("webhook", where | options, {"HOOK_SECRET": SECRET})
    send_once, attempts = hook._send_once, []
    hook._send_once = lambda *arguments: attempts.append(arguments) or send_once(*arguments)
    outcome = hook.execute(make_context(expires_at=datetime.now(UTC) + timedelta(seconds=1.2)))
    assert (outcome.state, "cannot be reached" in outcome.did) == ("failed", True)
    assert (len(attempts) > 1) is is_tried_again


def test_the_message_can_be_signed_and_posted_by_hand(receiver):
    hook = hook_for(receiver)
    lines, _ = paste(hook, undoes=True, environment={"HOOK_SECRET": SECRET}, reason='it\'s "odd" $HOME')
    [request] = receiver.requests
    message = Published(SECRET).verify(request.body, request.headers)
    assert (message["type"], message["data"]["reason"]) == ("release.promote.undone", 'it\'s "odd" $HOME')
    assert request.headers["webhook-id"] == "intent-7-undo"
    assert SECRET not in lines
