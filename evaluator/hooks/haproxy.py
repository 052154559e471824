"""Share requests by the weights of HAProxy's servers, through its runtime API, and read them back.

https://docs.haproxy.org/2.6/management.html#9.3: an empty line is success, everything else is text for people. So each
answer is looked at, and what was set is read back. A weight says nothing about whether a server gets requests: servers
in maintenance, drained or down get none, so their state is looked at, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluator.errors import HookError
from evaluator.hooks.base import BaseHook, HookContext
from evaluator.hooks.by_hand import write_socat
from evaluator.hooks.haproxy_api import HaProxyOptions
from evaluator.hooks.haproxy_backend import HaProxyBackend
from evaluator.hooks.haproxy_instances import HaProxyInstances
from evaluator.hooks.haproxy_map import HaProxyMap
from evaluator.hooks.haproxy_state import Backend, explain_refused_shares, explain_refused_weights
from evaluator.hooks.network import MaybeSent
from evaluator.hooks.router import Applied, show_share
from evaluator.hooks.weights import check_earlier, find_weights, list_candidates, show_weights, sum_shares

MOST_WEIGHT = 256
"""HAProxy's largest weight."""
_CHANGE_ALGORITHM = "change the shares, or write `balance roundrobin` into HAProxy's configuration"


class HaProxy(HaProxyBackend):
    """Weights of servers, at run time: nothing is reloaded, no connection is lost. The state is server → weight."""

    @classmethod
    def choose_class(cls, options: HaProxyOptions) -> type[BaseHook[HaProxyOptions]]:
        """Return the class for weights of servers, for a map of users, or for single instances."""
        if options.instances is not None:
            return HaProxyInstances
        return cls if options.map is None else HaProxyMap

    def _check_servers(self, shares: Mapping[str, float]) -> None:
        """Raise HookError if one of the servers that are to get requests cannot serve: the others get more then."""
        names = {name: 1 for arm, names in self._list_servers().items() if shares[arm] for name in names}
        backend = self._read_backend()
        if obstacles := backend.list_obstacles(names):
            raise HookError(
                f"not every server that is to get traffic can serve it: {'; '.join(obstacles)}",
                hint=f"let it serve first: start it, or send `set server {backend.name}/SERVER state ready`",
            )

    def _plan(self, shares: Mapping[str, float], words: Mapping[str, str], *, back: bool) -> dict[str, int]:  # noqa: ARG002
        """Find the weights that give each arm its share: by the servers that can serve, each by its initial weight.

        The other servers of an arm get a weight, too, by which they serve as soon as they can. Raises HookError unless
        `back`.
        """
        backend = self._read_backend()
        if not back:
            self._check_level()
            self._check_names(backend)
            if refusal := explain_refused_shares(backend, shares):
                raise HookError(refusal, hint=_CHANGE_ALGORITHM)
        own = {
            arm: {name: backend.servers[name].initial_weight if name in backend.servers else 1 for name in names}
            for arm, names in self._list_servers().items()
        }
        serving = {arm: [name for name in names if backend.can_serve(name, enabled=back)] for arm, names in own.items()}
        for arm, share in shares.items():
            if share and not serving[arm] and not back:
                obstacles = "; ".join(backend.list_obstacles(dict.fromkeys(own[arm], 1)))
                raise HookError(
                    f"no server of {arm} can serve requests: {obstacles}",
                    hint=f"let it serve first: start it, or send `set server {backend.name}/SERVER state ready`",
                )
        counted = {arm: {name: own[arm][name] for name in names or own[arm]} for arm, names in serving.items()}
        weights = find_weights(counted, shares, MOST_WEIGHT)
        for arm, share in shares.items():
            sum_of_arm = sum(weights[name] for name in counted[arm])
            if share and not sum_of_arm:
                raise HookError(
                    f"{arm} cannot get {show_share(share)}: HAProxy's weights are whole numbers up to {MOST_WEIGHT}",
                    hint="give it a larger share",
                )
            sum_of_own = sum(counted[arm].values())
            for name in own[arm].keys() - counted[arm].keys():
                later = round(own[arm][name] * sum_of_arm / sum_of_own) if sum_of_own else sum_of_arm
                weights[name] = min(max(later, 1 if share else 0), MOST_WEIGHT)
        if not back:
            self._check_plan(backend.replace_weights(weights), shares, weights)
        return {name: weights[name] for name in self._list_names()}

    def _check_plan(self, backend: Backend, shares: Mapping[str, float], weights: Mapping[str, int]) -> None:
        """Raise HookError if the backend cannot take these weights, or if an arm would get nothing by them.

        `backend`: as it would be with the weights.
        """
        if refusal := explain_refused_weights(backend, weights):
            raise HookError(refusal, hint=_CHANGE_ALGORITHM)
        realised = sum_shares(backend.find_effective_weights(), self._list_servers())
        for arm, share in shares.items():
            if share and not realised[arm]:
                raise HookError(
                    f"{arm} would get no requests: its servers are backup servers, and others can serve",
                    hint="remove `backup` from its servers in HAProxy's configuration",
                )

    def _read_state(self, words: Mapping[str, str]) -> dict[str, int]:  # noqa: ARG002 - its options have no words
        """Read the weights of the servers that the options name: server → weight, without servers that are unknown.

        Raises HookError if all of them are unknown.
        """
        backend = self._read_backend()
        weights = backend.read_weights(self._list_names())
        if not weights:
            self._check_names(backend)
        return weights

    def _check_state(self, state: Any) -> dict[str, int]:
        return check_earlier(state)

    def _apply(self, state: Mapping[str, int], words: Mapping[str, str], *, back: bool) -> Applied:  # noqa: ARG002
        """Set weights (server → weight). Raises HookError, MaybeSent."""
        if back:
            return self._go_back(state)
        self._set_weights(state)
        return Applied()

    def write_by_hand(self, context: HookContext) -> list[str]:
        """Write lines for a shell that set the shares of the action, also while HAProxy does not answer."""
        try:
            return super().write_by_hand(context)
        except HookError:
            equal = {arm: dict.fromkeys(names, 1) for arm, names in self._list_servers().items()}
            return self._write_state_by_hand(find_weights(equal, self.get_shares(context.action), MOST_WEIGHT), {})

    def _write_state_by_hand(self, state: Mapping[str, int], words: Mapping[str, str]) -> list[str]:  # noqa: ARG002
        """Write the lines that set weights (server → weight), the largest first, and show the outcome."""
        backend, commands = self.options.backend, list[str]()
        for server, weight in sorted(state.items(), key=lambda item: -item[1]):
            if weight:
                commands.append(f"set server {backend}/{server} state ready")
            commands.append(f"set server {backend}/{server} weight {weight}")
        commands.append(f"show servers state {backend}")
        return [write_socat(line, socket=self.options.socket, address=self.options.address) for line in commands]

    # -------------------------------------------------------------- forwards: all or nothing

    def _set_weights(self, weights: Mapping[str, int]) -> None:
        """Set all weights (server → weight) or none: if one is refused, those that were set are put back.

        Raises HookError if all weights are as before, and MaybeSent otherwise.
        """
        backend = self._read_backend()
        earlier = backend.read_weights(weights)
        problem = self._send_weights(backend, weights)
        backend = self._read_again([problem] if problem else [])
        current = backend.read_weights(weights)
        if not problem and current != weights:
            problem = f"the weights are {show_weights(current)} after setting them"
        names_by_arm = {
            arm: [name for name in names if weights.get(name)] for arm, names in self._list_servers().items()
        }
        for arm, names in names_by_arm.items():  # an arm broke down in this moment
            if not problem and names and not any(backend.can_serve(name) for name in names):
                problem = f"no server of {arm} can serve requests any more"
        if not problem:
            return
        if current == earlier:
            raise HookError(f"{problem}; nothing was changed: the weights are {show_weights(current)}")
        refusal = self._send_weights(backend, earlier)
        current = self._read_again([problem]).read_weights(weights)
        if current == earlier:
            raise HookError(f"{problem}; what was set was put back: the weights are {show_weights(current)}")
        description = f"{problem}; not put back: the weights are {show_weights(current)}, not {show_weights(earlier)}"
        raise MaybeSent("; ".join(filter(None, [description, refusal])))

    def _list_candidate_servers(self) -> set[str]:
        """List the servers of the arms that are candidates, by their names."""
        servers = self._list_servers()
        return {name for arm in list_candidates(servers) for name in servers[arm]}

    def _send_weights(self, backend: Backend, weights: Mapping[str, int]) -> str:
        """Set weights of servers (server → weight), one by one; stop at the first that is not accepted.

        `backend`: as it is before. Returns what was not accepted and why; empty if all were.
        """
        for server in backend.order_changes(weights, self._list_candidate_servers()):
            if problem := self._change(f"set weight {backend.name}/{server} {weights[server]}"):
                return problem
        return ""

    # -------------------------------------------------------------- back: as much as possible

    def _go_back(self, weights: Mapping[str, int]) -> Applied:
        """Set as many weights (server → weight) as possible, after enabling the servers that get more than 0.

        It is not refused because a server is down; but where all that gain are down, those that serve keep what they
        have. What is missing is returned: weights that are not set, and servers with more than 0 that cannot serve.
        Raises HookError, MaybeSent.
        """
        backend = self._read_backend()
        earlier = backend.read_weights(weights)
        targets, done = dict(weights), list[str]()
        problems = [
            f"HAProxy's backend {backend.name} has no server {name}" for name in weights if name not in backend.servers
        ]
        names = backend.order_changes({name: weights[name] for name in earlier}, self._list_candidate_servers())
        last_gain = max((place for place, name in enumerate(names) if weights[name]), default=-1)
        for name in names[: last_gain + 1]:
            if weights[name]:
                problems += self._give_traffic(backend, name, targets, done)
            elif problem := self._change(f"set weight {backend.name}/{name} 0"):
                problems.append(problem)
        losing = names[last_gain + 1 :]
        backend = self._read_again(problems)
        current = backend.read_weights(backend.servers)
        with_weight = {name for name, weight in current.items() if weight}
        serving = {name for name in with_weight if backend.can_serve(name)}
        if any(weights.values()) and (serving or with_weight) <= set(losing):
            # The servers that were to get the traffic are missing, refuse it, or are down: torn down, for example.
            problems += [f"{name} keeps {current[name]}: otherwise no request would be served" for name in losing]
            targets |= {name: current[name] for name in losing}
        else:
            problems += filter(None, (self._change(f"set weight {backend.name}/{name} 0") for name in losing))
        backend = self._read_again(problems)
        current = backend.read_weights(weights)
        problems += [
            f"{name} has the weight {weight}, not {targets[name]}"
            for name, weight in current.items()
            if weight != targets[name]
        ]
        problems += backend.list_obstacles(targets)
        return Applied(tuple(problems), tuple(done), targets)

    def _give_traffic(self, backend: Backend, name: str, targets: dict[str, int], done: list[str]) -> list[str]:
        """Enable a server and set its weight in `targets`; returns what was not accepted.

        Where that way to balance does not take this weight, the server gets that of the configuration, and `targets` is
        changed. What was done is appended to `done`, as sentences.
        """
        server, weight, problems = backend.servers[name], targets[name], list[str]()
        if server.can_be_enabled:
            problem = self._change(f"set server {backend.name}/{name} state ready")
            problems.append(problem) if problem else done.append(
                f"{name} was enabled: it {server.obstacle.replace('is', 'was', 1)}"
            )
        refusal = explain_refused_weights(backend, {name: weight})
        # Whether a hash takes other weights depends on `hash-type`, which HAProxy does not report.
        refusal = refusal or self._change(f"set weight {backend.name}/{name} {weight}")
        if not refusal:
            return problems
        if not backend.may_be_static:
            return [*problems, refusal]
        if problem := self._change(f"set weight {backend.name}/{name} {server.initial_weight}"):
            return [*problems, refusal, problem]
        targets[name] = server.initial_weight
        done.append(f"{name} gets {server.initial_weight} instead of {weight}, because of {backend.algorithm}")
        return problems

    def _read_again(self, problems: Sequence[str]) -> Backend:
        """Read the backend after weights were set, with these problems. Raises MaybeSent if that is not possible."""
        try:
            return self._read_backend()
        except HookError as error:
            raise MaybeSent("; ".join([*problems, f"the weights cannot be read: {error.message}"])) from None
