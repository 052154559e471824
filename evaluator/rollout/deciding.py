"""What a rollout does next: a pure function of its plan, how far it is, and the time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from evaluator.intents.rollout_progress import (
    GO,
    MAY_HAVE_ACTED,
    MOST_DRIFTS,
    NO_GO,
    RolloutProgress,
    StepState,
    list_undoable,
)
from evaluator.records.rollouts import (
    Act,
    JudgedAt,
    Observe,
    RolloutOutcome,
    RolloutPlan,
    StepNeeds,
    StopCause,
    Unanswered,
)


class Todo(StrEnum):
    """What the process that drives a rollout has to do now."""

    EXECUTE = "execute"
    """Execute the hooks of an act, with the key of its step: those that were acknowledged are not executed again."""
    OBSERVE = "observe"
    """Begin an observation."""
    JUDGE = "judge"
    """Judge an observation at a look."""
    PASS = "pass"  # noqa: S105 - no password
    """An observation has shown what it needs, or a person agreed: it is done."""
    ASK = "ask"
    """Ask people about the current step."""
    WAIT = "wait"
    """Wait until a time, or for an event."""
    STOP = "stop"
    """Go back."""
    RETURN = "return"
    """Set the router to the baseline in one call, and read it back."""
    UNDO = "undo"
    """Undo all acts that may have been executed, the newest first, by a rollback of the release."""
    READ_BACK = "read_back"
    """Ask the router whether the candidate has all traffic."""
    END = "end"
    NOTHING = "nothing"
    """It has ended."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do next."""

    todo: Todo
    step: int = -1
    """Position of the step in the plan; -1: of none."""
    why: str = ""
    """A part of a sentence."""
    until: float | None = None
    """Of `wait`: time (s since 1970) of the next decision; None: only an event changes it."""
    look: JudgedAt = JudgedAt.BAKE
    """Of `judge`."""
    outcome: RolloutOutcome | None = None
    """Of `end`."""
    cause: StopCause | None = None
    """Of `stop`."""


def decide(plan: RolloutPlan, progress: RolloutProgress, now: float) -> Decision:
    """Decide what a rollout does next. `now`: seconds since 1970."""
    if progress.outcome is not None:
        return Decision(Todo.NOTHING)
    if progress.going_back:
        return _go_back(plan, progress)
    decision = _go_forward(plan, progress, now)
    # While a person holds it, a NO-GO is still found, and still turns it back, if there is a way back.
    goes_on = (Todo.JUDGE,) if progress.explain_no_return(plan) else (Todo.JUDGE, Todo.STOP)
    if progress.held and decision.todo not in goes_on:
        return Decision(Todo.WAIT, progress.position(plan), progress.why_held)
    return decision


def _go_forward(plan: RolloutPlan, progress: RolloutProgress, now: float) -> Decision:
    """Decide what follows if no person holds the rollout."""
    if progress.drifts >= MOST_DRIFTS and progress.was_shifted(plan):
        return _stop(f"the router had other shares than it was given, {progress.drifts} times")
    position = progress.position(plan)
    if position >= plan.watched and plan.has_shift and not progress.confirmed:
        return Decision(Todo.READ_BACK, why="whether the candidate has all traffic")
    if position < plan.body:
        step = plan.steps[position]
        if isinstance(step, Act):
            return _decide_act(plan, progress, step, position, now)
        return _decide_observation(plan, progress, step, position, now)
    return _finish(plan, progress, RolloutOutcome.PROMOTED)


def _stop(why: str, cause: StopCause = StopCause.FAILURE) -> Decision:
    """Go back."""
    return Decision(Todo.STOP, why=why, cause=cause)


# ------------------------------------------------------------------ forward


def _decide_act(plan: RolloutPlan, progress: RolloutProgress, act: Act, position: int, now: float) -> Decision:
    """Decide what follows while an act is the current step."""
    match progress.states[position]:
        case StepState.WAITING:
            if len(progress.agreed) >= act.agree and not progress.declined_by:
                return Decision(Todo.EXECUTE, position)
            missing = act.agree - len(progress.agreed)
            return _ask(plan, progress, position, now, f"{act.name} needs the agreement of {missing} more")
        case StepState.BEGUN:
            return Decision(Todo.EXECUTE, position, "its outcome is not known yet")
        case StepState.FAILED if progress.tries_again:
            return Decision(Todo.EXECUTE, position, "a person let it continue")
        case StepState.FAILED:
            return _stop(f"{act.name} failed")
        case StepState.UNKNOWN:
            if act.is_shift:
                return _stop(f"it is not known whether {act.name} changed the traffic")
            return _ask(plan, progress, position, now, f"it is not known whether {act.name} was executed")
    raise AssertionError(f"{act.name} is {progress.states[position]} while the rollout goes on")


def _decide_observation(
    plan: RolloutPlan, progress: RolloutProgress, step: Observe, position: int, now: float
) -> Decision:
    """Decide what follows while an observation is the current step."""
    if progress.verdict == NO_GO:
        first = progress.why.partition("; ")[0]
        return _stop(f"{step.name} is NO-GO" + (f": {first}" if first else ""), StopCause.NO_GO)
    if progress.states[position] is StepState.FAILED:
        return _stop(f"{step.name} could not be observed")
    if progress.begun_at is None:
        return Decision(Todo.OBSERVE, position)
    if step.needs is StepNeeds.WINNER:
        return _decide_winner(plan, progress, step, position, progress.begun_at, now)
    if progress.agreed and not progress.declined_by:
        return Decision(Todo.PASS, position, f"{', '.join(sorted(progress.agreed))} agreed")
    return _look(plan, progress, step, position, progress.begun_at, now)


