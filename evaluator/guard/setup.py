"""What the guard is asked to guard, and what it answers; as records, and as the JSON that goes over its socket."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from evaluator.errors import HookError
from evaluator.records.rollouts import GuardLimits
from evaluator.records.words import BASELINE

VERSION = 1
"""Version of the protocol, and of the files of rollouts. One that knows another refuses with a sentence."""

Shares = Mapping[str, float]
"""Arm → share of the requests, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class GuardedService:
    """A service whose traffic a rollout shifts: its router, and where its requests are seen."""

    service: str
    kind: str
    """Kind of the router's hook, such as `haproxy`."""
    options: Mapping[str, Any]
    """Options of the hook as the policy has them: secrets are names of environment variables, `${NAME}`."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Values of the words of its templates: release, service, baseline, canary, version, link."""
    access_log: Path | None = None
    """Log of the router; None: there is none."""
    log: Mapping[str, Any] = field(default_factory=dict)
    """How the log is read: `sources.access_log` of the policy as plain JSON, with the servers of the arms."""
    least_serving: int = 0
    """Of instances that are replaced in batches: how many serve at least, at any moment; 0: they are not."""
    stats_socket: str = ""
    """Socket of HAProxy's statistics, a path or HOST:PORT; empty: that of the router, if it is HAProxy."""


@dataclass(frozen=True, slots=True)
class GuardSetup:
    """A rollout that is to be guarded."""

    rollout: str
    """Its id, such as `r1`."""
    release: str
    services: tuple[GuardedService, ...]
    limits: GuardLimits
    lease_s: float = 60.0
    """Time without the driver after which traffic returns."""
    key: str = ""
    """Differs between rollouts of one id: a store that was made again begins with `r1` again."""

    @property
    def name(self) -> str:
        """By what the guard knows the rollout, and the name of its file: no other rollout ever has the same one."""
        return join_name(self.rollout, self.key)


@dataclass(frozen=True, slots=True)
class GuardReading:
    """What was seen last of one arm of a service."""

    service: str
    arm: str
    requests: int = 0
    """Requests of the arm that the limits were applied to, of the last seconds."""
    failures: int = 0
    p95_ms: float | None = None
    """95th percentile of their response times; None: there are none."""
    sessions: int | None = None
    """Requests that its servers work on now, by the router's counters; None: the router does not say."""
    queued: int | None = None
    """Requests that wait for its servers; None: the router does not say."""
    counted: int | None = None
    """Requests that its servers got since the guard began to look, by the router's counters; None: it does not say."""
    counted_failures: int | None = None
    """Failed connections and answers of them."""
    text: str = ""
    """The same as a sentence, and what could not be read."""


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """What the guard knows of a rollout."""

    rollout: str
    release: str = ""
    key: str = ""
    """As in the setup."""
    is_exposed: bool = False
    """Do users meet a candidate, by the shares that were set or read?"""
    wanted: Mapping[str, Shares] = field(default_factory=dict)
    """Service → the shares that were set last; before the first shift those that the router had."""
    realised: Mapping[str, Shares] = field(default_factory=dict)
    """Service → the shares that were read from the router last."""
    is_back: bool = False
    """It goes or went back to the baseline. That is final: shares of this rollout are never set again."""
    why_back: str = ""
    by: str = ""
    """Who returned it: the name of a person, `guard` (a limit), `driver` or `lease`; empty: it has not gone back."""
    is_returned: bool = False
    """Were all routers read back with all requests at the baseline?"""
    kept: str = ""
    """Why users stay at new instances until these are restored; empty: they return, or that is tried again."""
    drift: str = ""
    """How a router whose settings were changed differs from the shares that were set, and what the guard did.

    Empty: it does not. Servers that go down, and a router that cannot be read, are in `notes`."""
    looked_at: float = 0.0
    """When it looked last, in seconds since 1970; 0: not yet."""
    readings: tuple[GuardReading, ...] = ()
    notes: tuple[str, ...] = ()
    """What the guard cannot see of these routers, and what could not be done, as sentences."""

    @property
    def counted(self) -> str:
        """What the router has counted of the candidates; empty if it does not say."""
        return describe_counts(self.readings)


def describe_counts(readings: Sequence[GuardReading]) -> str:
    """Describe what the router has counted of the candidates; empty if it does not say, or if they got no request."""
    parts = [
        f"the router counted {reading.counted:,} requests of {reading.arm} of {reading.service}, "
        f"{reading.counted_failures or 0:,} of them failed connections or answers"
        for reading in readings
        if reading.arm != BASELINE and reading.counted
    ]
    return "; ".join(parts)


def join_name(rollout: str, key: str) -> str:
    """Join the id of a rollout and its key to the name by which the guard knows it."""
    return f"{rollout}-{key}" if key else rollout


def to_plain(record: GuardSetup | GuardStatus) -> dict[str, Any]:
    """Turn a setup or a status into plain JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(record), default=str))
    return plain


def read_setup(plain: Mapping[str, Any]) -> GuardSetup:
    """Read a setup that `to_plain` wrote. Raises HookError for what is none."""
    try:
        services = tuple(
            GuardedService(**{**service, "access_log": Path(service["access_log"]) if service["access_log"] else None})
            for service in plain["services"]
        )
        return GuardSetup(
            rollout=str(plain["rollout"]),
            release=str(plain["release"]),
            services=services,
            limits=GuardLimits(**plain["limits"]),
            lease_s=float(plain["lease_s"]),
            key=str(plain["key"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise HookError(
            f"the guard cannot read what it is to guard ({type(error).__name__}: {error})",
            hint="the guard and the program that asks it may have different versions: restart the guard",
        ) from None


def read_status(plain: Mapping[str, Any]) -> GuardStatus:
    """Read a status that `to_plain` wrote. Raises HookError for what is none."""
    try:
        names = {each.name for each in fields(GuardReading)}  # a newer guard may say more
        readings = tuple(
            GuardReading(**{name: value for name, value in reading.items() if name in names})
            for reading in plain["readings"]
        )
        return GuardStatus(**{**plain, "readings": readings, "notes": tuple(plain["notes"])})
    except (KeyError, TypeError) as error:
        raise HookError(
            f"the guard's answer cannot be read ({type(error).__name__})",
            hint="the guard has another version: restart it, it goes on with its rollouts",
        ) from None
