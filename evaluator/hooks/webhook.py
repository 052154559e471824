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
import time
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from pydantic import Field
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential, wait_random

from evaluator.errors import HookError
from evaluator.hooks.base import BaseHook, HookContext, Outcome
from evaluator.hooks.network import HttpResponse, MaybeSent, TlsOptions, resolve, send, split
from evaluator.hooks.options import SecretName, Text

GONE = 410
"""The receiver accepts no more messages."""
SHORTEST_WAIT_S = 0.2
_RETRYABLE = {408, 409, 425, 429}
_backoff = wait_exponential(multiplier=0.5, max=60.0) + wait_random(0.0, 0.5)


class WebhookOptions(TlsOptions):
    """Where to, and the secret that signs it."""

    url: Text = Field(description="Address that the message is posted to.")
    secret: SecretName = Field(description="Where the signing secret is: ${VARIABLE}, whose value begins with whsec_.")


class _RetryableFailure(Exception):
    """Not accepted yet."""

    def __init__(self, message: str, *, wait_s: float | None = None, answer: str = "", sent: bool = True) -> None:
        super().__init__(message)
        self.message, self.wait_s, self.answer, self.sent = message, wait_s, answer, sent


class Webhook(BaseHook[WebhookOptions]):
    """Posts a signed JSON message until it is accepted or the intent expires."""

    kind = "webhook"
    Options = WebhookOptions

    def _describe(self) -> str:
        return f"posts the decision to {self.options.url}, signed"

    def _test(self) -> Outcome:
        sign(self._secret(self.options.secret), "test", 0, b"")
        host, port = split(self.options.url)
        resolve(host, port, self.options.allow_hosts)
        return Outcome("acknowledged", f"{host} is allowed, and the secret can sign; nothing was sent")

    def _execute(self, context: HookContext) -> Outcome:
        return self._post(context, "release." + context.action)

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:  # noqa: ARG002 - the receiver knows what was
        return self._post(context, f"release.{context.action}.undone", "-undo")

    def _post(self, context: HookContext, kind: str, suffix: str = "") -> Outcome:
        identity = context.idempotency_key + suffix
        body = json.dumps({"type": kind, "timestamp": datetime.now(UTC).isoformat(), "data": context.words()}).encode()
        secret = self._secret(self.options.secret)
        maybe = False

        def wait_s(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            requested_s = error.wait_s if isinstance(error, _RetryableFailure) else None
            return requested_s if requested_s is not None else _backoff(state)

        def attempt() -> Outcome:
            nonlocal maybe
            try:
                return self._send_once(identity, body, secret, context)
            except _RetryableFailure as failure:
                maybe = maybe or failure.sent
                raise

        try:
            outcome: Outcome = Retrying(
                retry=retry_if_exception_type(_RetryableFailure),
                wait=wait_s,
                stop=lambda state: state.upcoming_sleep >= context.left_s(),
                sleep=time.sleep,
                reraise=True,
            )(attempt)
        except _RetryableFailure as last:
            outcome = Outcome("failed", f"not accepted in time: {last.message}", response=last.answer)
        except HookError as error:
            outcome = Outcome("failed", error.message)
        if outcome.state == "failed" and maybe:  # an earlier attempt may have been accepted
            return replace(outcome, state="unknown")
        return outcome

    def _send_once(self, identity: str, body: bytes, secret: str, context: HookContext) -> Outcome:
        now = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": identity,
            "webhook-timestamp": str(now),
            "webhook-signature": sign(secret, identity, now, body),
        }
        options = self.options
        limit_s = max(min(options.timeout, context.left_s()), 0.01)
        try:
            answer = send("POST", options.url, options, body, headers, timeout_s=limit_s)
        except MaybeSent as error:
            raise _RetryableFailure(str(error)) from None
        except HookError as error:
            if "cannot be reached" not in error.message:
                raise
            raise _RetryableFailure(error.message, sent=False) from None
        answered = f"answered {answer.status}"
        if answer.ok:
            return Outcome("acknowledged", f"the receiver {answered}", response=answer.text)
        if answer.status in _RETRYABLE or answer.status >= 500:
            raise _RetryableFailure(
                f"the receiver {answered}", wait_s=_retry_after_s(answer), answer=answer.text, sent=answer.may_be_done
            )
        why = "redirects are not followed" if 300 <= answer.status < 400 else "it is not sent again"
        if answer.status == GONE:
            why = "the receiver accepts no more messages"
        return Outcome("failed", f"the receiver {answered}; {why}", response=answer.text)


def _retry_after_s(answer: HttpResponse) -> float | None:
    header = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", header):
        return max(float(header), SHORTEST_WAIT_S)
    try:
        at = parsedate_to_datetime(header).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
    return max((at - datetime.now(UTC)).total_seconds(), SHORTEST_WAIT_S)


def sign(secret: str, identity: str, timestamp: int, body: bytes) -> str:
    """Return the header webhook-signature. Raises HookError for an invalid secret."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise HookError(
            "the signing secret is not one of Standard Webhooks",
            hint='it is whsec_ and 24 to 64 random bytes in base64: echo "whsec_$(openssl rand -base64 32)"',
        )
    signed = f"{identity}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
