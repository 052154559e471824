"""Every read of the store and the policy, cached until one of them changes.

The key of each is the store's path and stamp (time and size of its files), so that a page never shows an outdated
value, and never opens the store for a value that it has already read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st

from evaluator import intents
from evaluator.calibration import CalibrationReport
from evaluator.errors import UnknownName
from evaluator.figure_data import trace_release
from evaluator.intents import Lives, PromotionCondition
from evaluator.pipeline import adopting
from evaluator.pipeline.assessing import Judged
from evaluator.pipeline.changes import ChangePair, compare_changes, list_differences
from evaluator.pipeline.comparing import (
    Difference,
    Side,
    SideComparison,
    compare_sides,
    differences,
    find_side,
    refusals,
)
from evaluator.pipeline.drawing import trace_figures
from evaluator.pipeline.hindsight import calibrate_releases, find_history, related_releases
from evaluator.pipeline.reviewing import judge_again, judge_part
from evaluator.planning import History
from evaluator.policy import Policy
from evaluator.policy.going_back import choose_policy_to_go_back
from evaluator.policy.selection import choose_policy, find_policy, path_to_name, policy_of
from evaluator.records import Comparison, Release, ReleaseSummary, Run, StoredVerdict, Verdict
from evaluator.records.rollouts import Rollout
from evaluator.reports import from_json, read_stored
from evaluator.reports.rollout import StepRequests
from evaluator.rollout.reporting import RolloutFacts, read_decisions, read_requests
from evaluator.rollout.status import RolloutStatus, read_status
from evaluator.store import Stamp, Store, stamp_of
from evaluator.store.control_file import control_path
from evaluator.store.rollouts import Rollouts
from evaluator.wording import write_command

DEFAULT_STORE = Path("evaluator.duckdb")
"""The store in the folder, where nothing names another."""
MAX_ENTRIES = 64
"""Results that the cache keeps of one function."""
CONDITIONS_TTL_S = 30.0
"""How long conditions of a promotion are shown as they were: a verdict becomes too old without any change."""
SPLITS = 4
"""How often calibration divides each stored run."""
SHORT_WAIT_S = 1.0
"""How long a part that refreshes itself waits for a writer: it has another chance soon."""
WAIT_S = 10.0
"""How long a page waits for a writer before it reports which process that is."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where the store and the policy are."""

    store: Path
    policy: Path | None

    @property
    def stamp(self) -> Stamp:
        """Time and size of the store's files: another stamp means that something was written."""
        return stamp_of(self.store)

    def command(self, release: str) -> str:
        """Write the command that judges a release by the policy that applies here."""
        return write_command(release, policy=path_to_name(self.policy))


CACHE_KEYS: dict[str | type, Callable[[Any], object]] = {
    Workspace: lambda workspace: (str(workspace.store), workspace.stamp),
    Policy: lambda policy: (policy.hash, policy.promotion.hash),
}
"""Keys of the cache: a read is repeated when the store or the policy has changed."""
CACHE_KEYS_OF_VERDICT: dict[str | type, Callable[[Any], object]] = {
    Workspace: lambda workspace: str(workspace.store),
    Verdict: lambda verdict: (verdict.release.id, str(verdict.judged_at), verdict.data_hash, verdict.policy_hash),
}
"""Keys for the data of one verdict: they do not change, whatever else is written."""
CACHE_KEYS_OF_CONDITIONS = {**CACHE_KEYS, Verdict: CACHE_KEYS_OF_VERDICT[Verdict]}


def find_workspace() -> Workspace:
    """Find store and policy as the command line does: by EVALUATOR_STORE and EVALUATOR_POLICY, else in the folder."""
    return Workspace(find_store_path(), find_policy(Path.cwd()))


def find_store_path() -> Path:
    """Find the store as the command line does: by EVALUATOR_STORE, else in the folder. It may not exist."""
    return Path(os.environ.get("EVALUATOR_STORE") or DEFAULT_STORE).absolute()


def open_store(workspace: Workspace, *, decisions_only: bool = False) -> Store:
    """Check the store and return it; no connection to its database is kept. Raises StoreError.

    If there is none, but requests were recorded next to it by hand, the store is made of them. `decisions_only`: wait
    for nothing that uses the data.
    """
    is_new = not (workspace.store.exists() or decisions_only)
    store = adopting.open_store(workspace.store, decisions_only=decisions_only, wait_s=WAIT_S)
    if is_new:
        adopting.adopt_recordings(store)
    return store


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def read_policy(workspace: Workspace, *releases: str) -> Policy:
    """Read the policy of these releases; without releases, the policy for services in general. Raises PolicyError."""
    if releases:
        return policy_of(workspace.policy, open_store(workspace, decisions_only=True), releases)
    return choose_policy(workspace.policy)


