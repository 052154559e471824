import json
import logging
import threading

import pytest
from hooks_world import make_context, receiving_mail, reply

from evaluator.errors import PolicyError
from evaluator.hooks import make_hook

TOKEN = "pa55-t0ken"


@pytest.fixture(scope="module")
def mailbox():
    with receiving_mail() as box:
        yield box


def hook_for(*to, **extra):
    return make_hook("notify", {"to": list(to), "allow_hosts": ["127.0.0.1"]} | extra, {"TOKEN": TOKEN})


def address_of(receiver):
    return f"json://127.0.0.1:{receiver.port}/in/${{TOKEN}}"


def mail_to(mailbox):
    return f"mailto://127.0.0.1:{mailbox.port}?from=evaluator@example.org&to=team@example.org"


def test_mail_and_chat_are_notified(mailbox, receiver):
    outcome = hook_for(mail_to(mailbox), address_of(receiver)).execute(make_context())
    assert outcome.state == "acknowledged", outcome
    mail = mailbox.mails[-1]
    assert mail["subject"] == "cart@1.5.0: promote"
    assert mail["to"] == "team@example.org"
    assert "1.4.1 to 1.5.0" in mail.get_body(("plain", "html")).get_content()
    request = receiver.requests[0]
    assert request.path == f"/in/{TOKEN}"
    assert make_context().reason in json.loads(request.body)["message"]


def test_one_that_fails_does_not_keep_the_other_from_being_notified(mailbox, receiver):
    receiver.answers = [reply(500, b"no")]
    before = len(mailbox.mails)
    outcome = hook_for(address_of(receiver), mail_to(mailbox)).execute(make_context())
    assert outcome.state == "failed"
    assert "1 of 2 were notified, not json" in outcome.did
    assert len(mailbox.mails) == before + 1


def test_a_line_break_is_no_header(mailbox):
    title = "${release} ${reason}"
    context = make_context(reason="x\r\nBcc: eve@example.org")
    assert hook_for(mail_to(mailbox), title=title).execute(context).state == "acknowledged"
    assert mailbox.mails[-1]["bcc"] is None


@pytest.mark.parametrize("query", ["", "?redirect=yes"])
def test_redirects_are_not_followed(query, receiver):
    receiver.answers = [reply(307, b"", Location=f"http://127.0.0.1:{receiver.port}/other")]
    assert hook_for(address_of(receiver) + query).execute(make_context()).state == "failed"
    assert [request.path for request in receiver.requests] == [f"/in/{TOKEN}"]


def test_hosts_that_are_not_listed_are_refused(receiver, mailbox):
    for address in (address_of(receiver), mail_to(mailbox)):
        hook = hook_for(address, allow_hosts=["example.org"])
        assert "allow_hosts" in hook.execute(make_context()).did
    assert not receiver.requests


def test_a_hook_has_no_warnings_of_another_one_that_sends_at_the_same_time(receiver):
    """Each hook knows only its own secrets."""
    others = logging.getLogger("apprise")

    def fail_meanwhile(handler, received):
        warn = threading.Thread(target=others.warning, args=["cannot send to other-t0ken"])
        warn.start()
        warn.join()
        reply(500)(handler, received)

    receiver.answers = [fail_meanwhile]
    outcome = hook_for(address_of(receiver)).execute(make_context())
    assert outcome.state == "failed"
    assert "error=500" in outcome.response
    assert "other-t0ken" not in outcome.response


def test_secrets_are_neither_sent_nor_logged(receiver, caplog):
    receiver.answers = [reply(500, TOKEN.encode())]
    hook = hook_for(address_of(receiver))
    with caplog.at_level(logging.DEBUG):
        outcome = hook.execute(make_context())
    assert outcome.response
    assert caplog.records
    assert TOKEN not in caplog.text + repr(outcome) + hook.describe() + repr(hook.test())


def test_test_and_dry_run_notify_nobody(receiver):
    hook = hook_for(address_of(receiver))
    assert hook.test().state == "acknowledged"
    assert hook.execute(make_context(dry_run=True)).state == "acknowledged"
    assert not receiver.requests
    assert hook.undo(make_context(), None).state == "failed"


@pytest.mark.parametrize("wrong", [{"to": ["${TOKEN}"]}, {"to": []}, {"body": "${TOKEN}"}, {"title": "${x}"}])
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(PolicyError):
        make_hook("notify", {"to": ["json://h"]} | wrong)


def test_an_address_that_apprise_does_not_know():
    assert "cannot use" in hook_for("nosuchservice://x").test().did


def test_texts_from_outside_are_no_markup_and_mention_nobody(mailbox, receiver):
    reason = "<img src=x onerror=alert(1)> <!channel> <@U123> @everyone @here ann@example.org"
    context = make_context(reason=reason, release="<b>cart")
    hook = hook_for(mail_to(mailbox), f"{mail_to(mailbox)}&format=html", address_of(receiver))
    assert hook.execute(context).state == "acknowledged"
    assert mailbox.mails[-2].get_body(("html",)) is None
    html = mailbox.mails[-1].get_body(("html",)).get_content()
    assert "<img" not in html
    assert "<b>" not in html
    assert "&lt;img" in html
    message = json.loads(receiver.requests[-1].body)["message"]
    for mention in ("<!channel", "<@U123", "@everyone", "@here"):
        assert mention not in message
    assert "ann@example.org" in message


def test_news_have_what_happened_and_the_link(receiver):
    context = make_context(outcome="failed", summary="i7: promote failed", link="https://ci.example.org/7", reason="x")
    hook = hook_for(address_of(receiver))
    assert hook.execute(context).state == "acknowledged"
    message = json.loads(receiver.requests[-1].body)
    assert (message["title"], message["type"]) == ("cart@1.5.0: promote failed", "failure")
    assert message["message"].splitlines() == [
        "i7: promote failed", "go: 1.4.1 to 1.5.0. ann@example.org: x", "https://ci.example.org/7",
    ]  # fmt: skip
    assert "${outcome}" not in hook.describe()
    assert "${summary}" not in hook.describe(make_context())


def test_own_texts_get_the_words_of_news(receiver):
    hook = hook_for(address_of(receiver), title="${action} ${outcome}", body="${summary} ${link}")
    hook.execute(make_context(outcome="waiting", summary="i7 waits", link="https://ci.example.org/7"))
    message = json.loads(receiver.requests[-1].body)
    assert (message["title"], message["message"]) == ("promote waiting", "i7 waits https://ci.example.org/7")
