"""Landing of files of other tools: each becomes one segment, and all of them one run group, in one transaction."""

from __future__ import annotations

import dataclasses
import gzip
import tempfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from evaluator.errors import InputError, StoreError
from evaluator.records import (
    ArrangeFiles,
    FilePlan,
    FileRuns,
    FileTimes,
    Landed,
    LandingPlan,
    LeftOut,
    LeftOutKind,
    Release,
    Run,
    RunState,
    choose_bucket_s,
    counts_from_start,
    sum_left_out,
)
from evaluator.segments import segment_name, written_whole
from evaluator.store import foreign
from evaluator.store.clean_csv import write_clean_segment
from evaluator.store.control import Control
from evaluator.store.engine import Engine, open_engine, quote
from evaluator.store.file import StoreFile
from evaluator.store.inspection import Inspection, find_landed, find_same, hash_files, match_landed
from evaluator.store.landing import Segment, write_cells, write_manifest
from evaluator.store.leftovers import landing_in, remove_killed
from evaluator.store.migrations import prepare_folder
from evaluator.store.rollup import find_grid_us, roll_up
from evaluator.store.runs import add_run
from evaluator.store.sub_results import forget_sub_results
from evaluator.wording import list_left_out

AHEAD = timedelta(hours=1)
"""How far the clock of the machine that wrote a file may be ahead of ours."""

AHEAD_LOCAL = timedelta(hours=15)
"""The same for a time as text, which may be local: up to fourteen hours ahead of UTC, and one for the clock."""

_INSIDE = """ts >= coalesce(CAST($start AS TIMESTAMPTZ), '-infinity'::TIMESTAMPTZ)
    AND ts < coalesce(CAST($end AS TIMESTAMPTZ), 'infinity'::TIMESTAMPTZ)"""
"""Condition that a row is in the period: from `start` on and before `end`; `None` is no limit on that side."""

_MOST_NAMES = 20
"""Most kinds of left-out rows of one file that are named."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One file that has become a segment: its rows in the requested period, and their times."""

    run: Run
    file: FilePlan
    path: Path
    rows: int
    first: datetime
    last: datetime
    left_out: tuple[LeftOut, ...] = ()
    outside: LeftOut | None = None
    """Rows of the segment that are outside of the period."""


def import_files(
    store: StoreFile, control: Control, release: Release, group: str, plan: LandingPlan, arrange: ArrangeFiles
) -> Landed:
    """Land the files of a plan as the runs of `group`. Files that have landed before change nothing."""
    prepare_folder(store)
    remove_killed(store)
    with Inspection(plan.files) as inspection:
        if landed := find_landed(store, release.id, plan, inspection):
            return landed
        staged = Run(group, release.id, group, "import")
        folder = store.run_folder(release.id, group)
        with landing_in(store, [folder]), open_engine() as engine:
            parts = [_convert(engine, folder, plan, inspection, staged, file) for file in plan.files]
            same = find_same(plan.files, inspection)
            arranged = arrange(plan, [_time_file(engine, part, plan) for part in parts])
            parts = _count_period(engine, plan, parts)
            runs = _make_runs(staged, arranged, {part.file for part in parts if part.rows})
            folders = {run.id: store.run_folder(release.id, run.id) for run in runs.values()}
            with landing_in(store, [folder for name, folder in folders.items() if name != group]):
                moved = [_move(engine, folders[runs[part.file].id], plan, part, runs[part.file]) for part in parts]
                landed = _write(engine, store, control, release, moved, hash_files(plan, inspection))
            return dataclasses.replace(landed, why=arranged.why, doubts=(*same, *arranged.doubts))


# ------------------------------------------------------------------ a file becomes a segment


