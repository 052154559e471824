"""Run Locust against all arms of a release at once, in separate processes. Locust itself is never imported here."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evaluator.errors import InputError, LoadError, UsageError
from evaluator.permissions import PRIVATE_UMASK, is_private, private_files
from evaluator.records import Arm, Run, RunFacts, RunState
from evaluator.sources.arm_header import ArmHeader
from evaluator.sources.fingerprint import describe_environment
from evaluator.sources.load_log import TROUBLE, find_cause, find_last_line, read_log
from evaluator.sources.recording import (
    DEFAULT_HEADER,
    RECORDING_VARIABLE,
    Recording,
    merge_facts,
    read_worker_facts,
    utc,
)

CONNECT_TIMEOUT_S = 3.0
STOP_TIMEOUT_S = 10.0
"""Locust gets this long to end in order before it is killed."""

QUIET_S = 30.0
"""A run that wrote nothing for this long is over, even if its processes seem to run."""

RECORDING_NAME = "recording.json"

OVERDUE_S = 60.0
"""A run that exceeds its time by this much hangs."""

EARLY_S = 1.0
"""A run may end this much before its time and still count as complete: its clock starts just before ours."""

_RESERVED = ("-H", "--host", "-f", "--locustfile", "--master", "--worker", "--processes", "-u", "--users", "-r", "-t")
_IMPORT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One load test against all arms. `users` and `spawn_rate` are of each arm; Locust runs their sum.

    Behind a router they are those of all arms together.
    """

    arms: tuple[Arm, ...]
    locustfile: Path
    users: int
    spawn_rate: float
    run_time_s: float
    processes: int = 1
    header: str = DEFAULT_HEADER
    service: str = ""
    sensitive: bool = False
    """Only the path of a request is kept."""
    arguments: tuple[str, ...] = ()
    """Further arguments for Locust."""
    router: str = ""
    """Address of a router in front of all arms, which then have no addresses of their own: `arms` is empty."""
    arm_header: ArmHeader | None = None
    """With a router: the header of its answers that names the arm."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arms."""
        return tuple(self.arm_header.patterns) if self.arm_header else tuple(arm.name for arm in self.arms)

    @property
    def targets(self) -> tuple[str, ...]:
        """All addresses, each once."""
        if self.router:
            return (self.router,)
        return tuple(dict.fromkeys(url for arm in self.arms for url in arm.urls))


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run went. Its rows are in its folder."""

    state: RunState
    started: datetime | None
    planned_end: datetime | None
    ended: datetime
    facts: RunFacts
    exit_code: int | None
    interrupted: bool = False
    trouble: str = ""
    """The last error that Locust logged."""


# ------------------------------------------------------------------ before the load


def check_plan(plan: LoadPlan) -> None:
    """Refuse a plan that cannot work, before anything is stored. Raises UsageError, InputError or LoadError."""
    for name, value in (("users", plan.users), ("spawn rate", plan.spawn_rate), ("run time", plan.run_time_s)):
        if not 0 < value < float("inf"):
            raise UsageError(f"{name} must be more than 0, not {value:g}")
    if plan.processes < 1:
        raise UsageError(f"processes must be at least 1, not {plan.processes}")
    for url in plan.targets:
        _parse_address(url)
    reserved = [argument for argument in plan.arguments if argument.split("=")[0] in _RESERVED]
    if reserved:
        raise UsageError(f"'{reserved[0]}' is set by evaluator load itself", hint="use the options of evaluator load")
    _check_locustfile(plan)
    check_targets(plan.targets)


def _check_locustfile(plan: LoadPlan) -> None:
    """Let Locust list the user classes of the locustfile, and explain why it cannot.

    Raises InputError for a locustfile that does not work, UsageError for arguments that Locust refuses, and LoadError
    if Locust is killed.
    """
    if not plan.locustfile.is_file():
        raise InputError(
            f"there is no locustfile '{plan.locustfile}'", hint="`evaluator init` writes one to start from"
        )
    command = [sys.executable, "-m", "locust", "-f", str(plan.locustfile), "--list", *plan.arguments]
    try:
        listing = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_IMPORT_TIMEOUT_S,
            check=False,
            env=_environment(recording_path=None),
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"locustfile '{plan.locustfile}' was not imported within {_IMPORT_TIMEOUT_S:g} s") from None
    exit_code = listing.returncode
    if exit_code < 0:  # the number of a signal, negated
        raise LoadError(f"Locust was killed by {signal.Signals(-exit_code).name} while it read the locustfile")
    if exit_code != 0:
        reason = find_last_line(listing.stderr.splitlines())
        _, argument_error, explanation = reason.partition(": error: ")  # as argparse writes it
        if argument_error:
            raise UsageError(
                f"Locust refuses its arguments: {explanation}",
                hint="arguments after -- go to Locust: `locust --help` lists them",
            )
        # The last line of the locustfile in the traceback is where it failed.
        line_numbers = re.findall(rf'File ".*{re.escape(plan.locustfile.name)}", line (\d+)', listing.stderr)
        where = f"{plan.locustfile}:{line_numbers[-1]}: " if line_numbers else ""
        raise InputError(f"{where}locustfile '{plan.locustfile}' cannot be imported: {reason}")
    # The first line is a title.
    if len(listing.stdout.strip().splitlines()) <= 1:
        raise InputError(f"locustfile '{plan.locustfile}' has no user class", hint="write a class of users into it")


def check_targets(targets: Sequence[str]) -> None:
    """Connect to each address once. Raises LoadError that names the first address that refuses."""
    for url in targets:
        try:
            socket.create_connection(_parse_address(url), timeout=CONNECT_TIMEOUT_S).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise LoadError(
                f"target {url} does not accept connections: {reason}", hint="start it, or correct its address"
            ) from error


def wait_for_targets(targets: Sequence[str], timeout_s: float = 60.0) -> None:
    """Wait until every address accepts connections. After `timeout_s`, raises LoadError that names one that refuses."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

    retrying = Retrying(
        retry=retry_if_exception_type(LoadError),
        stop=stop_after_delay(timeout_s),
        wait=wait_fixed(0.2),
        reraise=True,
    )
    retrying(check_targets, targets)


