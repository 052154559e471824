"""The account of rows: what was read of each arm, and what became of the rows that are not judged.

Rows read = rows judged + rows named as left out, at every step: import, recording, collection and verdict.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum


class LeftOutKind(StrEnum):
    """Why rows that were read are not judged."""

    BAD_ROW = "bad_row"
    """Could not be read as a request, and the user asked to skip such rows."""
    SUMMARY = "summary"
    """Sums up other rows: a transaction of JMeter, an aggregate."""
    PART = "part"
    """Part of a request that has a row of its own: a redirect, an embedded resource."""
    OTHER_KIND = "other_kind"
    """Something else than a request, such as a failed check or a dropped iteration; `detail` says what."""
    OUTSIDE_PERIOD = "outside_period"
    """Outside of the part that was asked for: before `--from` or after `--to`."""
    WARM_UP = "warm_up"
    """Before the load was level."""
    NO_COUNTERPART = "no_counterpart"
    """Of a time in which only one of the arms ran."""
    LONE_REPLICATE = "lone_replicate"
    """Of a replicate that only one of the arms has."""
    DUPLICATE = "duplicate"
    """Repeats another row of outcomes in every column."""
    SEVERAL_ARMS = "several_arms"
    """Of a unit of outcomes that was seen in more than one arm."""
    CUT_OFF = "cut_off"
    """Still without an answer when the load ended, and not for longer than answers take."""
    LOST = "lost"
    """Read by the source, and neither in the store nor named: a fault."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows of one arm that were read and are not judged, of one kind."""

    arm: str
    kind: LeftOutKind
    rows: int
    failures: int = 0
    """Those among them that are known to have failed."""
    detail: str = ""
    """What the rows are, where the kind alone does not say it: `grpc_req_duration`, `JDBC Request`."""


def sum_left_out(parts: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """Sum up what was left out, by arm, kind and detail, in the order in which they come first."""
    sums: dict[tuple[str, LeftOutKind, str], LeftOut] = {}
    for part in parts:
        subtotal = sums.get((part.arm, part.kind, part.detail), replace(part, rows=0, failures=0))
        total = replace(subtotal, rows=subtotal.rows + part.rows, failures=subtotal.failures + part.failures)
        sums[part.arm, part.kind, part.detail] = total
    return tuple(sums.values())


@dataclass(frozen=True, slots=True)
class InFlight:
    """A request that had no answer when the load ended."""

    arm: str
    instance: str
    endpoint: str
    started_s: float
    """Epoch seconds."""
    age_s: float
    """How long it had been waiting when the load ended."""


@dataclass(frozen=True, slots=True)
class ArmRows:
    """The account of one arm: `read` = `judged` + the rows of `left_out`."""

    arm: str
    read: int
    judged: int
    left_out: tuple[LeftOut, ...] = ()
