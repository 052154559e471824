"""Numbers of every function of `evaluator.stats`, as they were when this was written.

These numbers say nothing of what is right: they come from the code itself. Other tests of this folder hold that code
against published values, other programs and simulations with a known truth. What these numbers show is that something
moved, in which case and in which field, however little; a change that is meant to move them writes them anew,

    cd tests
    ../.venv/bin/python -m numbers_of > stats/numbers.json

and the difference of the file shows what it did.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numbers_of import CASES
from numbers_of.fields import list_differences, list_fields, pack, unpack

ON_FILE = json.loads((Path(__file__).parent / "numbers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_on_file(name):
    differences = list_differences(unpack(ON_FILE, name), list_fields(CASES[name]()))
    assert not differences, "\n".join([f"{name} differs in {len(differences)} fields:", *differences])


def test_every_number_on_file_has_its_case():
    assert list(ON_FILE["cases"]) == list(CASES)


def test_a_file_holds_every_field_of_every_case():
    cases = {
        "one": {"a/x": 1.0, "a/y/z": 2.0, "b/x": 3.0, "b/y/z": [4.0, 5.0], "c": "word", "d/x": None},
        "other": {"c": True, "a/x": 0.0},
    }
    file = json.loads(json.dumps(pack(cases)))
    assert {name: unpack(file, name) for name in cases} == cases
    assert file["fields"] == [["x", "y/z"], [""], ["x"]]


def test_a_difference_is_named_with_both_numbers():
    expected = {"a": 1.0, "b": [1.0, float("nan")], "c": {"9": [9.0, 1.0]}, "d": True}
    assert list_differences(expected, dict(expected)) == []
    moved = {"a": 1.0 + 1e-6, "b": [1.0, 2.0], "c": {"9": [9.0, 1.00001]}, "d": 1.0}
    assert [line.split(":")[0] for line in list_differences(expected, moved)] == ["a", "b", "c", "d"]
    assert list_differences({"a": 1.0}, {"b": 2.0}) == [
        "a: expected 1.0, found no such field",
        "b: expected no such field, found 2.0",
    ]


def test_many_numbers_differ_from_others_with_the_same_sum():
    values = np.arange(1.0, 31.0)
    turned, unknown = values[::-1].copy(), np.where(values == 7, np.nan, values)
    expected = list_fields({"a": values})
    for changed in (turned, unknown, values.reshape(5, 6), np.where(values == 30, np.inf, values)):
        assert len(list_differences(expected, list_fields({"a": changed}))) == 1
