"""How a batch of instances that a rollout replaced gets the old version back, whatever became of it.

All that this needs stands with the hook that drained the batch, which is written before anything acts: the instances
are drained (again), the old version is brought back, hooks look whether it works, and the instances serve again. Each
of these is done only if those before it have succeeded, so that users never get to an instance that is not restored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from evaluator.errors import EvaluatorError
from evaluator.hooks import Hook, HookContext, Outcome, Step, make_step, write_by_hand
from evaluator.hooks.unusable import UnusableHook
from evaluator.policy.rollout import InstancesSection
from evaluator.records import BASELINE
from evaluator.records.intents import HookEntry

RESTORE = "restore"
"""Word of the hook that drains a batch: how its instances are restored, as JSON. No template names it."""

_AGAIN_S = 1.0
"""Time between two looks whether an old version works."""
_END_S = 30.0
"""What a hook may take beyond the time that it waits for something."""


@dataclass(frozen=True, slots=True)
class RestoringHook:
    """One of the hooks that restore a batch, in their order; each is undone with `earlier`."""

    entry: HookEntry
    step: Step
    earlier: Any
    words: Mapping[str, str]
    is_last: bool = False
    """Does the batch serve again after it?"""


def write_restore(section: InstancesSection) -> str:
    """Write how the instances of a batch are restored, for the words of the hook that drains it."""
    hooks = {"replace": section.replace, "health": section.health}
    plain = {name: [[entry.kind, dict(entry.options)] for entry in entries] for name, entries in hooks.items()}
    return json.dumps({**plain, "healthy_within": section.healthy_within}, sort_keys=True)


def expand(entries: Sequence[HookEntry], instances: Sequence[str]) -> Iterator[tuple[HookEntry, str]]:
    """Yield each hook with the instance that it is executed for; those that name no `${instance}` once, with none."""
    for entry in entries:
        is_single = "${instance}" in json.dumps(dict(entry.options))
        yield from ((entry, instance) for instance in (instances if is_single else ("",)))


def add_time(entry: HookEntry, waits_s: float) -> HookEntry:
    """Give a hook the time that it waits for something, and more."""
    return HookEntry(entry.kind, {**entry.options, "time_limit": f"{waits_s + _END_S:g}s"})


def plan_restoring(entry: HookEntry, step: Step, earlier: Any, words: Mapping[str, str]) -> tuple[RestoringHook, ...]:
    """Plan the hooks that restore a batch.

    `entry`, `earlier`, `words`: of the hook that drained it; `step`: made of it. In hooks that look whether
    an instance works, `${version}` is the old version.
    """
    own = {word: value for word, value in words.items() if word != RESTORE}
    try:
        how, batch = json.loads(words[RESTORE]), dict(entry.options["batch"])
        replacing = [HookEntry(kind, options) for kind, options in how["replace"]]
        health = [HookEntry(kind, options) for kind, options in how["health"]]
        drain = HookEntry(entry.kind, {**entry.options, "batch": {**batch, "do": "undrain"}})
        drained = dict.fromkeys(batch["servers"], "is drained")
        instances = tuple(words["instances"].split())
        healthy_within_s = float(how["healthy_within"])
    except (KeyError, TypeError, ValueError, AttributeError):
        unusable = Step(UnusableHook(entry.kind, json.dumps(dict(entry.options)), "how to restore it cannot be read"))
        return (RestoringHook(entry, unusable, earlier, own, is_last=True),)
    hooks = [RestoringHook(drain, _make(drain), drained, own)]
    for to_undo, instance in reversed(list(expand(replacing, instances))):
        hooks.append(RestoringHook(to_undo, _make(to_undo), None, own | {"instance": instance}))
    own |= {"arm": BASELINE}  # what is looked at is the old version
    for look, instance in expand(health, instances):
        made = _make(look)
        waiting = replace(made, hook=HealthAgain(made.hook, healthy_within_s), time_limit_s=healthy_within_s + _END_S)
        hooks.append(RestoringHook(look, waiting, None, own | {"instance": instance}))
    return (*hooks, RestoringHook(entry, step, earlier, own, is_last=True))


def _make(entry: HookEntry) -> Step:
    """Make a hook; one that fails if it cannot be made any more."""
    try:
        return make_step(entry.kind, entry.options)
    except EvaluatorError as error:
        return Step(UnusableHook(entry.kind, json.dumps(dict(entry.options), sort_keys=True), error.message))


class HealthAgain:
    """A hook that looks whether the old version works, again and again until it does or its time is over."""

    idempotent = True

    def __init__(self, hook: Hook, within_s: float) -> None:
        self._hook, self._within_s = hook, within_s
        self.kind = hook.kind
        self.options = getattr(hook, "options", None)
        self.environment = getattr(hook, "environment", {})

    def undo(self, context: HookContext, earlier: Any) -> Outcome:  # noqa: ARG002 - it restores nothing
        """Look until it works."""
        deadline = time.monotonic() + self._within_s
        while True:
            soon = datetime.now(UTC) + timedelta(seconds=max(deadline - time.monotonic(), 0.0) + _AGAIN_S)
            outcome = self._hook.execute(replace(context, expires_at=min(context.expires_at, soon)))
            if outcome.state == "acknowledged" or time.monotonic() >= deadline:
                return replace(outcome, state="acknowledged" if outcome.state == "acknowledged" else "failed")
            time.sleep(_AGAIN_S)

    def execute(self, context: HookContext) -> Outcome:
        """Look until it works."""
        return self.undo(context, None)

    def describe(self, context: HookContext | None = None) -> str:
        """What is looked at."""
        return f"the old version has to work: {self._hook.describe(context)}"

    def describe_undo(self, context: HookContext | None = None) -> str:
        """What is looked at."""
        return self.describe(context)

    def read(self, context: HookContext | None = None) -> None:
        """Read nothing: it changes nothing."""

    def test(self, action: Any = "promote") -> Outcome:
        """Test the hook."""
        return self._hook.test(action)

    def find_obstacle(self, action: Any) -> str:
        """Say why the hook would be refused."""
        return self._hook.find_obstacle(action)

    def can_undo(self) -> bool:
        """It is executed where others are undone."""
        return True

    def describe_value(self, value: Any) -> str:  # noqa: ARG002 - there is none
        """It has no value."""
        return ""

    def list_secrets(self) -> list[str]:
        """List the secrets of the hook."""
        return list(getattr(self._hook, "list_secrets", list)())

    def write_undo_by_hand(self, context: HookContext, earlier: Any) -> list[str]:
        """Write the lines for a shell by which a person looks."""
        return write_by_hand(Step(self._hook), context, undoes=False, earlier=earlier)
