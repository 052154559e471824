"""Landing of files of other tools: each becomes one segment, and all of them one run group, in one transaction."""

from __future__ import annotations

import dataclasses
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
from evaluator.segments import segment_name, to_folder_name, written_whole
from evaluator.store import foreign
from evaluator.store.clean_csv import write_clean_segment
from evaluator.store.control import Control
from evaluator.store.engine import Engine, escape_file, open_engine, quote, quote_file
from evaluator.store.expressions import is_text_time
from evaluator.store.file import StoreFile
from evaluator.store.inspection import Inspection, find_landed, find_same, hash_files, match_landed
from evaluator.store.landing import Segment, write_cells, write_manifest
from evaluator.store.leftovers import landing_in, remove_killed
from evaluator.store.migrations import prepare_folder
from evaluator.store.readable import made_readable
from evaluator.store.rejections import word_rejection
from evaluator.store.rollup import choose_units_per_ms, find_grid, roll_up
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
class _ConvertedFile:
    """One file that has become a segment: its requests in the requested period, and the times of the first and last."""

    run: Run
    file: FilePlan
    path: Path
    rows: int
    first_request: datetime
    last_request: datetime
    left_out: tuple[LeftOut, ...] = ()
    outside: LeftOut | None = None
    """Rows of the segment that are outside of the period."""


def import_files(
    store: StoreFile, control: Control, release: Release, group: str, plan: LandingPlan, arrange: ArrangeFiles
) -> Landed:
    """Land the files of a plan as the runs of `group`, all or none, and return what landed.

    `arrange` finds from the times of the files which of them form one run. Files that landed before change nothing.
    """
    prepare_folder(store)
    remove_killed(store)
    with Inspection(plan.files) as inspection:
        landed_before = find_landed(store, release.id, plan, inspection)
        if landed_before is not None:
            return landed_before
        # Which run a file belongs to is known once it is read, so all files first go into the folder of one run, whose
        # id is that of the group. `landing_in` makes folders, and deletes those whose run does not land.
        first_run = Run(group, release.id, group, "import", step=plan.step, service=plan.service, shares=plan.shares)
        folder = store.run_folder(release.id, group)
        with landing_in(store, [folder]), open_engine() as engine:
            converted_files = [_convert(engine, folder, plan, inspection, first_run, file) for file in plan.files]
            doubts = find_same(plan.files, inspection)
            arranged = arrange(plan, [_time_file(engine, converted, plan) for converted in converted_files])
            converted_files = _count_period(engine, plan, converted_files)
            run_by_file = _make_runs(
                first_run, arranged, {converted.file for converted in converted_files if converted.rows}
            )
            folder_by_run = {run.id: store.run_folder(release.id, run.id) for run in run_by_file.values()}
            with landing_in(store, [folder for run_id, folder in folder_by_run.items() if run_id != group]):
                moved_files = []
                for converted in converted_files:
                    run = run_by_file[converted.file]
                    moved_files.append(_move(engine, folder_by_run[run.id], plan, converted, run))
                landed = _write_runs(engine, store, control, release, moved_files, hash_files(plan, inspection))
            return dataclasses.replace(landed, why=arranged.why, doubts=(*doubts, *arranged.doubts))


# ------------------------------------------------------------------ a file becomes a segment


