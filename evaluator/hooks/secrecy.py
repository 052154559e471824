"""Secrets stand in the environment; options name them as `${NAME}`; nothing that is shown holds their values."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated
from urllib.parse import quote, quote_plus

from pydantic import AfterValidator

from evaluator.errors import UsageError

__all__ = ["NAMED", "SecretName", "names_in", "redact", "reveal"]

NAMED = re.compile(r"\$\{([A-Z_][A-Z0-9_]*)\}")
"""How options name a secret: `${HOOK_TOKEN}`, in capitals. Words of the context are in small letters."""

SHOWN = "[secret]"


def _only_named(text: str) -> str:
    if not NAMED.fullmatch(text):
        raise ValueError("must name an environment variable, such as ${HOOK_TOKEN}; secrets do not belong here")
    return text


SecretName = Annotated[str, AfterValidator(_only_named)]


def names_in(text: str) -> list[str]:
    """The variables that a text names."""
    return NAMED.findall(text)


def reveal(text: str, environment: Mapping[str, str]) -> str:
    """Put the values of variables in place of their names. Raises UsageError for one that is not set."""

    def value(match: re.Match[str]) -> str:
        found = environment.get(match[1])
        if not found:
            raise UsageError(
                f"the environment variable {match[1]} is not set, and a hook needs it",
                hint=f"export {match[1]}=… where hooks are executed",
            )
        return found

    return NAMED.sub(value, text)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Take secrets out of a text, however they are written: plain, quoted, escaped, in base64."""
    spelled = {spelling for secret in secrets for spelling in _spellings(secret)}
    for spelling in sorted(spelled, key=len, reverse=True):
        text = text.replace(spelling, SHOWN)
    return text


def _spellings(secret: str) -> set[str]:
    bare = secret.removeprefix("whsec_")
    plain = base64.b64encode(secret.encode()).decode()
    return {
        spelling
        for spelling in (secret, bare, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], plain)
        if spelling
    }
