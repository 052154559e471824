"""Records are values: what holds one may rely on it."""

from __future__ import annotations

from records_of import can_change, list_records

import evaluator.intents


def test_records_cannot_be_changed():
    records = list_records(evaluator.intents)
    assert records
    # The state of a run of hooks.
    assert {record.__name__ for record in records if can_change(record)} == {
        "_GoingBack",
        "Execution",
        "StepExecution",
    }
