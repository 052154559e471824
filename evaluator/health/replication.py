"""Can a release be distinguished from the machine it ran on, and what was learnt from earlier runs for that?"""

from __future__ import annotations

from collections.abc import Iterable

from evaluator.health.base import RequestContext, fail, ok, warn
from evaluator.records import Finding, Learnt, Rulebook, is_imported
from evaluator.stats.variance.history import LEAST_COMPARISONS
from evaluator.wording import count_of, format_count, format_number, quote_command

NAME = "replication"
ENOUGH = 3


def check_replication(context: RequestContext) -> Iterable[Finding]:
    """One instance or replicate a side forbids a GO; fewer than three make it unlikely.

    `context.designs` has for each candidate what is replicated: runs ("replicates"), "instances", or nothing
    ("single": an arm has one instance only). A warning also names replicates that may be parts of one run, and instance
    names that do not distinguish instances.
    """
    if any(run.fingerprint.get("replicates_overlap") for run in context.runs):
        yield warn(
            NAME,
            "files of the same time are taken as replicates, because --files-are requests it: if they are parts of one "
            "run, the differences between runs are underestimated",
            "if they are parts of one run, import them again under another release id with `--files-are parts`",
        )
    for arm, count in context.names_per_arm.items():
        yield warn(
            NAME,
            f"{format_count(count)} instance names of {arm}, such as {_find_instance_name(context, arm)}, have too few "
            "requests each, so they count as one instance",
            "if these are instances, load for longer; if they are requests or connections, let each instance send its "
            "own name",
        )
    command = f"`{quote_command('load', context.release, '--replicates', '5')} …`"
    remedy = f"repeat the run with restarts, {command}, or load three instances an arm"
    if context.is_live:
        remedy = "run three instances an arm, and let the log name the server of each request"
    elif is_imported(context.runs):
        remedy = (
            "repeat the test with restarts and import all its files together under a new id, "
            "`evaluator import RELEASE --baseline OLD1 --canary NEW1 --baseline OLD2 --canary NEW2 …`, "
            "or name the instances, `--column instance=COLUMN`"
        )
    for arm, design in context.designs.items():
        units = "replicates" if design.kind == "replicates" else "instances"
        # Replicates, or instances (seen in the data, or declared by the policy), of baseline and candidate.
        fewest = min(design.replicate_counts)
        if design.kind == "single" and fewest < ENOUGH:
            text = (
                f"one instance a side ({arm} {design.instances[1]}, baseline {design.instances[0]}): "
                "the release cannot be distinguished from the machine it ran on"
            )
            yield fail("single_instance", text, remedy)
        elif design.kind == "single":  # the policy declares enough instances behind the one that requests name
            yield warn(NAME, f"{fewest} instances a side are declared but not distinguished: their spread is assumed")
        elif fewest < ENOUGH:
            yield warn(NAME, f"only {fewest} {units} a side, so intervals are wide: a GO is more likely with three")
        else:
            yield ok(NAME, f"{design.replicate_counts[0]} + {design.replicate_counts[1]} {units}")


def _find_instance_name(context: RequestContext, arm: str) -> str:
    """Find an instance name of an arm, as it is in the data."""
    cells = context.settled.cells  # in `context.cells` these instances are merged
    return cells.instances[int(cells.moments.instance[cells.moments.arm == cells.arms.index(arm)].min())]


def describe_learnt(learnt: Learnt, rulebook: Rulebook) -> Finding:
    """Make the finding on how much instances and arms are assumed to differ, and from how many runs that was learnt."""
    latency, failures = format_number(100 * rulebook.prior.sd_latency), format_number(100 * rulebook.prior.sd_failures)
    basis = f"{count_of(learnt.comparisons, 'comparison')} in {count_of(learnt.runs, 'run')}"
    text = (
        f"instances are assumed to differ by {latency} % in latency and {failures} pp in failures, learnt from {basis}"
    )
    # How much whole arms differ because they drift more slowly than a run lasts (standard deviations); `None`: unknown.
    sd_latency, sd_failures = learnt.between_arms_latency, learnt.between_arms_failures
    if sd_latency is not None and sd_failures is not None and learnt.between_arms_comparisons >= LEAST_COMPARISONS:
        # Rounded first, so that the text is the same if the last digits of a number are not.
        drift_latency, drift_failures = (format_number(float(f"{100 * sd:.3g}")) for sd in (sd_latency, sd_failures))
        drift_basis = (
            f"{count_of(learnt.between_arms_comparisons, 'comparison')} in {count_of(learnt.between_arms_runs, 'run')}"
        )
        text += (
            f"; whole arms are assumed to drift by {drift_latency} % in latency and {drift_failures} pp in failures "
        )
        text += f"from run to run, learnt from {drift_basis}"
    return ok("history", text)
