"""Secrets are environment variables; settings name them as `${NAME}`, and no output shows their values."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

from evaluator.errors import UsageError

SECRET_HEADERS = re.compile(r"(?i)auth|token|key|secret|cookie")
"""Names of headers whose values are secret."""

SHOWN = "[secret]"


@dataclass(frozen=True, slots=True)
class SecretNames:
    """How the settings of one part of the policy name secrets, and what needs them."""

    pattern: re.Pattern[str]
    """A name in its `${…}`; its only group is the name of the variable."""
    example: str
    needed_by: str
    export_where: str

    def check(self, text: str) -> str:
        """The text, if it is a name and nothing else. Raises ValueError."""
        if not self.pattern.fullmatch(text):
            raise ValueError(f"must name an environment variable, such as {self.example}; secrets do not belong here")
        return text

    def reveal(self, text: str, environment: Mapping[str, str]) -> str:
        """Put the values of variables in place of their names. Raises UsageError for one that is not set."""

        def value(match: re.Match[str]) -> str:
            secret = environment.get(match[1])
            if not secret:
                raise UsageError(
                    f"the environment variable {match[1]} is not set, and {self.needed_by} needs it",
                    hint=f"export {match[1]}=… {self.export_where}",
                )
            return secret

        return self.pattern.sub(value, text)


OF_HOOKS = SecretNames(re.compile(r"\$\{([A-Z_][A-Z0-9_]*)\}"), "${HOOK_TOKEN}", "a hook", "where hooks are executed")
"""`${HOOK_TOKEN}`, in capitals, because the words of a hook's context are in lower case."""

OF_SOURCES = SecretNames(
    re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}"),
    "${PROMETHEUS_TOKEN}",
    "sources.prometheus",
    "before you call the evaluator",
)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace secrets in a text, in each of their forms: plain, quoted, escaped, in base64."""
    spelled = set()
    for secret in secrets:
        encoded = base64.b64encode(secret.encode()).decode()
        spelled |= {secret, secret.removeprefix("whsec_"), encoded, json.dumps(secret)[1:-1]}
        spelled |= {quote(secret, safe=""), quote_plus(secret)}
    for spelling in sorted(spelled - {""}, key=len, reverse=True):
        text = text.replace(spelling, SHOWN)
    return text
