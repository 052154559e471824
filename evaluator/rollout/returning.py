"""Going back where the plan of a rollout cannot be read: by the files of the guard, and one rollback of the release."""

from __future__ import annotations

import time

from evaluator.errors import EvaluatorError
from evaluator.records.rollouts import Event, EventKind, Rollout, RolloutOutcome
from evaluator.rollout.collaborators import ActResult, Effects, EventStore, ProgressReport, TrafficControl
from evaluator.rollout.describing import FAILED, OUTCOMES

TRIES = 30
"""How often the traffic is returned, a second apart, before the rollback tries it, too: without it no act is undone."""


def return_without_plan(
    rollout: Rollout, why: str, events: EventStore, traffic: TrafficControl, effects: Effects, report: ProgressReport
) -> int:
    """Return traffic, undo the acts, and end the rollout; returns the exit code. Its final acts are not executed.

    It may be begun again after a kill: traffic that is at the baseline stays there, and undone acts are not undone
    twice. Raises StoreError if the events cannot be written; then the traffic was returned before.
    """
    report.say(f"{rollout.release} goes back to the baseline: {why}")
    problem = _return_traffic(traffic, why)
    known = [event.kind for event in events.read()]
    if EventKind.STOPPED not in known:
        events.add(Event(EventKind.STOPPED, time.time(), text=why))
    kind = EventKind.RETURN_FAILED if problem else EventKind.RETURNED
    events.add(Event(kind, time.time(), text=problem))
    events.add(Event(EventKind.UNDO_BEGUN, time.time()))
    try:
        result = effects.roll_back(why)
    except EvaluatorError as error:
        result = ActResult("failed", error.message)
    is_undone = result.state == "done"
    events.add(
        Event(EventKind.UNDONE if is_undone else EventKind.UNDO_FAILED, time.time(), text=result.text)
    )  # fmt: skip
    is_whole = is_undone and not problem
    outcome = RolloutOutcome.ROLLED_BACK if is_whole else RolloutOutcome.ROLLED_BACK_PARTLY
    events.add(Event(EventKind.ENDED, time.time(), outcome=outcome))
    report.say(f"{rollout.release} is {OUTCOMES[outcome]}; acts that are always executed were not")
    return FAILED


def _return_traffic(traffic: TrafficControl, why: str) -> str:
    """Return the traffic; returns why that was not possible, or empty, also where no user met the candidate."""
    problem = ""
    for _ in range(TRIES):
        try:
            if traffic.back(why, "driver").is_returned:
                return ""
            problem = "the router does not say that all traffic is at the baseline"
        except EvaluatorError as error:
            problem = error.message
            if "does not know the rollout" in problem:
                return ""  # no guard has a file of it: no user ever met the candidate by it
        time.sleep(1.0)
    return problem
