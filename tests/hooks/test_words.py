"""Words in options: what they hold, and what happens where they hold nothing."""

import pytest
from hooks_world import make_context

from evaluator.errors import HookError, PolicyError
from evaluator.hooks import make_hook
from evaluator.hooks.templates import OPTIONAL, SET_WORDS, WORDS, check_template, fill_json, fill_words, show_words

FULL = {
    "service": "cart",
    "share": "0.05",
    "step": "5 %",
    "request": "i7",
    "link": "https://evaluator.example.org/?release=cart%401.5.0",
    "instance": "s1",
    "instances": "s1 s2",
}


def echo(*arguments):
    return make_hook("command", {"run": ["echo", *arguments]}, {"PATH": "/usr/bin:/bin"})


def test_each_word_is_filled_in():
    text = " ".join(f"{word}=${{{word}}}" for word in sorted(WORDS) if word not in ("outcome", "reason", "summary"))
    assert echo(text).execute(make_context(**FULL)).response == (
        "action=promote arm=canary baseline=1.4.1 canary=1.5.0 idempotency_key=intent-7 instance=s1 instances=s1 s2 "
        "link=https://evaluator.example.org/?release=cart%401.5.0 release=cart@1.5.0 request=i7 "
        "requester=ann@example.org service=cart share=0.05 step=5 % verdict=go verdict_hash=sha256:5a version=1.5.0"
    )


def test_the_version_is_that_of_the_arm():
    assert echo("${arm} ${version}").execute(make_context(arm="baseline")).response == "baseline 1.4.1"
    assert echo("${version}").execute(make_context(arm="fast")).response == "1.5.0"


@pytest.mark.parametrize("word", sorted(OPTIONAL))
def test_nothing_is_done_with_a_word_that_has_no_value(word):
    empty = {"version": {"canary": ""}}.get(word, {word: ""})
    hook = echo(f"x ${{{word}}}")
    outcome = hook.execute(make_context(**FULL | empty))
    assert (outcome.state, f"it uses ${{{word}}}, and" in outcome.did) == ("failed", True), outcome
    assert OPTIONAL[word] in outcome.did
    announced = hook.execute(make_context(outcome="failed", **FULL | empty))
    assert (announced.state, announced.response) == ("acknowledged", "x")
    described = hook.describe(make_context(**FULL | empty))
    missing = {"summary": "what happened"}.get(word, word)  # the names of the other words say what is missing
    assert ("‹" in described, missing in described, "${" in described) == (True, True, False), described


def test_a_program_gets_no_variable_for_a_word_without_a_value():
    hook = make_hook("command", {"run": ["env"]}, {"PATH": "/usr/bin:/bin"})
    lines = hook.execute(make_context()).response.splitlines()
    assert {"EVALUATOR_ARM=canary", "EVALUATOR_VERSION=1.5.0"} <= set(lines)
    assert not [line for line in lines if line.startswith(("EVALUATOR_STEP", "EVALUATOR_SHARE", "EVALUATOR_LINK"))]
    assert "EVALUATOR_STEP=5 %" in hook.execute(make_context(**FULL)).response.splitlines()


def test_a_message_reaches_people_without_it(receiver):
    to = [f"json://127.0.0.1:{receiver.port}/"]
    hook = make_hook("notify", {"to": to, "body": "${step} ${link}", "allow_hosts": ["127.0.0.1"]})
    assert hook.execute(make_context()).state == "acknowledged"
    assert b"none none" in receiver.requests[0].body


@pytest.mark.parametrize("word", ["steps", "STEP ", "shares", "percent", "weight", ""])
def test_unknown_words_are_refused(word):
    with pytest.raises(PolicyError, match="cannot have"):
        echo(f"${{{word}}}")


def test_words_of_a_call_that_sets_shares_are_known_only_there():
    assert check_template("${shares} ${percent}", SET_WORDS)
    words = make_context().words() | {"shares": '{"canary": 0.05}', "percent": "5"}
    assert fill_json('{"all": ${shares}, "why": "${reason}"}', words).startswith('{"all": {"canary": 0.05}, "why": "it')
    assert fill_words("${percent}%", words) == "5%"
    with pytest.raises(HookError, match="has a value only in a request"):
        fill_words("${release}", {})


def test_people_read_what_a_word_will_be_and_secrets_stay_names():
    text = "${canary} ${reason} ${outcome} ${HOOK_SECRET} ${percent}"
    words = make_context(reason="").words()
    assert show_words(text, words) == "1.5.0 ‹your reason› ‹how it ends› ${HOOK_SECRET} ‹share in percent›"
    assert show_words(text, {}) == text
    assert not [
        word
        for word in (*WORDS, *SET_WORDS)
        if "${" in show_words(f"${{{word}}}", {"release": "cart@1", "action": "hold"})
    ]
