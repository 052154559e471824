"""Every read of the store and the policy, kept as long as neither changes.

The key of each is where the store is and its stamp (time and size of its files), so that a page never shows what is no
longer so, and never opens the store for what it has read already.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import streamlit as st

from evaluator.calibration import CalibrationReport
from evaluator.errors import UnknownName
from evaluator.pipeline.assessing import Judged
from evaluator.pipeline.comparing import (
    Compared,
    Difference,
    Side,
    compare_sides,
    differences,
    find_side,
    refusals,
)
from evaluator.pipeline.drawing import trace_figures
from evaluator.pipeline.hindsight import calibrate_releases, find_history, related_releases
from evaluator.pipeline.reviewing import judge_again
from evaluator.planning import History
from evaluator.policy import Policy
from evaluator.policy.selection import choose_policy, find_policy, policy_of
from evaluator.records import Learnt, Release, ReleaseSummary, Run, StoredVerdict, Verdict
from evaluator.reports import from_json, read_stored
from evaluator.store import Stamp, Store, stamp_of

__all__ = [
    "Confronted",
    "Logged",
    "PastVerdict",
    "Place",
    "ReleaseView",
    "find_place",
    "now",
    "read_arms",
    "read_calibration",
    "read_comparison",
    "read_figures",
    "read_judgement",
    "read_latest",
    "read_learnt",
    "read_log",
    "read_past_verdict",
    "read_plan_history",
    "read_policy",
    "read_release",
    "read_summaries",
]

MOST = 64
WAIT_S = 10.0
"""How long a page waits for a writer before it says who that is."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the store and the policy are."""

    store: Path
    policy: Path | None

    @property
    def stamp(self) -> Stamp:
        """Time and size of the store's files: another stamp means that something was written."""
        return stamp_of(self.store)


def find_place() -> Place:
    """Find store and policy as the command line does: EVALUATOR_STORE and EVALUATOR_POLICY, else in the folder."""
    store = Path(os.environ.get("EVALUATOR_STORE") or "evaluator.duckdb").absolute()
    return Place(store, find_policy(Path.cwd()))


def open_store(place: Place) -> Store:
    """Check the store and return it; no connection is kept. Raises StoreError."""
    return Store.open(place.store, wait_s=WAIT_S)


@st.cache_data(max_entries=8, show_spinner=False)
def _learnt(_place: Place, key: str, stamp: Stamp, service: str) -> Learnt | None:
    del key, stamp
    return open_store(_place).control.learnt(service)


def read_learnt(place: Place, service: str) -> Learnt | None:
    """Read what calibration learnt of a service; the judge uses it beside the policy."""
    return _learnt(place, str(place.store), place.stamp, service)


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def read_policy(place: Place, *releases: str) -> Policy:
    """Read the policy that applies to these releases, none: where no release is meant. Raises PolicyError."""
    return policy_of(place.policy, open_store(place), releases) if releases else choose_policy(place.policy)


# ------------------------------------------------------------------ all releases


@st.cache_data(max_entries=MOST, show_spinner="reading the releases …")
def _summaries(_place: Place, key: str, stamp: Stamp) -> tuple[ReleaseSummary, ...]:
    del key, stamp
    return open_store(_place).releases()


def read_summaries(place: Place) -> tuple[ReleaseSummary, ...]:
    """List the releases, the newest first."""
    return _summaries(place, str(place.store), place.stamp)


@st.cache_data(max_entries=8, show_spinner="reading the latest verdicts …")
def _latest(_place: Place, key: str, stamp: Stamp) -> tuple[Verdict, ...]:
    del key, stamp
    return tuple(read_stored(one) for one in open_store(_place).control.latest_verdicts())


def read_latest(place: Place) -> tuple[Verdict, ...]:
    """Read the latest verdict of each release, the newest release first."""
    return _latest(place, str(place.store), place.stamp)


@st.cache_data(max_entries=8, show_spinner="reading what was judged …")
def _log(_place: Place, key: str, stamp: Stamp) -> tuple[Logged, ...]:
    del key, stamp
    return tuple(_sum_up(one) for one in open_store(_place).control.verdict_log())


def _sum_up(one: StoredVerdict) -> Logged:
    plain = json.loads(one.json)
    reasons = plain.get("reasons") or [{}]
    return Logged(
        release=one.release,
        word=one.word,
        judged_at=one.judged_at,
        why=str(reasons[0].get("text", "")),
        policy_hash=str(plain.get("policy_hash") or ""),
        data_hash=str(plain.get("data_hash") or ""),
        mode=str(plain.get("mode") or ""),
        override=one.override or plain.get("override"),
    )


def read_log(place: Place) -> tuple[Logged, ...]:
    """Read the newest verdicts of all releases, the newest first."""
    return _log(place, str(place.store), place.stamp)


# ------------------------------------------------------------------ one release


@dataclass(frozen=True, slots=True)
class PastVerdict:
    """One verdict in the history of a release; 0 is the first."""

    number: int
    word: str
    judged_at: datetime
    json: str
    override: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Logged:
    """One verdict in the log of all releases."""

    release: str
    word: str
    judged_at: datetime
    why: str
    policy_hash: str
    data_hash: str
    mode: str
    override: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Confronted:
    """Two sides with their fingerprints, and what they come to; `None` where they must not be compared."""

    first: Side
    second: Side
    differences: tuple[Difference, ...]
    compared: Compared | None


@dataclass(frozen=True, slots=True)
class ReleaseView:
    """A release with its runs and all its verdicts, the oldest first."""

    release: Release
    runs: tuple[Run, ...]
    verdicts: tuple[PastVerdict, ...]


