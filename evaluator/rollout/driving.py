"""The process that drives a rollout: it reads the events, decides, does it, and adds what happened as an event.

`begun` is written before anything acts, and each effect has the key of its step. So a driver may be killed at any
moment: the next one reads the same events, and goes on without a step lost or an acknowledged hook repeated.

While users are exposed it renews the lease of the guard each second, whatever else it does (`watching.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from evaluator.errors import EvaluatorError, StoreBusy, StoreError
from evaluator.intents.rollout_progress import RolloutProgress, StepState, fold, follow
from evaluator.records import CANDIDATE
from evaluator.records.rollouts import Act, Event, EventKind, Observe, RolloutOutcome, RolloutPlan, StepNeeds, StopCause
from evaluator.rollout.collaborators import ActResult, Collaborators, PendingCall
from evaluator.rollout.deciding import Decision, Todo, decide
from evaluator.rollout.describing import describe_event, describe_now, write_ways_on
from evaluator.rollout.watching import RolloutWatch, is_at_candidate
from evaluator.wording import quote_command

POLL_S = 1.0
RETRY_S = 5.0
"""Time between two attempts of an act that failed."""
CLOSING_S = 120.0
"""How long the end of a step is waited for after its time: requests that are running have to end, and to be read."""
GIVE_UP_S = 30.0
"""How long the return is tried again where nothing can be written any more, and the end of the guard's watch."""

T = TypeVar("T")

_ENDS = {"done": EventKind.DONE, "failed": EventKind.FAILED, "unknown": EventKind.UNKNOWN}


class DriverStopped(Exception):
    """The driver was asked to end. The rollout has not ended."""


