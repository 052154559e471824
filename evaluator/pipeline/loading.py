"""Run a load test against all arms and land it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event, Thread

from evaluator.errors import EvaluatorError, LoadError, UsageError
from evaluator.pipeline.base import Say, lower_priority, say_nothing
from evaluator.pipeline.landing import finish_run
from evaluator.pipeline.stopping import StopRule, judging_meanwhile
from evaluator.policy import Policy
from evaluator.records import Landed, Release, RouterFacts, Run, RunState, check_names
from evaluator.sources.arm_header import CONFIGURATION, ArmHeader
from evaluator.sources.load import LoadPlan, RunOutcome, check_plan, fingerprint, run_locust, wait_for_targets
from evaluator.sources.recording import new_run_id
from evaluator.store import Store
from evaluator.wording import count_of

KEEP_UP_S = 3600.0
"""How often (s) a long run is landed and compacted while it is recorded."""


def load_release(
    store: Store,
    release: Release,
    plan: LoadPlan,
    *,
    replicates: int = 1,
    restart_command: str | None = None,
    stop_on_no_go: Policy | None = None,
    step: str = "",
    shares: Mapping[str, float] | None = None,
    say: Say = say_nothing,
    on_line: Say = say_nothing,
) -> tuple[Run, ...]:
    """Run a load test against all arms, `replicates` times, and land its requests. Returns the runs as stored.

    `step`: the step of a rollout that they belong to, or empty. `shares`: arm → share of the requests that a router
    sends to it, if that is known.
    `restart_command` runs before each further replicate. `say` receives progress messages, `on_line` each line of
    Locust's log. Every run is registered before its load starts, and lands after it, whatever ended it. With a policy
    in `stop_on_no_go` the first run is judged by it while it runs, and the load ends when NO-GO is shown, without
    further replicates. Raises LoadError if a run is incomplete, and KeyboardInterrupt if the user ended it; recorded
    requests stay stored.
    """
    check_names(release, plan.names)
    if replicates < 1:
        raise UsageError(f"replicates must be at least 1, not {replicates}")
    if restart_command is not None:
        _check_command(restart_command)
    check_plan(plan)
    rule = StopRule(stop_on_no_go, replicates) if stop_on_no_go else None
    group = new_run_id()
    for replicate in range(replicates):
        if replicate and restart_command:
            say(f"restarting the targets: {restart_command}")
            _restart_targets(restart_command, plan)
        now = datetime.now(UTC)
        run = Run(
            id=group if replicate == 0 else f"{group}-{replicate + 1}",
            release=release.id,
            group=group,
            source="locust",
            replicate=replicate,
            started=now,
            planned_end=now + timedelta(seconds=plan.run_time_s),
            fingerprint={**fingerprint(plan), "replicates": replicates},
            step=step,
            service=plan.service,
            shares=shares or {},
        )
        store.data.register_run(release, run)
        say(f"run {replicate + 1} of {replicates}: {run.id}")
        no_go_shown = _load_once(store, run, plan, rule, say, on_line)
        if no_go_shown:
            break
    return tuple(run for run in store.data.runs(release.id) if run.group == group)


def _load_once(store: Store, run: Run, plan: LoadPlan, rule: StopRule | None, say: Say, on_line: Say) -> bool:
    """Run and land one replicate; returns whether NO-GO was shown by `rule`, so that no other replicate follows.

    `rule`: `None` if the load is not judged. `say` receives messages, `on_line` each line of Locust's log. Raises
    LoadError if the run is incomplete or has no requests, and KeyboardInterrupt if the user ended it.
    """
    with _landing_hourly(store, run, say), judging_meanwhile(store, run, rule, say) as why_stop:
        outcome = run_locust(plan, run, store.data.segment_folder(run), on_line, why_stop)
    finish_run(store, run, outcome)
    say(_describe_landing(store.data.land_segments(run.id)))
    # Asked from the store: a process that watched the run may have landed some of its requests already.
    rows = next(stored.landed for stored in store.data.runs(run.release) if stored.id == run.id)
    if outcome.interrupted:
        raise KeyboardInterrupt
    router = outcome.facts.router
    # Then the recorder has stopped the load, and the error below says what the router has to log.
    names_no_arm = router is not None and 0 < router.answers == router.without_server + sum(
        router.other_servers.values()
    )
    if outcome.state is not RunState.COMPLETE and not (names_no_arm and not rows):
        raise LoadError(
            f"run {run.id} is incomplete: {outcome.facts.stopped_by}",
            hint=f"the {rows} requests recorded until then are in the store",
        )
    if not rows:
        raise _explain_no_requests(run, outcome, plan)
    if outcome.facts.ended_early:
        return True  # NO-GO was shown while it ran
    if rule is None:
        return False
    # The run went to its end. If it is the first of several, and NO-GO by itself, the others are left out.
    why = rule.judge_run(store, run)
    if why:
        others = f"{rule.replicates - 1} further run{'s' if rule.replicates > 2 else ''}"
        facts = replace(outcome.facts, ended_early=f"{others} left out, {why}")
        finish_run(store, run, replace(outcome, facts=facts))
    return bool(why)


def _explain_no_requests(run: Run, outcome: RunOutcome, plan: LoadPlan) -> LoadError:
    """Return an error that explains why a load that ran to its end has recorded no request."""
    if plan.arm_header is not None and outcome.facts.router is not None and outcome.facts.router.answers:
        return _explain_no_arm(run, outcome.facts.router, plan.arm_header)
    unanswered_by_arm = Counter(request.arm for request in outcome.facts.in_flight)
    if unanswered_by_arm:
        arms = ", ".join(f"{count} of {arm}" for arm, count in sorted(unanswered_by_arm.items()))
        return LoadError(
            f"no request of run {run.id} was answered: all were still waiting when it ended ({arms})",
            hint="check with one request by hand that the targets are the service and that it answers",
        )
    rows_left_out = sum(part.rows for part in outcome.facts.left_out)
    if rows_left_out:
        kinds = ", ".join(sorted({part.detail for part in outcome.facts.left_out}))
        return LoadError(
            f"run {run.id} has no request that can be judged: {rows_left_out} {kinds}",
            hint="check the tasks of the locustfile; -v shows Locust's log",
        )
    why = f": {outcome.trouble}" if outcome.trouble else ""
    return LoadError(
        f"run {run.id} made no request{why}",
        hint="check that the tasks of the locustfile send requests; -v shows Locust's log",
    )


def _explain_no_arm(run: Run, router: RouterFacts, header: ArmHeader) -> LoadError:
    """Return an error that explains why no request behind a router belongs to an arm."""
    configuration = CONFIGURATION.format(header=header.name)
    values = list(router.other_servers)[:3]
    if values:
        return LoadError(
            f"no request of run {run.id} belongs to an arm: {header.name} of its answers has values such as "
            f"{', '.join(values)}",
            hint="name the values of each arm: --arm-value baseline='b*' --arm-value canary='c*'",
        )
    if router.without_server_failures == router.answers:
        return LoadError(
            f"none of the {count_of(router.answers, 'request')} of run {run.id} reached a server: all failed, and no "
            f"answer has the header {header.name}",
            hint=f"check with one request by hand that the router answers, and names the server; {configuration}",
        )
    return LoadError(
        f"no answer of run {run.id} has the header {header.name}, so it is not known which arm answered",
        hint=f"let the router set it, or name another one with --arm-header; {configuration}",
    )


@contextmanager
def _landing_hourly(store: Store, run: Run, say: Say) -> Iterator[None]:
    """While the block runs, land and compact the run every hour in a thread, so that its folder stays small."""
    block_ended = Event()

    def keep_up() -> None:
        """Land and compact every hour until the block ends; if that fails, say so: the end of the run lands all."""
        lower_priority()
        while not block_ended.wait(KEEP_UP_S):
            try:
                landed = store.data.land_segments(run.id)
                store.data.compact(run.id)
                say(_describe_landing(landed))
            except (EvaluatorError, OSError) as error:
                say(f"not landed yet: {error}")

    keeper = Thread(target=keep_up, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        block_ended.set()
        keeper.join()


def _describe_landing(landed: Landed) -> str:
    """Describe how many requests have landed, and how many segments could not be read."""
    text = f"landed {landed.rows} requests in {landed.segments} segments"
    if landed.quarantined:
        text += f"; {len(landed.quarantined)} could not be read"
    return text


def _check_command(command: str) -> None:
    """Check the command that restarts the targets before anything is loaded. Raises UsageError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"the restart command '{command}' cannot be split into words: {error}") from error
    if not words:
        raise UsageError("the restart command is empty")
    if shutil.which(words[0]) is None:
        raise UsageError(f"the restart command '{words[0]}' cannot be found", hint="give the path of the program")


def _restart_targets(command: str, plan: LoadPlan) -> None:
    """Run the user's command that restarts the targets, then wait until every target accepts connections.

    Raises LoadError if the command fails or a target does not come back.
    """
    words = shlex.split(command)
    try:
        result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LoadError(f"the restart command '{command}' cannot be run: {error.strerror}") from error
    if result.returncode != 0:
        lines = (result.stderr or result.stdout).strip().splitlines()
        last_line = lines[-1] if lines else "no output"
        raise LoadError(f"the restart command '{command}' ended with exit code {result.returncode}: {last_line}")
    wait_for_targets(plan.targets)
