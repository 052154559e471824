"""Records are values: they never change."""

from __future__ import annotations

from records_of import can_change, list_records

import evaluator.stats


def test_records_cannot_be_changed():
    records = list_records(evaluator.stats)
    assert records
    assert [record.__name__ for record in records if can_change(record)] == []
