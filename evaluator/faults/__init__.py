"""Where a fault is: endpoints, instances and onset of a candidate's failures and longer response times (method B.5a).

Pure: no store, no clock. What is not shown is not named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from evaluator.assess.requests import RequestPairs
from evaluator.faults.clock import FaultClock
from evaluator.faults.course import FailureSeries, find_failure_onset, follow
from evaluator.faults.failing import model_failures
from evaluator.faults.grid import FaultGrid, build_grid
from evaluator.faults.kinds import find_kinds
from evaluator.faults.locating import (
    Place,
    find_time_onset,
    locate,
    measure_slowing,
    name_place,
)
from evaluator.faults.naming import Named
from evaluator.faults.onset import NOT_KNOWN, Onset
from evaluator.faults.scanning import LEAST_AGE_S
from evaluator.faults.slowing import model_times
from evaluator.records import (
    Comparison,
    Evidence,
    Fault,
    FaultOnset,
    FaultPlace,
    Level,
    MetricStatus,
    Role,
    VerdictWord,
)
from evaluator.stats.shaping.rare import OTHER_ENDPOINTS

__all__ = ["find_fault", "find_faults"]

LEAST_OF_RUN = 1 / 3
"""A fault is in each run if its smallest size is not below this part of its largest."""
NOWHERE = FaultPlace("not_known")


def find_faults(requests: RequestPairs | None, evidence: Evidence, word: VerdictWord) -> tuple[Fault, ...] | None:
    """Find the faults of the candidates that are not shown to be within: at most one in failures, one in times of each.

    Args:
        requests: The requests as they were judged; `None`: there are none.
        evidence: The comparisons with their status, and the health findings.
        word: The verdict.

    Returns:
        The faults that are shown, and those that the verdict knows, also if no part of them is shown; empty if nothing
        is shown. `None` if no fault is looked for: the verdict is GO, there are no requests, or a health check has
        shown that the comparison means nothing.
    """
    if word is VerdictWord.GO or requests is None or not requests.panels:
        return None
    if any(finding.void and finding.level is Level.FAIL for finding in evidence.findings):
        return None  # the comparison means nothing
    faults: list[Fault] = []
    for arm in requests.panels:
        own = [row for row in evidence.comparisons if row.arm == arm and row.kind is requests.kind]
        faults += _find_faults_of_arm(requests, arm, own)
    return tuple(faults)


def _find_faults_of_arm(requests: RequestPairs, arm: str, own: Sequence[Comparison]) -> list[Fault]:
    """Find the faults of one candidate; `own`: its comparisons of the requests."""
    has_others = len(requests.panels) > 1
    if has_others and own and all(row.status is MetricStatus.PASS for row in own if row.must_be_within):
        return []  # the verdict is no GO because of another candidate
    worse = [row for row in own if row.status is MetricStatus.FAIL and row.rule.role is not Role.WATCH]
    fails = any(row.rule.metric.is_failure_rate for row in worse)
    failing = slowing = None
    grid = build_grid(requests.panels[arm])
    if grid is not None:
        failing = find_failing(requests, arm, grid, given=fails)
    # A quantile counts failures as endless times: where more fail, longer times have to be shown by themselves.
    is_slower = failing is None and not fails and any(row.rule.metric.is_response_time for row in worse)
    # Where instances get different loads, times differ without any fault.
    if grid is not None and not any(row.load_differs for row in own):
        slowing = find_slowing(requests, arm, grid, given=is_slower)
    if is_slower and slowing is not None and not _explains(slowing, worse):
        slowing = None
    if fails and failing is None:
        failing = _know_nothing(arm, "failures")
    if is_slower and slowing is None:
        slowing = _know_nothing(arm, "response_time")
    if worse and failing is None and slowing is None:
        return [_know_nothing(arm, "not_known")]
    # What the verdict says comes first.
    in_order = (slowing, failing) if is_slower else (failing, slowing)
    return [fault for fault in in_order if fault is not None]


def _explains(fault: Fault, worse: Sequence[Comparison]) -> bool:
    """Are times longer by so much that a verdict of "worse" can be due to it? Else only a few requests are slower.

    `worse`: the comparisons that are shown to be worse. A fault must reach half of the smallest margin of their times.
    """
    margins = [row.rule.margin for row in worse if row.rule.margin and row.rule.metric.is_response_time]
    relative = [margin.value for margin in margins if margin.relative]
    return fault.candidate is not None and fault.candidate - 1 >= min(relative, default=0.0) / 2


def _know_nothing(arm: str, what: Literal["failures", "response_time", "not_known"]) -> Fault:
    """Make the fault of which only the verdict knows."""
    return Fault(arm, what, endpoints=NOWHERE, instances=NOWHERE, onset=FaultOnset("not_known"))


def find_fault(requests: RequestPairs, arm: str, what: str, *, given: bool = False) -> Fault | None:
    """Find the fault of one candidate in its `failures` or `response_time`; `None` if none is shown."""
    panel = requests.panels.get(arm)
    grid = None if panel is None else build_grid(panel)
    if grid is None:
        return None
    find = find_failing if what == "failures" else find_slowing
    return find(requests, arm, grid, given=given)


def find_failing(requests: RequestPairs, arm: str, grid: FaultGrid, *, given: bool) -> Fault | None:
    """Find where and since when more requests of a candidate fail; `None` if nothing is shown.

    `given`: does the verdict say that more fail?
    """
    model = model_failures(grid)
    place = locate(model, given=given)
    if place is None:
        return None
    clock = FaultClock(requests, arm)

    def follow_place(place: Place) -> tuple[FailureSeries, Onset]:
        """Find the course of the failures at a place, and their onset."""
        n, failures = clock.count(place.scope, grid)
        course = follow(model, place.scope, n, failures, grid.slot_s, requests.cells.bucket_s)
        return course, find_failure_onset(course)

    course, onset = follow_place(place)
    # The onset is known better now, and with it the place.
    named = name_place(model, place.since(onset, grid.slot_s, grid.slots))
    if not place.is_same(named):
        course, onset = follow_place(named)
    place = named
    if not given and _is_new(onset, course.n.size * course.bucket_s):
        return None
    if not _is_in_each_run(requests, arm, place, onset, "failures"):
        onset = NOT_KNOWN
    since = course.since(onset)
    counted = float(course.n[since].sum())
    endpoints, instances = (
        _name_place(place.endpoints, grid.endpoints),
        _name_place(place.instances, grid.instances),
    )
    return Fault(
        arm,
        "failures",
        endpoints=endpoints,
        instances=instances,
        onset=clock.date(onset),
        requests=int(counted),
        baseline=float(course.expected[since].sum() / counted) if counted else None,
        candidate=float(course.failures[since].sum() / counted) if counted else None,
        kinds=find_kinds(requests.cells, arm, endpoints.names or None, instances.names or None),
    )


def find_slowing(requests: RequestPairs, arm: str, grid: FaultGrid, *, given: bool) -> Fault | None:
    """Find where and since when the requests of a candidate take longer; `None` if nothing is shown.

    `given`: does the verdict say that they take longer?
    """
    model = model_times(grid, requests.rulebook.prior.sd_latency)
    place = locate(model, given=given)
    if place is None:
        return None
    clock = FaultClock(requests, arm)
    onset = find_time_onset(model, place.scope, grid.slot_s)
    # The onset is known better now, and with it the place.
    named = name_place(model, place.since(onset, grid.slot_s, grid.slots))
    if not place.is_same(named):
        onset = find_time_onset(model, named.scope, grid.slot_s)
    place = named
    if not given and _is_new(onset, grid.slots * grid.slot_s):
        return None
    if not _is_in_each_run(requests, arm, place, onset, "response_time"):
        onset = NOT_KNOWN
    first = int((onset.elapsed_s or 0.0) // requests.cells.bucket_s)
    return Fault(
        arm,
        "response_time",
        endpoints=_name_place(place.endpoints, grid.endpoints),
        instances=_name_place(place.instances, grid.instances),
        onset=clock.date(onset),
        requests=int(clock.count(place.scope, grid)[0][first:].sum()),
        candidate=measure_slowing(model, place.scope, onset, grid.slot_s),
    )


def _is_new(onset: Onset, seconds: float) -> bool:
    """Has a fault begun so shortly before the end, after `seconds`, that it may be a disturbance that passes?"""
    return onset.kind == "step" and (onset.elapsed_s or 0.0) > seconds - LEAST_AGE_S


def _is_in_each_run(
    requests: RequestPairs, arm: str, place: Place, onset: Onset, what: Literal["failures", "response_time"]
) -> bool:
    """Is a fault in every run, from its onset on? Runs lie upon each other: else the onset is of some of them only."""
    panel = requests.panels[arm]
    if panel.runs.size < 2:
        return True
    sizes = []
    for run in panel.runs.tolist():
        grid = build_grid(panel, run)
        if grid is None:
            return False
        scope = place.since(onset, grid.slot_s, grid.slots)
        if what == "failures":
            sizes.append(model_failures(grid).measure(scope))
        else:
            ratio = measure_slowing(model_times(grid, requests.rulebook.prior.sd_latency), scope, onset, grid.slot_s)
            sizes.append(math.log(ratio) if ratio else 0.0)
    return min(sizes) >= LEAST_OF_RUN * max(sizes)


def _name_place(named: Named, names: Sequence[str]) -> FaultPlace:
    """Name the endpoints or instances that are shown; a single one is named also if it is all there is.

    Rare endpoints that are judged together have no name: it is not known which of them it is.
    """
    chosen = tuple(name for name, is_member in zip(names, named.members, strict=True) if is_member)
    if OTHER_ENDPOINTS in chosen and named.scope == "some":
        return FaultPlace("not_known", count=len(names))
    is_named = named.scope == "some" or (named.scope == "all" and len(names) == 1)
    return FaultPlace(named.scope, chosen if is_named else (), len(names), named.others_fine)
