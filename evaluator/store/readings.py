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
from evaluator.segments import READING_SCHEMA, READINGS_SUFFIX, check_version, make_table, written_whole
from evaluator.stats.shaping.answered import MOST_STEPS_APART
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
    """Write the answers to one poll as a Parquet file into the folder of a run, and return its path.

    Samples become rows. What else an answer holds, and `sources` (description of the servers, JSON), become metadata
    of the file. Raises StoreError.
    """
    # No two polls of a run begin at the same time, so this name is unique.
    start_ms = int(min((answer.start.timestamp() for answer in answers), default=0.0) * 1000)
    tables = [_tabulate_series(run, answer, series) for answer in answers for series in answer.series]
    metadata = {
        _ANSWERS: json.dumps([_answer_to_plain(answer) for answer in answers]),
        _SOURCES: json.dumps(dict(sources)),
    }
    all_rows = pa.concat_tables(tables) if tables else READING_SCHEMA.empty_table()
    table = all_rows.unify_dictionaries().cast(READING_SCHEMA).replace_schema_metadata(metadata)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"poll-{start_ms:014d}{READINGS_SUFFIX}"  # names sort by time
        with written_whole(path) as unfinished:
            pq.write_table(table, unfinished, compression="zstd")
    except OSError as error:
        raise StoreError(f"readings cannot be written into {folder}: {error.strerror or error}") from error
    return path


def _find_polls(folder: Path) -> list[Path]:
    """List the files of polls in a folder; their names give them the order of time."""
    return sorted(folder.glob(f"poll-*{READINGS_SUFFIX}"))


def _tabulate_series(run: str, answer: Answer, series: Series) -> pa.Table:
    """Make a table with a row for each sample of a series; null in `le`: it is no bucket of a histogram."""
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


_FIELDS_IN_JSON = tuple(field.name for field in fields(Answer) if field.name not in ("query", "series"))


def _answer_to_plain(answer: Answer) -> dict[str, Any]:
    """Convert an answer without its series to values that JSON can hold."""
    plain = {"query": answer.query.text, "kind": answer.query.kind.value}
    plain |= {name: getattr(answer, name) for name in _FIELDS_IN_JSON}
    plain |= {"start": answer.start.isoformat(), "end": answer.end.isoformat()}
    return plain


def _answer_from_plain(plain: Mapping[str, Any]) -> Answer:
    """Make an answer without its series from values of JSON.

    Fields that earlier versions did not write have their defaults.
    """
    values = {name: plain[name] for name in _FIELDS_IN_JSON if name in plain}
    values |= {name: tuple(plain.get(name, ())) for name in ("sent", "warnings", "notes")}
    values |= {name: datetime.fromisoformat(plain[name]) for name in ("start", "end")}
    return Answer(Query(plain["query"], QueryKind(plain["kind"])), series=(), **values)


def read_answers(paths: Sequence[Path]) -> tuple[tuple[Answer, ...], dict[str, Any]]:
    """Read the files of polls, in the order of time, as one answer per query, arm and window without a gap.

    Returns the answers, and what the last file says about its sources. Raises StoreError.
    """
    tables = [_read_poll(path) for path in paths]
    sources: dict[str, Any] = json.loads(tables[-1].schema.metadata[_SOURCES]) if tables else {}
    answers_by_key: dict[Key, list[Answer]] = {}  # query and arm → answers that lie apart, in the order of time
    for table in tables:
        for plain in json.loads(table.schema.metadata[_ANSWERS]):
            answer = _answer_from_plain(plain)
            of_key = answers_by_key.setdefault((answer.query.text, answer.arm), [])
            # Of arms that ran one after the other, the windows of an arm lie apart; polls follow each other.
            longest_gap_s = MOST_STEPS_APART * answer.step_s
            if of_key and (answer.start - of_key[-1].end).total_seconds() <= longest_gap_s:
                of_key[-1] = _join_answers(of_key[-1], answer)
            else:
                of_key.append(answer)
    # Tables can be joined only without their metadata, which differ.
    without_metadata = [table.replace_schema_metadata(None) for table in tables]
    series_by_key = _split_into_series(pa.concat_tables(without_metadata)) if without_metadata else {}
    answers = []
    for key, of_key in answers_by_key.items():
        series = series_by_key.get(key, [])
        for answer in of_key:
            of_answer = series if len(of_key) == 1 else _cut_series(series, answer.start, answer.end)
            answers.append(replace(answer, series=tuple(of_answer)))
    return tuple(answers), sources


