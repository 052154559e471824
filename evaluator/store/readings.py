"""Readings of a metrics server are files next to the segments; cells are summed up from all files of a run at once.

A file holds the answers of one poll. It appears under its name only when it is whole, and counts once the manifest
names it. Each landing makes all cells of the run again, in one transaction with the manifest, because an increase is a
difference of two samples that may be in two files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evaluator.errors import StoreError
from evaluator.records import BASELINE, Answer, Landed, Query, QueryFacts, QueryKind, ReadingCells, Run, Series
from evaluator.segments import READING_SCHEMA, READINGS_SUFFIX, make_table, written_whole
from evaluator.stats.shaping.readings import sum_up
from evaluator.store.engine import Engine
from evaluator.store.file import StoreFile
from evaluator.store.landing import Segment, hash_file, read_bucket_s, write_manifest

Key = tuple[str, str]
"""Query and arm."""

_ANSWERS, _SOURCES = b"evaluator.answers", b"evaluator.sources"
_COLUMNS = ("query", "arm", "instance", "endpoint", "bucket", "part", "le", "n", "seconds", "total", "peak")


# ------------------------------------------------------------------ files


def write_answers(folder: Path, run: str, answers: Sequence[Answer], sources: Mapping[str, Any]) -> Path:
    """Write the answers of one poll as the next file of the run's folder. Raises StoreError."""
    # No two polls of a run begin at the same time, so this name is unique.
    first_ms = int(min((answer.start.timestamp() for answer in answers), default=0.0) * 1000)
    tables = [_series_table(run, answer, series) for answer in answers for series in answer.series]
    metadata = {_ANSWERS: json.dumps([_to_plain(answer) for answer in answers]), _SOURCES: json.dumps(dict(sources))}
    joined = pa.concat_tables(tables) if tables else READING_SCHEMA.empty_table()
    table = joined.unify_dictionaries().cast(READING_SCHEMA).replace_schema_metadata(metadata)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"poll-{first_ms:014d}{READINGS_SUFFIX}"
        with written_whole(path) as unfinished:
            pq.write_table(table, unfinished, compression="zstd")
    except OSError as error:
        raise StoreError(f"readings cannot be written into {folder}: {error.strerror or error}") from error
    return path


def _find(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"poll-*{READINGS_SUFFIX}"))


def _series_table(run: str, answer: Answer, series: Series) -> pa.Table:
    columns = {
        "run": run,
        "query": answer.query.text,
        "arm": answer.arm,
        "instance": series.instance,
        "endpoint": series.endpoint,
        "part": series.part,
        "le": np.full(series.ts_ms.size, series.le) if series.part == "bucket" else None,
        "labels": json.dumps(dict(series.labels), sort_keys=True),
        "ts": pa.array(series.ts_ms).cast(READING_SCHEMA.field("ts").type),
        "value": pa.array(series.values),
    }
    return make_table(READING_SCHEMA, columns, series.ts_ms.size)


_DESCRIBED = tuple(field.name for field in fields(Answer) if field.name not in ("query", "series"))


def _to_plain(answer: Answer) -> dict[str, Any]:
    """Describe an answer without its series, for JSON."""
    plain = {"query": answer.query.text, "kind": answer.query.kind.value}
    plain |= {name: getattr(answer, name) for name in _DESCRIBED}
    return plain | {"start": answer.start.isoformat(), "end": answer.end.isoformat()}


def _from_plain(plain: Mapping[str, Any]) -> Answer:
    """Make an answer without its series; fields that earlier versions did not write have their defaults."""
    values = {name: plain[name] for name in _DESCRIBED if name in plain}
    values |= {name: tuple(plain.get(name, ())) for name in ("sent", "warnings", "notes")}
    values |= {name: datetime.fromisoformat(plain[name]) for name in ("start", "end")}
    return Answer(Query(plain["query"], QueryKind(plain["kind"])), series=(), **values)


