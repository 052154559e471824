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
    """Land simulated requests as a run group, and `answers` as a run of readings; returns the runs.

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
    ids = [group if number == 0 else f"{group}-{number + 1}" for number in range(len(requests.runs))]
    named = replace(requests, runs=tuple(ids))
    runs = []
    for number, run_id in enumerate(ids):
        at_us = requests.ts_us[requests.run == number]
        started, ended = (datetime.fromtimestamp(int(at) / 1e6, UTC) for at in (at_us.min(), at_us.max()))
        run = Run(
            id=run_id,
            release=release.id,
            group=group,
            source="import",
            replicate=number,
            started=started,
            planned_end=ended,
            fingerprint={"simulated": True, "replicates": len(ids)},
        )
        store.data.register_run(release, run)
        runs.append(run)
    to_parquet(named, store.data.segment_folder(runs[0]).parent, rows=ROWS)
    for number, run in enumerate(runs):
        store.data.land_segments(run.id)
        users: dict[str, int] = {}
        if requests.users is not None:
            for arm, name in enumerate(requests.arms):
                users[name] = int(requests.users[(requests.run == number) & (requests.arm == arm)].max())
        store.data.finish_run(run.id, state=RunState.COMPLETE, ended=run.planned_end, facts=RunFacts(users=users))
    landed = {*ids, *([_land_answers(store, release, answers)] if answers else [])}
    return tuple(run for run in store.data.runs(release.id) if run.id in landed)


def _land_answers(store: Store, release: Release, answers: Sequence[Answer]) -> str:
    start, end = min(answer.start for answer in answers), max(answer.end for answer in answers)
    run_id = new_run_id()
    run = Run(run_id, release.id, run_id, READING_SOURCE, started=start, planned_end=end)
    step_s = max(answer.step_s for answer in answers)
    store.data.register_run(release, run, bucket_s=choose_reading_bucket_s((end - start).total_seconds(), step_s))
    store.data.keep_answers(run, answers, {"simulated": True})
    store.data.finish_run(run.id, state=RunState.COMPLETE, ended=end, facts=RunFacts())
    return run.id
