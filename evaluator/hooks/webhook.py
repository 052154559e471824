"""Signed notifications as Standard Webhooks describes them (https://www.standardwebhooks.com, version 1)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from evaluator.errors import HookError
from evaluator.hooks.hosts import Answer, Resolver, call, look_up

__all__ = ["send", "sign"]


def sign(secret: str, key: str, at_s: int, body: bytes) -> dict[str, str]:
    """Make the three headers of a message: its key, its time and its HMAC-SHA256. Raises HookError for a bad secret."""
    try:
        raw = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raw = b""
    if not secret.startswith("whsec_") or not 24 <= len(raw) <= 64:
        raise HookError("the secret of a webhook must be whsec_ and 24 to 64 bytes as base64")
    digest = hmac.new(raw, f"{key}.{at_s}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": key,
        "webhook-timestamp": str(at_s),
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def send(
    url: str,
    payload: Mapping[str, Any],
    *,
    key: str,
    secret: str,
    allowed: Sequence[str],
    timeout_s: float = 15.0,
    resolver: Resolver = look_up,
) -> Answer:
    """Send a payload once; anything but 2xx raises HookError, a redirect included. Nothing said names the secret."""
    body = json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()
    headers = {"content-type": "application/json", **sign(secret, key, int(time.time()), body)}
    answer = call("POST", url, body=body, headers=headers, allowed=allowed, timeout_s=timeout_s, resolver=resolver)
    if not 200 <= answer.status < 300:
        raise HookError(f"the webhook answered {answer.status}, which is not 2xx")
    return answer