def read_answers(paths: Sequence[Path]) -> tuple[tuple[Answer, ...], dict[str, Any]]:
    """Read polls back as one answer per query and arm, and the description of their source. Raises StoreError."""
    tables = [_read(path) for path in paths]
    sources: dict[str, Any] = json.loads(tables[-1].schema.metadata[_SOURCES]) if tables else {}
    merged: dict[Key, Answer] = {}
    for table in tables:
        for plain in json.loads(table.schema.metadata[_ANSWERS]):
            answer = _from_plain(plain)
            key = answer.query.text, answer.arm
            merged[key] = _join(merged[key], answer) if key in merged else answer
    bare = [table.replace_schema_metadata(None) for table in tables]
    series = _split(pa.concat_tables(bare)) if bare else {}
    return tuple(replace(answer, series=tuple(series.get(key, ()))) for key, answer in merged.items()), sources


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"the readings {path} cannot be read: {error}", hint="collect them again under the same release"
        ) from error


def _join(first: Answer, second: Answer) -> Answer:
    """Join the answers of two polls, the later second."""
    joined: dict[str, Any] = {}
    for name in ("sent", "warnings", "notes"):
        joined[name] = tuple(dict.fromkeys((*getattr(first, name), *getattr(second, name))))
    for name in ("nan", "infinite", "repeated", "outside"):
        joined[name] = getattr(first, name) + getattr(second, name)
    return replace(
        first,
        start=min(first.start, second.start),
        end=max(first.end, second.end),
        duplicates=max(first.duplicates, second.duplicates),
        read=None if first.read is None or second.read is None else first.read + second.read,
        impossible=second.impossible,
        form=second.form or first.form,
        **joined,
    )


_SERIES = ("query", "arm", "part", "le", "instance", "endpoint", "labels")


def _split(table: pa.Table) -> dict[Key, list[Series]]:
    """Split rows by series, each in the order of time."""
    table = table.unify_dictionaries().combine_chunks()
    codes = {name: _codes(table[name]) for name in _SERIES}
    ts = table["ts"].cast(pa.int64()).to_numpy()
    order = np.lexsort((ts, *(codes[name] for name in reversed(_SERIES))))
    ts, values = ts[order], table["value"].to_numpy()[order]
    changed = np.zeros(order.size, dtype=bool)
    for column in codes.values():
        changed[1:] |= np.diff(column[order]) != 0
    starts = np.append(np.flatnonzero(changed), order.size) if order.size else np.array([0])
    firsts = np.concatenate([[0], starts[:-1]]) if order.size else np.array([], dtype=np.int64)
    labelled = table.select(_SERIES).take(pa.array(order[firsts])).to_pylist() if order.size else []
    out: dict[Key, list[Series]] = {}
    for row, first, end in zip(labelled, firsts, starts, strict=False):
        le = float("nan") if row["le"] is None else row["le"]
        named = json.loads(row["labels"]), row["instance"], row["endpoint"], row["part"], le
        out.setdefault((row["query"], row["arm"]), []).append(Series(*named, ts[first:end], values[first:end]))
    return out


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if not pa.types.is_dictionary(array.type):
        array = pc.dictionary_encode(array, null_encoding="encode")
    return np.asarray(array.indices.to_numpy(zero_copy_only=False), dtype=np.int64)


# ------------------------------------------------------------------ landing


