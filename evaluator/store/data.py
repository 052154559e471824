"""What was measured: runs with their segments, cells, readings and outcomes, how they land, and SQL over them.

Its tables are all except those of control (`control.TABLES`). A run is data, although decisions read it: it lands in
one transaction with its cells and its manifest. Its release belongs to control, and is stored before the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from evaluator.records import (
    Answer,
    ArrangeFiles,
    Cells,
    Landed,
    LandingPlan,
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
        """Store a run before its load starts; its release and group are added where they are new.

        `bucket_s`: length of a bucket; chosen from the planned duration where it is not given.
        """
        planned_s = (run.planned_end - run.started).total_seconds() if run.planned_end and run.started else None
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
        """Store how a run ended. Raises UnknownName."""
        with self.file.opened(write=True) as engine:
            read_run(engine, run_id)
            engine.execute(
                """UPDATE store.runs SET state = ?, ended = coalesce(?, ended), facts = ?,
                planned_end = coalesce(?, planned_end) WHERE id = ?""",
                [state.value, ended, facts_to_json(facts), planned_end, run_id],
            )

    def runs(self, release_id: str) -> tuple[Run, ...]:
        """Read the runs of a release, by the start of their group and by replicate. Raises UnknownName."""
        with self.file.opened() as engine:
            return read_runs(engine, release_id)

    def count_landed(self) -> Mapping[str, Mapping[str, Any]]:
        """Count groups, runs and rows of each release, and find when its last run began: fields of ReleaseSummary.

        Samples of a metrics server do not count as rows.
        """
        with self.file.opened() as engine:
            rows = engine.execute(
                """SELECT release, count(DISTINCT "group"), count(*),
                    CAST(coalesce(sum(landed) FILTER (source <> 'prometheus'), 0) AS BIGINT),
                    max(coalesce(started, ended))
                FROM store.runs LEFT JOIN (SELECT run, sum(rows) AS landed FROM store.segments GROUP BY run) AS s
                    ON s.run = runs.id
                GROUP BY release"""
            ).fetchall()
        return {
            row[0]: {"groups": row[1], "runs": row[2], "rows": row[3], "last_run": row[4] and row[4].astimezone(UTC)}
            for row in rows
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
        """Roll up the segments of a run that have not landed. It can be repeated safely, also after it was killed.

        Segments that cannot be read are quarantined by name. Those of a run that has ended are merged into large files;
        those of a running one are merged an hour after they landed.
        """
        with self.file.opened() as engine:
            run, bucket_s = read_run(engine, run_id), read_bucket_s(engine, run_id)
            rows = engine.execute("SELECT name, file, landed_at FROM store.segments WHERE run = ?", [run_id]).fetchall()
        stored = {name: (file, landed_at.astimezone(UTC)) for name, file, landed_at in rows}
        with shared(self.file.empty_segment):
            landed = land(self.file, run, bucket_s, stored)
        since = datetime.now(UTC) - COMPACT_AFTER if run.state is RunState.RUNNING else None
        folder = self.segment_folder(run)
        if (landed.segments and since is None) or maintenance.is_compaction_due(folder, stored, since):
            self.compact(run_id)
        return landed

    def keep_answers(self, run: Run, answers: Sequence[Answer], sources: Mapping[str, Any]) -> Landed:
        """Store the answers of one poll of a metrics server as a file of the run, and land them.

        Answers of later polls begin after the last sample of earlier ones.
        """
        from evaluator.store.readings import write_answers  # a verdict must not wait for this import

        write_answers(self.segment_folder(run), run.id, answers, sources)
        return self.land_readings(run)

    def land_readings(self, run: Run) -> Landed:
        """Sum up the readings of a run that have not landed. It can be repeated safely, also after it was killed."""
        from evaluator.store.readings import land_readings

        return land_readings(self.file, run)

    def collected_until(self, run: Run) -> datetime | None:
        """The time until which the readings of a run have been collected; `None` where there are none."""
        from evaluator.store.readings import covered_until

        return covered_until(self.segment_folder(run))

    def land_files(self, release: Release, group: str, plan: LandingPlan, arrange: ArrangeFiles) -> Landed:
        """Land the files of a plan as the runs of one group; all of them or none.

        `arrange` finds from the times of the files which of them form one run. Raises InputError for a file with rows
        that cannot be used. Landing the same files again changes nothing.
        """
        from evaluator.store.importing import import_files  # a verdict must not wait for this import

        return import_files(self.file, self.control, release, group, plan, arrange)

    def land_outcomes(self, release: Release, run: Run, plan: OutcomePlan) -> tuple[Landed, OutcomeFacts]:
        """Land outcomes of units as `run`; the same files, read in the same way, change nothing. Raises InputError."""
        from evaluator.store.outcomes import import_outcomes

        return import_outcomes(self.file, self.control, release, run, plan)

    # -------------------------------------------------------------- reading

    def read_cells(self, run_ids: Sequence[str]) -> Cells:
        """Copy the cells of runs into memory."""
        with self.file.opened() as engine:
            return read_cells(engine, run_ids)

    def read_outcomes(
        self, run: Run, *, values: Collection[str] = (), row_values: Collection[str] = ()
    ) -> Outcomes | None:
        """Read the outcomes of a run, with the requested values of units and rows; `None` where it has none."""
        with self.file.reading(), self.file.opened() as engine:
            looks = self.control.outcome_looks(run.release)
            return read_outcomes(engine, run.id, self.segment_folder(run), looks, values=values, row_values=row_values)

    def read_readings(self, run: Run) -> ReadingCells | None:
        """Read the cells of a run's readings; `None` where it has none."""
        from evaluator.store.readings import read_readings

        with self.file.opened() as engine:
            return read_readings(engine, run.id)

    # -------------------------------------------------------------- maintenance

    def compact(self, run_id: str) -> int:
        """Merge the landed segments of a run into files of 64 MB and more; returns how many were merged."""
        with self.file.opened() as engine:
            run = read_run(engine, run_id)
        return maintenance.compact_run(self.file, run)

    def purge(self, release_id: str) -> int:
        """Delete the request rows of a release and return how many; cells and verdicts stay for judging again."""
        self.runs(release_id)
        return maintenance.purge_release(self.file, release_id)

    def export(self, release_id: str, folder: Path) -> tuple[Path, ...]:
        """Write requests, cells, runs and verdicts of a release as Parquet files into `folder`."""
        self.runs(release_id)
        return maintenance.export_release(self.file, release_id, folder)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> pa.Table:
        """Run a query over a snapshot: the store's tables and the view `requests`. Raises UsageError for bad SQL."""
        with maintenance.open_snapshot(self.file) as engine:
            return maintenance.run_sql(engine, sql, parameters).to_arrow_table()

    def relate(self, sql: str, parameters: Sequence[object] = (), *, release: str | None = None) -> Relation:
        """Run a query over a copy that lives as long as the relation; with `release`, over its rows only."""
        return maintenance.relate(self.file, sql, parameters, release)

    def render(self, sql: str, rows: int = 40) -> str:
        """Run a query over a snapshot and draw its first rows as a table."""
        with maintenance.open_snapshot(self.file) as engine:
            return maintenance.draw(engine, sql, rows)
