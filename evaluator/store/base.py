"""The store: one DuckDB file and a folder of segments beside it. Nobody keeps it open."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import pyarrow as pa

from evaluator.errors import StoreError
from evaluator.records import (
    Answer,
    ArrangeFiles,
    Cells,
    Landed,
    LandingPlan,
    Learnt,
    OutcomeFacts,
    OutcomePlan,
    Outcomes,
    ReadingCells,
    Release,
    ReleaseSummary,
    Run,
    RunFacts,
    RunState,
    SourceColumn,
    StoredVerdict,
    choose_bucket_s,
)
from evaluator.segments import run_folder
from evaluator.store import catalogue, maintenance
from evaluator.store.engine import Engine, Relation, attach, open_engine, transaction
from evaluator.store.intents import Promotions
from evaluator.store.landing import Target, land
from evaluator.store.locks import shared
from evaluator.store.maintenance import Files, is_compaction_due
from evaluator.store.migrations import (
    SCHEMA_VERSION,
    bring_up_to_date,
    data_dir_of,
    prepare_data_dir,
    read_version,
)
from evaluator.store.outcome_reading import read_outcomes
from evaluator.store.reading import read_cells

__all__ = ["WAIT_S", "Stamp", "Store", "stamp_of"]

WAIT_S = 30.0
"""How long other processes are waited for."""

COMPACT_AFTER = timedelta(hours=1)
"""Segments of a running run are merged when the first of them landed so long ago."""


_READ: ContextVar[Mapping[Path, Engine]] = ContextVar("_READ", default=MappingProxyType({}))
"""Store → the engine that it is attached to for reading, within `Store.reading`."""

Stamp = tuple[tuple[int, int], ...]


def stamp_of(path: Path) -> Stamp:
    """Time (ns) and size of the files of the store at `path`, without opening it."""
    return tuple(_stamp(one) for one in (path, path.with_name(path.name + ".wal")))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


@dataclass(frozen=True, slots=True)
class Store:
    """A store that has been checked. Holds no connection: each call opens the file for as long as it needs.

    Every method raises StoreBusy where another process keeps the file, StoreError where it cannot be used, and
    UnknownName for a release or run that is not there.
    """

    path: Path
    wait_s: float = WAIT_S

    @classmethod
    def open(cls, path: Path, *, create: bool = False, wait_s: float = WAIT_S) -> Self:
        """Check the store at `path` and bring its schema up to date; with `create` make it where there is none."""
        path = Path(path).absolute()
        if path.is_dir():
            raise StoreError(f"the store {path} is a directory", hint="give the path of a file with --store")
        if path == data_dir_of(path):
            raise StoreError(
                f"the store cannot be called {path.name}: its requests go into a folder of that name",
                hint="give another path with --store, such as evaluator.duckdb",
            )
        exists = path.exists()
        if not exists and not create:
            raise StoreError(
                f"there is no store at {path}",
                hint="`evaluator load`, `import` and `demo` make one; or give another path with --store",
            )
        store = cls(path, wait_s)
        version = store._read_version() if exists else 0
        if version < SCHEMA_VERSION:
            bring_up_to_date(path, version=version, wait_s=wait_s)
        return store

    @property
    def data_dir(self) -> Path:
        """Folder of the segments."""
        return data_dir_of(self.path)

    def stamp(self) -> Stamp:
        """Time and size of the store's files: another stamp means that something was written."""
        return stamp_of(self.path)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read several times with one opening of the file, which takes longer than most reads.

        Whoever writes waits meanwhile: nothing is computed inside, and nothing can be written.
        """
        if self.path in _READ.get():
            yield
            return
        with self._attached(write=False) as engine:
            token = _READ.set({**_READ.get(), self.path: engine})
            try:
                yield
            finally:
                _READ.reset(token)

    @contextmanager
    def _attached(self, *, write: bool) -> Iterator[Engine]:
        if (read := _READ.get().get(self.path)) is not None:
            if write:
                raise StoreError(f"the store {self.path} cannot be written while it is read")
            yield read
            return
        with open_engine(search=self.path.parent) as engine, attach(engine, self.path, write=write, wait_s=self.wait_s):
            if not write:
                yield engine
                return
            with transaction(engine):
                yield engine

    def _read_version(self) -> int:
        with self._attached(write=False) as engine:
            return read_version(engine, self.path)

    # -------------------------------------------------------------- recording

    def register_run(self, release: Release, run: Run, *, bucket_s: int | None = None) -> None:
        """Note a run before its load starts; its release and group are added where they are new.

        `bucket_s`: what is summed up together; chosen from the planned duration where it is not given.
        """
        planned_s = (run.planned_end - run.started).total_seconds() if run.planned_end and run.started else None
        prepare_data_dir(self.path)
        with self._attached(write=True) as engine:
            catalogue.add_release(engine, release)
            catalogue.add_group(engine, run, bucket_s or choose_bucket_s(planned_s))
            catalogue.add_run(engine, run)

    def finish_run(
        self,
        run_id: str,
        *,
        state: RunState,
        ended: datetime | None,
        facts: RunFacts,
        planned_end: datetime | None = None,
    ) -> None:
        """Note how a run ended."""
        with self._attached(write=True) as engine:
            catalogue.finish_run(engine, run_id, state=state, ended=ended, facts=facts, planned_end=planned_end)

    def segment_folder(self, run: Run) -> Path:
        """Folder that the segments of a run are written to (made by the writer)."""
        return run_folder(self.data_dir, run.release, run.id)

    def land_segments(self, run_id: str) -> Landed:
        """Roll up the segments of a run that have not landed. Doing it twice, or being killed, changes nothing.

        Segments that cannot be read are quarantined by name. Those of a run that has ended are merged into large files,
        and those of a running one when they landed an hour ago.
        """
        with self.reading(), self._attached(write=False) as engine:
            run = catalogue.read_run(engine, run_id)
            known = catalogue.read_places(engine, run_id)
            target = self._target(run)
        with shared(self._files.gate):
            landed = land(target, list(known))
        since = datetime.now(UTC) - COMPACT_AFTER if run.state is RunState.RUNNING else None
        if (landed.segments and since is None) or is_compaction_due(target.folder, known, since):
            self.compact(run_id)
        return landed

    def _target(self, run: Run) -> Target:
        with self._attached(write=False) as engine:
            code, bucket_s = engine.execute(
                """SELECT code, bucket_s FROM store.runs JOIN store.groups ON groups.id = runs."group"
                WHERE runs.id = ?""",
                [run.id],
            ).fetchall()[0]
        return Target(self.path, run.id, code, bucket_s, self.segment_folder(run), self.wait_s)

    def keep_answers(self, run: Run, answers: Sequence[Answer], sources: Mapping[str, Any]) -> Landed:
        """Keep the answers of one poll of a metrics server as a file of the run, and land them.

        Answers of later polls begin after the last sample of earlier ones.
        """
        from evaluator.store.readings import write_answers  # a verdict must not wait for it

        write_answers(self.segment_folder(run), run.id, answers, sources)
        return self.land_readings(run)

    def land_readings(self, run: Run) -> Landed:
        """Sum up the readings of a run that have not landed. Doing it twice, or being killed, changes nothing."""
        from evaluator.store.readings import land_readings

        return land_readings(self._target(run))

    def collected_until(self, run: Run) -> datetime | None:
        """Tell until when the readings of a run have been collected; `None` where there are none."""
        from evaluator.store.readings import covered_until

        return covered_until(self.segment_folder(run))

    def land_files(self, release: Release, group: str, plan: LandingPlan, arrange: ArrangeFiles) -> Landed:
        """Land the files of a plan as the runs of one group; all of them or nothing.

        `arrange` tells from the times of the files which of them are of one run. Raises InputError for a file with rows
        that cannot be used. The same files again change nothing.
        """
        from evaluator.store.importing import Place, import_files  # a verdict must not wait for it

        return import_files(Place(self.path, self.wait_s), release, group, plan, arrange)

    @staticmethod
    def describe_outcomes(plan: OutcomePlan) -> tuple[SourceColumn, ...]:
        """List the columns of files of outcomes, or of a query over them (as table `outcomes`). Raises InputError."""
        from evaluator.store.outcome_files import describe_outcomes

        return describe_outcomes(plan)

    def land_outcomes(self, release: Release, run: Run, plan: OutcomePlan) -> tuple[Landed, OutcomeFacts]:
        """Land outcomes of units as `run`; the same files read the same way change nothing. Raises InputError."""
        from evaluator.store.outcomes import OutcomePlace, import_outcomes

        return import_outcomes(OutcomePlace(self.path, self.segment_folder(run), self.wait_s), release, run, plan)

    # -------------------------------------------------------------- reading

    def releases(self) -> tuple[ReleaseSummary, ...]:
        """List the releases, the newest first."""
        with self._attached(write=False) as engine:
            return catalogue.list_releases(engine)

    def release(self, release_id: str) -> Release:
        """Read a release."""
        with self._attached(write=False) as engine:
            return catalogue.read_release(engine, release_id)

    def runs(self, release_id: str) -> tuple[Run, ...]:
        """Read the runs of a release: groups in the order they were begun, replicates in theirs."""
        with self._attached(write=False) as engine:
            return catalogue.read_runs(engine, release_id)

    def read_cells(self, run_ids: Sequence[str]) -> Cells:
        """Copy the cells of runs into memory."""
        with self._attached(write=False) as engine:
            return read_cells(engine, run_ids)

    def read_outcomes(
        self, run: Run, *, values: Collection[str] = (), row_values: Collection[str] = ()
    ) -> Outcomes | None:
        """Read the outcomes of a run, with values of units and rows where they are asked for; `None`: it has none."""
        with self._attached(write=False) as engine:
            return read_outcomes(engine, run.id, self.segment_folder(run), values=values, row_values=row_values)

    def read_readings(self, run: Run) -> ReadingCells | None:
        """Read the cells of a run's readings; `None`: it has none."""
        from evaluator.store.readings import read_readings

        with self._attached(write=False) as engine:
            return read_readings(engine, run.id)

    def data_hash(self, run_ids: Sequence[str]) -> str:
        """Hash what landed in runs ("sha256:…"): the same data give the same hash, wherever and however it landed."""
        with self._attached(write=False) as engine:
            return catalogue.hash_data(engine, run_ids)

    # -------------------------------------------------------------- verdicts

    def save_verdict(
        self,
        release_id: str,
        verdict_json: str,
        judged_at: datetime,
        word: str,
        figures: str | None = None,
        *,
        outcomes: tuple[str, str] = ("", ""),
    ) -> None:
        """Keep a verdict with its evidence, and the numbers behind its figures where they were asked for.

        `outcomes`: the run whose outcomes it looked at, and how that look was paid for.
        """
        with self._attached(write=True) as engine:
            catalogue.read_release(engine, release_id)
            catalogue.add_verdict(engine, release_id, verdict_json, judged_at, word, figures, outcomes)

    def verdicts(self, release_id: str) -> tuple[StoredVerdict, ...]:
        """Read the verdicts of a release, the oldest first."""
        with self._attached(write=False) as engine:
            return catalogue.read_verdicts(engine, release_id)

    def latest_verdicts(self, *, most: int = 50) -> tuple[StoredVerdict, ...]:
        """Read the latest verdict of each release, the newest release first."""
        with self._attached(write=False) as engine:
            return catalogue.read_latest_verdicts(engine, most)

    def verdict_log(self, *, most: int = 500) -> tuple[StoredVerdict, ...]:
        """Read the newest verdicts of all releases, the newest first."""
        with self._attached(write=False) as engine:
            return catalogue.read_verdict_log(engine, most)

    def figures(self, release_id: str) -> str | None:
        """Read the numbers (JSON) behind the figures of a release's newest verdict; `None` where nobody asked."""
        with self._attached(write=False) as engine:
            return catalogue.read_figures(engine, release_id)

    @property
    def promotions(self) -> Promotions:
        """Intents, approvals, deliveries and the audit trail."""
        return Promotions(self._attached, self.data_dir / ".promotion")

    # -------------------------------------------------------------- calibration

    def save_learnt(self, service: str, learnt: Learnt) -> None:
        """Keep what calibration learnt of a service's instances; the judge uses it from now on."""
        with self._attached(write=True) as engine:
            catalogue.write_learnt(engine, service, learnt)

    def learnt(self, service: str) -> Learnt | None:
        """Read what calibration learnt of a service's instances; `None` where nothing was kept."""
        with self._attached(write=False) as engine:
            return catalogue.read_learnt(engine, service)

    # -------------------------------------------------------------- upkeep

    @property
    def _files(self) -> Files:
        return Files(self.path, self.data_dir, self.wait_s)

    def compact(self, run_id: str) -> int:
        """Merge the landed segments of a run into files of 64 MB and more; returns how many were merged."""
        with self._attached(write=False) as engine:
            run = catalogue.read_run(engine, run_id)
        return maintenance.compact_run(self._files, run_id, self.segment_folder(run))

    def purge(self, release_id: str) -> int:
        """Delete the request rows of a release and say how many; cells and verdicts stay, so it can be judged again."""
        self.release(release_id)
        return maintenance.purge_release(self._files, release_id)

    def export(self, release_id: str, folder: Path) -> tuple[Path, ...]:
        """Write requests, cells, runs and verdicts of a release as Parquet files into `folder`."""
        self.release(release_id)
        return maintenance.export_release(self._files, release_id, folder)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> pa.Table:
        """Run a query over a snapshot: the store's tables and the view `requests`. Raises UsageError for bad SQL."""
        return maintenance.run_query(self._files, sql, parameters)

    def relate(self, sql: str, parameters: Sequence[object] = (), *, release: str | None = None) -> Relation:
        """Run a query over a copy that lives as long as its relation; with `release` over rows of that one only."""
        return maintenance.relate(self._files, sql, parameters, release)

    def render(self, sql: str, rows: int = 40) -> str:
        """Run a query over a snapshot and draw its first rows as a table."""
        return maintenance.render(self._files, sql, rows)