def land_readings(file: StoreFile, run: Run) -> Landed:
    """Sum up all readings of a run, and add new files to the manifest. Landing them again changes nothing.

    Raises StoreError for a file that cannot be read.
    """
    paths = _find(file.run_folder(run.release, run.id))
    with file.opened() as engine:
        rows = engine.execute("SELECT name, state FROM store.segments WHERE run = ?", [run.id]).fetchall()
        bucket_s = read_bucket_s(engine, run.id)
    stored = dict(rows)
    fresh = [path for path in paths if path.name not in stored]
    landed = Landed(already=len(stored), runs=(run.id,))
    if not fresh:
        return landed
    if "purged" in stored.values():
        raise StoreError(
            f"readings of run {run.id} were purged, so no more can be added to it",
            hint="collect again, which makes a new run",
        )
    answers, sources = read_answers(paths)
    names = dict.fromkeys(answer.arm for answer in answers)
    arms = tuple(sorted(names, key=lambda name: (name != BASELINE, list(names).index(name))))
    cells = replace(sum_up(answers, arms, bucket_s), sources=sources)
    segments = [Segment(path, pq.ParquetFile(path).metadata.num_rows, hash_file(path)) for path in fresh]
    with file.opened(write=True) as engine:
        _write(engine, run.id, cells)
        write_manifest(engine, file, run.id, segments)
    return replace(landed, rows=sum(segment.rows for segment in segments), segments=len(segments))


def _write(engine: Engine, run: str, cells: ReadingCells) -> None:
    facts = [asdict(facts) | {"query": [facts.query.text, facts.query.kind.value]} for facts in cells.facts]
    engine.execute("DELETE FROM store.reading_cells WHERE run = ?", [run])
    engine.execute(
        "INSERT OR REPLACE INTO store.readings_of VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            run,
            cells.bucket_s,
            json.dumps([[query.text, query.kind.value] for query in cells.queries]),
            list(cells.arms),
            list(cells.instances),
            list(cells.endpoints),
            json.dumps(facts),
            json.dumps(dict(cells.sources)),
        ],
    )
    rows = pa.table({name: getattr(cells, name) for name in _COLUMNS})
    engine.register("fresh_cells", rows)
    engine.execute(f"INSERT INTO store.reading_cells SELECT ? AS run, {', '.join(_COLUMNS)} FROM fresh_cells", [run])
    engine.unregister("fresh_cells")


def read_readings(engine: Engine, run: str) -> ReadingCells | None:
    """Read the cells of a run's readings; `None` where it has none."""
    stored = engine.execute(
        """SELECT bucket_s, queries, arms, instances, endpoints, facts, sources FROM store.readings_of
        WHERE run = ?""",
        [run],
    ).fetchall()
    if not stored:
        return None
    bucket_s, queries, arms, instances, endpoints, facts, sources = stored[0]
    rows = engine.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM store.reading_cells WHERE run = ? ORDER BY ALL", [run]
    ).fetchnumpy()
    real = {"le", "seconds", "total", "peak"}
    columns = {name: np.asarray(rows[name], dtype=float if name in real else np.int64) for name in _COLUMNS}
    return ReadingCells(
        queries=tuple(Query(text, QueryKind(kind)) for text, kind in json.loads(queries)),
        arms=tuple(arms),
        instances=tuple(instances),
        endpoints=tuple(endpoints),
        bucket_s=bucket_s,
        **columns,
        facts=tuple(_facts_from_plain(plain) for plain in json.loads(facts)),
        sources=json.loads(sources),
    )


def _facts_from_plain(plain: dict[str, Any]) -> QueryFacts:
    text, kind = plain["query"]
    field_names = {field.name for field in fields(QueryFacts)} - {"query"}  # earlier versions stored others
    plain = {name: value for name, value in plain.items() if name in field_names}
    texts = {name: tuple(plain.get(name, ())) for name in ("sent", "warnings", "notes")}
    used = tuple((bucket, samples) for bucket, samples in plain.get("used", ()))
    spans = tuple((start, end) for start, end in plain.get("spans", ()))
    lives = {name: (first, last) for name, (first, last) in plain.get("lives", {}).items()}
    return QueryFacts(Query(text, QueryKind(kind)), **plain | texts | {"used": used, "spans": spans, "lives": lives})


def covered_until(folder: Path) -> datetime | None:
    """The time until which the files in a folder were collected; `None` where there are none. Raises StoreError."""
    paths = _find(folder)
    if not paths:
        return None
    described = json.loads(pq.read_schema(paths[-1]).metadata[_ANSWERS])
    return max(datetime.fromisoformat(answer["end"]) for answer in described).astimezone(UTC)
