"""Going back where the plan of a rollout cannot be read: by the files of the guard, and one rollback of the release."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from evaluator.errors import EvaluatorError
from evaluator.guard.routers import ServiceRouter
from evaluator.guard.setup import GuardedService
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
    problem = _return_traffic(rollout, traffic, why)
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


def _list_routers(rollout: Rollout) -> Mapping[str, Any]:
    """List the routers of the policy that the rollout was started with: service → its entry; none if it has none."""
    section = rollout.policy.get("rollout")
    routers = section.get("router") if isinstance(section, dict) else None
    return routers if isinstance(routers, dict) else {}


def _return_by_router(rollout: Rollout, service: str) -> str:
    """Let the router of a service return the traffic, if it is not at the baseline.

    Returns why that is not possible.
    """
    try:
        ((kind, options),) = _list_routers(rollout)[service].items()
        router = ServiceRouter(GuardedService(service, str(kind), options), rollout.id, rollout.release)
        if router.is_at_baseline(router.read_settings()):
            return ""
    except (EvaluatorError, ValueError, TypeError, AttributeError) as error:
        text = error.message if isinstance(error, EvaluatorError) else "its options cannot be read"
        return f"no guard knows the rollout, and the router of {service} does not say where users are: {text}"
    attempt = router.return_traffic()
    return "" if attempt.is_returned else f"the traffic of {service} was not returned: {attempt.text}"


def _return_traffic(rollout: Rollout, traffic: TrafficControl, why: str) -> str:
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
                # No guard has a file of it. Its file may be lost, so the routers say where users are.
                problems = [_return_by_router(rollout, service) for service in _list_routers(rollout)]
                problem = "; ".join(filter(None, problems))
                if not problem:
                    return ""
        time.sleep(1.0)
    return problem
