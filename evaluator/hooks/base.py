"""What a hook is: it describes what it will do, does it, reads the current value, restores it, and can be tested.

```
describe()                 what will happen, for the person who confirms it
test()                     is everything there that it needs? changes nothing
read()                     the value that it will change, as plain JSON; None where there is none to restore
execute(context)           do it
undo(context, earlier)     restore what `read` returned; a BaseHook with `_read` is not called with None
```

An outcome is `acknowledged` (done, and confirmed), `failed` (not done) or `unknown` (may or may not be done: a person
decides). A hook of ours raises HookError when nothing was changed; whatever else is raised makes the outcome unknown.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import ValidationError

from evaluator.errors import EvaluatorError, HookError, PolicyError, UnknownName
from evaluator.extensions import Extensions, needs
from evaluator.hooks.network import MaybeSent
from evaluator.hooks.options import HookOptions
from evaluator.hooks.templates import WORDS
from evaluator.secrecy import OF_HOOKS, redact

GROUP = "evaluator.hooks"
"""Group of the entry points of hooks: ours and those of other packages."""

LONGEST_RESPONSE = 2000
"""Characters of an answer that are kept."""

LONGEST_VALUE = 200
"""Characters of a value that people are shown."""

GRACE_S = 1.0
"""Time beyond its limit in which a hook may still end by itself."""

Action = Literal["promote", "hold", "rollback", "announce"]
State = Literal["acknowledged", "failed", "unknown"]
Json = Any


@dataclass(frozen=True, slots=True)
class HookContext:
    """What a hook knows of the intent that it executes."""

    release: str
    action: Action
    verdict: str
    """go, no_go or inconclusive."""
    verdict_hash: str
    baseline: str
    """Version."""
    canary: str
    requester: str
    reason: str
    idempotency_key: str
    """The same in every attempt of one intent: receivers recognise by it what they have already done."""
    expires_at: datetime
    """Aware; nothing is attempted afterwards."""
    outcome: str = ""
    """acknowledged, failed or unknown: how the action ended, for hooks that announce it."""
    dry_run: bool = False

    def words(self) -> dict[str, str]:
        """The words that templates fill in and receivers get: no secrets."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name in WORDS}

    def left_s(self) -> float:
        """Seconds until it expires; negative afterwards."""
        return (self.expires_at - datetime.now(UTC)).total_seconds()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an execution, an undo or a test ended."""

    state: State
    did: str
    """One sentence."""
    earlier: Json = None
    """The earlier value, as `undo` takes it; None where nothing can be restored."""
    response: str = ""
    """The answer of the other side: shortened, without secrets."""
    effective_at: datetime | None = None
    """When the change is visible everywhere, where that is later than now."""


@runtime_checkable
class Hook(Protocol):
    """What the evaluator calls."""

    kind: str
    idempotent: bool
    """Whether it may be executed again when its outcome is unknown."""

    def describe(self) -> str:
        """What will happen, in one sentence without secrets."""

    def execute(self, context: HookContext) -> Outcome:
        """Do it."""

    def read(self) -> Json:
        """The value that it changes, or None."""

    def undo(self, context: HookContext, earlier: Json) -> Outcome:
        """Restore an earlier value."""

    def test(self) -> Outcome:
        """Whether it could be executed; touches nothing."""

    def can_undo(self) -> bool:
        """Whether `undo` takes back what it did."""

    def describe_value(self, value: Json) -> str:
        """A value that `read` returned, in words."""


T = TypeVar("T")
O = TypeVar("O", bound=HookOptions)  # noqa: E741 - the one type here


class BaseHook(Generic[O]):
    """What hooks share: dry runs, expiry, errors as outcomes, secrets kept out.

    A hook fills in `_describe`, `_test`, `_execute` and, where something can be restored, `_read` and `_undo`.
    """

    kind: ClassVar[str]
    Options: ClassVar[type[HookOptions]]
    idempotent: bool = True

    def __init__(self, options: O, environment: Mapping[str, str] | None = None) -> None:
        self.options = options
        self.environment: Mapping[str, str] = os.environ if environment is None else environment

    def describe(self) -> str:
        """What will happen, in one sentence."""
        return self._clean(self._describe())

    def execute(self, context: HookContext) -> Outcome:
        """Do it, unless it is a dry run or too late."""
        if context.dry_run:
            return Outcome("acknowledged", f"dry run, nothing was done: {self.describe()}")
        return self._attempt(lambda: self._execute(context), context)

    def undo(self, context: HookContext, earlier: Json) -> Outcome:
        """Restore the earlier value."""
        if context.dry_run:
            return Outcome("acknowledged", f"dry run, nothing was undone: {self.describe()}")
        if earlier is None and type(self)._read is not BaseHook._read:  # noqa: SLF001 - its own
            return Outcome("failed", "nothing was there before, or it was not kept: there is nothing to restore")
        return self._attempt(lambda: self._undo(context, earlier), context)

    def read(self) -> Json:
        """The value that it changes. Raises EvaluatorError."""
        try:
            return self._call(self._read)
        except EvaluatorError as error:
            raise HookError(self._clean(error.message), hint=self._clean(error.hint or "") or None) from None
        except MaybeSent as error:
            raise HookError(self._clean(str(error))) from None

    def can_undo(self) -> bool:
        """Whether `undo` takes back what it did."""
        return type(self)._undo is not BaseHook._undo  # noqa: SLF001 - its own

    def describe_value(self, value: Json) -> str:
        """A value that `read` returned, in words; empty where there is none."""
        return "" if value is None else _shorten(self._clean(self._describe_value(value)), LONGEST_VALUE)

    def _describe_value(self, value: Json) -> str:
        return json.dumps(value, ensure_ascii=False)

    def test(self) -> Outcome:
        """Whether it could be executed; touches nothing."""
        return self._attempt(self._test)

    def _describe(self) -> str:
        raise NotImplementedError

    def _execute(self, context: HookContext) -> Outcome:
        raise NotImplementedError

    def _read(self) -> Json:
        return None

    def _undo(self, context: HookContext, earlier: Json) -> Outcome:  # noqa: ARG002 - as those that can
        raise HookError(f"what {self.kind} did cannot be undone", hint="name another hook for rollback")

    def _test(self) -> Outcome:
        raise NotImplementedError

    def _secret(self, text: str) -> str:
        return OF_HOOKS.reveal(text, self.environment)

    def _call(self, operation: Callable[[], T]) -> T:
        with needs(f"the hook {self.kind} needs", "hooks", HookError):
            return operation()

    def _attempt(self, operation: Callable[[], Outcome], context: HookContext | None = None) -> Outcome:
        """The outcome of an operation, without secrets. An operation without a context changes nothing."""
        if context and context.left_s() <= 0:
            return Outcome(
                "failed", f"{self.kind} was not executed: the intent expired at {context.expires_at:%H:%M:%S}"
            )
        try:
            outcome = self._call(operation)
        except EvaluatorError as error:
            outcome = _failed(error)
        except MaybeSent as error:
            outcome = (
                Outcome("unknown", f"{error}; it may have been done") if context else Outcome("failed", str(error))
            )
        response = _shorten(self._clean(outcome.response), LONGEST_RESPONSE)
        return replace(outcome, did=self._clean(outcome.did), response=response)

    def _clean(self, text: str) -> str:
        named = OF_HOOKS.pattern.findall(self.options.model_dump_json())
        return redact(text, [value for name in named if (value := self.environment.get(name))])


def _failed(error: EvaluatorError) -> Outcome:
    return Outcome("failed", f"{error.message} ({error.hint})" if error.hint else error.message)


def _shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text)} characters)"


# ------------------------------------------------------------------ what is installed


HOOKS: Mapping[str, Any] = Extensions(GROUP, "hook", HookError, extra="hooks")
"""Kind of hook → its class, with the model of its options as `Options`. Most policies need one or two."""


def make_hook(kind: str, options: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Hook:
    """Make a hook of a kind from its options in the policy. Raises UnknownName, PolicyError or HookError."""
    if kind not in HOOKS:
        raise UnknownName("hook", kind, HOOKS)
    hook_class = HOOKS[kind]
    hook = hook_class(_validate(kind, hook_class.Options, options), environment)
    if not isinstance(hook, Hook):
        raise HookError(
            f"{hook_class.__module__}.{hook_class.__name__} is not a hook", hint="docs/hooks.md lists what a hook needs"
        )
    return hook


def _validate(kind: str, model: type[O], options: Mapping[str, Any]) -> O:
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in (kind, *first["loc"]))
        raise PolicyError(f"hook {where}: {first['msg'].removeprefix('Value error, ')}") from None


# ------------------------------------------------------------------ executing


@dataclass(frozen=True, slots=True)
class Step:
    """A hook with its time limit, and whether it is required."""

    hook: Hook
    required: bool = False
    time_limit_s: float = 30.0


def make_step(kind: str, options: Mapping[str, Any]) -> Step:
    """Make a hook with its time limit from its options in the policy. Raises as `make_hook`."""
    common = _validate(kind, HookOptions, {k: v for k, v in options.items() if k in HookOptions.model_fields})
    return Step(make_hook(kind, options), common.required, common.time_limit)


def run_hook(step: Step, context: HookContext, before: Callable[[Json], None] = lambda _earlier: None) -> Outcome:
    """Execute a hook within its time limit.

    `before` is called with the value that the hook is about to change, so that it can be kept first. If it raises,
    nothing is executed.
    """
    bounded, earlier = _bounded(step, context), None
    if not context.dry_run:
        earlier = _within(step, bounded, step.hook.read)
        if isinstance(earlier, _Lost):
            return replace(earlier.outcome, state="failed")
        before(earlier)
    done = _within(step, bounded, lambda: step.hook.execute(bounded))
    outcome = done.outcome if isinstance(done, _Lost) else done
    return outcome if outcome.earlier is not None else replace(outcome, earlier=earlier)


def describe_current(step: Step, context: HookContext) -> str:
    """The current value that a hook would change, in words; or why it cannot be read. Changes nothing."""
    state = _within(step, _bounded(step, context), step.hook.read)
    return f"cannot be read: {state.outcome.did}" if isinstance(state, _Lost) else step.hook.describe_value(state)


def undo_hook(step: Step, context: HookContext, earlier: Json) -> Outcome:
    """Restore the value from before a hook was executed, within the hook's time limit."""
    bounded = _bounded(step, context)
    done = _within(step, bounded, lambda: step.hook.undo(bounded, earlier))
    return done.outcome if isinstance(done, _Lost) else done


