"""Files of other tools land: each becomes one segment, and all of them one run group in one transaction."""

from __future__ import annotations

import dataclasses
import gzip
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import duckdb

from evaluator.errors import InputError, StoreError
from evaluator.records import (
    FilePlan,
    Landed,
    LandingPlan,
    LeftOut,
    LeftOutKind,
    Release,
    Run,
    RunState,
    choose_bucket_s,
)
from evaluator.segments import segment_name
from evaluator.store import catalogue
from evaluator.store.clean_csv import write_clean_segment
from evaluator.store.engine import Engine, attach, open_engine, quote, transaction
from evaluator.store.foreign import (
    GOOD,
    find_bad_row,
    find_period,
    find_rejected,
    mark_strays,
    select_rows,
    split_mark,
    word_rejection,
)
from evaluator.store.inspection import Inspection
from evaluator.store.landing import Segment, Target, write_cells, write_manifest
from evaluator.store.leftovers import landing_in, remove_killed
from evaluator.store.migrations import prepare_data_dir
from evaluator.store.rollup import find_grid_us, roll_up
from evaluator.store.sub_results import forget_sub_results
from evaluator.wording import list_left_out

__all__ = ["Place", "import_files"]

AHEAD = timedelta(hours=1)
"""How far the clock of who wrote a file may be ahead of ours."""

AHEAD_LOCAL = timedelta(hours=15)
"""As much for a time of day, which may be local: fourteen hours ahead of UTC at the most, and a clock."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the runs of an import go: the store, and the folder of each run."""

    store: Path
    folders: Mapping[str, Path]
    wait_s: float


@dataclass(frozen=True, slots=True)
class _Part:
    """One file that has become a segment."""

    run: Run
    file: FilePlan
    path: Path
    rows: int
    first: datetime
    last: datetime
    left_out: tuple[LeftOut, ...] = ()


def import_files(place: Place, release: Release, runs: Sequence[Run], plan: LandingPlan) -> Landed:
    """Land the files of a plan as `runs` (by replicate). Files that have landed before change nothing."""
    prepare_data_dir(place.store)
    remove_killed(place.store, place.wait_s)
    with Inspection(plan.files) as inspection:
        if _has_landings(place, release.id) and (found := _find_landed(place, release.id, inspection.hashes())):
            return found
        with landing_in(place.store, place.folders.values()), open_engine() as engine:
            convert = partial(_convert, engine, place, plan, inspection)
            parts = [convert(_run_of(file, runs), file) for file in plan.files]
            return _write(engine, place, release, parts, inspection.hashes())


def _run_of(file: FilePlan, runs: Sequence[Run]) -> Run:
    return next(run for run in runs if run.replicate == file.replicate)


# ------------------------------------------------------------------ twice


def _has_landings(place: Place, release_id: str) -> bool:
    with open_engine() as engine, attach(engine, place.store, write=False, wait_s=place.wait_s):
        return bool(engine.execute("SELECT 1 FROM store.runs WHERE release = ? LIMIT 1", [release_id]).fetchall())


def _find_landed(place: Place, release_id: str, hashes: Mapping[FilePlan, str]) -> Landed | None:
    with open_engine() as engine, attach(engine, place.store, write=False, wait_s=place.wait_s):
        return _match_landed(engine, release_id, hashes)


def _match_landed(engine: Engine, release_id: str, hashes: Mapping[FilePlan, str]) -> Landed | None:
    """Tell whether these files have landed as one group; none of them: `None`. Raises InputError where some have."""
    rows = engine.execute(
        """SELECT runs."group", replicate, sha256, runs.id FROM store.segments
        JOIN store.runs ON runs.id = segments.run WHERE release = ? ORDER BY ALL""",
        [release_id],
    ).fetchall()
    wanted = {(file.replicate, sha256) for file, sha256 in hashes.items()}
    for group in dict.fromkeys(row[0] for row in rows):
        if wanted <= {(row[1], row[2]) for row in rows if row[0] == group}:
            ids = tuple(dict.fromkeys(row[3] for row in rows if row[0] == group))
            return Landed(already=len(wanted), runs=ids)
    landed = {row[2]: row[3] for row in rows}
    for file, sha256 in hashes.items():
        if sha256 in landed:
            raise InputError(
                f"{file.path} has been imported into '{release_id}' already (run {landed[sha256]});"
                " together with the other files it would count twice",
                hint="give only the new files, or import all of them under another release id",
            )
    return None


# ------------------------------------------------------------------ a file becomes a segment


def _convert(
    engine: Engine, place: Place, plan: LandingPlan, inspection: Inspection, run: Run, file: FilePlan
) -> _Part:
    """Make a segment of one file: in one pass where nothing is wrong with it, else by SQL, which tells what is."""
    path = place.folders[run.id] / segment_name(file.arm, file.replicate)
    latest = _find_latest(file)
    constants = {"run": run.id, "arm": file.arm, "service": plan.service}
    try:
        if not file.sensitive and (part := _convert_clean(engine, path, run, file, constants, latest, inspection)):
            return part
        with _rewritten(file) as readable:
            part = _convert_any(engine, path, run, readable, constants, latest, skip=plan.skip_bad_rows)
            return dataclasses.replace(part, file=file)
    except InputError:
        inspection.verify(file)
        raise
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error


