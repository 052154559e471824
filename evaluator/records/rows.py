"""The account of rows: how many of each arm were read, and why some of them are not judged.

Rows read = rows judged + rows left out, at every step: import, recording, collection and verdict.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum


class LeftOutKind(StrEnum):
    """Why rows that were read are not judged."""

    BAD_ROW = "bad_row"
    """The row could not be read as a request, and the user asked to skip such rows."""
    SUMMARY = "summary"
    """The row sums up other rows: a transaction of JMeter, an aggregate."""
    PART = "part"
    """The row is part of a request that has its own row: a redirect, an embedded resource."""
    OTHER_KIND = "other_kind"
    """The row is not a request, but for example a failed check or a dropped iteration; `detail` names it."""
    OUTSIDE_PERIOD = "outside_period"
    """The row is outside the requested period: before `--from` or after `--to`."""
    WARM_UP = "warm_up"
    """The request began before the load was level."""
    NO_COUNTERPART = "no_counterpart"
    """Only one of the arms has requests at that time."""
    LONE_REPLICATE = "lone_replicate"
    """Only one of the arms has this replicate."""
    DUPLICATE = "duplicate"
    """The row of outcomes repeats another one in every column."""
    SEVERAL_ARMS = "several_arms"
    """The unit of this row of outcomes was seen in more than one arm."""
    CUT_OFF = "cut_off"
    """The request had no answer when the load ended, and had not waited longer than answers take."""
    CLIENT_ABORT = "client_abort"
    """The client closed the connection before it had the answer."""
    STREAM = "stream"
    """A WebSocket or another stream: it is logged at its end, and lasted as long as it was used."""
    LOST = "lost"
    """The source read the row, but it is neither in the store nor left out for a known reason: a fault."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows of one arm that were read and are not judged, of one kind."""

    arm: str
    kind: LeftOutKind
    rows: int
    failures: int = 0
    """Those of the rows that are known to have failed."""
    detail: str = ""
    """What the rows are, if the kind alone does not show it: `grpc_req_duration`, `JDBC Request`."""


def sum_left_out(parts: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """Sum up what was left out by arm, kind and detail, in the order in which each first occurs."""
    sum_by_key: dict[tuple[str, LeftOutKind, str], LeftOut] = {}
    for part in parts:
        key = (part.arm, part.kind, part.detail)
        before = sum_by_key.get(key, replace(part, rows=0, failures=0))
        sum_by_key[key] = replace(before, rows=before.rows + part.rows, failures=before.failures + part.failures)
    return tuple(sum_by_key.values())


@dataclass(frozen=True, slots=True)
class InFlight:
    """A request that had no answer when the load ended."""

    arm: str
    instance: str
    endpoint: str
    started_s: float
    """Seconds since the epoch."""
    age_s: float
    """For how long it had waited when the load ended."""


@dataclass(frozen=True, slots=True)
class ArmRows:
    """The account of one arm: `read` = `judged` + the rows of `left_out`."""

    arm: str
    read: int
    judged: int
    left_out: tuple[LeftOut, ...] = ()
