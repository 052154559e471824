"""Runs as rows, and back. Every function works on the attached store."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from evaluator.errors import StoreError, UnknownName
from evaluator.records import InFlight, LeftOut, LeftOutKind, RouterFacts, Run, RunFacts, RunState
from evaluator.store.engine import Engine

_RUNS = """
SELECT runs.id, runs.release, runs."group", runs.source, replicate, started, planned_end, ended, state, fingerprint,
    facts, step, service, shares, coalesce(landed.rows, 0), landed.quarantined
FROM store.runs
JOIN store.groups ON groups.id = runs."group"
LEFT JOIN (
    SELECT run, CAST(sum(rows) AS BIGINT) AS rows,
        list(name ORDER BY name) FILTER (state = 'quarantined') AS quarantined
    FROM store.segments GROUP BY run) AS landed ON landed.run = runs.id
"""

_TIMES = ("plateau_start", "users_stopped")
"""Fields of RunFacts that are times."""


def add_run(engine: Engine, run: Run, bucket_s: int) -> None:
    """Store a run and, if its group is new, the group with the length (s) of its buckets.

    Raises StoreError if a run with this id is in the store.
    """
    # A new group gets the next number, by which groups are ordered.
    engine.execute(
        """INSERT OR IGNORE INTO store.groups
        SELECT ?, coalesce(max(number), -1) + 1, ?, ?, ? FROM store.groups""",
        [run.group, run.release, run.source, bucket_s],
    )
    if engine.execute("SELECT 1 FROM store.runs WHERE id = ?", [run.id]).fetchall():
        raise StoreError(f"run '{run.id}' is in the store already")
    # The next free code stands for the run in cells. The zeros: it has no landings yet, and no grid of times; NULL: nor
    # a unit of times.
    engine.execute(
        """INSERT INTO store.runs
        SELECT ?, coalesce(max(code), -1) + 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, NULL, ?, ?, ? FROM store.runs""",
        [
            run.id,
            run.release,
            run.group,
            run.source,
            run.replicate,
            run.started,
            run.planned_end,
            run.ended,
            run.state.value,
            json.dumps(dict(run.fingerprint), sort_keys=True, default=str),
            facts_to_json(run.facts),
            run.step,
            run.service,
            json.dumps(dict(run.shares)),
        ],
    )


def read_runs(engine: Engine, release_id: str) -> tuple[Run, ...]:
    """Read the runs of a release, by the start of their group and by replicate. Raises UnknownName."""
    rows = engine.execute(
        f"{_RUNS} WHERE runs.release = ? ORDER BY groups.number, replicate, runs.code", [release_id]
    ).fetchall()
    if not rows:
        releases = [row[0] for row in engine.execute("SELECT DISTINCT release FROM store.runs").fetchall()]
        raise UnknownName("release", release_id, releases)
    return tuple(_to_run(row) for row in rows)


def read_run(engine: Engine, run_id: str) -> Run:
    """Read one run. Raises UnknownName."""
    rows = engine.execute(f"{_RUNS} WHERE runs.id = ?", [run_id]).fetchall()
    if not rows:
        ids = [row[0] for row in engine.execute("SELECT id FROM store.runs").fetchall()]
        raise UnknownName("run", run_id, ids)
    return _to_run(rows[0])


def _to_run(row: Sequence[Any]) -> Run:
    """Make a run from a row of the query `_RUNS`."""
    run_id, release, group, source, replicate, started, planned_end, ended, state, *details = row
    fingerprint_json, facts_json, step, service, shares_json, landed_rows, quarantined = details
    facts = _facts_from_json(facts_json)
    # Both the facts and the manifest may name quarantined segments.
    all_quarantined = tuple(sorted({*facts.quarantined, *(quarantined or ())}))
    return Run(
        id=run_id,
        release=release,
        group=group,
        source=source,
        replicate=replicate,
        started=started and started.astimezone(UTC),  # a time that is not known stays None
        planned_end=planned_end and planned_end.astimezone(UTC),
        ended=ended and ended.astimezone(UTC),
        state=RunState(state),
        fingerprint=json.loads(fingerprint_json),
        facts=dataclasses.replace(facts, quarantined=all_quarantined),
        step=step,
        service=service,
        shares=json.loads(shares_json),
        landed=landed_rows,
    )


def facts_to_json(facts: RunFacts) -> str:
    """Write the facts of a run as the JSON that is stored; times become texts."""
    values = dataclasses.asdict(facts)
    for name in _TIMES:
        values[name] = values[name].isoformat() if values[name] else None
    values["users"], values["read"] = dict(facts.users), dict(facts.read)  # JSON needs dictionaries
    return json.dumps(values, sort_keys=True)


def _facts_from_json(text: str) -> RunFacts:
    """Read the facts of a run from the JSON that is stored; names that RunFacts no longer has are ignored."""
    stored: Mapping[str, Any] = json.loads(text)
    field_names = {field.name for field in dataclasses.fields(RunFacts)}
    values = {name: value for name, value in stored.items() if name in field_names}
    for name in _TIMES:
        if values.get(name):
            values[name] = datetime.fromisoformat(values[name])
    values["quarantined"] = tuple(values.get("quarantined", ()))
    values["left_out"] = left_out_from_plain(values.get("left_out", ()))
    values["in_flight"] = tuple(InFlight(**request) for request in values.get("in_flight", ()))
    if values.get("router"):
        values["router"] = RouterFacts(**values["router"] | {"holes": tuple(values["router"]["holes"])})
    return RunFacts(**values)


def left_out_from_plain(parts: Iterable[Mapping[str, Any]]) -> tuple[LeftOut, ...]:
    """Make LeftOut records from JSON objects."""
    return tuple(LeftOut(**{**part, "kind": LeftOutKind(part["kind"])}) for part in parts)
