"""Watches a service whose instances are replaced one batch after the other.

The arms have other servers after each batch. Users return to instances with the old version if enough of these serve;
else they stay where they are until the instances are restored, which the guard cannot do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from evaluator.errors import EvaluatorError, HookError
from evaluator.guard.log_watch import Clock
from evaluator.guard.routers import ReturnAttempt, ServiceRouter
from evaluator.guard.setup import GuardedService
from evaluator.guard.watch import ServiceWatch
from evaluator.hooks import MaybeSent, Realised
from evaluator.hooks.haproxy_instances import HaProxyInstances
from evaluator.records.rollouts import GuardLimits
from evaluator.records.words import BASELINE, CANDIDATE
from evaluator.wording import count_of

UNDRAIN_S = 5.0
"""How long a server that is to serve again is waited for; the driver then asks again."""

Arms = Mapping[str, Sequence[str]]
"""Arm → its servers."""


def get_instances(router: ServiceRouter) -> HaProxyInstances:
    """Return the router that drains single instances. Raises HookError if it is none."""
    if not isinstance(router.router, HaProxyInstances):
        raise HookError(f"the router of {router.service.service} names no instances")
    return router.router


def return_to_old(router: ServiceRouter, least_serving: int) -> ReturnAttempt:
    """Drain the new instances if enough old ones serve, and read back. Raises nothing."""
    try:
        hook = get_instances(router)
        old, new = (hook.options.servers.get(arm, ()) for arm in (BASELINE, CANDIDATE))
        serving = hook.list_serving()
        old_serving = sum(name in serving for name in old)
        if any(name in serving for name in new) and old_serving < least_serving:
            kept = (
                f"{old_serving} of {count_of(len(hook.instances), 'instance')} of {router.service.service} serve with "
                f"the old version, fewer than {least_serving} (least_serving): users stay at the new ones until these "
                "are restored, which `evaluator rollback` or the driver does"
            )
            return ReturnAttempt(is_returned=False, shares=router.read_shares(), text=kept, kept=kept)
        hook.drain(list(new), least_serving)
        shares = router.read_shares()
    except (EvaluatorError, MaybeSent) as error:
        return ReturnAttempt(is_returned=False, shares={}, text=getattr(error, "message", "") or str(error))
    return ReturnAttempt(router.is_at_baseline(shares), shares, "")


def make_watch(service: GuardedService, rollout: str, release: str, limits: GuardLimits, clock: Clock) -> ServiceWatch:
    """Make what watches a service, by whether its instances are replaced. Raises EvaluatorError."""
    watch_class = InstanceWatch if service.least_serving else ServiceWatch
    return watch_class(service, rollout, release, limits, clock)


class InstanceWatch(ServiceWatch):
    """What the guard knows of such a service, and does for it."""

    @property
    def hook(self) -> HaProxyInstances:
        """What drains and undrains."""
        return cast("HaProxyInstances", self.router.router)

    def try_router(self) -> None:
        """Try secrets and router. Raises EvaluatorError, also if an instance does not serve before anything began."""
        super().try_router()
        if not self.servers:
            self.servers = self.hook.options.servers
            if obstacles := self.hook.list_obstacles():
                raise HookError(
                    f"not every instance of {self.service.service} serves: {'; '.join(obstacles)}",
                    hint="let it serve first, or leave it out of the router's instances",
                )

    def assign(self, servers: Arms) -> None:
        """Say which servers serve which arm from now on; nothing is changed at the router. Raises HookError."""
        self.hook.assign(servers)
        self.servers = {arm: list(names) for arm, names in servers.items()}
        if self.log is not None:
            self.log.assign(self.servers)

    def set_shares(self, shares: Mapping[str, float], words: Mapping[str, str]) -> Realised:  # noqa: ARG002 - by servers
        """Drain those of the batch that serve no arm by `servers`, and undrain the others. Raises HookError, MaybeSent.

        `words` have the batch: others may have drained further instances, which stay so. `router.changing` is held; the
        shares follow from the servers.
        """
        hook, before = self.hook, self.hook.options.servers
        batch, earlier = words.get("instances", "").split(), hook.read()
        self.assign(self.servers)
        try:
            drained = hook.list_drained()
            hook.drain([name for name in batch if name in drained], self.service.least_serving)
            hook.undrain([name for name in batch if name not in drained], UNDRAIN_S)
        except HookError:
            self.assign(before)
            raise
        try:
            self.realised = self.router.read_shares()
        except HookError as error:  # what was drained has to be undrained, so this is no failure
            raise MaybeSent(f"it was done, and cannot be read back: {error.message}") from None
        self.settings = dict(self.realised)
        self._router_read_at = self._clock()
        self.drift = ""
        return Realised(self.realised, (), (), earlier)

    def _check_shares(self) -> str:
        """Drain again what gets requests although it was drained: a reload forgets that, and it is being replaced."""
        try:
            self.realised = self.router.read_shares()
            serving = self.hook.list_serving()
            drained = self.hook.list_drained()
            others = [name for name in self.hook.instances if name not in drained]
            obstacles = self.hook.list_obstacles(others)
        except HookError as error:
            return self._note_unread(error)
        self._router_read_at = self._clock()
        self.router_note = f"{self.service.service}: {'; '.join(obstacles)}" if obstacles else ""
        undrained = [name for name in drained if name in serving]
        if not undrained:
            self.drift = ""
            return ""
        self.drifts += 1
        text = f"{self.service.service}: {', '.join(undrained)} got requests although drained"
        try:
            self.hook.drain(undrained, 0)
            text += "; drained again"
        except (EvaluatorError, MaybeSent) as error:
            text += f"; draining again failed: {getattr(error, 'message', '') or error}"
        self.drift = text
        return f"{text}, and this is not the first time" if self.drifts > 1 else ""

    def return_traffic(self) -> bool:
        """Try once to return the users as far as old instances can carry them; returns whether nothing is left to try.

        What is restored afterwards is no concern of the guard: it must not drain an instance that has the old version
        again. So that is done once.
        """
        is_alone = self.router.changing.acquire(timeout=UNDRAIN_S + 1)
        try:
            attempt = return_to_old(self.router, self.service.least_serving)
        finally:
            if is_alone:
                self.router.changing.release()
        self.is_returned, self.return_text, self.kept = attempt.is_returned, attempt.text, attempt.kept
        if attempt.shares:
            self.realised = dict(attempt.shares)
        return self.is_settled

    def check_returned(self) -> None:
        """Read nothing: instances are restored meanwhile."""

    def is_exposed(self, *, is_back: bool) -> bool:
        """Do users meet a candidate?"""
        return not self.is_returned if is_back else super().is_exposed(is_back=is_back)
