"""Requests and their hooks as lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluator.records.intents import FINAL_STATES, Delivery, Intent

if TYPE_CHECKING:
    from evaluator.intents import Preview
    from evaluator.store import Store


def describe_steps(steps: Sequence[Preview]) -> list[str]:
    """Describe hooks that would be executed: a numbered line for each, with the value that it would replace."""
    from evaluator.reports import plain_text

    lines = []
    for number, step in enumerate(steps, 1):
        current_value = f" (now: {plain_text(step.current_value)})" if step.current_value else ""
        required = ", required" if step.required else ""
        lines.append(f"  {number}. {step.event}: {plain_text(step.description)}{current_value}{required}")
        if step.obstacle:
            lines.append(f"     would be refused now: {plain_text(step.obstacle)}")
    return lines


def describe_intents(store: Store, intents: Sequence[Intent]) -> list[str]:
    """Describe the state of each intent and of its hooks: a text of several lines for each."""
    from evaluator.reports import plain_text

    # Read in two queries, not in two for each intent. `None` reads all that are stored.
    single = intents[0] if len(intents) == 1 else None
    audit_rows = store.control.audit(single.release if single else None)
    deliveries = store.control.deliveries(single.id if single else None)
    # A later row replaces an earlier row; one that says how an intent ended has the name of that state.
    last_text_by_intent = {row.intent: row.text for row in audit_rows if row.event in FINAL_STATES}
    deliveries_by_intent: dict[str, list[Delivery]] = {intent.id: [] for intent in intents}
    for delivery in deliveries:
        if delivery.intent in deliveries_by_intent:
            deliveries_by_intent[delivery.intent].append(delivery)
    texts = []
    for intent in intents:
        head = f"{intent.id} {intent.label} {plain_text(intent.release)}: {intent.state}"
        ending = last_text_by_intent.get(intent.id, "")  # of an intent that has ended: how
        lines = [f"{head}: {plain_text(ending)}" if intent.state in FINAL_STATES and ending else head]
        for delivery in sorted(deliveries_by_intent[intent.id], key=lambda delivery: delivery.position):
            hook = f"  {delivery.position + 1}. {delivery.event}: {delivery.hook}  {delivery.outcome.state}"
            lines.append(plain_text(f"{hook}: {delivery.outcome.text}" if delivery.outcome.text else hook))
        texts.append("\n".join(lines))
    return texts
