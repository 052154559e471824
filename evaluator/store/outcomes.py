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
from evaluator.store.engine import Engine, open_engine, quote, quote_all, quote_file, quote_name
from evaluator.store.file import StoreFile
from evaluator.store.landing import Segment, hash_file, write_manifest
from evaluator.store.leftovers import landing_in, remove_killed
from evaluator.store.migrations import prepare_folder
from evaluator.store.outcome_files import BASELINE_NAMES, opened_files, read_rows, refuse_contradiction
from evaluator.store.runs import add_run, left_out_from_plain

ROWS_FILE, UNITS_FILE = "outcomes.rows", "outcomes.units"
"""Parquet files in the folder of the run."""

_MOST_ARMS = 20
_EVENT_LOG_SHARE = 0.01
"""Above this share of units with several different rows, equal rows may be separate events."""

_KEYS_OF_ROW = ("unit", "arm", "hash")
_BATCH_ROWS = 200_000


def name_variables(columns: Sequence[OutcomeColumn]) -> dict[str, str]:
    """Name the variables of a unit, in the order of its moments: column of the table `outcome_units` → variable.

    Column `n` has the rows of the unit; `s0`, `s1`, … the sum (of a covariate: the mean) of each outcome; `a0`, `a1`, …
    whether a binary outcome was ever 1.
    """
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
    """Land the files of outcomes of a plan as `run`. Raises InputError.

    Returns what landed, and counts of rows and units. Files that have landed in `release` before, read in the same way,
    change nothing.
    """
    sha256 = _hash_content(plan)
    prepare_folder(store)
    remove_killed(store)
    with store.opened() as engine:
        rows = engine.execute(
            """SELECT runs.id, outcomes.facts FROM store.segments JOIN store.runs ON runs.id = segments.run
            JOIN store.outcomes ON outcomes.run = runs.id WHERE release = ? AND sha256 = ?""",
            [release.id, sha256],
        ).fetchall()
    if rows:
        earlier_run, facts_json = rows[0]
        return Landed(already=1, runs=(earlier_run,)), facts_from_json(facts_json)
    folder = store.run_folder(release.id, run.id)
    with opened_files(plan) as opened, landing_in(store, [folder]), open_engine() as engine:
        # Files become the table `outcome_rows`, this becomes `outcome_units`; each step adds its counts to the facts.
        bad_rows_by_label = read_rows(engine, opened)
        columns = _decide_binary(engine, plan)
        labels = _order_arms(engine, plan)  # arms as the files name them, the baseline first
        refuse_contradiction(engine, opened, labels[0])
        facts = _count_rows(engine, plan, bad_rows_by_label, labels[0])
        facts = _drop_duplicates(engine, facts, labels[0])
        facts = _sum_units(engine, columns, facts, labels[0])
        facts = _count_missing(engine, columns, facts, labels[0])
        segments = _write_files(engine, folder, columns, labels, sha256)
        moments, skewness = _sum_arms(engine, folder / UNITS_FILE, columns, labels)
        with control.landing(release), store.attached(engine, write=True):
            add_run(engine, run, bucket_s=1)  # outcomes have no buckets
            write_manifest(engine, store, run.id, segments)
            columns_json = json.dumps([asdict(column) for column in columns])
            variables = list(name_variables(columns).values())
            engine.execute(
                "INSERT INTO store.outcomes VALUES (?, ?, ?, ?)",
                [run.id, columns_json, variables, json.dumps(asdict(facts))],
            )
            _insert_moments(engine, run.id, (BASELINE, *labels[1:]), moments, skewness)
    return Landed(rows=facts.rows, segments=1, runs=(run.id,)), facts  # both files count as one segment


def _hash_content(plan: OutcomePlan) -> str:
    """Hash the bytes of a plan's files together with how they are read. Raises InputError for a file without access."""
    file_hashes = []
    for path in plan.paths:
        try:
            file_hashes.append(hash_file(Path(path)))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
    how_to_read = asdict(replace(plan, paths=()))
    del how_to_read["rewrite"], how_to_read["readable"]  # the bytes of the files decide both
    if not plan.arm_of_file:  # so that files without it have the hash under which they landed in earlier versions
        del how_to_read["arm_of_file"]
    return hashlib.sha256(json.dumps([file_hashes, how_to_read], sort_keys=True).encode()).hexdigest()


