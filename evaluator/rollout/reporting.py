"""The report of a rollout, from its plan, its events, its verdicts and the requests of its users."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from evaluator.errors import UnknownName
from evaluator.intents.rollout_progress import RolloutProgress, StepState, begin_progress, fold, follow
from evaluator.records import EvidenceKind, Run, StoredVerdict, Verdict, VerdictWord
from evaluator.records.rollouts import (
    Act,
    Event,
    EventKind,
    Observe,
    Rollout,
    RolloutOutcome,
    RolloutPlan,
    StepNeeds,
    StopCause,
    Unanswered,
    from_plain,
)
from evaluator.reports import VERDICT_WORDS, read_stored
from evaluator.reports.rollout import ReportedEvent, RolloutPage, Rung, StepRequests, StepRow, StepVerdict
from evaluator.rollout.deciding import Todo, decide
from evaluator.rollout.describing import (
    LOOKS,
    describe_needs,
    describe_new_instances,
    describe_place,
    write_ways_on,
)
from evaluator.rollout.locking import find_driver_of
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts
from evaluator.version import find_version
from evaluator.wording import count_of, format_duration, format_number, quote_command, write_command

BETWEEN = "between the steps"
"""Name of the requests of users that belong to no step: those of the moments in which shares changed."""

LEAST_SHOWN_S = 0.05
"""A shorter time is shown as none."""

EXPOSURE_NOTE = (
    "Requests of users by the access log of the router, attempts that it tried again included. Those between the "
    "steps came while shares changed, and no verdict counts them; in a step that turned back, no share was kept."
)

_STATES = {
    StepState.WAITING: ("to come", "none"),
    StepState.BEGUN: ("begun", "inconclusive"),
    StepState.DONE: ("done", "pass"),
    StepState.FAILED: ("failed", "fail"),
    StepState.UNKNOWN: ("not known", "inconclusive"),
    StepState.UNDONE: ("undone", "inconclusive"),
    StepState.UNDO_FAILED: ("not undone", "fail"),
}
"""State of a step → its words, and how they are coloured."""

_HAPPENINGS = {
    EventKind.UNKNOWN: "outcome not known",
    EventKind.ASKED: "people were asked",
    EventKind.CONTINUED: "goes on",
    EventKind.STOPPED: "goes back",
    EventKind.RETURNED: "traffic is back at the baseline",
    EventKind.RETURN_FAILED: "traffic could not be returned",
    EventKind.KEPT: "users stay at new instances until these are restored",
    EventKind.UNDO_BEGUN: "undoing the acts",
    EventKind.UNDONE: "acts are undone",
    EventKind.UNDO_FAILED: "acts could not all be undone",
    EventKind.READ_BACK: "the candidate has all traffic",
    EventKind.DRIFTED: "the router had other shares",
}
"""Event → what happened, where its own name does not say it."""

_WORDS = {
    RolloutOutcome.PROMOTED: ("PROMOTED ✓", "go"),
    RolloutOutcome.ROLLED_BACK: ("ROLLED BACK ↩", "no_go"),
    RolloutOutcome.ROLLED_BACK_PARTLY: ("ROLLED BACK IN PART ✗", "no_go"),
}
"""How a rollout ended → its word, and how it is coloured."""


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """What the store has of one rollout."""

    rollout: Rollout
    events: tuple[Event, ...] = ()
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """Name of a step → its newest verdict."""
    exposures: tuple[StepRequests, ...] = ()
    """Requests of users, a row a step, in their order."""
    late: int = 0
    """Requests that were logged after their step was closed."""
    driver: str = ""
    """A sentence on the process that drives it; empty: not known."""


def read_facts(store: Store, rollout: Rollout) -> RolloutFacts:
    """Read what the store has of a rollout. Raises InputError for a verdict of another version."""
    exposures, late = read_requests(store, rollout)
    return replace(read_decisions(store, rollout), exposures=exposures, late=late)


def read_decisions(store: Store, rollout: Rollout) -> RolloutFacts:
    """Read all of a rollout but its requests: what the decisions have.

    Raises InputError for a verdict of another version.
    """
    rollouts = Rollouts(store.control.file)
    steps = {step["name"] for step in rollout.plan["steps"] if step["kind"] == "observe"}
    verdicts: dict[str, Verdict] = {}
    stored_verdicts: tuple[StoredVerdict, ...] = ()
    with contextlib.suppress(UnknownName):  # nothing of the release has landed yet
        stored_verdicts = store.control.verdicts(rollout.release)
    for stored in stored_verdicts:  # the newest last
        if stored.judged_at < rollout.started_at:
            continue
        verdict = read_stored(stored)
        if verdict.step in steps:
            verdicts[verdict.step] = verdict
    driver = _describe_driver(store, rollout)
    return RolloutFacts(rollout, rollouts.events(rollout.id), verdicts, driver=driver)


def read_requests(store: Store, rollout: Rollout) -> tuple[tuple[StepRequests, ...], int]:
    """Count the requests of users, a row a step, and those that were logged after their step was closed."""
    runs = _read_live_runs(store, rollout)
    late = sum(run.facts.router.late for run in runs if run.facts.router)
    return tuple(_read_exposures(store, rollout, runs)), late


def _describe_driver(store: Store, rollout: Rollout) -> str:
    """Say who drives a rollout, or did; empty: no process ever did."""
    driver = find_driver_of(store, rollout.id, rollout.plan["services"])
    if driver is None:
        return ""
    return driver.describe() + ("" if driver.is_there else ", which is gone")


def _read_live_runs(store: Store, rollout: Rollout) -> list[Run]:
    """Read the runs with requests of users since the rollout was started."""
    try:
        stored = store.data.runs(rollout.release)
    except UnknownName:  # nothing of the release has landed yet
        return []
    return [
        run for run in stored if run.kind is EvidenceKind.LIVE and run.started and run.started >= rollout.started_at
    ]


def _read_exposures(store: Store, rollout: Rollout, runs: Sequence[Run]) -> Iterator[StepRequests]:
    """Count the requests of users in these runs, by step; those of no step come last."""
    if not runs:
        return
    cells = store.data.read_cells([run.id for run in runs])
    shares = {step["name"]: step["share"] for step in rollout.plan["steps"] if step["kind"] == "observe"}
    moments, steps = cells.moments, dict.fromkeys(run.step for run in runs)
    of_baseline = moments.arm == 0  # `Cells.arms` begins with it
    for step in sorted(steps, key=lambda name: not name):
        is_of_step = [run_id in {run.id for run in runs if run.step == step} for run_id in cells.runs]
        # A run of which nothing has landed yet has no moments.
        chosen = np.array(is_of_step, dtype=bool)[moments.run.astype(int)]
        counts = [
            int(column[chosen & arm].sum())
            for column in (moments.n, moments.failures)
            for arm in (of_baseline, ~of_baseline)
        ]
        baseline, candidate, baseline_failures, candidate_failures = counts
        if step or candidate:
            yield StepRequests(
                step or BETWEEN,
                shares.get(step),
                baseline + candidate,
                candidate,
                candidate_failures,
                baseline_failures,
            )


def make_report(facts: RolloutFacts, now: datetime) -> RolloutPage:
    """Make the report of a rollout as it is now. Raises PlanNotReadable for a plan of another version."""
    rollout, events = facts.rollout, facts.events
    plan = from_plain(rollout.plan)
    progress = fold(plan, events)
    turned = find_turn(plan, events)
    word, kind = _choose_word(plan, progress, now)
    verdicts = {
        number: StepVerdict(
            step.name,
            f"verdict-{number + 1}",
            verdict,
            # A test judges requests and outcomes apart, by the shares of its stage, which no command does.
            "" if step.arm_shares else write_command(rollout.release, "--step", step.name),
        )
        for number, step in enumerate(plan.steps)
        if isinstance(step, Observe) and (verdict := facts.verdicts.get(step.name))
    }
    versions = [service.baseline for verdict in facts.verdicts.values() for service in verdict.release.services]
    return RolloutPage(
        release=rollout.release,
        id=rollout.id,
        word=word,
        kind=kind,
        against=", ".join(dict.fromkeys(filter(None, versions))),
        why=_write_why(plan, progress, turned, now),
        next_action=_choose_next_action(plan, progress),
        facts=tuple(_list_facts(facts, plan, progress, now)),
        ladder=tuple(list_rungs(facts, plan)),
        steps=tuple(_list_steps(plan, progress, turned, events, verdicts)),
        exposures=list_exposures(facts, plan),
        exposure_note=EXPOSURE_NOTE + _note_late(facts.late),
        happenings=tuple(_list_happenings(plan, rollout, events)),
        verdicts=tuple(verdicts.values()),
        rules=tuple(_list_rules(rollout, plan)),
        written_at=now,
        version=find_version(),
    )


def _note_late(late: int) -> str:
    """Say how many requests are missing; empty: none is known to be."""
    verb = "was" if late == 1 else "were"
    return f" {count_of(late, 'request')} {verb} logged after the step was closed, and not counted." if late else ""


def find_turn(plan: RolloutPlan, events: Sequence[Event]) -> int | None:
    """Find the position of the step at which the rollout turned back; None: it did not."""
    progress = begin_progress(plan)
    for event in events:
        after = follow(plan, progress, event)
        if after.going_back:
            return progress.position(plan)
        progress = after
    return None


def list_exposures(facts: RolloutFacts, plan: RolloutPlan) -> tuple[StepRequests, ...]:
    """List who met the candidate, a row a step. In the step that turned back its share changed, so none was wanted."""
    turned = find_turn(plan, facts.events)
    name = plan.steps[turned].stage if turned is not None and turned < plan.body else ""
    return tuple(replace(row, wanted=None) if row.step == name else row for row in facts.exposures)


def _choose_word(plan: RolloutPlan, progress: RolloutProgress, now: datetime) -> tuple[str, str]:
    """Choose the word on a rollout, and how it is coloured."""
    if progress.outcome is not None:
        return _WORDS[progress.outcome]
    if progress.held:
        return "HELD", "inconclusive"
    if progress.going_back:
        return "GOING BACK ↩", "no_go"
    if progress.asked_at is not None and decide(plan, progress, now.timestamp()).todo is Todo.WAIT:
        return "WAITS FOR A PERSON", "inconclusive"
    return "RUNNING", "inconclusive"


def _write_why(plan: RolloutPlan, progress: RolloutProgress, turned: int | None, now: datetime) -> str:
    """Write in one sentence why the rollout is where it is."""
    if progress.going_back and progress.held:
        return f"Held on its way back: {progress.why_held}."
    if progress.going_back:
        where = plan.steps[turned] if turned is not None and turned < plan.body else None
        place = f" at {where.stage}" if where else ""
        return f"Turned back{place}: {progress.why_back}."
    if progress.outcome is RolloutOutcome.PROMOTED:
        arm = f"{progress.winner}, the arm that won," if progress.winner else "the candidate"
        return f"Each stage has shown what it needed, and the router says that {arm} has all traffic."
    decision = decide(plan, progress, now.timestamp())
    if progress.held:
        return f"Held: {progress.why_held}."
    step = plan.steps[decision.step] if decision.step >= 0 else None
    if decision.todo is Todo.WAIT and isinstance(step, Observe) and decision.until and not decision.why:
        until = datetime.fromtimestamp(decision.until, UTC)
        return f"{step.name} is observed until {until:%H:%M:%S} UTC; it needs {describe_needs(step)}."
    return f"{decision.why[:1].upper()}{decision.why[1:]}." if decision.why else ""


def _choose_next_action(plan: RolloutPlan, progress: RolloutProgress) -> str:
    """Say what to do next."""
    release = plan.release
    rollback, resume = (quote_command(*words, release) for words in (("rollback",), ("rollout", "resume")))
    if progress.outcome is RolloutOutcome.PROMOTED:
        return f"nothing; `{rollback}` takes it back"
    if progress.outcome is RolloutOutcome.ROLLED_BACK and progress.cause_back is StopCause.NO_WINNER:
        return "nothing; no arm was shown to be within its margins, so users stay at the baseline"
    if progress.outcome is RolloutOutcome.ROLLED_BACK:
        return "find and fix the cause, and roll out a new version"
    if progress.outcome is RolloutOutcome.ROLLED_BACK_PARTLY:
        return f"undo by hand what could not be undone: `{quote_command('hooks', 'list', release)}` has it"
    if progress.held:
        return write_ways_on(plan, progress)
    if progress.going_back:
        return f"if its driver is gone: `{resume}`"
    if progress.asked_at is not None:
        return "`evaluator approve` lists what waits for an answer"
    return f"`{quote_command('rollout', 'status', release)}`; `{rollback}` turns it back at once"


def _list_facts(
    facts: RolloutFacts, plan: RolloutPlan, progress: RolloutProgress, now: datetime
) -> Iterator[tuple[str, str]]:
    """List name and value of what stands in the head of the report."""
    rollout, events = facts.rollout, facts.events
    yield "rollout", rollout.id
    yield "strategy", plan.strategy.replace("_", "-")
    yield "services", ", ".join(plan.services)
    yield "started", f"{rollout.started_at:%Y-%m-%d %H:%M:%S} UTC by {rollout.person}"
    end = next((event.at for event in events if event.kind is EventKind.ENDED), None)
    duration = format_duration(round((end or now.timestamp()) - rollout.started_at.timestamp()))
    yield ("took" if end else "so far"), duration
    if not end and facts.driver:
        yield "driver", facts.driver
    if not end and events:
        newest = format_duration(max(round(now.timestamp() - events[-1].at), 0))
        yield "newest event", f"{newest} ago"
    if facts.exposures:
        requests = sum(row.candidate for row in facts.exposures)
        failures = sum(row.candidate_failures for row in facts.exposures)
        yield "met the candidate", f"{count_of(requests, 'request')}, {format_number(failures)} of them failed"
    if counted := find_counted(events):
        yield "next to the log", f"{counted}; the log has no line of some that never got an answer"
    returned_s = find_return_s(events)
    if returned_s is not None:
        is_at_once = returned_s < LEAST_SHOWN_S
        yield "off the traffic", "at once" if is_at_once else f"{returned_s:.1f} s after it was to go back"
    elif progress.going_back and not progress.returned and progress.was_shifted(plan):
        yield "off the traffic", "not yet"


def find_counted(events: Sequence[Event]) -> str:
    """Find what the routers had counted of the candidate when the guard's watch ended; empty if it is not known."""
    for event in reversed(events):
        if event.kind is EventKind.RETURNED:
            return event.text
        if event.kind is EventKind.READ_BACK:
            return event.text.partition("; ")[2]
    return ""


