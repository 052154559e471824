"""Landing of access logs: all files of a router, of all arms, become one run, in one transaction."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from evaluator.errors import InputError, StoreError
from evaluator.records import (
    ACCESS_LOG_SOURCE,
    DescribeLine,
    Landed,
    LeftOut,
    LeftOutKind,
    LogCounts,
    LogFile,
    LogPlan,
    Release,
    RouterFacts,
    Run,
    RunFacts,
    RunState,
    choose_bucket_s,
    list_left_out,
    list_unread,
    sum_counts,
    sum_left_out,
)
from evaluator.segments import segment_name, written_whole
from evaluator.stats.shaping.rare import OTHER_ENDPOINTS
from evaluator.store.access_logs import MOST_ENDPOINTS, WORKER, BadLine, LogReader
from evaluator.store.control import Control
from evaluator.store.engine import Engine, open_engine, quote, quote_all, quote_files
from evaluator.store.file import StoreFile
from evaluator.store.foreign import LONGEST_SPAN
from evaluator.store.landing import Segment, write_cells, write_manifest
from evaluator.store.leftovers import landing_in, remove_killed
from evaluator.store.log_chunks import LineChunk, LogFileReader
from evaluator.store.migrations import prepare_folder
from evaluator.store.rollup import choose_units_per_ms, find_grid, roll_up
from evaluator.store.runs import add_run
from evaluator.wording import count_of

_MOST_ENDPOINTS_READ = 20_000
"""Most endpoints that are counted to find the most frequent ones."""

_MOST_COMPARED = 10_000
"""Most requests of a file that are looked for in another file of the same time."""

_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class _ConvertedLog:
    """One file whose lines have become segments."""

    file: LogFile
    paths: tuple[Path, ...]
    counts: LogCounts
    sha256: str
    """Hash of its unpacked bytes, and of how they are read."""
    rows: int = 0
    first_request: datetime | None = None
    last_request: datetime | None = None


def import_access_logs(
    store: StoreFile, control: Control, release: Release, group: str, plan: LogPlan, describe: DescribeLine
) -> Landed:
    """Land the files of a plan as the run `group`, all or none. Files that landed before change nothing.

    Raises InputError for lines that cannot be read, unless the plan skips them, and if no line is of an arm.
    """
    prepare_folder(store)
    remove_killed(store)
    landed_before = _find_landed(store, release.id, plan)
    if landed_before is not None:
        return landed_before
    folder = store.run_folder(release.id, group)
    with landing_in(store, [folder]), open_engine() as engine:
        logs, kept_endpoints = _convert_files(folder, plan, group, describe)
        _refuse_same_content(logs)
        _refuse_without_arm(plan, logs)
        logs = [_time(engine, log) for log in logs]
        _refuse_doubled(engine, logs)
        logs = _leave_out_strays(engine, plan, logs)
        counts = sum_counts([*(log.counts for log in logs), _pool_rare(engine, logs, kept_endpoints)])
        return _write_run(engine, store, control, release, _make_run(release, group, plan, logs, counts), logs)


# ------------------------------------------------------------------ files become segments


def _convert_files(
    folder: Path, plan: LogPlan, run_id: str, describe: DescribeLine
) -> tuple[list[_ConvertedLog], tuple[str, ...]]:
    """Write the rows of all files as segments into `folder`; returns the files, and the endpoints of the rows."""
    logs: list[_ConvertedLog] = []
    endpoints: tuple[str, ...] = ()
    for file in plan.files:
        with LogReader(
            file.layout, plan.options, run_id, endpoints,
            most_endpoints=_MOST_ENDPOINTS_READ, start=plan.start, end=plan.end) as reader:  # fmt: skip
            first_segment = sum(len(log.paths) for log in logs)
            logs.append(_convert_file(reader, folder, plan, file, first_segment, describe))
            endpoints = reader.kept_endpoints
    return logs, endpoints


def _convert_file(
    reader: LogReader, folder: Path, plan: LogPlan, file: LogFile, first_segment: int, describe: DescribeLine
) -> _ConvertedLog:
    """Write the rows of a file as segments, with numbers from `first_segment` on. Raises InputError, StoreError."""
    opened = LogFileReader(Path(file.path))
    paths: list[Path] = []
    parts: list[LogCounts] = []
    for chunk in opened.read():
        path = folder / segment_name(WORKER, first_segment + len(paths))
        try:
            read = reader.convert_lines(chunk.lines, path)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from error
        counts = read.counts
        if read.bad_line is not None and chunk.is_cut:
            hole = f"{file.path} ends in the middle of a line"
            counts = LogCounts(router=RouterFacts(holes=(hole,), unread_s=0.0))  # one request at the end
        elif read.bad_line is not None and not plan.skip_bad_rows:
            raise _refuse_line(file, chunk, read.bad_line, sum_counts([*parts, counts]), describe)
        paths.append(path)
        parts.append(counts)
    counts = sum_counts(parts)
    return _ConvertedLog(file, tuple(paths), counts, _hash_reading(plan, file, opened.sha256))


def _refuse_line(
    file: LogFile, chunk: LineChunk, bad_line: BadLine, counts: LogCounts, describe: DescribeLine
) -> InputError:
    """Make the error for a line that could not be read; `counts`: of the lines until the end of its chunk."""
    shown, hint = describe(chunk.lines[bad_line.number].as_py())
    number = chunk.first_number + bad_line.number
    bad_lines = sum(part.rows for part in counts.left_out if part.kind is LeftOutKind.BAD_ROW)
    further = f"; {bad_lines:,} of the first {count_of(counts.lines, 'line')} cannot be used" if bad_lines > 1 else ""
    skip = "leave such lines out with --skip-bad-rows"
    return InputError(
        f"{file.path}:{number}: {bad_line.problem}: {shown}{further}; nothing was imported",
        hint=f"{hint}, or {skip}" if hint else f"fix the file, or {skip}",
    )


def _hash_reading(plan: LogPlan, file: LogFile, content_sha256: str) -> str:
    """Hash the hash of a file's bytes together with how they are read: equal hashes mean equal rows."""
    parts = [
        content_sha256,
        dataclasses.asdict(file.layout),
        dataclasses.asdict(plan.options),
        str(plan.start),
        str(plan.end),
        plan.step,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------ checks of the files together


def _refuse_same_content(logs: Sequence[_ConvertedLog]) -> None:
    """Raise InputError for two files with the same content, also if one is packed."""
    first_with_hash: dict[str, _ConvertedLog] = {}
    for log in logs:
        same = first_with_hash.setdefault(log.sha256, log)
        if same is not log:
            raise InputError(
                f"{same.file.path} and {log.file.path} have the same content: their requests would count twice",
                hint="give one of them",
            )


def _refuse_without_arm(plan: LogPlan, logs: Sequence[_ConvertedLog]) -> None:
    """Raise InputError if no line is a request of an arm in the period."""
    counts = sum_counts(log.counts for log in logs)
    read = sum(rows for arm, rows in counts.read.items() if arm)
    outside = [part for part in counts.left_out if part.kind is LeftOutKind.OUTSIDE_PERIOD]
    if read > sum(part.rows for part in outside):
        return
    names = ", ".join(file.path for file in plan.files[:_MOST_SHOWN])
    if outside:
        raise InputError(
            f"no request of an arm in {names} is in the period of --from and --to",
            hint="give a period in which all arms had requests; times without a zone are in that of "
            "`sources.access_log.time_zone`",
        )
    named = list(counts.router.other_servers)[:_MOST_SHOWN]
    what = f"the requests are of {', '.join(named)}"
    hint = "give each arm the names of its servers, for example --arm-server canary='c*'"
    if not named:
        lines, bad_lines = count_of(counts.lines, "line"), counts.read.get("", 0)
        what = f"no server answered any of {lines}"
        if bad_lines:
            what = f"{bad_lines:,} of {lines} could not be read"
            hint = "without --skip-bad-rows the first of them is shown, with what is wrong"
    raise InputError(f"no request of {names} belongs to an arm: {what}", hint=hint)


def _time(engine: Engine, log: _ConvertedLog) -> _ConvertedLog:
    """Find how many rows a file has, and when its first and last request began."""
    if not log.paths:
        return log
    [(rows, first, last)] = engine.execute(
        f"SELECT count(*), min(ts), max(ts) FROM read_parquet({quote_files(log.paths)})"
    ).fetchall()
    if not rows:
        return log
    return dataclasses.replace(log, rows=rows, first_request=first.astimezone(UTC), last_request=last.astimezone(UTC))


def _refuse_doubled(engine: Engine, logs: Sequence[_ConvertedLog]) -> None:
    """Raise InputError if a file repeats requests of another one: a copy that went on, or was cut.

    Files of one time that have different requests are of several routers.
    """
    timed = [log for log in logs if log.first_request is not None]
    timed.sort(key=lambda log: (log.first_request, log.last_request))
    for position, log in enumerate(timed):
        for later in timed[position + 1 :]:
            if later.first_request > log.last_request:  # type: ignore[operator]
                break
            doubled, compared = _count_doubled(engine, log, later)
            if compared and doubled > compared / 2:
                raise InputError(
                    f"{log.file.path} and {later.file.path} have the same requests from "
                    f"{later.first_request:%Y-%m-%dT%H:%M:%SZ} on: they would count twice",
                    hint="give files of which each has its own requests",
                )


def _count_doubled(engine: Engine, log: _ConvertedLog, later: _ConvertedLog) -> tuple[int, int]:
    """Count those of the first requests of a later file that are in another file, too, and those compared."""
    columns = "ts, arm, instance, endpoint, response_time_ms, response_bytes, status_code"
    [(doubled, compared)] = engine.execute(
        f"""WITH first AS (
            SELECT {columns} FROM read_parquet({quote_files(later.paths)}) WHERE ts <= $last
            ORDER BY ts LIMIT {_MOST_COMPARED})
        SELECT
            (SELECT count(*) FROM (SELECT * FROM first INTERSECT ALL
                SELECT {columns} FROM read_parquet({quote_files(log.paths)}) WHERE ts >= $first)),
            (SELECT count(*) FROM first)""",
        {"first": later.first_request, "last": log.last_request},
    ).fetchall()
    return doubled, compared


def _leave_out_strays(engine: Engine, plan: LogPlan, logs: Sequence[_ConvertedLog]) -> list[_ConvertedLog]:
    """Leave out requests that are a year or more from the median time of all, if the plan skips bad rows.

    Raises InputError if it does not.
    """
    times = [log for log in logs if log.first_request is not None and log.last_request is not None]
    first, last = min(log.first_request for log in times), max(log.last_request for log in times)  # type: ignore[type-var]
    if last - first <= LONGEST_SPAN:  # type: ignore[operator]
        return list(logs)
    paths = [path for log in logs for path in log.paths]
    [(median_time,)] = engine.execute(
        f"SELECT quantile_disc(ts, 0.5) FROM read_parquet({quote_files(paths)})"
    ).fetchall()
    limits = {"low": median_time - LONGEST_SPAN, "high": median_time + LONGEST_SPAN}
    cleaned = []
    for log in logs:
        rows = engine.execute(
            f"""SELECT arm, count(*), count(*) FILTER (failed) FROM read_parquet({quote_files(log.paths)})
            WHERE ts NOT BETWEEN $low AND $high GROUP BY arm ORDER BY arm""",
            limits,
        ).fetchall()
        if not rows:
            cleaned.append(log)
            continue
        if not plan.skip_bad_rows:
            count = sum(count for _, count, _ in rows)
            raise InputError(
                f"{log.file.path}: {count_of(count, 'request')} a year or more from the other times of the log, around "
                f"{median_time:%Y-%m-%d}; nothing was imported",
                hint="was a clock wrong? Cut the file, or leave such requests out with --skip-bad-rows",
            )
        kept = f"ts BETWEEN TIMESTAMPTZ '{limits['low'].isoformat()}' AND TIMESTAMPTZ '{limits['high'].isoformat()}'"
        _rewrite(engine, log.paths, f"SELECT * FROM rows WHERE {kept}")
        left_out = tuple(LeftOut(arm, LeftOutKind.BAD_ROW, count, failures) for arm, count, failures in rows)
        counts = dataclasses.replace(log.counts, left_out=sum_left_out([*log.counts.left_out, *left_out]))
        cleaned.append(_time(engine, dataclasses.replace(log, counts=counts, rows=0)))
    return cleaned


def _rewrite(engine: Engine, paths: Sequence[Path], query: str) -> None:
    """Replace segments by the result of a query of their rows, which it calls `rows`."""
    for path in paths:
        with written_whole(path) as unfinished:
            engine.execute(
                f"COPY (WITH rows AS (FROM read_parquet({quote_files([path])})) {query}) TO {quote(unfinished)} "
                "(FORMAT parquet)"
            )


def _pool_rare(engine: Engine, logs: Sequence[_ConvertedLog], endpoints: Sequence[str]) -> LogCounts:
    """Pool the rarest of the endpoints of the rows if they are too many, and count their requests."""
    if len(endpoints) <= MOST_ENDPOINTS:
        return LogCounts()
    paths = [path for log in logs for path in log.paths]
    rows = engine.execute(
        f"""SELECT endpoint, count(*) AS n FROM read_parquet({quote_files(paths)}) WHERE endpoint <> ?
        GROUP BY endpoint ORDER BY n DESC, endpoint OFFSET {MOST_ENDPOINTS}""",
        [OTHER_ENDPOINTS],
    ).fetchall()
    pooled = quote_all(endpoint for endpoint, _ in rows)
    pooling = f"CASE WHEN list_contains(rare, endpoint) THEN {quote(OTHER_ENDPOINTS)} ELSE endpoint END AS endpoint"
    _rewrite(engine, paths, f"SELECT rows.* REPLACE ({pooling}) FROM rows, (SELECT {pooled} AS rare)")
    facts = RouterFacts(endpoints_pooled=sum(count for _, count in rows), pooled_example=rows[0][0])
    return LogCounts(router=facts)


# ------------------------------------------------------------------ segments become a run


def _make_run(release: Release, group: str, plan: LogPlan, logs: Sequence[_ConvertedLog], counts: LogCounts) -> Run:
    """Make the run of the files, with what is known of it."""
    first = min(log.first_request for log in logs if log.first_request is not None)
    last = max(log.last_request for log in logs if log.last_request is not None)
    router = replace(counts.router, unread=list_unread(counts))
    return Run(
        id=group,
        release=release.id,
        group=group,
        source=ACCESS_LOG_SOURCE,
        started=first,
        planned_end=last,
        ended=last,
        state=RunState.COMPLETE,
        fingerprint={
            "files": [log.file.path for log in logs],
            "format": sorted({log.file.layout.format for log in logs}),
            "response_time": sorted({log.file.layout.response_time for log in logs}),
            "arms": {arm: list(patterns) for arm, patterns in plan.options.arms.items()},
        },
        facts=RunFacts(read=counts.read, left_out=list_left_out(counts), router=router),
        step=plan.step,
        service=plan.options.service,
        shares=plan.shares,
    )


def _write_run(
    engine: Engine,
    store: StoreFile,
    control: Control,
    release: Release,
    run: Run,
    logs: Sequence[_ConvertedLog],
) -> Landed:
    """Write the run to the store, with its cells and its manifest, in one transaction.

    Returns what landed: by this process, or by another that landed the same files meanwhile.
    """
    assert run.started is not None  # noqa: S101 - `_make_run` sets both
    assert run.ended is not None  # noqa: S101
    bucket_s = choose_bucket_s((run.ended - run.started).total_seconds())
    paths = [path for log in logs for path in log.paths]
    units_per_ms = choose_units_per_ms(engine, paths)
    roll_up(engine, paths, bucket_s, units_per_ms)
    grid = find_grid(engine)
    with control.landing(release), store.attached(engine, write=True):
        landed_meanwhile = _match(engine, release.id, {log.file.path: log.sha256 for log in logs})
        if landed_meanwhile is not None:
            return landed_meanwhile
        add_run(engine, run, bucket_s)
        write_cells(engine, run.id, grid, units_per_ms)
        write_manifest(engine, store, run.id, [segment for log in logs for segment in _list_segments(engine, log)])
    return Landed(
        rows=sum(log.rows for log in logs),
        segments=len(logs),
        left_out=sum_counts(log.counts for log in logs).left_out,
        runs=(run.id,),
        parts=(len(logs),),
        doubts=tuple(_find_doubts(run)),
    )


def _find_doubts(run: Run) -> Iterator[str]:
    """Say what of a run may be wrong, or is not judged as requests."""
    router = run.facts.router
    assert router is not None  # noqa: S101 - `_make_run` sets it
    for arm in run.fingerprint["arms"]:
        if not run.facts.read.get(arm):
            others = ", ".join(list(router.other_servers)[:_MOST_SHOWN])
            yield f"no request is of {arm}, so a verdict cannot be GO" + (
                f"; servers of no arm are {others}" if others else ""
            )
    if router.other_servers:
        names = ", ".join(f"{name} ({rows:,})" for name, rows in list(router.other_servers.items())[:_MOST_SHOWN])
        yield f"requests of servers that belong to no arm are not judged: {names}"
    if router.without_server:
        yield (
            f"no server answered {count_of(router.without_server, 'request')} (failed: "
            f"{router.without_server_failures:,}), which belong to no arm"
        )
    if attempts := sum(router.retried.values()):
        yield f"{attempts:,} of the requests are attempts that failed before the router tried again"
    if router.retried_by_unknown:
        yield (
            f"{count_of(router.retried_by_unknown, 'attempt')} failed, and the log does not say at which server, which "
            "may forbid a GO"
        )
    for arm, rows in router.grpc_unread.items():
        yield f"the log has no status of {count_of(rows, 'request')} of gRPC of {arm}, so their failures are not known"
    if router.endpoints_pooled:
        yield (
            f"{count_of(router.endpoints_pooled, 'request')} of endpoints beyond the {MOST_ENDPOINTS} most frequent "
            f"are '{OTHER_ENDPOINTS}', such as {router.pooled_example}; a rule in `sources.access_log.endpoints` of "
            "the policy can give such paths one name"
        )
    for what, lines in router.unread.items():
        yield f"{count_of(lines, 'line')} {what}: it is not known whose requests these are"
    yield from router.holes


def _list_segments(engine: Engine, log: _ConvertedLog) -> list[Segment]:
    """List the segments of a file: the first has the hash of the file, by which it is found when it is given again."""
    segments = []
    for position, path in enumerate(log.paths):
        [(rows,)] = engine.execute(f"SELECT count(*) FROM read_parquet({quote_files([path])})").fetchall()
        sha256 = hashlib.sha256(f"{log.sha256} {position}".encode()).hexdigest() if position else log.sha256
        segments.append(Segment(path, rows, sha256))
    return segments


# ------------------------------------------------------------------ files that landed before


def _find_landed(store: StoreFile, release_id: str, plan: LogPlan) -> Landed | None:
    """Find what landed earlier from the files of a plan; None if none of them has.

    Raises InputError if only some have.
    """
    with store.opened() as engine:
        query = "SELECT 1 FROM store.runs WHERE release = ? AND source = ? LIMIT 1"
        if not engine.execute(query, [release_id, ACCESS_LOG_SOURCE]).fetchall():
            return None
    hashes = {}
    for file in plan.files:
        opened = LogFileReader(Path(file.path))
        for _ in opened.read():
            pass
        hashes[file.path] = _hash_reading(plan, file, opened.sha256)
    with store.opened() as engine:
        return _match(engine, release_id, hashes)


def _match(engine: Engine, release_id: str, hashes: Mapping[str, str]) -> Landed | None:
    """Find the run of a release in which files landed; None if none of them has. Raises InputError if only some have.

    `hashes`: path → hash of the file.
    """
    rows = engine.execute(
        """SELECT runs.id, sha256 FROM store.segments JOIN store.runs ON runs.id = segments.run
        WHERE release = ? AND source = ? ORDER BY ALL""",
        [release_id, ACCESS_LOG_SOURCE],
    ).fetchall()
    run_by_hash = {sha256: run_id for run_id, sha256 in rows}
    runs = {path: run_by_hash[sha256] for path, sha256 in hashes.items() if sha256 in run_by_hash}
    if not runs:
        return None
    if len(runs) == len(hashes) and len(set(runs.values())) == 1:
        return Landed(already=len(hashes), runs=(next(iter(runs.values())),), parts=(len(hashes),))
    path, run_id = next(iter(runs.items()))
    raise InputError(
        f"{path} has been imported into '{release_id}' already (run {run_id}); together with the other files it would "
        "count twice",
        hint="give only the new files, or import all of them under another release id",
    )
