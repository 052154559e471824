"""`evaluator load`: Locust against all arms at once, recorded request by request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evaluator.cli import Session, emit
from evaluator.cli.amounts import DURATION
from evaluator.cli.gathering import gathered
from evaluator.cli.routers import ROUTER_OPTIONS, RouterOptions
from evaluator.cli.steps import StepOptions, step_options
from evaluator.cli.subject import Subject, subject_options
from evaluator.errors import UsageError
from evaluator.records import BASELINE, CANDIDATE, Arm, Release, Run
from evaluator.wording import count_of

if TYPE_CHECKING:
    from evaluator.sources.arm_header import ArmHeader


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What is loaded, how, and how often."""

    baseline: str | None
    canary: str | None
    arms: tuple[str, ...]
    locustfile: Path
    users: int
    spawn_rate: float | None
    run_time: float
    processes: int
    replicates: int
    restart_command: str | None
    collect: bool
    stop_on: str | None
    sensitive: bool

    @property
    def has_arms(self) -> bool:
        """Are there addresses of arms?"""
        return bool(self.baseline is not None or self.canary is not None or self.arms)


@click.command("load")
@click.argument("release", metavar="RELEASE")
@click.argument("locust_args", metavar="[-- LOCUST ARGS]", nargs=-1, type=click.UNPROCESSED)
@click.option("--baseline", metavar="URL[,URL…]", help="Where the baseline runs, one URL per instance.")
@click.option("--canary", metavar="URL[,URL…]", help="Where the candidate runs, one URL per instance.")
@click.option("--arm", "arms", metavar="NAME=URL[,URL…]", multiple=True, help="A further candidate; may be repeated.")
@click.option(
    "--locustfile",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("locustfile.py"),
    show_default=True,
    help="What the users do.",
)
@click.option("--users", type=int, default=10, show_default=True, help="Users of each arm; with --router of all.")
@click.option("--spawn-rate", type=float, help="Users started per second in each arm.  [default: all within 10 s]")
@click.option("--run-time", type=DURATION, default="5m", show_default=True, help="How long each run lasts.")
@click.option("--processes", type=int, default=1, show_default=True, help="Load generator processes.")
@click.option(
    "--replicates",
    type=int,
    default=1,
    show_default=True,
    help="Number of runs; several separate the release from the instances.",
)
@click.option(
    "--restart-command", metavar="CMD", help="Command that restarts the targets between replicates; no shell."
)
@click.option("--collect", is_flag=True, help="Collect the policy's metrics from Prometheus as well.")
@click.option(
    "--stop-on", type=click.Choice(["no-go"]), help="Judge during the load, and end it as soon as NO-GO is shown."
)
@click.option(
    "--sensitive", is_flag=True, help="Keep only the path of a request, as with `sensitive: true` in the policy."
)
@gathered("router", RouterOptions, *ROUTER_OPTIONS)
@step_options("Share of the requests that the router sends to an arm, canary=25%; may be repeated.")
@gathered("options", LoadOptions)
@subject_options("Name of the service.  [default: the policy's]")
@click.pass_obj
def command(
    session: Session,
    release: str,
    locust_args: tuple[str, ...],
    options: LoadOptions,
    router: RouterOptions,
    step: StepOptions,
    subject: Subject,
) -> int:
    """Load all arms of RELEASE at once with Locust and record every request.

    The user classes of the locustfile are spawned in equal numbers for each arm. With --router all users send to one
    address, and a header of each answer names its arm (docs/recording.md). Exit code 0 if the load is complete and
    recorded, 4 if not. Failed requests do not change it: `evaluator verdict RELEASE` judges them.
    """
    from evaluator.pipeline.collecting import check_source, collect_load
    from evaluator.pipeline.loading import load_release
    from evaluator.sources.load import LoadPlan

    router.check(has_arms=options.has_arms, has_shares=bool(step.shares))
    policy = session.load_policy(release, service=subject.service)
    target_release = subject.to_release(session, release, policy.service)
    arms: tuple[Arm, ...] = ()
    arm_header = None
    if router.router:
        arm_header = _make_arm_header(session, router, step, target_release, policy.arm_header)
    else:
        versions = subject.baseline_version, subject.canary_version
        arms = parse_arms(options.baseline, options.canary, options.arms, *versions)
    rate_for_10_s = max(1.0, options.users / 10)  # users per second, so that all have started after 10 s
    plan = LoadPlan(
        arms=arms,
        locustfile=options.locustfile,
        users=options.users,
        spawn_rate=options.spawn_rate if options.spawn_rate is not None else rate_for_10_s,
        run_time_s=options.run_time,
        processes=options.processes,
        header=policy.instance_header,
        service=subject.service or policy.service,
        sensitive=policy.promotion.sensitive or options.sensitive,
        arguments=locust_args,
        router=router.router.rstrip("/"),
        arm_header=arm_header,
    )
    store = session.open_store(create=True)
    if options.collect:
        check_source(policy)  # before the load, not after it
    runs = load_release(
        store,
        target_release,
        plan,
        replicates=options.replicates,
        restart_command=options.restart_command,
        stop_on_no_go=policy if options.stop_on else None,
        step=step.step,
        shares=step.shares,
        say=session.say,
        on_line=session.say if session.verbosity > 0 else lambda _: None,
    )
    emit(describe_runs(release, runs))
    if options.collect:
        run, rows = collect_load(store, target_release, policy, step=step.step, say=session.say)
        emit(f"{release}: {count_of(rows, 'reading')} in run {run.id}")
    session.say(f"next: `{policy.command(release)}`")
    return 0


