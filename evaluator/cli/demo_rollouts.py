"""`evaluator demo rollouts`: a good and a bad candidate by each strategy, compared in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evaluator.cli import DEFAULT_STORE, Session, emit
from evaluator.cli.demo_rollout import INCONCLUSIVE_CODE, PATIENCE_S, Demo, EndedDemo, find_expected_stage, make_folder
from evaluator.cli.terminal import make_page
from evaluator.errors import UsageError
from evaluator.sources.sample_environments import KINDS, end_processes
from evaluator.sources.sample_policy import STRATEGIES, Times
from evaluator.sources.sample_router import require_haproxy
from evaluator.wording import format_count, format_duration

if TYPE_CHECKING:
    from evaluator.records.rollouts import Event, RolloutPlan

TIMES = Times(load_s=15, canary_load=False, bake_s=12, last_s=6, least=100, users=60, shares=("5 %", "50 %"))
"""Shorter than those of one demo: there are many."""
AROUND_S = 15.0
"""What one rollout takes in addition to its stages: starting and ending all (s)."""
CLOSING_S = 8.0
"""What one stage takes in addition to its time: deploying, waiting for the last requests, judging (s)."""
LONGEST_TEXT = 50
BAD = "production-errors"
HEAD = ("strategy", "candidate", "ended", "took", "requests", "failed", "what turned it back", "planned")
NOTES = (
    "  took: from the start until it had ended. requests: those of users that the candidate got, by HAProxy. failed:",
    "  of these; after a plus those without an answer. planned: the times of the stages and the requests meanwhile, as",
    "  `rollout plan` counts them; of a bad candidate, until the end of the stage that should turn it back",
)


@click.command("rollouts")
@click.option(
    "--regression",
    type=click.Choice([kind for kind in KINDS if kind != "none"]),
    default=BAD,
    show_default=True,
    help="What is wrong with the bad candidate, as for `evaluator demo rollout`.",
)
@click.option(
    "--strategy", "strategies", type=click.Choice(list(STRATEGIES)), multiple=True,
    help="Only this one; may be repeated.  [default: all]",
)  # fmt: skip
@click.pass_obj
def command(session: Session, regression: str, strategies: tuple[str, ...]) -> int:
    """Roll out a good and a bad candidate by each strategy, and compare them in a table.

    Each rollout is one of `evaluator demo rollout`, one after the other, with shorter stages. The table has how long it
    took until all users had the candidate, or were back; how many requests of users it got, and how many of them
    failed; what turned the bad one back, in which stage and how soon; and what the plan had said of time and requests.

    Exit code 0 if each rollout ended as it should, 3 if the machine was too busy to show it, 4 otherwise.
    """
    require_haproxy()
    if session.policy_path is not None:
        raise UsageError("the demo writes its own policies, since its ports are others each time")
    parent = session.store_path.parent if session.store_path != DEFAULT_STORE else Path("demo")
    return run_demos(session, parent, strategies or tuple(STRATEGIES), regression, TIMES)


def run_demos(session: Session, parent: Path, strategies: Sequence[str], regression: str, times: Times) -> int:
    """Run a good and a bad candidate by each strategy, print the table, and return the exit code."""
    from evaluator.reports.base import align_columns

    failures: list[str] = []
    cases = [(strategy, kind) for strategy in strategies for kind in ("none", regression)]
    longest = format_duration(expect_s(cases, times))
    session.say(f"{len(cases)} rollouts, one after the other, at most {longest} on two cores; Ctrl-C ends all of them")
    code = 0
    rows: list[tuple[str, ...]] = [HEAD]
    try:
        for number, (strategy, kind) in enumerate(cases, start=1):
            session.say(f"{number} of {len(cases)}: {strategy}, the candidate: {kind}")
            ended = _run_one(session, parent, strategy, kind, times)
            rows.append(make_row(ended, strategy, kind))
            session.say(f"  {ended.ending.text}")
            if ended.ending.code:
                failures.append(f"  {strategy}, {kind}: {ended.ending.text}")
            code = max(code, ended.ending.code)
    finally:  # also of those that ended before Ctrl-C
        if len(rows) > 1:
            emit("\n".join([*align_columns(rows, make_page()), "", *NOTES, *failures]))
    return code


def expect_s(cases: Sequence[tuple[str, str]], times: Times) -> float:
    """Expect how long rollouts take at most (s), one after the other, on two cores; each is a strategy and a kind."""
    return sum(_expect_one_s(strategy, kind, times) for strategy, kind in cases)


def _expect_one_s(strategy: str, kind: str, times: Times) -> float:
    """Expect how long a rollout takes at most (s): its stages, and what comes in between."""
    judged = [times.bake_s] * (len(times.shares) if strategy == "canary" else 2)
    if strategy == "big_bang":
        judged = []
    elif strategy == "blue_green":
        judged = [times.load_s] * 2
    elif strategy == "canary" and times.canary_load:
        judged += [times.load_s] * 2
    # What is wrong is found before the last stage, where there is one before it.
    has_last = kind == "none" or strategy in ("big_bang", "blue_green")
    seconds = [*judged, *([times.last_s] if has_last else [])]
    return AROUND_S + sum(seconds) + CLOSING_S * len(seconds)


def _run_one(session: Session, parent: Path, strategy: str, kind: str, times: Times) -> EndedDemo:
    """Run one demo in a folder of its own; nothing is left running."""
    release = "shop@1.5.0" + ("" if kind == "none" else f"-{kind}")
    demo = Demo(session, make_folder(parent), release, strategy, kind, is_quiet=True)
    try:
        return demo.run(times)
    finally:
        end_processes(demo.traces, PATIENCE_S)


# ------------------------------------------------------------------ the table


def make_row(ended: EndedDemo, strategy: str, kind: str) -> tuple[str, ...]:
    """Make the row of one rollout."""
    from evaluator.intents.rollout_progress import fold
    from evaluator.records.rollouts import RolloutOutcome, from_plain

    facts = ended.facts
    plan = from_plain(facts.rollout.plan)
    progress = fold(plan, facts.events)
    unanswered = ended.sent - ended.traffic.requests["canary"]
    started, ends = facts.rollout.started_at.timestamp(), facts.events[-1].at
    words = {RolloutOutcome.PROMOTED: "promoted", None: "not ended"}
    return (
        strategy,
        kind,
        words.get(progress.outcome, "rolled back"),
        format_duration(round(ends - started)),
        format_count(ended.sent),
        format_count(ended.traffic.failures["canary"]) + (f" + {format_count(unanswered)}" if unanswered else ""),
        _describe_turn(plan, facts.events, is_shown=ended.ending.code != INCONCLUSIVE_CODE),
        _describe_planned(plan, strategy, kind, ended.total / max(ends - started, 1.0)),
    )


def _describe_turn(plan: RolloutPlan, events: Sequence[Event], *, is_shown: bool) -> str:
    """Say what turned a rollout back, in which stage, and how long after the candidate got its share.

    A dash: nothing did. `is_shown`: False: the machine was too busy to show anything.
    """
    from evaluator.records.rollouts import EventKind, StopCause
    from evaluator.reports.base import shorten
    from evaluator.rollout.reporting import find_turn

    stopped = next((event for event in events if event.kind is EventKind.STOPPED), None)
    turn = find_turn(plan, events)
    if stopped is None or turn is None:
        return "–"
    stage = plan.steps[turn].stage
    if not is_shown:
        return f"this machine was too busy for {stage}"
    known = {StopCause.GUARD: "the guard", StopCause.NO_GO: "NO-GO", StopCause.NO_WINNER: "no arm won"}
    who = known.get(stopped.cause) if stopped.cause else None
    who = who or shorten(stopped.text, LONGEST_TEXT)
    shifted = [event.at for event in events if event.kind is EventKind.DONE and _is_shift_of(plan, event, stage)]
    if not shifted:
        return f"{who} in {stage}, before any user"
    returned = next((event.at for event in events if event.kind is EventKind.RETURNED), stopped.at)
    return f"{who} in {stage}, {returned - shifted[0]:.1f} s after the shift"


def _is_shift_of(plan: RolloutPlan, event: Event, stage: str) -> bool:
    """Is an event that of the step which gave the candidate the share of a stage? A drain takes some away."""
    from evaluator.records.rollouts import Act, InstanceWork

    step = plan.steps[event.step]
    is_drain = isinstance(step, Act) and step.work is InstanceWork.DRAIN
    return isinstance(step, Act) and step.is_shift and not is_drain and step.stage == stage


def _describe_planned(plan: RolloutPlan, strategy: str, kind: str, rate_per_s: float) -> str:
    """Say what the plan had said, by the rate of the users: time, and requests of the candidate until a stage ends."""
    from evaluator.records.rollouts import Observe

    until = find_expected_stage(plan, strategy, kind)
    seconds, requests = 0.0, 0.0
    for step in plan.steps:
        if isinstance(step, Observe):
            seconds += step.bake_s
            requests += rate_per_s * step.share * step.bake_s
            if step.stage == until:
                break
    exposed = f"{format_duration(round(seconds))}, {format_count(round(requests))}"
    return f"{until}: {exposed}" if until else exposed
