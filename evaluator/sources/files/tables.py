"""Any CSV and any Parquet, whose columns have the names of the request row or are named by `--column`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evaluator.records import FileLayout
from evaluator.sources.files.base import FileFormat, Head, lay_out, read_table
from evaluator.sources.files.columns import TARGETS, ColumnWish

__all__ = ["CSV", "PARQUET"]


def _lay_out_csv(head: Head, wishes: Sequence[ColumnWish]) -> FileLayout:
    table = read_table(head)
    wished = {wish.target for wish in wishes}
    own = (ColumnWish(name, name) for name in TARGETS if name in table.header and name not in wished)
    return lay_out("csv", table, (), (*wishes, *own))


def _lay_out_parquet(head: Head, wishes: Sequence[ColumnWish]) -> FileLayout:
    return replace(_lay_out_csv(head, wishes), format="parquet", reader="parquet")


CSV = FileFormat(_lay_out_csv)
PARQUET = FileFormat(_lay_out_parquet, frozenset({"parquet"}))
