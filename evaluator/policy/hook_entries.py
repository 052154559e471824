"""The hooks that policies name, one by one: a mistake in one of them hides no other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluator.errors import PolicyError, UnknownName
from evaluator.policy import Policy, load_policy, parse_policy
from evaluator.policy.document import read_document
from evaluator.policy.promotion import HooksSection
from evaluator.policy.selection import list_files
from evaluator.records.intents import HookEntry


@dataclass(frozen=True, slots=True)
class ListedHook:
    """One entry of the hooks of a policy."""

    label: str
    """The event, after the name of the file where each service has its own policy; of other mistakes: only the name."""
    event: str
    entry: HookEntry | None
    """None: it cannot be read, or what is wrong is no hook."""
    mistakes: str = ""
    """What is wrong with it, one `file:line: message` per line."""


def list_hooks(path: Path | None, event: str | None = None) -> tuple[ListedHook, ...]:
    """List the hooks of the policies at `path` (a file, a folder; None: the built-in policy), in their order.

    `event`: only those of this event. What else is wrong with a policy is listed after its hooks. Raises UnknownName
    for an unknown event, and PolicyError if it is not known which policies there are.
    """
    events = tuple(HooksSection.model_fields)
    if event is not None and event not in events:
        raise UnknownName("event", event, events)
    chosen_events = events if event is None else (event,)
    listed: list[ListedHook] = []
    for services, file in list_files(path).items():
        prefix = f"{file}: " if services else ""
        try:
            policy = load_policy(file)
        except PolicyError as error:
            listed += _list_one_by_one(file, prefix, chosen_events, error.message)
        else:
            listed += [ListedHook(prefix + name, name, entry) for name, entry in _list_entries(policy, chosen_events)]
    return tuple(listed)


def _list_entries(policy: Policy, events: tuple[str, ...]) -> list[tuple[str, HookEntry]]:
    """List the events and hooks of a policy, of these events."""
    return [(event, entry) for event in events for entry in policy.promotion.hooks[event]]


def _list_one_by_one(file: Path | None, prefix: str, events: tuple[str, ...], message: str) -> list[ListedHook]:
    """List the hooks of a policy that has mistakes; `message` has one line for each of them."""
    mistakes = message.splitlines()
    listed: list[ListedHook] = []
    for event, position, raw in _read_raw_entries(file):
        own = [line for line in mistakes if f": hooks.{event}[{position}]" in line]
        mistakes = [line for line in mistakes if line not in own]
        if event not in events:
            continue
        if own:
            listed.append(ListedHook(prefix + event, event, None, "\n".join(own)))
            continue
        policy = parse_policy({"hooks": {event: [raw]}})
        listed.append(ListedHook(prefix + event, event, policy.promotion.hooks[event][0]))
    if mistakes:
        listed.append(ListedHook(f"{prefix}policy", "", None, "\n".join(mistakes)))
    return listed


def _read_raw_entries(file: Path | None) -> list[tuple[str, int, Any]]:
    """Read the event, position and content of each hook of a file as they are written; empty if it is no YAML."""
    try:
        sections = read_document(file).values.get("hooks") if file else None
    except PolicyError:
        return []
    if not isinstance(sections, dict):
        return []
    return [
        (event, position, raw)
        for event in HooksSection.model_fields
        if isinstance(sections.get(event), list)
        for position, raw in enumerate(sections[event])
    ]
