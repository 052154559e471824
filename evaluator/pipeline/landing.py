"""Land recordings that no load has landed: those started by hand, and those of killed loads."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from evaluator.errors import StoreError, UnknownName
from evaluator.records import (
    ACCESS_LOG_SOURCE,
    EvidenceKind,
    Landed,
    Release,
    Run,
    RunFacts,
    RunState,
    Service,
    list_left_out,
    list_unread,
)
from evaluator.sources.access_logs.tail_state import TailedRunNow
from evaluator.sources.load import QUIET_S, RunOutcome, is_alive, is_recording, read_outcome
from evaluator.sources.recording import MANIFEST_NAME, RunManifest, utc
from evaluator.store import Store


def land_release(store: Store, release_id: str) -> tuple[Landed, ...]:
    """Land all recorded segments of a release, so that a killed load loses nothing. Returns a result for each load.

    Loads that users started by Locust itself, not by `evaluator load`, are registered as runs; runs whose load or
    collection was killed are marked incomplete. Raises UnknownName for a release without any data.
    """
    try:
        runs = store.data.runs(release_id)
    except UnknownName:
        runs = ()  # perhaps there are recordings of it that no run is registered for
    has_adopted = _adopt_recordings(store, release_id, {run.id for run in runs})
    if has_adopted or not runs:
        runs = store.data.runs(release_id)  # raises UnknownName if there is still nothing
    for run in runs:
        if run.kind is EvidenceKind.READINGS and run.state is RunState.RUNNING and _is_abandoned(run):
            store.data.land_readings(run)
            facts = RunFacts(stopped_by="the collection was killed")
            store.data.finish_run(run.id, state=RunState.INCOMPLETE, ended=store.data.collected_until(run), facts=facts)
    landed = [_land_load(store, run) for run in runs if run.source == "locust"]
    for run in runs:
        if run.source == ACCESS_LOG_SOURCE:
            _store_tailed_run(store, run)
            landed.append(store.data.land_segments(run.id))
    return tuple(landed)


def register_tailed_runs(store: Store, release_id: str) -> None:
    """Register the runs of logs that are followed, and store how they ended, without landing their requests."""
    try:
        runs = store.data.runs(release_id)
    except UnknownName:
        runs = ()
    if _adopt_recordings(store, release_id, {run.id for run in runs}):
        runs = store.data.runs(release_id)
    for run in runs:
        if run.source == ACCESS_LOG_SOURCE:
            _store_tailed_run(store, run)


def _store_tailed_run(store: Store, run: Run) -> None:
    """Store the state of a run whose log is followed, if it has changed: it may also go on after its end."""
    tailed = TailedRunNow.read(store.data.segment_folder(run))
    if tailed is None:
        return  # it was imported
    state, facts = _describe_tailed(tailed)
    stored_facts = replace(run.facts, quarantined=())
    if state is run.state and (state is RunState.RUNNING or facts == stored_facts):
        return
    ends, newest = tailed.run.ends, tailed.run.newest
    ended = ends if state is RunState.COMPLETE and tailed.run.is_closed else newest
    store.data.finish_run(
        run.id,
        state=state,
        ended=utc(ended) if ended is not None and state is not RunState.RUNNING else None,
        facts=facts,
        planned_end=utc(ends) if ends is not None else None,
    )


def _describe_tailed(tailed: TailedRunNow) -> tuple[RunState, RunFacts]:
    """State and facts of a run whose log is followed, by what its process has written."""
    run = tailed.run
    facts = RunFacts(
        read=run.counts.read,
        left_out=list_left_out(run.counts),
        router=replace(run.counts.router, unread=list_unread(run.counts)),
        clock_offset_s=run.clock_ahead_s or None,
    )
    if run.is_closed:
        return RunState.COMPLETE, facts
    if not tailed.stopped_by and time.time() - tailed.written < QUIET_S:
        # Also after the end of the process: it may just be started again. Its newest rows have not landed yet, so the
        # number that was read would not match the store.
        return RunState.RUNNING, replace(facts, read={})
    if tailed.ended_early:
        return RunState.COMPLETE, replace(facts, ended_early=tailed.ended_early)
    killed = "evaluator tail was killed; started again, it goes on where it stopped"
    return RunState.INCOMPLETE, replace(facts, read={}, stopped_by=tailed.stopped_by or killed)


def _adopt_recordings(store: Store, release_id: str, registered: Collection[str]) -> bool:
    """Register a run for each recording of a release that users started by Locust itself, not by `evaluator load`.

    `registered`: ids of the runs that the store has. Returns whether any run was added.
    """
    has_adopted = False
    folder_of_release = store.file.run_folder(release_id, "_").parent  # of any run
    for path in sorted(folder_of_release.glob(f"*/{MANIFEST_NAME}")):
        manifest = RunManifest.read(path)
        if manifest.release != release_id or manifest.run in registered:
            continue
        started = utc(manifest.started)
        planned_end = started + timedelta(seconds=manifest.run_time_s) if manifest.run_time_s else None
        run = Run(
            id=manifest.run,
            release=manifest.release,
            group=manifest.group or manifest.run,
            source=manifest.source,
            replicate=manifest.replicate,
            started=started,
            planned_end=planned_end,
            fingerprint=manifest.fingerprint,
            step=manifest.step,
            service=manifest.service,
            shares=manifest.shares,
        )
        services = (Service(manifest.service),) if manifest.service else ()
        try:
            store.data.register_run(Release(manifest.release, services), run, bucket_s=manifest.bucket_s)
        except StoreError:
            if manifest.run not in store.data.list_runs():
                raise
            # Another command, such as `watch`, has found the recording at the same time.
        has_adopted = True
    return has_adopted


def _is_abandoned(run: Run) -> bool:
    """Has the process ended that collects the readings of this run? One on another machine is assumed to run."""
    pid = run.fingerprint.get("pid")
    return run.fingerprint.get("host") == platform.node() and pid is not None and not is_alive(int(pid))


def _land_load(store: Store, run: Run) -> Landed:
    """Land the segments of a run of requests, and store how the run ended if its processes ended without doing so."""
    folder = store.data.segment_folder(run)
    age_s = (datetime.now(UTC) - run.started).total_seconds() if run.started else math.inf
    # A run that was registered less than QUIET_S ago may have no files yet.
    is_beginning = age_s < QUIET_S and not any(folder.glob("*"))
    if run.state is RunState.RUNNING and not is_recording(folder) and not is_beginning:
        planned_s = (run.planned_end - run.started).total_seconds() if run.planned_end and run.started else None
        # `evaluator load` stores the end of its runs, so if that is missing, it was killed. For a load that a user
        # started by Locust itself, which has no targets in its fingerprint, the files show whether it was cut off.
        is_users_own = run.group == run.id and not run.fingerprint.get("targets")
        stopped_by = "" if is_users_own else "the load was killed"
        finish_run(store, run, read_outcome(folder, run_time_s=planned_s, stopped_by=stopped_by))
    return store.data.land_segments(run.id)


def finish_run(store: Store, run: Run, outcome: RunOutcome) -> None:
    """Store how a run of requests ended."""
    store.data.finish_run(
        run.id,
        state=outcome.state,
        ended=outcome.ended,
        facts=outcome.facts,
        planned_end=outcome.planned_end,
    )


def with_present_facts(store: Store, run: Run) -> Run:
    """Add the facts that the processes of a running load have recorded so far, such as their CPU use and clock offsets.

    Returns any other run unchanged. The load generator's count of requests is left out: the newest requests have not
    landed yet, so it would not match the store.
    """
    folder = store.data.segment_folder(run)
    if run.source == ACCESS_LOG_SOURCE and run.state is RunState.RUNNING and (tailed := TailedRunNow.read(folder)):
        _, facts = _describe_tailed(tailed)
        return replace(run, facts=replace(facts, quarantined=run.facts.quarantined))
    if run.source != "locust" or run.state is not RunState.RUNNING or not run.started or not folder.is_dir():
        return run
    planned_s = (run.planned_end - run.started).total_seconds() if run.planned_end else None
    outcome = read_outcome(folder, run_time_s=planned_s)
    # The run goes on, so it was not stopped; which segments are quarantined is known to the store only.
    facts = replace(outcome.facts, counted=None, stopped_by="", quarantined=run.facts.quarantined)
    return replace(run, facts=facts, planned_end=outcome.planned_end or run.planned_end)
