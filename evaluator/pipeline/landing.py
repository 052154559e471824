"""Land what nobody landed: recordings made by hand, and those of loads that were killed."""

from __future__ import annotations

import math
import platform
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from evaluator.errors import UnknownName
from evaluator.records import (
    EvidenceKind,
    Landed,
    Release,
    Run,
    RunFacts,
    RunState,
    Service,
)
from evaluator.segments import run_folder
from evaluator.sources.load import (
    QUIET_S,
    RunOutcome,
    is_alive,
    is_recording,
    read_outcome,
)
from evaluator.sources.recording import SHEET_NAME, RunSheet, utc
from evaluator.store import Store

__all__ = ["finish_run", "land_release", "with_present_facts"]


def land_release(store: Store, release_id: str) -> tuple[Landed, ...]:
    """Land what a release's recorders left behind, so that a load that was killed loses nothing.

    Runs of recorders that were started by hand are registered; runs whose recorder died are marked incomplete.
    Raises UnknownName for a release of which nothing is known.
    """
    runs = _known_runs(store, release_id)
    if _adopt_recordings(store, release_id, {run.id for run in runs}) or not runs:
        runs = store.runs(release_id)
    _settle_collections(store, runs)
    return tuple(_settle(store, run) for run in runs if run.source == "locust")


def _settle(store: Store, run: Run) -> Landed:
    folder = store.segment_folder(run)
    if run.state is RunState.RUNNING and not is_recording(folder) and not _begins(run, folder):
        planned_s = (run.planned_end - run.started).total_seconds() if run.planned_end and run.started else None
        outcome = read_outcome(folder, run_time_s=planned_s, stopped_by=_reason_of_death(run))
        finish_run(store, run, outcome)
    return store.land_segments(run.id)


def _settle_collections(store: Store, runs: Sequence[Run]) -> None:
    """Land what a collection that was killed left behind, and mark it incomplete."""
    for run in runs:
        if run.kind is EvidenceKind.READINGS and run.state is RunState.RUNNING and _is_abandoned(run):
            store.land_readings(run)
            facts = RunFacts(stopped_by="the collection was killed")
            store.finish_run(run.id, state=RunState.INCOMPLETE, ended=store.collected_until(run), facts=facts)


def _is_abandoned(run: Run) -> bool:
    """Tell whether the process that collects is gone; one of another machine is believed to live."""
    pid = run.fingerprint.get("pid")
    return run.fingerprint.get("host") == platform.node() and pid is not None and not is_alive(int(pid))


def _begins(run: Run, folder: Path) -> bool:
    """Tell whether a run was registered just now, so that its recorder may not have left anything yet."""
    age_s = (datetime.now(UTC) - run.started).total_seconds() if run.started else math.inf
    return age_s < QUIET_S and not any(folder.glob("*"))


def _reason_of_death(run: Run) -> str:
    """A recorder started by hand ends its run itself; under `load`, an unfinished run means that `load` was killed."""
    return "" if run.group == run.id and not run.fingerprint.get("targets") else "the load was killed"


def _adopt_recordings(store: Store, release_id: str, known: Collection[str]) -> bool:
    """Register the runs of recorders that were started by hand; tells whether there were any."""
    adopted = False
    for path in sorted(run_folder(store.data_dir, release_id, "_").parent.glob(f"*/{SHEET_NAME}")):
        sheet = RunSheet.read(path)
        if sheet.release == release_id and sheet.run not in known:
            _adopt(store, sheet)
            adopted = True
    return adopted


def _known_runs(store: Store, release_id: str) -> tuple[Run, ...]:
    try:
        return store.runs(release_id)
    except UnknownName:
        return ()


def _adopt(store: Store, sheet: RunSheet) -> None:
    services = (Service(sheet.service),) if sheet.service else ()
    started = utc(sheet.started)
    run = Run(
        id=sheet.run,
        release=sheet.release,
        group=sheet.run,
        source="locust",
        started=started,
        planned_end=started + timedelta(seconds=sheet.run_time_s) if sheet.run_time_s else None,
        fingerprint=sheet.fingerprint,
    )
    store.register_run(Release(sheet.release, services), run)


def finish_run(store: Store, run: Run, outcome: RunOutcome) -> None:
    """Write down how a run ended."""
    store.finish_run(
        run.id,
        state=outcome.state,
        ended=outcome.ended,
        facts=outcome.facts,
        planned_end=outcome.planned_end,
    )


def with_present_facts(store: Store, run: Run) -> Run:
    """Add to a run that goes on what its processes know by now: a saturated load generator, or a clock that is off.

    Requests are not counted against those in the store: the newest are still to land.
    """
    folder = store.segment_folder(run)
    if run.source != "locust" or run.state is not RunState.RUNNING or not run.started or not folder.is_dir():
        return run
    planned_s = (run.planned_end - run.started).total_seconds() if run.planned_end else None
    outcome = read_outcome(folder, run_time_s=planned_s)
    facts = replace(outcome.facts, counted=None, stopped_by="", quarantined=run.facts.quarantined)
    return replace(run, facts=facts, planned_end=outcome.planned_end or run.planned_end)