def _convert(
    engine: Engine, folder: Path, plan: LandingPlan, inspection: Inspection, run: Run, file: FilePlan
) -> _Part:
    """Make a segment of one file: in one pass where it has no fault, else by SQL, which finds the fault."""
    path = folder / segment_name(file.arm, file.number)
    staged = path.with_name(path.name + ".tmp")
    unit = next(column.unit for column in file.layout.columns if column.target == "ts")
    latest = datetime.now(UTC) + (AHEAD_LOCAL if unit == "iso" else AHEAD)
    constants = {"run": run.id, "arm": file.arm, "service": plan.service}
    try:
        clean = None if file.sensitive else write_clean_segment(engine, file, staged, constants, latest)
        if clean is not None and inspection.read(file).has_plain_quotes:
            staged.replace(path)
            return _Part(run, file, path, clean.rows, clean.first, clean.last, clean.left_out)
        with _rewritten(file) as readable:
            left_out = _convert_any(engine, staged, path, readable, constants, latest, skip=plan.skip_bad_rows)
        query = "SELECT count(*), min(ts), max(ts) FROM read_parquet(?)"
        [(rows, first, last)] = engine.execute(query, [str(path)]).fetchall()
        return _Part(run, file, path, rows, first.astimezone(UTC), last.astimezone(UTC), left_out)
    except InputError:
        inspection.read(file)
        raise
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def _rewritten(file: FilePlan) -> Iterator[FilePlan]:
    """Rewrite a file that the engine cannot read as Parquet; the copy is deleted at the end."""
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
    staged: Path,
    path: Path,
    file: FilePlan,
    constants: Mapping[str, str],
    latest: datetime,
    *,
    skip: bool,
) -> tuple[LeftOut, ...]:
    """Write the requests of a file as a segment at `path`, through `staged`; returns the rows left out.

    Raises InputError where a row is bad, unless such rows are to be skipped, and where there is no request.
    """
    file = _stage(engine, staged, file, constants, latest)
    middle = foreign.find_middle(engine, staged)
    mark = foreign.mark_strays(middle)
    rows = engine.execute(
        f"""SELECT {mark} AS mark, count(*) AS n, count(*) FILTER (failed) FROM read_parquet(?)
        GROUP BY ALL ORDER BY n DESC, mark""",
        [str(staged)],
    ).fetchall()
    others = [(*foreign.split_mark(name), n, failed) for name, n, failed in rows if name != foreign.GOOD]
    marked = [
        LeftOut(file.arm, kind, n, failed, detail if k < _MOST_NAMES else "")
        for k, (kind, detail, n, failed) in enumerate(others)
    ]
    rejected = foreign.find_rejected(engine, file)
    bad = sum(part.rows for part in marked if part.kind is LeftOutKind.BAD_ROW) + rejected.count
    if bad and not skip:
        raise foreign.find_bad_row(engine, file, latest, middle, rejected, bad)
    refused = [LeftOut(file.arm, LeftOutKind.BAD_ROW, rejected.count)] if rejected.count else []
    left_out = (*sum_left_out(marked), *refused)
    if all(name != foreign.GOOD for name, *_ in rows):
        count = sum(part.rows for part in left_out)
        if not count:
            text = f"{file.path} has no request"
        elif {part.kind for part in left_out} == {LeftOutKind.SUMMARY}:
            text = f"{file.path} has no single request: all {count:,} rows sum up transactions"
        else:
            text = f"{file.path} has no request that can be used; its {count:,} rows are {list_left_out(left_out)}"
        hint = file.layout.advice if left_out else "check that the tool recorded requests"
        raise InputError(text, hint=hint or None)
    if not marked:
        staged.replace(path)
        return left_out
    query = f"SELECT * FROM read_parquet({quote(staged)}) WHERE {mark} = '{foreign.GOOD}'"
    with written_whole(path) as unfinished:
        engine.execute(f"COPY ({query}) TO {quote(unfinished)} (FORMAT parquet)")
    staged.unlink()
    return left_out


