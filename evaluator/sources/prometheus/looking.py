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
    """Find which sets of metrics have series in the last hour, and the label by which two versions differ.

    A set has series if its first metric has some with the labels that its query names. A set whose series do not
    distinguish the versions is left out: it could not be compared. Raises SourceError.
    """
    # Times are sent in whole seconds: a series that began in the current second counts.
    end = server.latest() + timedelta(seconds=1)
    start = end - WINDOW
    metric_names = server.metric_names(start, end)
    series_by_set = {}
    for set_name, metrics in QUERY_SETS.items():
        query = str(metrics[0].get("failures") or metrics[0]["query"])  # a ratio has `failures` and `requests`
        metric = metric_name(query.replace("$selector,", "").replace("$selector", ""))
        # Labels in the conditions of the query, without those of `$selector`.
        label_names = re.findall(r"([a-z_]+)\s*[=!]~?", query.partition("{")[2])
        series = server.labels_of(metric, start, end) if metric in metric_names else []
        fitting = [labels for labels in series if all(label in labels for label in label_names)]
        if fitting:
            series_by_set[set_name] = fitting
    # The first set whose series have two versions.
    versions = next(filter(None, map(_find_versions, series_by_set.values())), None)
    if versions is None:
        return Surroundings(tuple(series_by_set), {})
    label, old, new = versions
    comparable = [
        set_name
        for set_name, series in series_by_set.items()
        if {old, new} <= {labels.get(label, "") for labels in series}
    ]
    return Surroundings(tuple(comparable), {"baseline": f'{label}="{old}"', "canary": f'{label}="{new}"'})


def _find_versions(series: Sequence[Mapping[str, str]]) -> tuple[str, str, str] | None:
    """Find the label by which two versions differ: its name, the old value and the new value; None if there is none.

    A value such as `stable` is old and one such as `canary` new; else the last two, in the order of versions, are.
    `series`: the labels of each series.
    """
    for label in LABELS:
        values = sorted({labels[label] for labels in series if labels.get(label)}, key=_to_version_key)
        if len(values) > 1:
            old = next((value for value in values if value.lower() in OLD), values[-2])
            new = next((value for value in reversed(values) if value.lower() in NEW and value != old), values[-1])
            if old != new:
                return label, old, new
    return None


def _to_version_key(version: str) -> list[tuple[int, int, str]]:
    """A key that sorts versions by their numbers: 1.9 before 1.10."""
    parts = [part for part in re.split(r"(\d+)", version) if part]
    # Each part as (whether it is a number, the number, the text): texts sort before numbers.
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]
