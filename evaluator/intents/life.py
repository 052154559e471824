"""The lives of releases, from what is recorded: which one is live, held or rolled back, and why.

What is not known stays so: a request whose outcome is unknown makes no release live, and leaves it open whether the one
before it still is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from evaluator.intents.life_facts import NOUNS, LifeFacts, explain_restart, find_time, is_open, read_life_facts
from evaluator.intents.standing import (
    Standing,
    describe_doubt,
    describe_shares,
    find_end,
    find_service,
    find_shares,
    find_standing,
    read_progress,
)
from evaluator.records.intents import PROMOTING, Action, Intent, IntentState
from evaluator.records.life import Life, LifeEvent, LifeState, ServiceLife
from evaluator.records.rollouts import Event, EventKind, Rollout, RolloutOutcome
from evaluator.store import Store
from evaluator.wording import count_of

_WAITING = {
    IntentState.REQUESTED: LifeState.REQUESTED,
    IntentState.APPROVED: LifeState.APPROVED,
    IntentState.SENT: LifeState.EXECUTING,
}
_WENT_BACK = (RolloutOutcome.ROLLED_BACK, RolloutOutcome.ROLLED_BACK_PARTLY)
_STOPPED = (LifeState.HELD, LifeState.ROLLED_BACK)
_VOID = (IntentState.EXPIRED, IntentState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Lives:
    """The lives of all releases, and what is live of each service."""

    releases: Mapping[str, Life]
    services: Mapping[str, ServiceLife]


def read_lives(store: Store, now: datetime) -> Lives:
    """Read what is recorded of all releases, and find their lives at the moment `now`. It needs no data."""
    return find_lives(read_life_facts(store, now))


def find_lives(facts: LifeFacts) -> Lives:
    """Find the life of each release, and what is live of each service."""
    standing = find_standing(facts)
    services = {service: find_service(facts, service, placements) for service, placements in standing.items()}
    for rollout, events in facts.rollouts:
        if find_end(events) is not None:
            continue
        shares = find_shares(*read_progress(rollout, events))
        for service in rollout.plan["services"]:
            known = services.get(service, ServiceLife(service))
            share = None if shares is None else shares.get(service, 0.0)
            services[service] = replace(known, rollout=rollout.id, candidate=rollout.release, share=share)
    return Lives({release: _find_life(facts, release, standing) for release in facts.services}, services)


def _find_rollout_life(rollout: Rollout, events: Sequence[Event]) -> Life:
    """Find the life of a release by its rollout that has not ended, or went back."""
    plan, progress = read_progress(rollout, events)
    stopped = next((event for event in events if event.kind is EventKind.STOPPED), None)
    ended = find_end(events)
    life = Life(
        rollout.release,
        LifeState.ROLLING_OUT,
        f"rollout {rollout.id} was started",
        rollout.started_at,
        rollout.person,
        rollout.reason,
        rollout=rollout.id,
        shares=find_shares(plan, progress),
    )
    if ended is not None and ended.outcome not in _WENT_BACK:
        what = f"rollout {rollout.id} has ended, and its outcome is not known; it was started"
        return replace(life, state=LifeState.UNKNOWN, what=what, shares=None)
    if ended is not None:
        partly = "" if ended.outcome is RolloutOutcome.ROLLED_BACK else " in part (not all of its acts are undone)"
        return replace(
            life,
            state=LifeState.ROLLED_BACK,
            what=f"rollout {rollout.id} was rolled back{partly}",
            at=datetime.fromtimestamp(ended.at, UTC),
            by=stopped.person if stopped else "",
            why=stopped.text if stopped else "",
            shares={},
        )
    exposure = describe_shares(life.shares, rollout.release)
    if progress is None:
        what = f"rollout {rollout.id}, whose plan this version cannot read, was started"
        return replace(life, state=LifeState.UNKNOWN, what=what, notes=(exposure,))
    if progress.going_back:
        return replace(
            life,
            state=LifeState.GOING_BACK,
            what=f"rollout {rollout.id} began to go back",
            at=datetime.fromtimestamp(stopped.at, UTC) if stopped else None,
            by=stopped.person if stopped else "",
            why=progress.why_back,
            notes=(exposure,),
        )
    held = (f"it is held: {progress.why_held or 'by a person'}",) if progress.held else ()
    return replace(life, notes=(*held, exposure))


def _find_life(facts: LifeFacts, release: str, standing: Standing) -> Life:
    """Find the life of one release: its newest action or rollout decides, unless that ended without effect."""
    intents = [intent for intent in facts.intents if intent.release == release and intent.action is not Action.STEP]
    rollouts = [(rollout, events) for rollout, events in facts.rollouts if rollout.release == release]
    acts = [intent for intent in intents if not intent.rollout and not _is_void(facts, intent)]
    place = _find_place(facts, release, standing)
    newest = acts[-1] if acts else None
    if rollouts and (newest is None or rollouts[-1][0].started_at >= newest.requested_at):
        life = _find_life_by_rollout(*rollouts[-1], place)
    elif newest is not None:
        life = _find_life_by_action(facts, newest, place)
    elif place is not None:
        life = place
    else:
        word, judged_at = facts.judged.get(release, ("", None))
        state, what = (
            (LifeState.JUDGED, f"judged {_write_word(word)}") if word else (LifeState.NOT_JUDGED, "not judged")
        )
        life = Life(release, state, what, judged_at)
    return replace(
        life,
        is_live=place.is_live if place else False,
        notes=(*life.notes, *_list_notes(facts, life, place, acts)),
        judged_since=_is_judged_since(facts, life, intents),
        events=_list_events(facts, release, intents, rollouts),
    )


def _is_void(facts: LifeFacts, intent: Intent) -> bool:
    """Did an intent end without effect: expired, rejected, or stopped before it had begun?"""
    has_expired = (
        intent.state in (IntentState.REQUESTED, IntentState.APPROVED)
        and facts.now is not None
        and intent.expires_at <= facts.now
    )
    return (intent.state in _VOID or has_expired) and not is_open(facts, intent)


def _find_place(facts: LifeFacts, release: str, standing: Standing) -> Life | None:
    """Find whether a release is live, or was replaced; None if it was not given to users, or taken back."""
    services = facts.services[release]
    own = [entry for service in services for entry in standing[service] if entry.release == release]
    if not own:
        return None
    newest = {service: standing[service][-1] for service in services if standing[service]}
    lost = {service: entry for service, entry in newest.items() if entry.release != release}
    mine = max(own, key=lambda entry: entry.at)
    against = any(intent.id == mine.intent and intent.action is Action.BREAK_GLASS for intent in facts.intents)
    what = f"promoted by rollout {mine.rollout}" if mine.rollout else f"promoted{' against the verdict' * against}"
    life = Life(release, LifeState.LIVE, what, mine.at, mine.by, mine.why, (), mine.intent, mine.rollout, is_live=True)
    if mine.restored_by:
        life = replace(life, notes=(f"live again since {mine.restored_by} was rolled back",))
    if mine.doubt is not None:
        return replace(life, state=LifeState.UNKNOWN, notes=(describe_doubt(mine.doubt),), is_live=None)
    if not lost:
        return life
    later = max(lost.values(), key=lambda entry: entry.at)
    if later.doubt is not None:
        state = LifeState.LIVE if later.doubt.state is IntentState.SENT else LifeState.UNKNOWN
        return replace(life, state=state, notes=(*life.notes, describe_doubt(later.doubt)), is_live=None)
    if len(lost) < len(services):
        notes = tuple(f"{service}: {entry.release} has replaced it" for service, entry in lost.items())
        return replace(life, notes=(*life.notes, *notes), is_live=None)
    return Life(
        release,
        LifeState.REPLACED,
        f"was live until {later.release} replaced it",
        later.at,
        intent=mine.intent,
        rollout=mine.rollout,
        replaced_by=later.release,
    )


def _find_life_by_rollout(rollout: Rollout, events: Sequence[Event], place: Life | None) -> Life:
    """Find the life of a release of which a rollout is the newest. `place`: where its promotions are."""
    ended = find_end(events)
    if ended is not None and ended.outcome is RolloutOutcome.PROMOTED and place is not None:
        return place
    return _find_rollout_life(rollout, events)


def _find_life_by_action(facts: LifeFacts, newest: Intent, place: Life | None) -> Life:
    """Find the life of a release by its newest action that is not void. `place`: where its promotions are."""
    noun, ending = NOUNS[newest.action], facts.endings.get(newest.id)
    ending_text = ending.text if ending is not None and ending.event == newest.state else ""
    life = Life(
        newest.release,
        LifeState.UNKNOWN,
        f"{noun} requested",
        find_time(facts, newest),
        newest.requester,
        newest.reason,
        intent=newest.id,
    )
    is_done = newest.state is IntentState.ACKNOWLEDGED
    if newest.action is Action.HOLD and newest.state not in _WAITING:
        if place is not None:
            return place  # what is live stays where it is; `_list_notes` says that it is held
        hooks = () if is_done else (f"hooks of the hold: {ending_text or newest.state}",)
        return replace(life, state=LifeState.HELD, what="held", notes=hooks)
    if is_done and newest.action is Action.ROLLBACK:
        return replace(life, state=LifeState.ROLLED_BACK, what="rolled back")
    if is_done and place is not None:
        return place
    if newest.state in _WAITING:
        state = _WAITING[newest.state]
        notes: tuple[str, ...] = ()
        approvers = [approval.person for approval in facts.approvals.get(newest.id, ())]
        if state is LifeState.REQUESTED:
            missing = max(newest.approvals_needed - len(approvers), 0)
            notes = (f"waits for {count_of(missing, 'approval')}",)
        elif state is LifeState.EXECUTING:
            notes = ("it is being executed",)
        if approvers:
            notes = (*notes, f"approved by {', '.join(approvers)}")
        return replace(life, state=state, what=f"{noun} requested", at=newest.requested_at, notes=notes)
    if newest.state is IntentState.FAILED:
        effect = "after it had begun" if newest.id in facts.begun else "and changed nothing"
        why_failed = (ending_text,) if ending_text else ()
        return replace(life, state=LifeState.FAILED, what=f"{noun} failed {effect}; requested", notes=why_failed)
    return replace(life, what=f"the outcome of the {noun} is not known; requested", notes=())


def _list_notes(facts: LifeFacts, life: Life, place: Life | None, acts: Sequence[Intent]) -> list[str]:
    """List what else holds of a release: what users meet, an earlier hold or rollback, and other requests that wait.

    `acts`: its actions that are not void, the oldest first, without those of rollouts.
    """
    notes = []
    if place is not None and life is not place:
        if place.is_live:
            notes.append("it is live")
        elif place.is_live is None:
            notes.append("what users meet is not known" if place.state is LifeState.UNKNOWN else "a part of it is live")
    stops = [intent for intent in acts if intent.action not in PROMOTING and intent.state not in _WAITING]
    stop = next((intent for intent in reversed(stops) if intent.id != life.intent), None)
    if stop is not None:
        is_later = life.at is None or stop.requested_at >= life.at
        if stop.action is Action.HOLD and is_later:
            notes.append(f"held by {stop.requester}: {stop.reason}")
        elif life.state not in (LifeState.LIVE, LifeState.REPLACED, LifeState.ROLLED_BACK) and not is_later:
            verb = "held" if stop.action is Action.HOLD else "rolled back"
            is_done = stop.state is IntentState.ACKNOWLEDGED
            notes.append(f"{verb} before by {stop.requester}: {stop.reason}" if is_done else describe_doubt(stop))
    notes += [
        f"a {NOUNS[intent.action]} ({intent.id}) {_WAITING[intent.state]}"
        for intent in acts
        if intent.state in _WAITING and intent.id != life.intent
    ]
    if life.state not in (LifeState.NOT_JUDGED, LifeState.JUDGED) and (lost := explain_restart(facts, life.at)):
        notes.append(lost)
    return notes


def _is_judged_since(facts: LifeFacts, life: Life, intents: Sequence[Intent]) -> bool:
    """Was a release judged again since it was held or rolled back?"""
    _word, judged_at = facts.judged.get(life.release, ("", None))
    stops = [find_time(facts, intent) for intent in intents if intent.stops]
    if life.state in _STOPPED and life.at is not None:
        stops.append(life.at)
    return bool(stops) and judged_at is not None and judged_at > max(stops)


def _list_events(
    facts: LifeFacts, release: str, intents: Sequence[Intent], rollouts: Sequence[tuple[Rollout, Sequence[Event]]]
) -> tuple[LifeEvent, ...]:
    """List all that happened to a release, the oldest first."""
    listed = []
    if release in facts.judged:
        word, judged_at = facts.judged[release]
        listed.append(LifeEvent(judged_at, f"judged {_write_word(word)}"))
    for intent in intents:
        noun, ending = NOUNS[intent.action], facts.endings.get(intent.id)
        listed.append(
            LifeEvent(intent.requested_at, f"{noun} requested", intent.requester, intent.reason, intent=intent.id)
        )
        listed += [
            LifeEvent(approval.at, f"{noun} approved", approval.person, intent=intent.id)
            for approval in facts.approvals.get(intent.id, ())
        ]
        if ending is not None and ending.event == intent.state:
            text = f"{noun} {_ENDINGS.get(intent.state, intent.state)}"
            is_done = intent.state is IntentState.ACKNOWLEDGED
            by = ending.actor if intent.state is IntentState.CANCELLED else ""
            listed.append(LifeEvent(ending.at, text, by, "" if is_done else ending.text, intent=intent.id))
    for rollout, events in rollouts:
        listed.append(
            LifeEvent(rollout.started_at, "rollout started", rollout.person, rollout.reason, rollout=rollout.id)
        )
        for event in events:
            if event.kind in _ROLLOUT_TEXTS:
                at = datetime.fromtimestamp(event.at, UTC)
                outcome = str(event.outcome).replace("_", " ") if event.outcome else ""
                text = f"rollout {outcome or _ROLLOUT_TEXTS[event.kind]}"
                listed.append(LifeEvent(at, text, event.person, event.text, rollout=rollout.id))
    return tuple(sorted(listed, key=lambda event: event.at))


_ENDINGS = {
    IntentState.ACKNOWLEDGED: "done",
    IntentState.UNKNOWN: "ended; its outcome is not known",
    IntentState.CANCELLED: "rejected or stopped",
}
_ROLLOUT_TEXTS = {
    EventKind.HELD: "held",
    EventKind.CONTINUED: "continued",
    EventKind.STOPPED: "goes back",
    EventKind.RETURNED: "has returned all users to the baseline",
    EventKind.ENDED: "ended",
}


def _write_word(word: str) -> str:
    """Write the word of a verdict for people."""
    return word.replace("_", "-").upper()
