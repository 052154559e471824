"""Send the decision to a receiver, as Standard Webhooks defines it: signed, with one id for all attempts.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from pydantic import Field
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential, wait_random

from evaluator.errors import HookError, NotReached
from evaluator.hooks.base import BaseHook, HookContext, Outcome
from evaluator.hooks.by_hand import write_curl
from evaluator.hooks.network import HttpResponse, MaybeSent, TlsOptions, resolve_allowed, send, split_url
from evaluator.hooks.options import SecretName, Text
from evaluator.secrecy import OF_HOOKS

GONE = 410
"""The receiver accepts no more messages."""
SHORTEST_WAIT_S = 0.2
_RETRYABLE_STATUSES = {408, 409, 425, 429}
_wait_longer = wait_exponential(multiplier=0.5, max=60.0) + wait_random(0.0, 0.5)
"""Seconds until the next attempt: twice as many each time."""


class WebhookOptions(TlsOptions):
    """Where to, and the secret that signs it."""

    url: Text = Field(description="Address that the message is posted to.")
    secret: SecretName = Field(description="Where the signing secret is: ${VARIABLE}, whose value begins with whsec_.")


class _RetryableFailure(Exception):
    """The message was not accepted yet, but may be in another attempt.

    `wait_s`: how long the receiver wants us to wait; None: it does not say. `answer`: its text. `maybe_accepted`: the
    receiver may have the message all the same.
    """

    def __init__(
        self, message: str, *, wait_s: float | None = None, answer: str = "", maybe_accepted: bool = True
    ) -> None:
        """Keep why an attempt failed (`message`), and what the receiver answered; the class describes the arguments."""
        super().__init__(message)
        self.message = message
        self.wait_s = wait_s
        self.answer = answer
        self.maybe_accepted = maybe_accepted


class Webhook(BaseHook[WebhookOptions]):
    """Posts a signed JSON message until it is accepted or the intent expires."""

    kind = "webhook"
    Options = WebhookOptions

    def _describe(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - its options have no words
        return f"posts the decision to {self.options.url}, signed"

    def _describe_undo(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - as above
        return f"posts to {self.options.url}, signed, that the decision is undone"

    def _test(self) -> Outcome:
        """Check that the host may be connected to, and that the secret can sign; sends nothing."""
        sign(self._fill_secrets(self.options.secret), "test", 0, b"")  # raises HookError for an invalid secret
        host, port = split_url(self.options.url)
        resolve_allowed(host, port, self.options.allow_hosts)
        return Outcome("acknowledged", f"{host} is allowed, and the secret can sign; nothing was sent")

    def _execute(self, context: HookContext) -> Outcome:
        # News of a request have a type of their own: no receiver takes one that waits for a decision to act on.
        event_type = f"request.{context.outcome}" if context.summary else f"release.{context.action}"
        return self._post(context, event_type)

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:  # noqa: ARG002 - the receiver knows what was
        """Post that the decision is undone; the message has an id of its own."""
        return self._post(context, f"release.{context.action}.undone", id_suffix="-undo")

    def write_by_hand(self, context: HookContext) -> list[str]:
        """Write lines for a shell that do the same."""
        return self._write_message_by_hand(context, f"release.{context.action}")

    def write_undo_by_hand(self, context: HookContext, earlier: Any) -> list[str]:  # noqa: ARG002 - as above
        """Write lines for a shell that undo what the hook did."""
        return self._write_message_by_hand(context, f"release.{context.action}.undone", id_suffix="-undo")

    def _write_message_by_hand(self, context: HookContext, event_type: str, id_suffix: str = "") -> list[str]:
        """Write the lines that sign a message as Standard Webhooks defines it, and post it."""
        message = {"type": event_type, "timestamp": datetime.now(UTC).isoformat(), "data": context.known_words()}
        headers = {
            "Content-Type": "application/json",
            "webhook-id": '"$id"',
            "webhook-timestamp": '"$at"',
            "webhook-signature": '"v1,$signature"',
        }
        secret = OF_HOOKS.pattern.findall(self.options.secret)[0]
        return [
            f"id={shlex.quote(context.idempotency_key + id_suffix)}",
            "at=$(date +%s)",
            f"body={shlex.quote(json.dumps(message))}",
            f"""key=$(printf %s "${{{secret}#whsec_}}" | base64 -d | od -An -v -tx1 | tr -d ' \\n')""",
            (
                'signature=$(printf %s "$id.$at.$body" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary'
                " | base64 -w 0)"
            ),
            write_curl("POST", self.options.url, headers, '"$body"', self.options.ca),
        ]

    def _post(self, context: HookContext, event_type: str, id_suffix: str = "") -> Outcome:
        """Post the decision repeatedly, until it is accepted or refused for good, or the time of the context is over.

        `event_type`: such as `release.promote`. The message has the same id in all attempts, so that the receiver
        accepts it once; `id_suffix` makes another id.
        """
        message_id = context.idempotency_key + id_suffix
        message = {"type": event_type, "timestamp": datetime.now(UTC).isoformat(), "data": context.known_words()}
        body = json.dumps(message).encode()
        secret = self._fill_secrets(self.options.secret)
        maybe_accepted = False  # in any attempt so far

        def wait_s(state: RetryCallState) -> float:
            """Seconds until the next attempt: as many as the receiver asks for, else about twice as many each time."""
            error = state.outcome.exception() if state.outcome else None
            requested_s = error.wait_s if isinstance(error, _RetryableFailure) else None
            return requested_s if requested_s is not None else _wait_longer(state)

        def attempt() -> Outcome:
            """Send the message once, and note whether a failure may have been accepted all the same."""
            nonlocal maybe_accepted
            try:
                return self._send_once(message_id, body, secret, context)
            except _RetryableFailure as failure:
                maybe_accepted = maybe_accepted or failure.maybe_accepted
                raise

        try:
            outcome: Outcome = Retrying(
                retry=retry_if_exception_type(_RetryableFailure),
                wait=wait_s,
                stop=lambda state: state.upcoming_sleep >= context.left_s(),  # no time is left for another attempt
                sleep=time.sleep,
                reraise=True,
            )(attempt)
        except _RetryableFailure as last_failure:
            outcome = Outcome("failed", f"not accepted in time: {last_failure.message}", response=last_failure.answer)
        except HookError as error:
            outcome = Outcome("failed", error.message)
        # A refusal now does not take back what an earlier attempt may have done.
        if outcome.state == "failed" and maybe_accepted:
            return replace(outcome, state="unknown")
        return outcome

    def _send_once(self, message_id: str, body: bytes, secret: str, context: HookContext) -> Outcome:
        """Post the message once, signed: acknowledged if it is accepted, failed if it is refused for good.

        Raises _RetryableFailure if another attempt may help, and HookError if it cannot be sent at all.
        """
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(secret, message_id, timestamp, body),
        }
        options = self.options
        limit_s = max(min(options.timeout, context.left_s()), 0.01)
        try:
            answer = send("POST", options.url, options, body, headers, timeout_s=limit_s)
        except MaybeSent as error:
            raise _RetryableFailure(str(error)) from None
        except NotReached as error:
            raise _RetryableFailure(error.message, maybe_accepted=False) from None
        text = f"the receiver answered {answer.status}"
        if answer.ok:
            return Outcome("acknowledged", text, response=answer.text)
        if answer.status in _RETRYABLE_STATUSES or answer.status >= 500:
            raise _RetryableFailure(
                text, wait_s=_read_retry_after_s(answer), answer=answer.text, maybe_accepted=answer.may_be_done
            )
        if answer.status == GONE:
            why = "the receiver accepts no more messages"
        elif 300 <= answer.status < 400:
            why = "redirects are not followed"
        else:
            why = "it is not sent again"
        return Outcome("failed", f"{text}; {why}", response=answer.text)


def _read_retry_after_s(answer: HttpResponse) -> float | None:
    """Read the header Retry-After, a number of seconds or a date, as seconds from now; None without a valid one."""
    header = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", header):
        return max(float(header), SHORTEST_WAIT_S)
    try:
        retry_at = parsedate_to_datetime(header).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
    return max((retry_at - datetime.now(UTC)).total_seconds(), SHORTEST_WAIT_S)


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the header webhook-signature of a message, as Standard Webhooks defines it.

    `secret`: whsec_ and the key in base64. `timestamp`: seconds since 1970. Raises HookError for an invalid secret.
    """
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise HookError(
            "the signing secret is not one of Standard Webhooks",
            hint='it is whsec_ and 24 to 64 random bytes in base64: echo "whsec_$(openssl rand -base64 32)"',
        )
    signed = f"{message_id}.{timestamp}.".encode() + body
    signature = hmac.new(key, signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(signature).decode()
