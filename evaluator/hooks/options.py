"""Option models: what a hook takes from the policy. Each hook owns its own; unknown keys are errors."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from evaluator.fields import Section
from evaluator.quantities import parse_duration_s
from evaluator.secrecy import OF_HOOKS

_LONGEST_S = 86400.0


def _parse_seconds(raw: Any) -> float:
    """Read a duration such as `30s` as seconds. Raises ValueError, also for more than a day."""
    seconds = parse_duration_s(raw)
    if not 0 < seconds <= _LONGEST_S:
        raise ValueError(f"must be more than 0s and at most a day, not {seconds:g}s")
    return seconds


Seconds = Annotated[
    float,
    BeforeValidator(_parse_seconds),
    PlainSerializer(lambda seconds: f"{seconds:g}s"),
    WithJsonSchema({"type": ["string", "number"], "examples": ["30s"]}),
]
SecretName = Annotated[str, AfterValidator(OF_HOOKS.check)]
TextWithWords = Annotated[str, Field(min_length=1, max_length=10_000, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Text without control characters."""


def refuse_words(text: str) -> str:
    """Return a text without `${…}`, which would be used as it stands. Raises ValueError."""
    if placeholder := re.search(r"\$\{[^}]*\}?", text):
        raise ValueError(f"cannot have {placeholder[0][:80]}: words and variables are not filled in here")
    return text


Text = Annotated[TextWithWords, AfterValidator(refuse_words)]
"""Text that is used as it is written: no words and no variables are filled in."""


class HookOptions(Section):
    """Options of every hook."""

    time_limit: Seconds = Field(30.0, description="Longest time that the hook may take in all.")
    required: bool = Field(
        False,  # noqa: FBT003
        description="On: when it fails, hooks after it are not executed, except in a rollback.",
    )


def _to_list(raw: Any) -> Any:
    """Make a list of a single name; any other value is returned unchanged."""
    return [raw] if isinstance(raw, str) else raw


def names_of(name: Any) -> Any:
    """The type of an option that has one name or several, each of the type `name`."""
    schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    return Annotated[
        list[name], Field(min_length=1, max_length=1000), BeforeValidator(_to_list), WithJsonSchema(schema)
    ]
