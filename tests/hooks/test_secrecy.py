"""Secrets of every kind of hook are searched in all of its texts, with a receiver that repeats what it gets."""

import base64
import logging

import pytest
from hooks_world import make_context, reply

from evaluator.errors import UsageError
from evaluator.hooks import HOOKS, Step, make_hook, run_hook, undo_hook
from evaluator.secrecy import OF_HOOKS, redact

KEY = base64.b64encode(b"k" * 32).decode()
SECRETS = {"HOOK_SECRET": f"whsec_{KEY}", "TOKEN": 'tok"en/+=%1', "DNS_KEY": KEY, "PATH": "/usr/bin:/bin"}


def options_for(receiver):
    http = {"url": f"{receiver.url}/x", "allow_hosts": ["127.0.0.1"], "timeout": "500ms"}
    token = {"token": "${TOKEN}"}
    return {
        "webhook": http | {"secret": "${HOOK_SECRET}", "time_limit": "1s"},
        "command": {"run": ["sh", "-c", 'echo "$TOKEN"; exit 1'], "environment": ["TOKEN"]},
        "haproxy": {"address": f"127.0.0.1:{receiver.port}", "backend": "b",
                    "servers": {"baseline": "a", "canary": "c"}, "allow_hosts": ["127.0.0.1"]},
        "nginx": {"file": "/nowhere/f", "upstream": "u", "servers": {"baseline": "h", "canary": "i"}},
        "http": http | {"headers": {"Authorization": "Bearer ${TOKEN}"}},
        "etcd": http | {"key": "k", "value": "v", "username": "u", "password": "${TOKEN}"},
        "dns": {"server": f"127.0.0.1:{receiver.port}", "zone": "z.test", "name": "n", "values": ["10.0.0.1"],
                "key_name": "upd", "key_secret": "${DNS_KEY}", "allow_hosts": ["127.0.0.1"], "timeout": "500ms"},
        "notify": {"to": [f"json://127.0.0.1:{receiver.port}/?+X-T=${{TOKEN}}"], "allow_hosts": ["127.0.0.1"]},
        "command as a router": {
            "set": ["sh", "-c", 'echo "$TOKEN"; exit 1'], "get": ["sh", "-c", 'echo "$TOKEN" >&2; exit 1'],
            "environment": ["TOKEN"],
        },
        "http as a router": {
            "set": {"url": receiver.url, "headers": {"X-A": "Bearer ${TOKEN}"}},
            "get": {"url": receiver.url, "headers": {"X-A": "Bearer ${TOKEN}"}}, "allow_hosts": ["127.0.0.1"],
        },
        "tcp": {"address": f"127.0.0.1:{receiver.port}", "allow_hosts": ["127.0.0.1"]},
        "kubernetes": http | token | {"rollout": {"name": "a", "do": "abort"}},
    }  # fmt: skip


def repeat(status):
    def answer(handler, request):
        echo = repr(request) + repr(SECRETS)
        reply(status, echo.encode())(handler, request)

    return answer


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("kind", [*HOOKS, "command as a router", "http as a router"])
def test_no_secret_in_any_text(kind, status, receiver, caplog):
    receiver.answers = [repeat(status)]
    hook = make_hook(kind.split()[0], options_for(receiver)[kind], SECRETS)
    context = make_context()
    with caplog.at_level(logging.DEBUG):
        step = Step(hook, time_limit_s=1)
        done = [run_hook(step, context), undo_hook(step, context, None)]
        outcomes = [*done, hook.test(), hook.execute(make_context(dry_run=True))]
    texts = f"{hook.describe()} {outcomes} {context!r} {caplog.text}"
    named = {"webhook": "HOOK_SECRET", "dns": "DNS_KEY"}.get(kind, "TOKEN")
    assert SECRETS[named] not in texts
    assert SECRETS[named].removeprefix("whsec_") not in texts


def test_every_spelling_is_found():
    secret = 'a"b c/é'
    text = 'a"b c/é a%22b%20c%2F%C3%A9 a%22b+c%2F%C3%A9 a\\"b c/\\u00e9 ' + base64.b64encode(secret.encode()).decode()
    assert redact(text, [secret]) == " ".join(["[secret]"] * 5)


def test_one_that_is_not_set_is_named():
    with pytest.raises(UsageError, match="NO_SUCH"):
        OF_HOOKS.reveal("x ${NO_SUCH}", {})
    assert OF_HOOKS.reveal("${A}${A}", {"A": "1"}) == "11"


def test_a_secret_that_no_header_can_have_is_not_sent(receiver):
    hook = make_hook("kubernetes", options_for(receiver)["kubernetes"], {"TOKEN": "first\nsecond"})
    for outcome in (hook.test(), hook.execute(make_context())):
        assert outcome.state == "failed"
        assert "a request to 127.0.0.1 cannot be written" in outcome.did
        assert "first" not in outcome.did
    assert not receiver.requests
