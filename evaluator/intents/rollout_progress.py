"""How far a rollout is: a pure fold over its events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from evaluator.records.rollouts import (
    Act,
    Event,
    EventKind,
    JudgedAt,
    Observe,
    RolloutOutcome,
    RolloutPlan,
    Step,
    StopCause,
)


class StepState(StrEnum):
    """State of one step."""

    WAITING = "waiting"
    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    UNDONE = "undone"
    UNDO_FAILED = "undo_failed"


GO = "go"

NO_GO = "no_go"
"""The verdict that turns a rollout back."""

MAY_HAVE_ACTED = (StepState.BEGUN, StepState.DONE, StepState.FAILED, StepState.UNKNOWN)
"""States of an act that changed something, or may have."""

MOST_DRIFTS = 2
"""How often the router may have other shares than it was given, before the rollout goes back."""

_STEP_STATES = {
    EventKind.BEGUN: StepState.BEGUN,
    EventKind.DONE: StepState.DONE,
    EventKind.FAILED: StepState.FAILED,
    EventKind.UNKNOWN: StepState.UNKNOWN,
}

_UNDO_STATES = {
    EventKind.UNDONE: StepState.UNDONE,
    EventKind.UNDO_FAILED: StepState.UNDO_FAILED,
}


@dataclass(frozen=True, slots=True)
class RolloutProgress:
    """How far a rollout is."""

    states: tuple[StepState, ...]
    """One for each step of the plan."""
    begun_at: float | None = None
    """When the current step was begun; None: it was not."""
    no_go_since: float = 0.0
    """From when on a NO-GO of others turns it back (epoch s): 0 for its start.

    Later only where a person lets it continue although there is no way back: they have seen the earlier ones.
    """
    looks: tuple[JudgedAt, ...] = ()
    """Looks at its end, and at its deadline, at which the current observation was judged."""
    verdict: str = ""
    """Newest verdict of the current observation."""
    why: str = ""
    """What it found missing, or why it is NO-GO, as sentences; of several services, with their names."""
    no_harm: bool = False
    """Has its newest look shown no harm?"""
    winner: str = ""
    """The arm that has won, also in the steps after that; empty: none has, or nothing is to win."""
    is_sound: bool = False
    """Can the data of its newest look for a winner be believed?"""
    doubt: str = ""
    """Why they cannot: a part of a sentence; empty: they can, or nothing is to win."""
    asked_at: float | None = None
    """When people were asked about the current step; None: they were not."""
    agreed: frozenset[str] = frozenset()
    """Who agreed to it."""
    declined_by: str = ""
    """Who declined it; empty: no person did."""
    held: bool = False
    """Does it wait until a person lets it continue?"""
    why_held: str = ""
    going_back: bool = False
    why_back: str = ""
    cause_back: StopCause | None = None
    """None: it does not go back."""
    tries_again: bool = False
    """Has a person let it continue after the current step failed, because there is no way back?"""
    returned: bool = False
    """Is all traffic at the baseline again, or was none ever shifted?"""
    kept: bool = False
    """Do users stay at new instances until these are restored, because too few have the old version?"""
    return_failures: int = 0
    """How often the router could not be set to the baseline."""
    drifts: int = 0
    """How often the router had other shares than it was given."""
    confirmed: bool = False
    """Has the router said, after the last step, that the candidate has all traffic?"""
    taken_down_by: str = ""
    """The act that may have taken down the servers of the baseline since; empty: none, or they were deployed again."""
    outcome: RolloutOutcome | None = None
    """None: it has not ended."""

    def position(self, plan: RolloutPlan) -> int:
        """Find the first step before the final ones that is not done; their number if all are."""
        return next((n for n in range(plan.body) if self.states[n] is not StepState.DONE), plan.body)

    def was_shifted(self, plan: RolloutPlan) -> bool:
        """May a shift have changed traffic?"""
        return any(
            isinstance(step, Act) and step.is_shift and state in MAY_HAVE_ACTED
            for step, state in zip(plan.steps, self.states, strict=True)
        )

    def exposed(self, plan: RolloutPlan) -> float:
        """Largest share of traffic that the candidate may have now, of any service."""
        if self.returned:
            return 0.0
        shares = (
            step.share or 0.0
            for step, state in zip(plan.steps, self.states, strict=True)
            if isinstance(step, Act) and state in MAY_HAVE_ACTED
        )
        return max(shares, default=0.0)

    def find_irreversible(self, plan: RolloutPlan) -> str:
        """Find the act without a way back that may have been executed; empty if none was."""
        for step, state in zip(plan.steps, self.states, strict=True):
            if isinstance(step, Act) and step.irreversible and state in MAY_HAVE_ACTED:
                return step.name
        return ""

    def explain_no_return(self, plan: RolloutPlan) -> str:
        """Say why it goes back only if a person wants that; empty if it may go back by itself."""
        if act := self.find_irreversible(plan):
            return f"there is no way back after {act}"
        if self.taken_down_by:
            return f"users stay where they are: {self.taken_down_by} may have taken down the servers of the baseline"
        return ""


def list_undoable(plan: RolloutPlan) -> list[int]:
    """List the positions of the acts that going back undoes: neither those without a way back nor the final ones."""
    acts = ((n, step) for n, step in enumerate(plan.steps[: plan.body]) if isinstance(step, Act))
    return [n for n, act in acts if not act.irreversible]


def _is_shift(step: Step) -> bool:
    """Does a step change traffic?"""
    return isinstance(step, Act) and step.is_shift


def begin_progress(plan: RolloutPlan) -> RolloutProgress:
    """Make the progress of a rollout that has no events yet."""
    return RolloutProgress((StepState.WAITING,) * len(plan.steps))


def fold(plan: RolloutPlan, events: Iterable[Event]) -> RolloutProgress:
    """Find how far a rollout is after its events."""
    progress = begin_progress(plan)
    for event in events:
        progress = follow(plan, progress, event)
    return progress


def follow(plan: RolloutPlan, progress: RolloutProgress, event: Event) -> RolloutProgress:
    """Find how far a rollout is after one more event. Events after its end, or of a step that has passed, are nothing.

    After `stopped` nothing turns it forward again. An act without a way back, or one that may have taken down the
    servers of the baseline, turns `stopped` into a hold, unless a person stops it. A rollout whose acts could not be
    undone then waits for people, too: users return only to servers that serve. So it is where users stay at instances
    that could not be restored.
    """
    if progress.outcome is not None:
        return progress
    match event.kind:
        case EventKind.STOPPED:
            after = _stop(plan, progress, event)
        case EventKind.HELD:
            is_nothing = progress.going_back and not (progress.taken_down_by or progress.kept)
            after = progress if is_nothing else replace(progress, held=True, why_held=event.text)
        case EventKind.CONTINUED:
            is_one_way, position = bool(progress.explain_no_return(plan)), progress.position(plan)
            tries_again = is_one_way and position < plan.body and progress.states[position] is StepState.FAILED
            since = event.at if is_one_way else progress.no_go_since
            after = replace(progress, held=False, why_held="", no_go_since=since, tries_again=tries_again)
        case EventKind.RETURNED:
            is_back = progress.going_back
            after = replace(progress, returned=True, taken_down_by="", held=False, why_held="") if is_back else progress
        case EventKind.KEPT:
            after = replace(progress, kept=progress.going_back and plan.replaces_instances)
        case EventKind.RETURN_FAILED:
            after = replace(progress, return_failures=progress.return_failures + 1)
        case EventKind.DRIFTED:
            is_over = bool(progress.taken_down_by)  # the guard's watch has ended
            after = progress if is_over else replace(progress, drifts=progress.drifts + 1, confirmed=False)
        case EventKind.READ_BACK:
            after = replace(progress, confirmed=progress.position(plan) >= plan.watched)
        case EventKind.ENDED:
            after = replace(progress, outcome=event.outcome)
        case EventKind.UNDO_BEGUN:
            after = progress  # until it ends, the acts are as they were
        case EventKind.UNDONE | EventKind.UNDO_FAILED:
            after = _undo(plan, progress, event)
        case _:
            after = _follow_step(plan, progress, event)
    return after


def _stop(plan: RolloutPlan, progress: RolloutProgress, event: Event) -> RolloutProgress:
    """Turn a rollout back, or hold it if only a person may do that. A person lets a way back go on that is held."""
    if progress.going_back:
        return replace(progress, held=False, why_held="") if event.person else progress
    why = progress.explain_no_return(plan)
    if why and not event.person:
        return replace(progress, held=True, why_held=f"{event.text}; {why}")
    cause = event.cause or (StopCause.PEOPLE if event.person else StopCause.FAILURE)
    if progress.verdict == NO_GO and not event.person:
        cause = StopCause.NO_GO  # whoever was first to say so
    return replace(progress, going_back=True, why_back=event.text, cause_back=cause, held=False, why_held="")


def _undo(plan: RolloutPlan, progress: RolloutProgress, event: Event) -> RolloutProgress:
    """Give all acts that may have been executed the state of their undo; shifts only after the router says so, too."""
    state = _UNDO_STATES[event.kind]
    if progress.going_back and (progress.taken_down_by or progress.kept):
        if event.kind is EventKind.UNDO_FAILED:  # users are where they were, and so are the acts
            return replace(progress, held=True, why_held=event.text)
        progress = replace(progress, taken_down_by="", held=False, why_held="")
    undoable = list_undoable(plan) if progress.going_back else []
    if not progress.returned and not progress.kept:
        undoable = [n for n in undoable if not _is_shift(plan.steps[n])]
    states = tuple(
        state if n in undoable and earlier in MAY_HAVE_ACTED else earlier for n, earlier in enumerate(progress.states)
    )
    return replace(progress, states=states)


def _follow_step(plan: RolloutPlan, progress: RolloutProgress, event: Event) -> RolloutProgress:
    """Find how far a rollout is after an event of a step."""
    if event.kind in _STEP_STATES:
        return _change_state(plan, progress, event)
    if event.step != progress.position(plan) or progress.going_back:
        return progress
    if event.kind is EventKind.ASKED:
        return replace(progress, asked_at=event.at)
    if event.kind is EventKind.JUDGED and isinstance(plan.steps[event.step], Observe) and progress.begun_at is not None:
        if event.look is JudgedAt.MEANWHILE and event.verdict != NO_GO:
            return progress  # a look that is not paid shows nothing but harm
        is_new = event.look is not JudgedAt.MEANWHILE and event.look not in progress.looks
        looks = (*progress.looks, event.look) if is_new else progress.looks
        judged = replace(progress, looks=looks, verdict=event.verdict, why=event.text, no_harm=event.no_harm)
        is_won = event.verdict == GO and event.is_sound
        winner = event.arm if is_won else progress.winner
        return replace(judged, winner=winner, is_sound=event.is_sound, doubt="" if event.is_sound else event.text)
    # An answer counts only after the question: what was agreed to must have been shown.
    if event.kind is EventKind.AGREED and progress.asked_at is not None:
        return replace(progress, agreed=progress.agreed | {event.person})
    if event.kind is EventKind.DECLINED and progress.asked_at is not None:
        return replace(progress, declined_by=event.person)
    return progress


def _change_state(plan: RolloutPlan, progress: RolloutProgress, event: Event) -> RolloutProgress:
    """Change the state of a step. What was asked and judged is of the current step, so it ends with that."""
    number, state = event.step, _STEP_STATES[event.kind]
    states = (*progress.states[:number], state, *progress.states[number + 1 :])
    changed = replace(progress, states=states, tries_again=False)
    step = plan.steps[number]
    if isinstance(step, Act) and step.may_take_down and not progress.going_back:
        changed = replace(changed, taken_down_by=changed.taken_down_by or step.name)
    if _is_shift(step):
        changed = replace(changed, returned=False)  # a shift that ends late may have come after the return
    if state is StepState.BEGUN:
        return changed if progress.states[number] is StepState.BEGUN else replace(changed, begun_at=event.at)
    if changed.position(plan) != progress.position(plan):
        changed = replace(changed, begun_at=None, looks=(), verdict="", why="", no_harm=False, is_sound=False, doubt="")
        return replace(changed, asked_at=None, agreed=frozenset(), declined_by="")
    return changed
