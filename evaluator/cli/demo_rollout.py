"""`evaluator demo rollout`: a candidate of the sample service is rolled out through three environments."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evaluator.cli import DEFAULT_STORE, Session, emit
from evaluator.cli.terminal import make_page
from evaluator.errors import EvaluatorError, UnknownName, UsageError
from evaluator.guard.places import find_copies_folder
from evaluator.records import Release, Service
from evaluator.sources.sample_environments import (
    ENVIRONMENTS,
    KINDS,
    Environments,
    RoutedTraffic,
    count_sessions,
    end_processes,
    find_guard,
    find_processes,
    list_traces,
    prepare_environments,
    read_replacements,
    read_traffic,
    start_baseline,
    start_production_router,
)
from evaluator.sources.sample_etcd import has_etcd, start_etcd
from evaluator.sources.sample_policy import STRATEGIES, Times, find_first_stage, write_policy
from evaluator.sources.sample_router import require_haproxy, start_users
from evaluator.wording import count_of, format_count, format_duration, format_number, quote_command

if TYPE_CHECKING:
    from evaluator.records.rollouts import RolloutPlan
    from evaluator.reports.rollout import StepRequests
    from evaluator.rollout.reporting import RolloutFacts

VERSIONS = {"baseline": "1.4.1", "canary": "1.5.0"}
SPAWN_RATE = 60.0
LONGEST_S = 600.0
"""The demo ends a rollout that takes longer (s)."""
PATIENCE_S = 10.0
"""How long (s) what was started may take to end."""
ANSWER_S = 3.0
"""A request that has no answer after this time (s) is counted as one without."""
NEAR = 0.01
"""Difference that is allowed between the wanted and the realised share."""
REQUESTS_OF_VISIT = 3
"""Of a visitor of an A/B test."""
MOST_ERRORS = 4.0
"""Standard errors by which a share may differ by chance."""
INCONCLUSIVE_CODE, WRONG_CODE = 3, 4


@click.command("rollout")
@click.option(
    "--strategy", type=click.Choice(list(STRATEGIES)), default="canary", show_default=True, help="How it is done."
)
@click.option(
    "--regression",
    type=click.Choice(list(KINDS)),
    default="none",
    show_default=True,
    help="What is wrong with the candidate. errors: in all environments; latency: from pre-production on; "
    "production-errors: only with many users of production; hang, dies: only in production; "
    "sales: fewer visitors buy, which only ab_test reads; configuration: in etcd, which has to be installed.",
)
@click.option("--by-hand", is_flag=True, help="Start no rollout: you do, while the environments run until Ctrl-C.")
@click.pass_obj
def command(session: Session, strategy: str, regression: str, *, by_hand: bool) -> int:
    """Roll out a candidate of the sample service: test, pre-production, production.

    Starts three environments on loopback, HAProxy in front of production, and users of Locust who send their requests
    to it; a rolling rollout and an A/B test use production only. Writes a policy with stages, and calls `evaluator
    rollout start` by it. A good candidate reaches all users; a bad one is back at the first stage that can see what is
    wrong.

    Everything is kept in a new folder in ./demo (or next to --store), with an HTML report. Exit code 0 if the rollout
    ended as it should, 3 if the machine was too busy to show it, 4 otherwise.
    """
    require_haproxy()
    if session.policy_path is not None:
        raise UsageError(
            "the demo writes its own policy, since its ports are others each time",
            hint="with --by-hand you can change it before you start the rollout",
        )
    parent = session.store_path.parent if session.store_path != DEFAULT_STORE else Path("demo")
    return run_demo(session, parent, strategy, regression, Times(), by_hand=by_hand)


def run_demo(
    session: Session, parent: Path, strategy: str, regression: str, times: Times, *, by_hand: bool = False
) -> int:
    """Run a demo in a new folder of `parent`, and return the exit code. Nothing is left running."""
    folder = make_folder(parent)
    release = "shop@1.5.0" + ("" if regression == "none" else f"-{regression}")
    demo = Demo(session, folder, release, strategy, regression)
    try:
        ended = demo.run(times, by_hand=by_hand)
        demo.conclude(ended)
        return ended.ending.code
    finally:
        left = end_processes(demo.traces, PATIENCE_S)
        session.say("nothing is left running" if not left else f"had to be ended: {'; '.join(left)}")


def make_folder(parent: Path) -> Path:
    """Make a new folder for one demo: `rollout-1`, `rollout-2` and so on."""
    for number in range(1, 10_000):
        folder = parent / f"rollout-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise EvaluatorError(f"{folder} cannot be made: {error.strerror}") from error
        return folder
    raise UsageError(f"{parent} has too many demos", hint=f"delete some of {parent}/rollout-*")


@dataclass(slots=True)
class Demo:
    """One demo of a rollout, in a folder of its own."""

    session: Session
    folder: Path
    release: str
    strategy: str
    regression: str
    is_quiet: bool = False
    """What the rollout says goes into a file."""
    traces: tuple[str, ...] = ()
    """Texts of the command lines of what it has started."""

    @property
    def store(self) -> Path:
        """Its store."""
        return self.folder / DEFAULT_STORE

    @property
    def options(self) -> list[str]:
        """Options of all commands on it."""
        return ["--store", str(self.store), "--policy", str(self.folder / "evaluator.yaml")]

    def run(self, times: Times, *, by_hand: bool = False) -> EndedDemo:
        """Run it, and return how it went. Raises EvaluatorError if the rollout was not started.

        `by_hand`: a person starts the rollout; it ends with KeyboardInterrupt.
        """
        # The folder is new. What a guard still has of this path is of a demo whose folder was deleted.
        self.end_guard()
        with contextlib.ExitStack() as stack:
            etcd = stack.enter_context(start_etcd(self.folder)) if has_etcd() else ""
            environments = stack.enter_context(prepare_environments(self.folder, VERSIONS, self.regression, etcd=etcd))
            self.traces = tuple(list_traces(environments, self.store))
            stack.enter_context(self.production(environments, times))
            # An idle guard ends by itself after a minute; one that is not returns the traffic before it ends.
            stack.callback(self.end_guard)
            if by_hand:
                self.wait_for_person()
            self.drive()
            return self.read_ending(environments)

    @contextlib.contextmanager
    def production(self, environments: Environments, times: Times) -> Iterator[None]:
        """Let users use the baseline during the block."""
        from evaluator.store import Store

        say = self._say
        policy = write_policy(environments, self.release, self.strategy, times)
        (self.folder / "evaluator.yaml").write_text(policy, encoding="utf-8")
        store = Store.open(self.store, create=True)
        service = Service("shop", VERSIONS["baseline"], VERSIONS["canary"])
        store.control.add_release(Release(self.release, (service,)))
        start_baseline(environments, VERSIONS, self.strategy)
        say(f"three environments in {self.folder}: {', '.join(ENVIRONMENTS)}; the candidate: {self.regression}")
        visits = environments.visits if self.strategy == "ab_test" else None
        with (
            start_production_router(environments, self.strategy),
            start_users(environments.router, times.users, SPAWN_RATE, LONGEST_S, visits),
        ):
            say(f"{times.users} users send requests to HAProxy at {environments.router.url}")
            yield

    def _say(self, text: str) -> None:
        """Say what a person needs who follows one demo."""
        if not self.is_quiet:
            self.session.say(text)

    @property
    def start_words(self) -> list[str]:
        """The words of the command that starts the rollout."""
        versions = ["--baseline-version", VERSIONS["baseline"], "--canary-version", VERSIONS["canary"]]
        return [*self.options, "rollout", "start", self.release, *versions, "--reason", "the demo", "--yes"]

    def wait_for_person(self) -> None:
        """Say what a person can do while the environments run, and wait for Ctrl-C."""
        say, options = self.session.say, self.options
        say(f"change the policy, if you like: {self.folder / 'evaluator.yaml'}")
        say(f"what it would do: `{quote_command(*options, 'rollout', 'plan', self.release)}`")
        say(f"start it: `{quote_command(*self.start_words)}`")
        say(f"reload HAProxy in the middle of a stage: {self.folder / 'reload.sh'}")
        say(f"the report, at any time: `{quote_command(*options, 'rollout', 'report', self.release)} > report.html`")
        say("Ctrl-C ends the environments")
        while True:
            time.sleep(3600)

    def drive(self) -> None:
        """Let `evaluator rollout start` drive the rollout, in a process of its own."""
        words = self.start_words
        self._say(f"the policy: {self.folder / 'evaluator.yaml'}")
        self._say(f"`{quote_command(*words)}`")
        with contextlib.ExitStack() as stack:
            output = stack.enter_context((self.folder / "rollout.log").open("ab")) if self.is_quiet else None
            process = subprocess.Popen(
                [sys.executable, "-m", "evaluator", *words], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            self.session.say(f"the rollout has not ended within {format_duration(LONGEST_S)}; it is ended")
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE_S)
            if process.poll() is None:
                process.kill()
                process.wait()

    def end_guard(self) -> None:
        """End the guard, if there is one, and remove its copies of what it watched: its router ends, too."""
        for pid in find_processes([find_guard(self.store)]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        end_processes([find_guard(self.store)], PATIENCE_S)
        copies = find_copies_folder(self.store)
        if copies is not None and copies.exists():
            shutil.rmtree(copies)

    def read_ending(self, environments: Environments) -> EndedDemo:
        """Read how the rollout went. Raises EvaluatorError if it was not started."""
        from evaluator.pipeline.landing import land_release
        from evaluator.rollout.reporting import read_facts
        from evaluator.store import Store
        from evaluator.store.rollouts import Rollouts

        store = Store.open(self.store)
        started = Rollouts(store.control.file).rollouts(self.release)
        if not started:
            raise EvaluatorError("the rollout was not started", hint="what `evaluator rollout start` says above")
        with contextlib.suppress(UnknownName):  # without any run there is nothing to land
            land_release(store, self.release)
        facts = read_facts(store, started[-1])
        replaced, began = read_replacements(self.folder, VERSIONS), facts.rollout.started_at.timestamp()
        # Counted first: each of these requests is in the log as soon as it is answered. The counters do not know which
        # version an instance had: of a rolling rollout, only the log does.
        counted, until = count_sessions(environments.socket)["canary"], time.monotonic() + ANSWER_S
        traffic = read_traffic(environments.router.log, start=began, replaced=replaced)
        while traffic.requests["canary"] < counted and time.monotonic() < until:
            time.sleep(0.2)
            traffic = read_traffic(environments.router.log, start=began, replaced=replaced)
        sent = max(counted, traffic.requests["canary"])
        return EndedDemo(facts, judge_ending(facts, self.strategy, self.regression), traffic, sent)

    def conclude(self, ended: EndedDemo) -> None:
        """Print how the rollout went, and write the report."""
        from evaluator.reports.rollout import to_html
        from evaluator.rollout.reporting import make_report

        report = make_report(ended.facts, datetime.now(UTC))
        path = self.folder / "report.html"
        try:
            path.write_text(to_html(report) + "\n", encoding="utf-8")
            said = f"the report: {path}"
        except ImportError as error:
            said = f"no report was written: it needs the package {error.name}; pip install 'release-evaluator[plots]'"
        lines = [*describe_rollout(ended.facts), describe_exposure(ended)]
        emit("\n".join([f"{report.word}  {self.release}", f"  {report.why}", *lines, f"  {ended.ending.text}"]))
        self.session.say(said)
        self.session.say(
            f"next: `{quote_command(*self.options, 'rollout', 'status', self.release)}`, or try another one:"
        )
        self.session.say("`evaluator demo rollout --strategy blue_green`, `evaluator demo rollout --regression hang`")


@dataclass(frozen=True, slots=True)
class EndedDemo:
    """How one demo went."""

    facts: RolloutFacts
    ending: Ending
    traffic: RoutedTraffic
    """What the router has logged since the start."""
    sent: int
    """Requests that the router has sent to the candidate, by its own counters; of some there is no line in its log."""

    @property
    def total(self) -> int:
        """Requests of users since the start."""
        return sum(self.traffic.requests.values()) + self.sent - self.traffic.requests["canary"]


@dataclass(frozen=True, slots=True)
class Ending:
    """Whether a demo ended as it should."""

    code: int
    text: str


def find_expected_stage(plan: RolloutPlan, strategy: str, regression: str) -> str:
    """Find the stage of a plan that should turn back a candidate with a regression; empty: none can."""
    from evaluator.records.rollouts import Observe

    stages = [step for step in plan.steps if isinstance(step, Observe)]
    with_users = [step.stage for step in stages if step.share]
    return find_first_stage(strategy, regression, with_users, [step.stage for step in stages if not step.share])


def allow_difference(strategy: str, row: StepRequests) -> float:
    """Difference that is allowed between the wanted and the realised share of a stage.

    An A/B test has the wanted share of all hash values; which of them its visitors have is chance.
    """
    wanted = row.wanted or 0.0
    visitors = row.requests / REQUESTS_OF_VISIT
    return NEAR if strategy != "ab_test" else NEAR + MOST_ERRORS * math.sqrt(wanted * (1 - wanted) / visitors)


def judge_ending(facts: RolloutFacts, strategy: str, regression: str) -> Ending:
    """Compare how a rollout ended with what its regression has to lead to."""
    from evaluator.intents.rollout_progress import fold
    from evaluator.records.rollouts import RolloutOutcome, from_plain
    from evaluator.rollout.reporting import find_turn, list_exposures

    plan = from_plain(facts.rollout.plan)
    progress, turn = fold(plan, facts.events), find_turn(plan, facts.events)
    expected = find_expected_stage(plan, strategy, regression)
    wanted = f"it should have turned back at {expected}" if expected else "it should have reached all users"
    if progress.outcome is None:
        return Ending(WRONG_CODE, f"the rollout has not ended; {wanted}")
    if "not shown what it needs" in progress.why_back:
        hint = "this machine was too busy for so short a demo"
        return Ending(INCONCLUSIVE_CODE, f"inconclusive: {progress.why_back}; {wanted}; {hint}")
    stage = plan.steps[turn].stage if turn is not None and turn < plan.body else ""
    exposures = [row for row in list_exposures(facts, plan) if row.requests]
    if any(row.wanted and abs(row.share - row.wanted) > allow_difference(strategy, row) for row in exposures):
        return Ending(WRONG_CODE, "the router gave the candidate another share than the plan wanted")
    if progress.outcome is RolloutOutcome.PROMOTED and not expected:
        blind = "; no stage of this strategy can see what is wrong" if regression != "none" else ""
        return Ending(0, f"as it should be: the candidate has all traffic{blind}")
    if progress.outcome is RolloutOutcome.ROLLED_BACK and expected and stage == expected:
        return Ending(0, f"as it should be: {stage} is the first stage that can see it")
    return Ending(WRONG_CODE, f"not as it should be: {wanted}")


def describe_rollout(facts: RolloutFacts) -> Iterator[str]:
    """Write the steps with verdicts and shares, and who met the candidate, as lines of text."""
    from evaluator.records.rollouts import from_plain
    from evaluator.reports.base import align_columns
    from evaluator.rollout.reporting import LEAST_SHOWN_S, find_return_s

    plan = from_plain(facts.rollout.plan)
    rows = [("stage", "needs", "shown", "wanted", "got", "requests", "failed"), *_list_rows(facts, plan)]
    yield ""
    yield from align_columns(rows, make_page())
    yield ""
    returned_s = find_return_s(facts.events)
    if returned_s is not None:
        when = f"{returned_s:.1f} s after" if returned_s >= LEAST_SHOWN_S else "as soon as"
        yield f"  all traffic was at the baseline {when} it was to go back"


def describe_exposure(ended: EndedDemo) -> str:
    """Write how many requests of users the candidate got since the start, by the router.

    The runs have fewer: what a candidate never answered is logged after its step was closed, or not at all.
    """
    logged = ended.traffic.requests["canary"]
    results = f"{format_count(ended.traffic.failures['canary'])} failed"
    if ended.sent > logged:
        results += f", and {format_count(ended.sent - logged)} had no answer, or not yet"
    of_all = count_of(ended.total, "request")
    return f"  the candidate got {format_count(ended.sent)} of {of_all} of users, by HAProxy: {results}"


def _list_rows(facts: RolloutFacts, plan: RolloutPlan) -> Iterator[tuple[str, ...]]:
    """List the cells of each stage."""
    from evaluator.rollout.reporting import list_rungs

    exposures = {row.step: row for row in facts.exposures}
    for rung in list_rungs(facts, plan):
        row = exposures.get(rung.name)
        shares = [f"{format_number(100 * share)} %" if share else "–" for share in (rung.wanted, rung.realised)]
        counts = [format_count(row.candidate), format_count(row.candidate_failures)] if row else ["–", "–"]
        yield (rung.name, rung.needs, "–" if rung.state in ("later", "skipped") else rung.note, *shares, *counts)
