"""Files of other tools land: each becomes one segment, and all of them one run group in one transaction."""

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
)
from evaluator.segments import run_folder, segment_name
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
from evaluator.store.landed_files import find_landed, find_same, hash_files, match_landed
from evaluator.store.landing import Segment, Target, write_cells, write_manifest
from evaluator.store.leftovers import landing_in, remove_killed
from evaluator.store.migrations import data_dir_of, prepare_data_dir
from evaluator.store.rollup import find_grid_us, roll_up
from evaluator.store.run_segments import SegmentRows, TimeLimits, count_inside, find_pause_s, give_run
from evaluator.store.sub_results import forget_sub_results
from evaluator.wording import list_left_out

__all__ = ["Place", "import_files"]

AHEAD = timedelta(hours=1)
"""How far the clock of who wrote a file may be ahead of ours."""

AHEAD_LOCAL = timedelta(hours=15)
"""As much for a time of day, which may be local: fourteen hours ahead of UTC at the most, and a clock."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the runs of an import go."""

    store: Path
    wait_s: float

    def folder(self, run: Run) -> Path:
        """Folder of the segments of a run."""
        return run_folder(data_dir_of(self.store), run.release, run.id)


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


def import_files(place: Place, release: Release, group: str, plan: LandingPlan, arrange: ArrangeFiles) -> Landed:
    """Land the files of a plan as the runs of `group`. Files that have landed before change nothing."""
    prepare_data_dir(place.store)
    remove_killed(place.store, place.wait_s)
    with Inspection(plan.files) as inspection:
        if found := find_landed(place.store, place.wait_s, release.id, plan, inspection):
            return found
        staged = Run(group, release.id, group, "import")
        with landing_in(place.store, [place.folder(staged)]), open_engine() as engine:
            parts = [_convert(engine, place, plan, inspection, staged, file) for file in plan.files]
            same = find_same(inspection.contents())
            arranged = arrange(plan, [_time_file(engine, part, plan) for part in parts])
            counted = _count_period(engine, plan, parts)
            runs = _make_runs(staged, arranged, {file for file, rows in counted.items() if rows.inside})
            with landing_in(place.store, {place.folder(run) for run in runs.values() if run.id != group}):
                parts = [_move(engine, place, plan, part, runs[part.file], counted[part.file]) for part in parts]
                landed = _write(engine, place, release, parts, hash_files(plan, inspection))
            return dataclasses.replace(landed, why=arranged.why, doubts=(*same, *arranged.doubts))


# ------------------------------------------------------------------ a file becomes a segment


def _convert(
    engine: Engine, place: Place, plan: LandingPlan, inspection: Inspection, run: Run, file: FilePlan
) -> _Part:
    """Make a segment of one file: in one pass where nothing is wrong with it, else by SQL, which tells what is."""
    path = place.folder(run) / segment_name(file.arm, file.number)
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


def _time_file(engine: Engine, part: _Part, plan: LandingPlan) -> FileTimes:
    """Tell when the requests of a file were made; its pauses only where they matter."""
    if counts_from_start(part.last) and (plan.start or plan.end):
        raise InputError(
            f"the times of {part.file.path} count from the start of a test and not from 1970: "
            "--from and --to cannot choose among them",
            hint="leave --from and --to out, or cut the file",
        )
    alone = sum(file.arm == part.file.arm for file in plan.files) == 1
    pause_s = 0.0 if alone or counts_from_start(part.last) else find_pause_s(engine, part.path)
    return FileTimes(part.file, part.first, part.last, pause_s)


def _count_period(engine: Engine, plan: LandingPlan, parts: Sequence[_Part]) -> dict[FilePlan, SegmentRows]:
    """Count the rows of each file in the period that was asked for. Raises InputError where an arm has none."""
    limits = TimeLimits(plan.start, plan.end)
    counted = {
        part.file: SegmentRows(part.rows, 0, 0, part.first, part.last)
        if limits.hold(part.first, part.last)
        else count_inside(engine, part.path, limits)
        for part in parts
    }
    for arm in dict.fromkeys(part.file.arm for part in parts):
        own = [part for part in parts if part.file.arm == arm]
        if not any(counted[part.file].inside for part in own):
            first, last = min(part.first for part in own), max(part.last for part in own)
            raise InputError(
                f"no request of {arm} is in the period of --from and --to: the requests of its files were made from "
                f"{first:%Y-%m-%dT%H:%M:%SZ} to {last:%Y-%m-%dT%H:%M:%SZ}",
                hint="give a period in which all arms were under load",
            )
    return counted