def _cut_series(all_series: Sequence[Series], start: datetime, end: datetime) -> list[Series]:
    """Keep the samples from `start` to `end`, both included, and the series that have any."""
    start_ms, end_ms = (round(moment.timestamp() * 1000) for moment in (start, end))
    cut_series = []
    for series in all_series:
        inside = (series.ts_ms >= start_ms) & (series.ts_ms <= end_ms)
        if inside.any():
            cut_series.append(replace(series, ts_ms=series.ts_ms[inside], values=series.values[inside]))
    return cut_series


def _read_poll(path: Path) -> pa.Table:
    """Read the file of a poll. Raises StoreError."""
    try:
        with pq.ParquetFile(path) as file:
            check_version(path, file)
            return file.read()
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"the readings {path} cannot be read: {error}", hint="collect them again under the same release"
        ) from error


def _join_answers(earlier: Answer, later: Answer) -> Answer:
    """Join the answers to one query in two polls: one answer with the counts and texts of both, without series."""
    fields_of_both: dict[str, Any] = {}  # texts are listed once, counts are added up
    for name in ("sent", "warnings", "notes"):
        fields_of_both[name] = tuple(dict.fromkeys((*getattr(earlier, name), *getattr(later, name))))
    for name in ("nan", "infinite", "repeated", "outside"):
        fields_of_both[name] = getattr(earlier, name) + getattr(later, name)
    return replace(
        earlier,
        start=min(earlier.start, later.start),
        end=max(earlier.end, later.end),
        duplicates=max(earlier.duplicates, later.duplicates),  # the same series in each poll
        read=None if earlier.read is None or later.read is None else earlier.read + later.read,
        impossible=later.impossible,  # a later poll may have found series
        form=later.form or earlier.form,  # empty for a poll without series
        **fields_of_both,
    )


_SERIES_KEYS = ("query", "arm", "part", "le", "instance", "endpoint", "labels")


def _split_into_series(table: pa.Table) -> dict[Key, list[Series]]:
    """Split a table with a row a sample into series: query and arm → their series, each in the order of time."""
    if not table.num_rows:
        return {}
    table = table.unify_dictionaries().combine_chunks()
    codes_by_column = {name: _encode_values(table[name]) for name in _SERIES_KEYS}
    ts_ms = table["ts"].cast(pa.int64()).to_numpy()
    # Sort by the columns that identify a series, then by time (`lexsort` takes the most important key last). A series
    # starts at the first row, and where any of these columns changes.
    order = np.lexsort((ts_ms, *(codes_by_column[name] for name in reversed(_SERIES_KEYS))))
    ts_ms, values = ts_ms[order], table["value"].to_numpy()[order]
    is_start = np.zeros(order.size, dtype=bool)
    is_start[0] = True
    for codes in codes_by_column.values():
        is_start[1:] |= np.diff(codes[order]) != 0
    starts = np.flatnonzero(is_start)
    ends = np.append(starts[1:], order.size)
    first_rows = table.select(_SERIES_KEYS).take(pa.array(order[starts])).to_pylist()
    series_by_key: dict[Key, list[Series]] = {}
    for row, start, end in zip(first_rows, starts, ends, strict=True):
        series = Series(
            labels=json.loads(row["labels"]),
            instance=row["instance"],
            endpoint=row["endpoint"],
            part=row["part"],
            le=float("nan") if row["le"] is None else row["le"],  # upper bound of a bucket of a histogram; else NaN
            ts_ms=ts_ms[start:end],
            values=values[start:end],
        )
        series_by_key.setdefault((row["query"], row["arm"]), []).append(series)
    return series_by_key


