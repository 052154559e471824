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
    Step,
    check_hook,
    describe_current,
    find_obstacle,
    make_hook,
    make_step,
    run_hook,
    undo_hook,
)
from evaluator.hooks.by_hand import write_by_hand
from evaluator.hooks.options import HookOptions

__all__ = [
    "HOOKS",
    "BaseHook",
    "Hook",
    "HookContext",
    "HookOptions",
    "Outcome",
    "Step",
    "check_hook",
    "describe_current",
    "find_obstacle",
    "make_hook",
    "make_step",
    "run_hook",
    "undo_hook",
    "write_by_hand",
]
