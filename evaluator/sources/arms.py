"""Equal users for every arm: which copy of which user class is spawned next. Plain data, no Locust."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import lcm

Lanes = Mapping[str, tuple[tuple[str, ...], ...]]
"""Original user class → for each arm its copies, one per instance."""


def interleave(originals: Iterator[str | None], lanes: Lanes, workers: int) -> Iterator[str | None]:
    """Replace each user class of a sequence by a block of its copies, one for each arm.

    `originals`: names of classes in the order of spawning; None (no user to spawn now) is passed on. `lanes`: the
    copies of each class by arm and instance. Yields names of copies.

    Users go to the workers in turn. With a fixed order of arms a worker could get users of one arm only, and its
    hiccups would look like that arm's. So the order of arms in a block is rotated by one place each time that all
    combinations of arm and worker have come up, after lcm(arms, workers) users. Each class counts its own blocks, so
    that every instance gets the same mix of classes.
    """
    blocks_by_class: Counter[str] = Counter()
    spawned = 0  # users so far
    for original in originals:
        if original is None:
            yield None
            continue
        copies_by_arm = lanes[original]
        arms = len(copies_by_arm)
        first_arm = spawned // lcm(arms, max(workers, 1))  # number of rotations so far
        for position in range(arms):
            instance_copies = copies_by_arm[(first_arm + position) % arms]
            yield instance_copies[blocks_by_class[original] % len(instance_copies)]
        blocks_by_class[original] += 1
        spawned += arms