def _convert(
    engine: Engine, folder: Path, plan: LandingPlan, inspection: Inspection, run: Run, file: FilePlan
) -> _ConvertedFile:
    """Write the requests of one file as a segment of `run` into `folder`.

    `write_clean_segment` is fast, but gives up on any file with a fault: SQL then reads the file and explains the
    fault. Raises InputError for a fault, and StoreError if the segment cannot be written.
    """
    path = folder / segment_name(to_folder_name(file.arm), file.number)
    staged = path.with_name(path.name + ".tmp")  # until the file has been read without a fault
    unit = next(column.unit for column in file.layout.columns if column.target == "ts")
    # A time as text may be local, so it may be further ahead of our clock.
    latest = datetime.now(UTC) + (AHEAD_LOCAL if is_text_time(unit) else AHEAD)
    constants = {"run": run.id, "arm": file.arm, "service": plan.service}
    try:
        with _temporarily_readable(file) as readable:
            # Only the SQL drops the texts of sensitive requests.
            clean = None if file.sensitive else write_clean_segment(engine, readable, staged, constants, latest)
            if clean is not None and inspection.read(file).has_plain_quotes:
                staged.replace(path)
                times = (clean.first_request, clean.last_request)
                return _ConvertedFile(run, file, path, clean.rows, *times, clean.left_out)
            left_out = _convert_by_sql(engine, staged, path, readable, constants, latest, skip=plan.skip_bad_rows)
        query = "SELECT count(*), min(ts), max(ts) FROM read_parquet(?)"
        [(rows, first, last)] = engine.execute(query, [escape_file(path)]).fetchall()
        return _ConvertedFile(run, file, path, rows, first.astimezone(UTC), last.astimezone(UTC), left_out)
    except InputError:
        # A damaged file may look as if it had bad rows: then this raises the InputError that names the damage.
        inspection.read(file)
        raise
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def _temporarily_readable(file: FilePlan) -> Iterator[FilePlan]:
    """Yield the plan of a file with a copy that the engine can read; the plan unchanged if it can read the file itself.

    The copy is Parquet if the engine cannot read the format, and plain UTF-8 if the file is packed or in another
    encoding. It is deleted when the `with` statement ends. Raises InputError if the file cannot be read.
    """
    with made_readable([file.path], file.layout.rewrite) as [readable]:
        yield file if readable == file.path else dataclasses.replace(file, rewritten=readable)


def _convert_by_sql(
    engine: Engine,
    staged: Path,
    path: Path,
    file: FilePlan,
    constants: Mapping[str, str],
    latest: datetime,
    *,
    skip: bool,
) -> tuple[LeftOut, ...]:
    """Write the requests of a file as a segment at `path`; returns counts of the rows left out, by kind and name.

    All rows are written to the file `staged` first, each with a mark of what it is: a request, a bad row, or another
    kind. `constants`: text of the columns run, arm and service in all rows. A request after `latest`, or far from the
    median time of the file, is a bad row. Raises InputError if there is no request, and for a bad row unless such rows
    are to be skipped (`skip`).
    """
    file = _stage_rows(engine, staged, file, constants, latest)
    median_time = foreign.find_median_time(engine, staged, file)
    mark_sql = foreign.write_final_mark(median_time)
    has_requests, others = _count_marks(engine, staged, mark_sql, file.arm)
    # Rows that DuckDB could not split into columns are bad rows, but not among the staged ones.
    rejected = foreign.find_rejected(engine, file)
    bad_rows = sum(other.rows for other in others if other.kind is LeftOutKind.BAD_ROW) + rejected.count
    if bad_rows and not skip:
        raise foreign.refuse_bad_rows(engine, file, latest, median_time, rejected, bad_rows)
    rejected_rows = [LeftOut(file.arm, LeftOutKind.BAD_ROW, rejected.count)] if rejected.count else []
    left_out = (*sum_left_out(others), *rejected_rows)
    if not has_requests:
        raise _refuse_without_requests(file, left_out)
    if not others:
        staged.replace(path)  # all staged rows are requests
        return left_out
    query = f"SELECT * FROM read_parquet({quote_file(staged)}) WHERE {mark_sql} = '{foreign.REQUEST_MARK}'"
    with written_whole(path) as unfinished:
        engine.execute(f"COPY ({query}) TO {quote(unfinished)} (FORMAT parquet)")
    staged.unlink()
    return left_out


def _count_marks(engine: Engine, staged: Path, mark_sql: str, arm: str) -> tuple[bool, list[LeftOut]]:
    """Count the rows of a staged file by their mark, which `mark_sql` gives: a request, or the kind and name of others.

    Returns whether there is a request, and the counts of the other rows, the most frequent first. Of many names, only
    the most frequent are kept; `sum_left_out` sums up the rows without a name.
    """
    counts = engine.execute(
        f"""SELECT {mark_sql} AS mark, count(*) AS n, count(*) FILTER (failed) FROM read_parquet(?)
        GROUP BY ALL ORDER BY n DESC, mark""",
        [escape_file(staged)],
    ).fetchall()
    has_requests = False
    others: list[LeftOut] = []
    for mark, rows, failures in counts:
        if mark == foreign.REQUEST_MARK:
            has_requests = True
            continue
        kind, name = foreign.split_mark(mark)
        is_named = len(others) < _MOST_NAMES
        others.append(LeftOut(arm, kind, rows, failures, name if is_named else ""))
    return has_requests, others


