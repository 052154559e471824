"""Do the clocks agree? Pairing by time rests on it."""

from __future__ import annotations

from collections.abc import Iterable

from evaluator.health.base import RequestContext, ok
from evaluator.records import Finding, Level

__all__ = ["check_clock"]

NAME = "clock"


def check_clock(context: RequestContext) -> Iterable[Finding]:
    """Clocks further apart than the policy allows make the comparison void."""
    offsets = context.known("clock_offset_s")
    if not offsets:
        return
    worst, allowed = max(abs(offset) for offset in offsets), context.rulebook.max_clock_offset_s
    if worst > allowed:
        text = f"a worker's clock is off by {worst:.3g} s, {allowed:.3g} s are allowed"
        yield Finding(NAME, Level.FAIL, text, void=True, remedy="synchronise the machines' clocks and load again")
    else:
        yield ok(NAME, f"clocks agree within {worst:.2g} s")
