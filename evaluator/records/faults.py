"""A fault: what is wrong with a candidate, where, since when, and with which kinds of failures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

FaultScope = Literal["some", "all", "not_known"]
"""Which endpoints or instances have a fault: those that are named, all of them, or it is not known."""

OnsetKind = Literal["step", "start", "growth", "not_known"]
"""When a fault began: at a time (`step`), at the start (it was there from the first judged minute), slowly from the
start (`growth`), or it is not known."""


@dataclass(frozen=True, slots=True)
class FaultPlace:
    """The endpoints, or the instances, that have a fault."""

    scope: FaultScope
    names: tuple[str, ...] = ()
    """Those that are named; empty unless the scope is `some`."""
    count: int = 0
    """How many endpoints (instances) the candidate has."""
    others_fine: bool = False
    """Are all others as on the baseline?"""


@dataclass(frozen=True, slots=True)
class FaultOnset:
    """When a fault began. Seconds are from the start of the run (of each run, if there are several)."""

    kind: OnsetKind
    elapsed_s: float | None = None
    """Seconds to a step; `None` if it is known only as a range."""
    since: datetime | None = None
    """Time of a step (UTC); `None` with several runs, or if it is known only as a range."""
    earliest_s: float | None = None
    """Seconds to the begin and to the end of the time in which a step lies with a probability of 98 %."""
    latest_s: float | None = None
    earliest: datetime | None = None
    """The same as times; `None` with several runs."""
    latest: datetime | None = None


@dataclass(frozen=True, slots=True)
class FailureKind:
    """One kind of failures, and how many there are."""

    status: int
    """HTTP status; `NO_RESPONSE` if no response came."""
    exception: str
    n: int


@dataclass(frozen=True, slots=True)
class FailureCount:
    """The failures of an arm: of all its requests, at an endpoint, on an instance, or at an endpoint on an instance."""

    arm: str
    endpoint: str | None
    """`None`: all endpoints."""
    instance: str | None
    """`None`: all instances."""
    requests: int
    failures: int
    kinds: tuple[FailureKind, ...] = ()
    """The most frequent kinds, the most frequent first."""
    other_kinds: int = 0
    """Failures of other kinds."""
    not_recorded: int = 0
    """Failures whose kind was not recorded: of this place, or of this part of the time."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one candidate: the part that is shown; every other part is `not_known`."""

    arm: str
    what: Literal["failures", "response_time", "not_known"]
    endpoints: FaultPlace
    instances: FaultPlace
    onset: FaultOnset
    requests: int = 0
    """Requests of these endpoints on these instances since the onset."""
    baseline: float | None = None
    """What the baseline lets expect of them: share that fails; `None` for response times."""
    candidate: float | None = None
    """Share of them that fails; or how many times as long they take as before a step, else as on the baseline."""
    kinds: tuple[FailureKind, ...] = ()
    """The kinds that make up most of the additional failures, the most frequent first."""
