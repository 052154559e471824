"""Option models: what a hook takes from the policy. Each hook owns its own; unknown keys are errors."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

__all__ = ["HookOptions", "Seconds", "Text"]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_S = 86400.0


def _parse_seconds(raw: Any) -> float:
    match = _DURATION.fullmatch(raw) if isinstance(raw, str) else None
    if match:
        seconds = float(match[1]) * _UNIT_S[match[2]]
    elif isinstance(raw, int | float) and not isinstance(raw, bool):
        seconds = float(raw)
    else:
        raise ValueError(f"must be a duration such as 500ms, 30s or 5m, not {str(raw)[:40]!r}")
    if not 0 < seconds <= _LONGEST_S:
        raise ValueError(f"must be more than 0s and at most a day, not {seconds:g}s")
    return seconds


Seconds = Annotated[
    float,
    BeforeValidator(_parse_seconds),
    PlainSerializer(lambda seconds: f"{seconds:g}s"),
    WithJsonSchema({"type": ["string", "number"], "examples": ["30s"]}),
]
Text = Annotated[str, Field(min_length=1, max_length=10_000, pattern=r"^[^\x00-\x1f\x7f]+$")]


class HookOptions(BaseModel):
    """What every hook takes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    time_limit: Seconds = Field(30.0, description="Longest that the hook may take, with everything.")
    required: bool = Field(False, description="On: when it fails, hooks after it are not executed.")  # noqa: FBT003
