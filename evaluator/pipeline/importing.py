"""Land request and outcome files of other tools."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

from evaluator.metrics.outcome_mean import OutcomeMean
from evaluator.metrics.outcome_proportion import OutcomeProportion
from evaluator.records import (
    OUTCOME_SOURCE,
    EvidenceKind,
    Landed,
    LandingPlan,
    LogPlan,
    OutcomeFacts,
    OutcomeOptions,
    OutcomePlan,
    Outcomes,
    Release,
    Run,
    RunState,
    check_names,
)
from evaluator.sources.access_logs.planning import describe_bad_line
from evaluator.sources.files import arrange_files
from evaluator.sources.outcomes import plan_outcomes
from evaluator.sources.recording import new_run_id
from evaluator.store import Store
from evaluator.store.outcome_files import describe_outcomes


def import_release(store: Store, release: Release, plan: LandingPlan) -> Landed:
    """Land the files of a plan as a new run group. If they have landed already, only update services and labels.

    Raises InputError for files that cannot be read.
    """
    check_names(release, dict.fromkeys(file.arm for file in plan.files))
    landed = store.data.land_files(release, new_run_id(), plan, arrange_files)
    if landed.already:  # then `land_files` has not stored the release
        store.control.add_release(release)
    return landed


def import_access_logs(store: Store, release: Release, plan: LogPlan) -> Landed:
    """Land access logs as a new run. If they have landed already, only update services and labels.

    Raises InputError for lines that cannot be read, and if none is of an arm.
    """
    check_names(release, plan.options.arms)
    describe = partial(describe_bad_line, sensitive=plan.options.sensitive)
    landed = store.data.land_access_logs(release, new_run_id(), plan, describe)
    if landed.already:  # then `land_access_logs` has not stored the release
        store.control.add_release(release)
    return landed


def import_outcomes(
    store: Store,
    release: Release,
    files: Sequence[str],
    options: OutcomeOptions,
    *,
    patterns: Sequence[str] = (),
    arm_files: Mapping[str, Sequence[str]] = MappingProxyType({}),
    arm_patterns: Mapping[str, Sequence[str]] = MappingProxyType({}),
    query: str = "",
    skip_bad_rows: bool = False,
    step: str = "",
    fingerprint: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Landed, OutcomeFacts, OutcomePlan]:
    """Land a table with the outcomes of units (such as users) as a new run.

    `files`, `patterns`: paths of the files, and patterns of further ones. `arm_files`, `arm_patterns`, by arm: the same
    for files of one arm each, instead of the others. `query`: SQL that makes the table from them. `step`: the step of a
    rollout that they belong to, or empty. `fingerprint`: what else the run is known by.
    If it has landed already, only services and labels of the release are updated. Returns the result of the landing,
    the counts of units and rows, and how the columns were read. Raises InputError for a table that cannot be read.
    """
    check_names(release)
    plan = plan_outcomes(
        files,
        options,
        describe_outcomes,
        patterns=patterns,
        arm_files=arm_files,
        arm_patterns=arm_patterns,
        query=query,
        skip_bad_rows=skip_bad_rows,
    )
    check_names(release, plan.arm_of_file)
    group = new_run_id()
    run = Run(
        id=group,
        release=release.id,
        group=group,
        source=OUTCOME_SOURCE,
        state=RunState.COMPLETE,
        fingerprint={"files": list(plan.paths), **fingerprint},
        step=step,
    )
    landed, facts = store.data.land_outcomes(release, run, plan)
    if landed.already:  # then `land_outcomes` has not stored the release
        store.control.add_release(release)
    return landed, facts, plan


def find_outcomes(store: Store) -> Outcomes | None:
    """Read the newest outcomes of the newest release; `None` if there is no release or it has no outcomes."""
    summaries = store.releases()  # the newest first
    if not summaries:
        return None
    outcome_runs = [run for run in store.data.runs(summaries[0].release.id) if run.kind is EvidenceKind.OUTCOMES]
    return store.data.read_outcomes(outcome_runs[-1]) if outcome_runs else None


def suggest_metrics(outcomes: Outcomes) -> tuple[str, ...]:
    """Write a metric of the policy (a line of YAML) for each outcome.

    The margins are guesses: only a user knows the tolerated harm.
    """

    def to_yaml(name: str) -> str:
        """Write a name in YAML, quoted where it could be read as another type."""
        is_plain = re.fullmatch("[a-z][a-z0-9_]*", name) and name not in _YAML_WORDS
        return name if is_plain else json.dumps(name)

    covariates = [column.name for column in outcomes.columns if column.role == "covariate"]
    metrics = []
    for column in outcomes.columns:
        if column.role != "outcome":
            continue
        name = to_yaml(column.name)
        # A covariate with the name of the outcome in its own, such as `revenue_before`, is probably its earlier value.
        own_covariates = [to_yaml(covariate) for covariate in covariates if column.name in covariate]
        adjustment = f", covariates: [{', '.join(own_covariates)}]" if own_covariates else ""
        if column.binary:
            metric_type, margin = OutcomeProportion.type, "1pp"
        else:
            metric_type, margin = OutcomeMean.type, "2%"
        metrics.append(f"{{name: {name}, type: {metric_type}, outcome: {name}, margin: {margin}{adjustment}}}")
    return tuple(metrics)


_YAML_WORDS = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
