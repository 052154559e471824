"""The guard as a driver uses it: it is started where none answers, and what shifts traffic goes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from evaluator.errors import HookError, NotReached
from evaluator.guard.client import GuardClient, connect, go_back_without_guard
from evaluator.guard.setup import NOT_KNOWN, GuardedService, GuardSetup, GuardStatus
from evaluator.hooks import HookContext, Outcome, Step
from evaluator.hooks.base import Action
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
        self._is_closed = False

    def open(self) -> GuardStatus:
        """Let the guard watch; one is started where none answers. Raises HookError, which says what is missing."""
        self._client = connect(self.store, start=True, say=self.say)
        self._is_closed = False
        return self._client.open(self.setup)

    def renew(self) -> GuardStatus:
        """Say that the driver is there. A guard that has ended is started again, and goes on from its files."""
        try:
            return self._client.renew(self.setup.rollout)
        except HookError:
            self.open()
            return self._client.renew(self.setup.rollout)

    def set_shares(self, service: str, shares: Mapping[str, float], words: Mapping[str, str]) -> Outcome:
        """Give the arms of a service their shares. Raises HookError and MaybeSent as a router does."""
        realised = self._client.set_shares(self.setup.rollout, service, shares, words)
        texts = [f"the guard has set the shares: {show_shares(realised.shares)}", *realised.notes]
        return Outcome("acknowledged", "; ".join(texts), earlier=realised.earlier)

    def back(self, why: str, by: str) -> GuardStatus:
        """Return all traffic; without a guard, by the files that it has left. Raises HookError."""
        try:
            return self._client.back(self.setup.rollout, why, by)
        except HookError:  # it has ended, or its watch was closed
            pass
        try:
            self._client = connect(self.store, start=True, say=self.say)
            if self.setup.services:
                self._client.open(self.setup)
                self._is_closed = False
            return self._client.back(self.setup.rollout, why, by)
        except HookError as error:
            problem = error
        statuses = go_back_without_guard(self.store, self.setup.release, why, self.say)
        for status in statuses:
            if status.rollout == self.setup.rollout:
                return status
        raise problem

    def close(self) -> None:
        """End the watch, of which no guard must be left that goes on. A guard that has ended is started for that.

        Raises HookError while users meet both versions, and where no guard answers.
        """
        if self._is_closed or not self.setup.services:
            return
        try:
            try:
                self._client.close(self.setup.rollout)
            except NotReached:
                self._client = connect(self.store, start=True, say=self.say)
                self._client.close(self.setup.rollout)
        except HookError as error:
            if NOT_KNOWN not in error.message:  # otherwise it was closed before
                raise
        self._is_closed = True

    def wrap(self, entry: HookEntry, step: Step) -> Step:
        """Make the hook of a shift, of which the guard sets the shares."""
        shares = {arm: float(share) for arm, share in entry.options["shares"].items()}
        return Step(GuardedRouter(step.hook, self, shares), step.required, step.time_limit_s)


class GuardedRouter:
    """A router whose shares the guard sets; everything else does the router itself."""

    def __init__(self, router: Any, traffic: GuardedTraffic, shares: Mapping[str, float]) -> None:
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
        services.append(
            GuardedService(
                service=service,
                kind=entry.kind,
                options=entry.options,
                words=_list_words(release, service),
                access_log=Path(path) if path else None,
                log=log,
            )
        )
    started_at = rollout.started_at.isoformat()
    return GuardSetup(rollout.id, rollout.release, tuple(services), plan.guard, plan.lease_s, started_at)


def _list_words(release: Release, service: str) -> dict[str, str]:
    """List the values of the words of a router's templates."""
    versions = next((known for known in release.services if known.name in (service, "")), None)
    baseline, canary = (versions.baseline, versions.canary) if versions else ("", "")
    return {"release": release.id, "service": service, "baseline": baseline, "canary": canary, "version": canary}
