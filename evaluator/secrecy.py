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

REDACTED = "[secret]"
"""What outputs have in place of a secret."""


@dataclass(frozen=True, slots=True)
class SecretNames:
    """How the settings of one part of the policy name secrets, and what needs them."""

    pattern: re.Pattern[str]
    """A name with `${…}` around it; its only group is the name of the variable."""
    example: str
    needed_by: str
    export_where: str

    def check(self, text: str) -> str:
        """Return the text if it is the name of a variable, `${NAME}`, and nothing else. Raises ValueError."""
        if not self.pattern.fullmatch(text):
            raise ValueError(f"must name an environment variable, such as {self.example}; secrets do not belong here")
        return text

    def reveal(self, text: str, environment: Mapping[str, str]) -> str:
        """Replace each `${NAME}` in a text by the variable's value. Raises UsageError for one that is not set."""

        def find_value(match: re.Match[str]) -> str:
            """Return the value of the variable that `match` names."""
            name = match[1]
            secret = environment.get(name)
            if not secret:
                raise UsageError(
                    f"the environment variable {name} is not set, and {self.needed_by} needs it",
                    hint=f"export {name}=… {self.export_where}",
                )
            return secret

        return self.pattern.sub(find_value, text)


OF_HOOKS = SecretNames(re.compile(r"\$\{([A-Z_][A-Z0-9_]*)\}"), "${HOOK_TOKEN}", "a hook", "where hooks are executed")
"""`${HOOK_TOKEN}`, in capitals, because the words of a hook's context are in lower case."""

OF_SOURCES = SecretNames(
    re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}"),
    "${PROMETHEUS_TOKEN}",
    "sources.prometheus",
    "before you call the evaluator",
)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace secrets in a text by `[secret]`, also where they are escaped for JSON or a URL, or in base64."""
    for spelling in list_spellings(secrets):
        text = text.replace(spelling, REDACTED)
    return text


def list_spellings(secrets: Iterable[str]) -> list[str]:
    """List how secrets may be written in an output: as they are, escaped for JSON or a URL, or in base64.

    The longest is first: a spelling may contain another one, whose replacement would leave the rest of it.
    """
    spellings = set()
    for secret in secrets:
        in_json = json.dumps(secret)[1:-1]
        in_base64 = base64.b64encode(secret.encode()).decode()
        key_of_webhook = secret.removeprefix("whsec_")  # a secret of Standard Webhooks may be shown without its prefix
        spellings |= {secret, in_json, in_base64, key_of_webhook, quote(secret, safe=""), quote_plus(secret)}
    return sorted(spellings - {""}, key=len, reverse=True)