def _stage(engine: Engine, staged: Path, file: FilePlan, constants: Mapping[str, str], latest: datetime) -> FilePlan:
    """Write all rows of a file with their marks; returns the file as it was read.

    An error of DuckDB about the file becomes an InputError; one about `staged` does not.
    """
    try:
        if file.layout.reader == "csv":
            file = forget_sub_results(engine, file)
        # The order of the rows shows which of them are parts of a request.
        engine.execute(f"SET preserve_insertion_order = {'true' if file.layout.sub_results else 'false'}")
        engine.execute(
            f"COPY ({foreign.select_rows(file, latest)}) TO {quote(staged)} (FORMAT parquet)", dict(constants)
        )
        engine.execute("SET preserve_insertion_order = false")
    except duckdb.Error as error:
        if isinstance(error, duckdb.IOException) and "GZIP" not in str(error) and file.path not in str(error):
            raise
        if isinstance(error, duckdb.OutOfMemoryException) or str(staged) in str(error):
            raise
        hint = "fetch it again" if file.path.endswith(".gz") else "write it again with the tool that made it"
        raise InputError(f"{file.path} cannot be read: {foreign.word_rejection(str(error))}", hint=hint) from error
    return file


# ------------------------------------------------------------------ segments become runs


def _time_file(engine: Engine, part: _Part, plan: LandingPlan) -> FileTimes:
    """Find when the requests of a file were made, and its longest pause where that matters."""
    if counts_from_start(part.last) and (plan.start or plan.end):
        raise InputError(
            f"the times of {part.file.path} count from the start of a test, not from 1970, "
            "so --from and --to cannot select them",
            hint="leave --from and --to out, or cut the file",
        )
    alone = sum(file.arm == part.file.arm for file in plan.files) == 1
    if alone or counts_from_start(part.last):
        return FileTimes(part.file, part.first, part.last, 0.0)
    # The longest time between two requests, to the second.
    [(pause_s,)] = engine.execute(
        """SELECT coalesce(max(second - before), 0) FROM (
            SELECT second, lag(second) OVER (ORDER BY second) AS before
            FROM (SELECT DISTINCT epoch_us(ts) // 1000000 AS second FROM read_parquet(?)))""",
        [str(part.path)],
    ).fetchall()
    return FileTimes(part.file, part.first, part.last, float(pause_s))


def _count_period(engine: Engine, plan: LandingPlan, parts: Sequence[_Part]) -> list[_Part]:
    """Count the rows of each file in the requested period. Raises InputError where an arm has none."""
    counted = []
    for part in parts:
        if (plan.start is None or plan.start <= part.first) and (plan.end is None or part.last < plan.end):
            counted.append(part)
            continue
        [(rows, outside, failures, first, last)] = engine.execute(
            f"""SELECT
                count(*) FILTER (inside), count(*) FILTER (NOT inside), count(*) FILTER (NOT inside AND failed),
                min(ts) FILTER (inside), max(ts) FILTER (inside)
            FROM (SELECT ts, failed, {_INSIDE} AS inside FROM read_parquet($path))""",
            {"path": str(part.path), "start": plan.start, "end": plan.end},
        ).fetchall()
        period = {"first": first.astimezone(UTC), "last": last.astimezone(UTC)} if rows else {}
        left_out = LeftOut(part.file.arm, LeftOutKind.OUTSIDE_PERIOD, outside, failures)
        counted.append(dataclasses.replace(part, rows=rows, outside=left_out, **period))
    for arm in dict.fromkeys(part.file.arm for part in parts):
        if not any(part.rows for part in counted if part.file.arm == arm):
            own = [part for part in parts if part.file.arm == arm]
            first, last = min(part.first for part in own), max(part.last for part in own)
            raise InputError(
                f"no request of {arm} is in the period of --from and --to: the requests of its files were made from "
                f"{first:%Y-%m-%dT%H:%M:%SZ} to {last:%Y-%m-%dT%H:%M:%SZ}",
                hint="give a period in which all arms were under load",
            )
    return counted


