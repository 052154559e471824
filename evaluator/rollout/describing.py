"""Sentences about a rollout: what has happened, how it stands, and with which exit code it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evaluator.intents.rollout_progress import RolloutProgress, StepState, fold
from evaluator.records import BASELINE, CANDIDATE
from evaluator.records.rollouts import (
    Act,
    Event,
    EventKind,
    JudgedAt,
    Observe,
    RolloutOutcome,
    RolloutPlan,
    Step,
    StepNeeds,
    StopCause,
)
from evaluator.rollout.deciding import Decision, Todo
from evaluator.wording import count_of, format_duration, format_number, quote_command

OUTCOMES = {
    RolloutOutcome.PROMOTED: "promoted: all users have the candidate",
    RolloutOutcome.ROLLED_BACK: "rolled back: all users have the baseline, and all acts are undone",
    RolloutOutcome.ROLLED_BACK_PARTLY: "rolled back in part: all users have the baseline, but not all acts are undone",
}

LOOKS = {JudgedAt.MEANWHILE: "meanwhile", JudgedAt.BAKE: "after its time", JudgedAt.DEADLINE: "at its deadline"}
"""When an observation is judged, for people."""

PROMOTED, TURNED_BACK, NOT_ALLOWED, FAILED = 0, 1, 3, 4
"""Exit codes: promoted; NO-GO or the guard; people declined, did not answer, or stopped it; a hook failed."""

_CODES = {
    StopCause.NO_GO: TURNED_BACK,
    StopCause.GUARD: TURNED_BACK,
    StopCause.PEOPLE: NOT_ALLOWED,
    StopCause.NO_WINNER: NOT_ALLOWED,
    StopCause.FAILURE: FAILED,
}

_TEXTS = {
    EventKind.BEGUN: "begun",
    EventKind.DONE: "done",
    EventKind.FAILED: "failed",
    EventKind.UNKNOWN: "it is not known whether it was executed",
    EventKind.ASKED: "people are asked",
    EventKind.AGREED: "agreed",
    EventKind.DECLINED: "declined",
    EventKind.HELD: "held",
    EventKind.CONTINUED: "continues",
    EventKind.STOPPED: "goes back to the baseline",
    EventKind.RETURNED: "all traffic is at the baseline again",
    EventKind.RETURN_FAILED: "the traffic could not be returned, and it is tried again",
    EventKind.KEPT: "users stay at new instances until these are restored",
    EventKind.UNDO_BEGUN: "the acts are being undone",
    EventKind.UNDONE: "the acts are undone",
    EventKind.UNDO_FAILED: "not all acts are undone",
    EventKind.READ_BACK: "read back",
    EventKind.DRIFTED: "the router has other shares than it was given",
}


def describe_outcome(outcome: RolloutOutcome, winner: str = "") -> str:
    """Describe how a rollout ended. `winner`: the arm that won an A/B test; empty: none, or it was no test."""
    if outcome is RolloutOutcome.PROMOTED and winner:
        return f"promoted: all users have {winner}, the arm that won"
    return OUTCOMES[outcome]


def describe_event(plan: RolloutPlan, event: Event) -> str:
    """Describe an event in one line."""
    if event.kind is EventKind.ENDED and event.outcome is not None:
        return f"{plan.release} is {describe_outcome(event.outcome, event.arm)}"
    what = _describe_judgement(event) if event.kind is EventKind.JUDGED else _TEXTS.get(event.kind, str(event.kind))
    if event.person:
        what = f"{what} by {event.person}"
    if event.text:
        what = f"{what}: {event.text}"
    if event.note:
        what = f"{what}; {event.note}"
    return f"{_name_step(plan, event.step)}{what}"


def _describe_judgement(event: Event) -> str:
    """Describe what a judgement has found, without its reasons."""
    if not event.verdict:
        return "has ended"
    word = event.verdict.replace("_", "-").upper()
    if event.arm:
        return f"is {word}: {event.arm} has won"
    harm = ", no harm shown" if event.no_harm else ""
    return f"is {word}{harm} ({LOOKS[event.look]})"


def _name_step(plan: RolloutPlan, position: int) -> str:
    """Name a step with its number; empty for none."""
    if not 0 <= position < len(plan.steps):
        return ""
    return f"step {position + 1} of {len(plan.steps)}, {name_step(plan.steps[position])}: "


def name_step(step: Step) -> str:
    """Name a step for people."""
    return f"observe {step.name}" if isinstance(step, Observe) else step.name


def describe_place(step: Step) -> str:
    """Describe where a step takes place: the environment of an observation, the stage that an act stands before."""
    if isinstance(step, Observe):
        return step.environment
    if step.final:
        return "always, at the end"
    return "after all stages" if step.stage == "end" else f"before {step.stage}"


def describe_needs(step: Step) -> str:
    """Describe what a step needs: `no harm in 500 requests of each arm`; of an act its conditions, empty if none."""
    if isinstance(step, Observe):
        requests = f" in {count_of(step.least, 'request')} of each arm" if step.needs is StepNeeds.NO_HARM else ""
        return step.needs.label + requests
    conditions = [
        count_of(step.agree, "agreement") if step.agree else "",
        f"tried for {format_duration(step.retry_for_s)}" if step.retry_for_s else "",
        "no way back after it" if step.irreversible else "",
    ]
    return ", ".join(filter(None, conditions))


def describe_now(
    plan: RolloutPlan, progress: RolloutProgress, decision: Decision, now: float, missing: Sequence[str] = ()
) -> str:
    """Describe in one line where a rollout is: step, place, share of users, need, time that is left, what is missing.

    `now`: seconds since 1970. `missing`: what the newest judgement found missing.
    """
    if progress.outcome is not None:
        return f"{plan.release} is {describe_outcome(progress.outcome, progress.winner)}"
    if progress.going_back and progress.held:
        return f"{plan.release} is to go back, and is held: {progress.why_held}"
    if progress.going_back:
        return f"{plan.release} goes back to the baseline: {progress.why_back}"
    parts = list(_list_parts(plan, progress, decision, now, missing))
    if progress.held:
        parts.insert(1, f"held: {progress.why_held or 'by a person'}")
    return " · ".join(parts)


def _list_parts(
    plan: RolloutPlan, progress: RolloutProgress, decision: Decision, now: float, missing: Sequence[str]
) -> Iterator[str]:
    """List the parts of the line that describes a rollout that goes forward."""
    position = progress.position(plan)
    if position >= plan.body:
        yield "all steps are done"
        return
    step = plan.steps[position]
    yield _name_step(plan, position).removesuffix(": ")
    if isinstance(step, Observe):
        yield step.environment
        if step.needs is not StepNeeds.NOTHING:
            yield f"needs {step.needs.label}"
    yield from describe_new_instances(plan, position, progress)
    if exposed := progress.exposed(plan):
        yield f"{format_number(100 * exposed)} % of the users"
    if decision.until is not None and decision.todo is Todo.WAIT:
        yield f"{format_duration(max(round(decision.until - now), 0))} left"
    if text := explain_missing(plan, progress, missing):
        yield text


def describe_new_instances(plan: RolloutPlan, position: int, progress: RolloutProgress | None = None) -> Iterator[str]:
    """Yield how many instances of each service have the new version in a step; nothing if none are replaced.

    `progress`: leaves out services of which no batch has begun yet.
    """
    for service in plan.services:
        changed = plan.find_change_of_arms(position, service)
        acts = [step for step in plan.steps if isinstance(step, Act) and step.arms and service in step.services]
        is_begun = changed is not None and (progress is None or progress.states[changed] is not StepState.WAITING)
        if not acts or not is_begun:
            continue
        new = len(plan.find_arms(position, service).get(CANDIDATE, ()))
        of_all = count_of(len(acts[-1].arms[BASELINE]) + len(acts[-1].arms[CANDIDATE]), "instance")
        name = f" of {service}" if len(plan.services) > 1 else ""
        yield f"{new} of {of_all}{name} {'is' if new == 1 else 'are'} new"


def write_ways_on(plan: RolloutPlan, progress: RolloutProgress) -> str:
    """Write the commands by which a person lets a rollout that is held go on, and turns it back."""
    is_failed = StepState.FAILED in progress.states[: plan.body] and progress.explain_no_return(plan)
    again = ", and what failed is tried again" if is_failed or progress.going_back else ""
    runs, ready = (("--baseline-runs",), ", once the old version serves") if progress.taken_down_by else ((), "")
    back = quote_command("rollback", plan.release, "--reason", "WHY", *runs)
    return f"`{quote_command('rollout', 'resume', plan.release)}` lets it continue{again}; `{back}` goes back{ready}"


def explain_missing(plan: RolloutPlan, progress: RolloutProgress, missing: Sequence[str] = ()) -> str:
    """Say in one sentence what the current step still needs; empty if nothing is missing, or nothing is known."""
    position = progress.position(plan)
    if progress.outcome is not None or position >= plan.body:
        return ""
    step = plan.steps[position]
    if progress.asked_at is not None and not progress.declined_by:
        needed = step.agree if isinstance(step, Act) else 1
        left = max(needed - len(progress.agreed), 0)
        if progress.states[position] is StepState.UNKNOWN:
            return "a person has to say whether it was executed: `evaluator hooks log`"
        if left:
            return f"waits for {count_of(left, 'agreement')}: `evaluator approve`"
    return f"missing: {missing[0]}" if missing else ""


# ------------------------------------------------------------------ exit codes


def find_exit_code(plan: RolloutPlan, events: Sequence[Event]) -> int:
    """Find the exit code of a rollout that has ended; 3 for one that has not."""
    progress = fold(plan, events)
    if progress.outcome is RolloutOutcome.PROMOTED:
        return PROMOTED
    if progress.outcome is None:
        return NOT_ALLOWED
    if progress.outcome is RolloutOutcome.ROLLED_BACK_PARTLY or progress.cause_back is None:
        return FAILED
    return _CODES[progress.cause_back]
