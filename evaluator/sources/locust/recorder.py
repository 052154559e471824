"""The recorder: what each Locust process records of its requests and of itself."""

from __future__ import annotations

import gc
import os
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gevent
import locust
import locust.clients
import locust.contrib.fasthttp
import numpy as np
import psutil
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, Runner, WorkerRunner
from locust.user.users import User

from evaluator.segments import SegmentWriter, data_folder, run_folder
from evaluator.sources.fingerprint import describe_environment
from evaluator.sources.locust.open_requests import OpenRequests
from evaluator.sources.locust.options import add_options, explain_refused_header, make_arm_header
from evaluator.sources.locust.starting import get_options, keep_files_private
from evaluator.sources.locust.users import use_arms
from evaluator.sources.recording import (
    DEFAULT_HEADER,
    RECORDING_VARIABLE,
    STOP_MARK,
    Recording,
    RunManifest,
    WorkerFacts,
    explain_refused_names,
    new_run_id,
)
from evaluator.sources.request_buffer import UNASSIGNED, RequestBuffer

FLUSH_S = 1.0
"""A request stays in memory at most this long."""

SAMPLE_S = 5.0
"""CPU is averaged over this long; facts are written as often."""

LAG_STEP_S = 0.1
WRONG_CALL = 2
COULD_NOT_RECORD = 4


class Recorder:
    """Record this Locust process. Options of the command line (`--evaluator-…`) override the arguments given here.

    A second recorder in the same process changes nothing: under `evaluator load`, a locustfile with a recorder of its
    own is recorded once.
    """

    _active: ClassVar[Recorder | None] = None

    def __init__(
        self,
        release: str = "",
        *,
        arm: str = "",
        service: str = "",
        store: str = "evaluator.duckdb",
        header: str = DEFAULT_HEADER,
        arm_header: str = "",
        arm_values: Mapping[str, str | Sequence[str]] | None = None,
        no_retries: bool = False,
        sensitive: bool = False,
    ) -> None:
        """Register with Locust, or pass the settings on to the recorder of this process if it has one already.

        `arm_header`: header of the answers of a router that names the arm of each request. `arm_values`: arm → its
        values there, with `*` and `?`; by default the names of the arms. `no_retries`: the router never tries again.
        """
        values = {arm: [of_arm] if isinstance(of_arm, str) else of_arm for arm, of_arm in (arm_values or {}).items()}
        self.flags = {"sensitive": sensitive, "no-retries": no_retries}
        self.settings: dict[str, str] = {
            "release": release, "arm": arm, "service": service, "store": store, "header": header,
            "arm-header": arm_header,
            "arm-values": ",".join(f"{arm}={value}" for arm, of_arm in values.items() for value in of_arm),
        }  # fmt: skip
        self._pid = os.getpid()
        self._process: _Process | None = None
        if Recorder._active is not None:
            if release:  # else it has no settings to pass on
                Recorder._active.settings |= self.settings
                Recorder._active.flags = {
                    name: value or self.flags[name] for name, value in Recorder._active.flags.items()
                }
            return
        Recorder._active = self
        events: Any = locust.events  # whose methods have no types
        events.init_command_line_parser.add_listener(self._add_options)
        events.init.add_listener(self._start)

    def _add_options(self, parser: LocustArgumentParser) -> None:
        """Add the options `--evaluator-…`; under `evaluator load`, a file has all settings instead."""
        if RECORDING_VARIABLE not in os.environ:
            add_options(parser, self.settings, self.flags)

    def _start(self, environment: Environment, runner: Runner, **_: Any) -> None:
        """Start to record once Locust has its environment; each process that Locust forks calls this, too.

        Under `evaluator load`, a file says what to record; else the options do, and without them Locust is ended.
        """
        # A process records only as long as its parent runs: the leader that forked it, or `evaluator load`.
        is_forked = os.getpid() != self._pid
        parent_pid = self._pid if is_forked else None
        recording = None
        if RECORDING_VARIABLE in os.environ:
            recording = Recording.read(Path(os.environ[RECORDING_VARIABLE]))
            parent_pid = parent_pid or recording.parent_pid
            use_arms(environment, recording)
        else:
            options = get_options(environment)
            untagged = [cls.__name__ for cls in environment.user_classes if cls.context is User.context]
            names = (options.evaluator_release, options.evaluator_service, options.evaluator_arm)
            is_routed = bool(options.evaluator_arm_header)
            problem = explain_refused_names(*names, [] if is_routed else untagged) or explain_refused_header(options)
            if problem:
                sys.stderr.write(f"evaluator: {problem}\n")
                sys.exit(WRONG_CALL)
            keep_files_private(options)
        self._process = _Process(environment, runner, recording, parent_pid)
        self._process.listen()
        # Imported objects stay: leave them out of every full garbage collection.
        gc.collect()
        gc.freeze()
        # The first write took time; timers set now (the run time) must not count from before it.
        gevent.get_hub().loop.update_now()


