"""Templates of arguments, addresses and messages: `${release}` and the other words of a context, nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

from evaluator.errors import HookError

WORDS = (
    "action",
    "arm",
    "baseline",
    "canary",
    "idempotency_key",
    "instance",
    "instances",
    "link",
    "outcome",
    "reason",
    "release",
    "request",
    "requester",
    "service",
    "share",
    "step",
    "summary",
    "verdict",
    "verdict_hash",
    "version",
)
VERSIONS = ("baseline", "canary", "version")
"""Words that are empty where the version is not known."""
OPTIONAL = {
    **{word: f"the version of {word} is not known" for word in ("baseline", "canary")},
    "arm": "the request is about no arm",
    "instance": "the request is about no single instance",
    "instances": "the request is about no instances",
    "link": "the policy has no `link`",
    "service": "the service is not known",
    "share": "the request sets no share",
    "step": "the request is not part of a rollout",
    "summary": "only notifications have one",
    "version": "the version is not known",
}
"""Word that may have no value → why, where it has none."""
SET_WORDS = ("percent", "shares")
"""Words that only a call which sets shares has: the share of `${arm}` in percent, and arm → share as JSON."""
_WITHOUT_VALUE = {
    "arm": "no arm",
    "baseline": "version of baseline not known",
    "canary": "version of canary not known",
    "idempotency_key": "key of the request",
    "instance": "no instance",
    "instances": "no instances",
    "link": "no link",
    "outcome": "how it ends",
    "percent": "share in percent",
    "reason": "your reason",
    "request": "number of the request",
    "requester": "who asks",
    "service": "service not known",
    "share": "no share",
    "shares": "shares",
    "step": "no step",
    "summary": "what happened",
    "verdict": "not judged",
    "verdict_hash": "not judged",
    "version": "version not known",
}
"""Word → what people read in its place while it has no value."""
_WORD = re.compile(r"\$\{([^}]*)\}")


def list_words(text: str) -> list[str]:
    """List the words of a template; a `${NAME}` in capitals is a secret."""
    return [word for word in _WORD.findall(text) if word in (*WORDS, *SET_WORDS)]


def check_template(text: str, more_words: Sequence[str] = ()) -> str:
    """Return the template if it names only words of the context, or of `more_words`. Raises ValueError."""
    for word in _WORD.findall(text):
        if word not in (*WORDS, *more_words):
            raise ValueError(f"cannot have ${{{word}}}; the words are {', '.join((*WORDS, *more_words))}")
    return text


def fill_words(text: str, words: Mapping[str, str], escape: Callable[[str], str] = str) -> str:
    """Replace each `${word}` of a template by its escaped value. A `${word}` within a value stays as it is.

    Raises HookError for a word that has no value, as `check_words`.
    """
    check_words(text, words)
    return _WORD.sub(lambda match: escape(words[match[1]]), text)


def check_words(text: str, words: Mapping[str, str]) -> None:
    """Raise HookError if a template uses a word that has no value: something would act with an empty one.

    In an announcement, which has an outcome and changes nothing, a word may be empty. A test has no words at all.
    """
    if absent := [word for word in _WORD.findall(text) if word not in words]:
        raise HookError(f"it uses ${{{absent[0]}}}, which has a value only in a request")
    empty = [word for word in OPTIONAL if f"${{{word}}}" in text and not words.get(word)]
    if empty and not words.get("outcome"):
        raise HookError(
            " and ".join(f"it uses ${{{word}}}, and {OPTIONAL[word]}" for word in empty),
            hint=(
                "the release was recorded without it: do this step by hand"
                if set(empty) <= set(VERSIONS)
                else "write the value itself, or leave the word out"
            ),
        )


def show_words(text: str, words: Mapping[str, str], escape: Callable[[str], str] = str) -> str:
    """Replace words of a template for people: as `fill_words`, but a word may have no value.

    It is then written as what it will be, such as `‹your reason›`. Secrets stay as `${NAME}`, and so do all words if
    none has a value (`words` is empty).
    """

    def show(match: re.Match[str]) -> str:
        """Write one word."""
        word = match[1]
        if words.get(word):
            return escape(words[word])
        return f"‹{_WITHOUT_VALUE[word]}›" if words and word in _WITHOUT_VALUE else match[0]

    return _WORD.sub(show, text)


def escape_json(value: str) -> str:
    """Escape a value as within a JSON string."""
    return json.dumps(value)[1:-1]


def escape_url(value: str) -> str:
    """Escape a value as a part of a URL's path or query."""
    return quote(value, safe="")


def fill_json(text: str, words: Mapping[str, str]) -> str:
    """Replace each `${word}` by its value, escaped as within a JSON string (the quotes are in the template).

    `${shares}` is JSON itself, and stands without quotes.
    """
    check_words(text, words)
    return _WORD.sub(lambda match: words["shares"] if match[1] == "shares" else escape_json(words[match[1]]), text)


def fill_url(text: str, words: Mapping[str, str]) -> str:
    """Replace each `${word}` by its value, escaped as a part of a URL's path or query."""
    return fill_words(text, words, escape_url)
