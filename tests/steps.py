"""Requests of users in a step of a rollout, landed as from a log that was followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from judging import EVEN

from evaluator.records import ACCESS_LOG_SOURCE, Release, RouterFacts, Run, RunFacts, RunState, Service
from evaluator.simulate import Requests, to_parquet
from evaluator.simulate.requests import EPOCH_US
from evaluator.store import Store

EPOCH = EPOCH_US / 1e6
"""When simulated requests begin (epoch s)."""


def land(
    store: Store,
    requests: Requests,
    run_id: str = "live-1",
    *,
    release: str = "cart@1.5.0",
    step: str = "5 %",
    start_s: float = 0.0,
    end_s: float = 300.0,
    state: RunState = RunState.COMPLETE,
    facts: RunFacts | None = None,
    shares: Mapping[str, float] = EVEN,
    service: str = "cart",
) -> None:
    """Land requests as a window of a followed log."""
    started = datetime.fromtimestamp(EPOCH + start_s, UTC)
    ends = datetime.fromtimestamp(EPOCH + end_s, UTC)
    fingerprint = {"pid": 1, "files": ["haproxy.log"]}
    run = Run(run_id, release, "log-1", ACCESS_LOG_SOURCE, started=started, planned_end=ends, fingerprint=fingerprint)
    run = replace(run, step=step, service=service, shares=shares)
    store.data.register_run(Release(release, (Service("cart", "1.4", "1.5"),)), run, bucket_s=15)
    if len(requests):
        to_parquet(replace(requests, runs=(run_id,)), store.data.segment_folder(run).parent, service=service)
        store.data.land_segments(run_id)
    facts = facts or RunFacts(router=RouterFacts(answers=len(requests)))
    if state is not RunState.RUNNING:
        store.data.finish_run(run_id, state=state, ended=ends, facts=facts)
