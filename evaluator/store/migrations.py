"""The schema of the store as numbered steps; each is applied once, in one transaction, after a backup copy."""

from __future__ import annotations

import glob
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from evaluator.errors import StoreError
from evaluator.segments import READING_SCHEMA, READINGS_SUFFIX, REQUEST_SCHEMA, written_whole
from evaluator.store.control_copies import TABLES, import_decisions
from evaluator.store.control_file import ControlFile, explain_missing
from evaluator.store.engine import Engine, attach, open_engine, quote, transaction
from evaluator.store.file import StoreFile

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE store.meta (schema_version INTEGER NOT NULL)",
        "INSERT INTO store.meta VALUES (0)",
        """CREATE TABLE store.releases (
            id VARCHAR PRIMARY KEY, services VARCHAR NOT NULL, labels VARCHAR NOT NULL, created_at TIMESTAMPTZ)""",
        """CREATE TABLE store.groups (
            id VARCHAR PRIMARY KEY, number INTEGER NOT NULL, release VARCHAR NOT NULL, source VARCHAR NOT NULL,
            bucket_s INTEGER NOT NULL)""",
        """CREATE TABLE store.runs (
            id VARCHAR PRIMARY KEY, code INTEGER NOT NULL, release VARCHAR NOT NULL, "group" VARCHAR NOT NULL,
            source VARCHAR NOT NULL, replicate INTEGER NOT NULL, started TIMESTAMPTZ, planned_end TIMESTAMPTZ,
            ended TIMESTAMPTZ, state VARCHAR NOT NULL, fingerprint VARCHAR NOT NULL, facts VARCHAR NOT NULL,
            landings INTEGER NOT NULL, grid_us BIGINT NOT NULL)""",
        """CREATE TABLE store.segments (
            run VARCHAR NOT NULL, name VARCHAR NOT NULL, file VARCHAR, sha256 VARCHAR NOT NULL, rows BIGINT NOT NULL,
            state VARCHAR NOT NULL, reason VARCHAR, landed_at TIMESTAMPTZ NOT NULL, PRIMARY KEY (run, name))""",
        """CREATE TABLE store.names (
            id INTEGER PRIMARY KEY, kind VARCHAR NOT NULL, name VARCHAR NOT NULL)""",
        """CREATE TABLE store.moments (
            run INTEGER, arm INTEGER, endpoint INTEGER, instance INTEGER, bucket BIGINT, n BIGINT, failures BIGINT,
            sum_us HUGEINT, sum_sq_us HUGEINT, min_us BIGINT, max_us BIGINT, bytes HUGEINT, bytes_sq HUGEINT)""",
        """CREATE TABLE store.bin_lists (
            run INTEGER, arm INTEGER, endpoint INTEGER, bucket BIGINT, bins SMALLINT[], counts BIGINT[])""",
        """CREATE TABLE store.instance_bin_lists (
            run INTEGER, arm INTEGER, endpoint INTEGER, instance INTEGER, block BIGINT, bins SMALLINT[],
            counts BIGINT[])""",
        """CREATE VIEW store.bins AS
            SELECT * EXCLUDE (bins, counts), unnest(bins) AS bin, unnest(counts) AS n FROM bin_lists""",
        """CREATE VIEW store.instance_bins AS
            SELECT * EXCLUDE (bins, counts), unnest(bins) AS bin, unnest(counts) AS n FROM instance_bin_lists""",
        "CREATE TABLE store.loads (run INTEGER, arm INTEGER, bucket BIGINT, users INTEGER)",
        """CREATE TABLE store.failure_kinds (
            run INTEGER, arm INTEGER, endpoint INTEGER, status SMALLINT, exception INTEGER, n BIGINT)""",
        """CREATE TABLE store.verdicts (
            number INTEGER PRIMARY KEY, release VARCHAR NOT NULL, judged_at TIMESTAMPTZ NOT NULL,
            word VARCHAR NOT NULL, verdict VARCHAR NOT NULL)""",
    ),
    (
        """CREATE TABLE store.outcomes (
            run VARCHAR PRIMARY KEY, columns VARCHAR NOT NULL, variables VARCHAR[] NOT NULL, facts VARCHAR NOT NULL)""",
        """CREATE TABLE store.outcome_moments (
            run VARCHAR NOT NULL, arm VARCHAR NOT NULL, position INTEGER NOT NULL, n BIGINT NOT NULL,
            mean DOUBLE[] NOT NULL, products DOUBLE[] NOT NULL, skewness DOUBLE[] NOT NULL, PRIMARY KEY (run, arm))""",
    ),
    (
        """CREATE TABLE store.learnt (
            service VARCHAR PRIMARY KEY, sd_latency DOUBLE, sd_failures DOUBLE, comparisons INTEGER NOT NULL,
            runs INTEGER NOT NULL, df DOUBLE NOT NULL)""",
    ),
    (
        "ALTER TABLE store.learnt ADD COLUMN wander_latency DOUBLE",
        "ALTER TABLE store.learnt ADD COLUMN wander_failures DOUBLE",
        "ALTER TABLE store.learnt ADD COLUMN wander_comparisons INTEGER DEFAULT 0",
        "ALTER TABLE store.learnt ADD COLUMN wander_runs INTEGER DEFAULT 0",
    ),
    (
        """CREATE TABLE store.readings_of (
            run VARCHAR PRIMARY KEY, bucket_s INTEGER NOT NULL, queries VARCHAR NOT NULL, arms VARCHAR[] NOT NULL,
            instances VARCHAR[] NOT NULL, endpoints VARCHAR[] NOT NULL, facts VARCHAR NOT NULL,
            sources VARCHAR NOT NULL)""",
        """CREATE TABLE store.reading_cells (
            run VARCHAR, query INTEGER, arm INTEGER, instance INTEGER, endpoint INTEGER, bucket BIGINT, part INTEGER,
            le DOUBLE, n BIGINT, seconds DOUBLE, total DOUBLE, peak DOUBLE)""",
    ),
    ("ALTER TABLE store.verdicts ADD COLUMN figures VARCHAR",),
    (
        """CREATE TABLE store.intents (
            id VARCHAR NOT NULL, key VARCHAR NOT NULL, release VARCHAR NOT NULL, action VARCHAR NOT NULL,
            requester VARCHAR NOT NULL, reason VARCHAR NOT NULL, verdict_hash VARCHAR NOT NULL,
            data_hash VARCHAR NOT NULL, policy_hash VARCHAR NOT NULL, requested_at TIMESTAMPTZ NOT NULL,
            expires_at TIMESTAMPTZ NOT NULL, approvals_needed INTEGER NOT NULL, distinct_people BOOLEAN NOT NULL,
            state VARCHAR NOT NULL, claimed_by VARCHAR NOT NULL)""",
        """CREATE TABLE store.approvals (
            intent VARCHAR NOT NULL, person VARCHAR NOT NULL, happened_at TIMESTAMPTZ NOT NULL,
            PRIMARY KEY (intent, person))""",
        """CREATE TABLE store.deliveries (
            intent VARCHAR NOT NULL, position INTEGER NOT NULL, hook VARCHAR NOT NULL, attempts INTEGER NOT NULL,
            state VARCHAR NOT NULL, text VARCHAR NOT NULL, undo VARCHAR NOT NULL, happened_at TIMESTAMPTZ NOT NULL,
            PRIMARY KEY (intent, position))""",
        """CREATE TABLE store.audit (
            number BIGINT PRIMARY KEY, happened_at TIMESTAMPTZ NOT NULL, actor VARCHAR NOT NULL, event VARCHAR NOT NULL,
            release VARCHAR NOT NULL, intent VARCHAR NOT NULL, text VARCHAR NOT NULL, hash VARCHAR NOT NULL)""",
    ),
    (
        # DuckDB adds no column with NOT NULL; nothing was ever in these tables.
        "ALTER TABLE store.intents ADD COLUMN requester_names VARCHAR[] DEFAULT []",
        "ALTER TABLE store.intents ADD COLUMN hooks_hash VARCHAR DEFAULT ''",
        "ALTER TABLE store.intents ADD COLUMN undoes VARCHAR[] DEFAULT []",
        "ALTER TABLE store.approvals ADD COLUMN names VARCHAR[] DEFAULT []",
        "ALTER TABLE store.deliveries ADD COLUMN response VARCHAR DEFAULT ''",
        "ALTER TABLE store.deliveries ADD COLUMN event VARCHAR DEFAULT ''",
        "ALTER TABLE store.deliveries ADD COLUMN options VARCHAR DEFAULT ''",
    ),
    (
        # Which outcomes a verdict judged, and how that look spent alpha.
        "ALTER TABLE store.verdicts ADD COLUMN outcomes_run VARCHAR DEFAULT ''",
        "ALTER TABLE store.verdicts ADD COLUMN outcomes_paid VARCHAR DEFAULT ''",
    ),
    tuple(
        f"ALTER TABLE store.learnt RENAME COLUMN wander_{part} TO between_arms_{part}"
        for part in ("latency", "failures", "comparisons", "runs")
    ),
    (
        # Times of cells are in the unit of their run; until now, all were in microseconds. NULL: no time has landed.
        "ALTER TABLE store.runs ADD COLUMN units_per_ms INTEGER DEFAULT 1000",
        "ALTER TABLE store.runs RENAME COLUMN grid_us TO grid",
        "ALTER TABLE store.moments RENAME COLUMN sum_us TO sum_time",
        "ALTER TABLE store.moments RENAME COLUMN sum_sq_us TO sum_sq_time",
        "ALTER TABLE store.moments RENAME COLUMN min_us TO min_time",
        "ALTER TABLE store.moments RENAME COLUMN max_us TO max_time",
    ),
    (
        "ALTER TABLE store.runs ADD COLUMN step VARCHAR DEFAULT ''",
        "ALTER TABLE store.runs ADD COLUMN service VARCHAR DEFAULT ''",
        "ALTER TABLE store.runs ADD COLUMN shares VARCHAR DEFAULT '{}'",
        # 0: of cells from before, no status is known.
        "ALTER TABLE store.moments ADD COLUMN statuses BIGINT DEFAULT 0",
        "ALTER TABLE store.moments ADD COLUMN redirects BIGINT DEFAULT 0",
        "ALTER TABLE store.moments ADD COLUMN client_errors BIGINT DEFAULT 0",
    ),
    # Decisions are in the SQLite file from here on; before this step, they are copied there.
    tuple(f"DROP TABLE store.{table}" for table in TABLES),
    # NULL: of kinds from before, the instance is not recorded.
    ("ALTER TABLE store.failure_kinds ADD COLUMN instance INTEGER",),
)
"""Statements of each step. Steps are never edited once released: a change is a new step."""

