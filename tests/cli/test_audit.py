"""Notes and the trail on the command line."""

import csv
import io
import json

import pytest
from stored import edit_decisions

from evaluator.__main__ import run
from evaluator.records import Release, Run
from evaluator.records.intents import Person
from evaluator.store import Store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evaluator.intents.system_person", lambda: Person("ann", ("ann", "account:ann")))
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    store.data.register_run(Release("cart@2"), Run("r1", "cart@2", "g1", "import"))
    return store


def test_a_note_has_author_and_text_in_every_format(store, capsys):
    assert run(["audit", "note", "cart@2", "slow disk, \x1b[31mpod 3"]) == 0
    assert capsys.readouterr().out == "note 0 on cart@2 by ann\n"
    assert run(["audit", "show", "cart@2"]) == 0
    table = capsys.readouterr().out
    assert "ann  note  cart@2  slow disk" in table
    assert "\x1b" not in table
    assert run(["audit", "show", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert run(["audit", "show", "--format", "csv"]) == 0
    (same,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert same == {name: str(value) for name, value in row.items()}


def test_verify_prints_the_head_and_detects_an_edit(store, capsys):
    assert run(["audit", "note", "cart@2", "one"]) == 0
    capsys.readouterr()
    assert run(["audit", "verify"]) == 0
    assert capsys.readouterr().out.strip() == store.control.audit()[-1].hash
    edit_decisions(store, "UPDATE audit SET actor = 'bob'")
    assert run(["audit", "verify"]) == 4
    assert "the audit trail was changed: row 0" in capsys.readouterr().err


def test_a_note_needs_a_text_and_a_release_that_exists(store, capsys):
    assert run(["audit", "note", "cart@2", " "]) == 2
    assert run(["audit", "note", "card@2", "x"]) == 2
    assert "did you mean 'cart@2'" in capsys.readouterr().err
    assert store.control.audit() == ()


def test_a_note_that_looks_like_a_formula_is_text_in_a_spreadsheet(store, capsys):
    assert run(["audit", "note", "cart@2", "=HYPERLINK(A1)"]) == 0
    assert run(["audit", "show", "--format", "csv"]) == 0
    assert "'=HYPERLINK(A1)" in capsys.readouterr().out