def _bounded(step: Step, context: HookContext) -> HookContext:
    limit = datetime.now(UTC) + timedelta(seconds=step.time_limit_s)
    return replace(context, expires_at=min(context.expires_at, limit))


@dataclass(frozen=True, slots=True)
class _Lost:
    """The outcome of a call that raised or did not return in time."""

    outcome: Outcome


def _within(step: Step, bounded: HookContext, call: Callable[[], T]) -> T | _Lost:
    """The result of a call, within the time of its context."""
    late = f"{step.hook.kind} did not end within {step.time_limit_s:g} s; it may still be running"
    result: list[T | _Lost] = []

    def work() -> None:
        try:
            result.append(call())
        except EvaluatorError as error:
            result.append(_Lost(_failed(error)))
        except Exception as error:  # noqa: BLE001 - whatever another package raises is an outcome
            # Its text may hold anything, secrets included; its kind cannot.
            result.append(
                _Lost(Outcome("unknown", f"{step.hook.kind} ended with an unexpected {type(error).__name__}"))
            )

    worker = threading.Thread(target=work, daemon=True, name=f"hook {step.hook.kind}")
    worker.start()
    worker.join(max(bounded.left_s(), 0.0) + GRACE_S)
    return result[0] if result else _Lost(Outcome("unknown", late))
