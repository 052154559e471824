"""Which runs of a release are judged together, and their state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from evaluator.errors import UnknownName
from evaluator.records import Release, Run, RunState
from evaluator.sources.load import is_parent_alive
from evaluator.store import Store


def service_of(release: Release) -> str:
    """Return the name of a release's service; empty if it has none, or several."""
    return release.services[0].name if len(release.services) == 1 else ""


def is_stored(store: Store, release_id: str) -> bool:
    """Is there such a release?"""
    return any(summary.release.id == release_id for summary in store.releases())


def choose_runs(runs: tuple[Run, ...], selection: str) -> tuple[Run, ...]:
    """Pick the runs to judge together from the runs of a release, the oldest first.

    `selection`: `all`, the id of a run or of a run group, or `latest`: the newest group of requests, of outcomes and of
    readings, because each of these kinds is for other metrics. Raises UnknownName for an unknown run.
    """
    if selection == "all" or not runs:
        return runs
    if selection == "latest":
        newest_group_of_kind = {run.kind: run.group for run in runs}  # a later run replaces an earlier run
        return tuple(run for run in runs if run.group in newest_group_of_kind.values())
    chosen = tuple(run for run in runs if selection in {run.id, run.group})
    if not chosen:
        raise UnknownName("run", selection, ["all", "latest", *(run.id for run in runs)])
    return chosen


def find_judged(store: Store, release_id: str, data_hash: str) -> str | None:
    """Find which runs a verdict judged, by the hash of its data.

    Returns a selection for `choose_runs`: `latest`, `all`, or the id of a group or run; `None` if these data are gone.
    """
    runs = store.data.runs(release_id)
    ids = dict.fromkeys(run_or_group for run in runs for run_or_group in (run.group, run.id))
    for selection in ["latest", "all", *ids]:
        chosen = choose_runs(runs, selection)
        if store.data.content_hash([run.id for run in chosen]) == data_hash:
            return selection
    return None


def is_live(runs: Sequence[Run]) -> bool:
    """Is any of these runs still being recorded?"""
    return any(run.state is RunState.RUNNING for run in runs)


def is_stale(runs: Sequence[Run], judged_at: datetime | None) -> bool:
    """Did data land after the verdict was given?"""
    return judged_at is not None and any(run.ended is not None and run.ended > judged_at for run in runs)


def is_series_open(store: Store, runs: Sequence[Run]) -> bool:
    """Are further replicates of the newest load still to come?

    So it is if there are fewer than planned, none has ended before its time, and the process that starts them is alive.
    """
    loads = [run for run in runs if run.source == "locust"]  # the oldest first
    if not loads or any(run.state is RunState.INCOMPLETE or run.facts.ended_early for run in loads):
        return False
    newest = loads[-1]
    replicates_begun = sum(run.group == newest.group for run in loads)
    replicates_planned = int(newest.fingerprint.get("replicates", 1))
    return replicates_begun < replicates_planned and is_parent_alive(store.data.segment_folder(newest))
