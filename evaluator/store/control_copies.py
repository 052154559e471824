"""Decisions of an older store, which were in the DuckDB file, and copies of decisions for queries in DuckDB."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from evaluator.store import audit, covering
from evaluator.store.control_file import ControlFile, to_text, to_time
from evaluator.store.engine import Engine

_TIME, _TEXT, _COUNT, _NAMES = pa.timestamp("us", tz="UTC"), pa.string(), pa.int64(), pa.list_(pa.string())

_COLUMNS: Mapping[str, Mapping[str, pa.DataType]] = {
    "releases": {"id": _TEXT, "services": _TEXT, "labels": _TEXT, "created_at": _TIME},
    "verdicts": {
        "number": _COUNT, "release": _TEXT, "judged_at": _TIME, "word": _TEXT, "verdict": _TEXT, "figures": _TEXT,
        "outcomes_run": _TEXT, "outcomes_paid": _TEXT,
    },
    "learnt": {
        "service": _TEXT, "sd_latency": pa.float64(), "sd_failures": pa.float64(), "comparisons": _COUNT,
        "runs": _COUNT, "df": pa.float64(), "between_arms_latency": pa.float64(),
        "between_arms_failures": pa.float64(), "between_arms_comparisons": _COUNT, "between_arms_runs": _COUNT,
    },
    "intents": {
        "id": _TEXT, "key": _TEXT, "release": _TEXT, "action": _TEXT, "requester": _TEXT, "reason": _TEXT,
        "verdict_hash": _TEXT, "data_hash": _TEXT, "policy_hash": _TEXT, "requested_at": _TIME, "expires_at": _TIME,
        "approvals_needed": _COUNT, "distinct_people": pa.bool_(), "state": _TEXT, "claimed_by": _TEXT,
        "requester_names": _NAMES, "hooks_hash": _TEXT, "undoes": _NAMES,
    },
    "approvals": {"intent": _TEXT, "person": _TEXT, "happened_at": _TIME, "names": _NAMES},
    "deliveries": {
        "intent": _TEXT, "position": _COUNT, "hook": _TEXT, "attempts": _COUNT, "state": _TEXT, "text": _TEXT,
        "undo": _TEXT, "response": _TEXT, "happened_at": _TIME, "event": _TEXT, "options": _TEXT,
    },
    "audit": {
        "number": _COUNT, "happened_at": _TIME, "actor": _TEXT, "event": _TEXT, "release": _TEXT, "intent": _TEXT,
        "text": _TEXT, "covers": _TEXT, "hash": _TEXT,
    },
}  # fmt: skip
"""Table of decisions → its columns as DuckDB shows them. In SQLite, times and lists are texts."""

TABLES = tuple(_COLUMNS)
"""Tables of decisions."""

_LISTS_TABLES = re.compile(r"\bshow\b|\bdescribe\b|information_schema|duckdb_", re.IGNORECASE)
"""What a query has that lists tables or columns."""


def copy_decisions(control: ControlFile, engine: Engine, used_in: str) -> None:
    """Copy the tables of decisions that the query `used_in` names into temporary tables of `engine`.

    Their names hide those of tables in the database. A word of the query that only looks like a table costs no more
    than a copy.
    """
    lists_tables = _LISTS_TABLES.search(used_in) is not None
    tables = [table for table in TABLES if lists_tables or re.search(rf"\b{table}\b", used_in, re.IGNORECASE)]
    if not tables:
        return
    with control.opened() as connection:
        for table in tables:
            columns = _COLUMNS[table]
            # In the order in which they were written.
            rows = connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY rowid").fetchall()
            arrow_table = _to_arrow(columns, rows)
            engine.register(f"{table}_of_control", arrow_table)
            engine.execute(f"CREATE TEMP TABLE {table} AS SELECT * FROM {table}_of_control")
            engine.unregister(f"{table}_of_control")


def _to_arrow(columns: Mapping[str, pa.DataType], rows: Sequence[Sequence[Any]]) -> pa.Table:
    """Make a table of rows as SQLite returns them."""
    arrays = []
    for position, arrow_type in enumerate(columns.values()):
        values = [row[position] for row in rows]
        if arrow_type == _TIME:
            values = [to_time(value) if value else None for value in values]
        elif arrow_type == _NAMES:
            values = [json.loads(value) for value in values]
        elif arrow_type == pa.bool_():
            values = [bool(value) for value in values]
        arrays.append(pa.array(values, arrow_type))
    return pa.Table.from_arrays(arrays, names=list(columns))


def import_decisions(engine: Engine, control: ControlFile) -> None:
    """Copy the decisions of an older store, attached to `engine`, into the file of decisions, all or none, and once.

    The audit trail of such a store covered no records: a row is added for each of them. If they were copied before, by
    a process that was killed before the tables were dropped, nothing happens.
    """
    with control.opened(write=True) as connection:
        if connection.execute("SELECT 1 FROM imported").fetchone():
            return
        for table, columns in _COLUMNS.items():
            names = [name for name in columns if (table, name) != ("audit", "covers")]
            for row in engine.execute(f"SELECT {', '.join(names)} FROM store.{table}").fetchall():
                values = {name: _to_column(value) for name, value in zip(names, row, strict=True)}
                if table == "verdicts":
                    values["hash"] = audit.hash_text(values["verdict"])
                    values["mode"] = json.loads(values["verdict"]).get("mode", "block")
                elif table == "intents":
                    values["number"] = int(values["id"].removeprefix("i"))
                elif table == "audit":
                    values["covers"] = ""
                connection.execute(
                    f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",
                    list(values.values()),
                )
        for release, name, content_hash in list(covering.list_records(connection)):
            audit.add(connection, "evaluator", covering.IMPORTED, release, "", name, content_hash)
        connection.execute("INSERT INTO imported VALUES (?, ?)", [str(control.store), to_text(datetime.now(UTC))])


def _to_column(value: Any) -> Any:
    """Make a value of SQLite from one of DuckDB: times and lists become texts."""
    if isinstance(value, datetime):
        return to_text(value)
    return json.dumps(value) if isinstance(value, list) else value