def find_return_s(events: Sequence[Event]) -> float | None:
    """Find how long (s) it took from the decision to go back until the traffic was at the baseline; None: it is not.

    The guard returns traffic by itself, so this may be 0.
    """
    stopped = next((event.at for event in events if event.kind is EventKind.STOPPED), None)
    returned = next((event.at for event in events if event.kind is EventKind.RETURNED), None)
    return max(returned - stopped, 0.0) if stopped is not None and returned is not None else None


# ------------------------------------------------------------------ ladder and steps


def list_rungs(facts: RolloutFacts, plan: RolloutPlan) -> Iterator[Rung]:
    """List the stages in their order. The acts before an observation belong to its stage."""
    progress, turned = fold(plan, facts.events), find_turn(plan, facts.events)
    realised = {row.step: row.share for row in list_exposures(facts, plan) if row.wanted and row.requests}
    first = 0
    for number, step in enumerate(plan.steps[: plan.body]):
        if not isinstance(step, Observe):
            continue
        numbers = range(first, number + 1)
        first = number + 1
        verdict = facts.verdicts.get(step.name)
        state = _find_rung_state(plan, progress, turned, numbers)
        note = _note_result(step, verdict, [event for event in facts.events if event.step == number])
        place = (
            step.environment if step.services == plan.services else f"{step.environment}: {', '.join(step.services)}"
        )
        yield Rung(
            name=step.name,
            place=", ".join((place, *describe_new_instances(plan, number))),
            state=state,
            needs=step.needs.label,
            note="not judged" if state == "turned" and verdict is None else note,
            wanted=step.share or None,
            realised=realised.get(step.name) if step.share else None,
        )


