"""How a rollout stands, for people and programs. It only reads, and needs neither guard nor driver."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluator.errors import EvaluatorError, PlanNotReadable
from evaluator.guard.client import GuardClient
from evaluator.guard.setup import GuardStatus, join_name
from evaluator.hooks.router import show_shares
from evaluator.intents.baseline_servers import describe_missing_baseline
from evaluator.intents.rollout_plans import read_plan
from evaluator.intents.rollout_progress import RolloutProgress, StepState, fold
from evaluator.records.rollouts import Event, EventKind, Observe, Rollout, RolloutPlan, StepNeeds
from evaluator.rollout.deciding import decide
from evaluator.rollout.describing import (
    describe_event,
    describe_new_instances,
    describe_now,
    describe_outcome,
    explain_missing,
    find_exit_code,
    name_step,
    write_ways_on,
)
from evaluator.rollout.guarding import make_key
from evaluator.rollout.locking import DriverProcess, find_driver_of
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts
from evaluator.wording import format_duration, format_number, quote_command

LAST_EVENTS = 6
"""How many events are shown."""

GUARD_WAIT_S = 1.0
"""How long an answer of the guard is waited for."""

_MARKS = {
    StepState.DONE: "✓",
    StepState.FAILED: "✗",
    StepState.UNKNOWN: "?",
    StepState.UNDONE: "↩",
    StepState.UNDO_FAILED: "✗",
    StepState.BEGUN: "→",
    StepState.WAITING: " ",
}


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """How a rollout stands."""

    rollout: Rollout
    plan: RolloutPlan | None
    """None: this version cannot read it."""
    events: tuple[Event, ...]
    guard: GuardStatus | None
    """None: no guard answers, or it does not know the rollout."""
    driver: DriverProcess | None
    """None: no process has driven it yet."""
    problem: str = ""
    """Why the plan cannot be read."""
    at: float = 0.0
    """When it was read (s since 1970)."""
    baseline: str = ""
    """Why it is not sure that a rollback can give users to the baseline; empty: nothing is known against it."""

    @property
    def progress(self) -> RolloutProgress | None:
        """How far it is; None: the plan cannot be read."""
        return fold(self.plan, self.events) if self.plan is not None else None

    @property
    def has_ended(self) -> bool:
        """Has it ended?"""
        return any(event.kind is EventKind.ENDED for event in self.events)

    @property
    def is_driver_gone(self) -> bool:
        """Should a process drive it, and does none? One that waits for its first worker does not count."""
        if self.has_ended or (self.driver is None and self.rollout.is_queued):
            return False
        return self.driver is None or not self.driver.is_there


def read_status(store: Store, rollout: Rollout) -> RolloutStatus:
    """Read how a rollout stands. Raises StoreError."""
    events = Rollouts(store.control.file).events(rollout.id)
    plan, problem = None, ""
    try:
        plan = read_plan(rollout)
    except PlanNotReadable as error:
        problem = error.message
    guard = None
    try:
        guard = GuardClient(store.path).look(join_name(rollout.id, make_key(rollout)), wait_s=GUARD_WAIT_S)
    except EvaluatorError:  # a guard that hangs must keep no page and no command waiting
        guard = None
    driver = find_driver_of(store, rollout.id, rollout.plan.get("services", ()))
    baseline = describe_missing_baseline(store, rollout.id)
    return RolloutStatus(rollout, plan, events, guard, driver, problem, time.time(), baseline)


def choose_rollout(store: Store, release: str | None) -> tuple[Rollout, ...]:
    """Choose the newest rollout of a release, else those of all releases that are running, else the newest one."""
    rollouts = Rollouts(store.control.file)
    if release is not None:
        return rollouts.rollouts(release)[-1:]
    return rollouts.find_running() or rollouts.rollouts()[-1:]


# ------------------------------------------------------------------ for people


def describe_status(status: RolloutStatus) -> list[str]:
    """Describe how a rollout stands, in lines."""
    rollout = status.rollout
    strategy = str(rollout.plan.get("strategy", "")).replace("_", "-")
    started = f"started by {rollout.person} at {rollout.started_at:%Y-%m-%d %H:%M} UTC"
    lines = [f"rollout {rollout.id} of {rollout.release}: {strategy}, {started}: {rollout.reason}"]
    if status.plan is None or status.progress is None:
        lines += [f"its plan cannot be used: {status.problem}"]
    else:
        lines += _describe_steps(status.plan, status.progress)
        lines += describe_state(status, status.plan, status.progress)
    lines += describe_guard(status)
    if not status.has_ended:
        lines.append(describe_driver(status))
    if status.plan is not None and status.events:
        lines += ["last events:", *(f"  {_write_time(event.at)}  {describe_event(status.plan, event)}"
                                    for event in status.events[-LAST_EVENTS:])]  # fmt: skip
    lines.append(f"next: {find_next_command(status)}")
    return lines


def _describe_steps(plan: RolloutPlan, progress: RolloutProgress) -> Iterator[str]:
    """Describe each step in a line: its mark, number, name, share of users, and need."""
    position = progress.position(plan)
    for number, (step, state) in enumerate(zip(plan.steps, progress.states, strict=True)):
        is_now = number == position and progress.outcome is None and not progress.going_back
        mark = "→" if is_now and state is StepState.WAITING else _MARKS[state]
        if state is StepState.BEGUN and not is_now:
            mark = "✗"  # the rollout has gone back before it ended
        facts = []
        if isinstance(step, Observe) and step.needs is not StepNeeds.NOTHING:
            facts.append(f"needs {step.needs.label}")
        if isinstance(step, Observe) and step.share:
            facts += describe_new_instances(plan, number)
            facts.append(f"{format_number(100 * step.share)} % of the users")
        if is_now:
            facts.append("now")
        text = f"{mark} {number + 1:>2}. {name_step(step)}"
        yield f"  {text}{': ' + ', '.join(facts) if facts else ''}"


def describe_state(status: RolloutStatus, plan: RolloutPlan, progress: RolloutProgress) -> Iterator[str]:
    """Describe where it is, what is missing, how much time is left, and why it goes back."""
    if progress.outcome is not None:
        why = f", because {progress.why_back}" if progress.why_back else ""
        yield f"{plan.release} is {describe_outcome(progress.outcome, progress.winner)}{why}"
        return
    yield describe_now(plan, progress, decide(plan, progress, status.at), status.at)
    if progress.going_back:
        return
    position = progress.position(plan)
    step = plan.steps[position] if position < plan.body else None
    if isinstance(step, Observe) and progress.begun_at is not None:
        yield from _describe_times(step, progress.begun_at, status.at)
    judged = [event for event in status.events if event.kind is EventKind.JUDGED and event.step == position]
    if judged and judged[-1].text:
        yield f"missing: {judged[-1].text}"
    if progress.asked_at is not None:
        left_s = progress.asked_at + plan.answer_within_s - status.at
        silence = "it goes back to the baseline" if plan.unanswered == "baseline" else "it goes on waiting"
        yield f"people were asked at {_write_time(progress.asked_at)}; without an answer " + (
            f"within {format_duration(round(left_s))} {silence}" if left_s > 0 else silence
        )


def _describe_times(step: Observe, begun_at: float, now: float) -> Iterator[str]:
    """Describe how long it is until a step is judged, and until its deadline."""
    for after_s, what in ((step.bake_s, "it is judged"), (step.deadline_s, "a person is asked")):
        left_s = begun_at + after_s - now
        is_other = what == "it is judged" or step.deadline_s > step.bake_s
        if left_s > 0 and is_other and step.needs is not StepNeeds.NOTHING:
            yield f"{what} in {format_duration(round(left_s))}, at {_write_time(begun_at + after_s)}"


def describe_guard(status: RolloutStatus) -> Iterator[str]:
    """Describe what the guard sees."""
    guard = status.guard
    if guard is None:
        if not status.has_ended and status.plan is not None and status.plan.has_shift:
            yield f"guard: none answers within {GUARD_WAIT_S:g} s that knows this rollout"
        return
    for service, shares in guard.realised.items():
        wanted = guard.wanted.get(service, {})
        realised = show_shares(shares) or "nothing"
        yield f"{service}: wanted {show_shares(wanted) or 'nothing'}; the router says {realised}"
    for reading in guard.readings:
        if reading.text:
            yield f"  {reading.text}"
    if guard.drift:
        yield f"drift: {guard.drift}"
    if guard.is_back:
        place = "all traffic is at the baseline" if guard.is_returned else "traffic is being returned"
        yield f"guard: {place}, because {guard.why_back}"
    for note in guard.notes:
        yield f"guard: {note}"


def describe_driver(status: RolloutStatus) -> str:
    """Say who drives a rollout."""
    if status.driver is None:
        if status.rollout.is_queued:
            return "driver: none yet; it waits for `evaluator hooks worker`"
        return "driver: GONE: no process drives it"
    if status.driver.is_there:
        return f"driver: {status.driver.describe()}"
    lease = ""
    if status.plan is not None and status.plan.has_shift:
        lease = f"; the guard returns the traffic after {format_duration(status.plan.lease_s)} without one"
    return f"driver: GONE: it was {status.driver.describe()}{lease}"


def find_next_command(status: RolloutStatus) -> str:
    """Write the command that a person needs next; a sentence if none."""
    release, progress = status.rollout.release, status.progress
    if status.has_ended:
        code = find_exit_code(status.plan, status.events) if status.plan is not None else 4
        if code == 0:
            back = "nothing; `" + quote_command("rollback", release, "--reason", "WHY") + "` would take it back"
            return back + (f", once the old version serves: {status.baseline}" if status.baseline else "")
        return f"`{quote_command('hooks', 'log', release)}` shows what was executed"
    resume = f"`{quote_command('rollout', 'resume', release)}`"
    is_gone = status.driver is None or not status.driver.is_there
    if is_gone and status.rollout.is_queued and status.driver is None:
        return "`evaluator hooks worker`"
    if is_gone:
        return f"{resume} goes on with it"
    if progress is not None and status.plan is not None and progress.held:
        return write_ways_on(status.plan, progress)
    if progress is not None and progress.going_back:
        return "nothing: it goes back by itself"
    if progress is not None and progress.asked_at is not None:
        return "`evaluator approve` lists what waits for an answer"
    return f"nothing; `{quote_command('rollback', release, '--reason', 'WHY')}` goes back"


def _write_time(moment: float) -> str:
    """Write a moment (s since 1970) for people: `10:00:00 UTC`."""
    return time.strftime("%H:%M:%S UTC", time.gmtime(moment))


# ------------------------------------------------------------------ for programs


def to_json(status: RolloutStatus) -> dict[str, Any]:
    """Turn the status into plain JSON."""
    rollout, plan, progress = status.rollout, status.plan, status.progress
    plain: dict[str, Any] = {
        "rollout": rollout.id,
        "release": rollout.release,
        "strategy": rollout.plan.get("strategy"),
        "plan_hash": rollout.plan_hash,
        "started_by": rollout.person,
        "started_at": rollout.started_at.isoformat(),
        "reason": rollout.reason,
        "queued": rollout.is_queued,
        "problem": status.problem,
        "driver": _to_plain_driver(status.driver),
        "guard": _to_plain_guard(status.guard),
        "events": [_to_plain_event(event) for event in status.events],
        "next": find_next_command(status),
    }
    if plan is not None and progress is not None:
        decision = decide(plan, progress, status.at)
        plain |= {
            "outcome": progress.outcome,
            "position": progress.position(plan) + 1,
            "steps": [
                {"number": n + 1, "name": name_step(step), "state": str(state)}
                for n, (step, state) in enumerate(zip(plan.steps, progress.states, strict=True))
            ],
            "exposed": progress.exposed(plan),
            "held": progress.held,
            "why_held": progress.why_held,
            "going_back": progress.going_back,
            "why_back": progress.why_back,
            "todo": str(decision.todo),
            "until": decision.until,
            "missing": explain_missing(plan, progress, _list_missing(status.events, progress.position(plan))),
        }
    return plain


def _list_missing(events: Sequence[Event], position: int) -> tuple[str, ...]:
    """List what the newest judgement of a step found missing."""
    texts = [event.text for event in events if event.kind is EventKind.JUDGED and event.step == position]
    return tuple(texts[-1:])


def _to_plain_driver(driver: DriverProcess | None) -> Mapping[str, Any] | None:
    """Turn who drives it into plain JSON."""
    if driver is None:
        return None
    return {"host": driver.host, "pid": driver.pid, "since": driver.since, "running": driver.is_there}


def _to_plain_guard(guard: GuardStatus | None) -> Mapping[str, Any] | None:
    """Turn what the guard sees into plain JSON."""
    from evaluator.guard.setup import to_plain

    return to_plain(guard) if guard is not None else None


def _to_plain_event(event: Event) -> dict[str, Any]:
    """Turn an event into plain JSON."""
    plain = {
        "kind": str(event.kind), "at": event.at, "step": event.step + 1 or None, "person": event.person,
        "text": event.text, "note": event.note, "verdict": event.verdict, "arm": event.arm,
        "outcome": event.outcome,
    }  # fmt: skip
    return {name: value for name, value in plain.items() if value not in ("", None)}
