"""What was measured: runs with their segments, cells, readings and outcomes, how they land, and SQL over them.

A run is data, although decisions read it: it lands in one transaction with its cells and its manifest. Its release
belongs to control, and is stored before the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from evaluator.permissions import is_private, make_private
from evaluator.records import (
    Answer,
    ArrangeFiles,
    Cells,
    DescribeLine,
    Landed,
    LandingPlan,
    LogPlan,
    OutcomeFacts,
    OutcomePlan,
    Outcomes,
    ReadingCells,
    Release,
    Run,
    RunFacts,
    RunState,
    choose_bucket_s,
)
from evaluator.store import maintenance
from evaluator.store.control import Control
from evaluator.store.engine import Relation
from evaluator.store.file import StoreFile
from evaluator.store.landing import land, read_bucket_s
from evaluator.store.leftovers import remove_unfinished
from evaluator.store.locks import shared
from evaluator.store.migrations import prepare_folder
from evaluator.store.outcomes import read_outcomes
from evaluator.store.reading import read_cells
from evaluator.store.runs import add_run, facts_to_json, read_run, read_runs

COMPACT_AFTER = timedelta(hours=1)
"""Segments of a running run are merged when the first of them landed this long ago."""


@dataclass(frozen=True, slots=True)
class StoredData:
    """Runs and what was measured in them. A release is known to `control` before a run of it lands."""

    file: StoreFile
    control: Control

    # -------------------------------------------------------------- runs

    def register_run(self, release: Release, run: Run, *, bucket_s: int | None = None) -> None:
        """Store a run before its load starts, and its release and group if they are new.

        `bucket_s`: length of a bucket; `None`: chosen from the planned duration of the run.
        """
        planned_s = (run.planned_end - run.started).total_seconds() if run.planned_end and run.started else None
        with self.file.keeping_private():
            prepare_folder(self.file)
        with self.control.landing(release), self.file.opened(write=True) as engine:
            add_run(engine, run, bucket_s or choose_bucket_s(planned_s))

    def finish_run(
        self,
        run_id: str,
        *,
        state: RunState,
        ended: datetime | None,
        facts: RunFacts,
        planned_end: datetime | None = None,
    ) -> None:
        """Store the state, times and facts of a run that has ended. `None` leaves a stored time as it is.

        Files that its processes left unfinished when they were killed are deleted. Raises UnknownName.
        """
        with self.file.opened(write=True) as engine:
            run = read_run(engine, run_id)
            engine.execute(
                """UPDATE store.runs SET state = ?, ended = coalesce(?, ended), facts = ?,
                planned_end = coalesce(?, planned_end) WHERE id = ?""",
                [state.value, ended, facts_to_json(facts), planned_end, run_id],
            )
        remove_unfinished(self.segment_folder(run))

    def runs(self, release_id: str) -> tuple[Run, ...]:
        """Read the runs of a release, by the start of their group and by replicate. Raises UnknownName."""
        with self.file.opened() as engine:
            return read_runs(engine, release_id)

    def list_runs(self) -> frozenset[str]:
        """Return the ids of all runs."""
        with self.file.opened() as engine:
            rows = engine.execute("SELECT id FROM store.runs").fetchall()
        return frozenset(run_id for (run_id,) in rows)

    def count_landed(self) -> Mapping[str, Mapping[str, Any]]:
        """Count groups, runs and rows of each release, and find when its last run began.

        Returns id of the release → names and values of fields of ReleaseSummary. Samples of a metrics server do not
        count as rows.
        """
        with self.file.opened() as engine:
            rows = engine.execute(
                """SELECT release, count(DISTINCT "group"), count(*),
                    CAST(coalesce(sum(landed) FILTER (source <> 'prometheus'), 0) AS BIGINT),
                    max(coalesce(started, ended)),
                    count(*) FILTER (state = 'running'),
                    min(started) FILTER (state = 'running'), max(planned_end) FILTER (state = 'running')
                FROM store.runs LEFT JOIN (SELECT run, sum(rows) AS landed FROM store.segments GROUP BY run) AS s
                    ON s.run = runs.id
                GROUP BY release"""
            ).fetchall()
        return {
            release: {
                "groups": group_count,
                "runs": run_count,
                "rows": row_count,
                "last_run": last_run and last_run.astimezone(UTC),  # NULL if no run has times
                "running": running_count,
                "running_since": since and since.astimezone(UTC),
                "running_until": until and until.astimezone(UTC),
            }
            for release, group_count, run_count, row_count, last_run, running_count, since, until in rows
        }

    def content_hash(self, run_ids: Sequence[str]) -> str:
        """Hash the data that landed in runs ("sha256:…"): the same data have the same hash in every store."""
        with self.file.opened() as engine:
            rows = engine.execute(
                """SELECT replicate, sha256 FROM store.segments JOIN store.runs ON runs.id = segments.run
                WHERE run IN (SELECT unnest(?)) ORDER BY ALL""",
                [list(run_ids)],
            ).fetchall()
        text = "".join(f"{replicate} {sha256}\n" for replicate, sha256 in rows)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    # -------------------------------------------------------------- landing

    def segment_folder(self, run: Run) -> Path:
        """Folder that the segments of a run are written to (made by the writer)."""
        return self.file.run_folder(run.release, run.id)

    def land_segments(self, run_id: str) -> Landed:
        """Land the segments of a run that have not landed yet. A call can be repeated safely, also after a kill.

        Segments that cannot be read are quarantined. Landed segments are merged into large files: at once if the run
        has ended, an hour after they landed if it is running.
        """
        with self.file.opened() as engine:
            run, bucket_s = read_run(engine, run_id), read_bucket_s(engine, run_id)
            rows = engine.execute("SELECT name, file, landed_at FROM store.segments WHERE run = ?", [run_id]).fetchall()
        # Name of a segment → the file with its rows now, and when it landed.
        landed_before = {name: (file, landed_at.astimezone(UTC)) for name, file, landed_at in rows}
        folder = self.segment_folder(run)
        if is_private(self.file.path) and not (is_private(folder) and is_private(folder.parent)):
            self._make_folder_private(folder.parent)
        # Deleting request rows needs an exclusive lock on this file, so none are deleted meanwhile.
        with shared(self.file.empty_segment):
            landed = land(self.file, run, bucket_s, landed_before)
        is_running = run.state is RunState.RUNNING
        merge_older_than = datetime.now(UTC) - COMPACT_AFTER if is_running else None  # None: however new
        is_due = landed.segments > 0 and not is_running
        if is_due or maintenance.is_compaction_due(folder, landed_before, merge_older_than):
            self.compact(run_id)
        return landed

    def keep_answers(self, run: Run, answers: Sequence[Answer], sources: Mapping[str, Any]) -> Landed:
        """Store the answers of a metrics server to one poll as a file of the run, and land them.

        `sources`: description of the server and its queries (JSON), which the file keeps. The caller must ask each
        later poll only for samples after the last one of the polls before.
        """
        from evaluator.store.readings import write_answers  # a verdict must not wait for this import

        with self.file.keeping_private():
            write_answers(self.segment_folder(run), run.id, answers, sources)
        return self.land_readings(run)

    def land_readings(self, run: Run) -> Landed:
        """Land the readings of a run that have not landed yet. A call can be repeated safely, also after a kill."""
        from evaluator.store.readings import land_readings

        return land_readings(self.file, run)

    def collected_until(self, run: Run) -> datetime | None:
        """Read until when the readings of a run have been collected; `None` if it has no readings."""
        from evaluator.store.readings import covered_until

        return covered_until(self.segment_folder(run))

    def land_files(self, release: Release, group: str, plan: LandingPlan, arrange: ArrangeFiles) -> Landed:
        """Land all files of a plan as the runs of one group, or none of them.

        `arrange` finds from the times of the files which of them form one run. Raises InputError for a file with rows
        that cannot be used, unless the plan skips them. Landing the same files again changes nothing.
        """
        from evaluator.store.importing import import_files  # a verdict must not wait for this import

        with self.file.keeping_private():
            return import_files(self.file, self.control, release, group, plan, arrange)

    def land_access_logs(self, release: Release, run_id: str, plan: LogPlan, describe: DescribeLine) -> Landed:
        """Land all files of a plan as one run, or none of them. Landing the same files again changes nothing.

        Raises InputError for lines that cannot be read, which `describe` shows, unless the plan skips them.
        """
        from evaluator.store.log_importing import import_access_logs

        with self.file.keeping_private():
            return import_access_logs(self.file, self.control, release, run_id, plan, describe)

    def land_outcomes(self, release: Release, run: Run, plan: OutcomePlan) -> tuple[Landed, OutcomeFacts]:
        """Land the files of outcomes of a plan as `run`. Raises InputError.

        The same files, read in the same way, change nothing when they land again.
        """
        from evaluator.store.outcomes import import_outcomes

        with self.file.keeping_private():
            return import_outcomes(self.file, self.control, release, run, plan)

    def _make_folder_private(self, folder: Path) -> None:
        """Let only the owner read what recorders have written into the folder of a release.

        They may be processes of another user, whose files stay as they are.
        """
        with suppress(OSError):  # the folder around it is private, so no other user can reach this one
            make_private(folder)

    # -------------------------------------------------------------- reading

    def read_cells(self, run_ids: Sequence[str]) -> Cells:
        """Read the cells of runs, with the runs in the order of `run_ids`."""
        with self.file.opened() as engine:
            return read_cells(engine, run_ids)

    def read_outcomes(
        self, run: Run, *, values: Collection[str] = (), row_values: Collection[str] = ()
    ) -> Outcomes | None:
        """Read the outcomes of a run; `None` if it has none.

        `values` and `row_values`: names of variables and outcomes whose values of each unit, and of each row, are read.
        """
        with self.file.reading(), self.file.opened() as engine:
            looks = self.control.outcome_looks(run.release)
            return read_outcomes(engine, run.id, self.segment_folder(run), looks, values=values, row_values=row_values)

    def read_readings(self, run: Run) -> ReadingCells | None:
        """Read the cells of a run's readings; `None` if it has no readings."""
        from evaluator.store.readings import read_readings

        with self.file.opened() as engine:
            return read_readings(engine, run.id)

    # -------------------------------------------------------------- maintenance

    def compact(self, run_id: str) -> int:
        """Merge the landed segments of a run into files of 64 MB and more; returns how many were merged."""
        with self.file.opened() as engine:
            run = read_run(engine, run_id)
        with self.file.keeping_private():
            return maintenance.compact_run(self.file, run)

    def purge(self, release_id: str) -> int:
        """Delete the request rows of a release and return how many; cells and verdicts stay for judging again."""
        self.runs(release_id)
        return maintenance.purge_release(self.file, release_id)

    def export(self, release_id: str, folder: Path) -> tuple[Path, ...]:
        """Write requests, cells, runs and verdicts of a release as Parquet files into `folder`."""
        self.runs(release_id)
        with self.file.keeping_private():
            return maintenance.export_release(self.file, release_id, folder)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> pa.Table:
        """Run a query over a snapshot: the store's tables and the view `requests`. Raises UsageError for bad SQL."""
        with maintenance.open_snapshot(self.file, sql) as engine:
            return maintenance.run_sql(engine, sql, parameters).to_arrow_table()

    def relate(self, sql: str, parameters: Sequence[object] = (), *, release: str | None = None) -> Relation:
        """Run a query over a copy of the store, which lives as long as the returned relation.

        With `release` (a name), the query sees only the rows of that release.
        """
        return maintenance.relate(self.file, sql, parameters, release)

    def render(self, sql: str, rows: int = 40) -> str:
        """Run a query over a snapshot and draw its first rows as a table."""
        with maintenance.open_snapshot(self.file, sql) as engine:
            return maintenance.draw(engine, sql, rows)
