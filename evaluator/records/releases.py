"""What is judged: releases, services, arms and runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from evaluator.errors import UsageError
from evaluator.records.access_logs import RouterFacts
from evaluator.records.rows import InFlight, LeftOut
from evaluator.records.words import BASELINE, CANDIDATE, EvidenceKind, RunState

LONGEST_NAME = 200

READING_SOURCE = "prometheus"
"""Source of runs that were collected from a metrics server."""

OUTCOME_SOURCE = "outcomes"
"""Source of runs that hold outcomes."""

ACCESS_LOG_SOURCE = "access_log"
"""Source of runs whose requests are those of production, from the access log of a router."""

_KINDS = {
    READING_SOURCE: EvidenceKind.READINGS,
    OUTCOME_SOURCE: EvidenceKind.OUTCOMES,
    ACCESS_LOG_SOURCE: EvidenceKind.LIVE,
}


@dataclass(frozen=True, slots=True)
class Service:
    """A service and the two versions that are compared."""

    name: str
    baseline: str = ""
    canary: str = ""
    arms: Mapping[str, str] = field(default_factory=dict)
    """Arm → version of the candidates of an A/B test, which have other names than `canary`."""

    def find_version(self, arm: str) -> str:
        """Find the version in an arm; empty: it is not known."""
        known = {BASELINE: self.baseline, CANDIDATE: self.canary}
        return known.get(arm) or self.arms.get(arm, "")

    def complete(self, earlier: Service) -> Service:
        """Take over the versions that were known earlier, and are not named now."""
        arms = {**earlier.arms, **self.arms}
        return Service(self.name, self.baseline or earlier.baseline, self.canary or earlier.canary, arms)


@dataclass(frozen=True, slots=True)
class Release:
    """One candidate version of a service against its baseline."""

    id: str
    services: tuple[Service, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """Where the load of one arm goes: one URL for each instance, or one address in front of several instances."""

    name: str
    urls: tuple[str, ...] = ()
    version: str = ""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a source knows about a run in addition to its rows. `None` or empty means unknown; it never means good."""

    workers_expected: int | None = None
    """Worker processes that the load generator should have."""
    workers_seen: int | None = None
    """Worker processes that recorded until the end."""
    counted: int | None = None
    """Requests that the load generator itself counted."""
    users: Mapping[str, int] = field(default_factory=dict)
    """Arm → users assigned to it while all users run (the assignment, not the traffic)."""
    cpu_percent: float | None = None
    """Highest CPU use of a load generator process over any 5 s; 100 = one core is fully used."""
    loop_lag_ms: float | None = None
    """Delay of the load generator's event loop: the 99th percentile over the run, of the worst process."""
    clock_offset_s: float | None = None
    """Largest difference between the clock of a worker and the clock of the store."""
    pacing: Literal["closed", "open"] | None = None
    target_users: int | None = None
    plateau_start: datetime | None = None
    """When all users were running."""
    users_stopped: datetime | None = None
    """When the load generator began to stop the users."""
    read: Mapping[str, int] = field(default_factory=dict)
    """Arm → rows that the source read, landed or left out; empty: the source did not count."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows that the source read and that did not land."""
    in_flight: tuple[InFlight, ...] = ()
    """Requests that had no answer when the load ended."""
    quarantined: tuple[str, ...] = ()
    """Names of segments that could not be read."""
    orphaned: bool = False
    """Did worker processes lose the process that started the load?"""
    stopped_by: str = ""
    """Why the run ended too early: a signal, a full disk, a lost worker; empty if it did not."""
    unseen: str = ""
    """Requests that were made and that the files of the run cannot show; empty if there are none."""
    ended_early: str = ""
    """Why the run was ended early on purpose; the data recorded until then are complete."""
    router: RouterFacts | None = None
    """What a router did by itself; `None`: there was none that chose the arm of each request."""


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
    """What must be equal to compare two runs: locustfile hash, users, pace, targets, host, cores, git revision, …"""
    facts: RunFacts = field(default_factory=RunFacts)
    step: str = ""
    """Step of a rollout that it belongs to; empty: to none."""
    service: str = ""
    """Service whose requests it has; empty: the only one of the release."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Arm → share of the traffic that a router sent to it; empty: not known. They are the same in the whole run."""
    landed: int = 0
    """Rows in the store."""

    @property
    def is_simulated(self) -> bool:
        """Were its requests or answers made by the simulator, and not measured?"""
        return bool(self.fingerprint.get("simulated"))

    @property
    def kind(self) -> EvidenceKind:
        """Kind of its rows: requests of a load, unless the source is one of readings, outcomes or an access log."""
        return _KINDS.get(self.source, EvidenceKind.REQUESTS)

    @property
    def is_routed(self) -> bool:
        """Did a router in front of all arms choose the arm of each request? A load says so from its start on."""
        return self.facts.router is not None or bool(self.fingerprint.get("router"))

    @property
    def is_imported(self) -> bool:
        """Was it imported from files? An access log that is followed has the id of the process that follows it."""
        return self.source == "import" or (self.source == ACCESS_LOG_SOURCE and "pid" not in self.fingerprint)


def is_imported(runs: Sequence[Run]) -> bool:
    """Were all runs imported from files? Then more data come by another import only. False without runs."""
    return bool(runs) and all(run.is_imported for run in runs)


def check_whose_versions(stored: Release, given: Release) -> None:
    """Refuse versions that are given without the name of a service to a release of several. Raises UsageError."""
    names = [service.name for service in stored.services if service.name]
    if len(names) > 1 and any(not service.name for service in given.services):
        raise UsageError(
            f"{stored.id} is a release of {', '.join(names[:-1])} and {names[-1]}: it is not known which of them has"
            " the versions that are given",
            hint="name their service with --service, and give those of each service in a command of its own",
        )


def check_name(kind: str, name: str) -> None:
    """Refuse a name that cannot be shown or typed: empty, too long, with invisible characters, or like an option.

    Raises:
        UsageError: with the cause; `kind` ("release", "arm", …) names what the name is for.
    """
    if not name.strip():
        raise UsageError(f"the {kind} needs a name", hint="for example cart@1.5.0")
    if len(name) > LONGEST_NAME:
        raise UsageError(f"the name of the {kind} has {len(name)} characters, more than the {LONGEST_NAME} allowed")
    if not name.isprintable() or name != name.strip():
        raise UsageError(
            f"the name of the {kind} {name!a} has characters that cannot be seen",
            hint="leave out control characters, and spaces around the name",
        )
    if name.startswith("-"):
        raise UsageError(
            f"the name of the {kind} {name} begins with a dash",
            hint="give it a name that programs called by hooks cannot take for an option",
        )


def check_names(release: Release, arms: Iterable[str] = ()) -> None:
    """Check the names of a release, its services and versions, and these arms. Raises UsageError."""
    check_name("release", release.id)
    for service in release.services:
        names = (("service", service.name), ("baseline version", service.baseline), ("canary version", service.canary))
        for kind, name in names:
            if name:  # all of them may be empty
                check_name(kind, name)
    for arm in arms:
        check_name("arm", arm)
