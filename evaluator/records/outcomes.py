"""Outcomes of units (users, accounts, …) in an A/B test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evaluator.records.arrays import FloatArray, IntArray
from evaluator.records.rows import ArmRows, LeftOut, LeftOutKind

ARM_OF_FILE = "arm_of_file"
"""Column of the table `outcomes` with the arm of a row's file, if each file belongs to one arm."""


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """One column of a file of outcomes: its name and what it holds."""

    name: str
    kind: Literal["number", "truth", "text", "time"]


@dataclass(frozen=True, slots=True)
class OutcomeColumn:
    """One column that is read from a file of outcomes."""

    name: str
    role: Literal["outcome", "covariate"] = "outcome"
    binary: bool | None = None
    """Are the values 0 and 1 only? `None`: determined from the values."""


@dataclass(frozen=True, slots=True)
class OutcomeOptions:
    """What the user set for the columns; what is empty is determined from their names."""

    unit: str = ""
    arm_column: str = ""
    baseline_arm: str = ""
    outcome_names: tuple[str, ...] = ()
    """`name` or `name:binary`, `name:numeric`."""
    covariates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutcomePlan:
    """Files of outcomes (together one table, or the result of a query on it) and how to read their columns."""

    paths: tuple[str, ...]
    reader: Literal["csv", "parquet"]
    """What the store reads: the files, or their readable copies."""
    unit: str
    arm: str
    columns: tuple[OutcomeColumn, ...]
    query: str = ""
    """SQL over the table `outcomes`; empty: all of it."""
    baseline: str = ""
    """Value of the arm column that means the baseline; empty: determined from the values."""
    skip_bad_rows: bool = False
    header: tuple[str, ...] = ()
    """Columns of a CSV file, in their order."""
    delimiter: str = ","
    arm_of_file: tuple[str, ...] = ()
    """Arm of each of `paths`, which the table has as the column `ARM_OF_FILE`; empty: a column of the files has the
    arm."""
    named_arm: str = ""
    """With `arm_of_file`: a column whose name says that it has the arm, too. It must not contradict. Empty: none."""
    rewrite: Callable[[Path, Path], None] | None = None
    """Writes a file (first argument) as Parquet (second), if the store cannot read it itself."""
    readable: tuple[str, ...] = ()
    """Paths of what the store reads while the files are opened: each file itself, or its unpacked or rewritten copy."""


@dataclass(frozen=True, slots=True)
class OutcomeFacts:
    """Counts from the landing of outcomes. Rows read = rows judged + rows in `left_out`, in every arm."""

    read: Mapping[str, int] = field(default_factory=dict)
    """Arm → rows that were read, under the name with which the arm is judged; `""`: rows of unknown arm."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows that are not judged: bad rows, duplicates, rows of units in several arms."""
    units: int = 0
    """Units in exactly one arm: those that are compared."""
    duplicates: int = 0
    """Rows that repeat another one in every column."""
    duplicates_dropped: bool = False
    """Were duplicates left out? They are if each unit has one row otherwise; in a log of events they may be real."""
    crossed: int = 0
    """Units that were seen in more than one arm; they are left out."""
    missing_rows: Mapping[str, int] = field(default_factory=dict)
    """Outcome or covariate → rows without a value for it; no entry for 0 rows."""
    missing: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Outcome or covariate → arm → units without any value for it; no entry for 0 units."""
    arm_column: str = ""
    query: str = ""
    """SQL that made the rows from the files; empty: all rows of the files."""

    @property
    def rows(self) -> int:
        """Rows that could be used: all rows read, without bad rows."""
        return sum(self.read.values()) - self.skipped_rows

    @property
    def skipped_rows(self) -> int:
        """Bad rows: they could not be used."""
        return self.count(LeftOutKind.BAD_ROW)

    def count(self, kind: LeftOutKind, arm: str | None = None) -> int:
        """Rows of one kind that were left out, of one arm or (`None`) of all."""
        return sum(part.rows for part in self.left_out if part.kind is kind and arm in (None, part.arm))

    def account(self) -> tuple[ArmRows, ...]:
        """Account for the rows of every arm: how many were read, judged, and left out."""
        accounts = []
        for arm, read in self.read.items():
            left_out = tuple(part for part in self.left_out if part.arm == arm)
            judged = read - sum(part.rows for part in left_out)
            accounts.append(ArmRows(arm, read, judged, left_out))
        return tuple(accounts)


@dataclass(frozen=True, slots=True)
class UnitMoments:
    """Units of one arm summed up. Moments of two parts can be merged; their size does not grow with the units."""

    n: int
    """Units."""
    mean: FloatArray
    """Shape (variables,)."""
    products: FloatArray
    """Σ of products of deviations from the mean: shape (variables, variables)."""


@dataclass(frozen=True, slots=True)
class OutcomeLook:
    """An earlier verdict on outcomes of the same release."""

    run: str
    units: int
    """Units of all arms that were judged."""
    sums: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    """Arm → variable → number of units, mean, and sum of squared deviations: they show whether data are the same."""
    paid: str = "fixed"
    """How the look spends alpha: `fixed` (all of it), `anytime`, or `group_sequential:` and the planned units."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes of the units of all arms. `arms[0]` is the baseline.

    Variables of a unit are `rows` (its number of rows), the sum of each outcome over its rows (`revenue`), whether a
    binary outcome was ever 1 (`converted?`), and the mean of each covariate.
    """

    run: str
    arms: tuple[str, ...]
    columns: tuple[OutcomeColumn, ...]
    variables: tuple[str, ...]
    moments: tuple[UnitMoments, ...]
    """One per arm."""
    skewness: tuple[FloatArray, ...]
    """One array per arm: skewness of each variable, shape (variables,)."""
    facts: OutcomeFacts
    values: Mapping[str, tuple[FloatArray, ...]] = field(default_factory=dict)
    """Variable → per arm, one value for each unit (NaN: no value); only variables that a metric needs."""
    row_values: Mapping[str, tuple[tuple[IntArray, FloatArray], ...]] = field(default_factory=dict)
    """Outcome → per arm, for each row the index of its unit within the arm, and the value; only where needed."""
    looks: tuple[OutcomeLook, ...] = ()
    """Verdicts on outcomes of this release that were made before these were first judged, the oldest first."""
