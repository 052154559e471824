"""Equal users for every arm: which copy of which user class is spawned next. Plain data, no Locust."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import lcm

Lanes = Mapping[str, tuple[tuple[str, ...], ...]]
"""Original user class → for each arm its copies, one per instance."""


def interleave(originals: Iterator[str | None], lanes: Lanes, workers: int) -> Iterator[str | None]:
    """Turn a sequence of user classes into blocks of copies, one for each arm.

    Users go to the workers in turn, so with a fixed order of arms a worker could get one arm only and its hiccups
    would look like that arm's. The order is turned by one whenever the pattern of arms and workers repeats. Each
    class counts its own blocks, so that every instance gets the same mix of classes.
    """
    blocks: Counter[str] = Counter()
    spawned = 0
    for original in originals:
        if original is None:
            yield None
            continue
        arms = lanes[original]
        turn = spawned // lcm(len(arms), max(workers, 1))
        for position in range(len(arms)):
            copies = arms[(position + turn) % len(arms)]
            yield copies[blocks[original] % len(copies)]
        blocks[original] += 1
        spawned += len(arms)