def _parse_address(url: str) -> tuple[str, int]:
    """Host and port of an http or https URL. Raises UsageError for anything else."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"'{url}' is not an address: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"'{url}' is not an address", hint="give it as http://HOST:PORT")
    return parts.hostname, port or (443 if parts.scheme == "https" else 80)


def fingerprint(plan: LoadPlan) -> dict[str, Any]:
    """Describe what must be equal in two loads for them to be comparable: plan, locustfile, machine, Locust."""
    return {
        **describe_environment([plan.locustfile]),
        "users": plan.users,
        "spawn_rate": plan.spawn_rate,
        "run_time_s": plan.run_time_s,
        "processes": plan.processes,
        "targets": {arm.name: list(arm.urls) for arm in plan.arms},
        "router": plan.router,  # empty: there is none
        **(plan.arm_header.describe() if plan.arm_header else {}),
        "arguments": list(plan.arguments),
        "locust": version("locust"),
    }


# ------------------------------------------------------------------ the load


def run_locust(
    plan: LoadPlan,
    run: Run,
    folder: Path,
    on_line: Callable[[str], None] = lambda _: None,
    why_stop: Callable[[], str] = lambda: "",
) -> RunOutcome:
    """Run one load test to its end and return how it went; an interrupt ends it early and is reported, not raised.

    The processes of Locust write requests and facts of the run into `folder`. `on_line` is called with each line of
    Locust's log. As soon as `why_stop` returns a reason (a text that is not empty), the load is ended in order, and
    counts as complete. Raises LoadError if no process can be started.
    """
    recording_path = folder / RECORDING_NAME
    # A private store has a private folder, in which the folders of releases have those of their runs.
    private = plan.sensitive or is_private(folder.parents[1])
    with private_files(when=private):
        folder.mkdir(parents=True, exist_ok=True)
        _make_recording(plan, run, folder).write(recording_path)
    deadline = time.time() + plan.run_time_s + OVERDUE_S  # epoch, s
    try:
        process = subprocess.Popen(
            _build_command(plan),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=_environment(recording_path),
            start_new_session=True,
            umask=PRIVATE_UMASK if private else -1,  # -1: as in this process
        )
    except OSError as error:
        raise LoadError(f"Locust cannot be started: {error.strerror}") from error
    last_lines: deque[str] = deque(maxlen=50)

    def keep_line(line: str) -> None:
        last_lines.append(line)
        on_line(line)

    reader = threading.Thread(target=read_log, args=(process.stderr, plan.sensitive, keep_line), daemon=True)
    reader.start()
    stopped_by, stop_reason = _wait_for_end(process, folder, deadline, why_stop)
    reader.join(timeout=STOP_TIMEOUT_S)
    exit_code = process.returncode
    # What we did to Locust is the cause; only if we did nothing, its log and exit code say what ended it.
    stopped_by = stopped_by or find_cause(exit_code, last_lines, ended_on_purpose=bool(stop_reason))
    outcome = read_outcome(
        folder,
        run_time_s=plan.run_time_s,
        workers_expected=plan.processes,
        stopped_by=stopped_by,
        ended_early=stop_reason,
    )
    trouble = next(filter(TROUBLE.match, reversed(last_lines)), "")[:300]  # the last error in the log
    return replace(outcome, exit_code=exit_code, interrupted=stopped_by == _INTERRUPTED, trouble=trouble)


def _make_recording(plan: LoadPlan, run: Run, folder: Path) -> Recording:
    """Make the settings by which each process of Locust records; this process is their parent."""
    return Recording(
        run=run.id,
        release=run.release,
        folder=folder,
        service=plan.service,
        header=plan.header,
        arms=plan.arms,
        parent_pid=os.getpid(),
        parent_host=platform.node(),
        sensitive=plan.sensitive,
        arm_header=plan.arm_header,
    )


def _build_command(plan: LoadPlan) -> list[str]:
    """Build the command line of Locust. The plan's users and spawn rate are those of one arm, Locust's of all arms."""
    arms = 1 if plan.router else len(plan.arms)
    command = [sys.executable, "-m", "evaluator.sources.locust", "-f", str(plan.locustfile)]
    # Failed requests are data, so they are no error of Locust: its exit code then is 0.
    command += ["--headless", "--only-summary", "--exit-code-on-error", "0"]
    command += ["-u", str(plan.users * arms), "-r", str(plan.spawn_rate * arms), "-t", f"{plan.run_time_s:g}"]
    if plan.router:
        command += ["--host", plan.router]  # else each copy of a user class has the address of its arm
    if plan.processes > 1:
        # A master on loopback, to which its workers connect; a port of its own lets several loads run at once.
        port = str(free_port())
        command += ["--processes", str(plan.processes), "--master-port", port]
        command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port]
    return [*command, *plan.arguments]


def free_port() -> int:
    """Find a port of loopback that is free now, below those which a system gives to outgoing connections.

    Its server binds it a moment later. Until then another connection must not get it by chance.
    """
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)  # processes with the same seed get other ports
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _environment(recording_path: Path | None) -> dict[str, str]:
    """The environment of a Locust that records as the file says; without a file, of one that records nothing."""
    environment = {name: value for name, value in os.environ.items() if name != RECORDING_VARIABLE}
    if recording_path is not None:
        environment[RECORDING_VARIABLE] = str(recording_path.resolve())
    return environment


_INTERRUPTED = "interrupted"


def _wait_for_end(
    process: subprocess.Popen[str], folder: Path, deadline: float, why_stop: Callable[[], str]
) -> tuple[str, str]:
    """Wait until Locust ends, or end it: after the deadline (epoch, s), or as soon as `why_stop` gives a reason.

    Returns what went wrong, and the reason of `why_stop`; both are empty if Locust ended by itself.
    """
    try:
        while process.poll() is None:
            time.sleep(0.1)
            if stop_reason := why_stop():
                _end_locust(process)
                return "", stop_reason
            # A load shape, not the run time, decides when a shaped load ends.
            if time.time() > deadline and not any(facts.shaped for facts in read_worker_facts(folder)):
                _end_locust(process)
                return "Locust did not end in time", ""
    except KeyboardInterrupt:
        _end_locust(process)
        return _INTERRUPTED, ""
    # Locust has ended by itself; some of its workers may still run.
    _kill_group(process)
    return "", ""


def _end_locust(process: subprocess.Popen[str]) -> None:
    """Ask Locust to end in order, then kill it."""
    try:
        process.terminate()
        process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass
    except KeyboardInterrupt:
        pass  # a second interrupt ends the waiting
    finally:
        _kill_group(process)
        process.wait()


def _kill_group(process: subprocess.Popen[str]) -> None:
    """Kill workers that outlive their leader, after the three seconds that an orphan may need to finish writing."""
    with contextlib.suppress(ProcessLookupError):  # raised as soon as no process of the group is left
        for _ in range(30):  # times 0.1 s
            os.killpg(process.pid, 0)  # signal 0 only asks whether the group exists
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)


# ------------------------------------------------------------------ after the load


def read_outcome(
    folder: Path,
    *,
    run_time_s: float | None,
    workers_expected: int | None = None,
    stopped_by: str = "",
    ended_early: str = "",
) -> RunOutcome:
    """Determine how a run went from the facts that its processes wrote into `folder`.

    `run_time_s`: the planned length, None if none was planned. `stopped_by`: what went wrong, as far as the caller
    knows; `ended_early`: why the load was ended on purpose. Any cause that stopped it makes the run incomplete.
    `exit_code` and `trouble` of the result are left to the caller.
    Raises SourceError if the facts cannot be read.
    """
    sidecars = read_worker_facts(folder)
    facts = merge_facts(sidecars, workers_expected=workers_expected)
    leader = next((process for process in sidecars if process.role != "worker"), None)  # a master, or the only process
    started = utc(leader.started) if leader and leader.started else None
    is_shaped = leader is not None and leader.shaped  # a load shape decides when the load ends
    planned_end = started + timedelta(seconds=run_time_s) if started and run_time_s and not is_shaped else None
    ended = max((utc(process.ended) for process in sidecars if process.ended), default=_read_last_change(folder))
    expected_recorders = facts.workers_expected or 1  # processes that record requests, which a master does not
    missing_recorders = expected_recorders - sum(process.closed for process in sidecars if process.role != "master")
    cause = stopped_by or facts.stopped_by
    if not cause and missing_recorders > 0:
        cause = f"{missing_recorders} of {expected_recorders} load generator processes did not report at the end"
    if not (cause or ended_early) and planned_end and ended < planned_end - timedelta(seconds=EARLY_S):
        cause = "Locust ended before its time"
    return RunOutcome(
        state=RunState.INCOMPLETE if cause or facts.orphaned else RunState.COMPLETE,
        started=started,
        planned_end=planned_end,
        ended=ended,
        facts=replace(facts, stopped_by=cause, ended_early=ended_early),
        exit_code=None,
    )


def _read_last_change(folder: Path) -> datetime:
    """When a file of a folder was last changed; now if it has none."""
    return utc(max((path.stat().st_mtime for path in folder.glob("*")), default=time.time()))


def is_recording(folder: Path) -> bool:
    """Whether a run is still being recorded: written to just now, and by a process that has not ended.

    A process on another machine cannot be asked: it counts as running until it has closed its facts.
    """
    if time.time() - _read_last_change(folder).timestamp() > QUIET_S:
        return False
    unclosed = [sidecar for sidecar in read_worker_facts(folder) if not sidecar.closed]
    if any(sidecar.host != platform.node() for sidecar in unclosed):
        return True
    pids = [sidecar.pid for sidecar in unclosed]
    recording_path = folder / RECORDING_NAME
    if recording_path.exists() and (parent_pid := Recording.read(recording_path).parent_pid):
        pids.append(parent_pid)
    return any(is_alive(pid) for pid in pids)


def is_parent_alive(folder: Path) -> bool:
    """Whether the process that started the run of a folder still runs; on another machine it is assumed to run."""
    recording_path = folder / RECORDING_NAME
    recording = Recording.read(recording_path) if recording_path.exists() else None
    if recording is None or recording.parent_pid is None:
        return False
    is_elsewhere = recording.parent_host not in {"", platform.node()}
    return is_elsewhere or is_alive(recording.parent_pid)


def is_alive(pid: int) -> bool:
    """Whether a process on this machine still runs; a zombie does not."""
    try:
        os.kill(pid, 0)  # signal 0 only asks whether the process exists
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it exists, and is of another user
    # A zombie has ended, but its parent has not collected it: in a container without init that never happens.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # the system has no /proc, or hides it
    # The line is `pid (name) state …`; the name may hold parentheses.
    state = stat.rpartition(")")[2].split()[:1]
    return state != ["Z"]
