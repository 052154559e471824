"""Land request and outcome files of other tools."""

from __future__ import annotations

from collections.abc import Sequence

from evaluator.records import (
    Landed,
    LandingPlan,
    OutcomeFacts,
    OutcomeOptions,
    OutcomePlan,
    Release,
    Run,
    RunState,
    check_names,
)
from evaluator.sources.outcomes import OUTCOME_SOURCE, plan_outcomes
from evaluator.sources.recording import new_run_id
from evaluator.store import Store

__all__ = ["import_outcomes", "import_release"]


def import_release(store: Store, release: Release, plan: LandingPlan) -> Landed:
    """Land the files of a plan as a run group of their own; the same files again change nothing. Raises InputError."""
    check_names(release, {file.arm: None for file in plan.files})
    group = new_run_id()
    replicates = sorted({file.replicate for file in plan.files})
    runs = [_imported_run(release, plan, group, replicate) for replicate in replicates]
    return store.land_files(release, runs, plan)


def _imported_run(release: Release, plan: LandingPlan, group: str, replicate: int) -> Run:
    files = [file for file in plan.files if file.replicate == replicate]
    return Run(
        id=group if replicate == 0 else f"{group}-{replicate + 1}",
        release=release.id,
        group=group,
        source="import",
        replicate=replicate,
        fingerprint={"files": {file.arm: file.path for file in files}},
    )


def import_outcomes(
    store: Store,
    release: Release,
    files: Sequence[str],
    options: OutcomeOptions,
    *,
    query: str = "",
    skip_bad_rows: bool = False,
) -> tuple[Landed, OutcomeFacts, OutcomePlan]:
    """Land outcomes of units as a run group of their own; the same files again change nothing. Raises InputError."""
    check_names(release)
    plan = plan_outcomes(files, options, store.describe_outcomes, query=query, skip_bad_rows=skip_bad_rows)
    group = new_run_id()
    run = Run(
        id=group,
        release=release.id,
        group=group,
        source=OUTCOME_SOURCE,
        state=RunState.COMPLETE,
        fingerprint={"files": list(plan.paths)},
    )
    landed, facts = store.land_outcomes(release, run, plan)
    return landed, facts, plan
