"""The two parts of the store: what was measured and what was decided."""

import inspect
import re
from pathlib import Path

import duckdb
import pytest

from evaluator.errors import UnknownName
from evaluator.records import Release, Service
from evaluator.store import base
from evaluator.store.control import Control
from evaluator.store.control_copies import TABLES

MODULES = {path.stem: path.read_text() for path in Path(base.__file__).parent.glob("*.py")}
OF_CONTROL = {"control", "control_file", "releases", "intents", "audit", "covering"}
"""Modules that know the file of decisions."""


def test_decisions_are_kept_without_duckdb():
    for name in OF_CONTROL:
        assert not re.search(r"duckdb\.|store\.engine|store\.file import", MODULES[name]), name


def test_no_table_of_decisions_is_in_the_duckdb_file(store):
    with duckdb.connect(store.path) as engine:
        tables = {name for (name,) in engine.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    assert not tables & set(TABLES)
    for name in MODULES.keys() - OF_CONTROL - {"migrations", "control_copies"}:
        assert not set(re.findall(r"(?:FROM|JOIN|INTO|UPDATE|TABLE) store\.(\w+)", MODULES[name])) & set(TABLES), name


def test_queries_see_copies_of_the_decisions(store):
    store.control.add_release(Release("cart@2", (Service("cart"),)))
    store.control.note("ann", "note", "cart@2", "x")
    [row] = store.data.query("SELECT actor, happened_at > now() - INTERVAL 1 HOUR AS recent FROM audit").to_pylist()
    assert row == {"actor": "ann", "recent": True}
    assert set(TABLES) < {row["name"] for row in store.data.query("SHOW TABLES").to_pylist()}
    assert store.data.relate('SELECT count(*) FROM "Releases"').fetchall() == [(1,)]


def test_the_interface_of_control_is_records_alone():
    for name, method in inspect.getmembers(Control, inspect.isfunction):
        if not name.startswith("_"):
            assert not re.search(r"Engine|Relation|\bpa\.|duckdb", str(inspect.signature(method))), name


def test_a_release_without_a_run_has_no_data(store):
    """Control stored a release, and the process was killed before its run landed."""
    store.control.add_release(Release("cart@2"))
    [summary] = store.releases()
    assert (summary.release.id, summary.groups, summary.runs, summary.rows) == ("cart@2", 0, 0, 0)
    assert store.control.verdicts("cart@2") == ()
    with pytest.raises(UnknownName, match="there is no release 'cart@2'"):
        store.data.runs("cart@2")
