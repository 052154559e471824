"""The answer of a plan in sentences: how long a test takes until a GO is likely, and what it would find."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluator.planning import GatePlan, Goal
from evaluator.records import Margin
from evaluator.wording import format_duration, format_margin, format_number, name_metric


def answer_plan(plans: Sequence[GatePlan], goal: Goal, rate_per_s: float) -> tuple[str, ...]:
    """Say how long to test until an unchanged release is likely to pass, then what the planned test would find.

    `plans`: of at least one gate; `rate_per_s`: requests a second of each arm.
    """
    return (_answer_how_long(plans, goal, rate_per_s), _answer_what_is_found(plans, goal))


def _answer_how_long(plans: Sequence[GatePlan], goal: Goal, rate_per_s: float) -> str:
    """Say after which time each gate passes with the chance of the goal; if never, what would help."""
    given = f"{format_number(rate_per_s)} requests a second and {_write_instances(goal.instances)}"
    slowest = max(plans, key=lambda plan: plan.go_after_s)
    chance = f"a chance of {format_number(goal.power * 100)} % or more"
    each = "the gate" if len(plans) == 1 else "each gate"
    if math.isfinite(slowest.go_after_s):
        longest = f" {_name(slowest)} needs the longest." if len(plans) > 1 else ""
        return (
            f"With {given} you need about {format_duration(slowest.go_after_s)}: "
            f"then {each} of an unchanged release passes with {chance}.{longest}"
        )
    never = [plan for plan in plans if not math.isfinite(plan.go_after_s)]
    needed = max(plan.go_instances for plan in never)
    if not math.isfinite(needed):
        remedy = "load longer with more instances, or allow more in the policy"
    else:
        # The other gates need the time that they need with fewer instances, or less.
        times_s = [goal.duration_s, *(plan.go_after_s for plan in plans if plan not in never)]
        remedy = f"use {_write_instances(round(needed))} for {format_duration(max(times_s))}"
    return f"With {given} no length of the test is enough for {_list_names(never)} to pass with {chance}: {remedy}."


def _answer_what_is_found(plans: Sequence[GatePlan], goal: Goal) -> str:
    """Say with which chance the rise of the goal is found, by each gate that does not allow it."""
    found, allowed = [], []
    for plan in plans:
        harm, rule = goal.harm(plan.precision), plan.precision.rule
        if rule.margin and harm <= rule.margin.value * (1 + 1e-9):
            allowed.append(plan)
        else:
            found.append(
                f"+{_write_harm(plan, harm)} of {_name(plan)} with a chance of {plan.found_chance * 100:.0f} %"
            )
    sentences = []
    if found:
        sentences.append(f"In {format_duration(goal.duration_s)} a rise is found: {', '.join(found)}.")
    if allowed:
        verb, pronoun = ("allows", "it") if len(allowed) == 1 else ("allow", "they")
        sentences.append(
            f"{_list_names(allowed)} {verb} a rise as large as the chosen one, so {pronoun} would hardly ever find it."
        )
    return " ".join(sentences)


def _write_instances(count: int) -> str:
    """Write the number of instances of both arms: `4 + 4 instances`."""
    return f"{count} + {count} instances"


def _list_names(plans: Sequence[GatePlan]) -> str:
    """Name gates: `p50, p95 and p99`."""
    *others, last = [_name(plan) for plan in plans]
    return f"{', '.join(others)} and {last}" if others else last


def _name(plan: GatePlan) -> str:
    """Name a gate."""
    return name_metric(plan.precision.rule)


def _write_harm(plan: GatePlan, harm: float) -> str:
    """Write a harm as a margin is written: in percent if relative (0.1 = 10 %), else in the metric's unit."""
    return format_margin(Margin(harm, relative=plan.precision.relative), plan.precision.unit)