def _insert_moments(
    engine: Engine, run_id: str, arms: Sequence[str], moments: Sequence[UnitMoments], skewness: Sequence[list[float]]
) -> None:
    """Insert the sums of a run's outcomes into the attached store; the other lists have an entry for each of `arms`."""
    for position, arm in enumerate(arms):
        arm_moments = moments[position]
        products = arm_moments.products.ravel().tolist()  # a matrix as one list, row by row
        engine.execute(
            "INSERT INTO store.outcome_moments VALUES (?, ?, ?, ?, ?, ?, ?)",
            [run_id, arm, position, arm_moments.n, arm_moments.mean.tolist(), products, skewness[position]],
        )


# ------------------------------------------------------------------ rows become units


def _decide_binary(engine: Engine, plan: OutcomePlan) -> tuple[OutcomeColumn, ...]:
    """Return the columns of the plan with `binary` set: as declared, or true if all values in the rows are 0 or 1."""
    # A column without any value is not binary.
    tests = ", ".join(f"coalesce(bool_and(v{k} IN (0, 1)), false)" for k in range(len(plan.columns)))
    [has_only_0_and_1] = engine.execute(f"SELECT {tests} FROM outcome_rows").fetchall()
    return tuple(
        replace(column, binary=bool(has_only_0_and_1[k])) if column.binary is None else column
        for k, column in enumerate(plan.columns)
    )


def _order_arms(engine: Engine, plan: OutcomePlan) -> tuple[str, ...]:
    """List the values of the arm column, the baseline first.

    Raises InputError and UnknownName if they cannot be the arms, or if it is not clear which is the baseline.
    """
    arms = [row[0] for row in engine.execute("SELECT DISTINCT arm FROM outcome_rows ORDER BY arm").fetchall()]
    if not arms:
        raise InputError(f"{plan.paths[0]} has no row that can be used")
    for path, arm in zip(plan.paths, plan.arm_of_file, strict=False):  # `arm_of_file` is empty if a column has the arm
        if arm not in arms and not plan.query:  # a query may leave out an arm
            raise InputError(f"arm '{arm}' has no row that can be used in {path}", hint="give a file with its units")
    if len(arms) > _MOST_ARMS:
        raise InputError(
            f"column '{plan.arm}' of {plan.paths[0]} has {len(arms)} different values, too many for arms",
            hint="name the column of the arm with --arm-column",
        )
    baseline = plan.baseline
    if not baseline:
        # The first usual name of a baseline that exactly one arm has.
        for usual_name in BASELINE_NAMES:
            matching = [arm for arm in arms if arm.strip().lower() == usual_name]
            if len(matching) == 1:
                baseline = matching[0]
                break
    if not baseline:
        raise InputError(
            f"none of the arms {', '.join(arm[:60] for arm in arms[:10])} of {plan.paths[0]} is clearly the baseline",
            hint="name it with --baseline-arm",
        )
    if baseline not in arms:
        raise UnknownName("arm", baseline, arms, hint=f"the values of column '{plan.arm}' are the arms")
    if baseline != BASELINE and BASELINE in arms:
        raise InputError(f"arm '{baseline}' cannot be the baseline while another arm is called '{BASELINE}'")
    return (baseline, *(arm for arm in arms if arm != baseline))


def _count_by_arm(engine: Engine, baseline_label: str, count_sql: str, table_sql: str) -> dict[str, int]:
    """Evaluate `count_sql`, such as `count(*)`, in each arm of a table.

    Returns arm → count; the arm that the files call `baseline_label` gets the name under which it is judged.
    """
    rows = engine.execute(f"SELECT arm, {count_sql} FROM {table_sql} GROUP BY arm ORDER BY arm").fetchall()
    return {BASELINE if label == baseline_label else str(label): int(count) for label, count in rows}