def _find_latest(file: FilePlan) -> datetime:
    """Tell the latest time that a request of a file may have."""
    unit = next(column.unit for column in file.layout.columns if column.target == "ts")
    return datetime.now(UTC) + (AHEAD_LOCAL if unit == "iso" else AHEAD)


def _convert_clean(
    engine: Engine,
    path: Path,
    run: Run,
    file: FilePlan,
    constants: Mapping[str, str],
    latest: datetime,
    inspection: Inspection,
) -> _Part | None:
    staged = path.with_name(path.name + ".tmp")
    done = write_clean_segment(engine, file, staged, constants, latest)
    if done is None or not inspection.has_plain_quotes(file):
        return None
    staged.replace(path)
    summaries = LeftOut(file.arm, LeftOutKind.SUMMARY, done.summaries, done.failed_summaries)
    return _Part(run, file, path, done.rows, done.first, done.last, (summaries,) if summaries.rows else ())


@contextmanager
def _rewritten(file: FilePlan) -> Iterator[FilePlan]:
    """Rewrite what the engine cannot read, for as long as that takes."""
    if file.layout.rewrite is None:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="evaluator-") as folder:
        target = Path(folder) / "rewritten.parquet"
        try:
            file.layout.rewrite(Path(file.path), target)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{file.path} is cut short or damaged: {error}", hint="fetch it again") from error
        except OSError as error:
            raise InputError(f"{file.path} cannot be rewritten as a table: {error.strerror or error}") from error
        yield dataclasses.replace(file, rewritten=str(target))


def _convert_any(
    engine: Engine,
    path: Path,
    run: Run,
    file: FilePlan,
    constants: Mapping[str, str],
    latest: datetime,
    *,
    skip: bool,
) -> _Part:
    staged = path.with_name(path.name + ".tmp")
    with _reading(file, staged):
        file = forget_sub_results(engine, file) if file.layout.reader == "csv" else file
        # What belongs to a request is told by the order of the rows.
        engine.execute(f"SET preserve_insertion_order = {'true' if file.layout.sub_results else 'false'}")
        engine.execute(f"COPY ({select_rows(file, latest)}) TO {quote(str(staged))} (FORMAT parquet)", dict(constants))
        engine.execute("SET preserve_insertion_order = false")
    period = find_period(engine, staged)
    mark = mark_strays(period)
    good, marked = _count_marks(engine, staged, mark, file.arm)
    rejected = find_rejected(engine, file)
    bad = sum(part.rows for part in marked if part.kind is LeftOutKind.BAD_ROW) + rejected.count
    if bad and not skip:
        raise find_bad_row(engine, file, latest, period, rejected, bad)
    left_out = (*marked, LeftOut(file.arm, LeftOutKind.BAD_ROW, rejected.count)) if rejected.count else marked
    if not good:
        hint = file.layout.advice if left_out else "the tool that wrote it has recorded no request"
        raise InputError(_say_no_request(file, left_out), hint=hint or None)
    _keep_good(engine, staged, path, mark, all_good=not marked)
    first, last = engine.execute("SELECT min(ts), max(ts) FROM read_parquet(?)", [str(path)]).fetchall()[0]
    return _Part(run, file, path, good, first.astimezone(UTC), last.astimezone(UTC), left_out)


@contextmanager
def _reading(file: FilePlan, target: Path) -> Iterator[None]:
    """Turn what DuckDB says of a file that it cannot read into an InputError; what it says of `target` is not that."""
    try:
        yield
    except duckdb.Error as error:
        if isinstance(error, duckdb.IOException) and "GZIP" not in str(error) and file.path not in str(error):
            raise
        if isinstance(error, duckdb.OutOfMemoryException) or str(target) in str(error):
            raise
        hint = "fetch it again" if file.path.endswith(".gz") else "write it anew with the tool that it is from"
        raise InputError(f"{file.path} cannot be read: {word_rejection(str(error))}", hint=hint) from error


def _count_marks(engine: Engine, staged: Path, mark: str, arm: str) -> tuple[int, tuple[LeftOut, ...]]:
    """Count requests, and what is left out by kind; beyond some twenty names of one kind, the rest has none."""
    rows = engine.execute(
        f"SELECT {mark} AS mark, count(*) AS n, count(*) FILTER (failed) FROM read_parquet(?)"
        " GROUP BY ALL ORDER BY n DESC, mark",
        [str(staged)],
    ).fetchall()
    good = sum(count for found, count, _ in rows if found == GOOD)
    counts: Counter[tuple[LeftOutKind, str]] = Counter()
    failures: Counter[tuple[LeftOutKind, str]] = Counter()
    for found, count, failed in rows:
        if found != GOOD:
            kind, detail = split_mark(found)
            key = (kind, detail if len(counts) < _MOST_NAMES else "")
            counts[key] += count
            failures[key] += failed
    return good, tuple(LeftOut(arm, kind, n, failures[kind, detail], detail) for (kind, detail), n in counts.items())


