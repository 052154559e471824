"""Which runs of a release are judged together, and their state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from evaluator.errors import UnknownName
from evaluator.records import EvidenceKind, Release, Run, RunState
from evaluator.sources.load import is_parent_alive
from evaluator.store import Store

_NEVER = datetime.min.replace(tzinfo=UTC)


def service_of(release: Release) -> str:
    """Return the name of a release's service; empty if it has none, or several."""
    return release.services[0].name if len(release.services) == 1 else ""


def is_stored(store: Store, release_id: str) -> bool:
    """Is there such a release?"""
    return any(summary.release.id == release_id for summary in store.releases())


def list_steps(runs: Sequence[Run]) -> tuple[str, ...]:
    """List the steps of a rollout that runs belong to, in the order in which the newest run of each began."""
    newest_start = {run.step: run.started or _NEVER for run in sorted(runs, key=_start_of) if run.step}
    return tuple(sorted(newest_start, key=newest_start.__getitem__))


def _start_of(run: Run) -> datetime:
    """When a run began; a run without a known time counts as older than all others."""
    return run.started or _NEVER


def choose_runs(runs: tuple[Run, ...], selection: str, step: str = "") -> tuple[Run, ...]:
    """Pick the runs to judge together from the runs of a release, the oldest first.

    `selection`: `all`, the id of a run or of a run group, or `latest`: the newest group of requests of a load, of
    production, of outcomes and of readings, because each of these kinds answers for itself. `step`: only runs of this
    step of a rollout; empty: of any step, but `latest` takes of a kind whose newest group has runs of steps only those
    of the newest step. Raises UnknownName for an unknown run or step.
    """
    if step:
        of_step = tuple(run for run in runs if run.step == step)
        if not of_step:
            steps = list_steps(runs)
            hint = "no run of this release belongs to a step: give --step when requests are recorded"
            if steps:
                hint = f"steps of this release: {', '.join(steps)}"
            raise UnknownName("step", step, steps, hint=hint)
        runs = of_step
    if selection == "all" or not runs:
        return runs
    if selection == "latest":
        # A later run replaces an earlier run. Each service has production requests of its own, if all of them name it.
        live_services = {run.service for run in runs if run.kind is EvidenceKind.LIVE}
        by_service = "" not in live_services
        newest_group_of_kind = {
            (run.kind, run.service if by_service and run.kind is EvidenceKind.LIVE else ""): run.group for run in runs
        }
        chosen = tuple(run for run in runs if run.group in newest_group_of_kind.values())
        return _keep_newest_step(chosen)
    chosen = tuple(run for run in runs if selection in {run.id, run.group})
    if not chosen:
        raise UnknownName("run", selection, ["all", "latest", *(run.id for run in runs)])
    return chosen


def _keep_newest_step(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Keep, of each kind of evidence, the runs of the newest step, or else those of no step.

    Runs of an older step are left out: they had other shares of the traffic, and were judged before.
    """
    steps = list_steps(runs)
    if not steps:
        return runs
    kinds_in_step = {run.kind for run in runs if run.step == steps[-1]}
    return tuple(run for run in runs if run.step == (steps[-1] if run.kind in kinds_in_step else ""))


def find_judged(store: Store, release_id: str, data_hash: str) -> tuple[str, str] | None:
    """Find which runs a verdict judged, by the hash of its data.

    Returns selection and step for `choose_runs`: `latest`, `all`, or the id of a group or run, with no step (empty); or
    `latest` and a step. `None` if these data are gone.
    """
    runs = store.data.runs(release_id)
    ids = dict.fromkeys(run_or_group for run in runs for run_or_group in (run.group, run.id))
    selections = [("latest", ""), ("all", ""), *((run_or_group, "") for run_or_group in ids)]
    selections += [(selection, step) for step in list_steps(runs) for selection in ("latest", "all")]
    for selection, step in selections:
        chosen = choose_runs(runs, selection, step)
        if store.data.content_hash([run.id for run in chosen]) == data_hash:
            return selection, step
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
