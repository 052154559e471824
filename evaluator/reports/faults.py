"""A fault as a sentence, whose parts (endpoints, instances, onset) an app or page can make links of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from evaluator.records import Fault, FaultOnset, FaultPlace, Verdict
from evaluator.wording import count_of, format_count, format_number, name_kind

MINUTES_FROM_S = 100.0
"""An onset earlier in the run is counted in seconds."""
WIDE_S = 120.0
"""An onset is "about" a time, and its range is written, if the range is longer."""
TIMES_FROM = 1.5
"""From this ratio on a response takes `1.5 times as long`, below it `40 % longer`."""
LEAST_EXPECTED = 0.5
"""Failures at a place that have to be expected from the baseline before its share is written; else it is 0 %."""
NOTHING_SHOWN = (
    "In failures and response times no endpoint, instance or time stands out:"
    " where a fault is, if there is one, is not known."
)


@dataclass(frozen=True, slots=True)
class FaultText:
    """A part of the sentence."""

    text: str
    about: Literal["endpoint", "instance", "onset", "time", "kinds", ""] = ""
    """What the text names. `kinds`: the kinds of failures. `time`: the time of an onset, which a page writes in the
    zone of its reader."""
    at: datetime | None = None
    """That time."""


def write_fault(fault: Fault) -> str:
    """Write a fault as a sentence or two, without a full stop at the end."""
    return "".join(part.text for part in list_parts(fault))


def list_faults(verdict: Verdict) -> list[str]:
    """List the sentences on the faults of a verdict; empty if none were looked for, as with a GO."""
    if verdict.faults is None:
        return []
    return [write_fault(fault) + "." for fault in verdict.faults] or [NOTHING_SHOWN]


def list_parts(fault: Fault) -> tuple[FaultText, ...]:
    """List the parts of the sentence on a fault, in their order; joined they are the sentence."""
    if fault.what == "not_known":
        text = f"What is worse on {fault.arm} is not seen in its failures or response times"
        return (FaultText(f"{text}: where and since when is not known"),)
    unknown = [
        what
        for what, is_known in (
            ("at which endpoints", fault.endpoints.scope != "not_known"),
            ("on which instances", fault.instances.scope != "not_known"),
            ("since when", fault.onset.kind != "not_known"),
        )
        if not is_known
    ]
    parts = [
        *_name_endpoints(fault),
        *_name_instances(fault),
        *_name_onset(fault.onset),
        *_write_size(fault),
    ]
    if unknown:
        parts.append(FaultText(f". Not known: {_join_names(unknown)}"))
    parts.append(FaultText(_name_others(fault)))
    return tuple(part for part in parts if part.text)


def _name_endpoints(fault: Fault) -> Iterable[FaultText]:
    """Yield the endpoints and what is wrong with them: `POST /cart fails more often`."""
    names = fault.endpoints.names
    is_single = len(names) == 1
    if names:
        for number, name in enumerate(names):
            yield FaultText(_separate(number, len(names)))
            yield FaultText(name, "endpoint")
    elif fault.endpoints.scope == "all":
        yield FaultText(f"All {format_count(fault.endpoints.count)} endpoints")
    else:
        yield FaultText("Requests")
    if fault.what == "failures":
        yield FaultText(" fails more often" if is_single else " fail more often")
    else:
        yield FaultText((" takes " if is_single else " take ") + _write_ratio(fault))


def _write_ratio(fault: Fault) -> str:
    """Write how much longer responses take than before, or than on the baseline if no time before is known."""
    ratio = fault.candidate
    than = "before" if fault.onset.kind == "step" else "on the baseline"
    if ratio is None or not math.isfinite(ratio) or ratio <= 1:
        return f"longer than {than}"
    if ratio >= TIMES_FROM:
        return f"{format_number(ratio)} times as long as {than}"
    return f"{format_number((ratio - 1) * 100)} % longer than {than}"


def _name_instances(fault: Fault) -> Iterable[FaultText]:
    """Yield the instances: ` on canary-3`, ` on all 4 instances of canary`."""
    names, count = fault.instances.names, fault.instances.count
    if fault.instances.scope == "some":
        for number, name in enumerate(names):
            yield FaultText(" on " if not number else _separate(number, len(names)))
            yield FaultText(name, "instance")
        if not all(fault.arm in name for name in names):
            yield FaultText(f" of {fault.arm}")
    elif fault.instances.scope == "all" and count == 1:
        yield FaultText(f" on the only instance of {fault.arm}")
    elif fault.instances.scope == "all":
        yield FaultText(f" on all {format_count(count)} instances of {fault.arm}")
    else:
        yield FaultText(f" on {fault.arm}")


def _name_onset(onset: FaultOnset) -> Iterable[FaultText]:
    """Yield when it began: ` since 2026-01-05 16:18 UTC (minute 8)`."""
    if onset.kind == "start":
        yield FaultText(" ")
        yield FaultText("from the start", "onset")
    elif onset.kind == "growth":
        yield FaultText(", ")
        yield FaultText("more and more from the start", "onset")
    elif onset.kind == "step" and onset.elapsed_s is None:
        yield FaultText(", beginning between ")
        minutes = [name_minute(onset.earliest_s or 0.0), name_minute(onset.latest_s or 0.0, up=True)]
        if onset.earliest is None or onset.latest is None:
            yield FaultText(f"{minutes[0]} and {minutes[1]} of each run", "onset")
        else:
            yield FaultText(_write_time(onset.earliest, onset.earliest_s), "time", onset.earliest)
            yield FaultText(" and ")
            yield FaultText(_write_time(onset.latest, onset.latest_s), "time", onset.latest)
            yield FaultText(" (")
            yield FaultText(f"{minutes[0]} to {minutes[1]}", "onset")
            yield FaultText(")")
    elif onset.kind == "step" and onset.elapsed_s is not None:
        is_wide = _is_wide(onset)
        yield FaultText(" since about " if is_wide else " since ")
        minute = name_minute(onset.elapsed_s)
        if onset.since is None:
            yield FaultText(f"{minute} of each run", "onset")
        else:
            yield FaultText(write_time(onset), "time", onset.since)
            yield FaultText(" (")
            yield FaultText(minute, "onset")
            yield FaultText(")")
        if is_wide and onset.earliest_s is not None and onset.latest_s is not None:
            yield FaultText(f", between {name_minute(onset.earliest_s)} and {name_minute(onset.latest_s, up=True)}")


def write_time(onset: FaultOnset) -> str:
    """Write the time of an onset: `2026-01-05 16:18 UTC`, with seconds if the run was short; empty without a time."""
    return "" if onset.since is None else _write_time(onset.since, onset.elapsed_s)


def _write_time(time: datetime, elapsed_s: float | None) -> str:
    """Write a time so many seconds after the start of the run."""
    is_early = (elapsed_s or 0.0) < MINUTES_FROM_S
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if is_early else f"{time:%Y-%m-%d %H:%M} UTC"


def _is_wide(onset: FaultOnset) -> bool:
    """Is the time of an onset known so little that its range is written?"""
    if onset.earliest_s is None or onset.latest_s is None:
        return False
    return onset.latest_s - onset.earliest_s > WIDE_S


def name_minute(elapsed_s: float, *, up: bool = False) -> str:
    """Name a time since the start of a run: `minute 8`, `second 45`; rounded down, or `up`."""
    if elapsed_s < MINUTES_FROM_S:
        return f"second {format_count(math.ceil(elapsed_s) if up else math.floor(elapsed_s))}"
    return f"minute {format_count(math.ceil(elapsed_s / 60) if up else math.floor(elapsed_s / 60))}"


def _write_size(fault: Fault) -> Iterable[FaultText]:
    """Yield how many fail and of which kinds: `: 5.1 % of 812 requests failed (baseline: 0.1 %), most with 503`."""
    if fault.what == "response_time":
        if fault.requests:
            yield FaultText(f": {count_of(fault.requests, 'request')}")
        return
    if fault.candidate is None or fault.baseline is None:
        return
    # A share of which not even one failure is expected at this place is none that anybody has seen.
    baseline = fault.baseline if fault.baseline * fault.requests >= LEAST_EXPECTED else 0.0
    share, usual = (f"{format_number(value * 100)} %" for value in (fault.candidate, baseline))
    yield FaultText(f": {share} of {count_of(fault.requests, 'request')} failed (baseline: {usual})")
    if fault.kinds:
        yield FaultText(", most with ")
        yield FaultText(" and ".join(dict.fromkeys(map(name_kind, fault.kinds))), "kinds")


def _name_others(fault: Fault) -> str:
    """Write which others are as on the baseline, if that is shown."""
    fine = [
        noun
        for noun, place in (("endpoints", fault.endpoints), ("instances", fault.instances))
        if place.scope == "some" and place.others_fine and _has_others(place)
    ]
    return f". Other {' and '.join(fine)} are as on the baseline" if fine else ""


def _has_others(place: FaultPlace) -> bool:
    """Are there endpoints (instances) that are not named?"""
    return place.count > len(place.names)


def _separate(number: int, count: int) -> str:
    """Write what stands before a name of several: nothing, a comma, or `and` before the last."""
    if not number:
        return ""
    return " and " if number == count - 1 else ", "


def _join_names(names: Sequence[str]) -> str:
    """Join texts by commas, the last two by `and`."""
    return "".join(_separate(number, len(names)) + name for number, name in enumerate(names))
