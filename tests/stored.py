"""Stores with releases whose verdict is known, made by simulation."""

from __future__ import annotations

import json
import sqlite3
import zlib
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from evaluator.pipeline.judging import judge_release
from evaluator.policy import Policy, load_policy
from evaluator.records import Release, Run, RunFacts, RunState, Service
from evaluator.simulate import Change, Scenario, simulate, to_parquet
from evaluator.simulate.requests import EPOCH_US
from evaluator.store import Store

STEADY = Scenario(duration_s=300.0, rate_per_s=60.0, instances=(3,), users=20, instance_sd=0.005, failure_rate=0.0002)
DESIGNS = {
    "cart@1.5.0": STEADY,
    "cart@1.6.0": replace(STEADY, changes=(Change(latency=0.3, endpoint=0.4),)),
    "cart@1.7.0": replace(STEADY, duration_s=60.0, rate_per_s=5.0),
    "cart@1.8.0": replace(STEADY, changes=(Change(), Change(latency=0.25)), rate_per_s=40.0),
    "cart@1.9.0": replace(STEADY, replicates=3, duration_s=120.0),
}
"""GO or close to it, NO-GO, INCONCLUSIVE, three arms, replicates."""

HOSTILE = "<img src=x onerror=alert(1)>"


def land(
    store: Store,
    release_id: str,
    design: Scenario,
    *,
    seed: int = 5,
    service: str = "cart",
    live: bool = False,
    endpoint_prefix: str = "",
) -> None:
    """Land a simulated release as one group of runs."""
    requests = simulate(design, seed)
    group = f"g{zlib.crc32(release_id.encode())}"
    requests = replace(
        requests,
        runs=tuple(f"{group}-{k}" for k in range(len(requests.runs))),
        endpoints=tuple(f"{endpoint_prefix}{name}" for name in requests.endpoints),
    )
    started = datetime.fromtimestamp(EPOCH_US / 1e6, UTC)
    ended = started + timedelta(seconds=design.duration_s)
    version = release_id.rpartition("@")[2]
    release = Release(release_id, (Service(service, "1.4.1", version),))
    facts = RunFacts(
        workers_expected=1, workers_seen=1, users={"baseline": 20, "canary": 20}, cpu_percent=20.0, loop_lag_ms=2.0
    )
    for k, name in enumerate(requests.runs):
        run = Run(
            name,
            release_id,
            group,
            "import",
            replicate=k,
            started=started,
            planned_end=ended,
            fingerprint={"locustfile": "sha256:1", "host": "load-1", "cores": 2, "replicates": len(requests.runs)},
        )
        store.data.register_run(release, run)
        to_parquet(replace(requests, runs=requests.runs), store.data.segment_folder(run).parent, rows=200_000)
        store.data.land_segments(name)
        if not live:
            store.data.finish_run(name, state=RunState.COMPLETE, ended=ended, facts=facts)


def judge(store: Store, release_id: str, policy: Policy | None = None, *, figures: bool = True) -> str:
    """Judge what has landed and keep the verdict."""
    verdict = judge_release(
        store, release_id, policy or load_policy(), judged_at=datetime(2026, 1, 5, 1, tzinfo=UTC), figures=figures
    )
    return verdict.word.value


def repeat_verdict(store: Store, release_id: str) -> None:
    """Store the newest verdict of a release again, as one of this moment."""
    newest, now = store.control.verdicts(release_id)[-1], datetime.now(UTC)
    text = json.dumps(json.loads(newest.json) | {"judged_at": f"{now:%Y-%m-%dT%H:%M:%S.%fZ}"})
    store.control.save_verdict(release_id, text, now, newest.word)


def edit_decisions(store: Store, sql: str, *parameters: str) -> None:
    """Change the decisions of a store by hand."""
    with closing(sqlite3.connect(store.control.file.path)) as connection, connection:
        connection.execute(sql, parameters)


def judge_now(path: Path) -> None:
    """Make a store with a GO (cart@1.9.0) and a NO-GO (cart@1.6.0) of this moment."""
    store = Store.open(path, create=True)
    for release_id, seed in (("cart@1.9.0", 5), ("cart@1.6.0", 2)):
        land(store, release_id, DESIGNS[release_id], seed=seed)
        judge_release(store, release_id, load_policy(), judged_at=datetime.now(UTC))
    assert [verdict.word for verdict in store.control.verdicts("cart@1.9.0")] == ["go"]
    assert [verdict.word for verdict in store.control.verdicts("cart@1.6.0")] == ["no_go"]


def make_store(path: Path) -> Store:
    """A store with a release in each state."""
    store = Store.open(path, create=True)
    for seed, (release_id, design) in enumerate(DESIGNS.items()):
        land(store, release_id, design, seed=seed + 1)
        judge(store, release_id)
    return store


if __name__ == "__main__":
    import sys

    store_path = make_store(Path(sys.argv[1]))
    for summary in store_path.releases():
        sys.stdout.write(f"{summary.release.id} {summary.verdict}\n")