def _refuse_without_requests(file: FilePlan, left_out: Sequence[LeftOut]) -> InputError:
    """Make the error for a file none of whose rows is a request; `left_out`: what its rows are instead."""
    count = sum(rows_of_kind.rows for rows_of_kind in left_out)
    if not count:
        text = f"{file.path} has no request"
    elif {rows_of_kind.kind for rows_of_kind in left_out} == {LeftOutKind.SUMMARY}:
        text = f"{file.path} has no single request: all {count:,} rows sum up other rows"
    else:
        text = f"{file.path} has no request that can be used; its {count:,} rows are {list_left_out(left_out)}"
    hint = file.layout.advice if left_out else "check that the tool recorded requests"
    return InputError(text, hint=hint or None)


def _stage_rows(
    engine: Engine, staged: Path, file: FilePlan, constants: Mapping[str, str], latest: datetime
) -> FilePlan:
    """Write all rows of a file, each with a mark of what it is, to the Parquet file `staged`.

    `constants`: text of the columns run, arm and service in all rows. A request after `latest` is marked as bad.
    Returns the plan of the file as it was read: without a search for sub-results if the file has none. An error of
    DuckDB about the file becomes an InputError; any other, such as one about `staged`, is raised as it is.
    """
    try:
        if file.layout.reader == "csv":
            file = forget_sub_results(engine, file)
        # Sub-results are recognised by the order of the rows. In any other file, order costs time for nothing.
        engine.execute(f"SET preserve_insertion_order = {'true' if file.layout.sub_results else 'false'}")
        engine.execute(
            f"COPY ({foreign.select_rows(file, latest)}) TO {quote(staged)} (FORMAT parquet)", dict(constants)
        )
        engine.execute("SET preserve_insertion_order = false")
    except duckdb.Error as error:
        message = str(error)
        # An error of reading or writing (IOException) names the file that it is about.
        readable = file.readable_path
        is_named = readable in message or quote_file(readable)[1:-1] in message
        is_other_file = isinstance(error, duckdb.IOException) and not is_named
        if is_other_file or isinstance(error, duckdb.OutOfMemoryException) or str(staged) in message:
            raise  # not a fault of the file that is read
        reason = word_rejection(message.replace(file.readable_path, file.path))
        raise InputError(
            f"{file.path} cannot be read: {reason}", hint="write it again with the tool that made it"
        ) from error
    return file


# ------------------------------------------------------------------ segments become runs


def _time_file(engine: Engine, converted: _ConvertedFile, plan: LandingPlan) -> FileTimes:
    """Find when the requests of a file were made, and the longest pause (s) without a request.

    The pause helps to decide which of several files of an arm form a run. So it is not computed, but 0, for the only
    file of an arm, and for times that do not count from 1970. Raises InputError if such times are to be cut.
    """
    if counts_from_start(converted.last_request) and (plan.start or plan.end):
        raise InputError(
            f"the times of {converted.file.path} count from the start of a test, not from 1970, "
            "so --from and --to cannot select them",
            hint="leave --from and --to out, or cut the file",
        )
    is_only_file_of_arm = sum(file.arm == converted.file.arm for file in plan.files) == 1
    if is_only_file_of_arm or counts_from_start(converted.last_request):
        return FileTimes(converted.file, converted.first_request, converted.last_request, 0.0)
    # Inner queries: each second (since 1970) with a request; then also the second with a request before it.
    [(pause_s,)] = engine.execute(
        """SELECT coalesce(max(second - before), 0) FROM (
            SELECT second, lag(second) OVER (ORDER BY second) AS before
            FROM (SELECT DISTINCT epoch_us(ts) // 1000000 AS second FROM read_parquet(?)))""",
        [escape_file(converted.path)],
    ).fetchall()
    return FileTimes(converted.file, converted.first_request, converted.last_request, float(pause_s))


