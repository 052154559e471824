"""What a hook is: it describes what it will do, does it, reads the current value, restores it, and can be tested.

```
describe(context)          what will happen, for the person who confirms it
test(action)               is everything there that it needs? changes nothing
read()                     the value that it will change, as plain JSON; None where there is none to restore
execute(context)           do it
undo(context, earlier)     restore what `read` returned; a BaseHook with `_read` is not called with None
```

A hook that gives traffic to something first looks whether that can serve it, in `test` and in `execute` alike
(`_check_target`). Going back is never refused for that reason: neither `undo`, nor a hook of the action rollback, nor
one of the action hold that only takes traffic from the candidate (`_moves_back`).

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
from evaluator.extensions import Extensions, explain_missing_package
from evaluator.hooks.network import MaybeSent
from evaluator.hooks.options import HookOptions
from evaluator.hooks.templates import ONLY_IN_NEWS, VERSIONS, WORDS
from evaluator.secrecy import OF_HOOKS, redact

GROUP = "evaluator.hooks"
"""Group of the entry points of hooks: ours and those of other packages."""

LONGEST_RESPONSE = 2000
"""Characters of an answer that are kept."""

LONGEST_DESCRIPTION = 500
"""Characters of what a hook will do that people are shown."""

LONGEST_VALUE = 200
"""Characters of a value that people are shown."""

GRACE_S = 1.0
"""Time beyond its limit in which a hook may still end by itself."""

_OTHER_FORM = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What Python raises where an answer has no such key, or a value of another type."""

