"""`evaluator rollout`: what a rollout would do, step by step."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from evaluator.cli import Session, emit
from evaluator.cli.rollout_report import report_command
from evaluator.cli.terminal import make_page
from evaluator.records.rollouts import Act, Observe, RolloutPlan, Step, StepNeeds, to_plain
from evaluator.reports.base import align_columns, write_line
from evaluator.wording import count_of, format_duration, format_number

HEAD = ("#", "step", "where", "users", "needs", "time")
NEEDS = {StepNeeds.GO: "GO", StepNeeds.NO_HARM: "no harm", StepNeeds.NOTHING: "nothing"}


@click.group("rollout")
def command() -> None:
    """Take a release through its stages, each allowed by evidence.

    This version checks and shows the plan of the policy's section `rollout`; it does not start rollouts yet.
    """


command.add_command(report_command)


@command.command("plan")
@click.argument("release")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.pass_obj
def plan_command(session: Session, release: str, as_json: bool) -> None:
    """Show each step of the rollout of RELEASE with what it needs. Changes nothing.

    A policy whose stages contradict each other is refused, with the line.
    """
    from evaluator.rollout.planning import make_plan

    plan = make_plan(session.load_policy(release), release)
    if as_json:
        emit(json.dumps({**to_plain(plan), "hash": plan.hash()}, indent=2))
        return
    page = make_page()
    rows = [(str(number), *_make_row(step)) for number, step in enumerate(plan.steps, start=1)]
    lines = [*_write_head(plan), "", *align_columns([HEAD, *rows], page), "", *_write_rules(plan)]
    emit("\n".join(line if line.startswith("  ") else write_line(line, page) for line in lines))


def _write_head(plan: RolloutPlan) -> Iterator[str]:
    """Write which rollout is planned, and how long it takes if all goes well."""
    seconds = sum(step.bake_s for step in plan.steps if isinstance(step, Observe))
    services, strategy = ", ".join(plan.services), plan.strategy.replace("_", "-")
    yield f"rollout of {plan.release}: {strategy}, {services}; {format_duration(seconds)} at least"


def _make_row(step: Step) -> tuple[str, ...]:
    """Make the cells of a step, without its number."""
    if isinstance(step, Observe):
        time = format_duration(step.bake_s) if step.bake_s else "–"
        if step.deadline_s > step.bake_s:
            time += f", a person is asked after {format_duration(step.deadline_s)}"
        needs = NEEDS[step.needs] + (
            f" in {count_of(step.least, 'request')}" if step.needs is StepNeeds.NO_HARM else ""
        )
        what = f"observe {step.name}" + (" under load" if step.load else "")
        return what, step.environment, _write_share(step.share), needs, time
    return step.name, _write_place(step), _write_share(step.share), ", ".join(_list_conditions(step)) or "–", "–"


def _write_share(share: float | None) -> str:
    """Write the share of users that meet the candidate."""
    return f"{format_number(100 * share)} %" if share else "–"


def _write_place(step: Act) -> str:
    """Write before which stage an act is executed."""
    if step.final:
        return "always, at the end"
    return "after all stages" if step.stage == "end" else f"before {step.stage}"


def _list_conditions(step: Act) -> Iterator[str]:
    """List what an act needs, or cannot do."""
    if step.agree:
        yield f"{count_of(step.agree, 'agreement')}"
    if step.retry_for_s:
        yield f"tried for {format_duration(step.retry_for_s)}"
    if step.irreversible:
        yield "no way back after it"


def _write_rules(plan: RolloutPlan) -> Iterator[str]:
    """Write the rules that hold while the rollout goes on."""
    guard = plan.guard
    limits = f"{format_number(100 * guard.failures)} % failures"
    if guard.p95_ms is not None:
        limits += f" or a p95 of {format_number(guard.p95_ms)} ms"
    yield (
        f"back to the baseline: at NO-GO (alpha {format_number(plan.alpha_no_go)} each), at {limits} over "
        f"{format_duration(guard.over_s)}, and {format_duration(plan.lease_s)} after its driver is gone"
    )
    silence = "back to the baseline" if plan.unanswered == "baseline" else "it goes on waiting"
    yield f"if a person who is asked does not answer within {format_duration(plan.answer_within_s)}: {silence}"
    yield f"plan {plan.hash()}"
