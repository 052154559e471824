"""`evaluator rollout`: what a rollout would do, step by step."""

from __future__ import annotations

import json

import click

from evaluator.cli import Session, emit
from evaluator.cli.rollout_report import report_command
from evaluator.cli.terminal import make_page
from evaluator.records.rollouts import to_plain
from evaluator.reports.base import write_line


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

    Chances are those of an unchanged release, by the stored runs of its service. A policy whose stages contradict each
    other, or can never show what they need, is refused, with the line.
    """
    from evaluator.cli.rollout_plan import to_plain_outlook, write_plan
    from evaluator.pipeline.adopting import is_store_there
    from evaluator.rollout.outlook import look_ahead
    from evaluator.rollout.planning import make_plan

    policy = session.load_policy(release)
    plan = make_plan(policy, release)
    store = session.open_store() if is_store_there(session.store_path) else None
    outlook = look_ahead(store, policy, plan)
    if as_json:
        emit(json.dumps({**to_plain(plan), "hash": plan.hash(), "outlook": to_plain_outlook(outlook)}, indent=2))
        return
    page = make_page()
    lines = write_plan(plan, outlook, page)
    emit("\n".join(line if line.startswith("  ") else write_line(line, page) for line in lines))