def _note_result(step: Observe, verdict: Verdict | None, events: Sequence[Event]) -> str:
    """Write in a few words what an observation has shown, or what it needs if it was not judged. `events`: its own."""
    looks = [event for event in events if event.kind is EventKind.JUDGED]
    if verdict is None:
        return f"needs {describe_needs(step)}"
    if looks and looks[-1].arm:
        return f"{looks[-1].arm} has won"
    if step.needs is not StepNeeds.NO_HARM or verdict.word is VerdictWord.NO_GO or not looks:
        return VERDICT_WORDS[verdict.word]
    return "no harm shown" if looks[-1].no_harm else "no harm not shown"


def _find_rung_state(plan: RolloutPlan, progress: RolloutProgress, turned: int | None, numbers: range) -> str:
    """Find the state of a stage whose steps have these positions; the last one is its observation."""
    current = turned if turned is not None else progress.position(plan)
    if current in numbers:
        return "now" if turned is None else "turned"
    if current < numbers[0]:
        return "later" if turned is None else "skipped"
    has_users = bool(plan.steps[numbers[-1]].share)
    return "undone" if turned is not None and has_users else "done"


def _list_steps(
    plan: RolloutPlan,
    progress: RolloutProgress,
    turned: int | None,
    events: Sequence[Event],
    verdicts: Mapping[int, StepVerdict],
) -> Iterator[StepRow]:
    """List the steps with what became of them."""
    has_ended = progress.outcome is not None
    for number, step in enumerate(plan.steps):
        own = [event for event in events if event.step == number]
        began = next((event.at for event in own if event.kind is EventKind.BEGUN), None)
        kinds = (EventKind.DONE, EventKind.FAILED, EventKind.UNKNOWN)
        ended = next((event.at for event in own if event.kind in kinds and began is not None), None)
        if ended is None and number == turned and began is not None:
            ended = next(event.at for event in events if event.kind is EventKind.STOPPED)
        state, level = _STATES[progress.states[number]]
        if number == turned and isinstance(step, Observe):
            state, level = "turned back here", "fail"
        elif progress.states[number] is StepState.WAITING and (has_ended or progress.going_back):
            state = "not begun"
        texts = [text for event in own if event.kind is not EventKind.BEGUN for text in (event.text, event.note)]
        notes = [*dict.fromkeys(filter(None, texts))]
        notes += [progress.why_back] if number == turned and progress.why_back not in notes else []
        yield StepRow(
            number=number + 1,
            name=step.name if isinstance(step, Act) else f"observe {step.name}",
            where=describe_place(step),
            needs=describe_needs(step),
            state=state,
            level=level,
            share=f"{format_number(100 * step.share)} %" if step.share else "–",
            began=None if began is None else datetime.fromtimestamp(began, UTC),
            took="" if began is None or ended is None else format_duration(round(max(ended - began, 0.0), 1)),
            notes=tuple(dict.fromkeys(notes)),
            anchor=verdicts[number].anchor if number in verdicts else "",
        )


