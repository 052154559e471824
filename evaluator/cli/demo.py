"""`evaluator demo`: two versions of the sample service, real load, a real verdict."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evaluator.cli import DEFAULT_STORE, Session
from evaluator.cli.amounts import SHARE
from evaluator.cli.demo_rollout import command as rollout_command
from evaluator.cli.demo_rollouts import command as rollouts_command
from evaluator.errors import EvaluatorError, UsageError
from evaluator.records import Arm, Release, Service, Verdict
from evaluator.sources.sample import DEAD, REGRESSIONS, find_loadtests, start_arms, start_prometheus

if TYPE_CHECKING:
    from evaluator.policy import Policy
    from evaluator.store import Store

BASELINE_VERSION, CANARY_VERSION = "1.4.1", "1.5.0"
INSTANCES = 3
USERS = 90
SPAWN_RATE = 45.0
ROUTER_USERS = 120
DEFAULT_SHARE, LEAST_SHARE = 0.5, 0.01
DEMO_STORE = Path("demo") / DEFAULT_STORE


@click.group("demo", invoke_without_command=True)
@click.option(
    "--regression",
    type=click.Choice([*REGRESSIONS, DEAD]),
    default="none",
    show_default=True,
    help="Regression of the candidate; dead, with --live: it accepts no connections.",
)
@click.option("--live", is_flag=True, help="Put HAProxy in front of both versions, and judge its access log as well.")
@click.option("--share", type=SHARE, help="Share of HAProxy's requests that the candidate gets.  [default: 50%]")
@click.option("--prometheus", is_flag=True, help="Start a Prometheus too, and judge its readings as well.")
@click.option("--seconds", type=click.IntRange(10, 3600), default=60, show_default=True, help="Duration of the load.")
@click.pass_context
def command(
    context: click.Context, regression: str, live: bool, share: float | None, prometheus: bool, seconds: int
) -> int:
    """Load two versions of the sample service and judge them.

    Starts three instances of each version on loopback, sends both the same users with Locust, lands every request and
    prints the verdict. The exit code is that of the verdict. The store is kept in ./demo (or --store) for the other
    commands, with an HTML report of the verdict next to it.

    With --live, further users send their requests to HAProxy, which shares them out to the instances of both versions.
    Its access log is followed meanwhile: these requests are judged as those of production.

    `evaluator demo rollout` takes a candidate through test, pre-production and production, and `evaluator demo
    rollouts` a good and a bad one by each strategy.
    """
    session: Session = context.obj
    if context.invoked_subcommand:
        _refuse_options(context)
        return 0
    return _judge_two_versions(session, regression, share, live=live, prometheus=prometheus, seconds=seconds)


command.add_command(rollout_command)
command.add_command(rollouts_command)


def _refuse_options(context: click.Context) -> None:
    """Raise UsageError for options before the name of a command, which has its own."""
    given = [
        name for name in context.params if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise UsageError(
            f"--{given[0]} belongs behind `{context.invoked_subcommand}`",
            hint=f"evaluator demo {context.invoked_subcommand} --help has its options",
        )


def _judge_two_versions(
    session: Session, regression: str, share: float | None, *, live: bool, prometheus: bool, seconds: int
) -> int:
    """Load two versions of the sample service, judge them, and return the exit code of the verdict."""
    from evaluator.cli.judging import JudgeOptions
    from evaluator.intents.report_life import add_life
    from evaluator.pipeline.judging import judge_release
    from evaluator.policy.selection import choose_policy

    _check_options(regression, share, live=live, prometheus=prometheus)
    if session.store_path == DEFAULT_STORE:
        session.store_path = DEMO_STORE
        session.given_options["--store"] = str(DEMO_STORE)  # commands that are printed have to name it
    folder = session.store_path.parent
    folder.mkdir(parents=True, exist_ok=True)
    store = session.open_store(create=True)
    name = f"shop@{CANARY_VERSION}" + ("-live" if live else "") + ("" if regression == "none" else f"-{regression}")
    release = Release(name, (Service("shop", BASELINE_VERSION, CANARY_VERSION),))
    # For each arm: its name, version and regression.
    versions = [("baseline", BASELINE_VERSION, "none"), ("canary", CANARY_VERSION, regression)]
    session.say(f"starting {INSTANCES} + {INSTANCES} instances of the sample service (regression: {regression})")
    with contextlib.ExitStack() as stack:
        arms = stack.enter_context(start_arms(versions, instances=INSTANCES, leak_over_s=seconds, metrics=prometheus))
        policy_path = session.policy_path or find_loadtests() / "evaluator.yaml"
        if prometheus:
            url = stack.enter_context(start_prometheus(arms, folder / "prometheus"))
            policy_text = (find_loadtests() / "evaluator-prometheus.yaml").read_text(encoding="utf-8")
            policy_path = folder / "demo-prometheus.yaml"  # next to a store there may be a policy of the user
            policy_path.write_text(policy_text.replace("http://127.0.0.1:9090", url), encoding="utf-8")
            session.say(f"started a Prometheus at {url}; its metrics are in the policy {policy_path}")
        policy = choose_policy(policy_path, lambda: ["shop"])
        if live:
            stack.enter_context(_production(session, release, policy, arms, share or DEFAULT_SHARE, seconds))
        if regression == DEAD:
            session.say("the canary accepts no connections, so only the requests through HAProxy are judged")
        else:
            _load(session, store, release, arms, seconds)
        if prometheus:
            from evaluator.pipeline.collecting import collect_load

            collect_load(store, release, policy, say=session.say)
    verdict = judge_release(store, release.id, policy, judged_at=datetime.now(UTC), figures=True)
    exit_code = JudgeOptions().answer(verdict, session)
    session.say(_write_report(add_life(store, verdict, datetime.now(UTC)), folder))
    session.say(f"details: `{policy.command(release.id, '--format', 'json')}`")
    return exit_code


def _check_options(regression: str, share: float | None, *, live: bool, prometheus: bool) -> None:
    """Refuse options that do not go together, and --live without HAProxy. Raises UsageError and SourceError."""
    from evaluator.sources.sample_router import require_haproxy

    if share is not None and not LEAST_SHARE <= share <= 1 - LEAST_SHARE:
        raise UsageError(f"--share must be between 1% and 99%, not {100 * share:g}%", hint="for example --share 25%")
    if live and prometheus:
        raise UsageError("--live and --prometheus cannot be given together", hint="give one of them")
    if live:
        require_haproxy()
    elif regression == DEAD or share is not None:
        option = "--share" if share is not None else f"--regression {DEAD}"
        raise UsageError(f"{option} needs HAProxy in front of the service", hint="add --live")


def _load(session: Session, store: Store, release: Release, arms: tuple[Arm, ...], seconds: int) -> None:
    """Send the same users to both arms, and land their requests."""
    from evaluator.pipeline.loading import load_release
    from evaluator.sources.load import LoadPlan, wait_for_targets

    plan = LoadPlan(arms, find_loadtests() / "locustfile.py", USERS, SPAWN_RATE, seconds, service="shop")
    wait_for_targets(plan.targets)
    session.say(f"loading both for {seconds} s with {USERS} users each")
    load_release(store, release, plan, say=session.say)


@contextlib.contextmanager
def _production(
    session: Session,
    release: Release,
    policy: Policy,
    arms: tuple[Arm, ...],
    canary_share: float,
    seconds: int,
) -> Iterator[None]:
    """Send users to a router in front of `arms` during the block, and follow its log for `seconds`.

    `canary_share`: share of the requests that the canary gets. The end of the block waits for the end of that time.
    """
    from evaluator.pipeline.sample_production import production_traffic
    from evaluator.sources.sample_router import start_router

    shares = {"baseline": 1 - canary_share, "canary": canary_share}
    with contextlib.ExitStack() as stack:
        router = stack.enter_context(start_router(arms, shares, session.store_path.parent / "haproxy"))
        session.say(f"started HAProxy at {router.url}; it sends {100 * canary_share:g} % of the requests to the canary")
        wait_for_end = stack.enter_context(
            production_traffic(
                session.store_path,
                release,
                policy,
                router,
                users=ROUTER_USERS,
                spawn_rate=SPAWN_RATE,
                seconds=seconds,
                shares=shares,
            )
        )
        session.say(f"{ROUTER_USERS} users send requests to it; following its log {router.log} for {seconds} s")
        yield
        session.say(f"read {wait_for_end():,} requests and failed attempts in the log of HAProxy")


def _write_report(verdict: Verdict, folder: Path) -> str:
    """Write the HTML report next to the store, and return a message with its path, or why there is none."""
    from evaluator.reports import FORMATS, Page

    path = folder / f"{verdict.release.id}.html"
    try:
        path.write_text(FORMATS["html"](verdict, Page()) + "\n", encoding="utf-8")
    except UsageError as error:
        return f"no report was written: {error.message}; {error.hint}"
    except OSError as error:
        raise EvaluatorError(f"{path} cannot be written: {error.strerror}") from error
    return f"the report with figures: {path}"
