"""`evaluator step`: the next step of a rollout begins, while a log is followed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from evaluator.cli import Session, emit
from evaluator.cli.amounts import DURATION
from evaluator.cli.steps import parse_shares
from evaluator.cli.subject import service_option
from evaluator.errors import UnknownName, UsageError
from evaluator.wording import format_duration, quote_command

if TYPE_CHECKING:
    from evaluator.sources.access_logs.tail_state import FollowedLog


LEAST_SECONDS = 120
"""A shorter step cannot be judged: requests of a followed log are summed up in parts of 15 s, and eight are needed."""


@click.command("step")
@click.argument("release", metavar="RELEASE")
@click.argument("name", metavar="NAME")
@click.option(
    "--share",
    metavar="ARM=SHARE",
    multiple=True,
    help="Share of the traffic that the router sends to an arm: canary=25%. May be repeated.",
)
@click.option("--for", "seconds", type=DURATION, help="How long the step lasts.  [default: until the next step]")
@service_option("Service whose log is followed, if those of several are.")
@click.pass_obj
def command(
    session: Session, release: str, name: str, share: tuple[str, ...], seconds: float | None, service: str
) -> int:
    """Begin the step NAME of the rollout of RELEASE, whose log `evaluator tail` follows.

    Requests that begin from then on, by the times in the log, belong to the step: call it when the router has its new
    shares. They are a run of their own, because shares must be the same in a whole run. The step before ends.

    After the planned end, and when no request of the step can be running any more, the step is complete:
    `evaluator verdict RELEASE --step NAME` judges it, while the log is followed further.

    For example: evaluator step cart@1.5.0 25% --share canary=25% --for 10m
    """
    from evaluator.segments import data_folder, run_folder
    from evaluator.sources.access_logs.rollout_steps import begin_step
    from evaluator.sources.access_logs.tail_state import list_followed
    from evaluator.sources.recording import utc

    folder = run_folder(data_folder(session.store_path.absolute()), release, "_").parent
    followed = _choose_log(list_followed(folder), release, service)
    shares = parse_shares(share)
    unknown = [arm for arm in shares if arm not in followed.arms]
    if unknown:
        raise UnknownName("arm", unknown[0], followed.arms, hint="`evaluator tail` was started with these arms")
    step = begin_step(folder, followed.service, name, shares=shares, seconds=seconds, now=time.time())
    lasts = f" for {format_duration(round(seconds))}" if seconds is not None else " until the next step"
    emit(f"{release}: step {name} begins at {utc(step.started):%Y-%m-%dT%H:%M:%SZ}{lasts}")
    if seconds is not None and seconds < LEAST_SECONDS:
        session.say(f"a step of less than {format_duration(LEAST_SECONDS)} has too little data for a verdict")
    return 0


def _choose_log(logs: Sequence[FollowedLog], release: str, service: str) -> FollowedLog:
    """Choose the log of a service; without a name the only one. Raises UsageError if there is none, or several."""
    chosen = [log for log in logs if log.service == service or not service]
    if not chosen:
        of_service = f" of service {service}" if service else ""
        raise UsageError(
            f"no `evaluator tail` follows a log{of_service} of {release}, so the step would have no requests",
            hint=f"start one: `{quote_command('tail', release)} FILE --step NAME`; or name the same --store",
        )
    if len(chosen) > 1:
        services = ", ".join(log.service or "(no name)" for log in chosen)
        raise UsageError(
            f"the logs of several services of {release} are followed: {services}", hint="name one with --service"
        )
    return chosen[0]
