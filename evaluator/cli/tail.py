"""`evaluator tail`: the access log of a router, followed while it is written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import click

from evaluator.cli import Session, emit
from evaluator.cli.access_logs import ARM_FROM, ARM_SERVER, LOG_FORMAT
from evaluator.cli.amounts import DURATION
from evaluator.cli.gathering import gathered
from evaluator.cli.steps import parse_shares
from evaluator.cli.subject import Subject, subject_options
from evaluator.errors import SourceError, StoreBusy, UsageError
from evaluator.records import Release
from evaluator.wording import count_of

if TYPE_CHECKING:
    from evaluator.pipeline.tailing import StopRequest, TailEnd, TailPlan


@dataclass(frozen=True, slots=True)
class LineOptions:
    """How lines are read, and which arm a request belongs to."""

    arm_server: tuple[str, ...]
    """Texts ARM=PATTERN."""
    arm_from: str
    format: str
    log_format: str
    column: tuple[str, ...]
    """Texts COLUMN=SOURCE[:UNIT]."""
    time_zone: str


@dataclass(frozen=True, slots=True)
class FollowOptions:
    """From when on and how long logs are followed."""

    start: str
    seconds: float | None
    step: str
    share: tuple[str, ...]
    """Texts ARM=SHARE."""
    lateness: float | None
    stats_socket: str
    fresh: bool


LINE_OPTIONS = (
    ARM_SERVER,
    ARM_FROM,
    click.option(
        "--format",
        type=click.Choice(["auto", "haproxy", "nginx", "envoy", "apache", "traefik", "caddy", "json"]),
        default="auto",
        show_default=True,
        help="Format of the lines; auto: by the first of them.",
    ),
    LOG_FORMAT,
    click.option(
        "--column",
        metavar="COLUMN=SOURCE[:UNIT]",
        multiple=True,
        help="Field of a column: time=duration:ms; may be repeated.",
    ),
    click.option(
        "--time-zone", default="", metavar="ZONE", help="Zone of times without one: Europe/Berlin.  [default: UTC]"
    ),
)


@click.command("tail")
@click.argument("release", metavar="RELEASE")
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--from",
    "start",
    type=click.Choice(["now", "start"]),
    default="now",
    show_default=True,
    help="Where the first start begins. Another start goes on where the last one ended.",
)
@click.option("--for", "seconds", type=DURATION, help="How long to follow.  [default: until Ctrl-C]")
@click.option("--step", default="", metavar="NAME", help="Step of the rollout that the first requests belong to.")
@click.option(
    "--share",
    metavar="ARM=SHARE",
    multiple=True,
    help="Share of the traffic that the router sends to an arm: canary=5%. May be repeated.",
)
@click.option(
    "--lateness",
    type=DURATION,
    help="How long a request may take, which is logged at its end: more than the router's timeouts.  [default: 65s]",
)
@click.option(
    "--stats-socket",
    default="",
    metavar="PATH|HOST:PORT",
    help="HAProxy's statistics, which say which server failed before HAProxy tried another one.",
)
@click.option("--fresh", is_flag=True, help="Begin new runs, although those of an earlier tail could be continued.")
@gathered("follow_options", FollowOptions)
@gathered("line_options", LineOptions, *LINE_OPTIONS)
@subject_options("Service whose requests these are.  [default: the policy's]")
@click.pass_obj
def command(
    session: Session,
    release: str,
    files: tuple[Path, ...],
    follow_options: FollowOptions,
    line_options: LineOptions,
    subject: Subject,
) -> int:
    """Follow the access log of a router, so that production traffic of RELEASE is judged.

    The arm of a request is that of the server which answered it: name the servers of each arm with --arm-server, or
    in the policy under sources: access_log. Several FILEs are the logs of several routers of one service. Logs may be
    rotated, and may not exist yet.

    `evaluator verdict RELEASE` and `evaluator watch RELEASE` judge what was read by then. `evaluator step` begins the
    next step of a rollout. Ctrl-C ends following in order, after requests that are running. After any other end,
    also a kill or a full disk, the same command goes on where it stopped: no request is lost or counted twice.

    For example: evaluator tail cart@1.5.0 /var/log/haproxy.log --arm-server baseline='b*' --arm-server canary='c*'
    --step 5% --share canary=5%

    Exit code 0 if following came to its end, 4 if it was ended before, or could not go on.
    """
    from evaluator.pipeline.tailing import StopRequest, tail_release

    plan = _make_plan(session, release, files, follow_options, line_options, subject)
    stop = StopRequest()
    with _listening(stop):
        end = tail_release(plan, stop, say=session.say)
    rows = sum(run.rows for run in end.state.runs)
    if not end.is_complete:
        raise SourceError(
            f"evaluator tail was ended by {stop.signal}; the {count_of(rows, 'request')} that it has read are stored",
            hint="start the same command again: it goes on where it stopped",
        )
    emit(_describe_end(release, end))
    session.say(f"next: `{session.load_policy(release, service=subject.service).command(release)}`")
    return 0


def _make_plan(
    session: Session,
    release: str,
    files: tuple[Path, ...],
    follow_options: FollowOptions,
    line_options: LineOptions,
    subject: Subject,
) -> TailPlan:
    """Make the plan from the policy and the options, and the store if there is none. Raises UsageError, PolicyError."""
    from evaluator.pipeline.tailing import LATENESS_S, TailPlan
    from evaluator.sources.access_logs.options import combine_settings
    from evaluator.sources.access_logs.server_stats import check_stats_address

    policy = session.load_policy(release, service=subject.service)
    service = subject.service or policy.service
    settings = combine_settings(
        policy.access_log,
        format=line_options.format,
        log_format=line_options.log_format,
        columns=line_options.column,
        arm_servers=line_options.arm_server,
        arm_from=line_options.arm_from,
        service=service,
        sensitive=policy.promotion.sensitive,
    )
    if line_options.time_zone:
        zone = check_time_zone(line_options.time_zone)
        settings = replace(settings, options=replace(settings.options, time_zone=zone))
    try:
        target_release = subject.to_release(session, release, policy.service)
        session.open_store(create=True)
    except StoreBusy as error:
        session.say(f"the store is in use, so the requests are only written: {error.message}")
        target_release = Release(release)
    return TailPlan(
        store_path=session.store_path.absolute(),
        release=target_release,
        paths=files,
        settings=settings,
        from_start=follow_options.start == "start",
        seconds=follow_options.seconds,
        step=follow_options.step,
        shares=parse_shares(follow_options.share),
        lateness_s=LATENESS_S if follow_options.lateness is None else follow_options.lateness,
        stats_address=check_stats_address(follow_options.stats_socket) if follow_options.stats_socket else "",
        fresh=follow_options.fresh,
        policy_path=policy.path,
    )


def check_time_zone(name: str) -> str:
    """Return the name of a time zone. Raises UsageError if there is none of this name."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise UsageError(f"'{name}' is no time zone", hint="give a name such as Europe/Berlin, or UTC") from None
    return name


@contextmanager
def _listening(stop: StopRequest) -> Iterator[None]:
    """While the block runs, record Ctrl-C and SIGTERM in `stop`. After the second Ctrl-C the next one interrupts."""

    def record(number: int, _frame: FrameType | None) -> None:
        stop.add(signal.Signals(number).name)
        if stop.count > 1:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe_end(release: str, end: TailEnd) -> str:
    """Describe what was read, a line for each run."""
    lines = []
    for run in end.state.runs:
        step = f", step {run.step}" if run.step else ""
        attempts = sum(run.counts.router.retried.values())
        of_them = f", {attempts:,} of them attempts that failed before the router tried again" if attempts else ""
        lines.append(f"{release}: {count_of(run.rows, 'request')} in run {run.run}{step}{of_them}")
    return "\n".join(lines)