# ------------------------------------------------------------------ events and rules


def _list_happenings(plan: RolloutPlan, rollout: Rollout, events: Sequence[Event]) -> Iterator[ReportedEvent]:
    """List what happened, the oldest first, without the begins and ends of steps."""
    yield ReportedEvent(rollout.started_at, "started", "", rollout.person, rollout.reason)
    for event in events:
        if event.kind in (EventKind.BEGUN, EventKind.DONE) and not event.person:
            continue  # the table of the steps has these
        what = _HAPPENINGS.get(event.kind, event.kind.value.replace("_", " "))
        if event.kind is EventKind.JUDGED:
            no_harm = ", no harm shown" if event.no_harm else ""
            what = f"judged {LOOKS[event.look]}: {event.verdict.replace('_', '-').upper()}{no_harm}"
            what += f", {event.arm} has won" if event.arm else ""
        elif event.kind is EventKind.ENDED and event.outcome:
            what = f"ended: {event.outcome.replace('_', ' ')}"
        name = plan.steps[event.step].name if 0 <= event.step < len(plan.steps) else ""
        yield ReportedEvent(datetime.fromtimestamp(event.at, UTC), what, name, event.person, event.text)


def _list_rules(rollout: Rollout, plan: RolloutPlan) -> Iterator[tuple[str, str]]:
    """List the limits that held while users met the candidate, and what identifies the plan."""
    guard = plan.guard
    p95 = "" if guard.p95_ms is None else f", or a p95 above {format_number(guard.p95_ms)} ms"
    base = f"{format_duration(guard.over_s)} and {count_of(guard.least, 'request')} at least"
    yield "guard", f"back at more than {format_number(100 * guard.failures)} % failures{p95}, over {base}"
    yield "without a driver", f"back after {format_duration(plan.lease_s)}"
    silence = "back" if plan.unanswered is Unanswered.BASELINE else "it goes on waiting"
    yield "no answer", f"{silence} after {format_duration(plan.answer_within_s)}"
    yield "NO-GO of a stage", f"at alpha {format_number(plan.alpha_no_go)}"
    yield "plan", rollout.plan_hash
    yield "policy", plan.policy_hash or "–"
    yield "planned by", plan.evaluator_version or "–"