Action = Literal["promote", "hold", "rollback", "announce", "notify"]
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
    """Version; empty: it is not known."""
    canary: str
    requester: str
    reason: str
    idempotency_key: str
    """The same in every attempt of one intent: receivers recognise by it what they have already done."""
    expires_at: datetime
    """Aware; nothing is attempted afterwards."""
    outcome: str = ""
    """acknowledged, failed or unknown: how the action ended, for hooks that announce it. For hooks that notify people
    also waiting, cancelled or expired."""
    summary: str = ""
    """What happened to the request, in one sentence, for hooks that notify people."""
    link: str = ""
    """Address with more about the request, for hooks that notify people; empty: the policy has none."""
    dry_run: bool = False

    def words(self) -> dict[str, str]:
        """Return the fields that templates may name and receivers get, by their name; none is a secret."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name in WORDS}

    def known_words(self) -> dict[str, str]:
        """Return `words` without versions that are not known: a program would act with them; and without empty news."""
        may_be_missing = (*VERSIONS, *ONLY_IN_NEWS)
        return {word: value for word, value in self.words().items() if value or word not in may_be_missing}

    def left_s(self) -> float:
        """Seconds until the intent expires; negative afterwards."""
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

    def describe(self, context: HookContext | None = None) -> str:
        """What will happen, in one sentence without secrets; words of the context are filled in where it has them."""

    def describe_undo(self, context: HookContext | None = None) -> str:
        """What `undo` will do, as `describe`."""

    def execute(self, context: HookContext) -> Outcome:
        """Do it."""

    def read(self) -> Json:
        """The value that it changes, or None."""

    def undo(self, context: HookContext, earlier: Json) -> Outcome:
        """Restore an earlier value."""

    def test(self, action: Action = "promote") -> Outcome:
        """Whether it could be executed for an action; touches nothing."""

    def find_obstacle(self, action: Action) -> str:
        """Why it would be refused now for an action, because its target cannot serve; empty if it can."""

    def can_undo(self) -> bool:
        """Whether `undo` takes back what it did."""

    def describe_value(self, value: Json) -> str:
        """A value that `read` returned, in words."""


T = TypeVar("T")
O = TypeVar("O", bound=HookOptions)  # noqa: E741 - the one type here


class BaseHook(Generic[O]):
    """What hooks share: dry runs, expiry, errors as outcomes, secrets kept out.

    A hook fills in `_describe`, `_test`, `_execute` and, where something can be restored, `_read` and `_undo`; a hook
    that gives traffic to something also `_check_target`.
    """

    kind: ClassVar[str]
    Options: ClassVar[type[HookOptions]]
    idempotent: bool = True

    def __init__(self, options: O, environment: Mapping[str, str] | None = None) -> None:
        self.options = options
        self.environment: Mapping[str, str] = os.environ if environment is None else environment

    def describe(self, context: HookContext | None = None) -> str:
        """What will happen, in one sentence, with the words of the context; None: no word has a value yet."""
        text = self._remove_secrets(self._describe(context.words() if context else {}))
        return _shorten(text, LONGEST_DESCRIPTION)

    def describe_undo(self, context: HookContext | None = None) -> str:
        """What `undo` will do, as `describe`."""
        text = self._remove_secrets(self._describe_undo(context.words() if context else {}))
        return _shorten(text, LONGEST_DESCRIPTION)

    def execute(self, context: HookContext) -> Outcome:
        """Execute the hook, unless it is a dry run, the intent has expired, or its target cannot serve."""
        if context.dry_run:
            return Outcome("acknowledged", f"dry run, nothing was done: {self.describe(context)}")

        def check_and_execute() -> Outcome:
            """Refuse a target that cannot serve, except on the way back; then execute the hook."""
            if not self._goes_back(context.action):
                self._check_target()
            return self._execute(context)

        return self._attempt(check_and_execute, context)

    def undo(self, context: HookContext, earlier: Json) -> Outcome:
        """Restore `earlier`, the value from before the execution, as `read` returned it; None: there was none.

        A hook that reads no value, because its class has no `_read`, is undone without one.
        """
        if context.dry_run:
            return Outcome("acknowledged", f"dry run, nothing was undone: {self.describe(context)}")
        reads_value = type(self)._read is not BaseHook._read  # noqa: SLF001 - the hook's own method
        if earlier is None and reads_value:
            return Outcome("failed", "nothing was there before, or it was not kept: there is nothing to restore")
        return self._attempt(lambda: self._undo(context, earlier), context)

    def read(self) -> Json:
        """Read the value that the hook changes; None if it changes none. Raises HookError without secrets."""
        try:
            return self._call(self._read)
        except EvaluatorError as error:
            message, hint = self._remove_secrets(error.message), self._remove_secrets(error.hint or "")
            raise HookError(message, hint=hint or None) from None
        except MaybeSent as error:
            raise HookError(self._remove_secrets(str(error))) from None

    def can_undo(self) -> bool:
        """Whether `undo` takes back what the hook did: the class has an `_undo` of its own."""
        return type(self)._undo is not BaseHook._undo  # noqa: SLF001 - the hook's own method

    def describe_value(self, value: Json) -> str:
        """Describe a value that `read` returned, shortened and without secrets; empty for None.

        A value of another form, as a damaged store may hold it, is shown as JSON.
        """
        if value is None:
            return ""
        try:
            text = str(self._describe_value(value))  # that of etcd, in a damaged store, may be a number
        except _OTHER_FORM:  # an earlier value in a damaged store
            text = f"not a value of {self.kind}: {json.dumps(value, ensure_ascii=False)}"
        return _shorten(self._remove_secrets(text), LONGEST_VALUE)

    def _describe_value(self, value: Json) -> str:
        """Write a value that `_read` returned as text."""
        return json.dumps(value, ensure_ascii=False)

    def test(self, action: Action = "promote") -> Outcome:
        """Whether it could be executed for an action; touches nothing. It refuses what `execute` would refuse."""

        def check() -> Outcome:
            """Test the hook, and refuse a target that cannot serve, except on the way back."""
            outcome = self._test()
            if not self._goes_back(action):
                self._check_target()
            return outcome

        return self._attempt(check)

    def find_obstacle(self, action: Action) -> str:
        """Say why the hook would be refused now, because its target cannot serve; empty if it would not."""
        try:
            if not self._call(lambda: self._goes_back(action)):
                self._call(self._check_target)
        except EvaluatorError as error:
            return self._remove_secrets(_to_failed_outcome(error).did)
        except MaybeSent as error:  # the answer has another form; reading has changed nothing
            return self._remove_secrets(str(error))
        return ""

    def _describe(self, words: Mapping[str, str]) -> str:
        """Say in one sentence what the hook will do. Each hook has its own.

        `words`: values of the words of its templates, such as `canary`; a word without a value is shown as `${canary}`.
        """
        raise NotImplementedError

    def _describe_undo(self, words: Mapping[str, str]) -> str:
        """Say in one sentence what undoing will do, as `_describe`."""
        return f"takes back: {self._describe(words)}"

    def _goes_back(self, action: Action) -> bool:
        """Whether the hook goes back in an action: then it is not refused because its target cannot serve."""
        return action == "rollback" or (action == "hold" and self._moves_back())

    def _moves_back(self) -> bool:
        """Whether executing the hook now would only take traffic from the candidate, where hooks can tell."""
        return False

    def _check_target(self) -> None:
        """Raise HookError if what the hook gives traffic to cannot serve it. Other hooks have nothing to check."""

    def _execute(self, context: HookContext) -> Outcome:
        """Execute the hook. Each hook has its own. Raises HookError; MaybeSent if it may have been done."""
        raise NotImplementedError

    def _read(self) -> Json:
        """Read the value that the hook changes; None: it changes no value that could be restored."""
        return None

    def _undo(self, context: HookContext, earlier: Json) -> Outcome:  # noqa: ARG002 - as those that can
        """Raise HookError: hooks that can be undone replace this method."""
        raise HookError(f"what {self.kind} did cannot be undone", hint="name another hook for rollback")

    def _test(self) -> Outcome:
        """Check whether the hook could be executed, without changing anything. Each hook has its own."""
        raise NotImplementedError

    def _fill_secrets(self, text: str) -> str:
        """Put the values of environment variables in place of their names `${NAME}`. Raises UsageError."""
        return OF_HOOKS.reveal(text, self.environment)

    def _call(self, operation: Callable[[], T]) -> T:
        """Call a method of the hook. Raises HookError if a package that it imports is not installed.

        Raises MaybeSent for an answer of another form than the API's: the request may have been done all the same.
        """
        with explain_missing_package(f"the hook {self.kind} needs", "hooks", HookError):
            try:
                return operation()
            except _OTHER_FORM as error:
                problem = f"the answer to {self.kind} is not one of its API ({type(error).__name__})"
                raise MaybeSent(f"{problem}: does the address lead to it?") from error

    def _attempt(self, operation: Callable[[], Outcome], context: HookContext | None = None) -> Outcome:
        """Return the outcome of an operation, also for an error that it raises; secrets are removed.

        `context` None: the operation is a test, which changes nothing, so that its outcome is never unknown.
        """
        if context and context.left_s() <= 0:
            return Outcome(
                "failed", f"{self.kind} was not executed: the intent expired at {context.expires_at:%H:%M:%S}"
            )
        try:
            outcome = self._call(operation)  # a package that is not installed is a HookError
        except EvaluatorError as error:
            outcome = _to_failed_outcome(error)
        except MaybeSent as error:
            if context:
                outcome = Outcome("unknown", f"{error}; it may have been done")
            else:
                outcome = Outcome("failed", str(error))
        response = _shorten(self._remove_secrets(outcome.response), LONGEST_RESPONSE)
        return replace(outcome, did=self._remove_secrets(outcome.did), response=response)

    def _remove_secrets(self, text: str) -> str:
        """Replace the hook's secrets in a text. Do this before a text is cut: half of a secret is not recognised."""
        return redact(text, self._list_secrets())

    def _list_secrets(self) -> list[str]:
        """List the values of all environment variables that the hook's options name as `${NAME}`."""
        variables = OF_HOOKS.pattern.findall(self.options.model_dump_json())
        return [value for name in variables if (value := self.environment.get(name))]