def read_policy_to_go_back(workspace: Workspace, release: str, say: Callable[[str], object]) -> Policy:
    """Read the policy for a hold or a rollback of a release. A mistake in a policy goes to `say`, and stops nothing."""
    services = [
        service.name for service in open_store(workspace, decisions_only=True).control.release(release).services
    ]
    return choose_policy_to_go_back(lambda: workspace.policy, lambda: services or [""], say)


# ------------------------------------------------------------------ all releases


@st.cache_data(max_entries=MAX_ENTRIES, show_spinner="reading the releases …", hash_funcs=CACHE_KEYS)
def read_summaries(workspace: Workspace) -> tuple[ReleaseSummary, ...]:
    """List the releases, the newest first."""
    return open_store(workspace).releases()


@st.cache_data(max_entries=8, show_spinner="reading the latest verdicts …", hash_funcs=CACHE_KEYS)
def read_latest(workspace: Workspace) -> tuple[Verdict, ...]:
    """Read the latest verdict of each release, the newest release first."""
    return tuple(read_stored(stored) for stored in open_store(workspace, decisions_only=True).control.latest_verdicts())


@st.cache_data(max_entries=8, show_spinner="reading what was done …", hash_funcs=CACHE_KEYS)
def read_lives(workspace: Workspace) -> Lives:
    """Read the lives of all releases, whatever uses the data; none if there are no decisions yet."""
    if not control_path(workspace.store).exists():
        return Lives({}, {})
    return intents.read_lives(open_store(workspace, decisions_only=True), now())


@st.cache_data(ttl=CONDITIONS_TTL_S, max_entries=MAX_ENTRIES, show_spinner=False, hash_funcs=CACHE_KEYS_OF_CONDITIONS)
def read_conditions(workspace: Workspace, policy: Policy, verdict: Verdict) -> tuple[PromotionCondition, ...]:
    """List the conditions for promoting a release now, by its newest verdict and the policy that applies to it."""
    return intents.list_conditions(open_store(workspace), policy, verdict)


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


@st.cache_data(max_entries=8, show_spinner="reading the verdicts …", hash_funcs=CACHE_KEYS)
def read_log(workspace: Workspace) -> tuple[Logged, ...]:
    """Read the newest verdicts of all releases, the newest first, each with the first of its reasons."""
    log = []
    for stored in open_store(workspace, decisions_only=True).control.verdict_log():
        # The log needs a few keys only: reading and checking whole verdicts would take long.
        plain = json.loads(stored.json)
        reasons = plain.get("reasons") or [{}]
        log.append(
            Logged(
                release=stored.release,
                word=stored.word,
                judged_at=stored.judged_at,
                why=str(reasons[0].get("text", "")),
                policy_hash=str(plain.get("policy_hash") or ""),
                data_hash=str(plain.get("data_hash") or ""),
                mode=str(plain.get("mode") or ""),
                override=stored.override or plain.get("override"),
            )
        )
    return tuple(log)


# ------------------------------------------------------------------ one release


@dataclass(frozen=True, slots=True)
class ReleaseView:
    """A release with its runs and all its verdicts, the oldest first."""

    release: Release
    runs: tuple[Run, ...]
    verdicts: tuple[StoredVerdict, ...]

    def refuse_number(self, verdict_number: str) -> UnknownName:
        """Make the error for a number that no verdict has; it lists the numbers, which count from 1."""
        return UnknownName("verdict", verdict_number, [str(known + 1) for known in range(len(self.verdicts))])


@st.cache_data(max_entries=MAX_ENTRIES, show_spinner="reading the release …", hash_funcs=CACHE_KEYS)
def read_release(workspace: Workspace, release_id: str) -> ReleaseView:
    """Read a release. Raises UnknownName."""
    store = open_store(workspace)
    release = store.control.release(release_id)
    runs: tuple[Run, ...] = ()
    with suppress(UnknownName):  # its rollout was started, and nothing has landed yet
        runs = store.data.runs(release_id)
    return ReleaseView(release, runs, store.control.verdicts(release_id))


@st.cache_data(max_entries=MAX_ENTRIES, show_spinner=False, hash_funcs=CACHE_KEYS)
def read_decided_summaries(workspace: Workspace) -> tuple[ReleaseSummary, ...]:
    """List the releases, the newest first, without counts of landed data, and whatever uses the data."""
    if not control_path(workspace.store).exists():
        return read_summaries(workspace)  # requests may have been recorded by hand, and make a store
    return open_store(workspace, decisions_only=True).control.releases()


