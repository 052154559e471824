"""Objects are loaded on first use, and the error where one cannot be loaded names the reason."""

from __future__ import annotations

import subprocess
import sys

import pytest

from evaluator.errors import HookError, UsageError
from evaluator.extensions import Lazy, explain_missing_package, load_object


def test_an_object_is_found_by_its_place():
    assert load_object("evaluator.errors:UsageError") is UsageError
    assert load_object("evaluator.extensions:Lazy.places").func


def test_a_table_loads_on_first_use(tmp_path, monkeypatch):
    (tmp_path / "wanted_module.py").write_text("VALUE = 3\n")
    (tmp_path / "unwanted_module.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    table = Lazy({"one": "wanted_module:VALUE", "other": "unwanted_module:VALUE"}, "value")
    assert list(table) == ["one", "other"]
    assert table["one"] == 3
    assert "unwanted_module" not in sys.modules
    with pytest.raises(KeyError):
        table["none"]


def test_a_missing_package_is_named_with_the_extra_that_has_it():
    table = Lazy({"notify": "no_such_package:NOTIFY"}, "hook", extra="hooks", error=HookError)
    with pytest.raises(HookError, match="the hook notify needs the package 'no_such_package'") as caught:
        table["notify"]
    assert caught.value.hint == "pip install 'release-evaluator[hooks]'"


def test_a_fault_of_our_own_is_not_taken_for_a_missing_package():
    with pytest.raises(ModuleNotFoundError), explain_missing_package("the report needs", "plots"):
        load_object("evaluator.no_such_module:render")


def test_promoting_loads_neither_calibration_nor_planning():
    code = "import sys, evaluator.intents; print(*(name for name in sys.modules if name.startswith('evaluator.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = {name.split(".")[1] for name in done.stdout.split()}
    assert {"intents", "pipeline"} <= loaded
    assert not loaded & {"calibration", "planning", "figures"}
