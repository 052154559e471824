"""Share the requests of a Gateway API HTTPRoute between services, by the weights of its references.

Schema: `gateway.networking.k8s.io/v1 HTTPRoute` (kubernetes-sigs/gateway-api, config/crd/standard). A service that is
to get requests must have a ready endpoint (`discovery.k8s.io/v1 EndpointSlice`): the gateway sends it its share anyway.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from evaluator.errors import HookError
from evaluator.hooks.base import HookContext
from evaluator.hooks.kubernetes_api import Json, KubernetesHook, KubernetesOptions
from evaluator.hooks.kubernetes_routes import (
    RuleWeights,
    describe_limits,
    has_ready_endpoint,
    list_services_with_traffic,
    read_all_weights,
    read_weights,
    restore_weights,
    show_rule_weights,
    sum_weights,
)
from evaluator.hooks.network import MaybeSent
from evaluator.hooks.router import Applied, Realised, Router, describe_drift, show_share, show_shares
from evaluator.hooks.weights import find_weights, moves_back, sum_shares

MOST_WEIGHT, MOST_WEIGHT_OF_MANY = 1000, 1_000_000
"""Largest weight that is written, and where a reference would get none otherwise: the API takes no larger ones."""


class KubernetesRouter(KubernetesHook, Router[KubernetesOptions]):
    """Weights of the services of a route. The state is `RuleWeights`."""

    api, plural = "gateway.networking.k8s.io/v1", "httproutes"

    @property
    def _services(self) -> Mapping[str, Sequence[str]]:
        """Arm → its services."""
        return self.options.route.services if self.options.route else {}

    def _list_names(self) -> list[str]:
        """List the services of all arms."""
        return [name for names in self._services.values() for name in names]

    def arms(self) -> tuple[str, ...]:
        """Return the arms of the option `services`."""
        return tuple(self._services)

    def _list_requested(self) -> Mapping[str, float] | None:
        return self.options.route.shares if self.options.route else None

    def _describe_router(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - its options have no words
        return f"the HTTPRoute {self._where}"

    def _test_router(self) -> list[str]:
        """Check that the route exists and has the services; changes nothing. Raises HookError."""
        resource = self._get_object()
        weights = show_rule_weights(read_weights(resource, self._list_names()))
        description = f"{self._where} exists, at version {resource['metadata']['resourceVersion']}, with {weights}"
        return [description, *describe_limits(resource, self._list_names())]

    def _read_state(self, words: Mapping[str, str]) -> RuleWeights:  # noqa: ARG002 - its options have no words
        """Read the weights by rule and reference. Raises HookError."""
        return read_weights(self._get_object(), self._list_names())

    def _check_state(self, state: Any) -> RuleWeights:
        if not isinstance(state, dict):
            raise HookError("there is no earlier state to restore", hint="it is kept when the hook is executed")
        return state

    def _describe_value(self, value: Any) -> str:
        return show_rule_weights(value)

    def _to_shares(self, state: RuleWeights) -> dict[str, float]:
        """Return arm → share, which is the same in all rules. Raises HookError if they differ."""
        return _agree({index: self._sum_rule(entry["weights"]) for index, entry in state.items()})

    def _sum_rule(self, weights: Mapping[str, int]) -> dict[str, float]:
        """Sum the weights of a rule (label → weight) to arm → share."""
        by_service: Mapping[str, float] = sum_weights(weights, self._list_names())
        return sum_shares(by_service, self._services)

    def _measure(self, words: Mapping[str, str]) -> Realised:  # noqa: ARG002 - as above
        """Read the shares by the weights of all references of the rules, also of those of no arm."""
        resource, names = self._get_object(), self._list_names()
        shares = {}
        for index, entry in read_weights(resource, names).items():
            total = sum(entry["weights"].values())
            part = total / (read_all_weights(resource, int(index)) or 1)
            shares[index] = {arm: share * part for arm, share in self._sum_rule(entry["weights"]).items()}
        return Realised(_agree(shares), tuple(describe_limits(resource, names)))

    def _moves_back(self) -> bool:
        """Whether the shares of a hold only take requests from candidates, in each rule. Raises HookError."""
        rules = read_weights(self._get_object(), self._list_names()).values()
        shares = self.get_shares("hold")
        return all(moves_back(shares, self._sum_rule(rule["weights"])) for rule in rules)

    def _plan(self, shares: Mapping[str, float], words: Mapping[str, str], *, back: bool) -> RuleWeights:  # noqa: ARG002
        """Find the weights by which each arm has its share in each rule. Raises HookError unless `back`.

        Several references of a rule to one arm share its weight in the ratio that they have.
        """
        current = read_weights(self._get_object(), self._list_names())
        arm_by_service = {service: arm for arm, names in self._services.items() for service in names}
        target: RuleWeights = {}
        for index, entry in current.items():
            own: dict[str, dict[str, int]] = {arm: {} for arm in self._services}
            for label, weight in entry["weights"].items():
                own[arm_by_service[label.partition(" ")[0].partition(":")[0]]][label] = weight
            weights = find_weights(own, shares, MOST_WEIGHT, MOST_WEIGHT_OF_MANY)
            for arm, share in shares.items():
                if share and not any(weights[label] for label in own[arm]):
                    raise HookError(
                        f"{arm} cannot get {show_share(share)}: it is too small", hint="give it a larger share"
                    )
            target[index] = {"matches": entry["matches"], "weights": weights}
        if not back and (unready := self._list_unready(list_services_with_traffic(target, self._list_names()))):
            raise HookError("; ".join(unready), hint="start its pods, and check their readiness")
        return target

    def _apply(self, state: RuleWeights, words: Mapping[str, str], *, back: bool) -> Applied:  # noqa: ARG002
        """Patch the weights of the route, unless they are set already. Raises HookError, MaybeSent.

        What the route does not have any more, and services without ready endpoints, are missing on the way back.
        """
        resource = self._get_object()
        target, problems = restore_weights(resource, state, self._list_names())
        if problems and (not back or target == resource):
            raise HookError("; ".join(problems), hint="set the weights by hand")
        self._change_route(resource, target)
        if not back:
            return Applied()
        try:
            current = read_weights(self._get_object(), self._list_names())
            unready = self._list_unready(list_services_with_traffic(current, self._list_names()))
        except HookError as error:  # the weights are set all the same
            return Applied(tuple(problems), (f"not known whether its services can serve: {error.message}",))
        return Applied((*problems, *unready))

    def write_by_hand(self, context: HookContext) -> list[str]:
        """Write lines for a shell that set the shares of the action, also while the API does not answer."""
        try:
            return super().write_by_hand(context)
        except HookError:
            equal = {arm: dict.fromkeys(names, 1) for arm, names in self._services.items()}
            weights = find_weights(equal, self.get_shares(context.action), MOST_WEIGHT)
            return self._write_weights_by_hand([("", weights)])

    def _write_state_by_hand(self, state: RuleWeights, words: Mapping[str, str]) -> list[str]:  # noqa: ARG002
        """Write the line that sets the weights of the route."""
        return self._write_weights_by_hand([(index, entry["weights"]) for index, entry in state.items()])

    def _write_weights_by_hand(self, rules: Sequence[tuple[str, Mapping[str, int]]]) -> list[str]:
        """Write the line that sets weights of references of the route.

        `rules`: index of a rule (empty: all rules) and weight by label, as `RuleWeights` has it.
        """
        changes = []
        for index, weights in rules:
            for label, weight in weights.items():
                named, _, number = label.partition(" #")
                service, _, port = named.partition(":")
                namespace, _, name = service.rpartition("/")
                conditions = [f".name == {json.dumps(name)}"]
                conditions += [f".namespace == {json.dumps(namespace)}"] if namespace else []
                conditions += [f".port == {int(port)}"] if port else []
                rule = f"[{int(index)}]" if index else "[]"
                references = f".spec.rules{rule}.backendRefs[] | select({' and '.join(conditions)})"
                if not index:
                    changes.append(f"({references} | .weight) = {int(weight)}")
                    continue
                # Of several references that are alike, the one with the number of the label.
                missing = json.dumps(f"rule {index} has no {label}")
                place = f"[path({references})][{int(number) - 1 if number else 0}] // error({missing})"
                changes.append(f'setpath(({place}) + ["weight"]; {int(weight)})')
        jq = shlex.quote(" | ".join(changes))
        return [f"{self._kubectl} get httproute {self._name} -o json | jq {jq} | {self._kubectl} replace -f -"]

    def _change_route(self, resource: Json, target: Json) -> None:
        """Patch the weights of a route, unless they are set already; `target` is `resource` with the new weights.

        Raises HookError; MaybeSent if the API answers with other weights.
        """
        names = self._list_names()
        expected = read_weights(target, names)
        if expected == read_weights(resource, names):
            return
        patched = self._patch(resource, {"spec": {"rules": target["spec"]["rules"]}})
        try:
            current = read_weights(patched, names)
        except HookError as error:
            raise MaybeSent(f"the API accepted the weights, and answered with another route: {error}") from None
        if current != expected:
            raise MaybeSent(f"the API accepted the weights, and answered with {show_rule_weights(current)}")

    def _list_unready(self, services: Sequence[str]) -> list[str]:
        """List those of the services that have no ready endpoint, as sentences. Raises HookError."""
        return [f"the service {service} has no ready endpoint" for service in services if not self._is_ready(service)]

    def _is_ready(self, service: str) -> bool:
        """Has a service (NAME or NAMESPACE/NAME) an endpoint that takes requests? Raises HookError."""
        namespace, _, name = service.rpartition("/")
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace or self.options.namespace}/endpointslices"
        query = {"labelSelector": f"kubernetes.io/service-name={name}", "limit": "100"}
        while True:  # a large service has its endpoints on several pages
            page = self._ask("GET", f"{path}?{urlencode(query, quote_via=quote)}")
            if has_ready_endpoint(page):
                return True
            following = (page.get("metadata") or {}).get("continue")
            if not following or following == query.get("continue"):
                return False
            query["continue"] = str(following)


def _agree(shares: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the shares (arm → share) that all rules have (index → arm → share). Raises HookError if they differ."""
    first = next(iter(shares.values()), {})
    for index, of_rule in shares.items():
        if describe_drift(first, of_rule):
            raise HookError(
                f"the rules of the route share differently: rule {next(iter(shares))} has {show_shares(first)}, "
                f"rule {index} has {show_shares(of_rule)}",
                hint="set the shares to give all rules the same",
            )
    return dict(first)
