"""`evaluator demo`: two versions of the sample service, real load, a real verdict."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import click

from evaluator.cli import DEFAULT_STORE, Session
from evaluator.errors import EvaluatorError, UsageError
from evaluator.records import Release, Service, Verdict
from evaluator.sources.sample import REGRESSIONS, find_loadtests, start_arms, start_prometheus

BASELINE_VERSION, CANARY_VERSION = "1.4.1", "1.5.0"
INSTANCES = 3
USERS = 90
SPAWN_RATE = 45.0
DEMO_STORE = Path("demo") / DEFAULT_STORE


@click.command("demo")
@click.option(
    "--regression",
    type=click.Choice(REGRESSIONS),
    default="none",
    show_default=True,
    help="Regression of the candidate.",
)
@click.option("--prometheus", is_flag=True, help="Start a Prometheus too, and judge its readings as well.")
@click.option("--seconds", type=click.IntRange(10, 3600), default=60, show_default=True, help="Duration of the load.")
@click.pass_obj
def command(session: Session, regression: str, prometheus: bool, seconds: int) -> int:
    """Load two versions of the sample service and judge them.

    Starts three instances of each version on loopback, sends both the same users with Locust, lands every request and
    prints the verdict. The exit code is that of the verdict. The store is kept in ./demo (or --store) for the other
    commands, with an HTML report of the verdict next to it.
    """
    from evaluator.cli.judging import JudgeOptions
    from evaluator.pipeline.judging import judge_release
    from evaluator.pipeline.loading import load_release
    from evaluator.policy.selection import choose_policy
    from evaluator.sources.load import LoadPlan, wait_for_targets

    if session.store_path == DEFAULT_STORE:
        session.store_path = DEMO_STORE
        session.given_options["--store"] = str(DEMO_STORE)  # commands that are printed have to name it
    folder = session.store_path.parent
    folder.mkdir(parents=True, exist_ok=True)
    store = session.open_store(create=True)
    name = f"shop@{CANARY_VERSION}" + ("" if regression == "none" else f"-{regression}")
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
        plan = LoadPlan(arms, find_loadtests() / "locustfile.py", USERS, SPAWN_RATE, seconds, service="shop")
        wait_for_targets(plan.targets)
        session.say(f"loading both for {seconds} s with {USERS} users each")
        load_release(store, release, plan, say=session.say)
        if prometheus:
            from evaluator.pipeline.collecting import collect_load

            collect_load(store, release, policy, say=session.say)
    verdict = judge_release(store, release.id, policy, judged_at=datetime.now(UTC), figures=True)
    exit_code = JudgeOptions().answer(verdict, session)
    session.say(_write_report(verdict, folder))
    session.say(f"details: `{policy.command(release.id, '--format', 'json')}`")
    return exit_code


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