def _make_runs(staged: Run, arranged: FileRuns, filled: Collection[FilePlan]) -> dict[FilePlan, Run]:
    """Say of which run each file is. A run without a request in the period is none: its files go to the first run."""
    found = [files for files in arranged.runs if any(file in filled for file in files)]
    left = [file for files in arranged.runs if files not in found for file in files]
    runs: dict[FilePlan, Run] = {}
    for k, files in enumerate([(*found[0], *left), *found[1:]]):
        paths = {arm: [file.path for file in files if file.arm == arm] for arm in dict.fromkeys(f.arm for f in files)}
        fingerprint: dict[str, object] = {"files": paths}
        if arranged.said:
            fingerprint["files_are"] = arranged.said
        if arranged.overlapping:
            fingerprint["replicates_overlap"] = True
        name = f"{staged.id}-{k + 1}" if k else staged.id
        run = dataclasses.replace(staged, id=name, replicate=k, fingerprint=fingerprint)
        runs |= dict.fromkeys(files, run)
    return runs


def _move(engine: Engine, place: Place, plan: LandingPlan, part: _Part, run: Run, rows: SegmentRows) -> _Part:
    """Give a segment the run that it is of, and cut it to the period that was asked for."""
    path = place.folder(run) / part.path.name
    if path == part.path and not rows.outside:
        return dataclasses.replace(part, run=run)
    give_run(engine, part.path, path, run.id, TimeLimits(plan.start, plan.end))
    outside = LeftOut(part.file.arm, LeftOutKind.OUTSIDE_PERIOD, rows.outside, rows.failures_outside)
    return dataclasses.replace(
        part,
        run=run,
        path=path,
        rows=rows.inside,
        first=rows.first or part.first,
        last=rows.last or part.last,
        left_out=(*part.left_out, outside) if rows.outside else part.left_out,
    )


def _write(
    engine: Engine, place: Place, release: Release, parts: Sequence[_Part], hashes: Mapping[FilePlan, str]
) -> Landed:
    runs = _close_runs(parts)
    bucket_s = choose_bucket_s(max(_spans_s(parts)))
    grids = [_roll_up_run(engine, parts, run, bucket_s, f"_{k}") for k, run in enumerate(runs)]
    with attach(engine, place.store, write=True, wait_s=place.wait_s), transaction(engine):
        if found := match_landed(engine, release.id, hashes):
            return found
        catalogue.add_release(engine, release)
        for k, (run, grid_us) in enumerate(zip(runs, grids, strict=True)):
            catalogue.add_group(engine, run, bucket_s)
            code = catalogue.add_run(engine, run)
            write_cells(engine, code, grid_us, f"_{k}")
            target = Target(place.store, run.id, code, bucket_s, place.folder(run), place.wait_s)
            segments = [Segment(part.path, part.rows, hashes[part.file]) for part in parts if part.run.id == run.id]
            write_manifest(engine, target, segments)
    counts = Counter((part.run.id, part.file.arm) for part in parts if part.rows)
    return Landed(
        rows=sum(part.rows for part in parts),
        segments=len(parts),
        left_out=_sum_left_out(parts),
        runs=tuple(run.id for run in runs),
        parts=tuple(sorted(set(counts.values()))),
    )


def _spans_s(parts: Sequence[_Part]) -> list[float]:
    """How long each arm was under load in each run."""
    times: dict[tuple[str, str], list[datetime]] = {}
    for part in parts:
        if part.rows:
            times.setdefault((part.run.id, part.file.arm), []).extend((part.first, part.last))
    return [(max(own) - min(own)).total_seconds() for own in times.values()]


def _close_runs(parts: Sequence[_Part]) -> list[Run]:
    """Complete the runs by what their files say: when they began and ended, and what was skipped."""
    runs = {part.run.id: part.run for part in parts}
    ordered = sorted(runs.values(), key=lambda run: run.replicate)
    return [_close_run(run, [part for part in parts if part.run.id == run.id]) for run in ordered]


def _close_run(run: Run, parts: Sequence[_Part]) -> Run:
    filled = [part for part in parts if part.rows]
    last = max(part.last for part in filled)
    facts = dataclasses.replace(run.facts, read=_count_read(parts), left_out=_sum_left_out(parts))
    return dataclasses.replace(
        run,
        started=min(part.first for part in filled),
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
