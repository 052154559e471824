"""Overrides of one stage of a rollout: what it is judged by, where that differs from the rest of the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluator.errors import UnknownName
from evaluator.policy.document import KeyPath

OVERRIDABLE = ("alpha", "monitoring", "warm_up", "metrics", "endpoint_scan", "instances", "health")
"""Keys of the policy that a stage may override: those by which it is judged."""

METRICS = "metrics"


def override_policy(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Put the overrides of a stage into the content of a policy.

    Values of a section replace single keys. Metrics are found by their name, and only the keys that are named change;
    one with a new name is added.

    Args:
        values: An effective policy, with all its metrics.
        overrides: Keys of `OVERRIDABLE`.
    """
    merged = {key: value for key, value in values.items() if key != "alpha_no_go"}  # the plan of a rollout sets it
    for key, value in overrides.items():
        if key == METRICS and isinstance(value, list):
            merged[key] = _override_metrics(values.get(key, []), value)
        elif isinstance(value, Mapping) and isinstance(values.get(key), Mapping):
            merged[key] = {**values[key], **value}
        else:
            merged[key] = value
    return merged


def _override_metrics(metrics: list[Any], overrides: list[Any]) -> list[Any]:
    """Put overrides into a list of metrics."""
    merged = list(metrics)
    for entry in overrides:
        position = _find_metric(metrics, entry)
        if position is None:
            merged.append(entry)
        else:
            merged[position] = {**merged[position], **entry}
    return merged


def _find_metric(metrics: list[Any], entry: Any) -> int | None:
    """Find the position of the metric that an entry overrides; `None`: it is a new one."""
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return next((n for n, metric in enumerate(metrics) if metric.get("name") == name), None)


def find_wrong_keys(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[tuple[KeyPath, str]]:
    """Find keys that a stage cannot override, and metrics that do not exist.

    Returns of each the path among the overrides, and a sentence.
    """
    wrong: list[tuple[KeyPath, str]] = []
    for key, value in overrides.items():
        if key not in OVERRIDABLE:
            wrong.append(((key,), f"a stage cannot override it; it can override {', '.join(OVERRIDABLE)}"))
        elif key == METRICS and isinstance(value, list):
            names = [metric["name"] for metric in values.get(key, [])]
            for position, entry in enumerate(value):
                is_named = isinstance(entry, Mapping) and isinstance(entry.get("name"), str)
                if not is_named:
                    wrong.append(((key, position), "name the metric: {name: latency_p95, margin: 20%}"))
                elif entry["name"] not in names and "type" not in entry:
                    wrong.append(((key, position), UnknownName("metric", entry["name"], names).message))
    return wrong


def locate_override(values: Mapping[str, Any], overrides: Mapping[str, Any], key_path: KeyPath) -> KeyPath:
    """Find where an override stands among the overrides, by its path in the policy with the overrides.

    Returns an empty path for a value that no override sets.
    """
    if not key_path or key_path[0] not in overrides:
        return ()
    if key_path[0] != METRICS or len(key_path) < 2 or not isinstance(key_path[1], int):
        return key_path
    metrics, entries = list(values.get(METRICS, [])), overrides[METRICS]
    positions = [_find_metric(metrics, entry) for entry in entries]
    # New metrics follow those of the policy, in their order.
    new = [n for n, position in enumerate(positions) if position is None]
    positions = [len(metrics) + new.index(n) if n in new else position for n, position in enumerate(positions)]
    if key_path[1] not in positions:
        return (METRICS,)
    return (METRICS, positions.index(key_path[1]), *key_path[2:])
