"""Landing and reading of outcomes: the rows, one row a unit, and sums of units, stored in one transaction.

Rows and units are Parquet files next to the segments of requests, with another suffix, so the view `requests` skips
them. A verdict reads a few sums an arm, however many rows there are; it reads values of units and rows only where a
metric needs them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from evaluator.errors import InputError, StoreError, UnknownName
from evaluator.records import (
    BASELINE,
    Landed,
    LeftOut,
    LeftOutKind,
    OutcomeColumn,
    OutcomeFacts,
    OutcomeLook,
    OutcomePlan,
    Outcomes,
    Release,
    Run,
    UnitMoments,
)
from evaluator.segments import written_whole
from evaluator.stats.outcomes.levels import merge_moments, moments_of
from evaluator.store.control import Control
from evaluator.store.engine import Engine, open_engine, quote, quote_all, quote_name
from evaluator.store.file import StoreFile
from evaluator.store.landing import Segment, hash_file, write_manifest
from evaluator.store.leftovers import landing_in, remove_killed
from evaluator.store.migrations import prepare_folder
from evaluator.store.outcome_files import read_rows
from evaluator.store.runs import add_run, left_out_from_plain

ROWS_FILE, UNITS_FILE = "outcomes.rows", "outcomes.units"
"""Parquet files in the folder of the run."""

_BASELINES = ("baseline", "control", "ctrl", "a", "0", "old", "off", "false")
"""Names of an arm that make it the baseline, where none is given."""

_MOST_ARMS = 20
_LOG_OF_EVENTS = 0.01
"""Above this share of units with several different rows, equal rows may be separate events."""

_KEYS = ("unit", "arm", "hash")
_BATCH_ROWS = 200_000


def name_variables(columns: Sequence[OutcomeColumn]) -> dict[str, str]:
    """Name the variables of a unit in the order of its moments: column of `outcome_units` → variable."""
    names = {"n": "rows"}
    for k, column in enumerate(columns):
        names[f"s{k}"] = column.name
        if column.role == "outcome" and column.binary:
            names[f"a{k}"] = f"{column.name}?"
    return names


# ------------------------------------------------------------------ landing


def import_outcomes(
    store: StoreFile, control: Control, release: Release, run: Run, plan: OutcomePlan
) -> tuple[Landed, OutcomeFacts]:
    """Land outcomes as `run`; the same files, read in the same way, change nothing. Raises InputError."""
    contents = []
    for path in plan.paths:
        try:
            contents.append(hash_file(Path(path)))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
    how = asdict(replace(plan, paths=()))
    sha256 = hashlib.sha256(json.dumps([contents, how], sort_keys=True).encode()).hexdigest()
    prepare_folder(store)
    remove_killed(store)
    with store.opened() as engine:
        rows = engine.execute(
            """SELECT runs.id, outcomes.facts FROM store.segments JOIN store.runs ON runs.id = segments.run
            JOIN store.outcomes ON outcomes.run = runs.id WHERE release = ? AND sha256 = ?""",
            [release.id, sha256],
        ).fetchall()
    if rows:
        return Landed(already=1, runs=(rows[0][0],)), facts_from_json(rows[0][1])
    folder = store.run_folder(release.id, run.id)
    with landing_in(store, [folder]), open_engine() as engine:
        bad = read_rows(engine, plan)
        columns = _settle_binary(engine, plan)
        arms = _order_arms(engine, plan)
        facts = _count_rows(engine, plan, bad, arms[0])
        facts = _drop_duplicates(engine, facts, arms[0])
        facts = _sum_units(engine, columns, facts, arms[0])
        segments = _write_files(engine, folder, columns, arms, sha256)
        moments, skewness = _sum_arms(engine, folder / UNITS_FILE, columns, arms)
        with control.landing(release), store.attached(engine, write=True):
            add_run(engine, run, 1)
            write_manifest(engine, store, run.id, segments)
            plain = json.dumps([asdict(column) for column in columns])
            variables = list(name_variables(columns).values())
            engine.execute(
                "INSERT INTO store.outcomes VALUES (?, ?, ?, ?)", [run.id, plain, variables, json.dumps(asdict(facts))]
            )
            for k, (arm, part, skew) in enumerate(zip((BASELINE, *arms[1:]), moments, skewness, strict=True)):
                sums = [part.n, part.mean.tolist(), part.products.ravel().tolist(), skew]
                engine.execute(
                    "INSERT INTO store.outcome_moments VALUES (?, ?, ?, ?, ?, ?, ?)", [run.id, arm, k, *sums]
                )
    return Landed(rows=facts.rows, segments=1, runs=(run.id,)), facts


# ------------------------------------------------------------------ rows become units


def _settle_binary(engine: Engine, plan: OutcomePlan) -> tuple[OutcomeColumn, ...]:
    """Determine which outcomes are binary: those declared binary, and those with only 0 and 1."""
    checks = ", ".join(f"coalesce(bool_and(v{k} IN (0, 1)), false)" for k in range(len(plan.columns)))
    only = engine.execute(f"SELECT {checks} FROM outcome_rows").fetchall()[0]
    return tuple(
        replace(column, binary=bool(only[k]) if column.binary is None else column.binary)
        for k, column in enumerate(plan.columns)
    )


def _order_arms(engine: Engine, plan: OutcomePlan) -> tuple[str, ...]:
    """List the values of the arm column, the baseline first. Raises InputError and UnknownName."""
    arms = [row[0] for row in engine.execute("SELECT DISTINCT arm FROM outcome_rows ORDER BY arm").fetchall()]
    if not arms:
        raise InputError(f"{plan.paths[0]} has no row that can be used")
    if len(arms) > _MOST_ARMS:
        raise InputError(
            f"column '{plan.arm}' of {plan.paths[0]} has {len(arms)} different values, too many for arms",
            hint="name the column of the arm with --arm-column",
        )
    baseline = plan.baseline
    if not baseline:
        usual = ([arm for arm in arms if arm.strip().lower() == name] for name in _BASELINES)
        baseline = next((matching[0] for matching in usual if len(matching) == 1), "")
    if not baseline:
        raise InputError(
            f"none of the arms {', '.join(arms)} of {plan.paths[0]} is clearly the baseline",
            hint="name it with --baseline-arm",
        )
    if baseline not in arms:
        raise UnknownName("arm", baseline, arms, hint=f"the values of column '{plan.arm}' are the arms")
    if baseline != BASELINE and BASELINE in arms:
        raise InputError(f"arm '{baseline}' cannot be the baseline while another arm is called '{BASELINE}'")
    return (baseline, *(arm for arm in arms if arm != baseline))


def _count_by_arm(engine: Engine, baseline: str, count: str, table: str) -> dict[str, int]:
    """Evaluate `count` in each arm of a table; the arms have the names that they are judged by."""
    rows = engine.execute(f"SELECT arm, {count} FROM {table} GROUP BY arm ORDER BY arm").fetchall()
    return {BASELINE if arm == baseline else str(arm): int(number) for arm, number in rows}


def _left_out(counts: Mapping[str, int], kind: LeftOutKind) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(arm, kind, count) for arm, count in counts.items() if count)


def _count_rows(engine: Engine, plan: OutcomePlan, bad: Mapping[str, int], baseline: str) -> OutcomeFacts:
    """Count the rows read of each arm, including the skipped ones."""
    skipped = {BASELINE if arm == baseline else arm: count for arm, count in bad.items()}
    read = _count_by_arm(engine, baseline, "count(*)", "outcome_rows")
    for arm, count in skipped.items():
        read[arm] = read.get(arm, 0) + count
    left_out = _left_out(skipped, LeftOutKind.BAD_ROW)
    return OutcomeFacts(read, left_out, arm_column=plan.arm, query=plan.query)


def _drop_duplicates(engine: Engine, facts: OutcomeFacts, baseline: str) -> OutcomeFacts:
    """Count rows that repeat another in every column; leave them out unless the rows are a log of events."""
    several = engine.execute(
        """SELECT avg(CAST(k > 1 AS DOUBLE)) FROM (
            SELECT count(DISTINCT hash) AS k FROM outcome_rows GROUP BY unit HAVING min(arm) = max(arm))"""
    ).fetchall()[0][0]
    counts = _count_by_arm(engine, baseline, "count(*) - count(DISTINCT (unit, hash))", "outcome_rows")
    duplicates = sum(counts.values())
    drop = bool(duplicates) and (several or 0.0) <= _LOG_OF_EVENTS
    if drop:
        names = [row[0] for row in engine.execute("DESCRIBE outcome_rows").fetchall() if row[0] not in _KEYS]
        values = ", ".join(f"any_value({name}) AS {name}" for name in names)
        engine.execute(
            f"""CREATE OR REPLACE TEMP TABLE outcome_rows AS
            SELECT {", ".join(_KEYS)}, {values} FROM outcome_rows GROUP BY {", ".join(_KEYS)}"""
        )
        facts = replace(facts, left_out=(*facts.left_out, *_left_out(counts, LeftOutKind.DUPLICATE)))
    return replace(facts, duplicates=duplicates, duplicates_dropped=drop)


def _sum_units(engine: Engine, columns: Sequence[OutcomeColumn], facts: OutcomeFacts, baseline: str) -> OutcomeFacts:
    """Make one row a unit in `outcome_units`; units of several arms are counted and left out."""
    how = {"n": "count(*)"}
    for k, column in enumerate(columns):
        how |= {f"s{k}": f"avg(v{k})" if column.role == "covariate" else f"sum(v{k})", f"a{k}": f"max(v{k})"}
    sums = ", ".join(f"{how[name]} AS {name}" for name in name_variables(columns))
    engine.execute(
        f"""CREATE TEMP TABLE outcome_units AS
        SELECT unit, min(arm) AS arm, min(arm) <> max(arm) AS crossed, {sums}
        FROM outcome_rows GROUP BY unit"""
    )
    crossed = int(engine.execute("SELECT count(*) FROM outcome_units WHERE crossed").fetchall()[0][0])
    several = _count_by_arm(
        engine, baseline, "count(*)", "outcome_rows JOIN (SELECT unit FROM outcome_units WHERE crossed) USING (unit)"
    )
    engine.execute("DELETE FROM outcome_units WHERE crossed")
    counts = ", ".join(f"count(*) - count(s{k})" for k in range(len(columns)))
    rows = engine.execute(f"SELECT arm, count(*), {counts} FROM outcome_units GROUP BY arm ORDER BY arm").fetchall()
    missing = {
        column.name: {BASELINE if row[0] == baseline else row[0]: int(row[k + 2]) for row in rows}
        for k, column in enumerate(columns)
        if any(row[k + 2] for row in rows)
    }
    nulls = ", ".join(f"count(*) - count(v{k})" for k in range(len(columns)))
    lacking = engine.execute(f"SELECT {nulls} FROM outcome_rows").fetchall()[0]
    return replace(
        facts,
        left_out=(*facts.left_out, *_left_out(several, LeftOutKind.SEVERAL_ARMS)),
        units=sum(int(row[1]) for row in rows),
        crossed=crossed,
        missing=missing,
        missing_rows={column.name: int(lacking[k]) for k, column in enumerate(columns) if lacking[k]},
    )


def _write_files(
    engine: Engine, folder: Path, columns: Sequence[OutcomeColumn], arms: Sequence[str], sha256: str
) -> list[Segment]:
    """Write rows and units as Parquet; a missing value of a covariate becomes the mean of all units."""
    rows = ", ".join(f"v{k} AS {quote_name(column.name)}" for k, column in enumerate(columns))
    means = {
        f"s{k}": f"coalesce(s{k}, (SELECT avg(s{k}) FROM outcome_units), 0)"
        for k, column in enumerate(columns)
        if column.role == "covariate"
    }
    units = ", ".join(
        f"CAST({means.get(name, name)} AS DOUBLE) AS {quote_name(variable)}"
        for name, variable in name_variables(columns).items()
    )
    position = f"CAST(list_position({quote_all(arms)}, arm) - 1 AS INTEGER)"
    queries = {
        ROWS_FILE: f"SELECT unit AS unit_, {position} AS arm_, {rows} FROM outcome_rows ORDER BY arm_, unit_",
        UNITS_FILE: f"SELECT unit AS unit_, {position} AS arm_, {units} FROM outcome_units ORDER BY arm_, unit_",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, query in queries.items():
            with written_whole(folder / name) as unfinished:
                engine.execute(f"COPY ({query}) TO {quote(unfinished)} (FORMAT parquet)")
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}") from error
    count = int(engine.execute("SELECT count(*) FROM outcome_rows").fetchall()[0][0])
    return [Segment(folder / ROWS_FILE, count, sha256), Segment(folder / UNITS_FILE, 0, sha256)]


# ------------------------------------------------------------------ units become sums


def _sum_arms(
    engine: Engine, units: Path, columns: Sequence[OutcomeColumn], arms: Sequence[str]
) -> tuple[list[UnitMoments], list[list[float]]]:
    """Sum up the file of units: moments and skewness of the variables in each arm, in the order of `arms`."""
    names = name_variables(columns)
    moments = [moments_of(np.zeros((0, len(names)))) for _ in arms]
    with pq.ParquetFile(units) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=["arm_", *names.values()]):
            codes, *columns_of = (batch[name].to_numpy(zero_copy_only=False) for name in ("arm_", *names.values()))
            values = np.nan_to_num(np.column_stack(columns_of))
            for code in np.unique(codes):
                moments[code] = merge_moments(moments[code], moments_of(values[codes == code]))
    expressions = ", ".join(f"coalesce(skewness({name}), 0)" for name in names)
    rows = engine.execute(f"SELECT arm, {expressions} FROM outcome_units GROUP BY arm").fetchall()
    skewness = {row[0]: [float(np.nan_to_num(value)) for value in row[1:]] for row in rows}
    return moments, [skewness.get(arm, [0.0] * len(names)) for arm in arms]


def facts_from_json(text: str) -> OutcomeFacts:
    """Read facts as they were stored. Older stores did not count rows by arm: these become rows of an unknown arm."""
    plain: dict[str, Any] = json.loads(text)
    skipped, rows = plain.pop("skipped_rows", 0), plain.pop("rows", 0)
    plain.setdefault("read", {"": rows + skipped})
    left_out = left_out_from_plain(plain.get("left_out", ()))
    if skipped:
        left_out = (*left_out, LeftOut("", LeftOutKind.BAD_ROW, skipped))
    return OutcomeFacts(**{**plain, "left_out": left_out})


# ------------------------------------------------------------------ sums are read


def read_outcomes(
    engine: Engine,
    run: str,
    folder: Path,
    looks: Mapping[str, str],
    *,
    values: Collection[str] = (),
    row_values: Collection[str] = (),
) -> Outcomes | None:
    """Read the outcomes of a run; `None` where it has none.

    `looks`: run whose outcomes were judged → how that look spent alpha, in the order of judging. `values` and
    `row_values` name variables and outcomes whose values are read; those purged or unknown are left out.
    """
    stored = engine.execute("SELECT columns, variables, facts FROM store.outcomes WHERE run = ?", [run]).fetchall()
    if not stored:
        return None
    rows = engine.execute(
        "SELECT arm, n, mean, products, skewness FROM store.outcome_moments WHERE run = ? ORDER BY position", [run]
    ).fetchall()
    variables = tuple(stored[0][1])
    width = len(variables)
    columns = tuple(OutcomeColumn(**column) for column in json.loads(stored[0][0]))
    names = [name for name in variables if name in values]
    outcomes = [column.name for column in columns if column.name in row_values and column.role == "outcome"]
    return Outcomes(
        run=run,
        arms=tuple(row[0] for row in rows),
        columns=columns,
        variables=variables,
        moments=tuple(
            UnitMoments(int(row[1]), np.array(row[2]), np.array(row[3]).reshape(width, width)) for row in rows
        ),
        skewness=tuple(np.array(row[4]) for row in rows),
        facts=facts_from_json(stored[0][2]),
        values=_read_units(folder / UNITS_FILE, names, len(rows)),
        row_values=_read_rows(engine, folder / ROWS_FILE, outcomes, folder / UNITS_FILE, len(rows)),
        looks=_read_looks(engine, run, looks),
    )


def _read_looks(engine: Engine, run: str, looks: Mapping[str, str]) -> tuple[OutcomeLook, ...]:
    """Read the outcomes that were judged before `run` was first judged."""
    earlier = list(itertools.takewhile(lambda name: name != run, looks))
    rows = engine.execute(
        """SELECT o.run, o.variables, m.arm, m.n, m.mean, m.products
        FROM store.outcomes AS o JOIN store.outcome_moments AS m ON m.run = o.run
        WHERE o.run IN (SELECT unnest(?)) ORDER BY list_position(?, o.run), m.position""",
        [earlier, earlier],
    ).fetchall()
    out: dict[str, OutcomeLook] = {}
    for name, variables, arm, n, mean, products in rows:
        square = np.array(products).reshape(len(variables), len(variables)).diagonal()
        sums = {v: (float(n), float(mean[k]), float(square[k])) for k, v in enumerate(variables)}
        look = out.get(name, OutcomeLook(name, 0, {}, looks[name]))
        out[name] = replace(look, units=look.units + int(n), sums={**look.sums, arm: sums})
    return tuple(out.values())


def _read_units(path: Path, names: list[str], arms: int) -> dict[str, tuple[np.ndarray, ...]]:
    if not names or not path.exists():
        return {}
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(["arm_", *names])
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    codes = table["arm_"].to_numpy()
    return {name: tuple(table[name].to_numpy()[codes == arm].astype(float) for arm in range(arms)) for name in names}


def _read_rows(
    engine: Engine, path: Path, names: list[str], units: Path, arms: int
) -> dict[str, tuple[tuple[np.ndarray, np.ndarray], ...]]:
    if not names or not path.exists() or not units.exists():
        return {}
    out = {}
    for name in names:
        column = quote_name(name)
        table = engine.execute(
            f"""SELECT r.arm_, u.place - u.first AS unit, r.{column} AS value
            FROM read_parquet({quote(path)}) AS r
            JOIN (
                SELECT unit_, file_row_number AS place, min(file_row_number) OVER (PARTITION BY arm_) AS first
                FROM read_parquet({quote(units)}, file_row_number = true)) AS u ON r.unit_ = u.unit_
            WHERE r.{column} IS NOT NULL
            ORDER BY ALL"""
        ).fetchnumpy()
        masks = [table["arm_"] == arm for arm in range(arms)]
        out[name] = tuple((table["unit"][rows].astype(np.int64), table["value"][rows].astype(float)) for rows in masks)
    return out
