"""What records the data of the steps of a rollout: logs that are followed in threads, and loads in a child process."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from evaluator.errors import EvaluatorError, SourceError
from evaluator.guard.recognise import NO_SERVER
from evaluator.intents.rollout_plans import find_winner
from evaluator.intents.rollout_progress import fold
from evaluator.pipeline.tailing import StopRequest, TailPlan, tail_release
from evaluator.records import RunState
from evaluator.records.rollouts import EventKind, JudgedAt, Observe, Rollout, RolloutPlan, split_traffic
from evaluator.segments import data_folder, run_folder, to_folder_name
from evaluator.sources.access_logs.rollout_steps import RolloutStep, begin_step, read_steps
from evaluator.sources.access_logs.tail_state import read_tail_state
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

Say = Callable[[str], None]

RESTART_S = 5.0
"""Time before a log is followed again that could not be followed."""
MOST_LOADS = 3
"""How often a load is begun in all: it begins again at most twice."""
END_S = 20.0
"""How long the end of a log or a load is waited for."""
_ENDED_BY = "the end of the rollout's driver"
_CHANGES = (EventKind.BEGUN, EventKind.DONE)
"""Events of an act after which other servers may serve an arm."""


class LogInThread:
    """The log of one service, followed in a thread. After an error it is followed again."""

    def __init__(self, plan: TailPlan, since: float, say: Say) -> None:
        """`since`: when the rollout was started (epoch s): what an earlier rollout has followed is not continued."""
        self.plan, self.since, self.say = plan, since, say
        self.folder = run_folder(data_folder(plan.store_path), plan.release.id, "_").parent
        self.service = plan.settings.options.service
        self.problem = ""
        """Why the log is not followed now; empty: it is."""
        self.lines_before = 0
        """Lines that were read while other servers served the arms."""
        self._stop = StopRequest()
        self._thread: threading.Thread | None = None
        self._ended_at = 0.0

    def assign(self, arms: Mapping[str, Sequence[str]], since: float) -> None:
        """Say which servers serve which arm since a time (epoch s): the log is followed again where they are others.

        So a request counts for an arm by its server and the time, and one that began before for none.
        """
        patterns = {arm: tuple(names) or (NO_SERVER,) for arm, names in arms.items()}
        if patterns == self.plan.settings.options.arms:
            return
        self.lines_before += self.count_lines()
        self.end()
        options = replace(self.plan.settings.options, arms=patterns)
        self.plan = replace(self.plan, settings=replace(self.plan.settings, options=options))
        self.since, self._thread, self._stop = since, None, StopRequest()

    def ensure(self) -> None:
        """Follow the log in a thread, if none does."""
        is_running = self._thread is not None and self._thread.is_alive()
        if is_running or (self._thread is not None and time.monotonic() - self._ended_at < RESTART_S):
            return
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        """Follow the log until it is asked to end."""
        stop = self._stop
        state = read_tail_state(self.folder, self.service)
        is_continued = state is not None and state.started >= self.since
        try:
            tail_release(replace(self.plan, fresh=not is_continued), stop)
            self.problem = ""
        except (EvaluatorError, OSError) as error:
            self.problem = getattr(error, "message", "") or str(error)
            self.say(f"the log of {self.service or self.plan.release.id} cannot be followed: {self.problem}")
        finally:
            self._ended_at = time.monotonic()

    def is_followed(self) -> bool:
        """Is the log read, so that a step can begin?"""
        state = read_tail_state(self.folder, self.service)
        is_running = self._thread is not None and self._thread.is_alive()
        return is_running and state is not None and state.started >= self.since

    def count_lines(self) -> int:
        """Count the lines that were read of this rollout."""
        state = read_tail_state(self.folder, self.service)
        is_own = state is not None and state.started >= self.since
        return self.lines_before + (sum(run.counts.lines for run in state.runs) if state and is_own else 0)

    def find_step(self, name: str, begun_at: float) -> RolloutStep | None:
        """Find the step that was begun at a time or later; None: it was not yet."""
        steps = read_steps(self.folder, self.service)
        return next((step for step in steps if step.name == name and step.started >= begun_at - 1), None)

    def begin_step(self, step: Observe, winner: str) -> None:
        """Let the requests from now on belong to a step. `winner`: the arm that won; empty: none has."""
        shares = split_traffic(step, winner)
        seconds = step.bake_s or None
        begin_step(self.folder, self.service, step.name, shares=shares, seconds=seconds, now=time.time())

    def is_read_until(self, moment: float) -> bool:
        """Were all requests read that began before a moment (epoch s)?"""
        state = read_tail_state(self.folder, self.service)
        return state is not None and state.watermark is not None and state.watermark >= moment

    def end(self) -> None:
        """End following; it can be continued."""
        self._stop.add(_ENDED_BY)
        if self._thread is not None:
            self._thread.join(END_S)


class StepLoad:
    """The load of one step, in a child process. A child of a driver that was killed goes on, and is waited for."""

    def __init__(self, store: Store, rollout: Rollout, step: Observe, begun_at: float, policy_path: str) -> None:
        self.store, self.rollout, self.step, self.begun_at = store, rollout, step, begun_at
        self.policy_path = policy_path
        folder = run_folder(data_folder(store.path), rollout.release, "_").parent
        self._lock_path = folder / f"load-{to_folder_name(step.name)}.lock"
        self._log_path = folder / f"load-{to_folder_name(step.name)}.log"
        self._child: subprocess.Popen[bytes] | None = None
        self.failure = ""
        """Why the load cannot be run any more; empty: it can."""
        self.is_done = False

    def ensure(self) -> None:
        """Run the load, unless it runs or has been completed."""
        if self.is_done or self.failure or not self._has_ended():
            return
        groups = self._count_groups()
        if groups.get(RunState.COMPLETE):
            self.is_done = True
        elif sum(groups.values()) >= MOST_LOADS:
            self.failure = f"its load has failed {MOST_LOADS} times: {self._read_last_line()}"
        else:
            self._start()

    def _has_ended(self) -> bool:
        """Has every process ended that ran the load?"""
        if self._child is not None and self._child.poll() is None:
            return False
        try:
            with self._lock_path.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        return True

    def _count_groups(self) -> Mapping[RunState, int]:
        """Count the loads of this step since it was begun: state → how many; complete if all its runs are."""
        with suppress(EvaluatorError):  # nothing of the release is stored yet
            runs = [
                run
                for run in self.store.data.runs(self.rollout.release)
                if run.step == self.step.name and run.source == "locust" and run.started is not None
                and run.started.timestamp() >= self.begun_at - 1
            ]  # fmt: skip
            states: dict[str, list[RunState]] = {}
            for run in runs:
                states.setdefault(run.group, []).append(run.state)
            wanted = int((self.step.load or {}).get("replicates", 1))
            counts = {RunState.COMPLETE: 0, RunState.INCOMPLETE: 0}
            for of_group in states.values():
                is_complete = len(of_group) >= wanted and all(state is RunState.COMPLETE for state in of_group)
                counts[RunState.COMPLETE if is_complete else RunState.INCOMPLETE] += 1
            return counts
        return {}

    def _start(self) -> None:
        """Start the child, which keeps the lock as long as it lives. Raises SourceError."""
        try:
            self._lock_path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock_path.open("wb") as lock, self._log_path.open("ab") as log:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._child = _start_child(self._make_command(), lock, log)
        except OSError as error:
            raise SourceError(f"the load of {self.step.name} cannot be started: {error.strerror}") from error

    def _make_command(self) -> list[str]:
        """Write the command of the load."""
        load: Mapping[str, Any] = self.step.load or {}
        values = {
            "--store": str(self.store.path),
            "--policy": self.policy_path,
            "--locustfile": load["locustfile"],
            "--baseline": ",".join(load["baseline"]),
            "--canary": ",".join(load["canary"]),
            "--users": load["users"],
            "--spawn-rate": load["spawn_rate"],
            "--run-time": f"{_to_seconds(load['run_time']):g}s",
            "--replicates": load["replicates"],
            "--restart-command": load.get("restart", ""),
            "--service": self.step.services[0] if len(self.step.services) == 1 else "",
            "--step": self.step.name,
        }
        words = [word for name, value in values.items() if value != "" for word in (name, str(value))]
        # The policy of the start decides, whatever the file says now.
        sensitive = ["--sensitive"] if self.rollout.policy.get("sensitive") else []
        return [sys.executable, "-m", "evaluator", "load", self.rollout.release, *words, *sensitive]

    def _read_last_line(self) -> str:
        """Read the last line that the child wrote."""
        try:
            lines = self._log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return "it wrote nothing"
        errors = [line for line in lines if line.startswith("Error:")]
        return (errors or lines or ["it wrote nothing"])[-1].removeprefix("Error: ")[:300]

    def end(self) -> None:
        """End the load of this process, if it runs."""
        if self._child is None or self._child.poll() is not None:
            return
        self._child.send_signal(signal.SIGINT)
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()


def _start_child(command: list[str], lock: IO[bytes], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; Ctrl-C of the terminal does not reach it."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(lock.fileno(),), start_new_session=True,
        env={**os.environ},
    )  # fmt: skip


def _to_seconds(value: Any) -> float:
    """Turn a duration of the plan into seconds: a number, or a text such as `5m`."""
    from evaluator.quantities import parse_duration_s

    return float(value) if isinstance(value, int | float) else parse_duration_s(value)


class StepRecorder:
    """All that records the data of one rollout."""

    def __init__(
        self,
        store: Store,
        rollout: Rollout,
        plan: RolloutPlan,
        logs: Mapping[str, TailPlan],
        policy_path: str,
        say: Say,
    ) -> None:
        """`logs`: service → how its log is followed. `policy_path`: of the file that loads use; empty: none."""
        since = rollout.started_at.timestamp() - 1
        self.store, self.rollout, self.plan, self.policy_path = store, rollout, plan, policy_path
        self.logs = {service: LogInThread(plan, since, say) for service, plan in logs.items()}
        self.loads: dict[int, StepLoad] = {}

    def follow(self) -> None:
        """Follow the logs, because users are exposed."""
        self._assign_arms()
        for log in self.logs.values():
            log.ensure()

    def _assign_arms(self) -> None:
        """Say which servers serve which arm now, where instances are replaced. Raises StoreError."""
        if not self.plan.replaces_instances:
            return
        events = Rollouts(self.store.control.file).events(self.rollout.id)
        position = fold(self.plan, events).position(self.plan)
        for service, log in self.logs.items():
            changed = self.plan.find_change_of_arms(position, service)
            if changed is None:
                continue
            begun = [event.at for event in events if event.step == changed and event.kind in _CHANGES]
            log.assign(self.plan.find_arms(position, service), begun[-1] if begun else log.since)

    def ensure(self, position: int, step: Observe, begun_at: float) -> None:
        """Let the data of a step be recorded. Called again, it changes nothing. Raises EvaluatorError."""
        if step.load is not None:
            if position not in self.loads:
                self.loads[position] = StepLoad(self.store, self.rollout, step, begun_at, self.policy_path)
            self.loads[position].ensure()
            return
        self._assign_arms()
        for log in self._list_logs(step):
            log.ensure()
            if log.is_followed() and log.find_step(step.name, begun_at) is None:
                log.begin_step(step, find_winner(Rollouts(self.store.control.file).events(self.rollout.id)))

    def is_closed(self, position: int, step: Observe, look: JudgedAt, begun_at: float) -> bool:
        """Are all data of a look recorded?"""
        if step.load is not None:
            return position in self.loads and self.loads[position].is_done
        seconds = step.deadline_s if look is JudgedAt.DEADLINE else step.bake_s
        for log in self._list_logs(step):
            begun = log.find_step(step.name, begun_at)
            if begun is None or not log.is_read_until(begun.started + seconds):
                return False
        return True

    def explain_failure(self, position: int, step: Observe) -> str:
        """Say why a step cannot be observed any more; empty if it can."""
        return self.loads[position].failure if step.load is not None and position in self.loads else ""

    def find_problem(self) -> str:
        """Say why logs are not read; empty if they are."""
        return "; ".join(log.problem for log in self.logs.values() if log.problem)

    def count_lines(self) -> Mapping[str, int]:
        """Count the lines of each service's log."""
        return {service: log.count_lines() for service, log in self.logs.items()}

    def end(self) -> None:
        """End what is recorded, in order."""
        for load in self.loads.values():
            load.end()
        for log in self.logs.values():
            log.end()

    def _list_logs(self, step: Observe) -> list[LogInThread]:
        """List the logs of the services of a step."""
        return [self.logs[service] for service in step.services if service in self.logs]


def find_log_folder(store: Path, release: str) -> Path:
    """Folder of the release next to a store, where its followed logs have their state."""
    return run_folder(data_folder(store), release, "_").parent
