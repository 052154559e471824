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
    """How a variable is named, with its `${…}`; the only group is the name of the variable."""
    example: str
    needed_by: str
    export_where: str

    def check(self, text: str) -> str:
        """Return the text if it names a variable and has nothing else in it. Raises ValueError if not."""
        if not self.pattern.fullmatch(text):
            raise ValueError(f"must name an environment variable, such as {self.example}; secrets do not belong here")
        return text

    def reveal(self, text: str, environment: Mapping[str, str]) -> str:
        """Replace each `${NAME}` in a text by the value of the variable. Raises UsageError if it is empty or unset."""

        def look_up(match: re.Match[str]) -> str:
            variable = match[1]
            secret = environment.get(variable)
            if not secret:
                raise UsageError(
                    f"the environment variable {variable} is not set, and {self.needed_by} needs it",
                    hint=f"export {variable}=… {self.export_where}",
                )
            return secret

        return self.pattern.sub(look_up, text)


OF_HOOKS = SecretNames(re.compile(r"\$\{([A-Z_][A-Z0-9_]*)\}"), "${HOOK_TOKEN}", "a hook", "where hooks are executed")
"""`${HOOK_TOKEN}`, in capitals, because the words of a hook's context are in lower case."""

OF_SOURCES = SecretNames(
    re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}"),
    "${PROMETHEUS_TOKEN}",
    "sources.prometheus",
    "before you call the evaluator",
)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace secrets in a text by `[secret]`, in each of their spellings: plain, in JSON, in a URL, in base64."""
    spellings = set()
    for secret in secrets:
        in_base64 = base64.b64encode(secret.encode()).decode()
        in_json = json.dumps(secret)[1:-1]
        without_prefix = secret.removeprefix("whsec_")  # of the secrets of webhooks
        spellings |= {secret, without_prefix, in_base64, in_json, quote(secret, safe=""), quote_plus(secret)}
    # The longest first: a spelling may contain another, and its rest would stay.
    for spelling in sorted(spellings - {""}, key=len, reverse=True):
        text = text.replace(spelling, SHOWN)
    return text
