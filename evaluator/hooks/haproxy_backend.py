"""What is read of one of HAProxy's backends, for weights of its servers and for single instances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluator.errors import HookError
from evaluator.hooks.haproxy_api import HaProxyHook
from evaluator.hooks.haproxy_config import explain_reload
from evaluator.hooks.haproxy_state import Backend, parse_backend
from evaluator.hooks.router import Realised
from evaluator.hooks.weights import show_weights, sum_shares


class HaProxyBackend(HaProxyHook):
    """The servers of one backend."""

    def _describe_router(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - its options have no words
        return f"HAProxy's backend {self.options.backend} at {self.options.socket or self.options.address}"

    def _test_router(self) -> list[str]:
        """Check that HAProxy answers, has the servers, and lets us set weights; changes nothing. Raises HookError."""
        self._check_level()
        backend = self._read_backend()
        self._check_names(backend)
        on_reload = explain_reload(self._ask("show info"), self.options.backend, is_local=bool(self.options.socket))
        limits = backend.describe_limits(self._list_names(), also_unused=True)
        return [f"HAProxy answers; the weights are {self._show(backend)}", *limits, on_reload]

    def _explain_down(self, arm: str) -> str | None:
        """Look what HAProxy's health checks have found; without a check, HAProxy takes each server for up."""
        backend, names = self._read_backend(), self._list_servers().get(arm, ())
        if any(backend.can_serve(name) and backend.servers[name].is_checked for name in names):
            return ""
        if any(backend.can_serve(name, enabled=True) for name in names):  # not checked, or not looked at meanwhile
            return None
        return "; ".join(backend.list_obstacles(dict.fromkeys(names, 1))) or f"the backend has no server of {arm}"

    def _check_names(self, backend: Backend) -> None:
        """Raise HookError for servers that the backend does not have. Going back sets the others all the same."""
        if unknown := [name for name in self._list_names() if name not in backend.servers]:
            raise HookError(
                f"HAProxy's backend {backend.name} has no server {', '.join(unknown)}",
                hint=f"its servers are {', '.join(backend.servers) or 'none'}",
            )

    def _measure(self, words: Mapping[str, str]) -> Realised:  # noqa: ARG002 - as above
        """Read the shares by the servers that can serve, also those of no arm."""
        backend = self._read_backend()
        shares = sum_shares(backend.find_effective_weights(), self._list_servers())
        return Realised(
            shares, (f"the weights are {self._show(backend)}", *backend.describe_limits(self._list_names()))
        )

    def _describe_value(self, value: Any) -> str:
        unknown = [f"no server {name}" for name in self._list_names() if name not in value]
        return ", ".join([show_weights(value), *unknown])

    def _show(self, backend: Backend) -> str:
        """Write the weights of the servers that the options name, for people."""
        return self._describe_value(backend.read_weights(self._list_names()))

    def _read_backend(self) -> Backend:
        """Read the servers of the backend, with their weights and states. Raises HookError."""
        name = self.options.backend
        return parse_backend(name, self._ask(f"show servers state {name}"), self._ask(f"show stat {name} 6 -1"))