@st.cache_data(max_entries=MAX_ENTRIES, show_spinner=False, hash_funcs=CACHE_KEYS)
def read_decided_release(workspace: Workspace, release_id: str) -> ReleaseView:
    """Read a release without its runs, whatever uses the data. Raises UnknownName."""
    control = open_store(workspace, decisions_only=True).control
    return ReleaseView(control.release(release_id), (), control.verdicts(release_id))


def read_past_verdict(view: ReleaseView, verdict_number: int | None) -> Verdict | None:
    """Read a verdict of a release by its place in the history, from 0 for the oldest; None: the latest.

    Returns `None` if the release was not judged yet. Raises UnknownName for a number that no verdict has.
    """
    if not view.verdicts:
        return None
    if verdict_number is not None and not 0 <= verdict_number < len(view.verdicts):
        raise view.refuse_number(str(verdict_number))
    stored = view.verdicts[-1 if verdict_number is None else verdict_number]
    verdict = _parse_verdict(stored.json)
    return replace(verdict, override=stored.override) if stored.override else verdict


# A verdict is large and never changed: it is shared, not copied for every reader.
@st.cache_resource(max_entries=MAX_ENTRIES, show_spinner=False)
def _parse_verdict(text: str) -> Verdict:
    """Read the JSON of a verdict; cached, because checking it takes a while."""
    return from_json(text, "the stored verdict")


@st.cache_data(max_entries=MAX_ENTRIES, show_spinner="looking closer …", hash_funcs=CACHE_KEYS_OF_VERDICT)
def read_part(
    workspace: Workspace, verdict: Verdict, endpoint: str | None, from_s: float, to_s: float
) -> tuple[tuple[Comparison, ...], Mapping[str, Any], bool]:
    """Compare a part of what a verdict judged: an endpoint (`None`: all) from `from_s` to `to_s` of each run.

    Returns the comparisons, the data of their figures, and whether all the data that were judged still exist.
    """
    judged = read_judgement(workspace, verdict)
    part = judge_part(judged, verdict.release.id, endpoint=endpoint, from_s=from_s, to_s=to_s)
    comparisons = part.evidence.comparisons
    return comparisons, trace_release(part.requests, part.rulebook, comparisons), judged.data.as_judged


# Cells are large and never changed: they are shared, not copied for every reader.
@st.cache_resource(max_entries=8, show_spinner="reading the cells …", hash_funcs=CACHE_KEYS_OF_VERDICT)
def read_judgement(workspace: Workspace, verdict: Verdict) -> Judged:
    """Read the cells that a verdict judged, and judge them again by its own policy."""
    return judge_again(open_store(workspace), verdict)


@st.cache_data(max_entries=MAX_ENTRIES, show_spinner="drawing …", hash_funcs=CACHE_KEYS_OF_VERDICT)
def read_figures(workspace: Workspace, verdict: Verdict, *, newest: bool) -> Mapping[str, Any]:
    """Return the data of the figures of a verdict: those in the store, or computed from the cells that it judged.

    `newest`: is it the latest verdict of its release? Only that one has figures in the store.
    """
    store = open_store(workspace)
    stored_figures = store.control.figures(verdict.release.id) if newest else None
    if stored_figures:
        figures: Mapping[str, Any] = json.loads(stored_figures)
        return figures
    judged = read_judgement(workspace, verdict)
    return trace_figures(store, verdict.release, judged.data, judged.requests, judged.rulebook, judged.evidence)


# ------------------------------------------------------------------ rollouts


@dataclass(frozen=True, slots=True)
class StoredRollouts:
    """The rollouts of a store, the oldest first."""

    all: tuple[Rollout, ...] = ()
    running: tuple[Rollout, ...] = ()
    """Those that have not ended."""

    def of(self, release_id: str) -> tuple[Rollout, ...]:
        """Those of one release."""
        return tuple(rollout for rollout in self.all if rollout.release == release_id)


@st.cache_data(max_entries=MAX_ENTRIES, show_spinner=False, hash_funcs=CACHE_KEYS)
def read_rollouts(workspace: Workspace) -> StoredRollouts:
    """Read the rollouts of the store; none if there are no decisions yet."""
    if not control_path(workspace.store).exists():
        return StoredRollouts()
    rollouts = Rollouts(open_store(workspace, decisions_only=True).control.file)
    return StoredRollouts(rollouts.rollouts(), rollouts.find_running())


def read_rollout_status(workspace: Workspace, rollout: Rollout) -> RolloutStatus:
    """Read how a rollout stands. It is never cached: guard and driver change without the store."""
    return read_status(open_store(workspace, decisions_only=True), rollout)