def _decide_winner(
    plan: RolloutPlan, progress: RolloutProgress, step: Observe, position: int, begun_at: float, now: float
) -> Decision:
    """Decide what follows at the planned end of an A/B test: an arm wins, or none does, and all go back.

    Outcomes are judged once. If they cannot be believed, people are asked, and an agreement is to judge them once more:
    no person can let an arm win.
    """
    if now < begun_at + step.bake_s:
        return Decision(Todo.WAIT, position, until=begun_at + step.bake_s)
    if JudgedAt.BAKE not in progress.looks:
        return Decision(Todo.JUDGE, position, look=JudgedAt.BAKE)
    if progress.is_sound and progress.verdict == GO and progress.winner:
        return Decision(Todo.PASS, position, f"{progress.winner} has won")
    if progress.is_sound:
        return _stop(f"no arm won {step.name}", StopCause.NO_WINNER)
    if JudgedAt.DEADLINE in progress.looks:
        return _stop(f"the data of {step.name} cannot be believed, also at a second look: {progress.doubt}")
    if progress.agreed and not progress.declined_by:
        return Decision(Todo.JUDGE, position, look=JudgedAt.DEADLINE)
    why = f"no arm can win {step.name}, because its data cannot be believed: {progress.doubt or 'it is not known why'}"
    return _ask(plan, progress, position, now, f"{why}; an agreement is to read and judge them once more")


def _look(
    plan: RolloutPlan, progress: RolloutProgress, step: Observe, position: int, begun_at: float, now: float
) -> Decision:
    """Decide when an observation is judged, and what follows if it has not shown what it needs."""
    looks = [(JudgedAt.BAKE, step.bake_s)]
    if step.deadline_s > step.bake_s:  # otherwise the same data would be judged twice
        looks.append((JudgedAt.DEADLINE, step.deadline_s))
    for look, after_s in looks:
        at = begun_at + after_s
        if now < at:
            return Decision(Todo.WAIT, position, until=at)
        if look not in progress.looks:
            return Decision(Todo.JUDGE, position, look=look)
        if _has_shown(step.needs, progress):
            return Decision(Todo.PASS, position)
    return _ask(plan, progress, position, now, f"{step.name} has not shown what it needs ({step.needs.label})")


def _has_shown(needs: StepNeeds, progress: RolloutProgress) -> bool:
    """Has the newest look of the current observation shown what it needs? It is no NO-GO."""
    if needs is StepNeeds.NOTHING:
        return True
    return progress.verdict == GO if needs is StepNeeds.GO else progress.no_harm


def _ask(plan: RolloutPlan, progress: RolloutProgress, position: int, now: float, why: str) -> Decision:
    """Ask people about the current step, and go back or hold if they do not answer in time."""
    if progress.declined_by:
        return _stop(f"{progress.declined_by} declined {plan.steps[position].name}", StopCause.PEOPLE)
    if progress.asked_at is None:
        return Decision(Todo.ASK, position, why)
    answer_by = progress.asked_at + plan.answer_within_s
    if now < answer_by or plan.unanswered is Unanswered.STAY:
        return Decision(Todo.WAIT, position, why, until=answer_by if now < answer_by else None)
    return _stop(f"{why}, and no person has answered", StopCause.PEOPLE)


# ------------------------------------------------------------------ back, and the end


def _go_back(plan: RolloutPlan, progress: RolloutProgress) -> Decision:
    """Return the traffic first; then undo the acts; then the final acts.

    Where instances were replaced, users return as far as old ones can carry them; undoing restores the others.
    Where acts may have taken down the servers of the baseline, they are undone first: users return only if that, a hook
    of the policy, the router or a person says that the baseline serves, and otherwise people are waited for.
    """
    if progress.held:
        return Decision(Todo.WAIT, why=progress.why_held)
    if progress.taken_down_by:
        return Decision(Todo.UNDO, why=progress.why_back)
    if not progress.returned and not progress.kept and progress.was_shifted(plan):
        return Decision(Todo.RETURN, why=progress.why_back)
    if any(progress.states[number] in MAY_HAVE_ACTED for number in list_undoable(plan)):
        return Decision(Todo.UNDO, why=progress.why_back)
    failed = StepState.UNDO_FAILED in progress.states or bool(progress.find_irreversible(plan))
    return _finish(plan, progress, RolloutOutcome.ROLLED_BACK_PARTLY if failed else RolloutOutcome.ROLLED_BACK)


def _finish(plan: RolloutPlan, progress: RolloutProgress, outcome: RolloutOutcome) -> Decision:
    """Execute the final acts, each once, and end. One that failed does not keep the others from being executed."""
    for number in range(plan.body, len(plan.steps)):
        if progress.states[number] in (StepState.WAITING, StepState.BEGUN):
            return Decision(Todo.EXECUTE, number)
    return Decision(Todo.END, outcome=outcome)
