"""How much of the start was cut, and why."""

from __future__ import annotations

from collections.abc import Iterable

from evaluator.health.base import RequestContext, ok, warn
from evaluator.records import Finding
from evaluator.wording import format_duration

NAME = "warm_up"


def check_warm_up(context: RequestContext) -> Iterable[Finding]:
    """Say what was cut; warn if nothing was, because users were not recorded or their number was never level."""
    warm_up = context.warm_up
    longest = max(warm_up.cut_s.values(), default=0)
    if warm_up.unknown:
        yield warn(
            NAME, "nothing cut: the data have no user counts", "to cut a warm-up, set `warm_up: 30s` in the policy"
        )
    if warm_up.never_level:
        yield warn(NAME, "nothing cut: the user count is not level within the first third of the run")
    if longest:
        yield ok(NAME, f"the first {format_duration(longest)} are not judged")
    elif not warm_up.unknown and not warm_up.never_level:
        yield ok(NAME, "users were level from the start")
