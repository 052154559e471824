"""Words that records share: roles, directions, levels and states."""

from __future__ import annotations

from enum import StrEnum

BASELINE = "baseline"
"""The name of the arm that every other arm is compared with."""

CANDIDATE = "canary"
"""The name of the candidate's arm, unless the user gives another one."""


class EvidenceKind(StrEnum):
    """What kind of data a metric reads."""

    REQUESTS = "requests"
    """Requests of a load, or of a request log."""
    READINGS = "readings"
    """Samples of a metrics server."""
    OUTCOMES = "outcomes"
    """Outcomes of units in an A/B test."""
    LIVE = "live"
    """Requests of production, from the access log of a router. They are compared by the rules on requests, apart from
    those of a load."""


class Role(StrEnum):
    """How a metric affects the verdict."""

    GATE = "gate"
    """It decides between GO and NO-GO."""
    HOLD = "hold"
    """It can only prevent a GO."""
    WATCH = "watch"
    """It is shown and decides nothing."""


class Direction(StrEnum):
    """Which way is better."""

    LOWER = "lower_is_better"
    HIGHER = "higher_is_better"


class Level(StrEnum):
    """State of a health finding."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class MetricStatus(StrEnum):
    """Result of one comparison."""

    PASS = "pass"  # noqa: S105 no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no_data"


class VerdictWord(StrEnum):
    """The answer."""

    GO = "go"
    NO_GO = "no_go"
    INCONCLUSIVE = "inconclusive"


class RunState(StrEnum):
    """State of a run. A RUNNING run whose recorder died becomes INCOMPLETE at the next look."""

    RUNNING = "running"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
