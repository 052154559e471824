"""Which users a sticky split gives to which arm: each user has a hash value, and each hash value belongs to one arm.

An arm keeps its hash values as long as its share does not shrink, so that a user who has met it keeps it: an arm that
grows takes hash values only from those that shrink. While the shares of all candidates rise, that is the baseline
alone; then no user changes from one candidate to another, or goes back to the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from evaluator.hooks.weights import divide

ALL = 10_000
"""Number of hash values: shares are set to a hundredth of a percent."""

Range = tuple[int, str]
"""How many hash values follow one another, and whose they are."""


def move_values(ranges: Sequence[Range], counts: Mapping[str, int]) -> list[Range]:
    """Give each owner its number of hash values, and change the owner of as few hash values as possible.

    Args:
        ranges: The hash values as they are, in their order. An empty one says where its owner begins.
        counts: Owner → its number of hash values afterwards; one that is not named gets none. Their sum is that of
            `ranges`.

    An owner that grows takes hash values next to its own first, and gives these back first when it shrinks again.
    """
    owners = [owner for count, owner in ranges for _ in range(count)]
    surplus = {owner: owners.count(owner) - counts.get(owner, 0) for owner in dict.fromkeys((*owners, *counts))}
    for owner in [owner for owner in counts if surplus[owner] < 0]:
        distances = _measure_distances(owners, owner, _find_begin(ranges, owners, owner, surplus))
        free = sorted((n for n, other in enumerate(owners) if surplus[other] > 0), key=lambda n: (distances[n], n))
        for n in free:
            if not surplus[owner]:
                break
            if surplus[owners[n]] > 0:
                surplus[owners[n]] -= 1
                surplus[owner] += 1
                owners[n] = owner
    return [(len(list(group)), owner) for owner, group in groupby(owners)]


def _find_begin(ranges: Sequence[Range], owners: Sequence[str], owner: str, surplus: Mapping[str, int]) -> int:
    """Find next to which hash value an owner begins that has none: where it has an empty range, else a free end."""
    position = 0
    for count, other in ranges:
        if other == owner:
            return min(position, len(owners) - 1)
        position += count
    return 0 if surplus[owners[0]] > 0 or surplus[owners[-1]] <= 0 else len(owners) - 1


def _measure_distances(owners: Sequence[str], owner: str, begin: int) -> list[int]:
    """Measure how far each hash value is from the nearest one of an owner, or from `begin` if it has none."""
    size = len(owners)
    if owner not in owners:
        return [abs(n - begin) for n in range(size)]
    distances, nearest = [size] * size, -size
    for n, other in enumerate(owners):
        nearest = n if other == owner else nearest
        distances[n] = n - nearest
    nearest = 2 * size
    for n in range(size - 1, -1, -1):
        nearest = n if owners[n] == owner else nearest
        distances[n] = min(distances[n], nearest - n)
    return distances


def count_values(shares: Mapping[str, float]) -> dict[str, int]:
    """Divide all hash values among arms by their shares: arm → its number of hash values, which add up to `ALL`."""
    return divide(ALL, shares)