def _left_out(counts_by_arm: Mapping[str, int], kind: LeftOutKind) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(arm, kind, count) for arm, count in counts_by_arm.items() if count)


def _count_rows(
    engine: Engine, plan: OutcomePlan, bad_rows_by_label: Mapping[str, int], baseline_label: str
) -> OutcomeFacts:
    """Count the rows read of each arm: the usable ones in `outcome_rows`, and the bad ones, which were skipped.

    `bad_rows_by_label`: arm, as the files name it → bad rows. The arm that the files call `baseline_label` gets the
    name under which it is judged.
    """
    bad_rows = {BASELINE if label == baseline_label else label: count for label, count in bad_rows_by_label.items()}
    read = _count_by_arm(engine, baseline_label, "count(*)", "outcome_rows")
    for arm, count in bad_rows.items():
        read[arm] = read.get(arm, 0) + count
    left_out = _left_out(bad_rows, LeftOutKind.BAD_ROW)
    return OutcomeFacts(read, left_out, arm_column=plan.arm, query=plan.query)


def _drop_duplicates(engine: Engine, facts: OutcomeFacts, baseline_label: str) -> OutcomeFacts:
    """Count rows of `outcome_rows` that repeat another row in every column, and add the counts to `facts`.

    Duplicates are deleted, unless the rows are a log of events, where equal rows may be two events. A log is recognised
    by the units that have several different rows: their share is above `_EVENT_LOG_SHARE`.
    """
    # Different rows of each unit that is in one arm; then the share of units with more than one (NULL without units).
    [(share_with_several,)] = engine.execute(
        """SELECT avg(CAST(different_rows > 1 AS DOUBLE)) FROM (
            SELECT count(DISTINCT hash) AS different_rows FROM outcome_rows GROUP BY unit HAVING min(arm) = max(arm))"""
    ).fetchall()
    # All rows of an arm minus its different rows.
    duplicates_by_arm = _count_by_arm(engine, baseline_label, "count(*) - count(DISTINCT (unit, hash))", "outcome_rows")
    duplicates = sum(duplicates_by_arm.values())
    is_log_of_events = (share_with_several or 0.0) > _EVENT_LOG_SHARE
    drop = bool(duplicates) and not is_log_of_events
    if drop:
        names = [row[0] for row in engine.execute("DESCRIBE outcome_rows").fetchall() if row[0] not in _KEYS_OF_ROW]
        values = ", ".join(f"any_value({name}) AS {name}" for name in names)  # all equal in duplicates
        engine.execute(
            f"""CREATE OR REPLACE TEMP TABLE outcome_rows AS
            SELECT {", ".join(_KEYS_OF_ROW)}, {values} FROM outcome_rows GROUP BY {", ".join(_KEYS_OF_ROW)}"""
        )
        facts = replace(facts, left_out=(*facts.left_out, *_left_out(duplicates_by_arm, LeftOutKind.DUPLICATE)))
    return replace(facts, duplicates=duplicates, duplicates_dropped=drop)


