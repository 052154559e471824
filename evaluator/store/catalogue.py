"""Releases, groups, runs and verdicts as rows, and back. Every function works on the attached store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from evaluator.errors import StoreError, UnknownName
from evaluator.records import (
    InFlight,
    Learnt,
    LeftOut,
    LeftOutKind,
    Release,
    ReleaseSummary,
    Run,
    RunFacts,
    RunState,
    Service,
    StoredVerdict,
)
from evaluator.store.engine import Engine
from evaluator.store.overrides import hash_text, read_overrides

__all__ = [
    "add_group",
    "add_release",
    "add_run",
    "add_verdict",
    "finish_run",
    "hash_data",
    "list_releases",
    "read_figures",
    "read_latest_verdicts",
    "read_learnt",
    "read_places",
    "read_release",
    "read_run",
    "read_runs",
    "read_verdict_log",
    "read_verdicts",
    "write_learnt",
]


def add_release(engine: Engine, release: Release) -> None:
    """Add a release, or add what is said of its services and labels to what is known."""
    known = _find_release(engine, release.id)
    merged = release if known is None else _merge(known, release)
    created = merged.created_at or datetime.now(UTC)
    engine.execute(
        "INSERT OR REPLACE INTO store.releases VALUES (?, ?, ?, ?)",
        [
            merged.id,
            json.dumps([dataclasses.asdict(service) for service in merged.services]),
            json.dumps(dict(merged.labels), sort_keys=True),
            created,
        ],
    )


def _merge(known: Release, release: Release) -> Release:
    services = {service.name: service for service in known.services}
    for service in release.services:
        old = services.get(service.name, service)
        services[service.name] = Service(service.name, service.baseline or old.baseline, service.canary or old.canary)
    return Release(
        known.id, tuple(services.values()), {**known.labels, **release.labels}, known.created_at or release.created_at
    )


def _find_release(engine: Engine, release_id: str) -> Release | None:
    rows = engine.execute("SELECT * FROM store.releases WHERE id = ?", [release_id]).fetchall()
    return _to_release(rows[0]) if rows else None


def _to_release(row: Sequence[Any]) -> Release:
    services = tuple(Service(**service) for service in json.loads(row[1]))
    return Release(row[0], services, json.loads(row[2]), _utc(row[3]))


def read_release(engine: Engine, release_id: str) -> Release:
    """Read a release. Raises UnknownName."""
    release = _find_release(engine, release_id)
    if release is None:
        known = [row[0] for row in engine.execute("SELECT id FROM store.releases").fetchall()]
        raise UnknownName("release", release_id, known)
    return release


def list_releases(engine: Engine) -> tuple[ReleaseSummary, ...]:
    """List releases with what has landed and the latest verdict, the newest first."""
    rows = engine.execute(
        """SELECT r.id, r.services, r.labels, r.created_at,
            coalesce(runs.groups, 0), coalesce(runs.runs, 0), coalesce(landed.rows, 0), runs.last, v.word, v.judged_at,
            v.mode, coalesce(v.shadow, 0), coalesce(v.blocked, 0)
        FROM store.releases AS r
        LEFT JOIN (
            SELECT release, count(DISTINCT "group") AS groups, count(*) AS runs, max(coalesce(started, ended)) AS last
            FROM store.runs GROUP BY release) AS runs ON runs.release = r.id
        LEFT JOIN (
            SELECT runs.release, CAST(sum(s.rows) AS BIGINT) AS rows
            FROM store.segments AS s JOIN store.runs ON runs.id = s.run
            WHERE runs.source <> 'prometheus' GROUP BY ALL) AS landed
            ON landed.release = r.id
        LEFT JOIN (
            SELECT release, arg_max(word, number) AS word, arg_max(judged_at, number) AS judged_at,
                arg_max(mode, number) AS mode, count(*) FILTER (mode = 'shadow') AS shadow,
                count(*) FILTER (mode = 'shadow' AND word != 'go') AS blocked
            FROM (SELECT *, json_extract_string(verdict, '$.mode') AS mode FROM store.verdicts)
            GROUP BY release) AS v ON v.release = r.id
        ORDER BY r.created_at DESC, r.id"""
    ).fetchall()
    return tuple(
        ReleaseSummary(_to_release(row), row[4], row[5], row[6], _utc(row[7]), row[8], _utc(row[9]), *row[10:])
        for row in rows
    )


def add_group(engine: Engine, run: Run, bucket_s: int) -> None:
    """Add the run's group with its bucket, unless it is there."""
    engine.execute(
        """INSERT OR IGNORE INTO store.groups
        SELECT ?, coalesce(max(number), -1) + 1, ?, ?, ? FROM store.groups""",
        [run.group, run.release, run.source, bucket_s],
    )


