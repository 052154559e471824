"""What a driver looks at each second: the guard, the clock, the data of users, and verdicts of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress

from evaluator.errors import EvaluatorError
from evaluator.intents.rollout_progress import MAY_HAVE_ACTED, RolloutProgress
from evaluator.records.rollouts import Act, Event, EventKind, JudgedAt, Observe, RolloutPlan, StepNeeds, StopCause
from evaluator.rollout.collaborators import Collaborators, PendingCall, TrafficStatus
from evaluator.wording import format_duration

CLOCK_JUMP_S = 60.0
"""A clock that was set by more than this turns a rollout back, or holds it while no user meets the candidate."""
BUCKET_S = 15.0
"""Requests of users are summed up in parts of this length."""
SILENT_BUCKETS = 5
"""Without a line of the log in so many parts, a rollout with users goes back."""
MEANWHILE_S = 60.0
"""Time between two judgements before the end of a step, at least."""
MEANWHILE_FACTOR = 5.0
"""It is judged for at most a sixth of the time: the next judgement waits for this many times what the last one took."""
VERDICTS_S = 5.0
"""Time between two looks at verdicts of others."""
LONGEST_POLL_S = 5.0
"""What is counted of the time between two looks: a process that stood still has not looked, and knows of no silence."""
_PROCESSES = ("", "guard", "driver", "lease")
"""Who lets traffic go back where no person does."""
_CAUSES = {"guard": StopCause.GUARD}
"""Who lets traffic go back → why, where that is known by who it is."""


class RolloutWatch:
    """What one driver has seen. `add`: adds an event."""

    def __init__(self, plan: RolloutPlan, parts: Collaborators, add: Callable[[Event], None]) -> None:
        self.plan, self.parts, self._add_event = plan, parts, add
        self.missing: tuple[str, ...] = ()
        """What the newest judgement found missing, as sentences."""
        self._clock_offset: float | None = None
        """Time of the clock minus that which never goes back."""
        self._no_guard_since: float | None = None
        self._is_drifted = False
        """Did the guard report a drift at the last look?"""
        self._lines: Mapping[str, int] = {}
        self._silent_s: dict[str, float] = {}
        self._looked_at: float | None = None
        self._verdicts_at = -math.inf
        self._judging: PendingCall | None = None
        self._judged_step = -1
        self._judging_began = 0.0
        self._next_judgement = math.inf
        self._added = False

    def look(self, progress: RolloutProgress) -> bool:
        """Look at everything once. Returns whether an event was added."""
        self._added = False
        if progress.outcome is not None:
            return False
        now = self.parts.clock.monotonic()
        passed_s = 0.0 if self._looked_at is None else min(now - self._looked_at, LONGEST_POLL_S)
        self._looked_at = now
        self._check_clock(progress)
        # Before the first shift, too: the guard keeps what it has tried, and knows that the driver is there.
        is_watched = self.plan.has_shift and not progress.confirmed and not progress.returned
        if is_watched and (not progress.going_back or progress.was_shifted(self.plan)):
            self._look_at_guard(progress)
        # What comes last may take down the baseline: nothing but a failed act or a person turns it back then.
        if progress.going_back or progress.confirmed or self._added:
            return self._added
        if progress.exposed(self.plan) > 0:
            self._look_for_silence(progress, passed_s)
        if not self._added:
            self._look_at_verdicts(progress)
        if not self._added:
            self._judge_meanwhile(progress)
        return self._added

    def _add(self, event: Event) -> None:
        """Add an event."""
        self._added = True
        self._add_event(event)

    def _stop(self, progress: RolloutProgress, why: str, cause: StopCause = StopCause.FAILURE) -> None:
        """Go back: traffic first, then the event. Where only a person may turn it back, it is held.

        What is held for that reason is held already: it is not written each second.
        """
        if problem := progress.explain_no_return(self.plan):
            if not progress.held:
                self._add(Event(EventKind.HELD, self.parts.clock.now(), text=f"{why}; {problem}"))
            return
        if progress.was_shifted(self.plan):
            with suppress(EvaluatorError):
                self.parts.traffic.back(why, "driver")
        self._add(Event(EventKind.STOPPED, self.parts.clock.now(), text=why, cause=cause))

    # ------------------------------------------------------------------ the clock

    def check_clock_since(self, progress: RolloutProgress, newest: float) -> None:
        """Act if the clock is before the newest event of the rollout (s since 1970): deadlines would come too late."""
        back_s = newest - self.parts.clock.now()
        if back_s > CLOCK_JUMP_S:
            self._act_on_clock(progress, f"was set back by {format_duration(round(back_s))}")

    def _check_clock(self, progress: RolloutProgress) -> None:
        """Act if the clock was set: times of steps, and of requests, then mean something else."""
        offset = self.parts.clock.now() - self.parts.clock.monotonic()
        before, self._clock_offset = self._clock_offset, offset
        if before is None or progress.going_back or abs(offset - before) <= CLOCK_JUMP_S:
            return
        direction = "back" if offset < before else "forward"
        self._act_on_clock(progress, f"was set {direction} by {format_duration(round(abs(offset - before)))}")

    def _act_on_clock(self, progress: RolloutProgress, what: str) -> None:
        """Go back while a part of the users meets the candidate, since what they get is not known; else hold."""
        text = f"the clock of this machine {what}"
        if progress.exposed(self.plan) > 0 and not progress.confirmed:
            self._stop(progress, text)
            return
        held = f"{text}; check it, then let the rollout continue"
        self._add(Event(EventKind.HELD, self.parts.clock.now(), text=held))

    # ------------------------------------------------------------------ the guard

    def _look_at_guard(self, progress: RolloutProgress) -> None:
        """Renew the lease, and write what the guard reports."""
        clock = self.parts.clock
        try:
            status = self.parts.traffic.renew()
        except EvaluatorError as error:
            if self._no_guard_since is None:
                self._no_guard_since = clock.monotonic()
                self.parts.report.say(f"the guard does not answer: {error.message}")
            is_late = clock.monotonic() - self._no_guard_since >= self.plan.lease_s
            if is_late and not progress.going_back:
                self._stop(progress, f"the guard does not answer: {error.message}")
            return
        self._no_guard_since = None
        if status.is_back:
            self._follow_guard_back(progress, status)
        elif not progress.going_back:
            self._look_for_drift(progress, status)

    def _follow_guard_back(self, progress: RolloutProgress, status: TrafficStatus) -> None:
        """Write that the guard has returned the traffic, or does so."""
        now = self.parts.clock.now()
        if not progress.going_back:
            is_person = status.by not in _PROCESSES
            text = status.why_back if is_person or status.by == "driver" else f"{status.by}: {status.why_back}"
            held = progress.held and progress.explain_no_return(self.plan)
            if not held:  # otherwise that is written already
                cause = StopCause.PEOPLE if is_person else _CAUSES.get(status.by, StopCause.FAILURE)
                self._add(Event(EventKind.STOPPED, now, person=status.by if is_person else "", text=text, cause=cause))
        elif status.is_returned and progress.was_shifted(self.plan):
            self._add(Event(EventKind.RETURNED, now, text=status.counted))
        elif status.kept and not progress.kept and progress.was_shifted(self.plan):
            self._add(Event(EventKind.KEPT, now, text=status.kept))

    def _look_for_drift(self, progress: RolloutProgress, status: TrafficStatus) -> None:
        """Write each drift once; the guard sets the shares again. The second one turns the rollout back (`decide`)."""
        is_new = status.drift and not self._is_drifted
        self._is_drifted = bool(status.drift)
        if is_new and progress.exposed(self.plan) > 0:
            self._add(Event(EventKind.DRIFTED, self.parts.clock.now(), text=status.drift))

    # ------------------------------------------------------------------ data

    def _look_for_silence(self, progress: RolloutProgress, passed_s: float) -> None:
        """Go back if the log of a service whose users are exposed has had no line for too long."""
        self.parts.observing.follow()
        lines = self.parts.observing.count_lines()
        problem = self.parts.observing.find_problem()
        for service in _list_exposed(self.plan, progress):
            count = lines.get(service, 0)
            is_new = count != self._lines.get(service, 0)
            self._silent_s[service] = 0.0 if is_new else self._silent_s.get(service, 0.0) + passed_s
            if self._silent_s[service] >= SILENT_BUCKETS * BUCKET_S and not self._added:
                silence = format_duration(SILENT_BUCKETS * BUCKET_S)
                why = f": {problem}" if problem else ""
                self._stop(progress, f"the log of {service} has had no request for {silence}{why}")
        self._lines = dict(lines)

    def _look_at_verdicts(self, progress: RolloutProgress) -> None:
        """Go back if others have judged the release NO-GO since the rollout began, also between two steps."""
        now = self.parts.clock.monotonic()
        position = progress.position(self.plan)
        if now - self._verdicts_at < VERDICTS_S or position >= self.plan.body:
            return
        self._verdicts_at = now
        try:
            found = self.parts.judge.find_no_go(progress.no_go_since)
        except EvaluatorError:  # what cannot be read now is read the next time
            return
        if found:
            self._stop(progress, found, StopCause.NO_GO)

    def _judge_meanwhile(self, progress: RolloutProgress) -> None:
        """Judge the current observation of users about each minute; before its end, only a NO-GO counts."""
        clock, position = self.parts.clock, progress.position(self.plan)
        step = self.plan.steps[position] if position < self.plan.body else None
        is_judged = (
            isinstance(step, Observe)
            and step.load is None
            and step.needs is not StepNeeds.NOTHING
            and progress.begun_at is not None
        )
        if position != self._judged_step:
            self._judged_step, self._judging, self.missing = position, None, ()
            self._next_judgement = clock.monotonic() + MEANWHILE_S
        if self._judging is not None:
            self._take_judgement(position)
        elif is_judged and clock.monotonic() >= self._next_judgement:
            self._judging_began = clock.monotonic()
            self._judging = self.parts.start_call(lambda: self.parts.judge.judge(position, JudgedAt.MEANWHILE))

    def _take_judgement(self, position: int) -> None:
        """Take the result of a judgement that was started, if it has ended."""
        clock = self.parts.clock
        if self._judging is None or not self._judging.has_ended(0.0):
            return
        pending, self._judging = self._judging, None
        took_s = clock.monotonic() - self._judging_began
        self._next_judgement = clock.monotonic() + max(MEANWHILE_S, MEANWHILE_FACTOR * took_s)
        try:
            found = pending.result()
        except EvaluatorError as error:
            self.missing = (error.message,)
            return
        self.missing = found.missing
        if str(found.word) == "no_go":
            self._add(
                Event(
                    EventKind.JUDGED, clock.now(), position, verdict=str(found.word), data_hash=found.data_hash,
                    text="; ".join(found.missing),
                )
            )  # fmt: skip


def _list_exposed(plan: RolloutPlan, progress: RolloutProgress) -> list[str]:
    """List the services whose users may meet the candidate now."""
    return [
        service
        for service in plan.services
        if any(
            isinstance(step, Act) and step.is_shift and service in step.services and state in MAY_HAVE_ACTED
            for step, state in zip(plan.steps, progress.states, strict=True)
        )
    ]


def is_at_candidate(plan: RolloutPlan, realised: Mapping[str, Mapping[str, float]], arm: str) -> str:
    """Say which services do not give all traffic to an arm; empty if all do."""
    shifted = [
        service
        for service in plan.services
        if any(isinstance(step, Act) and step.is_shift and service in step.services for step in plan.steps)
    ]
    return ", ".join(
        f"{arm} of {service} has {100 * realised.get(service, {}).get(arm, 0.0):.4g} % of the traffic"
        for service in shifted
        if realised.get(service, {}).get(arm, 0.0) < 0.99
    )
