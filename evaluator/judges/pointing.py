"""What to do next, once it is known where a candidate fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evaluator.judges.advice import describe_fault, name_place, next_after_no_go
from evaluator.judges.native import Judgement
from evaluator.records import Fault, ReasonCode, Rulebook, VerdictWord
from evaluator.wording import count_of

_OPEN: tuple[ReasonCode, ...] = ("not_shown", "endpoint_worse")
"""Doubts that one instance may cause."""


def point_to_faults(
    judgement: Judgement, faults: Sequence[Fault] | None, rulebook: Rulebook, release: str
) -> Judgement:
    """Let the next action of a judgement name where the candidate fails.

    After INCONCLUSIVE it names instances, if some of several are unlike the baseline: then more data or another margin
    do not help. `faults`: those that were found; `None`: none were looked for.
    """
    reasons, next_action = judgement.reasons, judgement.next_action
    if not faults or not reasons:
        return judgement
    if judgement.word is VerdictWord.NO_GO:
        level = rulebook.no_go_level
        return replace(judgement, next_action=next_after_no_go(reasons, release, judgement.comparisons, level, faults))
    first = reasons[0]
    fault = next((f for f in faults if f.arm == first.arm and f.instances.scope == "some"), None)
    if judgement.word is VerdictWord.INCONCLUSIVE and fault is not None and first.code in _OPEN:
        place = fault.instances
        if len(place.names) < place.count:
            return replace(judgement, next_action=_point_to_instances(fault, next_action))
    return judgement


def _point_to_instances(fault: Fault, otherwise: str) -> str:
    """Say which instances to look at; `otherwise`: what to do if nothing is wrong there."""
    place = fault.instances
    names = name_place(place, "instance")
    if place.others_fine:
        verb = "decides" if len(place.names) == 1 else "decide"
        which = f"{len(place.names)} of {count_of(place.count, 'instance')} {verb} this"
        return f"{which}: look at {names}, the others are as on the baseline; if nothing is wrong there, {otherwise}"
    return f"find out why {describe_fault(fault)}; if nothing is wrong there, {otherwise}"
