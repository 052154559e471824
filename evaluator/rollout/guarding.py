"""The guard as a driver uses it: it is started where none answers, and what shifts traffic goes through it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from evaluator.errors import HookError, NotReached
from evaluator.guard.client import AnswerLost, GuardClient, connect, go_back_without_guard
from evaluator.guard.returning import close_without_guard, has_state_file
from evaluator.guard.routers import ServiceRouter
from evaluator.guard.setup import GuardedService, GuardSetup, GuardStatus
from evaluator.hooks import HookContext, MaybeSent, Outcome, Step
from evaluator.hooks.base import Action
from evaluator.hooks.haproxy_instances import HaProxyInstances
from evaluator.hooks.router import show_shares
from evaluator.policy import Policy
from evaluator.records import Release
from evaluator.records.intents import HookEntry
from evaluator.records.rollouts import Rollout, RolloutPlan

Say = Callable[[str], None]


class GuardedTraffic:
    """The traffic of one rollout."""

    def __init__(self, store: Path, setup: GuardSetup, say: Say) -> None:
        self.store, self.setup, self.say = store, setup, say
        self._client = GuardClient(store)
        self._said: set[str] = set()
        """What the guard cannot see, as it was shown: once, also where it is opened again."""

    def open(self) -> GuardStatus:
        """Let the guard watch; one is started where none answers. Raises HookError, which says what is missing."""
        self._client = connect(self.store, start=True, say=self.say)
        try:
            status = self._client.open(self.setup)
        except NotReached:  # it ended before it answered
            self._client = connect(self.store, start=True, say=self.say)
            status = self._client.open(self.setup)
        for note in status.notes:
            if note not in self._said:
                self._said.add(note)
                self.say(f"the guard: {note}")
        return status

    def renew(self) -> GuardStatus:
        """Say that the driver is there. A guard that has ended is started again, and goes on from its files."""
        try:
            return self._client.renew(self.setup.name)
        except HookError:
            self.open()
            return self._client.renew(self.setup.name)

    def set_shares(
        self,
        service: str,
        shares: Mapping[str, float],
        words: Mapping[str, str],
        servers: Mapping[str, Sequence[str]] | None = None,
    ) -> Outcome:
        """Give the arms of a service their shares. Raises HookError and MaybeSent as a router does.

        `servers`: arm → its instances, where these are replaced.

        A guard that was killed meanwhile is started again, and asked again: the same shares twice do no harm.
        """
        try:
            realised = self._client.set_shares(self.setup.name, service, shares, words, servers)
        except AnswerLost as lost:
            try:
                self.renew()
            except HookError:
                raise lost from None
            realised = self._client.set_shares(self.setup.name, service, shares, words, servers)
        texts = [f"the guard has set the shares: {show_shares(realised.shares)}", *realised.notes]
        return Outcome("acknowledged", "; ".join(texts), earlier=realised.earlier)

    def back(self, why: str, by: str) -> GuardStatus:
        """Return all traffic; without a guard, by the files that it has left. Raises HookError."""
        try:
            return self._client.back(self.setup.name, why, by)
        except HookError:  # it has ended, or its watch was closed
            pass
        try:
            self._client = connect(self.store, start=True, say=self.say)
            if self.setup.services:
                self._client.open(self.setup)
            return self._client.back(self.setup.name, why, by)
        except HookError as error:
            problem = error
        statuses = go_back_without_guard(self.store, self.setup.release, why, self.say)
        for status in statuses:
            if (status.rollout, status.key) == (self.setup.rollout, self.setup.key):
                return status
        raise problem

    def explain_not_returned(self) -> str:
        """Say which routers do not give all traffic to the baseline; empty if all do. Raises HookError."""
        problems = []
        for service in self.setup.services:
            router = ServiceRouter(service, self.setup.rollout, self.setup.release)
            # What was set is not what users get where the servers of the baseline are down, and the reverse.
            for shares in (router.read_shares(), router.read_settings()):
                if not router.is_at_baseline(shares):
                    problems.append(f"{service.service} has {show_shares(shares)}")
                    break
        return "; ".join(problems)

    def close(self, *, promoted: bool) -> None:
        """End the watch for good. `promoted`: all traffic stays at the candidate, whatever starts later.

        Without a guard, one is started; where that is not possible, its file says that it has ended. Raises HookError
        if it went back although `promoted`, while users meet both versions, and if a guard may go on watching.
        """
        with suppress(NotReached):
            if promoted or self._client.guards(self.setup.name):
                self._client.close(self.setup.name, promoted=promoted)
            return
        if not has_state_file(self.store, self.setup.name):
            return  # it was closed before, or never opened
        try:
            self._client = connect(self.store, start=True, say=self.say)
        except HookError:
            close_without_guard(self.store, self.setup.name)
            return
        if self._client.guards(self.setup.name):
            self._client.close(self.setup.name, promoted=promoted)

    def wrap(self, entry: HookEntry, step: Step) -> Step:
        """Make the hook of a shift, of which the guard sets the shares, or drains and undrains instances."""
        if isinstance(step.hook, HaProxyInstances):
            return Step(GuardedInstances(step.hook, self), step.required, step.time_limit_s)
        shares = {arm: float(share) for arm, share in entry.options["shares"].items()}
        return Step(GuardedRouter(step.hook, self, shares), step.required, step.time_limit_s)


class GuardedRouter:
    """A router whose shares the guard sets; everything else does the router itself."""

    def __init__(self, router: Any, traffic: GuardedTraffic, shares: Mapping[str, float]) -> None:
        """`shares`: arm → the share that it gets."""
        self._router, self._traffic, self._shares = router, traffic, shares
        self.kind: str = router.kind
        self.idempotent: bool = router.idempotent

    def execute(self, context: HookContext) -> Outcome:
        """Ask the guard for the shares."""
        if context.dry_run:
            return cast("Outcome", self._router.execute(context))
        return self._traffic.set_shares(context.service, self._shares, context.known_words())

    def describe(self, context: HookContext | None = None) -> str:
        """What will happen."""
        return f"{self._router.describe(context)}, by the guard"

    def describe_undo(self, context: HookContext | None = None) -> str:
        """What undo will do."""
        return str(self._router.describe_undo(context))

    def read(self, context: HookContext | None = None) -> Any:
        """Read the state of the router."""
        return self._router.read(context)

    def undo(self, context: HookContext, earlier: Any) -> Outcome:
        """Restore an earlier state of the router."""
        return cast("Outcome", self._router.undo(context, earlier))

    def test(self, action: Action = "promote") -> Outcome:
        """Test the router."""
        return cast("Outcome", self._router.test(action))

    def find_obstacle(self, action: Action) -> str:
        """Say why the router would refuse."""
        return str(self._router.find_obstacle(action))

    def can_undo(self) -> bool:
        """Can the router take back what it did?"""
        return bool(self._router.can_undo())

    def describe_value(self, value: Any) -> str:
        """Describe a state of the router."""
        return str(self._router.describe_value(value))

    def list_secrets(self) -> list[str]:
        """List the secrets of the router."""
        return list(self._router.list_secrets())


class GuardedInstances(GuardedRouter):
    """Instances that the guard drains and undrains; requests that they work on are waited for here."""

    def __init__(self, router: HaProxyInstances, traffic: GuardedTraffic) -> None:
        self._instances, self._arms = router, router.batch.arms
        serving = sum(len(names) for names in self._arms.values())
        shares = {arm: len(names) / max(serving, 1) for arm, names in self._arms.items()}
        super().__init__(router, traffic, shares)

    def execute(self, context: HookContext) -> Outcome:
        """Ask the guard; then wait for the sessions of what it drained."""
        if context.dry_run:
            return self._instances.execute(context)
        batch = self._instances.batch
        done = self._traffic.set_shares(context.service, self._shares, context.known_words(), self._arms)
        if batch.do == "undrain":
            return replace(done, did=f"{', '.join(batch.servers)} served again; {done.did}", earlier=None)
        try:
            return Outcome("acknowledged", self._instances.describe_drained())
        except MaybeSent as error:
            return Outcome("unknown", str(error))


def make_setup(rollout: Rollout, plan: RolloutPlan, policy: Policy, release: Release) -> GuardSetup:
    """Make what the guard is asked to guard. `policy`: that of the start. Raises HookError."""
    section = policy.rollout
    shifted = [service for service in plan.services if section is not None and service in section.router]
    services = []
    for service in shifted:
        if section is None:
            break
        entry = section.router[service]
        path = section.live.find_log(service)
        log = policy.access_log.model_dump(mode="json") if policy.access_log else {}
        least_serving = section.instances.least_serving if section.instances else 0
        services.append(
            GuardedService(
                service=service,
                kind=entry.kind,
                options=entry.options,
                words=list_versions(release, service),
                access_log=Path(path) if path else None,
                log={**log, "sensitive": policy.promotion.sensitive},
                least_serving=least_serving,
            )
        )
    return GuardSetup(rollout.id, rollout.release, tuple(services), plan.guard, plan.lease_s, make_key(rollout))


def make_key(rollout: Rollout) -> str:
    """Make what tells a rollout from others of its id: the guard's files outlive a store that is made again."""
    identity = json.dumps([rollout.id, rollout.release, rollout.started_at.isoformat(), rollout.plan_hash])
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def list_versions(release: Release, service: str) -> dict[str, str]:
    """List the values of the words of a router's templates, with the versions of a service; empty: not known."""
    versions = next((known for known in release.services if known.name in (service, "")), None)
    baseline, canary = (versions.baseline, versions.canary) if versions else ("", "")
    return {"release": release.id, "service": service, "baseline": baseline, "canary": canary, "version": canary}
