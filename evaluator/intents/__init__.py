"""Requests to promote, hold and roll back: who may ask, who has to agree, and their execution once in effect."""

from __future__ import annotations

from evaluator.intents.asking import (
    LONGEST_NOTE,
    ActionRequest,
    approve,
    ask,
    cancel,
    explain_other_hooks,
    explain_refusal,
    plan_action,
    plan_request,
    read_release_to_preview,
    read_request_release,
    resolve,
    retry,
    write_note,
)
from evaluator.intents.conditions import PromotionCondition, find_waiting, list_conditions
from evaluator.intents.describing import describe_ask, describe_missing
from evaluator.intents.executing import execute, execute_waiting, name_worker
from evaluator.intents.life import Lives, read_lives
from evaluator.intents.notifying import notify_people
from evaluator.intents.observing import find_latest
from evaluator.intents.people import SYSTEM, may, may_ask, role_of, system_person, why_not
from evaluator.intents.previews import Preview, list_left_by_hand, preview_action, preview_intent
from evaluator.intents.rollout_plans import describe_rollout_stop
from evaluator.intents.rollout_start import explain_obstacle_to_start
from evaluator.intents.rollout_steps import describe_request
from evaluator.intents.versions import read_hook_release
from evaluator.intents.worker import WITHOUT_STORE, run_worker

__all__ = [
    "LONGEST_NOTE",
    "SYSTEM",
    "WITHOUT_STORE",
    "ActionRequest",
    "Lives",
    "Preview",
    "PromotionCondition",
    "approve",
    "ask",
    "cancel",
    "describe_ask",
    "describe_missing",
    "describe_request",
    "describe_rollout_stop",
    "execute",
    "execute_waiting",
    "explain_obstacle_to_start",
    "explain_other_hooks",
    "explain_refusal",
    "find_latest",
    "find_waiting",
    "list_conditions",
    "list_left_by_hand",
    "may",
    "may_ask",
    "name_worker",
    "notify_people",
    "plan_action",
    "plan_request",
    "preview_action",
    "preview_intent",
    "read_hook_release",
    "read_lives",
    "read_release_to_preview",
    "read_request_release",
    "resolve",
    "retry",
    "role_of",
    "run_worker",
    "system_person",
    "why_not",
    "write_note",
]
