"""Execute hooks, each within its time limit: whatever a hook raises, or that it does not end, becomes its outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from evaluator.errors import EvaluatorError
from evaluator.hooks.base import Action, Hook, HookContext, Json, Outcome, make_hook, read_options, to_failed_outcome
from evaluator.hooks.options import HookOptions
from evaluator.secrecy import REDACTED, list_spellings, redact

GRACE_S = 1.0
"""Time beyond its limit in which a hook may still end by itself."""

_SHORTEST_PART = 6
"""Characters of a secret at the edge of a text that was cut, from which they are taken for a part of it."""
_CUT = "…"
"""Where a text was cut."""

T = TypeVar("T")


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
    common = read_options(kind, HookOptions, common_options)
    return Step(make_hook(kind, options), common.required, common.time_limit)


def run_hook(
    step: Step, context: HookContext, store_earlier: Callable[[Json], None] = lambda _earlier: None
) -> Outcome:
    """Execute a hook within its time limit.

    First the value that the hook will change is read and passed to `store_earlier`. If it cannot be read, the outcome
    is failed, and nothing is executed; a rollback goes on all the same. If `store_earlier` raises, so does this
    function.
    """
    limited_context = _limit_time(step, context)
    earlier = None
    if not context.dry_run:
        earlier = _call_in_time(step, limited_context.left_s(), lambda: step.hook.read(limited_context))
        if isinstance(earlier, _FailedCall):
            if context.action != "rollback":
                return replace(earlier.outcome, state="failed")  # never unknown: reading changes nothing
            earlier = None  # a program that prints the shares may fail where the one that sets them does not
        store_earlier(earlier)
    result = _call_in_time(step, limited_context.left_s(), lambda: step.hook.execute(limited_context))
    outcome = result.outcome if isinstance(result, _FailedCall) else result
    # A hook may know the earlier value better than `read`: then its outcome has it already.
    return outcome if outcome.earlier is not None else replace(outcome, earlier=earlier)


def describe_current(step: Step, context: HookContext) -> str:
    """Describe the current value that a hook would change, or say why it cannot be read. Changes nothing."""
    value = _call_in_time(step, _limit_time(step, context).left_s(), lambda: step.hook.read(context))
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


def list_secrets(steps: Iterable[Step]) -> list[str]:
    """List the secrets of several hooks. Hooks of other packages that tell none have none here."""
    return [secret for step in steps for secret in getattr(step.hook, "list_secrets", list)()]


def redact_outcome(outcome: Outcome, secrets: Sequence[str]) -> Outcome:
    """Replace secrets in the texts of an outcome: a receiver may repeat what another hook has sent to it.

    `secrets`: of all hooks of the request. Each hook has replaced its own already, before its texts were cut.
    """
    spellings = list_spellings(secrets)
    did, response = (_redact_edges(redact(text, secrets), spellings) for text in (outcome.did, outcome.response))
    return replace(outcome, did=did, response=response)


def _redact_edges(text: str, spellings: Sequence[str]) -> str:
    """Replace parts of secrets where a text may have been cut: at its begin, and at its end or before a `…`."""
    kept, mark, rest = text.rpartition(_CUT) if _CUT in text else (text, "", "")
    for spelling in spellings:
        for size in range(len(spelling) - 1, _SHORTEST_PART - 1, -1):
            if kept.startswith(spelling[-size:]):
                kept = REDACTED + kept[size:]
            if kept.endswith(spelling[:size]):
                kept = kept[:-size] + REDACTED
    return kept + mark + rest


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
            result.append(_FailedCall(to_failed_outcome(error)))
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
