"""The errors that the evaluator raises, and the exit code of each.

```
EvaluatorError            4  could not evaluate
├── UsageError            2  the command was called wrongly
│   ├── UnknownName       2  a release, metric, endpoint, format … that does not exist
│   ├── PolicyError       2  evaluator.yaml cannot be used
│   └── InputError        2  an input file cannot be used
├── StoreError            4  the store cannot be opened, read or written
│   └── StoreBusy         4  another process keeps it open for longer than the wait time
├── OutcomeNotStored      4  an action was executed, and the store does not have its outcome
├── SourceError           4  a source could not be reached or run
│   └── LoadError         4  a load run did not happen, or not completely
├── HookError             4  a hook could not be called, or its target refused
│   └── NotReached        4  it could not connect to its target
└── Refused               3  the requested action is not allowed now (1 where the verdict is NO-GO)
```

A message is one sentence that names the cause; `hint` is one sentence that says what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EvaluatorError(Exception):
    """Root of the tree: a message for the user, a hint, and an exit code."""

    exit_code = 4

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EvaluatorError):
    """The command or the library was called wrongly."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that does not exist, with the nearest names that do."""

    def __init__(self, kind: str, name: str, names: Iterable[str], *, hint: str | None = None) -> None:
        """`kind`: what has the name, such as "release"; `names`: those that exist."""
        self.kind, self.name, self.names = kind, name, sorted(names)
        super().__init__(f"there is no {kind} '{name}'{_suggestion(name, self.names)}", hint=hint)


def _suggestion(name: str, names: list[str]) -> str:
    """Return the end of the message that `name` is unknown: the nearest of `names`, else up to six of them."""
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    if not names:
        return "; there are none yet"
    shown = ", ".join(f"'{n}'" for n in names[:6])
    return f"; known: {shown}" + (f" and {len(names) - 6} more" if len(names) > 6 else "")


class PolicyError(UsageError):
    """The policy file cannot be used; the message starts with file:line."""


class InputError(UsageError):
    """An input file cannot be used; the message names file, line, column and value."""


class StoreError(EvaluatorError):
    """The store cannot be opened, read or written. It was left unchanged."""


class StoreBusy(StoreError):
    """Another process holds the store; the message names it."""


class OutcomeNotStored(EvaluatorError):
    """An action was executed, but the store could not be written: its outcome is in the journal."""

    def __init__(
        self, message: str, *, state: str, lines: Iterable[str], by_hand: Iterable[str], hint: str | None = None
    ) -> None:
        """`state`: how the action ended; `lines`: a sentence about each of its hooks.

        `by_hand`: lines for a shell by which a person does what is left.
        """
        super().__init__(message, hint=hint)
        self.state, self.lines, self.by_hand = state, tuple(lines), tuple(by_hand)


class SourceError(EvaluatorError):
    """Data could not be fetched or produced."""


class LoadError(SourceError):
    """A load run could not start, or is incomplete."""


class HookError(EvaluatorError):
    """A hook failed and changed nothing."""


class NotReached(HookError):
    """A hook could not connect to its target, so nothing was sent; a later attempt may succeed."""


class PlanNotReadable(StoreError):
    """The plan of a rollout was made by another version of the evaluator, which this one cannot continue."""


class StepWaits(StoreBusy):
    """A step of a rollout may not be executed now, because a person holds the rollout; it may be later."""


class Refused(EvaluatorError):
    """The requested action is not allowed now, because of verdict, data, policy, approvals or permission."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str | None = None, no_go: bool = False) -> None:
        """`no_go`: it is not allowed because the verdict is NO-GO, which has an exit code of its own."""
        super().__init__(message, hint=hint)
        if no_go:
            self.exit_code = 1
