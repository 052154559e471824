"""The two parts of the store: what was measured and what was decided."""

import inspect
import re
from pathlib import Path

import pytest

from evaluator.errors import UnknownName
from evaluator.records import Release
from evaluator.store import base
from evaluator.store.control import TABLES, Control

MODULES = {path.stem: path.read_text() for path in Path(base.__file__).parent.glob("*.py")}
OF_CONTROL = {"control", "releases", "intents", "audit"}


def tables_of(name):
    """Tables of the store that the SQL of a module names."""
    return set(re.findall(r"(?:FROM|JOIN|INTO|UPDATE|TABLE) store\.(\w+)", MODULES[name]))


def test_each_part_reads_and_writes_tables_of_its_own(store):
    everything = {
        row["table_name"] for row in store.data.query("SELECT table_name FROM duckdb_tables()").to_pylist()
    } - {"meta"}
    assert set(TABLES) < everything
    named = set()
    for name in MODULES.keys() - {"migrations"}:
        named |= tables_of(name)
        of_part = set(TABLES) if name in OF_CONTROL else everything - set(TABLES) | {"meta", "bins", "instance_bins"}
        assert tables_of(name) <= of_part, f"{name} names tables of the other part"
    assert named > set(TABLES)


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
