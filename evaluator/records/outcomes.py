"""Outcomes of units (users, accounts, …) in an A/B test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from evaluator.records.rows import ArmRows, LeftOut, LeftOutKind

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """One column of a file of outcomes: its name and what it holds."""

    name: str
    kind: Literal["number", "truth", "text", "time"]


@dataclass(frozen=True, slots=True)
class OutcomeColumn:
    """One column that is taken from a file of outcomes."""

    name: str
    role: Literal["outcome", "covariate"] = "outcome"
    binary: bool | None = None
    """Only 0 and 1; `None`: told by the values."""


@dataclass(frozen=True, slots=True)
class OutcomeOptions:
    """What the user said of the columns; what is empty is told by their names."""

    unit: str = ""
    arm_column: str = ""
    baseline_arm: str = ""
    outcome_names: tuple[str, ...] = ()
    """`name` or `name:binary`, `name:numeric`."""
    covariates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutcomePlan:
    """Files of outcomes (one table together, or what a query makes of it) and how their columns are read."""

    paths: tuple[str, ...]
    reader: Literal["csv", "parquet"]
    unit: str
    arm: str
    columns: tuple[OutcomeColumn, ...]
    query: str = ""
    """SQL over the table `outcomes`; empty: all of it."""
    baseline: str = ""
    """Value of the arm column that stands for the baseline; empty: told by the values."""
    skip_bad_rows: bool = False
    header: tuple[str, ...] = ()
    """Columns of a CSV file, in their order."""
    delimiter: str = ","


@dataclass(frozen=True, slots=True)
class OutcomeFacts:
    """What was seen when outcomes landed. Rows read = rows judged + the rows of `left_out`, in every arm."""

    read: Mapping[str, int] = field(default_factory=dict)
    """Rows of each arm that were read, under the name that the arm is judged by; `""`: rows whose arm is not known."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows that are not judged: bad ones, duplicates, those of units in several arms."""
    units: int = 0
    """Units in exactly one arm: those that are compared."""
    duplicates: int = 0
    """Rows that repeat another one in every column."""
    duplicates_dropped: bool = False
    """Left out, as each unit has one row otherwise; in a log of events they may be true and stay."""
    crossed: int = 0
    """Units that were seen in more than one arm; they are left out."""
    missing_rows: Mapping[str, int] = field(default_factory=dict)
    """Outcome or covariate → rows without a value of it; only where there are some."""
    missing: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Outcome or covariate → arm → units without any value of it; only where there are some."""
    arm_column: str = ""
    query: str = ""
    """SQL that made the rows of the files; empty: all of them."""

    @property
    def rows(self) -> int:
        """Rows that could be used: all that were read but bad ones."""
        return sum(self.read.values()) - self.skipped_rows

    @property
    def skipped_rows(self) -> int:
        """Rows that could not be used."""
        return self.count(LeftOutKind.BAD_ROW)

    def count(self, kind: LeftOutKind, arm: str | None = None) -> int:
        """Rows left out of one kind; `arm`: of one arm only."""
        return sum(part.rows for part in self.left_out if part.kind is kind and arm in (None, part.arm))

    def account(self) -> tuple[ArmRows, ...]:
        """Account for the rows of every arm."""
        out = []
        for arm, read in self.read.items():
            left_out = tuple(part for part in self.left_out if part.arm == arm)
            out.append(ArmRows(arm, read, read - sum(part.rows for part in left_out), left_out))
        return tuple(out)


@dataclass(frozen=True, slots=True)
class UnitMoments:
    """Units of one arm summed up: additive, and as many numbers however many units there are."""

    n: int
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
    """Arm → variable → number of units, mean, and sum of squared deviations: what tells whether data are the same."""
    paid: str = "fixed"
    """How the look was paid for: `fixed` took all of alpha; `anytime`; `group_sequential:` and the planned units."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes of the units of all arms. `arms[0]` is the baseline.

    Variables of a unit are `rows` (its number of rows), the sum of each outcome over them (`revenue`), whether a binary
    outcome happened at all (`converted?`), and the mean of each covariate.
    """

    run: str
    arms: tuple[str, ...]
    columns: tuple[OutcomeColumn, ...]
    variables: tuple[str, ...]
    moments: tuple[UnitMoments, ...]
    """By arm."""
    skewness: tuple[FloatArray, ...]
    """By arm, of each variable."""
    facts: OutcomeFacts
    values: Mapping[str, tuple[FloatArray, ...]] = field(default_factory=dict)
    """Variable → one value a unit, by arm; only of those that a metric asked for. NaN: no value."""
    row_values: Mapping[str, tuple[tuple[IntArray, FloatArray], ...]] = field(default_factory=dict)
    """Outcome → place of the unit among those of its arm, and value, of each row, by arm; only of those asked for."""
    looks: tuple[OutcomeLook, ...] = ()
    """Verdicts on outcomes of this release before these were first judged, the oldest first."""