@st.cache_data(max_entries=MOST, show_spinner="reading the release …")
def _release(_place: Place, key: str, stamp: Stamp, release_id: str) -> ReleaseView:
    del key, stamp
    store = open_store(_place)
    past = store.control.verdicts(release_id)
    return ReleaseView(
        store.control.release(release_id),
        store.data.runs(release_id),
        tuple(PastVerdict(k, one.word, one.judged_at, one.json, one.override) for k, one in enumerate(past)),
    )


def read_release(place: Place, release_id: str) -> ReleaseView:
    """Read a release. Raises UnknownName."""
    return _release(place, str(place.store), place.stamp, release_id)


def read_past_verdict(view: ReleaseView, number: int | None) -> Verdict | None:
    """Read one verdict of a release, the latest where none is named; `None` where there is none yet."""
    if not view.verdicts:
        return None
    if number is not None and not 0 <= number < len(view.verdicts):
        raise UnknownName("verdict", str(number), [str(one.number) for one in view.verdicts])
    past = view.verdicts[-1 if number is None else number]
    verdict = _parse(past.json)
    return replace(verdict, override=past.override) if past.override else verdict


@st.cache_data(max_entries=MOST, show_spinner=False)
def _parse(text: str) -> Verdict:
    return from_json(text, "the stored verdict")


# Cells are large and never changed: they are shared, not copied for every reader.
@st.cache_resource(max_entries=8, show_spinner="reading the cells …")
def _judgement(_place: Place, _verdict: Verdict, key: str, data: str, policy: str) -> Judged:
    del key, data, policy
    return judge_again(open_store(_place), _verdict)


def read_judgement(place: Place, verdict: Verdict) -> Judged:
    """Read the cells that a verdict judged, and judge them again by its own policy."""
    key = f"{place.store} {verdict.release.id}"
    return _judgement(place, verdict, key, verdict.data_hash, verdict.policy_hash)


@st.cache_data(max_entries=MOST, show_spinner="drawing …")
def _figures(_place: Place, _verdict: Verdict, key: str, data: str, policy: str, *, newest: bool) -> Mapping[str, Any]:
    del key, data, policy
    store = open_store(_place)
    kept = store.control.figures(_verdict.release.id) if newest else None
    if kept:
        found: Mapping[str, Any] = json.loads(kept)
        return found
    judged = read_judgement(_place, _verdict)
    return trace_figures(store, _verdict.release, judged.data, judged.requests, judged.rulebook, judged.evidence)


def read_figures(place: Place, verdict: Verdict, *, newest: bool) -> Mapping[str, Any]:
    """Numbers behind the figures of a verdict: those kept with it, or computed from its cells."""
    key = f"{place.store} {verdict.release.id} {verdict.judged_at}"
    return _figures(place, verdict, key, verdict.data_hash, verdict.policy_hash, newest=newest)


# ------------------------------------------------------------------ two of them


@st.cache_data(max_entries=8, show_spinner="comparing …")
def _comparison(
    _place: Place, key: str, stamp: Stamp, policy: str, first: tuple[str, str, str], second: tuple[str, str, str]
) -> Confronted:
    del key, stamp, policy
    store = open_store(_place)
    sides = find_side(store, *first), find_side(store, *second)
    rows = differences(*sides)
    found = None if refusals(rows) else compare_sides(store, *sides, read_policy(_place, second[0]))
    return Confronted(sides[0], sides[1], rows, found)


def read_comparison(
    place: Place, policy: Policy, first: tuple[str, str, str], second: tuple[str, str, str]
) -> Confronted:
    """Two sides (release, run, arm) against each other, where their fingerprints allow it."""
    return _comparison(place, str(place.store), place.stamp, policy.hash, first, second)


@st.cache_data(max_entries=MOST, show_spinner=False)
def _arms(_place: Place, key: str, stamp: Stamp, release_id: str) -> tuple[str, ...]:
    del key, stamp
    store = open_store(_place)
    return store.data.read_cells([run.id for run in store.data.runs(release_id)]).arms


def read_arms(place: Place, release_id: str) -> tuple[str, ...]:
    """Name the arms of a release, the baseline first."""
    return _arms(place, str(place.store), place.stamp, release_id)


# ------------------------------------------------------------------ planning


@st.cache_data(max_entries=8, show_spinner="reading the history …")
def _history(
    _place: Place, key: str, stamp: Stamp, policy_hash: str, release_id: str | None, rate: float, instances: int
) -> History:
    del key, stamp, policy_hash
    store = open_store(_place) if release_id else None
    policy = read_policy(_place, *filter(None, [release_id]))
    return find_history(store, policy, release_id, rate_per_s=rate, instances=instances, land=False)


def read_plan_history(
    place: Place, policy: Policy, release_id: str | None, *, rate_per_s: float, instances: int
) -> History:
    """What a plan rests on: stored comparisons of a release and its service, or an assumed service."""
    stamp = place.stamp if release_id else ()
    return _history(place, str(place.store), stamp, policy.hash, release_id, rate_per_s, instances)


@st.cache_data(max_entries=4, show_spinner="judging identical halves of stored runs …")
def _calibration(
    _place: Place, key: str, stamp: Stamp, _policy: Policy, policy_hash: str, releases: tuple[str, ...], splits: int
) -> CalibrationReport:
    del key, stamp, policy_hash
    return calibrate_releases(open_store(_place), releases, _policy, splits=splits, land=False)


def read_calibration(place: Place, policy: Policy, release_id: str | None, *, splits: int = 4) -> CalibrationReport:
    """How often this policy would have stopped a stored release that changed nothing.

    A policy of one service is tried on the releases of that service: those of `release_id`'s.
    """
    names = related_releases(open_store(place), release_id) if policy.of_folder and release_id else ()
    return _calibration(place, str(place.store), place.stamp, policy, policy.hash, names, splits)
