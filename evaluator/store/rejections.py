"""Rows of CSV that DuckDB could not split into columns, in words, and the error for rows that cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

from evaluator.errors import InputError
from evaluator.textfiles import find_line

_SHOWN_OF_LINE = 10_000
"""Characters of a rejected row that DuckDB shows."""
_LONGEST_MESSAGE = 200
"""Most characters of a message of DuckDB that are shown."""


def count_swallowed(path: str, delimiter: str, record: int, message: str, error_type: str, text: str) -> int:
    """Count the rows of a CSV file that are lost with one that DuckDB could not split, itself included.

    A quote that is never closed swallows the rows after it. `record`, `message`, `error_type`, `text`: what DuckDB says
    about the row. Raises InputError if its rows are too many to count.
    """
    if error_type != "UNQUOTED VALUE":  # a quote that is not closed where its value ends
        return 1
    if len(text) >= _SHOWN_OF_LINE:  # cut, so its rows cannot be counted
        raise InputError(
            f"{path}:{find_line(Path(path), delimiter, int(record))}: {word_rejection(message)}; "
            "the end of its row cannot be found",
            hint="fix the file: --skip-bad-rows could not read the rows after it either",
        )
    return sum(1 for line in text.splitlines() if line.strip())


def word_rejection(message: str) -> str:
    """Reword the message of DuckDB's CSV reader about a row that it cannot split."""
    wrong_number = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    if wrong_number:
        expected, actual = int(wrong_number[1]), int(wrong_number[2])
        return f"the row has {actual} value{'s' if actual != 1 else ''}, the header {expected}"
    if "unterminated quote" in message.lower():
        return "a quote is opened and never closed, here or in a row before"
    # Of any other message, the first paragraph without its prefix ("CSV Error: ") and without advice.
    first_paragraph = message.split("Possible fixes", maxsplit=1)[0].split("\n\n", maxsplit=1)[0]
    return " ".join(re.sub(r"^(\w+ )+Error: ", "", first_paragraph).split())[:_LONGEST_MESSAGE]


def refuse_rows(first_problem: str, all_rows: str) -> InputError:
    """Make the error for bad rows: what is wrong with the first, and how many there are ("5 rows"; empty: only one)."""
    total_note = f"; {all_rows} cannot be used" if all_rows else ""
    return InputError(
        f"{first_problem}{total_note}; nothing was imported",
        hint="fix the file, or leave such rows out with --skip-bad-rows",
    )
