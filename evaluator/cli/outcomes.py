"""`evaluator import --outcomes`: its options and its messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from evaluator.records import EvidenceKind, Landed, OutcomeFacts, OutcomePlan

if TYPE_CHECKING:
    from evaluator.policy import Policy
    from evaluator.store import Store


@dataclass(frozen=True, slots=True)
class OutcomeFiles:
    """Values of the options that give files of outcomes."""

    outcomes: tuple[str, ...] = ()
    outcomes_glob: tuple[str, ...] = ()
    arm_outcomes: tuple[str, ...] = ()
    """Texts NAME=FILE."""
    arm_outcomes_glob: tuple[str, ...] = ()
    """Texts NAME=PATTERN."""


OUTCOME_FILE_OPTIONS = (
    click.option(
        "--outcomes",
        metavar="FILE",
        multiple=True,
        help="Outcomes of an A/B test, as CSV, Parquet or Arrow: a row per unit or event, with columns for unit, arm "
        "and outcomes.",
    ),
    click.option("--outcomes-glob", metavar="PATTERN", multiple=True, help="The same, in all files that match."),
    click.option(
        "--arm-outcomes",
        metavar="NAME=FILE",
        multiple=True,
        help="Outcomes of one arm, whose file needs no column of the arm: baseline=old.csv. Repeat it for each arm.",
    ),
    click.option(
        "--arm-outcomes-glob", metavar="NAME=PATTERN", multiple=True, help="The same, in all files that match."
    ),
)

OUTCOME_OPTIONS = (
    click.option(
        "--outcomes-query", metavar="SQL", default="", help="Import the result of this query over the table outcomes."
    ),
    click.option(
        "--unit",
        metavar="COLUMN",
        default="",
        help="Column of the unit; rows: each row is a unit.  [default: unit, user_id, user, session_id …]",
    ),
    click.option(
        "--arm-column",
        metavar="COLUMN",
        default="",
        help="Column of the arm.  [default: arm, variant, group, treatment …]",
    ),
    click.option(
        "--baseline-arm",
        metavar="VALUE",
        default="",
        help="Value of the arm column, or NAME, that is the baseline.  [default: baseline, control, A, 0 …]",
    ),
    click.option(
        "--outcome",
        "outcome_names",
        metavar="COLUMN[:KIND]",
        multiple=True,
        help="Column of an outcome; KIND is binary or numeric. May be repeated.  [default: every numeric column]",
    ),
    click.option(
        "--covariate",
        "covariates",
        metavar="COLUMN",
        multiple=True,
        help="Column of a value known before the test; may be repeated.  "
        "[default: columns called pre_…, …_pre, …_covariate]",
    ),
)


def describe_outcomes(release: str, landed: Landed, facts: OutcomeFacts, plan: OutcomePlan) -> str:
    """Describe what an import of outcomes has landed, in one line: units, columns, and rows that are not judged.

    `facts`: counts of its rows and units. `plan`: how its columns were read.
    """
    from evaluator.health.outcomes import describe_left_out  # numpy is not needed before something has landed

    if landed.already:
        return f"{release}: these outcomes have landed already (run {', '.join(landed.runs)}); no row was added"
    outcomes = ", ".join(column.name for column in plan.columns if column.role == "outcome")
    covariates = ", ".join(column.name for column in plan.columns if column.role == "covariate")
    judged_rows = sum(arm.judged for arm in facts.account())
    source_of_arms = "file" if plan.arm_of_file else plan.arm
    text = f"{release}: outcomes of {facts.units} units ({plan.unit}) in {judged_rows} rows, arms by {source_of_arms}: "
    text += outcomes
    if covariates:
        text += f"; covariates {covariates}"
    if facts.crossed:
        text += f"; {facts.crossed} units in several arms left out"
    if facts.duplicates and not facts.duplicates_dropped:
        text += f"; {facts.duplicates} duplicated rows kept"
    if facts.left_out:
        text += f"; {sum(facts.read.values())} rows read, not judged: {describe_left_out(facts)}"
    return text


def describe_next_step(policy: Policy, store: Store, landed: Landed) -> str:
    """Describe what to do before the first verdict on outcomes; empty if there is nothing to do.

    If the policy has no metric of outcomes, this is to add some; suggestions are listed. Otherwise it is to plan the
    looks at outcomes, unless the policy does so or these outcomes had landed before.
    """
    if not policy.rulebook.on(EvidenceKind.OUTCOMES):
        from evaluator.pipeline.importing import find_outcomes, suggest_metrics

        outcomes = find_outcomes(store)
        suggestions = suggest_metrics(outcomes) if outcomes else ()
        message = "the policy has no metric of outcomes; `evaluator init` writes one with these (check the margins):"
        return "\n  - ".join([message, *suggestions])
    monitoring = policy.rulebook.monitoring
    if landed.already or monitoring.mode != "auto" or monitoring.max_units is not None:
        return ""
    return (
        "the first verdict on outcomes of a release spends all of alpha, later ones on other data share a tenth; "
        "if more units will come, plan the looks first with `monitoring: {max_units: …}` or `{mode: anytime}`"
    )