def add_run(engine: Engine, run: Run) -> int:
    """Add a run and return its code. Raises StoreError where its id is taken."""
    if engine.execute("SELECT 1 FROM store.runs WHERE id = ?", [run.id]).fetchall():
        raise StoreError(f"run '{run.id}' is in the store already")
    code = int(engine.execute("SELECT coalesce(max(code), -1) + 1 FROM store.runs").fetchall()[0][0])
    engine.execute(
        "INSERT INTO store.runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0)",
        [
            run.id,
            code,
            run.release,
            run.group,
            run.source,
            run.replicate,
            run.started,
            run.planned_end,
            run.ended,
            run.state.value,
            json.dumps(dict(run.fingerprint), sort_keys=True, default=str),
            _facts_to_json(run.facts),
        ],
    )
    return code


def finish_run(
    engine: Engine,
    run_id: str,
    *,
    state: RunState,
    ended: datetime | None,
    facts: RunFacts,
    planned_end: datetime | None,
) -> None:
    """Note how a run ended. Raises UnknownName."""
    read_run(engine, run_id)
    engine.execute(
        """UPDATE store.runs SET state = ?, ended = coalesce(?, ended), facts = ?,
        planned_end = coalesce(?, planned_end) WHERE id = ?""",
        [state.value, ended, _facts_to_json(facts), planned_end, run_id],
    )


_RUNS = """
SELECT runs.id, runs.release, runs."group", runs.source, replicate, started, planned_end, ended, state, fingerprint,
    facts, coalesce(landed.rows, 0), landed.quarantined
FROM store.runs
JOIN store.groups ON groups.id = runs."group"
LEFT JOIN (
    SELECT run, CAST(sum(rows) AS BIGINT) AS rows,
        list(name ORDER BY name) FILTER (state = 'quarantined') AS quarantined
    FROM store.segments GROUP BY run) AS landed ON landed.run = runs.id
"""


def read_runs(engine: Engine, release_id: str) -> tuple[Run, ...]:
    """Read the runs of a release, groups in the order they were begun, replicates in theirs. Raises UnknownName."""
    read_release(engine, release_id)
    rows = engine.execute(
        f"{_RUNS} WHERE runs.release = ? ORDER BY groups.number, replicate, runs.code", [release_id]
    ).fetchall()
    return tuple(_to_run(row) for row in rows)


def read_run(engine: Engine, run_id: str) -> Run:
    """Read one run. Raises UnknownName."""
    rows = engine.execute(f"{_RUNS} WHERE runs.id = ?", [run_id]).fetchall()
    if not rows:
        known = [row[0] for row in engine.execute("SELECT id FROM store.runs").fetchall()]
        raise UnknownName("run", run_id, known)
    return _to_run(rows[0])


def _to_run(row: Sequence[Any]) -> Run:
    facts = _facts_from_json(row[10])
    quarantined = tuple(sorted({*facts.quarantined, *(row[12] or ())}))
    return Run(
        id=row[0],
        release=row[1],
        group=row[2],
        source=row[3],
        replicate=row[4],
        started=_utc(row[5]),
        planned_end=_utc(row[6]),
        ended=_utc(row[7]),
        state=RunState(row[8]),
        fingerprint=json.loads(row[9]),
        facts=dataclasses.replace(facts, quarantined=quarantined),
        landed=row[11],
    )


def read_places(engine: Engine, run_id: str) -> dict[str, tuple[str | None, datetime]]:
    """Read where the rows of each segment of a run are, if anywhere, and since when they are in the store."""
    rows = engine.execute("SELECT name, file, landed_at FROM store.segments WHERE run = ?", [run_id]).fetchall()
    return {name: (file, landed_at.astimezone(UTC)) for name, file, landed_at in rows}


def _facts_to_json(facts: RunFacts) -> str:
    plain = dataclasses.asdict(facts)
    for name in ("plateau_start", "users_stopped"):
        plain[name] = plain[name].isoformat() if plain[name] else None
    plain["users"], plain["read"] = dict(facts.users), dict(facts.read)
    return json.dumps(plain, sort_keys=True)


def _facts_from_json(text: str) -> RunFacts:
    plain: Mapping[str, Any] = json.loads(text)
    known = {field.name for field in dataclasses.fields(RunFacts)}
    values = {name: value for name, value in plain.items() if name in known}
    for name in ("plateau_start", "users_stopped"):
        if values.get(name):
            values[name] = datetime.fromisoformat(values[name])
    values["quarantined"] = tuple(values.get("quarantined", ()))
    values["left_out"] = tuple(
        LeftOut(**{**part, "kind": LeftOutKind(part["kind"])}) for part in values.get("left_out", ())
    )
    values["in_flight"] = tuple(InFlight(**request) for request in values.get("in_flight", ()))
    return RunFacts(**values)


