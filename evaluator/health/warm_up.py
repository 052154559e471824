"""How much of the start was cut, and on what grounds."""

from __future__ import annotations

from collections.abc import Iterable

from evaluator.health.base import RequestContext, ok, warn
from evaluator.records import Finding
from evaluator.wording import format_duration

NAME = "warm_up"


def check_warm_up(context: RequestContext) -> Iterable[Finding]:
    """Says what was cut; warns where nothing could be, because users were not recorded or never level."""
    warm_up = context.warm_up
    longest = max(warm_up.cut_s.values(), default=0)
    if warm_up.unknown:
        yield warn(NAME, "nothing cut: the data carry no user counts", "set `warm_up: 30s` in the policy to cut it")
    if warm_up.never_level:
        yield warn(NAME, "nothing cut: the user count is not level before a third of the run")
    if longest:
        yield ok(NAME, f"the first {format_duration(longest)} are not judged")
    elif not warm_up.unknown and not warm_up.never_level:
        yield ok(NAME, "users were level from the start")
