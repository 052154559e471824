"""What notifies people and programs, and moves traffic, once a release is decided: one hook per module.

Our own hooks are found through the entry points `evaluator.hooks`, as those of other packages are.
"""

from __future__ import annotations

from evaluator.hooks.base import (
    HOOKS,
    BaseHook,
    Hook,
    HookContext,
    Outcome,
    make_hook,
)
from evaluator.hooks.by_hand import write_by_hand
from evaluator.hooks.network import MaybeSent
from evaluator.hooks.options import HookOptions
from evaluator.hooks.router import Applied, Realised, Router, check_router, describe_drift, make_router
from evaluator.hooks.running import (
    Step,
    check_hook,
    describe_current,
    find_obstacle,
    list_secrets,
    make_step,
    redact_outcome,
    run_hook,
    undo_hook,
)

__all__ = [
    "HOOKS",
    "Applied",
    "BaseHook",
    "Hook",
    "HookContext",
    "HookOptions",
    "MaybeSent",
    "Outcome",
    "Realised",
    "Router",
    "Step",
    "check_hook",
    "check_router",
    "describe_current",
    "describe_drift",
    "find_obstacle",
    "list_secrets",
    "make_hook",
    "make_router",
    "make_step",
    "redact_outcome",
    "run_hook",
    "undo_hook",
    "write_by_hand",
]
