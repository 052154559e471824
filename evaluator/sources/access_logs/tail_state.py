"""What `evaluator tail` keeps on the disk, so that it goes on without a loss after any end.

In the folder of a release there is one state for each service: up to where the files were read, and what was counted.
It is written in one step with the rows: segments are first staged, then the state that names them replaces the one
before, and then the segments get their names. After a kill the staged segments that the state names are published, and
others deleted: their lines are read again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from evaluator.errors import SourceError, UsageError
from evaluator.records import LeftOut, LeftOutKind, LogCounts, RouterFacts
from evaluator.segments import STAGED_SUFFIX, publish_segment, stage_segment, to_folder_name
from evaluator.sources.access_logs.log_files import FilePosition

WORKER = "tail"
"""Name of the process in the names of segments."""

TAILED_RUN_NAME = "tail.json"
"""File in the folder of a run: what is known of it while its log is followed, and at its end."""

_UNFINISHED_SUFFIX = ".unfinished"


@dataclass(frozen=True, slots=True)
class TailedRun:
    """A run of requests from a log that is followed: a window of time with one step and one set of shares.

    Times are epoch seconds.
    """

    run: str
    started: float | None = None
    """Begin of the window; `None`: all requests that began before `ends`, until the first one is read."""
    ends: float | None = None
    """End of the window; `None`: not known yet."""
    step: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)
    replicate: int = 0
    is_closed: bool = False
    """The log was read to the end of the window: the run is complete."""
    next_segment: int = 0
    rows: int = 0
    """Rows written."""
    newest: float | None = None
    """When the last of its requests ended."""
    counts: LogCounts = field(default_factory=LogCounts)
    kept_endpoints: tuple[str, ...] = ()
    clock_ahead_s: float = 0.0
    """How far the times in the log were ahead of the clock of this machine, at most."""

    def covers(self, moment: float) -> bool:
        """Is a moment in the window?"""
        return (self.started is None or moment >= self.started) and (self.ends is None or moment < self.ends)


@dataclass(frozen=True, slots=True)
class TailState:
    """Up to where the logs of a service were read, and into which runs."""

    group: str
    """Id of the run group."""
    started: float
    """When the first `tail` began."""
    from_start: bool = False
    """Do requests that began before `started` count, which were in the log already?"""
    ends: float | None = None
    """When following ends by itself; `None`: not."""
    is_over: bool = False
    """The log was followed to the planned end, or to the end that a person set: the next start begins a new group."""
    runs: tuple[TailedRun, ...] = ()
    """In the order of their windows."""
    positions: Mapping[str, tuple[FilePosition, ...]] = field(default_factory=dict)
    """Path → positions in the file it leads to, and in rotated files."""
    newest: Mapping[str, float] = field(default_factory=dict)
    """Path → when the last of its requests ended."""
    watermark: float | None = None
    """All requests that ended before were read (epoch s)."""
    staged: tuple[str, ...] = ()
    """Segments that belong to this state, as paths in the folder of the release: after a kill they are published."""


@dataclass(frozen=True, slots=True)
class TailedRunNow:
    """What a `tail` says of one of its runs, for other processes."""

    run: TailedRun
    written: float
    """When (epoch s): every few seconds while it runs."""
    stopped_by: str = ""
    """Why it was stopped before the end of the window; empty: it runs, or has come to the end."""
    ended_early: str = ""
    """Why it was ended on purpose before the planned end; it can be started again."""

    def write(self, folder: Path) -> None:
        """Replace the file in the run's folder. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / TAILED_RUN_NAME, json.dumps(asdict(self)), durable=False)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the file in the run's folder; `None` if there is none, or it is damaged."""
        try:
            values = json.loads((folder / TAILED_RUN_NAME).read_text(encoding="utf-8"))
            return cls(**values | {"run": _to_tailed_run(values["run"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None


class TailJournal:
    """The state of one service's `tail` in the folder of a release, locked in the body of a `with` statement."""

    def __init__(self, folder: Path, service: str = "", arms: Sequence[str] = ()) -> None:
        """`folder`: of the release, in the folder next to the store. `arms`: whose requests are read."""
        self.folder = folder
        self._description = json.dumps({"service": service, "arms": list(arms)})
        name = _name_file("tail", service)
        self._path = folder / f"{name}.json"
        self._lock_path = folder / f"{name}.lock"
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Lock the state. Raises UsageError if another `tail` has locked it, and OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UsageError(
                "another `evaluator tail` follows the log of this release and service",
                hint="give all files of the service to one command; end the other one first to change them",
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, self._description.encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def load(self) -> TailState | None:
        """Read the state and publish the segments that belong to it; `None` if there is none. Raises SourceError."""
        try:
            values = json.loads(self._path.read_text(encoding="utf-8"))
            state = _to_state(values)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SourceError(
                f"{self._path} cannot be read: {error}", hint="begin a new group of runs with --fresh"
            ) from error
        for name in state.staged:
            publish_segment(self.folder / name)
        for run in state.runs:
            for path in (self.folder / to_folder_name(run.run)).glob(f"*{STAGED_SUFFIX}"):
                path.unlink()  # of a state that was not written: its lines are read again
        return state

    def commit(self, state: TailState, tables: Mapping[str, Sequence[pa.Table]]) -> TailState:
        """Write rows and state in one step, and return the state as written.

        `tables`: id of a run of the state → its new rows. Raises OSError: then neither is written.
        """
        staged: list[Path] = []
        runs = list(state.runs)
        for position, run in enumerate(runs):
            parts = [table for table in tables.get(run.run, ()) if table.num_rows]
            if parts:
                table = pa.concat_tables(parts).combine_chunks()
                staged.append(stage_segment(table, self.folder / to_folder_name(run.run), WORKER, run.next_segment))
                rows = run.rows + table.num_rows
                runs[position] = replace(run, next_segment=run.next_segment + 1, rows=rows)
        names = tuple(str(path.relative_to(self.folder)) for path in staged)
        state = replace(state, runs=tuple(runs), staged=names)
        # After an error here the staged segments stay: only the state on the disk shows whether they belong to it.
        replace_file(self._path, json.dumps(asdict(state)))
        for path in staged:
            publish_segment(path)
        return state


def read_tail_state(folder: Path, service: str = "") -> TailState | None:
    """Read how far a log was followed, also while another thread or process follows it; `None`: it is not known.

    `folder`: of the release.
    """
    try:
        return _to_state(json.loads((folder / f"{_name_file('tail', service)}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class FollowedLog:
    """A log that a process follows now."""

    service: str
    """Empty if it was not named."""
    arms: tuple[str, ...]


def list_followed(folder: Path) -> list[FollowedLog]:
    """List the logs of the release of a folder that are followed now."""
    logs = []
    for path in sorted(folder.glob("tail*.lock")):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(ValueError):  # it is just starting
                values = json.loads(path.read_text(encoding="utf-8"))
                logs.append(FollowedLog(values["service"], tuple(values["arms"])))
        finally:
            os.close(handle)
    return logs


def replace_file(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a text file in one step. `durable`: wait until it is on the disk. Raises OSError."""
    # Not `.tmp`: files with this suffix are deleted when a run ends, although this process may be writing them.
    unfinished = path.with_name(path.name + _UNFINISHED_SUFFIX)
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    unfinished.replace(path)
    if durable:
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _name_file(kind: str, service: str) -> str:
    """Name, without suffix, of a file of this kind for a service."""
    return f"{kind}-{to_folder_name(service)}" if service else kind


# ------------------------------------------------------------------ from JSON


def _to_state(values: Mapping[str, Any]) -> TailState:
    positions = {
        path: tuple(FilePosition(**position) for position in of_path) for path, of_path in values["positions"].items()
    }
    runs = tuple(_to_tailed_run(run) for run in values["runs"])
    return TailState(
        **_pick(TailState, values) | {"positions": positions, "runs": runs, "staged": tuple(values["staged"])}
    )


def _to_tailed_run(values: Mapping[str, Any]) -> TailedRun:
    counts = {"counts": _to_counts(values["counts"]), "kept_endpoints": tuple(values["kept_endpoints"])}
    return TailedRun(**_pick(TailedRun, values) | counts)


def _to_counts(values: Mapping[str, Any]) -> LogCounts:
    left_out = tuple(LeftOut(**part | {"kind": LeftOutKind(part["kind"])}) for part in values["left_out"])
    router = RouterFacts(**values["router"] | {"holes": tuple(values["router"]["holes"])})
    return LogCounts(values["lines"], values["read"], left_out, router)


def _pick(record: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the fields of a record; those that another version has written are left out."""
    names = {part.name for part in fields(record)}
    return {name: value for name, value in values.items() if name in names}