def _sum_units(
    engine: Engine, columns: Sequence[OutcomeColumn], facts: OutcomeFacts, baseline_label: str
) -> OutcomeFacts:
    """Make the table `outcome_units`, a row a unit, from `outcome_rows`, and add its counts to `facts`.

    Its columns are the unit, its arm, and the variables of `name_variables`. A unit in several arms (crossed) is
    counted and left out.
    """
    # Column of a unit → its SQL over the rows of the unit, whose values are v0, v1, …
    sql_by_column = {"n": "count(*)"}
    for k, column in enumerate(columns):
        sql_by_column[f"s{k}"] = f"avg(v{k})" if column.role == "covariate" else f"sum(v{k})"
        sql_by_column[f"a{k}"] = f"max(v{k})"  # of 0 and 1: whether it was ever 1
    sums = ", ".join(f"{sql_by_column[name]} AS {name}" for name in name_variables(columns))
    engine.execute(
        f"""CREATE TEMP TABLE outcome_units AS
        SELECT unit, min(arm) AS arm, min(arm) <> max(arm) AS crossed, {sums}
        FROM outcome_rows GROUP BY unit"""
    )
    [(crossed_units,)] = engine.execute("SELECT count(*) FROM outcome_units WHERE crossed").fetchall()
    rows_of_crossed = "outcome_rows JOIN (SELECT unit FROM outcome_units WHERE crossed) USING (unit)"
    crossed_rows = _count_by_arm(engine, baseline_label, "count(*)", rows_of_crossed)
    engine.execute("DELETE FROM outcome_units WHERE crossed")
    [(units,)] = engine.execute("SELECT count(*) FROM outcome_units").fetchall()
    left_out = (*facts.left_out, *_left_out(crossed_rows, LeftOutKind.SEVERAL_ARMS))
    return replace(facts, left_out=left_out, units=int(units), crossed=int(crossed_units))


def _count_missing(
    engine: Engine, columns: Sequence[OutcomeColumn], facts: OutcomeFacts, baseline_label: str
) -> OutcomeFacts:
    """Count the units without any value, in each arm, and the rows without a value of each column; add them to `facts`.

    A column without missing values has no count.
    """
    # `count` counts what is not null; the sum of a unit is null if none of its rows has a value.
    units_without = ", ".join(f"count(*) - count(s{k})" for k in range(len(columns)))
    query = f"SELECT arm, {units_without} FROM outcome_units GROUP BY arm ORDER BY arm"
    counts_of_arms = engine.execute(query).fetchall()
    missing: dict[str, dict[str, int]] = {column.name: {} for column in columns}
    for label, *counts in counts_of_arms:
        arm = BASELINE if label == baseline_label else label
        for column, count in zip(columns, counts, strict=True):
            missing[column.name][arm] = int(count)
    rows_without = ", ".join(f"count(*) - count(v{k})" for k in range(len(columns)))
    [row_counts] = engine.execute(f"SELECT {rows_without} FROM outcome_rows").fetchall()
    return replace(
        facts,
        missing={name: by_arm for name, by_arm in missing.items() if any(by_arm.values())},
        missing_rows={column.name: int(count) for column, count in zip(columns, row_counts, strict=True) if count},
    )


def _write_files(
    engine: Engine, folder: Path, columns: Sequence[OutcomeColumn], arms: Sequence[str], sha256: str
) -> list[Segment]:
    """Write `outcome_rows` and `outcome_units` as Parquet files into `folder`; returns both files as segments.

    Of `columns[k]`, the rows have the value `v{k}`, and the units its sum `s{k}`. The arm is written as its position in
    `arms`. A missing value of a covariate becomes the mean of all units. `sha256`: hash of the imported files.
    """
    row_values = ", ".join(f"v{k} AS {quote_name(column.name)}" for k, column in enumerate(columns))
    # Column of `outcome_units` → its SQL with missing values filled in; 0 if no unit has a value.
    filled_covariates = {
        f"s{k}": f"coalesce(s{k}, (SELECT avg(s{k}) FROM outcome_units), 0)"
        for k, column in enumerate(columns)
        if column.role == "covariate"
    }
    unit_values = ", ".join(
        f"CAST({filled_covariates.get(name, name)} AS DOUBLE) AS {quote_name(variable)}"
        for name, variable in name_variables(columns).items()
    )
    position = f"CAST(list_position({quote_all(arms)}, arm) - 1 AS INTEGER)"
    queries = {
        ROWS_FILE: f"SELECT unit AS unit_, {position} AS arm_, {row_values} FROM outcome_rows ORDER BY arm_, unit_",
        UNITS_FILE: f"SELECT unit AS unit_, {position} AS arm_, {unit_values} FROM outcome_units ORDER BY arm_, unit_",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, query in queries.items():
            with written_whole(folder / name) as unfinished:
                engine.execute(f"COPY ({query}) TO {quote(unfinished)} (FORMAT parquet)")
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}") from error
    [(row_count,)] = engine.execute("SELECT count(*) FROM outcome_rows").fetchall()
    # The file of units counts as 0 rows, because its rows sum up those of the other file.
    return [Segment(folder / ROWS_FILE, int(row_count), sha256), Segment(folder / UNITS_FILE, 0, sha256)]