def _make_arm_header(
    session: Session, router: RouterOptions, step: StepOptions, release: Release, default_name: str
) -> ArmHeader:
    """Make the header that names the arm; the versions of the release are among its values by default.

    `default_name`: the policy's name of the header. Raises UsageError and UnknownName.
    """
    from evaluator.sources.arm_header import ArmHeader, check_header_name

    stored = session.find_release(release.id)
    services = release.services or (stored.services if stored else ())
    # With several services it is not known whose versions the header has.
    versions = {BASELINE: services[0].baseline, CANDIDATE: services[0].canary} if len(services) == 1 else {}
    if router.arm_header:
        check_header_name(router.arm_header, "--arm-header")
    patterns = router.find_patterns(versions, step.shares)
    return ArmHeader(router.arm_header or default_name, patterns, no_retries=router.no_retries)


def parse_arms(
    baseline: str | None,
    canary: str | None,
    extra_arms: Iterable[str],
    baseline_version: str = "",
    canary_version: str = "",
) -> tuple[Arm, ...]:
    """Make the arms from the values of `--baseline`, `--canary` and `--arm`, the baseline first.

    `baseline`, `canary`: comma lists of URLs. `extra_arms`: texts NAME=URL[,URL…]. Raises UsageError for any other
    text, for an arm that is given twice, and if there is only one arm.
    """
    if baseline is None:
        raise UsageError("there is no address of the baseline", hint="give --baseline URL")
    arms = [Arm(BASELINE, _split_urls("--baseline", baseline), baseline_version)]
    if canary is not None:
        arms.append(Arm(CANDIDATE, _split_urls("--canary", canary), canary_version))
    for text in extra_arms:
        name, equals, urls = text.partition("=")
        if not (name and equals):
            raise UsageError(f"--arm {text} is not NAME=URL[,URL…]")
        arms.append(Arm(name, _split_urls(f"--arm {name}", urls)))
    repeated = [name for name, count in Counter(arm.name for arm in arms).items() if count > 1]
    if repeated:
        raise UsageError(f"arm '{repeated[0]}' is given twice", hint="list its instances with commas")
    if len(arms) < 2:
        raise UsageError("one arm alone cannot be compared", hint="give --canary URL, or --arm NAME=URL")
    return tuple(arms)


def _split_urls(option: str, comma_list: str) -> tuple[str, ...]:
    """Split a comma list of URLs; each is returned once, without a slash at its end.

    Raises UsageError for an empty list; `option` names it in the message.
    """
    urls = tuple(dict.fromkeys(url.strip().rstrip("/") for url in comma_list.split(",") if url.strip()))
    if not urls:
        raise UsageError(f"{option} names no URL")
    return urls


def describe_runs(release: str, runs: Sequence[Run]) -> str:
    """Sum up what was recorded, in one line."""
    rows = sum(run.landed for run in runs)
    reasons = [run.facts.ended_early for run in runs if run.facts.ended_early]
    ending = f"ended early: {reasons[0]}" if reasons else "complete"
    return f"{release}: {count_of(rows, 'request')} in {count_of(len(runs), 'run')}, {ending}"
