"""Which users a sticky split gives to which arm: users are hashed to slots, and a slot belongs to one arm.

An arm keeps its slots as long as its share does not shrink, so that a user who has met it keeps it: an arm that grows
takes slots only from those that shrink. While the shares of all candidates rise, that is the baseline alone; then no
user changes from one candidate to another, and none goes back to the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from evaluator.hooks.weights import divide

ALL = 10_000
"""Number of slots: shares are set to a hundredth of a percent."""

Range = tuple[int, str]
"""How many slots follow one another, and whose they are."""


def move_slots(ranges: Sequence[Range], counts: Mapping[str, int]) -> list[Range]:
    """Give each owner its number of slots, and change the owner of as few slots as possible.

    Args:
        ranges: The slots as they are, in their order. An empty one says where its owner begins.
        counts: Owner → its number of slots afterwards; one that is not named gets none. Their sum is that of `ranges`.

    An owner that grows takes slots next to its own first, and gives these back first when it shrinks again.
    """
    slots = [owner for count, owner in ranges for _ in range(count)]
    surplus = {owner: slots.count(owner) - counts.get(owner, 0) for owner in dict.fromkeys((*slots, *counts))}
    for owner in [owner for owner in counts if surplus[owner] < 0]:
        distances = _measure_distances(slots, owner, _find_begin(ranges, slots, owner, surplus))
        free = sorted((n for n, other in enumerate(slots) if surplus[other] > 0), key=lambda n: (distances[n], n))
        for n in free:
            if not surplus[owner]:
                break
            if surplus[slots[n]] > 0:
                surplus[slots[n]] -= 1
                surplus[owner] += 1
                slots[n] = owner
    return [(len(list(group)), owner) for owner, group in groupby(slots)]


def _find_begin(ranges: Sequence[Range], slots: Sequence[str], owner: str, surplus: Mapping[str, int]) -> int:
    """Find next to which slot an owner begins that has none: where it has an empty range, else a free end."""
    position = 0
    for count, other in ranges:
        if other == owner:
            return min(position, len(slots) - 1)
        position += count
    return 0 if surplus[slots[0]] > 0 or surplus[slots[-1]] <= 0 else len(slots) - 1


def _measure_distances(slots: Sequence[str], owner: str, begin: int) -> list[int]:
    """Measure how far each slot is from the nearest one of an owner, or from `begin` if it has none."""
    size = len(slots)
    if owner not in slots:
        return [abs(n - begin) for n in range(size)]
    distances, nearest = [size] * size, -size
    for n, other in enumerate(slots):
        nearest = n if other == owner else nearest
        distances[n] = n - nearest
    nearest = 2 * size
    for n in range(size - 1, -1, -1):
        nearest = n if slots[n] == owner else nearest
        distances[n] = min(distances[n], nearest - n)
    return distances


def count_slots(shares: Mapping[str, float]) -> dict[str, int]:
    """Divide all slots among arms by their shares: arm → its number of slots, which add up to `ALL`."""
    return divide(ALL, shares)
