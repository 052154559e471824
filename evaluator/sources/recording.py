"""What a recorder and its reader share in addition to segments: the requested recording, and facts of the recorder.

Every process that records writes a sidecar, `facts-<worker>.json`, in the run's folder. It is replaced atomically every
few seconds and once more when the process ends (`closed`). A sidecar that is not closed shows that the process was
killed.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any, Literal, Self

from evaluator.errors import SourceError, UsageError
from evaluator.records import (
    Arm,
    InFlight,
    LeftOut,
    LeftOutKind,
    Release,
    RouterFacts,
    RunFacts,
    Service,
    add_router_facts,
    check_names,
    sum_left_out,
)
from evaluator.segments import run_folder, written_whole
from evaluator.sources.arm_header import ArmHeader

RECORDING_VARIABLE = "EVALUATOR_RECORDING"
"""Environment variable that names the JSON file of a Recording."""

DEFAULT_HEADER = "X-Instance"

MANIFEST_NAME = "run.json"
"""File in the folder of a run that a recorder started by itself."""

STOP_MARK = "evaluator: stopped: "
"""Start of the line on stderr with the reason why a recorder ended the run; a full disk leaves no other place."""


def explain_refused_names(release: str, service: str, arm: str, untagged: Sequence[str]) -> str:
    """Say why a recorder cannot record under these names (empty: not given); empty if it can.

    `untagged`: classes of users whose requests do not name their arm, and which therefore need `arm`.
    """
    if not release:
        return "the recorder does not know the release: give --evaluator-release NAME or Recorder(release=NAME)"
    if untagged and not arm:
        way = "give --evaluator-arm, 'arm' in its context(), or behind a router --evaluator-arm-header"
        return f"the recorder does not know the arm of {untagged[0]}: {way}"
    try:
        check_names(Release(release, (Service(service),)), [arm] if arm else [])
    except UsageError as error:
        return f"{error.message} ({error.hint})" if error.hint else error.message
    return ""


@dataclass(frozen=True, slots=True)
class Recording:
    """Where a run's requests are written, and under which names. With `arms`, users are made for every arm."""

    run: str
    release: str
    folder: Path
    service: str = ""
    header: str = DEFAULT_HEADER
    arms: tuple[Arm, ...] = ()
    parent_pid: int | None = None
    """The process that started the load; when it ends, the load stops."""
    parent_host: str = ""
    """The machine of that process."""
    sensitive: bool = False
    """Only the path of a request is kept."""
    arm_header: ArmHeader | None = None
    """The header of an answer that names its arm, behind a router; then there are no `arms`."""

    def write(self, path: Path) -> None:
        """Write the recording as JSON for the processes of the run."""
        values = asdict(self) | {"folder": str(self.folder), "arms": [asdict(arm) for arm in self.arms]}
        path.write_text(json.dumps(values, indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file that `write` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        arms = tuple(Arm(arm["name"], tuple(arm["urls"]), arm["version"]) for arm in values.pop("arms"))
        header = values.pop("arm_header")
        if header is not None:
            patterns = {arm: tuple(of_arm) for arm, of_arm in header["patterns"].items()}
            header = ArmHeader(**header | {"patterns": patterns})
        return cls(**values | {"folder": Path(values["folder"]), "arms": arms, "arm_header": header})


@dataclass(frozen=True, slots=True)
class RunManifest:
    """The run of a recorder that started by itself, written so that it can be registered later."""

    run: str
    release: str
    service: str
    started: float
    run_time_s: float | None
    fingerprint: dict[str, Any]
    source: str = "locust"
    group: str = ""
    """Id of its run group; empty: it is a group of its own."""
    replicate: int = 0
    step: str = ""
    shares: dict[str, float] = field(default_factory=dict)
    bucket_s: int | None = None
    """Length of the buckets of its group (s); None: chosen from `run_time_s` of the group's first run."""

    def write(self, folder: Path) -> None:
        """Write the manifest into the run's folder, at once for every reader. Raises OSError."""
        with written_whole(folder / MANIFEST_NAME) as unfinished:
            unfinished.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file that `write` wrote; a recorder of another version may have written more. Raises SourceError."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            # A recorder of an older version has not written the parts that have a default.
            manifest = cls(**{part.name: values[part.name] for part in fields(cls) if part.name in values})
            texts = (manifest.run, manifest.release, manifest.service, manifest.source, manifest.group, manifest.step)
            are_texts = all(isinstance(text, str) for text in texts) and isinstance(manifest.fingerprint, dict)
            are_texts = are_texts and (manifest.bucket_s is None or int(manifest.bucket_s) > 0)
            utc(manifest.started + (manifest.run_time_s or 0.0))  # fails for what is no time
        except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise _refuse_manifest(path, f"{type(error).__name__}: {error}") from error
        data = path.parents[2]
        if not are_texts or path.parent != run_folder(data, manifest.release, manifest.run):
            raise _refuse_manifest(path, "it does not describe the run of its folder")
        return manifest


def _refuse_manifest(path: Path, problem: str) -> SourceError:
    """Make the error for a manifest that is damaged, of another program, or of another folder."""
    return SourceError(
        f"{path} does not describe a recording: {' '.join(problem.split())[:200]}",
        hint=f"if the evaluator recorded there, record again; then move {path.parent} elsewhere, or delete it",
    )


@dataclass(slots=True)
class WorkerFacts:
    """Facts that one process records about itself (a master: about the run). Times are epoch seconds."""

    worker: str
    role: Literal["local", "worker", "master"]
    pid: int = 0
    host: str = ""
    rows: int = 0
    counted: int | None = None
    read: dict[str, int] = field(default_factory=dict)
    """Requests of each arm that Locust reported, and unreported ones that are left out."""
    left_out: tuple[LeftOut, ...] = ()
    """Those of `read` that are no rows."""
    in_flight: tuple[InFlight, ...] = ()
    """Behind a router without an arm, as no answer named it."""
    router: RouterFacts | None = None
    """What the router did by itself; None without a router."""
    started: float | None = None
    users_stopped: float | None = None
    """When Locust began to stop the users."""
    ended: float | None = None
    plateau_start: float | None = None
    users: dict[str, int] = field(default_factory=dict)
    target_users: int | None = None
    cpu_percent: float | None = None
    loop_lag_ms: float | None = None
    clock_offset_s: float | None = None
    pacing: Literal["closed", "open"] | None = None
    shaped: bool = False
    """A load shape decides on users and end; the given run time has no effect."""
    workers_expected: int | None = None
    workers_seen: int | None = None
    orphaned: bool = False
    stopped_by: str = ""
    closed: bool = False
    """The process ended in order: everything it recorded is in its segments."""

    def write(self, folder: Path) -> None:
        """Replace the process's file of facts in the run's folder, at once for every reader. Raises OSError."""
        path = folder / f"facts-{self.worker}.json"
        unfinished = path.with_name(path.name + ".tmp")
        unfinished.write_text(json.dumps(asdict(self)), encoding="utf-8")
        unfinished.replace(path)


def read_worker_facts(folder: Path) -> tuple[WorkerFacts, ...]:
    """Read the facts of all processes of a run, from the sidecars in its folder.

    A damaged sidecar (after a power failure) gives a process without facts. Raises SourceError for a sidecar that
    cannot be read at all.
    """
    sidecars = []
    for path in sorted(folder.glob("facts-*.json")):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            left_out = [LeftOut(**part | {"kind": LeftOutKind(part["kind"])}) for part in values.pop("left_out", ())]
            in_flight = [InFlight(**request) for request in values.pop("in_flight", ())]
            if values.get("router"):
                values["router"] = RouterFacts(**values["router"] | {"holes": tuple(values["router"]["holes"])})
            facts = WorkerFacts(**values, left_out=tuple(left_out), in_flight=tuple(in_flight))
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error}") from error
        except (ValueError, TypeError, KeyError, AttributeError):
            worker = path.stem.removeprefix("facts-")
            facts = WorkerFacts(worker=worker, role="worker", stopped_by=f"{path.name} is damaged")
        sidecars.append(facts)
    return tuple(sidecars)


def merge_facts(sidecars: Iterable[WorkerFacts], *, workers_expected: int | None = None) -> RunFacts:
    """Sum up the facts of all processes of one run. Facts that no process has stay None or empty.

    `workers_expected` of the caller precedes the number that the leader knows. `read` (requests of each arm) is given
    only if every process has ended in order, because a killed process has written requests that it did not count.
    `users_stopped` is the time when the last process stopped its users.
    """
    processes = tuple(sidecars)
    # The leader is a master, or the only process. A master records no requests.
    recorders = [process for process in processes if process.role != "master"]
    leader = next((process for process in processes if process.role != "worker"), None)
    expected_recorders = workers_expected or (leader.workers_expected if leader else None)
    closed_recorders = sum(process.closed for process in recorders)  # those that ended in order
    all_closed = closed_recorders == len(recorders) and closed_recorders >= (expected_recorders or 1)
    # Requests that Locust counted: by the leader, or by all recorders together. A master waits only half a second for
    # last reports, so its workers may have counted more.
    recorder_counts = [process.counted for process in recorders if process.counted is not None]
    totals = [leader.counted] if leader and leader.counted is not None else []
    totals += [sum(recorder_counts)] if recorder_counts else []
    counted = max(totals, default=None)
    in_flight = [request for process in recorders for request in process.in_flight]
    router = _sum_router(recorders, in_flight)
    read: Counter[str] = Counter()
    for process in recorders:
        read.update(process.read)
    left_out = sum_left_out(part for process in recorders for part in process.left_out)
    plateau_start = leader.plateau_start if leader else None
    last_stop = _find_highest(process.users_stopped for process in recorders)
    users_stopped = last_stop or (leader.users_stopped if leader else None)  # epoch, s
    return RunFacts(
        workers_expected=expected_recorders,
        workers_seen=closed_recorders,
        counted=counted,
        users=leader.users if leader else {},
        cpu_percent=_find_highest(process.cpu_percent for process in processes),
        loop_lag_ms=_find_highest(process.loop_lag_ms for process in recorders),
        clock_offset_s=leader.clock_offset_s if leader else None,
        pacing=next((process.pacing for process in recorders if process.pacing), None),
        target_users=leader.target_users if leader else None,
        plateau_start=None if plateau_start is None else utc(plateau_start),
        users_stopped=None if users_stopped is None else utc(users_stopped),
        read=dict(read) if all_closed else {},
        left_out=tuple(sorted(left_out, key=lambda part: (part.arm, part.kind, part.detail))),
        in_flight=tuple(in_flight) if router is None else (),
        router=router,
        orphaned=any(process.orphaned for process in processes),
        stopped_by=next((process.stopped_by for process in processes if process.stopped_by), ""),
    )


UNANSWERED_S = 10.0
"""A request behind a router that waited longer for its answer when the load ended has failed."""


def _sum_router(recorders: Iterable[WorkerFacts], in_flight: Iterable[InFlight]) -> RouterFacts | None:
    """Add up what processes say of the router, with the requests that were waiting for long; None without a router."""
    parts = [process.router for process in recorders if process.router is not None]
    if not parts:
        return None
    unanswered = sum(request.age_s > UNANSWERED_S for request in in_flight)
    parts.append(RouterFacts(unanswered, unanswered, unanswered, without_server_failures=unanswered))
    return reduce(add_router_facts, parts)


def _find_highest(values: Iterable[float | None]) -> float | None:
    """The highest value that is not None; None if all are."""
    return max((value for value in values if value is not None), default=None)


def new_run_id() -> str:
    """Make a unique id that sorts by time."""
    return f"{datetime.now(tz=UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"


def utc(epoch_s: float) -> datetime:
    """Epoch seconds as an aware UTC time."""
    return datetime.fromtimestamp(epoch_s, tz=UTC)
