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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import ValidationError

from evaluator.errors import EvaluatorError, HookError, PolicyError, UnknownName
from evaluator.extensions import Extensions, explain_missing_package
from evaluator.hooks.network import MaybeSent
from evaluator.hooks.options import HookOptions
from evaluator.hooks.templates import OPTIONAL, WORDS
from evaluator.records import BASELINE, CANDIDATE
from evaluator.secrecy import OF_HOOKS, redact

GROUP = "evaluator.hooks"
"""Group of the entry points of hooks: ours and those of other packages."""

LONGEST_RESPONSE = 2000
"""Characters of an answer that are kept."""

LONGEST_DESCRIPTION = 500
"""Characters of what a hook will do that people are shown."""

LONGEST_VALUE = 200
"""Characters of a value that people are shown."""

_OTHER_FORM = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What Python raises where an answer has no such key, or a value of another type."""

Action = Literal["promote", "hold", "rollback", "announce", "notify", "step"]
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
    """Address where people can read more, such as the verdict; empty: the policy has none."""
    dry_run: bool = False
    service: str = ""
    """Name; of several services `cart,shop`; empty: not known."""
    arm: str = CANDIDATE
    """The arm that the request is about: a candidate, or the baseline."""
    share: str = ""
    """Share of the requests that the arm is to get, such as 0.05; empty: the request sets none."""
    instance: str = ""
    """The instance that a rollout replaces, as its router names it; empty: the request is about no single one."""
    instances: str = ""
    """All instances of its batch, such as `s1 s2`; empty: the request is about none."""
    step: str = ""
    """Name of the step of a rollout; empty: the request is not part of a rollout."""
    request: str = ""
    """Id of the request, such as i7; empty: it has none yet, or was made without the database."""

    @property
    def version(self) -> str:
        """Version of the arm; empty: it is not known."""
        return self.baseline if self.arm == BASELINE else self.canary

    def words(self) -> dict[str, str]:
        """Return the values that templates may name and receivers get, by their name; none is a secret."""
        return {word: getattr(self, word) for word in WORDS}

    def known_words(self) -> dict[str, str]:
        """Return `words` without those that have no value: a program would act with an empty version or share."""
        return {word: value for word, value in self.words().items() if value or word not in OPTIONAL}

    def left_s(self) -> float:
        """Seconds until the intent expires; negative afterwards."""
        return (self.expires_at - datetime.now(UTC)).total_seconds()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an execution, an undo or a test ended."""

    state: State
    did: str
    """One sentence; of a test several, one a line."""
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

    def read(self, context: HookContext | None = None) -> Json:
        """The value that it changes, or None; words of the context are filled in where reading it needs them."""

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

    @classmethod
    def choose_class(cls, options: O) -> type[BaseHook[O]]:  # noqa: ARG003 - as those that choose
        """Return the class of the hook with these options: this one, unless a kind has several."""
        return cls

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
                self._check_target(context.action)
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

    def read(self, context: HookContext | None = None) -> Json:  # noqa: ARG002 - routers fill in its words
        """Read the value that the hook changes; None if it changes none. Raises HookError without secrets."""
        return self._read_safely(self._read)

    def _read_safely(self, operation: Callable[[], T]) -> T:
        """Call a method that only reads. Raises HookError without secrets, whatever the method raises."""
        try:
            return self._call(operation)
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
                self._check_target(action)
            return outcome

        return self._attempt(check)

    def find_obstacle(self, action: Action) -> str:
        """Say why the hook would be refused now, because its target cannot serve; empty if it would not."""
        try:
            if not self._call(lambda: self._goes_back(action)):
                self._call(lambda: self._check_target(action))
        except EvaluatorError as error:
            return self._remove_secrets(to_failed_outcome(error).did)
        except MaybeSent as error:  # the answer has another form; reading has changed nothing
            return self._remove_secrets(str(error))
        return ""

    def _describe(self, words: Mapping[str, str]) -> str:
        """Say in one sentence what the hook will do. Each hook has its own.

        `words`: values of the words of its templates, such as `canary`; empty: none has a value.
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

    def _check_target(self, action: Action) -> None:
        """Raise HookError if what an action gives traffic to cannot serve it. Other hooks have nothing to check."""

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
            outcome = to_failed_outcome(error)
        except MaybeSent as error:
            if context:
                outcome = Outcome("unknown", f"{error}; it may have been done")
            else:
                outcome = Outcome("failed", str(error))
        response = _shorten(self._remove_secrets(outcome.response), LONGEST_RESPONSE)
        return replace(outcome, did=self._remove_secrets(outcome.did), response=response)

    def _remove_secrets(self, text: str) -> str:
        """Replace the hook's secrets in a text. Do this before a text is cut: half of a secret is not recognised."""
        return redact(text, self.list_secrets())

    def list_secrets(self) -> list[str]:
        """List the values of all environment variables that the hook's options name as `${NAME}`."""
        variables = OF_HOOKS.pattern.findall(self.options.model_dump_json())
        return [value for name in variables if (value := self.environment.get(name))]


def to_failed_outcome(error: EvaluatorError) -> Outcome:
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
    hook_class, checked = choose_class(kind, options)
    hook = hook_class(checked, environment)
    if not isinstance(hook, Hook):  # the class of another package may lack methods
        raise HookError(
            f"{hook_class.__module__}.{hook_class.__name__} is not a hook", hint="docs/hooks.md lists what a hook needs"
        )
    return hook


def choose_class(kind: str, options: Mapping[str, Any]) -> tuple[type[Any], Any]:
    """Choose the class of a hook by its kind and options; returns it with the checked options.

    Raises UnknownName or PolicyError.
    """
    if kind not in HOOKS:
        raise UnknownName("hook", kind, HOOKS)
    hook_class = HOOKS[kind]
    checked = read_options(kind, hook_class.Options, options)
    # Some kinds have a class for each of their uses: `command` runs a program, or shares requests by two programs.
    choose = getattr(hook_class, "choose_class", lambda _options: hook_class)
    return choose(checked), checked


def read_options(kind: str, model: type[O], options: Mapping[str, Any]) -> O:
    """Read the options of a hook by their model. Raises PolicyError, which names the first wrong option."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        first_mistake = error.errors(include_url=False, include_input=False)[0]
        key_path = ".".join(str(part) for part in (kind, *first_mistake["loc"]))
        raise PolicyError(f"hook {key_path}: {first_mistake['msg'].removeprefix('Value error, ')}") from None