class Driver:
    """Drives one rollout. It holds no connection to the store while it waits."""

    def __init__(self, plan: RolloutPlan, parts: Collaborators, stop: threading.Event) -> None:
        """`stop`: when it is set, the driver ends after the act that is being executed."""
        self.plan, self.parts, self.stop = plan, parts, stop
        self.watch = RolloutWatch(plan, parts, self._add)
        self._read = 0
        """How many events were read."""
        self._written: list[Event] = []
        """Events of this driver that were not read back yet."""
        self._said: set[str] = set()
        """Problems that were shown already, so that each is shown once."""
        self._progress: RolloutProgress | None = None
        """How far it was, as it was read or written last; None: that is not known yet."""

    def drive(self) -> RolloutOutcome:
        """Drive the rollout to its end, and return how it ended.

        Raises DriverStopped, and StoreError where the events cannot be written for longer than the lease: then the
        traffic is at the baseline again.
        """
        try:
            self._begin()
            while True:
                progress = self._read_progress()
                if self._collect_answers(progress):
                    continue
                if self.watch.look(progress):
                    progress = self._read_progress()  # what was added may change what to do
                decision = decide(self.plan, progress, self.parts.clock.now())
                if decision.todo is Todo.NOTHING and progress.outcome is not None:
                    return progress.outcome
                self._check_stop()
                self._do(decision, progress)
        finally:
            self.parts.observing.end()

    # ------------------------------------------------------------------ the begin

    def _begin(self) -> None:
        """Look whether the plan is what was started, and let the guard watch. A rollout that cannot go on goes back."""
        events = self._use_store(self.parts.events.read)
        self._read = len(events)
        self._progress = progress = fold(self.plan, events)
        if progress.outcome is not None or progress.going_back:
            return
        self.watch.check_clock_since(progress, max((event.at for event in events), default=0.0))
        if not self.plan.has_shift or progress.confirmed:
            return
        try:
            self.parts.traffic.open()
        except EvaluatorError as error:
            self._add(Event(EventKind.STOPPED, self.parts.clock.now(), text=f"no guard can watch it: {error.message}"))

    # ------------------------------------------------------------------ what to do

    def _do(self, decision: Decision, progress: RolloutProgress) -> None:
        """Do what was decided."""
        changed = ""
        if decision.todo in (Todo.EXECUTE, Todo.PASS, Todo.JUDGE) and not progress.going_back:
            changed = self._find_change()
        if changed:
            self._stop_rollout(progress, changed, StopCause.FAILURE)
            return
        match decision.todo:
            case Todo.EXECUTE:
                self._execute(decision, progress)
            case Todo.OBSERVE:
                self._add_of_step(EventKind.BEGUN, decision)
            case Todo.JUDGE:
                self._judge(decision, progress)
            case Todo.PASS:
                self._add_of_step(EventKind.DONE, decision, text=decision.why)
            case Todo.ASK:
                request = self._call(lambda: self.parts.effects.ask(decision.step, decision.why))
                self._add_of_step(EventKind.ASKED, decision, text=decision.why)
                agree, decline = quote_command("approve", request), quote_command("reject", request)
                self.parts.report.say(f"to answer: `{agree}`, or `{decline}`")
            case Todo.STOP:
                self._stop_rollout(progress, decision.why, decision.cause)
            case Todo.RETURN:
                self._return(decision.why, progress)
            case Todo.UNDO:
                self._undo(decision.why, progress)
            case Todo.READ_BACK:
                self._read_back(progress.winner or CANDIDATE)
            case Todo.END:
                self._end(decision)
            case _:
                self._wait(decision, progress)

    def _execute(self, decision: Decision, progress: RolloutProgress) -> None:
        """Execute an act, again while it fails and may be tried again, and write how it ended."""
        position = decision.step
        act = self.plan.steps[position]
        if not isinstance(act, Act):
            raise TypeError(f"{act.name} is no act")
        begun_at = progress.begun_at if progress.states[position] is StepState.BEGUN else None
        if begun_at is None:
            begun_at = self.parts.clock.now()
            self._add_of_step(EventKind.BEGUN, decision)
        is_again = progress.states[position] is StepState.FAILED
        while True:
            result = self._call_act(partial(self.parts.effects.execute, position, again=is_again))
            left_s = begun_at + act.retry_for_s - self.parts.clock.now()
            if result.state != "waiting" and not (result.state == "failed" and left_s > 0):
                break
            if result.text:
                self._say_once(f"{act.name}: {result.text}; it is tried again")
            if self._is_turned_back_at(position):
                result = ActResult("failed", result.text or "the rollout goes back")
                break
            self._pause(POLL_S if result.state == "waiting" else min(RETRY_S, left_s))
            is_again = result.state == "failed"
        self._add_of_step(_ENDS[result.state], decision, text=result.text)

    def _call_act(self, call: Callable[[], ActResult]) -> ActResult:
        """Make a call that executes hooks; an error before anything was executed is a failure."""
        try:
            return self._call(call)
        except StoreBusy as error:
            return ActResult("waiting", error.message)
        except EvaluatorError as error:
            return ActResult("failed", error.message)

    def _judge(self, decision: Decision, progress: RolloutProgress) -> None:
        """Judge an observation once all its data are there, and write what it has shown."""
        step = self.plan.steps[decision.step]
        if not isinstance(step, Observe):
            raise TypeError(f"{step.name} is no observation")
        if step.needs is StepNeeds.NOTHING:
            self._add_of_step(EventKind.JUDGED, decision, look=decision.look, text="it needs nothing")
            return
        clock, begun_at = self.parts.clock, progress.begun_at or 0.0
        closing_until = clock.monotonic() + CLOSING_S
        while True:
            if not self._ensure_observed(decision.step, step, begun_at):
                return
            if self.parts.observing.is_closed(decision.step, step, decision.look, begun_at):
                break
            if step.load is None and clock.monotonic() >= closing_until:
                break  # it is judged as it is: what is missing never shows that there is no harm
            now = describe_now(self.plan, progress, decision, clock.now(), ("requests that have not ended yet",))
            self.parts.report.show(now)
            self._pause(POLL_S)
            if self._has_moved_on(decision.step):
                return
        self._add_judgement(decision, step)

    def _add_judgement(self, decision: Decision, step: Observe) -> None:
        """Judge an observation and add the event. What cannot be judged has shown nothing.

        Without the store it has failed: nothing would find a NO-GO until its deadline.
        """
        started = self.parts.clock.monotonic()
        while True:
            try:
                found = self._call(lambda: self.parts.judge.judge(decision.step, decision.look))
            except EvaluatorError as error:
                is_late = self.parts.clock.monotonic() - started >= self.plan.lease_s
                if isinstance(error, StoreBusy) and not is_late:
                    self._say_once(f"{step.name} is not judged yet: {error.message}")
                    self._pause(POLL_S)
                    continue
                text = f"it cannot be judged: {error.message}"
                if isinstance(error, StoreError):
                    self._add(Event(EventKind.FAILED, self.parts.clock.now(), decision.step, text=text))
                    return
                self._add_of_step(EventKind.JUDGED, decision, look=decision.look, verdict="inconclusive", text=text)
                return
            self._add_of_step(
                EventKind.JUDGED, decision, look=decision.look, verdict=str(found.word), no_harm=found.no_harm,
                data_hash=found.data_hash, text="; ".join(found.missing), note=found.note, arm=found.arm,
                is_sound=found.is_sound,
            )  # fmt: skip
            return

    def _wait(self, decision: Decision, progress: RolloutProgress) -> None:
        """Wait a moment, and let the current observation be recorded meanwhile."""
        clock = self.parts.clock
        step = self.plan.steps[decision.step] if 0 <= decision.step < len(self.plan.steps) else None
        if (
            isinstance(step, Observe)
            and progress.begun_at is not None
            and progress.asked_at is None
            and not self._ensure_observed(decision.step, step, progress.begun_at)
        ):
            return
        self.parts.report.show(describe_now(self.plan, progress, decision, clock.now(), self.watch.missing))
        seconds = POLL_S if decision.until is None else min(POLL_S, max(decision.until - clock.now(), 0.01))
        self._pause(seconds, look=False)

    def _ensure_observed(self, position: int, step: Observe, begun_at: float) -> bool:
        """Let an observation be recorded. Returns whether it is; otherwise it has failed, which is written."""
        try:
            self.parts.observing.ensure(position, step, begun_at)
            failure = self.parts.observing.explain_failure(position, step)
        except EvaluatorError as error:
            failure = error.message
        if failure:
            self._add(Event(EventKind.FAILED, self.parts.clock.now(), position, text=failure))
        return not failure

    # ------------------------------------------------------------------ back, and the end

    def _stop_rollout(self, progress: RolloutProgress, why: str, cause: StopCause | None) -> None:
        """Go back. Traffic returns before that is written: a disk that is full must not keep users at the candidate.

        Where only a person may turn it back, it is held.
        """
        if problem := progress.explain_no_return(self.plan):
            self._hold(f"{why}; {problem}")
            return
        if progress.was_shifted(self.plan) and self._has_guard(progress):
            with suppress(EvaluatorError):  # it is tried again
                self.parts.traffic.back(why, "driver")
        self._add(Event(EventKind.STOPPED, self.parts.clock.now(), text=why, cause=cause))

    def _has_guard(self, progress: RolloutProgress) -> bool:
        """Can the guard return users? Not to old instances, once all were replaced for good and its watch has ended."""
        return not (self.plan.replaces_instances and progress.confirmed)

    def _hold(self, why: str) -> None:
        """Hold a rollout until a person decides, and say by which commands."""
        self._add(Event(EventKind.HELD, self.parts.clock.now(), text=why))
        self.parts.report.say(write_ways_on(self.plan, self._read_progress()))

    def _return(self, why: str, progress: RolloutProgress) -> None:
        """Return the traffic once; if that fails, the next decision is the same."""
        problem = ""
        if not self._has_guard(progress):
            text = "all instances have the new version, and are restored one batch after the other"
            self._add(Event(EventKind.KEPT, self.parts.clock.now(), text=text))
            return
        try:
            status = self.parts.traffic.back(why, "driver")
            if status.is_returned:
                self._add(Event(EventKind.RETURNED, self.parts.clock.now(), text=status.counted))
                return
            if status.kept:
                self._add(Event(EventKind.KEPT, self.parts.clock.now(), text=status.kept))
                return
        except EvaluatorError as error:
            problem = error.message
        if problem and problem not in self._said:
            self._said.add(problem)
            self._add(Event(EventKind.RETURN_FAILED, self.parts.clock.now(), text=problem))
        self.parts.clock.wait(POLL_S)

    def _undo(self, why: str, progress: RolloutProgress) -> None:
        """Undo all acts by a rollback of the release.

        Where they may have taken down the servers of the baseline, that rollback also returns the users, once it is
        known that the baseline serves. If the routers do not say afterwards that they are there, people decide.
        """
        self._add(Event(EventKind.UNDO_BEGUN, self.parts.clock.now()))
        while (result := self._call_act(lambda: self.parts.effects.roll_back(why))).state == "waiting":
            self._say_once(f"the acts are not undone yet: {result.text}")
            self._pause(POLL_S)
        if progress.kept and result.state != "done":  # users may be at instances that are not restored
            self._hold(f"not all instances are restored: {result.text}")
            return
        if progress.taken_down_by:
            if problem := self._explain_not_returned():
                self._hold(f"the acts are not undone: {result.text or problem}")
                return
            self._add(Event(EventKind.RETURNED, self.parts.clock.now()))
        kind = EventKind.UNDONE if result.state == "done" else EventKind.UNDO_FAILED
        self._add(Event(kind, self.parts.clock.now(), text=result.text))

    def _explain_not_returned(self) -> str:
        """Say that users are not at the baseline as the routers say; empty if they are. It changes nothing."""
        try:
            return self.parts.traffic.explain_not_returned()
        except EvaluatorError as error:
            return error.message

    def _read_back(self, arm: str) -> None:
        """Ask the routers whether a candidate has all traffic; then the guard has nothing more to watch."""
        now = self.parts.clock.now()
        try:
            status = self.parts.traffic.renew()
        except EvaluatorError as error:
            self._say_once(f"the shares cannot be read back: {error.message}")
            self.parts.clock.wait(POLL_S)
            return
        if problem := is_at_candidate(self.plan, status.realised, arm):
            self._add(Event(EventKind.DRIFTED, now, text=problem))
            # The guard sets the shares again at its next look at the router.
            until = self.parts.clock.monotonic() + self.plan.guard.health_s + POLL_S
            while self.parts.clock.monotonic() < until and not self._read_progress().going_back:
                self._pause(POLL_S)
            return
        # From now on an end of the driver must not give users back to servers that final acts take down.
        try:
            self.parts.traffic.close(promoted=True)
        except EvaluatorError as error:
            self._say_once(f"the watch of the guard has not ended, so what comes last waits: {error.message}")
            self._pause(POLL_S)
            return
        text = "; ".join(filter(None, (f"all traffic is at {arm}", status.counted)))
        self._add(Event(EventKind.READ_BACK, now, text=text))

    def _end(self, decision: Decision) -> None:
        """End the rollout. A guard that goes on watching would undo what others do with the traffic later."""
        clock = self.parts.clock
        until = clock.monotonic() + GIVE_UP_S
        while decision.outcome is not RolloutOutcome.PROMOTED:  # then the watch has ended before
            try:
                self.parts.traffic.close(promoted=False)
                break
            except EvaluatorError as error:
                self._say_once(f"the watch of the guard has not ended: {error.message}")
                if clock.monotonic() >= until:
                    break
                clock.wait(POLL_S)
        winner = self._progress.winner if self._progress and decision.outcome is RolloutOutcome.PROMOTED else ""
        self._add(Event(EventKind.ENDED, self.parts.clock.now(), outcome=decision.outcome, arm=winner))

    # ------------------------------------------------------------------ what people say

    def _collect_answers(self, progress: RolloutProgress) -> bool:
        """Add what people answered since the last look. Returns whether there was anything."""
        position = progress.position(self.plan)
        if progress.asked_at is None or progress.going_back or progress.outcome is not None:
            return False
        try:
            answers = self.parts.effects.read_answers(position)
            result = ActResult("unknown")
            if progress.states[position] is StepState.UNKNOWN:
                result = self.parts.effects.read_result(position)
        except EvaluatorError as error:
            self._say_once(f"the answers cannot be read: {error.message}")
            return False
        now = self.parts.clock.now()
        events = [
            Event(EventKind.AGREED, now, position, person=person)
            for person in answers.agreed
            if person not in progress.agreed
        ]
        if answers.declined_by and not progress.declined_by:
            events.append(Event(EventKind.DECLINED, now, position, person=answers.declined_by))
        if result.state in ("done", "failed"):
            events.append(Event(_ENDS[result.state], now, position, person=result.person, text=result.text))
        for event in events:
            self._add(event)
        return bool(events)

    # ------------------------------------------------------------------ the store, and waiting

    def _read_progress(self) -> RolloutProgress:
        """Read how far the rollout is, and show what others have added: people who hold it, or let it go on."""
        events = self._use_store(self.parts.events.read)
        for event in events[self._read :]:
            if event in self._written:
                self._written.remove(event)
            else:
                self.parts.report.say(describe_event(self.plan, event))
        self._read = len(events)
        self._progress = fold(self.plan, events)
        return self._progress

    def _is_turned_back_at(self, position: int) -> bool:
        """Does the rollout go back, and is this step none of the final ones, which are executed all the same?"""
        return position < self.plan.body and self._read_progress().going_back

    def _has_moved_on(self, position: int) -> bool:
        """Is a step no more the current one, or does the rollout go back?"""
        progress = self._read_progress()
        return progress.going_back or progress.position(self.plan) != position

    def _find_change(self) -> str:
        """Say what of the plan or the decisions is not what was written; empty if all is, or if that is not known."""
        try:
            return self.parts.events.find_change()
        except (StoreError, OSError) as error:
            self._say_once(f"the decisions cannot be checked: {error}")
            return ""

    def _add_of_step(self, kind: EventKind, decision: Decision, **values: Any) -> None:
        """Add an event of the step of a decision."""
        self._add(Event(kind, self.parts.clock.now(), decision.step, **values))

    def _add(self, event: Event) -> None:
        """Add an event, and show it."""
        self._use_store(lambda: self.parts.events.add(event))
        self._written.append(event)
        self._progress = follow(self.plan, self._progress, event) if self._progress else None
        self.parts.report.say(describe_event(self.plan, event))

    def _use_store(self, call: Callable[[], T]) -> T:
        """Read or write events; again, with the lease renewed, for as long as the lease. Then go back.

        Raises StoreError after that.
        """
        clock = self.parts.clock
        since = clock.monotonic()
        while True:
            try:
                return call()
            except (StoreError, OSError) as error:
                if clock.monotonic() - since >= self.plan.lease_s:
                    self._go_back_without_store(error)
                    raise
                self._say_once(f"the decisions cannot be used, and it is tried again: {error}")
                with suppress(EvaluatorError):
                    self.parts.traffic.renew()
                clock.wait(POLL_S)
                self._check_stop()

    def _go_back_without_store(self, error: Exception) -> None:
        """Return the traffic where nothing can be written any more."""
        clock = self.parts.clock
        until = clock.monotonic() + GIVE_UP_S
        why = f"the decisions could not be used for longer than the lease: {error}"
        no_return = "it is not known how far it is; a guard that watches returns the traffic"
        if self._progress is not None:
            no_return = self._progress.explain_no_return(self.plan)
        if no_return:
            self.parts.report.say(f"the driver ends here, because {why}; {no_return}")
            return
        while self.plan.has_shift and clock.monotonic() < until:
            with suppress(EvaluatorError):
                if self.parts.traffic.back(why, "driver").is_returned:
                    self.parts.report.say(f"traffic is at the baseline again, because {why}")
                    return
            clock.wait(POLL_S)
        self.parts.report.say(f"the rollout ends here, because {why}")

    def _call(self, call: Callable[[], T]) -> T:
        """Make a call that may take long, and watch the rollout meanwhile."""
        pending: PendingCall = self.parts.start_call(call)
        while not pending.has_ended(POLL_S):
            self.watch.look(self._read_progress())
        result: T = pending.result()
        return result

    def _pause(self, seconds: float, *, look: bool = True) -> None:
        """Wait, and watch the rollout. Raises DriverStopped."""
        self.parts.clock.wait(seconds)
        self._check_stop()
        if look:
            self.watch.look(self._read_progress())

    def _check_stop(self) -> None:
        """Raise DriverStopped if the driver is to end."""
        if self.stop.is_set():
            raise DriverStopped

    def _say_once(self, text: str) -> None:
        """Show a sentence, unless it was shown already."""
        if text not in self._said:
            self._said.add(text)
            self.parts.report.say(text)
