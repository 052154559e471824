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
from evaluator.wording import quote_command

TRIES = 30
"""How often the traffic is returned, a second apart, before the rollback tries it, too: without it no act is undone."""


def return_without_plan(
    rollout: Rollout,
    why: str,
    events: EventStore,
    traffic: TrafficControl,
    effects: Effects,
    report: ProgressReport,
    *,
    missing_baseline: str = "",
) -> int:
    """Return traffic, undo the acts, and end the rollout; returns the exit code. Its final acts are not executed.

    `missing_baseline`: which acts may have taken down the servers of the baseline, a sentence; empty: none. Then users
    stay where they are until a person rolls back, and that rollback has given them to servers that serve.
    It may be begun again after a kill: traffic that is at the baseline stays there, and undone acts are not undone
    twice. Raises StoreError if the events cannot be written; then the traffic was returned before.
    """
    if missing_baseline:
        is_wanted = any(event.kind is EventKind.STOPPED and event.person for event in events.read())
        result = _roll_back(effects, events, why) if is_wanted else ActResult("failed")
        if result.state != "done":
            return _hold(rollout, "; ".join(filter(None, (why, missing_baseline, result.text))), events, report)
        problem = ""
    else:
        report.say(f"{rollout.release} goes back to the baseline: {why}")
        problem = _return_traffic(rollout, traffic, why)
        if not any(event.kind is EventKind.STOPPED for event in events.read()):
            events.add(Event(EventKind.STOPPED, time.time(), text=why))
    kind = EventKind.RETURN_FAILED if problem else EventKind.RETURNED
    events.add(Event(kind, time.time(), text=problem))
    if not missing_baseline:
        result = _roll_back(effects, events, why)
    is_undone = result.state == "done"
    events.add(
        Event(EventKind.UNDONE if is_undone else EventKind.UNDO_FAILED, time.time(), text=result.text)
    )  # fmt: skip
    is_whole = is_undone and not problem
    outcome = RolloutOutcome.ROLLED_BACK if is_whole else RolloutOutcome.ROLLED_BACK_PARTLY
    events.add(Event(EventKind.ENDED, time.time(), outcome=outcome))
    report.say(f"{rollout.release} is {OUTCOMES[outcome]}; acts that are always executed were not")
    return FAILED


def _roll_back(effects: Effects, events: EventStore, why: str) -> ActResult:
    """Undo the acts by one rollback of the release."""
    events.add(Event(EventKind.UNDO_BEGUN, time.time()))
    try:
        return effects.roll_back(why)
    except EvaluatorError as error:
        return ActResult("failed", error.message)


def _hold(rollout: Rollout, why: str, events: EventStore, report: ProgressReport) -> int:
    """Leave the rollout as it is, which is written once, and say what a person can do; returns the exit code."""
    if not any(event.kind is EventKind.HELD for event in events.read()):
        events.add(Event(EventKind.HELD, time.time(), text=why))
    back = quote_command("rollback", rollout.release, "--reason", "WHY", "--baseline-runs")
    report.say(
        f"{rollout.release} is held, and users stay where they are: {why}; continue it with the version that started "
        f"it, or go back once the old version serves: `{back}`"
    )
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