@st.cache_data(
    max_entries=MAX_ENTRIES, show_spinner=False, hash_funcs={**CACHE_KEYS, Rollout: lambda rollout: rollout.id}
)
def read_rollout_facts(workspace: Workspace, rollout: Rollout) -> RolloutFacts:
    """Read what the decisions have of a rollout: all but requests. Raises InputError for another version's verdict."""
    return read_decisions(open_store(workspace, decisions_only=True), rollout)


@st.cache_data(
    max_entries=MAX_ENTRIES, show_spinner=False, hash_funcs={**CACHE_KEYS, Rollout: lambda rollout: rollout.id}
)
def read_rollout_requests(workspace: Workspace, rollout: Rollout) -> tuple[tuple[StepRequests, ...], int]:
    """Count the requests of users in a rollout, as `read_requests`. Raises StoreBusy soon: pages refresh themselves."""
    return read_requests(adopting.open_store(workspace.store, wait_s=SHORT_WAIT_S), rollout)


# ------------------------------------------------------------------ two of them


class ChosenSide(NamedTuple):
    """What the reader chose as one side of a comparison."""

    release: str
    run: str
    """Id of a run, or `latest`: the newest runs."""
    arm: str


@dataclass(frozen=True, slots=True)
class SidePair:
    """Two sides with their fingerprints and their comparison."""

    first: Side
    second: Side
    differences: tuple[Difference, ...]
    compared: SideComparison | None
    """`None`: their fingerprints forbid a comparison."""


@st.cache_data(max_entries=8, show_spinner="comparing …", hash_funcs=CACHE_KEYS)
def read_comparison(workspace: Workspace, policy: Policy, first: ChosenSide, second: ChosenSide) -> SidePair:
    """Compare two sides if the fingerprints of their data allow it; if not, `compared` of the result is None."""
    store = open_store(workspace)
    first_side = find_side(store, first.release, first.run, first.arm)
    second_side = find_side(store, second.release, second.run, second.arm)
    fingerprint_differences = differences(first_side, second_side)
    compared = None if refusals(fingerprint_differences) else compare_sides(store, first_side, second_side, policy)
    return SidePair(first_side, second_side, fingerprint_differences, compared)


@st.cache_data(
    max_entries=8, show_spinner="comparing …", hash_funcs={**CACHE_KEYS, Verdict: CACHE_KEYS_OF_VERDICT[Verdict]}
)
def read_changes(
    workspace: Workspace, first: Verdict, second: Verdict, arms: tuple[str, str]
) -> tuple[tuple[ChangePair, ...], tuple[Difference, ...]]:
    """Compare the changes of two verdicts, on one candidate of each; no pairs if the tests were not comparable.

    Returns the differences of the tests as well.
    """
    rows = list_differences(open_store(workspace), first, second, arms)
    return (() if refusals(rows) else compare_changes(first, second, arms)), rows


@st.cache_data(max_entries=MAX_ENTRIES, show_spinner=False, hash_funcs=CACHE_KEYS)
def read_arms(workspace: Workspace, release_id: str) -> tuple[str, ...]:
    """Name the arms of a release, the baseline first."""
    data = open_store(workspace).data
    return data.read_cells([run.id for run in data.runs(release_id)]).arms


# ------------------------------------------------------------------ planning


@st.cache_data(max_entries=8, show_spinner="reading the history …", hash_funcs=CACHE_KEYS)
def read_plan_history(
    workspace: Workspace, policy: Policy, release_id: str | None, *, rate_per_s: float, instances: int
) -> History:
    """Read what a plan is based on: how precise the stored comparisons of a release and its service were.

    `release_id` None: an assumed service with this rate (requests a second) and number of instances, both of each arm.
    Requests that have not landed yet are not used: a page only reads the store.
    """
    store = open_store(workspace) if release_id else None
    return find_history(store, policy, release_id, rate_per_s=rate_per_s, instances=instances, land=False)


def read_calibration(workspace: Workspace, policy: Policy, release_id: str | None) -> CalibrationReport:
    """Find out how often this policy would have stopped a stored release that changed nothing.

    If there is a policy for each service (a folder of policies), it is tried on releases with the service of
    `release_id` only; otherwise on all.
    """
    has_policy_per_service = workspace.policy is not None and workspace.policy.is_dir()
    releases: tuple[str, ...] = ()  # all
    if release_id and has_policy_per_service:
        releases = related_releases(open_store(workspace), release_id)
    return _calibrate(workspace, policy, releases)


@st.cache_data(max_entries=4, show_spinner="judging identical halves of stored runs …", hash_funcs=CACHE_KEYS)
def _calibrate(workspace: Workspace, policy: Policy, releases: tuple[str, ...]) -> CalibrationReport:
    """Judge identical halves of the runs of these releases; empty: of all releases."""
    return calibrate_releases(open_store(workspace), releases, policy, splits=SPLITS, land=False)
