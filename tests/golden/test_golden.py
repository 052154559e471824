"""The inputs that are kept get the same verdicts: the same words, and the same numbers to 1e-9."""

from __future__ import annotations

import json

import pytest

from golden.compare import find_differences
from golden.inputs import list_inputs
from golden.kept_inputs import KEPT_INPUTS
from golden.run import KEPT, run_input, verdicts_of

RENEW = """
A verdict has changed. Where that is not meant, look for the cause: `cd tests && python -m golden.run --help` says how
all golden inputs are judged by two revisions and compared. Where it is meant, renew what is kept, and say in the commit
why it has changed:
cd tests && python -m golden.run --keep"""


@pytest.mark.parametrize("name", KEPT_INPUTS)
def test_verdicts_are_as_they_were(name):
    found = next(one for one in list_inputs() if one.name == name)
    kept = json.loads((KEPT / f"{name.replace('/', '__')}.json").read_text(encoding="utf-8"))
    # As JSON: what is kept has no tuples.
    given = json.loads(json.dumps(verdicts_of(run_input(found))))
    differences = [f"{where}: {one!r} became {other!r}" for where, one, other in find_differences(kept, given)]
    assert not differences, "\n".join([*differences[:20], RENEW])


def test_nothing_else_is_kept():
    assert {path.stem for path in KEPT.glob("*.json")} == {name.replace("/", "__") for name in KEPT_INPUTS}


def test_what_differs_is_found():
    one = {"verdict": "go", "metrics": [{"value": 1.0, "n": 3}]}
    assert not list(find_differences(one, {"verdict": "go", "metrics": [{"value": 1.0 + 1e-12, "n": 3}]}))
    other = {"verdict": "no_go", "metrics": [{"value": 1.00001, "n": True}, {}]}
    assert [where for where, _, _ in find_differences(one, other)] == [
        ".verdict",
        ".metrics (length)",
        ".metrics[0].value",
        ".metrics[0].n",
    ]