_MOST_NAMES = 20


def _say_no_request(file: FilePlan, left_out: Sequence[LeftOut]) -> str:
    """Say what the rows of a file are, none of which is a request."""
    rows = sum(part.rows for part in left_out)
    if not rows:
        return f"{file.path} has no row of a request"
    if {part.kind for part in left_out} == {LeftOutKind.SUMMARY}:
        return f"{file.path}: all {rows:,} rows sum up transactions: it has no row of a single request"
    return f"{file.path} has no request that can be used; its {rows:,} rows are {list_left_out(left_out)}"


def _keep_good(engine: Engine, staged: Path, path: Path, mark: str, *, all_good: bool) -> None:
    """Give the segment its name; write it again without the marked rows only where there are any."""
    if all_good:
        staged.replace(path)
        return
    again = path.with_name(path.name + ".again.tmp")
    engine.execute(
        f"COPY (SELECT * FROM read_parquet({quote(str(staged))}) WHERE {mark} = '{GOOD}')"
        f" TO {quote(str(again))} (FORMAT parquet)"
    )
    again.replace(path)
    staged.unlink()


# ------------------------------------------------------------------ segments become runs


def _write(
    engine: Engine, place: Place, release: Release, parts: Sequence[_Part], hashes: Mapping[FilePlan, str]
) -> Landed:
    runs = _close_runs(parts)
    bucket_s = choose_bucket_s(max((part.last - part.first).total_seconds() for part in parts))
    grids = [_roll_up_run(engine, parts, run, bucket_s, f"_{k}") for k, run in enumerate(runs)]
    with attach(engine, place.store, write=True, wait_s=place.wait_s), transaction(engine):
        if found := _match_landed(engine, release.id, hashes):
            return found
        catalogue.add_release(engine, release)
        for k, (run, grid_us) in enumerate(zip(runs, grids, strict=True)):
            catalogue.add_group(engine, run, bucket_s)
            code = catalogue.add_run(engine, run)
            write_cells(engine, code, grid_us, f"_{k}")
            target = Target(place.store, run.id, code, bucket_s, place.folders[run.id], place.wait_s)
            segments = [Segment(part.path, part.rows, hashes[part.file]) for part in parts if part.run.id == run.id]
            write_manifest(engine, target, segments)
    return Landed(
        rows=sum(part.rows for part in parts),
        segments=len(parts),
        left_out=_sum_left_out(parts),
        runs=tuple(run.id for run in runs),
    )


def _close_runs(parts: Sequence[_Part]) -> list[Run]:
    """Complete the runs by what their files say: when they began and ended, and what was skipped."""
    return [_close_run(run, [part for part in parts if part.run == run]) for run in _distinct_runs(parts)]


def _distinct_runs(parts: Sequence[_Part]) -> list[Run]:
    return list({part.run.id: part.run for part in parts}.values())


def _close_run(run: Run, parts: Sequence[_Part]) -> Run:
    last = max(part.last for part in parts)
    facts = dataclasses.replace(run.facts, read=_count_read(parts), left_out=_sum_left_out(parts))
    return dataclasses.replace(
        run,
        started=min(part.first for part in parts),
        planned_end=run.planned_end or last,
        ended=last,
        state=RunState.COMPLETE,
        facts=facts,
    )


def _count_read(parts: Sequence[_Part]) -> dict[str, int]:
    """Count the rows of each arm that were read."""
    read: Counter[str] = Counter()
    for part in parts:
        read[part.file.arm] += part.rows + sum(left_out.rows for left_out in part.left_out)
    return dict(read)


def _sum_left_out(parts: Sequence[_Part]) -> tuple[LeftOut, ...]:
    """Sum up what the files left out, by arm and kind."""
    rows: Counter[tuple[str, LeftOutKind, str]] = Counter()
    failures: Counter[tuple[str, LeftOutKind, str]] = Counter()
    for left_out in (left_out for part in parts for left_out in part.left_out):
        key = left_out.arm, left_out.kind, left_out.detail
        rows[key] += left_out.rows
        failures[key] += left_out.failures
    return tuple(LeftOut(arm, kind, n, failures[arm, kind, detail], detail) for (arm, kind, detail), n in rows.items())


def _roll_up_run(engine: Engine, parts: Sequence[_Part], run: Run, bucket_s: int, name: str) -> int:
    roll_up(engine, [part.path for part in parts if part.run.id == run.id], bucket_s, name)
    return find_grid_us(engine, name)
