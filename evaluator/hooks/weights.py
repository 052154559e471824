"""Weights of servers: which whole numbers give arms their shares, and how weights are checked and shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from evaluator.errors import HookError
from evaluator.records import BASELINE, CANDIDATE

ServerName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.:-]+$")]

_MOST_TOTALS = 4096
"""How many sums of all weights are tried."""
_MOST_WEIGHTS = 100_000
"""How many weights are computed until the best ones are chosen: with 1,000 servers, this takes 0.2 s."""
_AS_GOOD = 0.0005
"""Difference of a share, 0.05 points, that counts less than equal work for the servers of an arm."""

_WEIGHTS: TypeAdapter[dict[str, int]] = TypeAdapter(
    Annotated[dict[str, Annotated[int, Field(ge=0, le=1_000_000)]], Field(min_length=1)]
)


# ------------------------------------------------------------------ from shares to weights


def find_weights(
    own: Mapping[str, Mapping[str, int]], shares: Mapping[str, float], most: int, at_most: int = 0
) -> dict[str, int]:
    """Find whole weights from 0 to `most` that give each arm its share: server → weight.

    `own`: arm → server → its own weight: how much it gets compared with the other servers of its arm; of an arm whose
    own weights are all 0, all servers count the same. `shares`: arm → share, which add up to 1; each arm has a server.
    `at_most`: the largest weight, where one of the servers would get nothing by smaller ones; 0: `most`.

    If one arm gets all, its servers get their own weights. Otherwise the shares come as near as possible (see
    `_AS_GOOD`), by weights as small as possible: each share and each server gets the whole number that the method of
    the largest remainder gives it.
    """
    weights = _find_small_weights(own, shares, most)
    is_left_out = any(
        weight and not weights[server]
        for arm, servers in own.items()
        if shares[arm]
        for server, weight in servers.items()
    )
    return _find_small_weights(own, shares, at_most) if is_left_out and at_most > most else weights


def _find_small_weights(own: Mapping[str, Mapping[str, int]], shares: Mapping[str, float], most: int) -> dict[str, int]:
    """Do what `find_weights` does, with weights up to `most`."""
    equal_or_own = {
        arm: dict(weights) if any(weights.values()) else dict.fromkeys(weights, 1) for arm, weights in own.items()
    }
    nothing = {server: 0 for weights in own.values() for server in weights}
    full = [arm for arm, share in shares.items() if share == 1]
    if full and max(equal_or_own[full[0]].values()) <= most:
        return nothing | equal_or_own[full[0]]
    parts = {arm: _normalise(weights) for arm, weights in equal_or_own.items() if shares[arm]}
    largest_part = max(shares[arm] * part for arm, weights in parts.items() for part in weights.values())
    highest = max(int(most / largest_part + 1e-9), 1)
    totals = range(max(highest - _MOST_TOTALS, 0) + 1, highest + 1)
    error_by_total = {total: _find_error(shares, total) for total in totals}
    tolerated = min(error_by_total.values()) + _AS_GOOD
    good_totals = sorted((error, total) for total, error in error_by_total.items() if error <= tolerated)
    best, best_score = nothing, (float("inf"), float("inf"))
    for error, total in good_totals[: max(_MOST_WEIGHTS // len(nothing), 1)]:
        of_arms = divide(total, shares)
        weights = {arm: divide(of_arms[arm], servers) for arm, servers in parts.items()}
        if max(weight for of_arm in weights.values() for weight in of_arm.values()) > most:
            continue
        # How much a server gets more or less than its part, compared with that part.
        unevenness = max(
            abs(weights[arm][server] / max(of_arms[arm], 1) - part) / part
            for arm, servers in parts.items()
            for server, part in servers.items()
            if part
        )
        score = (round(unevenness, 3), round(error, 6))
        if score < best_score:
            best, best_score = {server: w for of_arm in weights.values() for server, w in of_arm.items()}, score
    return nothing | best


def _normalise(weights: Mapping[str, int]) -> dict[str, float]:
    """Divide weights by their sum."""
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _find_error(shares: Mapping[str, float], total: int) -> float:
    """The largest difference between a share and what whole numbers with this sum give."""
    return max(abs(number / total - shares[arm]) for arm, number in divide(total, shares).items())


def divide(total: int, parts: Mapping[str, float]) -> dict[str, int]:
    """Divide a number into whole numbers in proportion to `parts`, whose sum is 1, by the largest remainder."""
    exact = {name: total * part for name, part in parts.items()}
    whole = {name: int(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(parts, key=lambda name: whole[name] - exact[name])  # the largest remainder first
    for name in by_remainder[: total - sum(whole.values())]:
        whole[name] += 1
    return whole


def sum_shares(weights: Mapping[str, float], servers: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """Sum weights (server → weight) to the share of each arm: arm → share of the sum; all 0 if the sum is 0.

    `servers`: arm → its servers. Servers of no arm take part in the sum.
    """
    total = sum(weights.values())
    return {
        arm: sum(weights.get(name, 0) for name in names) / total if total else 0.0 for arm, names in servers.items()
    }


# ------------------------------------------------------------------ back to the baseline


def moves_back(shares: Mapping[str, float], current: Mapping[str, float]) -> bool:
    """Whether new shares take traffic from candidates only: all of these get no more than now, the others no less.

    `shares`, `current`: arm → share. False if it is not known which arms are candidates (see `list_candidates`), or if
    a current share is not known.
    """
    candidates = list_candidates(shares)
    if not candidates or not set(shares) <= set(current):
        return False
    return all(
        share <= current[arm] + 1e-9 if arm in candidates else share >= current[arm] - 1e-9
        for arm, share in shares.items()
    )


def list_candidates(arms: Iterable[str]) -> list[str]:
    """List the arms that are candidates, by their names; empty if these do not tell.

    If one has `baseline` in its name, all others are candidates, whatever their names. Otherwise those with `canary`
    in their names are.
    """
    names = list(arms)
    others = [name for name in names if BASELINE not in name.lower()]
    return others if len(others) < len(names) else [name for name in names if CANDIDATE in name.lower()]


# ------------------------------------------------------------------ for people, and from the store


def show_weights(weights: Mapping[str, float]) -> str:
    """Write weights for people: `baseline 1, canary 9`."""
    return ", ".join(f"{name} {weight}" for name, weight in weights.items())


def check_earlier(earlier: Any) -> dict[str, int]:
    """Check that a stored value holds weights of servers, and return them. Raises HookError.

    All may be 0: before the change, servers of no arm had the traffic.
    """
    try:
        return _WEIGHTS.validate_python(earlier, strict=True)
    except ValidationError:
        raise HookError(
            "there are no earlier weights to restore", hint="they are kept when the hook is executed"
        ) from None