# ------------------------------------------------------------------ one process


class _Process:
    """What one Locust process records: requests where users run, counts and workers on a master."""

    def __init__(
        self, environment: Environment, runner: Runner, recording: Recording | None, parent_pid: int | None
    ) -> None:
        """Prepare to record by `recording` (None: by the options); this process ends with `parent_pid`, if not None."""
        self.environment, self.runner = environment, runner
        self.given_recording = recording
        """Settings of `evaluator load`; None: made from the options when a run starts."""
        self.recording = recording
        """Settings of the current run."""
        self.parent_pid = parent_pid
        self.worker = f"{re.sub('[^A-Za-z0-9]+', '-', platform.node())[:40]}-{os.getpid()}"
        self.role: Any = "worker" if isinstance(runner, WorkerRunner) else "local"
        if isinstance(runner, MasterRunner):
            self.role = "master"
        self.facts = self._new_facts()
        options = get_options(environment)
        self.buffer = RequestBuffer(
            arm_header=recording.arm_header if recording else make_arm_header(options),
            header=recording.header if recording else options.evaluator_header,
            arm=UNASSIGNED if recording else options.evaluator_arm or UNASSIGNED,
            sensitive=recording.sensitive if recording else options.evaluator_sensitive,
        )
        self.open_requests = OpenRequests(self.buffer)
        self.writer: SegmentWriter | None = None
        self.arm_by_class = {cls.__name__: getattr(cls, "evaluator_arm", "") for cls in environment.user_classes}
        """Name of a user class → its arm; empty if the context of each request names it."""
        self.users: Counter[str] = Counter()
        """Running users of each arm."""
        self.users_seen: float | None = None
        """When users were last seen running."""
        self.clock_offsets_s: dict[str, float] = {}
        """On a master: worker → how far its clock is behind (s)."""
        self.lags_ms: list[float] = []
        self.cpu = psutil.Process()
        self.running = False

    def listen(self) -> None:
        """Register with Locust, and do the first Parquet write before the load starts."""
        events: Any = self.environment.events  # whose methods have no types
        events.test_start.add_listener(self._on_test_start)
        events.spawning_complete.add_listener(self._on_all_spawned)
        events.test_stopping.add_listener(self._on_test_stopping)
        events.test_stop.add_listener(self._on_test_stop)
        events.quit.add_listener(self._on_quit)
        if self.role == "master":
            events.worker_report.add_listener(self._on_report)
            self.runner.register_message("evaluator-stop", self._on_worker_gave_up)
            self.runner.register_message("evaluator-clock", self._on_clock)
        else:
            record = self.buffer.listen()
            # The first Parquet write of a process blocks it: it is done before the load starts.
            sample = RequestBuffer(header="")
            sample.listen()("GET", "/", 1.0, 1, exception=OSError("sample"), context={"arm": "a", "k": "v"})
            SegmentWriter.warm_up(sample.take({"run": "", "service": "", "worker": ""}, {}))
            events.request.add_listener(record)
            self.open_requests.watch(locust.clients.HttpSession, locust.clients.ResponseContextManager)
            fasthttp = locust.contrib.fasthttp
            self.open_requests.watch(fasthttp.FastHttpSession, fasthttp.ResponseContextManager)
        if self.role == "worker":
            events.report_to_master.add_listener(self._on_report)
            self.runner.register_message("evaluator-users", self._on_users)
        gevent.spawn(self._keep_flushing)
        gevent.spawn(self._measure_lag)

    def _new_facts(self) -> WorkerFacts:
        worker = self.worker if self.role != "master" else "master"
        return WorkerFacts(worker=worker, role=self.role, pid=os.getpid(), host=platform.node())

    # -------------------------------------------------------------- life of a run

    def _on_test_start(self, **_: Any) -> None:
        """Begin a run: reset what was recorded of the run before, and write the first facts into the run's folder."""
        self.facts = self._new_facts()
        self.recording = self.given_recording or self._make_recording()
        self.buffer.begin()
        self.open_requests.begin()
        self.facts.started = time.time()
        self.users_seen = self.facts.started
        # The load is open if every user waits for the next turn of a fixed rate, however long a response takes.
        wait_names = [getattr(cls.wait_time, "__qualname__", "") for cls in self.environment.user_classes]
        has_fixed_rate = [name.startswith(("constant_throughput.", "constant_pacing.")) for name in wait_names]
        self.facts.pacing = "open" if has_fixed_rate and all(has_fixed_rate) else "closed"
        self.facts.shaped = self.environment.shape_class is not None
        self.cpu.cpu_percent()  # the next call gives the share since this one
        self.lags_ms.clear()
        try:
            self.recording.folder.mkdir(parents=True, exist_ok=True)
            if self.role != "master":
                self.writer = SegmentWriter(self.recording.folder, self.worker)
            if self.role != "worker" and not self.given_recording:  # `evaluator load` describes its run itself
                self._write_manifest(self.recording)
            self.facts.write(self.recording.folder)
        except OSError as error:
            self._give_up(error)
        self.running = True

    def _make_recording(self) -> Recording:
        """Make the settings of a run from the options; its id is new, and the same in all processes of the run."""
        options = get_options(self.environment)
        if self.role != "worker":
            # Locust sends the options of the master to its workers before they start.
            options.evaluator_run = new_run_id()
        run = options.evaluator_run
        folder = run_folder(data_folder(Path(options.evaluator_store)), options.evaluator_release, run)
        return Recording(run, options.evaluator_release, folder, options.evaluator_service, options.evaluator_header)

    def _write_manifest(self, recording: Recording) -> None:
        """Describe the run in its folder, so that it can be registered in the store later. Raises OSError."""
        options = get_options(self.environment)
        routed = self.buffer.routed
        manifest = RunManifest(
            run=recording.run,
            release=recording.release,
            service=recording.service,
            started=time.time(),
            run_time_s=float(options.run_time) if options.run_time else None,
            fingerprint={
                **describe_environment([Path(path) for path in self.environment.parsed_locustfiles or ()]),
                "users": options.num_users,
                "arguments": sys.argv[1:],
                "locust": locust.__version__,
                **({"router": self.environment.host or "router", **routed.header.describe()} if routed else {}),
            },
        )
        manifest.write(recording.folder)

    def _on_all_spawned(self, user_count: int, **_: Any) -> None:
        """Note the users of each arm once all requested users run; if the load has several steps, at the largest step.

        A worker sees its own users only, so this is left to the master.
        """
        if self.role == "worker":
            return
        self._count_users()
        most_users = max(user_count, self.facts.target_users or 0)
        if most_users != self.facts.target_users:
            self.facts.target_users = most_users
            self.facts.plateau_start = time.time()
            self.facts.users = {arm: count for arm, count in self.users.items() if arm}

    def _on_test_stopping(self, **_: Any) -> None:
        """Note when Locust begins to stop the users; Locust may send this event more than once.

        Users that had stopped by themselves (StopUser, a load shape) stopped when they were last seen.
        """
        if self.running and self.facts.users_stopped is None:
            last_seen = self.users_seen if not self.runner.user_count else None
            self.facts.users_stopped = last_seen or time.time()
            self.open_requests.stop()

    def _on_test_stop(self, **_: Any) -> None:
        """Close the run; a master goes on, as reports of its workers still arrive."""
        if self.running:
            self._close()
            self.running = self.role == "master"

    def _on_quit(self, **_: Any) -> None:
        if self.running:
            self._close()
        self.running = False

    def _close(self) -> None:
        """Write the last requests and facts of the run, and mark the facts as complete unless an error stopped it."""
        self._flush()
        self.facts.ended = time.time()
        self.facts.closed = not self.facts.stopped_by
        try:
            if self.writer:
                self.writer.close()
        except OSError as error:
            self._give_up(error)
        self._write_facts()

    def _give_up(self, error: Exception) -> None:
        """Stop the run after an error of writing: a load that is not recorded proves nothing."""
        if self.facts.stopped_by:
            return
        where = self.recording.folder if self.recording else "the recording"
        # Arrow writes the error number of the system into its own message.
        error_number = re.search(r"\[errno (\d+)\]", str(error))
        system_text = os.strerror(int(error_number[1])) if error_number else getattr(error, "strerror", None)
        self._end_run(f"cannot write to {where}: {system_text or error}")

    def _end_run(self, reason: str) -> None:
        """Stop the run before its end; a worker asks its master to do so."""
        self.facts.closed = False
        self.writer = None
        if self.role == "worker":
            self.facts.stopped_by = reason
            self.runner.send_message("evaluator-stop", {"reason": reason})
        else:
            self._stop(reason)

    def _stop(self, reason: str) -> None:
        """Stop the run of all processes, and print why. Locust quits; with a web page it waits for another run."""
        self.facts.stopped_by = reason
        sys.stderr.write(f"{STOP_MARK}{reason}\n")
        sys.stderr.flush()
        self.environment.process_exit_code = COULD_NOT_RECORD
        gevent.spawn(self.runner.quit if get_options(self.environment).headless else self.runner.stop)

    # -------------------------------------------------------------- every second

    def _keep_flushing(self) -> None:
        """Each second, count the users and write the requests of this second; each five seconds, write the facts.

        Ends this process if its parent has ended.
        """
        next_flush = last_sample = time.monotonic()
        while True:
            # A flush that is late delays the next one, so that flushes do not pile up.
            next_flush = max(next_flush + FLUSH_S, time.monotonic())
            gevent.sleep(next_flush - time.monotonic())
            if self.parent_pid is not None and os.getppid() != self.parent_pid:
                self._end_orphan()
            if not self.running:
                continue
            self._count_users()
            if self.runner.user_count:
                self.users_seen = time.time()
            self._flush()
            if self.buffer.routed and not self.facts.stopped_by and (why := self.buffer.routed.explain_no_arm()):
                self._end_run(why)
            if time.monotonic() - last_sample >= SAMPLE_S:
                last_sample = time.monotonic()
                self.facts.cpu_percent = max(self.cpu.cpu_percent(), self.facts.cpu_percent or 0.0)
                if self.role == "worker":
                    self.runner.send_message("evaluator-clock", {"at": time.time()})
                self._write_facts()
            elif self.facts.users_stopped is not None:
                # Some users stop slowly: write what is known now, in case Locust does not wait for them.
                self._write_facts()

    def _flush(self) -> None:
        """Write the requests that wait in the buffer to the segment; without one (after an error), drop them."""
        if not len(self.buffer):
            return
        recording = self.recording
        if self.writer is None or recording is None:
            self.buffer.clear()
            return
        constants = {"run": recording.run, "service": recording.service, "worker": self.worker}
        try:
            self.writer.write(self.buffer.take(constants, self.users))
        except (OSError, ValueError, TypeError, OverflowError) as error:
            self._give_up(error)
            return
        self.facts.rows = self.writer.rows

    def _count_users(self) -> None:
        """Count the running users of each arm, over all processes; a master sends the counts to its workers."""
        if isinstance(self.runner, MasterRunner):
            counts = self._sum_by_arm(self.runner.reported_user_classes_count)
            self.runner.send_message("evaluator-users", dict(counts))
            self.users = counts
        elif isinstance(self.runner, WorkerRunner):
            # The counts of the master are a second old; a worker's own users are a current lower bound. `|` takes the
            # larger count of each arm.
            self.users |= self._sum_by_arm(self.runner.user_classes_count)
        else:
            self.users = self._sum_by_arm(self.runner.user_classes_count)

    def _sum_by_arm(self, counts: Mapping[str, int]) -> Counter[str]:
        """Sum the users of classes (by name) for each arm; a class without an arm of its own has that of the buffer.

        Behind a router users belong to no arm.
        """
        users: Counter[str] = Counter()
        if self.buffer.routed:
            return users
        for class_name, count in counts.items():
            users[self.arm_by_class.get(class_name) or self.buffer.arm] += count
        return users

    def _write_facts(self) -> None:
        """Bring the facts of this process up to date and write them into the run's folder."""
        facts = self.facts
        facts.read, facts.left_out = dict(self.buffer.read), self.buffer.left_out
        facts.in_flight = self.open_requests.list_in_flight()
        facts.router = self.buffer.routed.counts.facts if self.buffer.routed else None
        if self.lags_ms:
            facts.loop_lag_ms = round(float(np.percentile(self.lags_ms, 99)), 3)
        if self.role == "local":  # masters and workers set `counted` by the reports of the workers
            # With --reset-stats Locust's own count begins again after the start.
            facts.counted = None if self.environment.reset_stats else self.environment.stats.total.num_requests
            facts.workers_expected, facts.clock_offset_s = 1, 0.0  # no other process, so no other clock
        elif self.role == "master":
            connected = self.runner.worker_index_max if isinstance(self.runner, MasterRunner) else 0
            # Some may be missing, and more than expected may have come.
            facts.workers_expected = max(get_options(self.environment).expect_workers, connected)
            offsets_s = [abs(offset_s) for offset_s in self.clock_offsets_s.values()]
            facts.clock_offset_s = round(max(offsets_s), 4) if offsets_s else None
        if self.recording is None:
            return
        try:
            facts.write(self.recording.folder)
        except OSError as error:
            self._give_up(error)

    def _measure_lag(self) -> None:
        """Measure how much later than requested a sleep ends (ms): a busy process is late, also with its requests."""
        while True:
            before = time.perf_counter()
            gevent.sleep(LAG_STEP_S)
            if self.running:
                self.lags_ms.append((time.perf_counter() - before - LAG_STEP_S) * 1000)

    # -------------------------------------------------------------- other processes

    def _end_orphan(self) -> None:
        """End this process, whose parent has ended: in order if the load was over, else as an interrupted run."""
        if self.running and self.facts.users_stopped is not None:
            # The leader waited neither for users who stop slowly (--stop-timeout) nor for a report of their requests.
            self.facts.counted = (self.facts.counted or 0) + self.environment.stats.total.num_requests
            self._close()
            os._exit(0)
        self.facts.orphaned = True
        self.facts.stopped_by = self.facts.stopped_by or "the process that started the load has ended"
        if self.running:
            self._flush()
            self.open_requests.stop()
            self._write_facts()
        # An orderly shutdown would wait for the parent, which has ended.
        os._exit(COULD_NOT_RECORD)

    def _on_report(self, data: Mapping[str, Any], **_: Any) -> None:
        """Add up the requests since the last report of a worker, in the report `data`; worker and master both do so."""
        self.facts.counted = (self.facts.counted or 0) + int(data["stats_total"]["num_requests"])
        if self.role == "worker" and self.facts.ended is not None:
            self._write_facts()  # the last report comes after the end of the run

    def _on_users(self, msg: Any, **_: Any) -> None:
        self.users = Counter(msg.data)

    def _on_clock(self, msg: Any, **_: Any) -> None:
        """Compare a worker's time, sent in `msg`, with ours; the smallest offset counts, as each message takes time."""
        offset_s = time.time() - float(msg.data["at"])
        known_offset_s = self.clock_offsets_s.get(msg.node_id, offset_s)
        self.clock_offsets_s[msg.node_id] = min(offset_s, known_offset_s, key=abs)

    def _on_worker_gave_up(self, msg: Any, **_: Any) -> None:
        if not self.facts.stopped_by:
            self._stop(str(msg.data["reason"]))
