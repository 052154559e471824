"""Starting a rollout, and driving one that was started: all parts of its driver are put together here."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluator.errors import EvaluatorError, HookError, PlanNotReadable, PolicyError, Refused, StoreBusy, StoreError
from evaluator.guard.instances import make_watch
from evaluator.guard.recognise import find_settings
from evaluator.guard.routers import ServiceRouter
from evaluator.guard.setup import GuardSetup
from evaluator.hooks.templates import VERSIONS, list_words
from evaluator.intents import may, why_not
from evaluator.intents.baseline_servers import describe_missing_baseline
from evaluator.intents.executing import LoadPolicy
from evaluator.intents.rollout_plans import explain_hold, read_plan
from evaluator.pipeline.tailing import LATENESS_S, TailPlan
from evaluator.policy import Policy, parse_policy
from evaluator.policy.promotion import PromotionRules
from evaluator.policy.rollout import AB_TEST
from evaluator.records import BASELINE, CANDIDATE, Release, StoredVerdict, VerdictWord
from evaluator.records.intents import Person, PersonRole
from evaluator.records.rollouts import (
    Act,
    Event,
    EventKind,
    GuardLimits,
    JudgedAt,
    Observe,
    Rollout,
    RolloutPlan,
    StepNeeds,
    to_plain,
)
from evaluator.rollout.acting import IntentEffects
from evaluator.rollout.collaborators import Collaborators, ProgressReport, SystemClock, ThreadCall
from evaluator.rollout.describing import find_exit_code
from evaluator.rollout.driving import Driver
from evaluator.rollout.evidence import StepEvidence, freeze_policy, judge_step
from evaluator.rollout.guarding import GuardedTraffic, list_versions, make_key, make_setup
from evaluator.rollout.locking import driving_alone
from evaluator.rollout.recording import StepRecorder
from evaluator.rollout.returning import return_without_plan
from evaluator.rollout.winning import judge_test
from evaluator.sources.access_logs.tail_state import list_followed
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

STORE_WAIT_S = 5.0
"""How long one use of the decisions waits for another process: the lease is renewed in between."""


# ------------------------------------------------------------------ starting


def draft_rollout(policy: Policy, plan: RolloutPlan, person: Person, reason: str, *, is_queued: bool) -> Rollout:
    """Make the rollout that is to be started: the plan and the policy as they are now, and who starts it."""
    return Rollout(
        id="",
        release=plan.release,
        plan=to_plain(plan),
        plan_hash=plan.hash(),
        policy=freeze_all(policy),
        person=person.name,
        names=person.names,
        reason=reason,
        started_at=datetime.now(UTC),
        is_queued=is_queued,
    )


def freeze_all(policy: Policy) -> dict[str, Any]:
    """Write all of a policy that a rollout needs as plain JSON: what judges, routers, logs, roles and approvals."""
    sources: dict[str, Any] = {}
    if policy.access_log is not None:
        sources["access_log"] = policy.access_log.model_dump(mode="json")
    return {**freeze_policy(policy), **policy.afterwards, **({"sources": sources} if sources else {})}


def read_frozen_policy(rollout: Rollout) -> Policy:
    """Read the policy that a rollout was started with. Raises PlanNotReadable."""
    try:
        return parse_policy(rollout.policy, origin=f"policy of rollout {rollout.id}")
    except PolicyError as error:
        raise PlanNotReadable(
            f"the policy of {rollout.id} cannot be read by this version of the evaluator: {error.message}",
            hint="go back with `evaluator rollback`, or continue it with the version that started it",
        ) from error


def check_start(store: Store, plan: RolloutPlan, draft: Rollout, release: Release) -> None:
    """Look whether a rollout can be driven here: no other one, routers, logs, loads. Changes nothing.

    Raises EvaluatorError. Another rollout is named first: what it does to the router is no mistake to be repaired.
    """
    Rollouts(store.control.file).check_free(draft)
    policy = read_frozen_policy(draft)
    setup = make_setup(draft, plan, policy, release)
    needs_log = {
        service
        for step in plan.steps
        if isinstance(step, Act) and step.is_shift
        for service in step.services
    }  # fmt: skip
    for service in setup.services:
        if service.service in needs_log and service.access_log is None:
            raise PolicyError(
                f"rollout.live names no access log of {service.service}, so nothing would show what its users get",
                hint="live: {access_log: {SERVICE: FILE}}; readings of Prometheus alone do not drive a rollout",
            )
        watch = make_watch(service, "", release.id, plan.guard, time.monotonic)
        try:
            watch.try_all()
        finally:
            watch.close()
        missing = [arm for arm in plan.candidates if arm not in watch.router.router.arms()]
        if missing:
            raise HookError(f"the router of {service.service} has no arm {missing[0]}", hint="name its servers")
        moving = watch.router.router.explain_moving_users() if plan.strategy == AB_TEST else ""
        if moving:
            raise HookError(
                f"the router of {service.service} does not keep each user in an arm: {moving}",
                hint="docs/ab-test.md has configurations of HAProxy and nginx that do",
            )
    _check_versions(plan, policy, release)
    make_tail_plans(store, draft, plan, policy, release)
    for step in plan.steps:
        if isinstance(step, Observe) and step.load is not None and not Path(step.load["locustfile"]).is_file():
            raise PolicyError(
                f"{policy.origin}: the load of {step.name} has no locustfile {step.load['locustfile']} in this folder",
                hint="`evaluator init` writes one; paths are those from the folder in which the rollout is driven",
            )


def _check_versions(plan: RolloutPlan, policy: Policy, release: Release) -> None:
    """Raise PolicyError if hooks that replace instances name a version that is not known: none could be restored."""
    section = policy.rollout.instances if policy.rollout else None
    if section is None:
        return
    options = json.dumps([dict(entry.options) for entry in (*section.replace, *section.health)])
    named = set(list_words(options)) & set(VERSIONS)
    for service in plan.services:
        words = list_versions(release, service)
        unknown = {BASELINE: not words["baseline"], CANDIDATE: not words["canary"]}
        needed = {BASELINE: named & {"baseline", "version"}, CANDIDATE: named & {"canary", "version"}}
        for arm, is_unknown in unknown.items():
            if is_unknown and needed[arm]:
                raise PolicyError(
                    f"rollout.instances has hooks with ${{{min(needed[arm])}}}, and the version of {arm} of {service} "
                    "is not known, so its instances could not be replaced and restored",
                    hint="start it with --baseline-version and --canary-version",
                )


def make_tail_plans(
    store: Store, rollout: Rollout, plan: RolloutPlan, policy: Policy, release: Release
) -> dict[str, TailPlan]:
    """Plan how the log of each shifted service is followed. Raises UsageError, InputError."""
    tails = {}
    live = policy.rollout.live if policy.rollout else None
    bakes = [step.bake_s for step in plan.steps if isinstance(step, Observe) and step.share and step.bake_s]
    for service in make_setup(rollout, plan, policy, release).services:
        if service.access_log is None:
            continue
        router = ServiceRouter(service, "", rollout.release)
        settings = find_settings(router.complete_log(), router.list_servers())
        settings = replace(settings, options=replace(settings.options, service=service.service))
        tails[service.service] = TailPlan(
            store_path=store.path,
            release=Release(release.id),
            paths=(service.access_log.absolute(),),
            settings=settings,
            lateness_s=live.lateness if live else LATENESS_S,
            shortest_step_s=min(bakes, default=None),
        )
    return tails


def check_not_followed(store: Store, release: str, services: tuple[str, ...]) -> None:
    """Raise Refused if another process follows a log of the release: requests would be read only once."""
    from evaluator.rollout.recording import find_log_folder

    folder = find_log_folder(store.path, release)
    followed = [log.service for log in list_followed(folder) if log.service in services] if folder.exists() else []
    if followed:
        raise Refused(
            f"another `evaluator tail` follows the log of {', '.join(followed)}, and a rollout follows it itself",
            hint="end that command first",
        )


# ------------------------------------------------------------------ driving


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """What the process of a driver has: where policies are, how to stop it, and what shows its progress."""

    load_policy: LoadPolicy
    load_to_go_back: LoadPolicy
    policy_path: str
    stop: threading.Event
    report: ProgressReport


def drive_rollout(store: Store, rollout: Rollout, settings: DriverSettings) -> int:
    """Drive a rollout to its end, as the only driver of its services; returns the exit code.

    A plan that this version cannot read, or that was edited, goes back. Raises Refused if another process drives it,
    DriverStopped if it was asked to end, and StoreError.
    """
    services = tuple(rollout.plan.get("services", ()))
    store = Store.open(store.path, decisions_only=True, wait_s=STORE_WAIT_S)
    with driving_alone(store, rollout.id, rollout.release, services):
        events = StoredEvents(store, rollout)
        traffic: GuardedTraffic
        try:
            plan, policy = read_plan(rollout), read_frozen_policy(rollout)
            release = store.control.release(rollout.release)
            setup = make_setup(rollout, plan, policy, release)
            tails = make_tail_plans(store, rollout, plan, policy, release)
            if changed := events.find_change():
                raise PlanNotReadable(changed)
        except StoreBusy:
            raise
        except EvaluatorError as error:
            setup = GuardSetup(rollout.id, rollout.release, (), GuardLimits(), key=make_key(rollout))
            traffic = GuardedTraffic(store.path, setup, settings.report.say)
            effects = _make_effects(store, rollout, None, traffic, settings)
            missing = describe_missing_baseline(store, rollout.id)
            return return_without_plan(
                rollout, error.message, events, traffic, effects, settings.report, missing_baseline=missing
            )
        traffic = GuardedTraffic(store.path, setup, settings.report.say)
        parts = Collaborators(
            events=events,
            traffic=traffic,
            effects=_make_effects(store, rollout, plan, traffic, settings),
            judge=StoreJudge(store.path, rollout, plan),
            observing=StepRecorder(store, rollout, plan, tails, settings.policy_path, settings.report.say),
            clock=SystemClock(settings.stop),
            report=settings.report,
            start_call=ThreadCall,
        )
        Driver(plan, parts, settings.stop).drive()
        return find_exit_code(plan, events.read())


def _make_effects(
    store: Store, rollout: Rollout, plan: RolloutPlan | None, traffic: GuardedTraffic, settings: DriverSettings
) -> IntentEffects:
    """Make the intents of a rollout. `plan` None: only its rollback is asked for."""
    return IntentEffects(
        store,
        rollout,
        plan if plan is not None else RolloutPlan(rollout.release, "", (), ()),
        load_policy=settings.load_policy,
        load_to_go_back=settings.load_to_go_back,
        wrap=traffic.wrap,
        say=settings.report.say,
    )


@dataclass(frozen=True, slots=True)
class StoredEvents:
    """The events of a rollout in the store."""

    store: Store
    rollout: Rollout

    def read(self) -> tuple[Event, ...]:
        """Read all events."""
        return Rollouts(self.store.control.file).events(self.rollout.id)

    def add(self, event: Event) -> None:
        """Add an event."""
        Rollouts(self.store.control.file).add_event(self.rollout, event)

    def find_change(self) -> str:
        """Say what of the plan and the decisions is not what was written; empty if all is. Raises StoreBusy."""
        try:
            if Rollouts(self.store.control.file).rollout(self.rollout.id) != self.rollout:
                return f"the rollout {self.rollout.id} in the store is not what was started"
            self.store.control.verify_release(self.rollout.release)
        except StoreBusy:
            raise
        except StoreError as error:
            return error.message
        return ""


@dataclass(frozen=True, slots=True)
class StoreJudge:
    """Judges the steps of a rollout on what is stored."""

    path: Path
    rollout: Rollout
    plan: RolloutPlan

    def judge(self, position: int, look: JudgedAt) -> StepEvidence:
        """Judge a step on the data until now."""
        store, now = Store.open(self.path), datetime.now(UTC)
        found = judge_step(store, self.rollout, self.plan, position, look, now)
        step = self.plan.steps[position]
        is_end = isinstance(step, Observe) and step.needs is StepNeeds.WINNER and look is not JudgedAt.MEANWHILE
        # At the first look, requests have to be sound before outcomes are read; a person may let them be read then.
        if not is_end or found.word is VerdictWord.NO_GO or (look is JudgedAt.BAKE and not found.no_harm):
            return found
        return judge_test(store, self.rollout, self.plan, position, look, now)

    def find_no_go(self, since: float) -> str:
        """Say that a verdict of the release is NO-GO, and why, if it was judged since the rollout began and a time.

        Not only the newest verdict counts: one of a step may follow that of a person at once.
        """
        store = Store.open(self.path, decisions_only=True, wait_s=STORE_WAIT_S)
        earliest = max(since, self.rollout.started_at.timestamp())
        for verdict in reversed(store.control.verdicts(self.rollout.release)):
            if verdict.word == VerdictWord.NO_GO and verdict.judged_at.timestamp() >= earliest:
                return _describe_no_go(verdict)
        return ""


def _describe_no_go(verdict: StoredVerdict) -> str:
    """Say which services a verdict is NO-GO of, since when, and its first reason."""
    stored = json.loads(verdict.json)
    services = ", ".join(service["name"] for service in stored["services"])
    of_services = f" of {services}" if services else ""
    text = f"the verdict{of_services}, judged at {verdict.judged_at:%Y-%m-%d %H:%M} UTC, is NO-GO"
    reasons = stored["reasons"]
    return f"{text}: {reasons[0]['text']}" if reasons else text


def find_running_rollout(store: Store, release: str) -> Rollout | None:
    """Find the rollout of a release that has not ended; None: there is none."""
    return next(iter(Rollouts(store.control.file).find_running(release)), None)


def continue_held(store: Store, rollout: Rollout, rules: PromotionRules, person: Person, reason: str) -> None:
    """Let a rollout that is held continue. Raises Refused if the person may not, or it is not held.

    `rules`: who has which role. `reason`: may be empty.
    """
    if not may(rules, person.names, PersonRole.APPROVER):
        raise Refused(why_not(rules, person, PersonRole.APPROVER, "continuing a rollout"))
    if not explain_hold(Rollouts(store.control.file).events(rollout.id)):
        raise Refused(f"{rollout.id} is not held: nothing was done")
    event = Event(EventKind.CONTINUED, time.time(), person=person.name, text=" ".join(reason.split()))
    Rollouts(store.control.file).add_event(rollout, event)