SCHEMA_VERSION = len(MIGRATIONS)

_DECISIONS_MOVE = 12
"""Schema version whose next step drops the tables of decisions."""

_LONGEST_WRITE_S = 60.0
"""No process takes this long to write a file without rows."""

VIEWS = {"requests": ".parquet", "readings": READINGS_SUFFIX}
"""View → suffix of the files that it shows."""


def read_version(engine: Engine, path: Path) -> int:
    """Read the schema version of the attached store; 0 for a new file without tables.

    Raises StoreError for a database that is no store (`path` names it), and for a store of a newer version.
    """
    tables = engine.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'store'").fetchall()
    if not tables:
        return 0
    if ("meta",) not in tables:
        raise StoreError(
            f"{path} is a DuckDB database, but not a store of the evaluator", hint="give another path with --store"
        )
    version = int(engine.execute("SELECT schema_version FROM store.meta").fetchall()[0][0])
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the store {path} was written by a newer evaluator (schema {version}, this one knows {SCHEMA_VERSION})",
            hint="upgrade the evaluator; the store was left unchanged",
        )
    return version


def bring_up_to_date(file: StoreFile, control: ControlFile) -> None:
    """Bring the schemas of a store to the newest version, after a backup copy; make the store if there is no file.

    Decisions that an older version kept in the DuckDB file go into the file of decisions, `control`. Raises StoreError
    for a file that is no store, or cannot be written, and if the file of decisions is gone.
    """
    path = file.path
    version = 0
    if path.exists():
        with file.opened() as engine:
            version = read_version(engine, path)
    # It is made before the DuckDB file, so where that has no decisions (any more), it must exist.
    if version > _DECISIONS_MOVE and not control.path.exists():
        raise explain_missing(control.path)
    control.make()
    if version == SCHEMA_VERSION:
        return
    prepare_folder(file)
    if version:
        try:
            shutil.copy2(path, path.with_name(f"{path.name}.schema-{version}.backup"))
        except OSError as error:
            raise StoreError(f"the store {path} cannot be backed up before its upgrade: {error.strerror}") from error
    with (
        open_engine(search=path.parent) as engine,
        attach(engine, path, write=True, wait_s=file.wait_s, create=not version),
    ):
        engine.execute("USE store")  # views must not name the catalogue: the file is opened under other names too
        with transaction(engine):
            # Step k brings version k to k + 1. The version is read again, because another process may have upgraded the
            # store meanwhile.
            for number, step in enumerate(MIGRATIONS[(first := read_version(engine, path)) :], first):
                if number == _DECISIONS_MOVE and version:
                    import_decisions(engine, control)
                for statement in step:
                    engine.execute(statement)
            engine.execute("UPDATE store.meta SET schema_version = ?", [SCHEMA_VERSION])
            _make_views(engine, file)
        engine.execute("USE memory")  # the database in use cannot be detached


