"""Outcomes are read: sums always, values of units and rows only where a metric asked for them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from evaluator.errors import StoreError
from evaluator.records import OutcomeColumn, OutcomeLook, Outcomes, UnitMoments
from evaluator.store.engine import Engine, quote, quote_name
from evaluator.store.outcomes import ROWS_FILE, UNITS_FILE, facts_from_json

__all__ = ["read_outcomes"]


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

    `looks`: the runs whose outcomes were judged, in that order, and how each look was paid for. `values` and
    `row_values` name the variables and outcomes whose values are wanted; what was purged, or is not there, is left out.
    """
    found = engine.execute("SELECT columns, variables, facts FROM store.outcomes WHERE run = ?", [run]).fetchall()
    if not found:
        return None
    rows = engine.execute(
        "SELECT arm, n, mean, products, skewness FROM store.outcome_moments WHERE run = ? ORDER BY position", [run]
    ).fetchall()
    variables = tuple(found[0][1])
    width = len(variables)
    columns = tuple(OutcomeColumn(**column) for column in json.loads(found[0][0]))
    wanted = [name for name in variables if name in values]
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
        facts=facts_from_json(found[0][2]),
        values=_read_units(folder / UNITS_FILE, wanted, len(rows)),
        row_values=_read_rows(engine, folder / ROWS_FILE, outcomes, folder / UNITS_FILE, len(rows)),
        looks=_read_looks(engine, run, looks),
    )


def _read_looks(engine: Engine, run: str, looks: Mapping[str, str]) -> tuple[OutcomeLook, ...]:
    """Read what was judged before `run` was first judged."""
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
        known = out.get(name, OutcomeLook(name, 0, {}, looks[name]))
        out[name] = replace(known, units=known.units + int(n), sums={**known.sums, arm: sums})
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
        found = engine.execute(
            f"""SELECT r.arm_, u.place - u.first AS unit, r.{column} AS value
            FROM read_parquet({quote(path)}) AS r
            JOIN (
                SELECT unit_, file_row_number AS place, min(file_row_number) OVER (PARTITION BY arm_) AS first
                FROM read_parquet({quote(units)}, file_row_number = true)) AS u ON r.unit_ = u.unit_
            WHERE r.{column} IS NOT NULL
            ORDER BY ALL"""
        ).fetchnumpy()
        mine = [found["arm_"] == arm for arm in range(arms)]
        out[name] = tuple((found["unit"][rows].astype(np.int64), found["value"][rows].astype(float)) for rows in mine)
    return out
