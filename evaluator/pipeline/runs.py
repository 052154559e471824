"""Which runs of a release are judged together, and their state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from evaluator.errors import UnknownName
from evaluator.records import Release, Run, RunState
from evaluator.sources.load import is_parent_alive
from evaluator.store import Store


def service_of(release: Release) -> str:
    """Name of a release's service; empty where it has none, or several."""
    return release.services[0].name if len(release.services) == 1 else ""


def is_stored(store: Store, release_id: str) -> bool:
    """Is there such a release?"""
    return any(summary.release.id == release_id for summary in store.releases())


def choose_runs(runs: tuple[Run, ...], selection: str) -> tuple[Run, ...]:
    """Pick the runs to judge together: the newest group, all of them, or one run or group by its id.

    The newest groups of outcomes and of readings are judged with the newest of requests: they are for other metrics.
    Raises UnknownName for an unknown run.
    """
    if selection == "all" or not runs:
        return runs
    if selection == "latest":
        newest = {run.kind: run.group for run in runs}
        return tuple(run for run in runs if run.group in newest.values())
    chosen = tuple(run for run in runs if selection in {run.id, run.group})
    if not chosen:
        raise UnknownName("run", selection, ["all", "latest", *(run.id for run in runs)])
    return chosen


def find_judged(store: Store, release_id: str, data_hash: str) -> str | None:
    """Find what a verdict judged by the hash of its data: `latest`, `all`, a group or a run; `None` if none has it."""
    runs = store.data.runs(release_id)
    for name in ["latest", "all", *dict.fromkeys(name for run in runs for name in (run.group, run.id))]:
        if store.data.content_hash([run.id for run in choose_runs(runs, name)]) == data_hash:
            return name
    return None


def is_live(runs: Sequence[Run]) -> bool:
    """Is one of these runs still recorded?"""
    return any(run.state is RunState.RUNNING for run in runs)


def is_stale(runs: Sequence[Run], judged_at: datetime | None) -> bool:
    """Did data land after the verdict was given?"""
    return judged_at is not None and any(run.ended is not None and run.ended > judged_at for run in runs)


def is_series_open(store: Store, runs: Sequence[Run]) -> bool:
    """Are replicates still to come: fewer runs than planned, none incomplete, and the process that runs them alive?"""
    loads = [run for run in runs if run.source == "locust"]
    if not loads or any(run.state is RunState.INCOMPLETE or run.facts.ended_early for run in loads):
        return False
    last = loads[-1]
    if sum(run.group == last.group for run in loads) >= int(last.fingerprint.get("replicates", 1)):
        return False
    return is_parent_alive(store.data.segment_folder(last))