# ------------------------------------------------------------------ units become sums


def _sum_arms(
    engine: Engine, units: Path, columns: Sequence[OutcomeColumn], arms: Sequence[str]
) -> tuple[list[UnitMoments], list[list[float]]]:
    """Sum up the units of each arm, in the order of `arms` (as the files name them).

    Returns their moments (units, means, products of deviations), and the skewness (asymmetry) of each variable, in the
    order of `name_variables`. The file `units` has a row a unit; a missing value counts as 0 (a metric of an outcome
    with missing values reads the units instead).
    """
    names = name_variables(columns)
    moments_of_arms = [moments_of(np.zeros((0, len(names)))) for _ in arms]
    with pq.ParquetFile(units) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=["arm_", *names.values()]):
            arm_of_unit = batch["arm_"].to_numpy(zero_copy_only=False)  # positions in `arms`
            variables = [batch[variable].to_numpy(zero_copy_only=False) for variable in names.values()]
            values = np.nan_to_num(np.column_stack(variables))  # shape (units, variables)
            for position in np.unique(arm_of_unit):
                batch_moments = moments_of(values[arm_of_unit == position])
                moments_of_arms[position] = merge_moments(moments_of_arms[position], batch_moments)
    expressions = ", ".join(f"coalesce(skewness({name}), 0)" for name in names)
    rows = engine.execute(f"SELECT arm, {expressions} FROM outcome_units GROUP BY arm").fetchall()
    # The skewness of too few or equal values is null or NaN, and counts as 0.
    skewness_by_arm = {arm: [float(np.nan_to_num(value)) for value in values] for arm, *values in rows}
    return moments_of_arms, [skewness_by_arm.get(arm, [0.0] * len(names)) for arm in arms]


def facts_from_json(text: str) -> OutcomeFacts:
    """Read facts as they were stored. Older stores did not count rows by arm: these become rows of an unknown arm."""
    fields: dict[str, Any] = json.loads(text)
    # Only older stores have these two.
    skipped_rows, rows = fields.pop("skipped_rows", 0), fields.pop("rows", 0)
    fields.setdefault("read", {"": rows + skipped_rows})
    left_out = left_out_from_plain(fields.pop("left_out", ()))
    if skipped_rows:
        left_out = (*left_out, LeftOut("", LeftOutKind.BAD_ROW, skipped_rows))
    return OutcomeFacts(**fields, left_out=left_out)


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
    """Read the outcomes of a run from the attached store; `None` if it has none.

    `folder`: folder of the run's files. `looks`: run whose outcomes were judged → how that verdict spent the error rate
    alpha, in the order of judging. `values` and `row_values`: names of variables and outcomes whose values of each unit
    and row are read; those purged or unknown are left out.
    """
    stored = engine.execute("SELECT columns, variables, facts FROM store.outcomes WHERE run = ?", [run]).fetchall()
    if not stored:
        return None
    columns_json, variables, facts_json = stored[0]
    columns = tuple(OutcomeColumn(**column) for column in json.loads(columns_json))
    arms, moments, skewness = [], [], []
    for arm, n, mean, products, arm_skewness in engine.execute(
        "SELECT arm, n, mean, products, skewness FROM store.outcome_moments WHERE run = ? ORDER BY position", [run]
    ).fetchall():
        arms.append(arm)
        # The products, of shape (variables, variables), are stored as one list, row by row.
        product_matrix = np.array(products).reshape(len(variables), len(variables))
        moments.append(UnitMoments(int(n), np.array(mean), product_matrix))
        skewness.append(np.array(arm_skewness))
    unit_names = [name for name in variables if name in values]
    row_names = [column.name for column in columns if column.name in row_values and column.role == "outcome"]
    return Outcomes(
        run=run,
        arms=tuple(arms),
        columns=columns,
        variables=tuple(variables),
        moments=tuple(moments),
        skewness=tuple(skewness),
        facts=facts_from_json(facts_json),
        values=_read_unit_values(folder / UNITS_FILE, unit_names, len(arms)),
        row_values=_read_row_values(engine, folder / ROWS_FILE, row_names, folder / UNITS_FILE, len(arms)),
        looks=_read_looks(engine, run, looks),
    )


