"""Land simulated releases as if they had been loaded and scraped: for notebooks, docs and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from evaluator.records import READING_SOURCE, Answer, Release, Run, RunFacts, RunState, check_names
from evaluator.simulate import Requests, to_parquet
from evaluator.sources.recording import new_run_id
from evaluator.stats.shaping.readings import choose_reading_bucket_s
from evaluator.store import Store

ROWS = 200_000
"""Requests per segment."""


def land_simulated(
    store: Store, release: Release, requests: Requests, answers: Sequence[Answer] = ()
) -> tuple[Run, ...]:
    """Land simulated requests as a run group, and simulated answers of a metrics server as a run of readings.

    Returns all these runs as stored.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from evaluator.simulate import Scenario, simulate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Store.open(Path(folder, "evaluator.duckdb"), create=True)
    ...     runs = land_simulated(store, Release("cart@1.5.0"), simulate(Scenario(duration_s=60, replicates=2), seed=1))
    ...     store.data.read_cells([run.id for run in runs]).arms
    ('baseline', 'canary')
    """
    check_names(release, dict.fromkeys(requests.arms[1:]))
    group = new_run_id()
    replicates = len(requests.runs)
    run_ids = [group if replicate == 0 else f"{group}-{replicate + 1}" for replicate in range(replicates)]
    runs = []
    for replicate, run_id in enumerate(run_ids):
        times_us = requests.ts_us[requests.run == replicate]  # since the epoch
        started = datetime.fromtimestamp(int(times_us.min()) / 1e6, UTC)
        ended = datetime.fromtimestamp(int(times_us.max()) / 1e6, UTC)
        run = Run(
            id=run_id,
            release=release.id,
            group=group,
            source="import",
            replicate=replicate,
            started=started,
            planned_end=ended,
            fingerprint={"simulated": True, "replicates": replicates},
        )
        store.data.register_run(release, run)
        runs.append(run)
    # Each run is written to the folder named by its id.
    requests_of_runs = replace(requests, runs=tuple(run_ids))
    to_parquet(requests_of_runs, store.data.segment_folder(runs[0]).parent, rows=ROWS)
    for replicate, run in enumerate(runs):
        store.data.land_segments(run.id)
        most_users_by_arm: dict[str, int] = {}  # simultaneous users; empty if they were not simulated
        if requests.users is not None:
            for arm_code, arm in enumerate(requests.arms):
                of_arm = (requests.run == replicate) & (requests.arm == arm_code)
                most_users_by_arm[arm] = int(requests.users[of_arm].max())
        facts = RunFacts(users=most_users_by_arm)
        store.data.finish_run(run.id, state=RunState.COMPLETE, ended=run.planned_end, facts=facts)
    if answers:
        run_ids.append(_land_answers(store, release, answers))
    return tuple(run for run in store.data.runs(release.id) if run.id in run_ids)


def _land_answers(store: Store, release: Release, answers: Sequence[Answer]) -> str:
    """Land the answers of a metrics server as a complete run; returns its id."""
    start, end = min(answer.start for answer in answers), max(answer.end for answer in answers)
    run_id = new_run_id()
    run = Run(run_id, release.id, run_id, READING_SOURCE, started=start, planned_end=end)
    step_s = max(answer.step_s for answer in answers)
    store.data.register_run(release, run, bucket_s=choose_reading_bucket_s((end - start).total_seconds(), step_s))
    store.data.keep_answers(run, answers, {"simulated": True})
    store.data.finish_run(run.id, state=RunState.COMPLETE, ended=end, facts=RunFacts())
    return run.id
