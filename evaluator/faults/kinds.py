"""Which kinds of failures (status, exception) make up a rise of failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np

from evaluator.records import OTHER_KINDS, Cells, FailureKind
from evaluator.records.arrays import BoolArray
from evaluator.stats.shaping.failures import MOST_KINDS, count_kinds

LEAST_SHARE = 0.2
"""A kind with a smaller share of the additional failures is not named."""


def find_kinds(
    cells: Cells, arm: str, endpoints: Collection[str] | None, instances: Collection[str] | None
) -> tuple[FailureKind, ...]:
    """Find the kinds of which some instances of a candidate have more failures at some endpoints than is usual there.

    Usual is what the baseline has of a kind for so many requests at the same endpoints, or what the candidate's other
    instances have there, whichever is more. `None`: all endpoints; all instances. Kinds are counted for whole runs.

    Returns the most frequent first, with their failures there; empty if the kinds are not known, as for a part of the
    time. In stores of an older evaluator kinds are not known by instance: then they are those of all instances.
    """
    code, kinds = cells.arms.index(arm), cells.failure_kinds
    endpoint_codes = _find_codes(cells.endpoints, endpoints)
    if (kinds.instance[kinds.arm == code] < 0).any():
        instances = None
    instance_codes = _find_codes(cells.instances, instances)
    others = set(range(len(cells.instances))) - instance_codes
    there = count_kinds(cells, code, endpoints=endpoint_codes, instances=None if instances is None else instance_codes)
    usual: dict[tuple[int, str], float] = {}
    requests = _count_requests(cells, code, endpoint_codes, instance_codes)
    for control, control_instances in ((0, None), (code, others)):
        counted = count_kinds(cells, control, endpoints=endpoint_codes, instances=control_instances)
        of_control = _count_requests(cells, control, endpoint_codes, control_instances)
        for kind, n in counted.items():
            usual[kind] = max(usual.get(kind, 0.0), n * requests / max(of_control, 1))
    additional = Counter({kind: n - usual.get(kind, 0.0) for kind, n in there.items() if kind[0] != OTHER_KINDS})
    total = sum(max(more, 0.0) for more in additional.values())
    named = [kind for kind, more in additional.items() if more > 0 and more >= LEAST_SHARE * total]
    named.sort(key=lambda kind: (-additional[kind], kind))
    return tuple(FailureKind(*kind, there[kind]) for kind in named[:MOST_KINDS])


def _find_codes(names: tuple[str, ...], chosen: Collection[str] | None) -> set[int]:
    """Find the codes of the chosen names; `None`: of all."""
    return {code for code, name in enumerate(names) if chosen is None or name in chosen}


def _count_requests(cells: Cells, arm: int, endpoints: Collection[int], instances: Collection[int] | None) -> int:
    """Count the requests of an arm at some endpoints on some instances; `None`: on all."""
    moments = cells.moments

    def is_chosen(names: tuple[str, ...], codes: Collection[int]) -> BoolArray:
        """Return for each code whether it is chosen."""
        return np.isin(np.arange(len(names)), list(codes))

    chosen = (moments.arm == arm) & is_chosen(cells.endpoints, endpoints)[moments.endpoint]
    if instances is not None:
        chosen &= is_chosen(cells.instances, instances)[moments.instance]
    return int(moments.n[chosen].sum())
