"""What is judged: releases, services, arms and runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from evaluator.errors import UsageError
from evaluator.records.rows import InFlight, LeftOut
from evaluator.records.words import EvidenceKind, RunState

LONGEST_NAME = 200

READING_SOURCE = "prometheus"
"""Source of runs that were collected from a metrics server."""

OUTCOME_SOURCE = "outcomes"
"""Source of runs that hold outcomes."""

_KINDS = {READING_SOURCE: EvidenceKind.READINGS, OUTCOME_SOURCE: EvidenceKind.OUTCOMES}


@dataclass(frozen=True, slots=True)
class Service:
    """A service and the two versions that are compared."""

    name: str
    baseline: str = ""
    canary: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """One candidate version of a service against its baseline."""

    id: str
    services: tuple[Service, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """Where the load of one arm goes: one URL per instance, or one address in front of several."""

    name: str
    urls: tuple[str, ...] = ()
    version: str = ""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a source knows of a run beside its rows. `None` and empty mean: not known, never: fine."""

    workers_expected: int | None = None
    workers_seen: int | None = None
    counted: int | None = None
    """Requests that the load generator itself counted."""
    users: Mapping[str, int] = field(default_factory=dict)
    """Users assigned to each arm at the plateau (what was assigned, not what happened)."""
    cpu_percent: float | None = None
    """Highest CPU share of a load generator process over any 5 s, 100 = one core saturated."""
    loop_lag_ms: float | None = None
    """Highest delay of the load generator's event loop (99th percentile over the run)."""
    clock_offset_s: float | None = None
    """Largest difference between a worker's clock and the store's."""
    pacing: Literal["closed", "open"] | None = None
    target_users: int | None = None
    plateau_start: datetime | None = None
    """From when on all users were running, where the source knows it."""
    users_stopped: datetime | None = None
    """When the users were told to stop, where the source knows it."""
    read: Mapping[str, int] = field(default_factory=dict)
    """Rows of each arm that the source read: what has landed and what it left out; empty: it did not count."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows that the source read and that did not land."""
    in_flight: tuple[InFlight, ...] = ()
    """Requests that had no answer when the load ended."""
    quarantined: tuple[str, ...] = ()
    """Segments that could not be read, by name."""
    orphaned: bool = False
    stopped_by: str = ""
    """Why the run ended before its time: a signal, a full disk, a lost worker; empty when it did not."""
    ended_early: str = ""
    """Why the run was ended before its time on purpose: nothing is missing of what was recorded until then."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a load test. Runs of one group are replicates of each other."""

    id: str
    release: str
    group: str
    """Id of the run group: one `load`, `import` or `collect`."""
    source: str
    """`locust`, `import`, …"""
    replicate: int = 0
    started: datetime | None = None
    planned_end: datetime | None = None
    ended: datetime | None = None
    state: RunState = RunState.RUNNING
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    """What makes two runs comparable: locustfile hash, users, pace, targets, host, cores, git revision, arguments."""
    facts: RunFacts = field(default_factory=RunFacts)
    landed: int = 0
    """Rows in the store."""

    @property
    def kind(self) -> EvidenceKind:
        """What its rows are; every source but those of readings and of outcomes records requests."""
        return _KINDS.get(self.source, EvidenceKind.REQUESTS)


def is_imported(runs: Sequence[Run]) -> bool:
    """Did another tool make the load? Then the remedy is another import."""
    return bool(runs) and all(run.source == "import" for run in runs)


def check_name(kind: str, name: str) -> None:
    """Refuse a name that could not be shown or typed again. Raises UsageError."""
    if not name.strip():
        raise UsageError(f"the {kind} needs a name", hint="for example cart@1.5.0")
    if len(name) > LONGEST_NAME:
        raise UsageError(f"the name of the {kind} has {len(name)} characters, more than the {LONGEST_NAME} allowed")
    if not name.isprintable() or name != name.strip():
        raise UsageError(
            f"the name of the {kind} {name!a} has characters that cannot be seen",
            hint="leave out control characters, and spaces around the name",
        )


def check_names(release: Release, arms: Iterable[str] = ()) -> None:
    """Check all names that a user gives with a release. Raises UsageError."""
    check_name("release", release.id)
    for service in release.services:
        named = (("service", service.name), ("baseline version", service.baseline), ("canary version", service.canary))
        for kind, name in named:
            if name:
                check_name(kind, name)
    for arm in arms:
        check_name("arm", arm)