def _read_looks(engine: Engine, run: str, looks: Mapping[str, str]) -> tuple[OutcomeLook, ...]:
    """Read sums of the outcomes that were judged before `run` was first judged: the earlier looks.

    `looks`: run whose outcomes were judged → how that verdict spent the error rate alpha, in the order of judging.
    """
    earlier_runs = list(itertools.takewhile(lambda judged_run: judged_run != run, looks))
    rows = engine.execute(
        """SELECT o.run, o.variables, m.arm, m.n, m.mean, m.products
        FROM store.outcomes AS o JOIN store.outcome_moments AS m ON m.run = o.run
        WHERE o.run IN (SELECT unnest(?)) ORDER BY list_position(?, o.run), m.position""",
        [earlier_runs, earlier_runs],
    ).fetchall()
    look_by_run: dict[str, OutcomeLook] = {}
    # A row is one arm of one run. Its sums are variable → units, mean, sum of squared deviations (from the diagonal).
    for look_run, variables, arm, n, mean, products in rows:
        squared_deviations = np.array(products).reshape(len(variables), len(variables)).diagonal()
        sums = {name: (float(n), float(mean[k]), float(squared_deviations[k])) for k, name in enumerate(variables)}
        look = look_by_run.get(look_run, OutcomeLook(look_run, 0, {}, looks[look_run]))
        look_by_run[look_run] = replace(look, units=look.units + int(n), sums={**look.sums, arm: sums})
    return tuple(look_by_run.values())


def _read_unit_values(path: Path, names: list[str], arms: int) -> dict[str, tuple[np.ndarray, ...]]:
    """Read variables of all units: name → one array of values for each of the `arms` (their number).

    Empty if the file was purged.
    """
    if not names or not path.exists():
        return {}
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(["arm_", *names])
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    arm_of_unit = table["arm_"].to_numpy()  # positions: 0 is the baseline
    return {
        name: tuple(table[name].to_numpy()[arm_of_unit == arm].astype(float) for arm in range(arms)) for name in names
    }


def _read_row_values(
    engine: Engine, rows_file: Path, names: list[str], units_file: Path, arms: int
) -> dict[str, tuple[tuple[np.ndarray, np.ndarray], ...]]:
    """Read outcomes of all rows: name → for each of the `arms` (their number), two arrays with an entry a row.

    The first has the index of the row's unit among the units of the arm, the second the value. Rows without a value and
    rows of units that were left out are not read. Empty if a file was purged.
    """
    if not names or not rows_file.exists() or not units_file.exists():
        return {}
    values_by_name = {}
    for name in names:
        column = quote_name(name)
        # The file of units is in the order of arms, so a unit's index is its place minus the first place of its arm.
        table = engine.execute(
            f"""SELECT r.arm_, u.place - u.first_of_arm AS unit, r.{column} AS value
            FROM read_parquet({quote_file(rows_file)}) AS r
            JOIN (
                SELECT unit_, file_row_number AS place, min(file_row_number) OVER (PARTITION BY arm_) AS first_of_arm
                FROM read_parquet({quote_file(units_file)}, file_row_number = true)) AS u ON r.unit_ = u.unit_
            WHERE r.{column} IS NOT NULL
            ORDER BY ALL"""
        ).fetchnumpy()
        rows_of_arms = [table["arm_"] == arm for arm in range(arms)]
        values_by_name[name] = tuple(
            (table["unit"][mask].astype(np.int64), table["value"][mask].astype(float)) for mask in rows_of_arms
        )
    return values_by_name