def _count_period(engine: Engine, plan: LandingPlan, converted_files: Sequence[_ConvertedFile]) -> list[_ConvertedFile]:
    """Count the rows of each file in the requested period, and those outside; `_move` deletes these.

    Returns the files with the counts and times of the period. Raises InputError if an arm has no request in it.
    """
    counted = []
    for converted in converted_files:
        starts_inside = plan.start is None or plan.start <= converted.first_request
        ends_inside = plan.end is None or converted.last_request < plan.end
        if starts_inside and ends_inside:
            counted.append(converted)  # all rows are in the period
            continue
        [(rows, rows_outside, failures_outside, first, last)] = engine.execute(
            f"""SELECT
                count(*) FILTER (inside), count(*) FILTER (NOT inside), count(*) FILTER (NOT inside AND failed),
                min(ts) FILTER (inside), max(ts) FILTER (inside)
            FROM (SELECT ts, failed, {_INSIDE} AS inside FROM read_parquet($path))""",
            {"path": escape_file(converted.path), "start": plan.start, "end": plan.end},
        ).fetchall()
        times = {"first_request": first.astimezone(UTC), "last_request": last.astimezone(UTC)} if rows else {}
        left_out = LeftOut(converted.file.arm, LeftOutKind.OUTSIDE_PERIOD, rows_outside, failures_outside)
        counted.append(dataclasses.replace(converted, rows=rows, outside=left_out, **times))
    for arm in dict.fromkeys(converted.file.arm for converted in converted_files):
        if not any(converted.rows for converted in counted if converted.file.arm == arm):
            files_of_arm = [converted for converted in converted_files if converted.file.arm == arm]
            first = min(converted.first_request for converted in files_of_arm)
            last = max(converted.last_request for converted in files_of_arm)
            raise InputError(
                f"no request of {arm} is in the period of --from and --to: the requests of its files were made from "
                f"{first:%Y-%m-%dT%H:%M:%SZ} to {last:%Y-%m-%dT%H:%M:%SZ}",
                hint="give a period in which all arms were under load",
            )
    return counted


def _make_runs(first_run: Run, arranged: FileRuns, filled: Collection[FilePlan]) -> dict[FilePlan, Run]:
    """Return file → its run: `first_run`, or a further replicate of it, with what is known of its files (fingerprint).

    `arranged`: the files of each run. `filled`: files with requests in the requested period. A run without such a file
    is not made; its files go to the first run, which reports their rows as left out.
    """
    runs_with_requests = [files for files in arranged.runs if any(file in filled for file in files)]
    other_files = [file for files in arranged.runs if files not in runs_with_requests for file in files]
    files_of_runs = [(*runs_with_requests[0], *other_files), *runs_with_requests[1:]]
    run_by_file: dict[FilePlan, Run] = {}
    for replicate, files in enumerate(files_of_runs):
        paths_by_arm: dict[str, list[str]] = {}
        for file in files:
            paths_by_arm.setdefault(file.arm, []).append(file.path)
        fingerprint: dict[str, object] = {"files": paths_by_arm}
        if arranged.declared:  # the user said that the files of an arm are parts, or replicates
            fingerprint["files_are"] = arranged.declared
        if arranged.overlapping:
            fingerprint["replicates_overlap"] = True
        run_id = f"{first_run.id}-{replicate + 1}" if replicate else first_run.id
        run = dataclasses.replace(first_run, id=run_id, replicate=replicate, fingerprint=fingerprint)
        run_by_file |= dict.fromkeys(files, run)
    return run_by_file


def _move(engine: Engine, folder: Path, plan: LandingPlan, converted: _ConvertedFile, run: Run) -> _ConvertedFile:
    """Move a segment into the `folder` of its `run`, write the run into its rows, and cut it to the requested period.

    A segment that is in that folder and wholly in the period stays as it is. Returns the file with its new path; the
    rows outside of the period (`outside`; `None`: there are none) are now among the rows left out.
    """
    path = folder / converted.path.name
    if path == converted.path and converted.outside is None:
        return dataclasses.replace(converted, run=run)
    with written_whole(path) as unfinished:
        engine.execute(
            f"""COPY (SELECT * REPLACE (CAST($run AS VARCHAR) AS run) FROM read_parquet($path) WHERE {_INSIDE})
            TO {quote(unfinished)} (FORMAT parquet)""",
            {"run": run.id, "path": escape_file(converted.path), "start": plan.start, "end": plan.end},
        )
    if path != converted.path:
        converted.path.unlink()
    left_out = (*converted.left_out, converted.outside) if converted.outside else converted.left_out
    return dataclasses.replace(converted, run=run, path=path, left_out=left_out, outside=None)