def make_views(file: StoreFile) -> None:
    """Make the views of request rows again, because the store has another name than before. Raises StoreError."""
    with (
        open_engine(search=file.path.parent) as engine,
        attach(engine, file.path, write=True, wait_s=file.wait_s),
    ):
        engine.execute("USE store")
        with transaction(engine):
            _make_views(engine, file)
        engine.execute("USE memory")


def _make_views(engine: Engine, file: StoreFile) -> None:
    """Make the views of request rows in the database in use, which is that of `file`."""
    for view, suffix in VIEWS.items():
        # A file counts only where the manifest names it, so compaction never shows a row twice.
        engine.execute(
            f"""CREATE OR REPLACE VIEW store.{view} AS
            SELECT * EXCLUDE (filename)
            FROM read_parquet({quote(f"{glob.escape(file.folder.name)}/**/*{suffix}")}, filename = true)
            WHERE regexp_extract(filename, '[^/]+/[^/]+/(merged/)?[^/]+$') IN (SELECT file FROM segments)"""
        )


def prepare_folder(file: StoreFile) -> None:
    """Make the folder of segments, with a file without rows for each view: a view needs at least one file.

    Raises StoreError if the folder or a file cannot be written.
    """
    empty_readings = file.folder / f"schema{READINGS_SUFFIX}"
    try:
        file.folder.mkdir(parents=True, exist_ok=True)
        for path, schema in ((file.empty_segment, REQUEST_SCHEMA), (empty_readings, READING_SCHEMA)):
            _remove_old(file.folder.glob(f"{path.name}.*.tmp"))
            if not path.exists():
                with written_whole(path) as unfinished:
                    pq.write_table(schema.empty_table(), unfinished)
    except OSError as error:
        raise StoreError(
            f"the store {file.path} cannot be made: {error.strerror} ({error.filename})",
            hint="with --store, give a path in a folder that you may write to",
        ) from error


def _remove_old(unfinished: Iterable[Path]) -> None:
    """Delete unfinished files that no process can be writing any more, because they are a minute old."""
    for path in unfinished:
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _LONGEST_WRITE_S:
                path.unlink()
