"""Land request and outcome files of other tools."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from evaluator.metrics.outcome_mean import OutcomeMean
from evaluator.metrics.outcome_proportion import OutcomeProportion
from evaluator.records import (
    OUTCOME_SOURCE,
    EvidenceKind,
    Landed,
    LandingPlan,
    OutcomeFacts,
    OutcomeOptions,
    OutcomePlan,
    Outcomes,
    Release,
    Run,
    RunState,
    check_names,
)
from evaluator.sources.files import arrange_files
from evaluator.sources.outcomes import plan_outcomes
from evaluator.sources.recording import new_run_id
from evaluator.store import Store
from evaluator.store.outcome_files import describe_outcomes


def import_release(store: Store, release: Release, plan: LandingPlan) -> Landed:
    """Land the files of a plan as a new run group. If they have landed already, only update services and labels.

    Raises InputError.
    """
    check_names(release, {file.arm: None for file in plan.files})
    landed = store.data.land_files(release, new_run_id(), plan, arrange_files)
    if landed.already:
        store.control.add_release(release)
    return landed


def import_outcomes(
    store: Store,
    release: Release,
    files: Sequence[str],
    options: OutcomeOptions,
    *,
    query: str = "",
    skip_bad_rows: bool = False,
) -> tuple[Landed, OutcomeFacts, OutcomePlan]:
    """Land outcomes of units as a new run group. If they have landed already, only update services and labels.

    Raises InputError.
    """
    check_names(release)
    plan = plan_outcomes(files, options, describe_outcomes, query=query, skip_bad_rows=skip_bad_rows)
    group = new_run_id()
    run = Run(
        id=group,
        release=release.id,
        group=group,
        source=OUTCOME_SOURCE,
        state=RunState.COMPLETE,
        fingerprint={"files": list(plan.paths)},
    )
    landed, facts = store.data.land_outcomes(release, run, plan)
    if landed.already:
        store.control.add_release(release)
    return landed, facts, plan


def find_outcomes(store: Store) -> Outcomes | None:
    """Read the outcomes of the newest release; `None` where it has none."""
    newest = next(iter(store.releases()), None)
    runs = store.data.runs(newest.release.id) if newest else ()
    run = next((run for run in reversed(runs) if run.kind is EvidenceKind.OUTCOMES), None)
    return store.data.read_outcomes(run) if run else None


def suggest_metrics(outcomes: Outcomes) -> tuple[str, ...]:
    """Write a metric of the policy for each outcome. The margins are guesses: only a user knows the tolerated harm."""

    def to_yaml(name: str) -> str:
        """Write a name in YAML, quoted where it could be read as another type."""
        return name if re.fullmatch("[a-z][a-z0-9_]*", name) and name not in _YAML_WORDS else json.dumps(name)

    covariates = [column.name for column in outcomes.columns if column.role == "covariate"]
    metrics = []
    for column in outcomes.columns:
        if column.role != "outcome":
            continue
        name, own = to_yaml(column.name), [to_yaml(covariate) for covariate in covariates if column.name in covariate]
        adjustment = f", covariates: [{', '.join(own)}]" if own else ""
        kind, margin = (OutcomeProportion, "1pp") if column.binary else (OutcomeMean, "2%")
        metrics.append(f"{{name: {name}, type: {kind.type}, outcome: {name}, margin: {margin}{adjustment}}}")
    return tuple(metrics)


_YAML_WORDS = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