def _to_failed_outcome(error: EvaluatorError) -> Outcome:
    """Make the outcome of a hook that raised an error before it changed anything."""
    return Outcome("failed", f"{error.message} ({error.hint})" if error.hint else error.message)


def _shorten(text: str, longest: int) -> str:
    """Cut a text after `longest` characters, and add how many it had."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text)} characters)"


# ------------------------------------------------------------------ what is installed


HOOKS: Mapping[str, Any] = Extensions(GROUP, "hook", HookError, extra="hooks")
"""Kind of hook → its class, with the model of its options as `Options`. Most policies need one or two."""


def make_hook(kind: str, options: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Hook:
    """Make a hook of a kind, such as `webhook`, from its options in the policy.

    `environment`: the variables that hold its secrets; None: those of this process. Raises UnknownName, PolicyError or
    HookError.
    """
    if kind not in HOOKS:
        raise UnknownName("hook", kind, HOOKS)
    hook_class = HOOKS[kind]
    hook = hook_class(_read_options(kind, hook_class.Options, options), environment)
    if not isinstance(hook, Hook):  # the class of another package may lack methods
        raise HookError(
            f"{hook_class.__module__}.{hook_class.__name__} is not a hook", hint="docs/hooks.md lists what a hook needs"
        )
    return hook


def _read_options(kind: str, model: type[O], options: Mapping[str, Any]) -> O:
    """Read the options of a hook by their model. Raises PolicyError, which names the first wrong option."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        first_mistake = error.errors(include_url=False, include_input=False)[0]
        key_path = ".".join(str(part) for part in (kind, *first_mistake["loc"]))
        raise PolicyError(f"hook {key_path}: {first_mistake['msg'].removeprefix('Value error, ')}") from None


# ------------------------------------------------------------------ executing


@dataclass(frozen=True, slots=True)
class Step:
    """A hook with its time limit, and whether it is required."""

    hook: Hook
    required: bool = False
    time_limit_s: float = 30.0


