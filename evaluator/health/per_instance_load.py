"""Do the instances of the arms get about the same load each? An instance with more load is slower by that alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from evaluator.health.base import RequestContext, ok, warn
from evaluator.records import BASELINE, Finding
from evaluator.stats.shaping.instance_load import InstanceLoad
from evaluator.wording import count_of, format_number

NAME = "per_instance_load"
MOST = 1.5
"""Ratio of the loads of single instances, either way, above which their times are not compared."""


def check_per_instance_load(context: RequestContext) -> Iterable[Finding]:
    """Compare the load of single instances; if it differs much, times decide nothing.

    For a load with users of each arm it says nothing if it is about equal, as it is by design.
    """
    differing = find_differing(context)
    for arm, load in context.instance_loads.items():
        text = _describe(load, arm)
        if arm not in differing:
            if context.is_live:
                yield ok(NAME, text)
            continue
        remedy = (
            "give each arm a share of the requests that fits its number of instances, or compare with as many fresh "
            f"instances of the baseline as there are of {arm}"
        )
        if not context.traffic_is_routed:
            remedy = "load as many instances of the baseline as of the candidate"
        yield warn(NAME, f"{text}, so response times decide neither GO nor NO-GO; failures do", remedy)


def find_differing(context: RequestContext) -> Mapping[str, InstanceLoad]:
    """Find the candidates whose instances get so much more or less load than the baseline's that times differ."""
    return {arm: load for arm, load in context.instance_loads.items() if not 1 / MOST <= load.ratio <= MOST}


def explain_difference(load: InstanceLoad, arm: str) -> str:
    """Say why times are not compared, as part of a sentence on a metric."""
    more, fewer = (arm, BASELINE) if load.ratio > 1 else (BASELINE, arm)
    times = format_number(max(load.ratio, 1 / load.ratio))
    what = "users" if load.unit == "users" else "requests"
    return f"an instance of {more} gets {times} times the {what} of one of {fewer}, which changes times by itself"


def _describe(load: InstanceLoad, arm: str) -> str:
    """Write the load of one instance of each arm."""
    baseline, candidate = (count_of(round(count), "instance") for count in load.instances)
    return (
        f"each of {candidate} of {arm} gets {format_number(load.candidate)} {load.unit}, each of {baseline} of "
        f"baseline {format_number(load.baseline)}"
    )