def hash_data(engine: Engine, run_ids: Sequence[str]) -> str:
    """Hash the content of runs: the hashes of what landed, in an order of their own, with their replicates."""
    rows = engine.execute(
        """SELECT replicate, sha256 FROM store.segments JOIN store.runs ON runs.id = segments.run
        WHERE run IN (SELECT unnest(?)) ORDER BY ALL""",
        [list(run_ids)],
    ).fetchall()
    text = "".join(f"{replicate} {sha256}\n" for replicate, sha256 in rows)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def add_verdict(
    engine: Engine,
    release_id: str,
    verdict_json: str,
    judged_at: datetime,
    word: str,
    figures: str | None,
    outcomes: tuple[str, str] = ("", ""),
) -> None:
    """Keep a verdict, and what its figures need where it was asked for; verdicts are never overwritten.

    `outcomes`: the run whose outcomes it looked at, and how that look was paid for; empty where it saw none.
    """
    engine.execute(
        """INSERT INTO store.verdicts
            (number, release, judged_at, word, verdict, figures, outcomes_run, outcomes_paid)
        SELECT coalesce(max(number), -1) + 1, ?, ?, ?, ?, ?, ?, ? FROM store.verdicts""",
        [release_id, judged_at, word, verdict_json, figures, *outcomes],
    )


def read_verdicts(engine: Engine, release_id: str) -> tuple[StoredVerdict, ...]:
    """Read the verdicts of a release, the oldest first. Raises UnknownName."""
    read_release(engine, release_id)
    rows = engine.execute(
        "SELECT release, word, judged_at, verdict FROM store.verdicts WHERE release = ? ORDER BY number", [release_id]
    ).fetchall()
    return _with_overrides(engine, rows)


def _with_overrides(engine: Engine, rows: Sequence[Sequence[Any]]) -> tuple[StoredVerdict, ...]:
    """Verdicts as they were saved, and who promoted against them."""
    known = read_overrides(engine)
    return tuple(
        StoredVerdict(row[0], row[1], row[2].astimezone(UTC), row[3], known.get(hash_text(row[3])) if known else None)
        for row in rows
    )


def read_latest_verdicts(engine: Engine, most: int) -> tuple[StoredVerdict, ...]:
    """Read the latest verdict of each of the newest releases."""
    rows = engine.execute(
        """SELECT v.release, v.word, v.judged_at, v.verdict FROM store.verdicts AS v
        JOIN store.releases AS r ON r.id = v.release
        WHERE v.number = (SELECT max(number) FROM store.verdicts AS other WHERE other.release = v.release)
        ORDER BY r.created_at DESC, r.id LIMIT ?""",
        [most],
    ).fetchall()
    return _with_overrides(engine, rows)


def read_verdict_log(engine: Engine, most: int) -> tuple[StoredVerdict, ...]:
    """Read the newest verdicts of all releases, the newest first."""
    rows = engine.execute(
        "SELECT release, word, judged_at, verdict FROM store.verdicts ORDER BY number DESC LIMIT ?", [most]
    ).fetchall()
    return _with_overrides(engine, rows)


def read_figures(engine: Engine, release_id: str) -> str | None:
    """Read what was kept for the figures of a release's newest verdict. Raises UnknownName."""
    read_release(engine, release_id)
    rows = engine.execute(
        "SELECT figures FROM store.verdicts WHERE release = ? ORDER BY number DESC LIMIT 1", [release_id]
    ).fetchall()
    return rows[0][0] if rows else None


_LEARNT = tuple(field.name for field in dataclasses.fields(Learnt))


def write_learnt(engine: Engine, service: str, learnt: Learnt) -> None:
    """Keep what was learnt of a service, in place of what was known before."""
    values = [getattr(learnt, name) for name in _LEARNT]
    places = ", ".join("?" * (len(values) + 1))
    engine.execute(
        f"INSERT OR REPLACE INTO store.learnt (service, {', '.join(_LEARNT)}) VALUES ({places})", [service, *values]
    )


def read_learnt(engine: Engine, service: str) -> Learnt | None:
    """Read what was learnt of a service; `None` where nothing was kept."""
    rows = engine.execute(f"SELECT {', '.join(_LEARNT)} FROM store.learnt WHERE service = ?", [service]).fetchall()
    return Learnt(*rows[0]) if rows else None


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