def _make_runs(staged: Run, arranged: FileRuns, filled: Collection[FilePlan]) -> dict[FilePlan, Run]:
    """Assign a run to each file. Files of a run without requests in the period go to the first run."""
    used = [files for files in arranged.runs if any(file in filled for file in files)]
    unused = [file for files in arranged.runs if files not in used for file in files]
    runs: dict[FilePlan, Run] = {}
    for k, files in enumerate([(*used[0], *unused), *used[1:]]):
        paths = {arm: [file.path for file in files if file.arm == arm] for arm in dict.fromkeys(f.arm for f in files)}
        fingerprint: dict[str, object] = {"files": paths}
        if arranged.declared:
            fingerprint["files_are"] = arranged.declared
        if arranged.overlapping:
            fingerprint["replicates_overlap"] = True
        name = f"{staged.id}-{k + 1}" if k else staged.id
        run = dataclasses.replace(staged, id=name, replicate=k, fingerprint=fingerprint)
        runs |= dict.fromkeys(files, run)
    return runs


def _move(engine: Engine, folder: Path, plan: LandingPlan, part: _Part, run: Run) -> _Part:
    """Write the run into the rows of a segment, and cut it to the requested period."""
    path = folder / part.path.name
    if path == part.path and part.outside is None:
        return dataclasses.replace(part, run=run)
    with written_whole(path) as unfinished:
        engine.execute(
            f"""COPY (SELECT * REPLACE (CAST($run AS VARCHAR) AS run) FROM read_parquet($path) WHERE {_INSIDE})
            TO {quote(unfinished)} (FORMAT parquet)""",
            {"run": run.id, "path": str(part.path), "start": plan.start, "end": plan.end},
        )
    if path != part.path:
        part.path.unlink()
    left_out = (*part.left_out, part.outside) if part.outside else part.left_out
    return dataclasses.replace(part, run=run, path=path, left_out=left_out, outside=None)


def _write(
    engine: Engine,
    store: StoreFile,
    control: Control,
    release: Release,
    parts: Sequence[_Part],
    hashes: Mapping[FilePlan, str],
) -> Landed:
    """Roll the segments of each run up, and write all runs with their cells and manifests in one transaction."""
    of_run = {run.id: [part for part in parts if part.run.id == run.id] for run in (part.run for part in parts)}
    runs = sorted((_close_run(own) for own in of_run.values()), key=lambda run: run.replicate)
    of_arm: dict[tuple[str, str], list[_Part]] = {}
    for part in parts:
        if part.rows:
            of_arm.setdefault((part.run.id, part.file.arm), []).append(part)
    spans = [max(part.last for part in own) - min(part.first for part in own) for own in of_arm.values()]
    bucket_s = choose_bucket_s(max(spans).total_seconds())
    grids = {}
    for k, run in enumerate(runs):
        roll_up(engine, [part.path for part in of_run[run.id]], bucket_s, f"_{k}")
        grids[run.id] = find_grid_us(engine, f"_{k}")
    with control.landing(release), store.attached(engine, write=True):
        if landed := match_landed(engine, release.id, hashes):
            return landed
        for k, run in enumerate(runs):
            add_run(engine, run, bucket_s)
            write_cells(engine, run.id, grids[run.id], f"_{k}")
            segments = [Segment(part.path, part.rows, hashes[part.file]) for part in of_run[run.id]]
            write_manifest(engine, store, run.id, segments)
    return Landed(
        rows=sum(part.rows for part in parts),
        segments=len(parts),
        left_out=sum_left_out(left_out for part in parts for left_out in part.left_out),
        runs=tuple(run.id for run in runs),
        parts=tuple(sorted({len(own) for own in of_arm.values()})),
    )


def _close_run(parts: Sequence[_Part]) -> Run:
    """Complete a run from its files: when it began and ended, which rows were read and left out."""
    run = parts[0].run
    filled = [part for part in parts if part.rows]
    last = max(part.last for part in filled)
    read: Counter[str] = Counter()
    for part in parts:
        read[part.file.arm] += part.rows + sum(left_out.rows for left_out in part.left_out)
    left_out = sum_left_out(left_out for part in parts for left_out in part.left_out)
    return dataclasses.replace(
        run,
        started=min(part.first for part in filled),
        planned_end=run.planned_end or last,
        ended=last,
        state=RunState.COMPLETE,
        facts=dataclasses.replace(run.facts, read=dict(read), left_out=left_out),
    )
