"""What the judge took from earlier runs of the service instead of assuming it."""

from __future__ import annotations

from evaluator.health.base import ok
from evaluator.records import Finding, Learnt, Rulebook
from evaluator.stats.history import LEAST_COMPARISONS
from evaluator.wording import count_of, format_number

__all__ = ["describe_learnt"]

NAME = "history"


def describe_learnt(learnt: Learnt, rulebook: Rulebook) -> Finding:
    """Say what is assumed of instances that a run cannot tell apart, and how many runs that rests on."""
    latency, failures = (format_number(100 * sd) for sd in (rulebook.prior.sd_latency, rulebook.prior.sd_failures))
    seen = f"{count_of(learnt.comparisons, 'comparison')} in {count_of(learnt.runs, 'run')}"
    return ok(
        NAME,
        f"instances are taken to differ by {latency} % in latency and {failures} pp in failures: "
        f"learnt from {seen}{_describe_wander(learnt)}",
    )


def _describe_wander(learnt: Learnt) -> str:
    if learnt.wander_latency is None or learnt.wander_failures is None:
        return ""
    if learnt.wander_comparisons < LEAST_COMPARISONS:
        return ""
    latency, failures = (
        format_number(float(f"{100 * sd:.3g}")) for sd in (learnt.wander_latency, learnt.wander_failures)
    )
    return (
        f"; whole arms are taken to wander more slowly than a run by {latency} % in latency and {failures} pp in "
        f"failures, from {count_of(learnt.wander_comparisons, 'comparison')} in {count_of(learnt.wander_runs, 'run')}"
    )
