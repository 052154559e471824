"""Weights of an HTTPRoute's references to services, and whether a service has endpoints. Pure functions of objects.

Schemas: `gateway.networking.k8s.io/v1 HTTPRoute` (a reference to another kind of object, or to a service of another
namespace, may have the same name; one service may be referred to several times, by several ports) and
`discovery.k8s.io/v1 EndpointSlice`. Services are named NAME in the namespace of the route, or NAMESPACE/NAME.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from evaluator.errors import HookError
from evaluator.hooks.weights import show_weights

Json = dict[str, Any]
RuleWeights = dict[str, dict[str, Any]]
"""Index of a rule (as text, because JSON keys are) → {"matches": what the rule matches, "weights": label → weight}.

A label names one reference of the rule: `cart-canary:8080`, and `cart-canary:8080 #2` for a second one like it.
"""


def read_weights(route: Json, services: Collection[str]) -> RuleWeights:
    """Read the weights of all references to the services, in each rule that has all of them.

    A weight that is not written is 1. Raises HookError if no rule has all services.
    """
    rules = _list_rules(route)
    weights = {
        str(index): {
            "matches": rules[index].get("matches"),
            "weights": _read_rule_weights(route, rules[index], services),
        }
        for index in _find_rules(route, services)
    }
    if not weights:
        raise HookError(
            f"no rule of the HTTPRoute has all of {', '.join(services)}", hint="check the names of the services"
        )
    return weights


def read_all_weights(route: Json, index: int) -> int:
    """Sum the weights of all references of a rule, also of those to other objects."""
    return sum(_read_weight(reference) for reference in _list_references(_list_rules(route)[index]))


def restore_weights(route: Json, earlier: RuleWeights, services: Collection[str]) -> tuple[Json, list[str]]:
    """Return a copy of a route with the `earlier` weights wherever these references still are, and what is missing.

    A rule is recognised by what it matches, because rules before it may have been added or removed.
    """
    target = copy.deepcopy(route)
    rules = _list_rules(target)
    problems = []
    for index, entry in earlier.items():
        candidates = [number for number, rule in enumerate(rules) if rule.get("matches") == entry.get("matches")]
        # Of several rules that match the same, the one at the same place.
        candidates.sort(key=lambda number: abs(number - int(index)))
        if not candidates:
            problems.append(f"rule {index} is not there any more")
            continue
        references = _label_references(target, rules[candidates[0]], services)
        for label, weight in entry["weights"].items():
            if label in references:
                references[label]["weight"] = weight
            else:
                problems.append(f"rule {candidates[0]} has no {label} any more")
    return target, problems


def describe_limits(route: Json, services: Collection[str]) -> list[str]:
    """List where the weights of these services do not decide: rules with only some of them, and other references."""
    limits = []
    complete_rules = _find_rules(route, services)
    for index, rule in enumerate(_list_rules(route)):
        own = _label_references(route, rule, services)
        if index in complete_rules:
            others = [
                f"{reference.get('name')} {_read_weight(reference)}"
                for reference in _list_references(rule)
                if not any(reference is known for known in own.values()) and _read_weight(reference)
            ]
            if others:
                limits.append(f"rule {index} also gives traffic to {', '.join(others)}")
        elif own:
            limits.append(f"rule {index} stays as it is: it has only {', '.join(own)}")
    return limits


def show_rule_weights(weights: RuleWeights) -> str:
    """Write weights for people: `rule 0: cart-baseline:8080 0, cart-canary:8080 100`."""
    return "; ".join(f"rule {index}: {show_weights(entry['weights'])}" for index, entry in weights.items())


def sum_weights(weights: Mapping[str, int], services: Collection[str]) -> dict[str, int]:
    """Sum the weights of a rule's references (label → weight) by service: service → weight."""
    sums = dict.fromkeys(services, 0)
    for label, weight in weights.items():
        sums[label.partition(" ")[0].partition(":")[0]] += weight
    return sums


def list_services_with_traffic(weights: RuleWeights, services: Collection[str]) -> list[str]:
    """List the services that have a weight above 0 in any rule."""
    labels = {label for entry in weights.values() for label, weight in entry["weights"].items() if weight}
    with_traffic = {label.partition(" ")[0].partition(":")[0] for label in labels}
    return [service for service in services if service in with_traffic]


def has_ready_endpoint(slices: Json) -> bool:
    """Does a list of EndpointSlices have an endpoint that takes requests? Raises HookError for another object.

    An endpoint whose readiness is not known is ready, by the definition of the field.
    """
    try:
        return any(
            endpoint.get("addresses") and (endpoint.get("conditions") or {}).get("ready") is not False
            for endpoint_slice in slices["items"]
            for endpoint in endpoint_slice.get("endpoints") or []
        )
    except (KeyError, TypeError, AttributeError):
        raise HookError("the API's list of EndpointSlices cannot be read") from None


# ------------------------------------------------------------------ rules and references


def _list_rules(route: Json) -> list[Json]:
    """Return the rules of a route."""
    return (route.get("spec") or {}).get("rules") or []


def _list_references(rule: Json) -> list[Json]:
    """Return all references of a rule: to services, and to other kinds of objects."""
    return rule.get("backendRefs") or []


def _get_namespace(route: Json) -> str:
    """Return the namespace of a route: its references are to services there, unless they name another one."""
    return str(route["metadata"].get("namespace") or "default")


def _read_weight(reference: Json) -> int:
    """Return the weight of a reference; one that is not written is 1."""
    weight = reference.get("weight")
    return 1 if weight is None else int(weight)


def _refers_to(reference: Json, service: str, route_namespace: str) -> bool:
    """Is it a reference to this service (NAME or NAMESPACE/NAME), and not to another kind of object of that name?"""
    if (reference.get("kind") or "Service") != "Service" or reference.get("group"):
        return False
    namespace, _, name = service.rpartition("/")
    return reference.get("name") == name and (reference.get("namespace") or route_namespace) == (
        namespace or route_namespace
    )


def _find_rules(route: Json, services: Collection[str]) -> list[int]:
    """Find the indices of the rules that refer to each of the services."""
    namespace = _get_namespace(route)
    return [
        index
        for index, rule in enumerate(_list_rules(route))
        if all(
            any(_refers_to(reference, service, namespace) for reference in _list_references(rule))
            for service in services
        )
    ]


def _label_references(route: Json, rule: Json, services: Collection[str]) -> dict[str, Json]:
    """Map label → reference, for the references of a rule to these services, in their order."""
    namespace = _get_namespace(route)
    labelled: dict[str, Json] = {}
    for reference, service in _pair_references(rule, services, namespace):
        port = f":{reference['port']}" if reference.get("port") else ""
        label, number = f"{service}{port}", 1
        while label in labelled:
            number += 1
            label = f"{service}{port} #{number}"
        labelled[label] = reference
    return labelled


def _pair_references(rule: Json, services: Collection[str], namespace: str) -> Iterator[tuple[Json, str]]:
    """Yield each reference of a rule to one of the services, with that service."""
    for reference in _list_references(rule):
        for service in services:
            if _refers_to(reference, service, namespace):
                yield reference, service
                break


def _read_rule_weights(route: Json, rule: Json, services: Collection[str]) -> dict[str, int]:
    """Return label → weight of the references of a rule to these services."""
    return {label: _read_weight(reference) for label, reference in _label_references(route, rule, services).items()}
