"""Which kinds of failures (status, exception) make up a rise of failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np

from evaluator.records import Cells, FaultKind

LEAST_SHARE = 0.2
"""A kind with a smaller share of the additional failures is not named."""
MOST_KINDS = 3


def find_kinds(cells: Cells, arm: str, endpoints: Collection[str] | None) -> tuple[FaultKind, ...]:
    """Find the kinds of which the candidate has more failures than its requests and the baseline let expect.

    `endpoints`: only those; `None`: all. Kinds are counted for whole runs, over all instances. Returns the most
    frequent first; empty if the kinds are not known, as for a part of the time.
    """
    kinds, moments = cells.failure_kinds, cells.moments
    chosen = np.array([endpoints is None or name in endpoints for name in cells.endpoints], dtype=bool)
    code = cells.arms.index(arm)
    requests = [int(moments.n[(moments.arm == number) & chosen[moments.endpoint]].sum()) for number in (0, code)]
    counts: tuple[Counter[tuple[int, str]], ...] = (Counter(), Counter())
    for counter, number in zip(counts, (0, code), strict=True):
        for row in np.flatnonzero((kinds.arm == number) & chosen[kinds.endpoint]).tolist():
            counter[int(kinds.status[row]), kinds.exception[row]] += int(kinds.n[row])
    baseline, candidate = counts
    factor = requests[1] / requests[0] if requests[0] else 0.0
    additional = {kind: count - factor * baseline[kind] for kind, count in candidate.items()}
    total = sum(max(more, 0.0) for more in additional.values())
    named = [kind for kind, more in additional.items() if more > 0 and more >= LEAST_SHARE * total]
    named.sort(key=lambda kind: (-additional[kind], kind))
    return tuple(FaultKind(*kind, candidate[kind]) for kind in named[:MOST_KINDS])
