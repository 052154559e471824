"""Text that goes where a spreadsheet reads it."""

import pytest

from evaluator.reports.base import escape_formula


@pytest.mark.parametrize(
    "text", ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "\t=1", "-A1", "+"]
)
def test_a_formula_becomes_text(text):
    assert escape_formula(text) == f"'{text}"


@pytest.mark.parametrize("text", ["+20.4 % (+19.5 … +21.4)", "-3.1 ms", "POST /a=b", "", "12", "−0.2 pp"])
def test_changes_and_names_stay_as_they_are(text):
    assert escape_formula(text) == text
