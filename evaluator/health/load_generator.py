"""Was the load generator in order: its clocks, its speed, and does its pacing hide stalls?"""

from __future__ import annotations

from collections.abc import Iterable

from evaluator.health.base import RequestContext, fail, ok, warn
from evaluator.records import Finding

NAME = "load_generator"
BUSY_PERCENT = 85
SATURATED_PERCENT = 97
SLOW_LAG_MS = 20
SATURATED_LAG_MS = 100


def check_clock(context: RequestContext) -> Iterable[Finding]:
    """Requests are paired by time: clocks that differ by more than the policy allows make the comparison void."""
    offsets = context.list_known("clock_offset_s")
    if not offsets:
        return
    worst = max(abs(offset) for offset in offsets)
    allowed = context.rulebook.max_clock_offset_s
    if worst > allowed:
        text = f"a worker's clock is off by {worst:.3g} s, more than the {allowed:.3g} s allowed"
        yield fail("clock", text, "synchronise the machines' clocks and load again", void=True)
    else:
        yield ok("clock", f"clocks agree within {worst:.2g} s")


def check_load_generator(context: RequestContext) -> Iterable[Finding]:
    """Judge the CPU and the event loop of the load's processes: a saturated load measures itself, which is void."""
    # `None`: no process reported the value.
    cpu_percent = max(context.list_known("cpu_percent"), default=None)
    lag_ms = max(context.list_known("loop_lag_ms"), default=None)
    if cpu_percent is None and lag_ms is None:
        if any(run.source == "locust" for run in context.runs):
            yield warn(NAME, "not checked: no process reported its CPU or event-loop lag")
        return
    parts = []
    if cpu_percent is not None:
        parts.append(f"CPU at most {cpu_percent:.0f} % of a core")
    if lag_ms is not None:
        parts.append(f"event loop late by {lag_ms:.3g} ms (99th percentile)")
    text = ", ".join(parts)
    remedy = "use more processes (--processes 2), fewer users, or a larger machine"
    if (cpu_percent or 0) >= SATURATED_PERCENT or (lag_ms or 0) >= SATURATED_LAG_MS:
        yield fail(NAME, f"saturated: {text}", remedy, void=True)
    elif (cpu_percent or 0) >= BUSY_PERCENT or (lag_ms or 0) >= SLOW_LAG_MS:
        yield warn(NAME, f"busy: {text}", remedy)
    else:
        yield ok(NAME, text)


def check_pacing(context: RequestContext) -> Iterable[Finding]:
    """Closed-loop users wait for a stalled service, so few of their requests meet the stall."""
    pacing = {run.facts.pacing for run in context.runs}
    if any(run.facts.router is not None and run.facts.pacing for run in context.runs):
        text = "all arms share their users: users that wait for a slow canary send the baseline fewer requests, too"
        if "closed" in pacing:
            text += "; and in a closed loop short stalls touch few requests"
        remedy = "pace users with `constant_throughput`, and run so many that some are always free"
        yield warn("pacing", text, remedy)
    elif "closed" in pacing:
        text = "closed loop: users wait for slow answers, so short stalls touch few requests"
        yield warn("pacing", text, "pace users with `constant_throughput` or `constant_pacing`")
    elif "open" in pacing:
        yield ok("pacing", "open loop: users keep their pace even if answers are slow")