def _encode_values(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return a code for each value of a column; equal values, also two nulls, have the same code."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if not pa.types.is_dictionary(array.type):
        array = pc.dictionary_encode(array, null_encoding="encode")
    return np.asarray(array.indices.to_numpy(zero_copy_only=False), dtype=np.int64)


# ------------------------------------------------------------------ landing


def land_readings(file: StoreFile, run: Run) -> Landed:
    """Make the cells of a run from the files of all its polls, and add new files to the manifest.

    Returns what landed now. Without a new file, nothing changes. Raises StoreError for a file that cannot be read.
    """
    paths = _find_polls(file.run_folder(run.release, run.id))
    with file.opened() as engine:
        rows = engine.execute("SELECT name, state FROM store.segments WHERE run = ?", [run.id]).fetchall()
        bucket_s = read_bucket_s(engine, run.id)
    state_by_name = dict(rows)  # of the files that have landed
    new_paths = [path for path in paths if path.name not in state_by_name]
    landed = Landed(already=len(state_by_name), runs=(run.id,))
    if not new_paths:
        return landed
    if "purged" in state_by_name.values():
        raise StoreError(
            f"readings of run {run.id} were purged, so no more can be added to it",
            hint="collect again, which makes a new run",
        )
    answers, sources = read_answers(paths)
    # The baseline first, the others in the order of the answers: `sorted` keeps the order of equal keys.
    arms = tuple(sorted(dict.fromkeys(answer.arm for answer in answers), key=lambda arm: arm != BASELINE))
    cells = replace(sum_up(answers, arms, bucket_s), sources=sources)
    segments = [Segment(path, pq.ParquetFile(path).metadata.num_rows, hash_file(path)) for path in new_paths]
    with file.opened(write=True) as engine:
        _replace_cells(engine, run.id, cells)
        write_manifest(engine, file, run.id, segments)
    return replace(landed, rows=sum(segment.rows for segment in segments), segments=len(segments))


def _replace_cells(engine: Engine, run: str, cells: ReadingCells) -> None:
    """Replace the stored cells of a run's readings, and the names and facts that belong to them."""
    plain_facts = [asdict(facts) | {"query": [facts.query.text, facts.query.kind.value]} for facts in cells.facts]
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
            json.dumps(plain_facts),
            json.dumps(dict(cells.sources)),
        ],
    )
    engine.register("new_cells", pa.table({name: getattr(cells, name) for name in _COLUMNS}))
    engine.execute(f"INSERT INTO store.reading_cells SELECT ? AS run, {', '.join(_COLUMNS)} FROM new_cells", [run])
    engine.unregister("new_cells")


def read_readings(engine: Engine, run: str) -> ReadingCells | None:
    """Read the cells of a run's readings; `None` if it has no readings."""
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
    floats = {"le", "seconds", "total", "peak"}
    columns = {name: np.asarray(rows[name], dtype=float if name in floats else np.int64) for name in _COLUMNS}
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


def _facts_from_plain(plain: Mapping[str, Any]) -> QueryFacts:
    """Make the facts of a query from values of JSON; fields that only earlier versions had are ignored."""
    text, kind = plain["query"]
    field_names = {field.name for field in fields(QueryFacts)} - {"query"}
    values = {name: value for name, value in plain.items() if name in field_names}
    # JSON has lists where the record has tuples; each pair becomes a tuple, too.
    values |= {name: tuple(values.get(name, ())) for name in ("sent", "warnings", "notes")}
    values["used"] = tuple((bucket, samples) for bucket, samples in values.get("used", ()))
    values["spans"] = tuple((start, end) for start, end in values.get("spans", ()))
    values["lives"] = {instance: (first, last) for instance, (first, last) in values.get("lives", {}).items()}
    return QueryFacts(Query(text, QueryKind(kind)), **values)


def covered_until(folder: Path) -> datetime | None:
    """Read until when the polls in a folder collected readings; `None` if it has no polls. Raises StoreError."""
    paths = _find_polls(folder)
    if not paths:
        return None
    last_answers = json.loads(pq.read_schema(paths[-1]).metadata[_ANSWERS])
    return max(datetime.fromisoformat(answer["end"]) for answer in last_answers).astimezone(UTC)
