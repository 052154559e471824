"""All ways that a rollout can go: breadth-first over the events of each strategy's plan, killed drivers included."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

from evaluator.intents.rollout_progress import RolloutProgress, StepState, begin_progress, follow
from evaluator.policy.rollout import RolloutSection
from evaluator.records.rollouts import (
    Act,
    Event,
    EventKind,
    JudgedAt,
    Observe,
    RolloutOutcome,
    RolloutPlan,
    StepNeeds,
    Unanswered,
)
from evaluator.rollout.deciding import Decision, Todo, decide
from evaluator.rollout.strategies import STRATEGIES

LOAD = {"locustfile": "l.py", "baseline": ["http://b"], "canary": ["http://c"], "run_time": "60s"}
HOOK = [{"command": {"run": ["true"]}}]
TEST = {"name": "test", "environment": "test", "load": LOAD}
ACTS = {
    "test": [{"name": "deploy", "hooks": HOOK}],
    "end": [{"name": "dns", "hooks": HOOK, "agree": 1}],
    "always": [{"name": "teardown", "hooks": HOOK}, {"name": "report", "hooks": HOOK}],
}
SECTIONS = {
    "canary": {
        "stages": [
            TEST,
            {"name": "half", "share": "50%", "needs": "no_harm", "bake": "60s", "deadline": "120s"},
            {"name": "full", "share": "100%", "needs": "nothing", "bake": "60s"},
        ]
    },
    "blue_green": {
        "stages": [TEST | {"needs": "go"}, {"name": "switch", "share": "100%", "needs": "nothing", "bake": "9s"}]
    },
    "rolling": {
        "instances": {"least_serving": 1, "replace": [{"command": {"run": ["true"], "undo": ["true"]}}]},
        "router": {"cart": {"haproxy": {"socket": "s", "backend": "cart", "instances": ["s1", "s2"]}}},
        "stages": [
            {"name": "first", "replace": 1, "needs": "no_harm", "bake": "60s"},
            {"name": "rest", "replace": "rest", "needs": "nothing", "bake": "9s"},
        ],
    },
    "ab_test": {
        "outcomes": {"files": ["o.csv"]},
        "stages": [
            {"name": "half", "shares": {"b": "25%", "c": "25%"}, "needs": "winner", "bake": "60s"},
            {"name": "full", "share": "100%", "needs": "nothing", "bake": "60s"},
        ],
    },
    "big_bang": {"stages": [{"name": "all", "share": "100%", "needs": "nothing", "bake": "9s", "agree": 2}]},
}
TIMES = (0.0, 60.0, 120.0, 10_000.0)
"""Seconds after the current step was begun, or after people were asked: each side of each limit."""


def make_plan(
    strategy: str, *, unanswered: str = "baseline", irreversible: bool = False, keeps_baseline: bool = False
) -> RolloutPlan:
    has_test = strategy not in ("big_bang", "ab_test", "rolling")
    acts = ACTS if has_test else {name: acts for name, acts in ACTS.items() if name != "test"}
    if strategy != "big_bang":  # two final acts are enough in one of them: each makes five times as many states
        acts = acts | {"always": ACTS["always"][:1]}
    if strategy == "rolling":  # it has many steps of its own
        acts = {"always": acts["always"]}
    if irreversible:
        acts = acts | {"end": [ACTS["end"][0] | {"irreversible": True}]}
    if keeps_baseline:
        acts = acts | {"end": [ACTS["end"][0] | {"keeps_baseline": True}]}
    section = RolloutSection.model_validate(
        {"strategy": strategy, "live": {"access_log": "x.log"}, "acts": acts} | SECTIONS[strategy]
    )
    groups = [["cart"], ["shop"]] if strategy == "blue_green" else [["cart"]]
    return RolloutPlan(
        "r@1", strategy, tuple(s for g in groups for s in g), STRATEGIES[strategy](section, groups),
        answer_within_s=1000.0, unanswered=Unanswered(unanswered),
    )  # fmt: skip


def list_answers(decision: Decision, needs: StepNeeds | None = None) -> Iterator[tuple[Event, ...]]:
    """List what may happen when a driver does what was decided; at first nothing: it is killed before it writes."""
    yield ()

    def at(kind: EventKind, **values) -> Event:
        return Event(kind, 0.0, decision.step, **values)

    match decision.todo:
        case Todo.EXECUTE:
            begun = at(EventKind.BEGUN)
            yield (begun,)
            yield from ((begun, at(kind)) for kind in (EventKind.DONE, EventKind.FAILED, EventKind.UNKNOWN))
        case Todo.OBSERVE:
            yield (at(EventKind.BEGUN),)
        case Todo.JUDGE if needs is StepNeeds.WINNER:
            yield (at(EventKind.JUDGED, look=decision.look, verdict="go", arm="c", is_sound=True),)
            for verdict, is_sound in (("inconclusive", True), ("inconclusive", False), ("no_go", True), ("go", False)):
                yield (at(EventKind.JUDGED, look=decision.look, verdict=verdict, is_sound=is_sound),)
        case Todo.JUDGE:
            for verdict, no_harm in (("go", True), ("inconclusive", True), ("inconclusive", False), ("no_go", False)):
                yield (at(EventKind.JUDGED, look=decision.look, verdict=verdict, no_harm=no_harm),)
        case Todo.PASS:
            yield (at(EventKind.DONE),)
        case Todo.ASK:
            yield (at(EventKind.ASKED),)
        case Todo.STOP:
            yield (at(EventKind.STOPPED),)
        case Todo.RETURN:
            yield (at(EventKind.RETURNED),)
            yield (at(EventKind.RETURN_FAILED),)
            yield (at(EventKind.KEPT),)
        case Todo.UNDO:
            begun = at(EventKind.UNDO_BEGUN)
            yield (begun,)
            yield (begun, at(EventKind.UNDONE))
            yield (begun, at(EventKind.UNDO_FAILED))
        case Todo.READ_BACK:
            yield (at(EventKind.READ_BACK),)
            yield (at(EventKind.DRIFTED),)
        case Todo.END:
            yield (at(EventKind.ENDED, outcome=decision.outcome),)


def list_interruptions(plan: RolloutPlan, progress: RolloutProgress) -> Iterator[Event]:
    """List what others may do at any time: people, and the guard."""
    position = progress.position(plan)
    yield Event(EventKind.STOPPED, 0.0)
    yield Event(EventKind.STOPPED, 0.0, person="ann")
    yield Event(EventKind.HELD, 0.0)
    yield Event(EventKind.CONTINUED, 0.0)
    yield Event(EventKind.JUDGED, 0.0, position, verdict="no_go")
    yield Event(EventKind.JUDGED, 0.0, position, verdict="go", no_harm=True)
    yield Event(EventKind.DECLINED, 0.0, position, person="ben")
    for person in ("ann", "ben"):
        yield Event(EventKind.AGREED, 0.0, position, person=person)
    if position < plan.body and progress.states[position] is StepState.UNKNOWN:
        yield Event(EventKind.DONE, 0.0, position, person="ann")
        yield Event(EventKind.FAILED, 0.0, position, person="ann")
    yield Event(EventKind.DRIFTED, 0.0)
    # What comes late, or from a driver that was killed meanwhile.
    yield Event(EventKind.RETURNED, 0.0)
    yield Event(EventKind.READ_BACK, 0.0)
    yield Event(EventKind.UNDONE, 0.0)
    for number, step in enumerate(plan.steps):
        if is_shift(step) and progress.states[number] is StepState.BEGUN:
            yield Event(EventKind.DONE, 0.0, number)


def is_shift(step) -> bool:
    return isinstance(step, Act) and step.is_shift


def may_have_shifted(plan: RolloutPlan, progress: RolloutProgress) -> bool:
    steps = zip(plan.steps, progress.states, strict=True)
    return any(is_shift(step) and state is not StepState.WAITING for step, state in steps)


def may_have_exposed(plan: RolloutPlan, progress: RolloutProgress) -> bool:
    """May a shift have given users to the candidate, who are not back by instances that were restored?"""
    restored = (StepState.UNDONE,) if progress.kept else ()
    steps = zip(plan.steps, progress.states, strict=True)
    return any(
        is_shift(step) and step.share > 0 and state not in (StepState.WAITING, *restored) for step, state in steps
    )


def check_event(plan: RolloutPlan, progress: RolloutProgress, event: Event, after: RolloutProgress) -> None:
    """Assert what holds of each single event."""
    assert after.going_back >= progress.going_back, "there is no turning forward again"
    step = plan.steps[event.step]
    if event.step >= 0 and is_shift(step) and event.kind is not EventKind.ASKED and progress.outcome is None:
        assert after == progress or not after.returned, "a late shift may have come after the return"
    if event.kind is EventKind.READ_BACK and progress.outcome is None and after.confirmed:
        assert set(after.states[: plan.watched]) == {StepState.DONE}, "only the last share is all traffic"
    if event.kind is EventKind.JUDGED and event.look is JudgedAt.MEANWHILE and event.verdict == "go":
        assert after == progress, "a look before its time allows nothing"
    if event.kind is EventKind.RETURNED and not progress.going_back:
        assert not after.returned, "traffic has returned only if it was to return"
    if event.kind is EventKind.STOPPED and not event.person and not progress.going_back:
        acted = {s.name for s, state in zip(plan.steps, progress.states, strict=True) if state is not StepState.WAITING}
        if acted & {s.name for s in plan.steps if isinstance(s, Act) and s.irreversible}:
            assert not after.going_back, "after an act without a way back, a person decides"
        if progress.taken_down_by:
            assert not after.going_back, "nor after one that may have taken down the servers of the baseline"
    if event.kind is EventKind.BEGUN and isinstance(step, Act) and step.may_take_down and not progress.going_back:
        assert after.taken_down_by or after == progress, "an act that may take down the baseline is remembered"
    if progress.taken_down_by and not after.taken_down_by:
        assert event.kind in (EventKind.UNDONE, EventKind.RETURNED), "until it is undone, or users are back"
        assert progress.going_back


def check_time(plan: RolloutPlan, progress: RolloutProgress, decision: Decision, now: float) -> None:
    """Assert that nothing comes before its time. In this model each step begins at 0."""
    if decision.todo is Todo.JUDGE:
        step = plan.steps[decision.step]
        assert isinstance(step, Observe)
        assert now >= (step.bake_s if decision.look is JudgedAt.BAKE else step.deadline_s)
    if decision.todo is Todo.STOP and "no person has answered" in decision.why:
        assert now >= plan.answer_within_s


def check_decision(plan: RolloutPlan, progress: RolloutProgress, decision: Decision) -> None:
    """Assert what holds in each state, whatever happened before."""
    assert (progress.exposed(plan) > 0) == (may_have_exposed(plan, progress) and not progress.returned)
    if not progress.going_back and progress.outcome is None:
        must_stop = progress.verdict == "no_go" or (progress.drifts == 2 and may_have_shifted(plan, progress))
        is_stuck = progress.held and progress.explain_no_return(plan)
        assert not must_stop or decision.todo is (Todo.WAIT if is_stuck else Todo.STOP)
    step = plan.steps[decision.step] if decision.step >= 0 and decision.step < len(plan.steps) else None
    states = progress.states
    if decision.todo is Todo.EXECUTE:
        assert isinstance(step, Act)
        is_tried_again = progress.tries_again and states[decision.step] is StepState.FAILED
        assert is_tried_again or states[decision.step] in (StepState.WAITING, StepState.BEGUN), "no act twice"
        before = states[: decision.step]
        if step.to_winner:
            assert progress.winner == "c", "only an arm that has won"
        if not step.final:
            assert set(before) <= {StepState.DONE}, "everything before it has passed"
            assert not progress.going_back
            assert not progress.held
            assert len(progress.agreed) >= step.agree or states[decision.step] is StepState.BEGUN
        if step.final and progress.going_back:
            assert progress.exposed(plan) == 0, "nothing is torn down under users"
        if step.final and not progress.going_back:
            assert progress.confirmed
    if decision.todo is Todo.OBSERVE:
        assert isinstance(step, Observe)
        assert not progress.held
    if progress.going_back:
        waits = (Todo.WAIT,) if progress.held else ()
        assert decision.todo in (Todo.RETURN, Todo.UNDO, Todo.EXECUTE, Todo.END, Todo.NOTHING, *waits)
        assert decision.todo is not Todo.EXECUTE or (isinstance(step, Act) and step.final)
        if progress.taken_down_by:
            assert decision.todo in (Todo.UNDO, Todo.NOTHING, *waits), "users do not return to servers that are gone"
        elif decision.todo is not Todo.RETURN:
            assert progress.exposed(plan) == 0 or (progress.kept and decision.todo in (Todo.UNDO, *waits)), (
                "traffic returns first, as far as old instances can carry it"
            )
    if decision.todo is Todo.END:
        finals = states[plan.body :]
        assert not set(finals) & {StepState.WAITING, StepState.BEGUN}, "each final act was executed"
        assert progress.exposed(plan) == (0 if progress.going_back else 1)
        assert (decision.outcome is RolloutOutcome.PROMOTED) == (not progress.going_back)
        assert progress.going_back or plan.strategy != "ab_test" or progress.winner == "c"
        if decision.outcome is RolloutOutcome.ROLLED_BACK:
            steps = zip(plan.steps[: plan.body], states[: plan.body], strict=True)
            acts = [state for step, state in steps if isinstance(step, Act)]
            assert set(acts) <= {StepState.WAITING, StepState.UNDONE}, "all acts are undone"


def simplify(progress: RolloutProgress) -> RolloutProgress:
    """Leave out what decides nothing: why it is held or goes back, and which of the two people agreed first.

    With it there are four times as many states.
    """
    if progress.why_held or progress.why_back or progress.cause_back:
        progress = replace(progress, why_held="", why_back="", cause_back=None)
    if progress.agreed == {"ben"}:
        progress = replace(progress, agreed=frozenset({"ann"}))
    return progress


@cache
def explore(name: str) -> dict[RolloutProgress, set[RolloutProgress]]:
    """Find all states of a rollout, and from each those that may follow; what holds in each is asserted."""
    plan = PLANS[name]
    following: dict[RolloutProgress, set[RolloutProgress]] = {}
    waiting = deque([begin_progress(plan)])
    while waiting:
        progress = waiting.popleft()
        if progress in following:
            continue
        following[progress] = set()
        decisions = set()
        for now in TIMES:
            decision = decide(plan, progress, now)
            check_time(plan, progress, decision, now)
            decisions.add(decision)
        ways = [(event,) for event in list_interruptions(plan, progress)]
        for decision in decisions:
            check_decision(plan, progress, decision)
            step = plan.steps[decision.step] if 0 <= decision.step < len(plan.steps) else None
            ways += list_answers(decision, step.needs if isinstance(step, Observe) else None)
        for events in ways:
            after = progress
            for event in events:
                if event.kind is EventKind.RETURN_FAILED and progress.return_failures:
                    continue  # the second failure is like the first
                if event.kind is EventKind.DRIFTED and progress.drifts == 2:
                    continue  # as is the third drift
                before, after = after, follow(plan, after, event)
                check_event(plan, before, event, after)
            after = simplify(after)
            if after not in following[progress]:
                following[progress].add(after)
                waiting.append(after)
    return following


PLANS = {
    "canary": make_plan("canary"),
    "big_bang, silence stays, its end keeps the baseline": make_plan(
        "big_bang", unanswered="stay", keeps_baseline=True
    ),
    "canary, no way back at its end": make_plan("canary", irreversible=True),
    "blue_green": make_plan("blue_green"),
    "rolling": make_plan("rolling"),
    "big_bang": make_plan("big_bang"),
    "ab_test": make_plan("ab_test"),
}


@pytest.mark.parametrize("name", PLANS)
def test_every_way_is_safe_and_ends(name):
    following = explore(name)
    ends = {progress for progress in following if progress.outcome is not None}
    assert {progress.outcome for progress in ends} >= {RolloutOutcome.PROMOTED, RolloutOutcome.ROLLED_BACK}
    # From each state an end can be reached: states are walked backwards from the ends.
    before: dict[RolloutProgress, set[RolloutProgress]] = {}
    for progress, afters in following.items():
        for after in afters:
            before.setdefault(after, set()).add(progress)
    reached, waiting = set(ends), deque(ends)
    while waiting:
        for earlier in before.get(waiting.popleft(), ()):
            if earlier not in reached:
                reached.add(earlier)
                waiting.append(earlier)
    assert reached == set(following)
    # No turning round: a rollout that goes back is never promoted.
    assert all(progress.going_back for progress in ends if progress.outcome is not RolloutOutcome.PROMOTED)


@pytest.mark.parametrize("name", PLANS)
def test_a_shift_follows_only_what_was_shown(name):
    """Before each share of users, all observations have shown what they need, or a person agreed."""
    plan = PLANS[name]
    for progress in explore(name):
        for position, step in enumerate(plan.steps[: plan.body]):
            if isinstance(step, Act) and step.is_shift and progress.states[position] is not StepState.WAITING:
                earlier = [n for n in range(position) if isinstance(plan.steps[n], Observe)]
                assert all(progress.states[n] is StepState.DONE for n in earlier)


def test_no_harm_and_go_are_told_apart():
    plan = PLANS["canary"]
    looks = {"go": ("go", True), "no harm": ("inconclusive", True), "nothing": ("inconclusive", False)}
    passed = {}
    for position, step in enumerate(plan.steps):
        if not isinstance(step, Observe):
            continue
        states = tuple([StepState.DONE] * position + [StepState.WAITING] * (len(plan.steps) - position))
        for name, (verdict, no_harm) in looks.items():
            progress = RolloutProgress(states)
            for event in (
                Event(EventKind.BEGUN, 0.0, position),
                Event(EventKind.JUDGED, 60.0, position, look=JudgedAt.BAKE, verdict=verdict, no_harm=no_harm),
            ):
                progress = follow(plan, progress, event)
            passed[step.name, name] = decide(plan, progress, 60.0).todo is Todo.PASS
    assert passed == {
        ("test", "go"): True, ("test", "no harm"): False, ("test", "nothing"): False,
        ("half", "go"): True, ("half", "no harm"): True, ("half", "nothing"): False,
        ("full", "go"): True, ("full", "no harm"): True, ("full", "nothing"): True,
    }  # fmt: skip
