"""Request files of other tools: recognised, checked by their first lines, and planned for landing.

A format is a module of this package with a `FileFormat`, and its line in `SOURCES`; other packages add theirs through
the entry points `evaluator.sources`. `evaluator import` reads all of them.
"""

from evaluator.sources.files.base import FileFormat, Head, Table, build_layout, read_head, read_table, require
from evaluator.sources.files.columns import ColumnRequest
from evaluator.sources.files.planning import plan_landing
from evaluator.sources.files.recognising import SOURCES
from evaluator.sources.files.runs import arrange_files

__all__ = [
    "SOURCES",
    "ColumnRequest",
    "FileFormat",
    "Head",
    "Table",
    "arrange_files",
    "build_layout",
    "plan_landing",
    "read_head",
    "read_table",
    "require",
]
