"""Templates of arguments, addresses and messages: `${release}` and the other words of a context, nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from urllib.parse import quote

from evaluator.errors import HookError

WORDS = (
    "action",
    "baseline",
    "canary",
    "idempotency_key",
    "link",
    "outcome",
    "reason",
    "release",
    "requester",
    "summary",
    "verdict",
    "verdict_hash",
)
VERSIONS = ("baseline", "canary")
"""Words that are empty where the version is not known."""
ONLY_IN_NEWS = ("link", "summary")
"""Words that only hooks of the event `notify` get; others get them empty."""
_WORD = re.compile(r"\$\{([^}]*)\}")


def check_template(text: str) -> str:
    """Return the template if it names only words of the context. Raises ValueError."""
    for word in _WORD.findall(text):
        if word not in WORDS:
            raise ValueError(f"cannot have ${{{word}}}; the words are {', '.join(WORDS)}")
    return text


def fill_words(text: str, words: Mapping[str, str], escape: Callable[[str], str] = str) -> str:
    """Replace each `${word}` of a template by its escaped value. A `${word}` within a value stays as it is.

    Raises HookError for a version that is not known, as `check_versions`.
    """
    check_versions(text, words)
    return _WORD.sub(lambda match: escape(words[match[1]]), text)


def check_versions(text: str, words: Mapping[str, str]) -> None:
    """Raise HookError if a template uses a version that is not known: something would act with an empty one.

    In an announcement, which has an outcome and changes nothing, it may be empty.
    """
    unknown = [word for word in VERSIONS if f"${{{word}}}" in text and not words[word]]
    if unknown and not words["outcome"]:
        raise HookError(
            " and ".join(f"it uses ${{{word}}}, and the version of {word} is not known" for word in unknown),
            hint="the release was recorded without it: do this step by hand",
        )


def show_words(text: str, words: Mapping[str, str], escape: Callable[[str], str] = str) -> str:
    """Replace words of a template for people: as `fill_words`, but a `${word}` without a value stays as it is."""
    return _WORD.sub(lambda match: escape(words[match[1]]) if words.get(match[1]) else match[0], text)


def escape_json(value: str) -> str:
    """Escape a value as within a JSON string."""
    return json.dumps(value)[1:-1]


def escape_url(value: str) -> str:
    """Escape a value as a part of a URL's path or query."""
    return quote(value, safe="")


def fill_json(text: str, words: Mapping[str, str]) -> str:
    """Replace each `${word}` by its value, escaped as within a JSON string (the quotes are in the template)."""
    return fill_words(text, words, escape_json)


def fill_url(text: str, words: Mapping[str, str]) -> str:
    """Replace each `${word}` by its value, escaped as a part of a URL's path or query."""
    return fill_words(text, words, escape_url)