def _write_runs(
    engine: Engine,
    store: StoreFile,
    control: Control,
    release: Release,
    converted_files: Sequence[_ConvertedFile],
    hashes: Mapping[FilePlan, str],
) -> Landed:
    """Write the runs of all files to the store, with their cells and manifests, in one transaction.

    `hashes`: hash of each file. Returns what landed: by this process, or by another that landed the same files since
    they were looked for.
    """
    files_by_run: dict[str, list[_ConvertedFile]] = {}
    files_by_run_and_arm: dict[tuple[str, str], list[_ConvertedFile]] = {}  # only those with rows
    for converted in converted_files:
        files_by_run.setdefault(converted.run.id, []).append(converted)
        if converted.rows:
            files_by_run_and_arm.setdefault((converted.run.id, converted.file.arm), []).append(converted)
    runs = sorted((_complete_run(run_files) for run_files in files_by_run.values()), key=lambda run: run.replicate)
    # All runs of a group have buckets of the same length, chosen for the arm that has the longest time in a run.
    durations = [
        max(converted.last_request for converted in arm_files) - min(converted.first_request for converted in arm_files)
        for arm_files in files_by_run_and_arm.values()
    ]
    bucket_s = choose_bucket_s(max(durations).total_seconds())
    # Each run is rolled up into tables of its own, with this suffix, before the store is locked.
    suffix_by_run = {run.id: f"_{position}" for position, run in enumerate(runs)}
    # All runs have the same unit, so that their times were rounded alike.
    units_per_ms = choose_units_per_ms(engine, [converted.path for converted in converted_files])
    grid_by_run = {}  # largest step of which all times of the cells are multiples
    for run in runs:
        paths = [converted.path for converted in files_by_run[run.id]]
        roll_up(engine, paths, bucket_s, units_per_ms, suffix_by_run[run.id])
        grid_by_run[run.id] = find_grid(engine, suffix_by_run[run.id])
    with control.landing(release), store.attached(engine, write=True):
        # Another process may have landed the files before this one locked the store.
        landed_meanwhile = match_landed(engine, release.id, hashes)
        if landed_meanwhile is not None:
            return landed_meanwhile
        for run in runs:
            add_run(engine, run, bucket_s)
            write_cells(engine, run.id, grid_by_run[run.id], units_per_ms, suffix_by_run[run.id])
            segments = [
                Segment(converted.path, converted.rows, hashes[converted.file]) for converted in files_by_run[run.id]
            ]
            write_manifest(engine, store, run.id, segments)
    return Landed(
        rows=sum(converted.rows for converted in converted_files),
        segments=len(converted_files),
        left_out=sum_left_out(left_out for converted in converted_files for left_out in converted.left_out),
        runs=tuple(run.id for run in runs),
        parts=tuple(sorted({len(arm_files) for arm_files in files_by_run_and_arm.values()})),
    )


def _complete_run(converted_files: Sequence[_ConvertedFile]) -> Run:
    """Complete the run of these files: when it began and ended, and how many rows were read and left out."""
    run = converted_files[0].run
    files_with_rows = [converted for converted in converted_files if converted.rows]
    last = max(converted.last_request for converted in files_with_rows)
    rows_read_by_arm: Counter[str] = Counter()
    for converted in converted_files:
        rows_read_by_arm[converted.file.arm] += converted.rows + sum(left_out.rows for left_out in converted.left_out)
    left_out = sum_left_out(left_out for converted in converted_files for left_out in converted.left_out)
    return dataclasses.replace(
        run,
        started=min(converted.first_request for converted in files_with_rows),
        planned_end=run.planned_end or last,
        ended=last,
        state=RunState.COMPLETE,
        facts=dataclasses.replace(
            run.facts,
            read=dict(rows_read_by_arm),
            left_out=left_out,
            # Of several formats each kind of requests once; "" for a format that shows all of them.
            unseen="; ".join(dict.fromkeys(filter(None, (file.file.layout.unseen for file in converted_files)))),
        ),
    )
