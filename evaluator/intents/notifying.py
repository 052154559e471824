"""Notifying people: of each request that waits for agreement, and of how each request ended.

What happened is read from the audit trail, after it happened: so nothing waits for a message, and none is lost if the
process that acted is killed. The next command or worker sends it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from evaluator.errors import EvaluatorError
from evaluator.hooks import HookContext, Outcome, Step, list_secrets, make_step, redact_outcome, run_hook
from evaluator.intents.describing import describe_ask, describe_missing
from evaluator.intents.observing import find_latest
from evaluator.intents.steps import PlannedHook, make_context, make_link
from evaluator.intents.versions import read_hook_release
from evaluator.policy import Policy
from evaluator.policy.promotion import PromotionRules
from evaluator.records import Release, StoredVerdict
from evaluator.records.intents import FINAL_STATES, NOTIFY, Action, AuditRow, Intent, IntentState, Person
from evaluator.store import Store
from evaluator.store.notifications import MOST_ATTEMPTS, Notifications
from evaluator.wording import quote_command

TIME_S = 10.0
"""How long all messages may take that are sent at the same time."""
_LONGEST_ANSWER = 200
"""Characters of a receiver's answer in the sentence that it did not accept a message."""
_NEWS_FOR = timedelta(hours=1)
"""What is older is no news any more."""
WAITING = "waiting"
"""Outcome of a request that waits for agreement, as messages have it."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Message:
    """One row of the audit trail, for one hook."""

    row: AuditRow
    position: int
    attempt: int
    step: Step
    context: HookContext


def notify_people(store: Store, load: Callable[[str], Policy], say: Say = lambda _text: None) -> None:
    """Send what people were not notified of yet, by the hooks of the event `notify`. Raises nothing.

    `load` reads the current policy of a release. Takes little longer than `TIME_S`. What could not be sent is stored,
    and passed to `say` as a sentence; another call tries it again, for an hour.
    """
    try:
        _send_all(store, _prepare(store, load, say), say)
    except EvaluatorError as error:
        say(f"people are not notified now: {error.message}")


def _prepare(store: Store, load: Callable[[str], Policy], say: Say) -> list[_Message]:
    """Claim what is to be sent now."""
    log = Notifications(store.control.file)
    messages = []
    events = (IntentState.REQUESTED, *FINAL_STATES)
    for row in log.list_news(events, datetime.now(UTC) - _NEWS_FOR):
        intent = store.control.intent(row.intent)
        if row.event == IntentState.REQUESTED and intent.state is not IntentState.REQUESTED:
            continue  # it needed no agreement, or has it
        if intent.action is Action.STEP and not _is_news_of_step(store, intent, row):
            continue
        try:
            rules = load(row.release).promotion
        except EvaluatorError as error:
            say(f"people are not notified of {intent.id}: {error.message}")
            continue
        for position, entry in enumerate(rules.hooks.get(NOTIFY, ())):
            planned = PlannedHook(position, NOTIFY, entry, make_step(entry.kind, entry.options))
            attempt = log.claim(row.number, position)
            if attempt:
                context = _make_context(store, rules, intent, row, planned)
                messages.append(_Message(row, position, attempt, planned.step, context))
    return messages


def _is_news_of_step(store: Store, intent: Intent, row: AuditRow) -> bool:
    """Whether people are notified of a row about a step: that it waits, was declined, or has failed for good.

    The rollout itself says how it goes on, and a step may fail several times before it succeeds.
    """
    if row.event == IntentState.REQUESTED:
        return True
    ends = [other.number for other in store.control.audit(intent.release) if other.intent == intent.id]
    return row.event == intent.state and intent.state is not IntentState.ACKNOWLEDGED and row.number == ends[-1]


def _make_context(store: Store, rules: PromotionRules, intent: Intent, row: AuditRow, hook: PlannedHook) -> HookContext:
    """Make what a hook gets of a row of the audit trail."""
    try:
        release = read_hook_release(store, intent.release, intent.action, intent.verdict_hash, intent.undoes)
    except EvaluatorError:
        release = Release(intent.release)
    outcome, summary = row.event, f"{intent.id}: {intent.label} {row.event} by {row.actor}: {row.text}"
    if row.event == IntentState.REQUESTED:
        outcome, summary = WAITING, _describe_waiting(store, intent)
    elif row.event in (IntentState.FAILED, IntentState.UNKNOWN):
        summary = "; ".join([summary, *_list_problems(store, intent)])
    verdict = find_latest(store, intent.release)
    return make_notice(rules, intent, release, verdict, hook, outcome=outcome, summary=summary, number=row.number)


def _list_problems(store: Store, intent: Intent) -> list[str]:
    """Say of each hook that failed, or whose outcome is unknown, why."""
    return [
        f"hook {delivery.position + 1} ({delivery.hook}) {delivery.outcome.state}: {delivery.outcome.text}"
        for delivery in store.control.deliveries(intent.id)
        if delivery.outcome.state in (IntentState.FAILED, IntentState.UNKNOWN)
    ]


def _describe_waiting(store: Store, intent: Intent) -> str:
    """Say who asks for what, who has to approve it, and until when."""
    missing = describe_missing(intent, store.control.approvals(intent.id))
    until = f"{intent.expires_at:%Y-%m-%d %H:%M} UTC"
    command = quote_command("approve", intent.id)
    return f"{intent.id}: {describe_ask(intent)}. Until {until}, {missing}: {command}"


def make_notice(
    rules: PromotionRules,
    intent: Intent,
    release: Release,
    verdict: StoredVerdict | None,
    hook: PlannedHook,
    *,
    outcome: str,
    summary: str,
    number: int,
) -> HookContext:
    """Make what a hook that notifies gets.

    `outcome`: waiting, or how the request ended. `summary`: the same in one sentence. `number`: of the row in the audit
    trail; -1: it has none yet. Receivers recognise by both what they have got already.
    """
    context = make_context(intent, release, verdict, hook, outcome=outcome)
    key = f"{intent.key or intent.requested_at.isoformat()}-{NOTIFY}-{hook.position}-{outcome}"
    return replace(
        context,
        idempotency_key=f"{key}-{number}" if number >= 0 else key,
        expires_at=datetime.now(UTC) + timedelta(seconds=TIME_S),
        summary=summary,
        link=make_link(rules.link, context.words()),
    )


def _send_all(store: Store, messages: Sequence[_Message], say: Say) -> None:
    """Send messages at the same time, and store what became of each."""
    log = Notifications(store.control.file)
    outcomes = send_together([(message.step, message.context) for message in messages])
    for message, outcome in zip(messages, outcomes, strict=True):
        row = message.row
        text = outcome.did
        if outcome.state != "acknowledged" and (answer := " ".join(outcome.response.split())):
            text += f"; {answer[:_LONGEST_ANSWER]}{'…' if len(answer) > _LONGEST_ANSWER else ''}"
        log.finish(row.number, message.position, outcome.state, text)
        if outcome.state == "acknowledged":
            continue
        kind = message.step.hook.kind
        sentence = f"people were not notified that {row.intent} is {message.context.outcome}: {kind}: {text}"
        say(sentence)
        if message.attempt in (1, MOST_ATTEMPTS):
            # Not as a row of the request: its last one says how it ended.
            store.control.note("evaluator", "not notified", row.release, sentence)


def send_together(hooks: Sequence[tuple[Step, HookContext]]) -> list[Outcome]:
    """Execute hooks that notify, at the same time and for `TIME_S` at most; returns their outcomes, in this order.

    A receiver may repeat what another hook has sent to it: the secrets of all of them are removed.
    """
    secrets = list_secrets(step for step, _ in hooks)
    late = Outcome("unknown", f"it did not end within {TIME_S:g} s; it may have been sent")
    outcomes = [late] * len(hooks)

    def send(number: int, step: Step, context: HookContext) -> None:
        """Execute one hook, and keep its outcome."""
        limited = replace(step, time_limit_s=min(step.time_limit_s, TIME_S))
        outcomes[number] = redact_outcome(run_hook(limited, context), secrets)

    threads = [
        threading.Thread(target=send, args=(number, *hook), daemon=True, name=f"notify {number}")
        for number, hook in enumerate(hooks)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + TIME_S + 2.0
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
    return list(outcomes)


def notify_without_store(
    rules: PromotionRules,
    action: Action,
    release: str,
    person: Person,
    reason: str,
    state: IntentState,
    did: str,
    say: Say,
) -> None:
    """Notify people of an action that was executed without the store, as well as that is possible. Raises nothing.

    `state`: how it ended; `did`: what was done, in sentences. People are notified again when it is in the audit trail.
    """
    now = datetime.now(UTC)
    intent = Intent(
        id="", key="", release=release, action=action, requester=person.name, reason=reason, verdict_hash="",
        data_hash="", policy_hash="", requested_at=now, expires_at=now + timedelta(seconds=TIME_S),
    )  # fmt: skip
    summary = f"{action.label} {state} by {person.name}, without the database, from the journal: {did}"
    hooks = []
    for position, entry in enumerate(rules.hooks.get(NOTIFY, ())):
        try:
            planned = PlannedHook(position, NOTIFY, entry, make_step(entry.kind, entry.options))
            context = make_notice(
                rules, intent, Release(release), None, planned, outcome=state.value, summary=summary, number=-1
            )
        except EvaluatorError as error:
            say(f"people were not notified: {entry.kind}: {error.message}")
        else:
            hooks.append((planned.step, context))
    for (step, _), sent in zip(hooks, send_together(hooks), strict=True):
        if sent.state != "acknowledged":
            say(f"people were not notified: {step.hook.kind}: {sent.did}")


class Notifier:
    """Notifies people in a thread of its own, so that the caller goes on at once."""

    def __init__(self, store: Store, load: Callable[[str], Policy], say: Say) -> None:
        """`load` and `say`: as in `notify_people`."""
        self._store, self._load, self._say = store, load, say
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to send what is new, unless an earlier call still does."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._send, daemon=True, name="notifier")
            self._thread.start()

    def _send(self) -> None:
        """Send what is new. Whatever is raised does not end the process."""
        try:
            notify_people(self._store, self._load, self._say)
        except Exception as error:  # noqa: BLE001 - hooks of other packages raise anything, and its text may be secret
            self._say(f"people are not notified now: an unexpected {type(error).__name__}")

    def wait(self) -> None:
        """Wait until an earlier call has sent, for a short time."""
        if self._thread is not None:
            self._thread.join(TIME_S + 3.0)
