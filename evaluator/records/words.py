"""The words that records share: roles, directions, levels and states."""

from __future__ import annotations

from enum import StrEnum

BASELINE = "baseline"
"""The name of the arm that every other arm is compared with."""

CANDIDATE = "canary"
"""The name of the candidate's arm where nothing says another."""


class EvidenceKind(StrEnum):
    """What data tell of a release, and so which metrics read them."""

    REQUESTS = "requests"
    """Requests of a load, or of a request log."""
    READINGS = "readings"
    """Samples of a metrics server."""
    OUTCOMES = "outcomes"
    """Outcomes of units in an A/B test."""


class Role(StrEnum):
    """What a metric may do to the verdict."""

    GATE = "gate"
    HOLD = "hold"
    WATCH = "watch"


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
    """What is known of one metric."""

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
    """Life of a run. RUNNING with a dead recorder becomes INCOMPLETE at the next look."""

    RUNNING = "running"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