def make_step(kind: str, options: Mapping[str, Any]) -> Step:
    """Make a hook, with its time limit and whether it is required, from its options in the policy.

    Raises the errors of `make_hook`.
    """
    # Options that hooks of every kind have; `make_hook` reads those of the kind.
    common_options = {name: value for name, value in options.items() if name in HookOptions.model_fields}
    common = _read_options(kind, HookOptions, common_options)
    return Step(make_hook(kind, options), common.required, common.time_limit)


def run_hook(
    step: Step, context: HookContext, store_earlier: Callable[[Json], None] = lambda _earlier: None
) -> Outcome:
    """Execute a hook within its time limit.

    First the value that the hook will change is read and passed to `store_earlier`. If it cannot be read, the outcome
    is failed; if `store_earlier` raises, so does this function. In both cases nothing is executed.
    """
    limited_context = _limit_time(step, context)
    earlier = None
    if not context.dry_run:
        earlier = _call_in_time(step, limited_context.left_s(), step.hook.read)
        if isinstance(earlier, _FailedCall):
            return replace(earlier.outcome, state="failed")  # never unknown: reading changes nothing
        store_earlier(earlier)
    result = _call_in_time(step, limited_context.left_s(), lambda: step.hook.execute(limited_context))
    outcome = result.outcome if isinstance(result, _FailedCall) else result
    # A hook may know the earlier value better than `read`: then its outcome has it already.
    return outcome if outcome.earlier is not None else replace(outcome, earlier=earlier)


def describe_current(step: Step, context: HookContext) -> str:
    """Describe the current value that a hook would change, or say why it cannot be read. Changes nothing."""
    value = _call_in_time(step, _limit_time(step, context).left_s(), step.hook.read)
    if isinstance(value, _FailedCall):
        return f"cannot be read: {value.outcome.did}"
    return step.hook.describe_value(value)


def find_obstacle(step: Step, context: HookContext) -> str:
    """Say why a hook would be refused now, because its target cannot serve; empty if it can. Changes nothing."""
    obstacle = _call_in_time(step, _limit_time(step, context).left_s(), lambda: step.hook.find_obstacle(context.action))
    return obstacle.outcome.did if isinstance(obstacle, _FailedCall) else obstacle


def check_hook(step: Step, action: Action) -> Outcome:
    """Check within the hook's time limit whether it could be executed for an action; changes nothing."""
    result = _call_in_time(step, step.time_limit_s, lambda: step.hook.test(action))
    return replace(result.outcome, state="failed") if isinstance(result, _FailedCall) else result


def undo_hook(step: Step, context: HookContext, earlier: Json) -> Outcome:
    """Restore the value from before a hook was executed (`earlier`), within the hook's time limit."""
    limited_context = _limit_time(step, context)
    result = _call_in_time(step, limited_context.left_s(), lambda: step.hook.undo(limited_context, earlier))
    return result.outcome if isinstance(result, _FailedCall) else result


def _limit_time(step: Step, context: HookContext) -> HookContext:
    """Return a context that expires at the hook's time limit from now, but not later than the intent."""
    limit = datetime.now(UTC) + timedelta(seconds=step.time_limit_s)
    return replace(context, expires_at=min(context.expires_at, limit))


@dataclass(frozen=True, slots=True)
class _FailedCall:
    """The outcome of a call that raised or did not return in time."""

    outcome: Outcome


def _call_in_time(step: Step, left_s: float, call: Callable[[], T]) -> T | _FailedCall:
    """Call a method of a hook and return its result; a _FailedCall if it raises, or runs longer than `left_s` seconds.

    It runs in a thread of its own, which goes on if it is late: a thread cannot be stopped.
    """
    result: list[T | _FailedCall] = []  # stays empty if the call is late

    def work() -> None:
        """Append the result of the call to `result`, or the outcome of the error that it raises."""
        try:
            result.append(call())
        except EvaluatorError as error:
            result.append(_FailedCall(_to_failed_outcome(error)))
        except Exception as error:  # noqa: BLE001 - whatever another package raises is an outcome
            # The error's text may hold anything, also secrets; its type cannot.
            text = f"{step.hook.kind} ended with an unexpected {type(error).__name__}"
            result.append(_FailedCall(Outcome("unknown", text)))

    worker = threading.Thread(target=work, daemon=True, name=f"hook {step.hook.kind}")
    worker.start()
    worker.join(max(left_s, 0.0) + GRACE_S)  # a hook that ends by itself at the limit is waited for
    if result:
        return result[0]
    text = f"{step.hook.kind} did not end within {step.time_limit_s:g} s; it may still be running"
    return _FailedCall(Outcome("unknown", text))
