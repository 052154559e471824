"""The router of one guarded service: its shares are read, set, and returned to the baseline."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from evaluator.errors import EvaluatorError, HookError
from evaluator.guard.counters import AskStats
from evaluator.guard.setup import GuardedService
from evaluator.hooks import HookContext, MaybeSent, Realised, Router, make_router
from evaluator.hooks.base import Action
from evaluator.hooks.haproxy_api import HaProxyOptions
from evaluator.hooks.network import resolve_allowed
from evaluator.hooks.router import MOST_DIFFERENCE
from evaluator.records.words import BASELINE, CANDIDATE
from evaluator.sources.access_logs.server_stats import ask_stats

_HAPROXY_S = 3.0
"""Longest wait for HAProxy, which answers within milliseconds: a hanging one must not stop the looks at the log."""
_CALL_EXPIRES = timedelta(minutes=5)
_BUSY_S = 5.0
"""How long going back waits for a call that sets other shares; then it goes on, and sets them again afterwards."""


@dataclass(frozen=True, slots=True)
class ReturnAttempt:
    """How an attempt to return traffic to the baseline ended."""

    is_returned: bool
    """The router was read back, and no candidate gets requests."""
    shares: Mapping[str, float]
    """As read back; empty: they could not be read."""
    text: str
    """What could not be done, or was found, as a sentence; empty: nothing."""
    kept: str = ""
    """Why users stay at new instances until these are restored, so that nothing is tried again; empty: it is."""


class ServiceRouter:
    """The router of a service, for one call that changes something at a time."""

    def __init__(self, service: GuardedService, rollout: str, release: str) -> None:
        """Make it from its options; secrets are those of this process. Raises HookError, PolicyError, UsageError."""
        self.service, self.rollout, self.release = service, rollout, release
        self.router: Router[Any] = make_router(service.kind, service.options)
        if isinstance(self.router.options, HaProxyOptions):
            timeout = min(self.router.options.timeout, _HAPROXY_S)
            self.router.options = self.router.options.model_copy(update={"timeout": timeout})
        if BASELINE not in self.router.arms():
            raise HookError(
                f"the router of {service.service} has no arm {BASELINE}, so traffic could not return to it",
                hint=f"name the old version {BASELINE} in its options",
            )
        self.changing = threading.Lock()
        """Held while a call sets shares."""

    @property
    def candidates(self) -> tuple[str, ...]:
        """The arms that are candidates."""
        return tuple(arm for arm in self.router.arms() if arm != BASELINE)

    def test(self) -> tuple[str, ...]:
        """Check what setting shares needs: secrets, names, rights. Returns what was found. Raises HookError."""
        outcome = self.router.test_router()
        if outcome.state != "acknowledged":
            raise HookError(f"the router of {self.service.service} cannot be used: {outcome.did}")
        return tuple(outcome.did.splitlines())

    def read_shares(self) -> dict[str, float]:
        """Read arm → share of the requests that it gets now. Raises HookError."""
        return self.router.read_shares(self._make_context("step"))

    def read_settings(self) -> dict[str, float]:
        """Read arm → share by what was set, also where servers cannot serve now. Raises HookError."""
        return self.router.read_settings(self._make_context("step"))

    def read_state(self) -> Any:
        """Read the state of the router as plain JSON. Raises HookError."""
        return self.router.read(self._make_context("step"))

    def set_shares(self, shares: Mapping[str, float], words: Mapping[str, str]) -> Realised:
        """Give each arm its share. Raises HookError if nothing was changed, MaybeSent if that is not known."""
        return self.router.set_shares(shares, self._make_context("step", words, shares))

    def return_traffic(self) -> ReturnAttempt:
        """Give all requests to the baseline, enable its servers if they were drained, and read back. Raises nothing."""
        is_alone = self.changing.acquire(timeout=_BUSY_S)
        try:
            context = self._make_context("rollback", {"reason": "the guard returns the traffic"}, {BASELINE: 1.0})
            realised = self.router.set_shares({BASELINE: 1.0}, context, back=True)
            shares = dict(realised.shares) or self.read_shares()
            settings = self.read_settings()
        except (EvaluatorError, MaybeSent) as error:
            return ReturnAttempt(is_returned=False, shares={}, text=getattr(error, "message", "") or str(error))
        except Exception as error:  # noqa: BLE001 - a router of another package may raise anything: go on trying
            return ReturnAttempt(is_returned=False, shares={}, text=f"{type(error).__name__}: {error}")
        finally:
            if is_alone:
                self.changing.release()
        is_returned = is_alone and self.is_at_baseline(shares) and self.is_at_baseline(settings)
        notes = () if is_returned else realised.notes
        return ReturnAttempt(is_returned, shares, "; ".join((*realised.missing, *notes)))

    def is_at_baseline(self, shares: Mapping[str, float]) -> bool:
        """Do no candidates get requests by these shares? Also where the baseline's servers are down."""
        return sum(shares.get(arm, 0.0) for arm in self.candidates) <= MOST_DIFFERENCE

    def make_stats(self) -> tuple[AskStats, str] | None:
        """Make what asks for HAProxy's statistics, with the backend; None if the router has none that are known."""
        options, address = self.router.options, self.service.stats_socket
        backend = options.backend if isinstance(options, HaProxyOptions) else ""
        if not address and isinstance(options, HaProxyOptions):
            if options.socket is None:
                host, _, port = str(options.address).rpartition(":")
                allowed, hosts = int(port), options.allow_hosts
                return (
                    lambda command: ask_stats(f"{resolve_allowed(host.strip('[]'), allowed, hosts)[0]}:{port}", command)
                ), backend
            address = options.socket
        return ((lambda command: ask_stats(address, command)), backend) if address else None

    def list_servers(self) -> Mapping[str, list[str]]:
        """Return arm → names of its servers, where the options name servers; empty if they do not."""
        servers = getattr(self.router.options, "servers", None) or {}
        return {arm: [names] if isinstance(names, str) else list(names) for arm, names in servers.items()}

    @property
    def counts_by_backend(self) -> bool:
        """Has each arm a backend of its own, whose name says the arm in logs and counters?"""
        return isinstance(self.router.options, HaProxyOptions) and self.router.options.map is not None

    def complete_log(self) -> Mapping[str, Any]:
        """Complete how the log is read: by the backends of the arms, if each has one and the policy names no arms."""
        log = self.service.log
        if not self.counts_by_backend or log.get("arms"):
            return log
        return {**log, "arms": self.list_servers(), "arm_from": "backend"}

    def _make_context(
        self, action: Action, words: Mapping[str, str] | None = None, shares: Mapping[str, float] | None = None
    ) -> HookContext:
        """Make the context of a call, with the words of the setup and those of the call."""
        known = {**self.service.words, **(words or {})}
        arm = next(iter(self.candidates), CANDIDATE)
        share = "" if shares is None else f"{shares.get(arm, 0.0):.9g}"
        return HookContext(
            release=self.release,
            action=action,
            verdict="",
            verdict_hash="",
            baseline=known.get("baseline", ""),
            canary=known.get("canary", ""),
            requester="guard",
            reason=known.get("reason", ""),
            idempotency_key=f"{self.rollout}-{self.service.service}-{action}-{share}",
            expires_at=datetime.now(UTC) + _CALL_EXPIRES,
            link=known.get("link", ""),
            service=self.service.service,
            arm=arm,
            share=share,
            step=known.get("step", ""),
        )
