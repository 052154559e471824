"""Can a release be told from the machine it ran on?"""

from __future__ import annotations

from collections.abc import Iterable

from evaluator.health.base import RequestContext, ok, warn
from evaluator.records import Finding, Level, is_imported
from evaluator.wording import format_count

__all__ = ["check_replication"]

NAME = "replication"
SINGLE = "single_instance"
ENOUGH = 3


def check_replication(context: RequestContext) -> Iterable[Finding]:
    """One instance or replicate a side forbids a GO; fewer than three make it unlikely."""
    if any(run.fingerprint.get("replicates_overlap") for run in context.runs):
        yield warn(
            NAME,
            "files that ran at the same time are taken as replicates, as --files-are says: if one run left them, "
            "the differences between runs are taken for smaller than they are",
            "import them again under another release id with `--files-are parts`, if one run left them",
        )
    for arm, count in context.names_per_arm.items():
        yield warn(
            NAME,
            f"{format_count(count)} names of instances of {arm} have too few requests each: taken as one instance",
            "where these are instances, load for longer; where they are requests or connections, let each instance "
            "send a name of its own",
        )
    for arm, design in context.designs.items():
        units = "replicates" if design.kind == "replicates" else "instances"
        fewest = min(design.behind)
        if design.kind == "single" and fewest < ENOUGH:
            yield Finding(
                SINGLE,
                Level.FAIL,
                f"one instance a side ({arm} {design.instances[1]}, baseline {design.instances[0]}): "
                "the release cannot be told from the machine it ran on",
                remedy=_cure(context),
            )
        elif design.kind == "single":
            yield warn(NAME, f"{fewest} instances a side are declared but not told apart: their spread is assumed")
        elif fewest < ENOUGH:
            yield warn(NAME, f"only {fewest} {units} a side: intervals are wide, three make a GO likely")
        else:
            yield ok(NAME, f"{design.behind[0]} + {design.behind[1]} {units}")


def _cure(context: RequestContext) -> str:
    """The command that tells release from machine."""
    if is_imported(context.runs):
        return (
            "repeat the test with restarts and import all its files together under a new id, "
            "`evaluator import RELEASE --baseline OLD1,OLD2,OLD3 --canary NEW1,NEW2,NEW3`, "
            "or name the instances, `--column instance=COLUMN`"
        )
    again = f"`evaluator load {context.release} --replicates 5 …`"
    return f"repeat the run with restarts, {again}, or load three instances an arm"
