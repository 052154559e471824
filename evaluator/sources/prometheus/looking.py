"""What a metrics server has of a service, found without asking a user."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from evaluator.records import metric_name
from evaluator.sources.prometheus.client import Prometheus
from evaluator.sources.prometheus.sets import QUERY_SETS

LABELS = ("version", "app_version", "release", "revision", "track", "arm", "color", "deployment", "pod_template_hash")
"""Labels that usually distinguish versions, the likeliest first."""

OLD = ("baseline", "stable", "primary", "blue", "control", "old")
NEW = ("canary", "candidate", "preview", "green", "new")
WINDOW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Ready-made sets that the server has series for, and selectors of two versions; empty where none were found."""

    sets: tuple[str, ...]
    selectors: Mapping[str, str]


def look_around(server: Prometheus) -> Surroundings:
    """Find which sets have series in the last hour, and the label by which two versions differ. Raises SourceError.

    A set has series where its first metric has some with the labels that its query names. A set whose series do not
    distinguish the versions is left out: it could not be compared.
    """
    # Times are sent in whole seconds: a series that began in this one counts.
    end = server.latest() + timedelta(seconds=1)
    window = end - WINDOW, end
    metric_names = server.metric_names(*window)
    sets = {}
    for name, metrics in QUERY_SETS.items():
        text = str(metrics[0].get("failures") or metrics[0]["query"])
        metric = metric_name(text.replace("$selector,", "").replace("$selector", ""))
        label_names = re.findall(r"([a-z_]+)\s*[=!]~?", text.partition("{")[2])
        series = server.labels_of(metric, *window) if metric in metric_names else []
        if fitting := [labels for labels in series if all(label in labels for label in label_names)]:
            sets[name] = fitting
    label, old, new = next((versions for series in sets.values() if (versions := _find_versions(series))), ("", "", ""))
    if not label:
        return Surroundings(tuple(sets), {})
    both = {old, new}
    usable = [name for name, series in sets.items() if both <= {labels.get(label, "") for labels in series}]
    return Surroundings(tuple(usable), {"baseline": f'{label}="{old}"', "canary": f'{label}="{new}"'})


def _find_versions(series: Sequence[Mapping[str, str]]) -> tuple[str, str, str] | None:
    """The label by which versions differ, the old value and the new one."""
    for label in LABELS:
        values = sorted({labels[label] for labels in series if labels.get(label)}, key=_age)
        if len(values) > 1:
            old = next((value for value in values if value.lower() in OLD), values[-2])
            new = next((value for value in reversed(values) if value.lower() in NEW and value != old), values[-1])
            if old != new:
                return label, old, new
    return None


def _age(value: str) -> list[tuple[int, int, str]]:
    """Sort 1.9 before 1.10."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", value) if part]
