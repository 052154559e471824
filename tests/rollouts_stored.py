"""Stores with a rollout in a given state, as it is at this moment."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rollout_cases import make_cases

from evaluator.intents.rollout_plans import read_plan
from evaluator.intents.rollout_steps import request_step
from evaluator.records import Release, Service
from evaluator.reports.verdict_json import to_json
from evaluator.rollout.locking import driving_alone
from evaluator.rollout.reporting import RolloutFacts
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

ASKED_STEP = 4
"""The step about which the case `asked` asks people."""


def store_rollouts(folder: Path) -> None:
    """Make a store of each case of `make_cases`: `NAME/evaluator.duckdb`, with a policy of one service."""
    for name, (facts, seconds) in make_cases().items():
        (folder / name).mkdir()
        (folder / name / "evaluator.yaml").write_text("service: cart\n")
        store = Store.open(folder / name / "evaluator.duckdb", create=True)
        add_rollout(store, facts, seconds)
        if name == "asked":
            [rollout] = Rollouts(store.control.file).rollouts()
            request_step(store, rollout, read_plan(rollout), ASKED_STEP)


def add_rollout(store: Store, facts: RolloutFacts, seconds: float) -> None:
    """Store a rollout that was started so many seconds ago, with its verdicts and its events, moved by as much."""
    draft = replace(facts.rollout, started_at=datetime.now(UTC) - timedelta(seconds=seconds))
    store.control.add_release(Release(draft.release, (Service("cart", "1.4.1", draft.release.rpartition("@")[2]),)))
    late = draft.started_at - facts.rollout.started_at
    for number, verdict in enumerate(facts.verdicts.values()):
        judged_at = draft.started_at + timedelta(seconds=number + 1)
        text = to_json(replace(verdict, judged_at=judged_at, release=store.control.release(draft.release)))
        store.control.save_verdict(draft.release, text, judged_at, verdict.word.value)
    rollouts = Rollouts(store.control.file)
    rollout = rollouts.start(draft)
    for event in facts.events:
        rollouts.add_event(rollout, replace(event, at=event.at + late.total_seconds()))


def copy_store(stores: Path, name: str, folder: Path) -> Path:
    """Copy the store of a case, to write to; returns its path."""
    shutil.copytree(stores / name, folder / name)
    return folder / name / "evaluator.duckdb"


def drive(path: Path):
    """Hold the lock of the driver of the one rollout of a store, in the body of a `with` statement."""
    store = Store.open(path)
    [rollout] = Rollouts(store.control.file).rollouts()
    return driving_alone(store, rollout.id, rollout.release, rollout.plan["services"])
