"""Weights of servers, for the hooks that set them: how they are written, checked and shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from evaluator.errors import HookError
from evaluator.records import BASELINE, CANDIDATE

ServerName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.:-]+$")]


def check_some_traffic(weights: dict[str, int]) -> dict[str, int]:
    """Return the weights if any is more than 0. Raises ValueError."""
    if not any(weights.values()):
        raise ValueError("must have a server with more than 0: otherwise no request is served")
    return weights


AnyWeights = Annotated[dict[ServerName, Annotated[int, Field(ge=0, le=256)]], Field(min_length=1)]
"""Server to weight; all may be 0, where servers that are not named get the traffic."""
Weights = Annotated[AnyWeights, AfterValidator(check_some_traffic)]
"""Server to weight, of all servers: one has more than 0."""

_WEIGHTS: TypeAdapter[dict[str, int]] = TypeAdapter(AnyWeights)


def moves_back(weights: Mapping[str, int], current: Mapping[str, int]) -> bool:
    """Whether new weights take traffic from candidates only: all of these get no more than now, the others no less.

    `weights`, `current`: server → weight. False if it is not known which servers are candidates (see
    `list_candidates`), or if a current weight is not known.
    """
    candidates = list_candidates(weights)
    if not candidates or not set(weights) <= set(current):
        return False
    return all(
        weight <= current[name] if name in candidates else weight >= current[name] for name, weight in weights.items()
    )


def list_candidates(servers: Iterable[str]) -> list[str]:
    """List the servers of candidates, by their names; empty if these do not tell.

    If one has `baseline` in its name, all others are candidates, whatever their names. Otherwise those with `canary`
    in their names are.
    """
    names = list(servers)
    others = [name for name in names if BASELINE not in name.lower()]
    return others if len(others) < len(names) else [name for name in names if CANDIDATE in name.lower()]


def show_weights(weights: Mapping[str, int]) -> str:
    """Write weights for people: `baseline 1, canary 9`."""
    return ", ".join(f"{name} {weight}" for name, weight in weights.items())


def check_earlier(earlier: Any) -> dict[str, int]:
    """Check that a stored value holds weights of servers, and return them. Raises HookError.

    All may be 0: before the change, servers that the hook does not name had the traffic.
    """
    try:
        return _WEIGHTS.validate_python(earlier, strict=True)
    except ValidationError:
        raise HookError(
            "there are no earlier weights to restore", hint="they are kept when the hook is executed"
        ) from None
