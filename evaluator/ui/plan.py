"""Plan: what a test would detect, how long it takes, how to roll out, and the verdict under other margins."""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

from evaluator.calibration import CalibrationReport, Tally, needed_comparisons
from evaluator.errors import UsageError
from evaluator.figures import draw_exposure, draw_precision
from evaluator.pipeline.reviewing import judge_under_margins
from evaluator.planning import Exposure, GatePlan, Goal, History, compare_strategies, plan_gates, tabulate
from evaluator.policy import Policy
from evaluator.records import Margin, Rulebook
from evaluator.reports.overview import rank_comparisons
from evaluator.ui.controls import choose
from evaluator.ui.frame import guarded
from evaluator.ui.panels import hand_out, show_figure
from evaluator.ui.pieces import link, metrics_table, show, show_empty, show_markup, show_table, words_of
from evaluator.ui.reads import (
    Workspace,
    find_workspace,
    read_calibration,
    read_judgement,
    read_past_verdict,
    read_plan_history,
    read_policy,
    read_release,
    read_summaries,
)
from evaluator.wording import format_count, format_duration, format_margin, format_number, name_metric

NONE = "no history: assume a service"
FACTORS = (0.25, 0.5, 1, 2, 4)
TIMES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
SNIPPET = """from pathlib import Path
from evaluator.pipeline.hindsight import find_history
from evaluator.planning import Goal, compare_strategies, plan_gates
from evaluator.policy import load_policy
from evaluator.store import Store

policy, store = load_policy({policy}), {store}
history = find_history(store, policy, {release!r}, rate_per_s={rate}, instances={instances})
goal = {goal!r}
for gate in plan_gates(history, policy.rulebook, goal):
    print(gate)
for rollout in compare_strategies(history, policy.rulebook, goal):
    print(rollout)"""


def show_plan() -> None:
    """The page."""
    st.title("Plan")
    workspace = find_workspace()
    names = [summary.release.id for summary in read_summaries(workspace)] if workspace.store.exists() else []
    release = choose("Based on the stored data of", [*names, NONE], "release", (names or [NONE])[0])
    release_id = None if release == NONE else release
    policy = read_policy(workspace, *filter(None, [release_id]))
    goal = _choose_goal(assumed=release_id is None)
    guarded(lambda: _show_plan(workspace, policy, release_id, goal))()
    if release_id:
        guarded(lambda: _show_what_if(workspace, release_id))()
    guarded(lambda: _show_calibration(workspace, policy, release_id, has_releases=bool(names)))()


def _choose_goal(*, assumed: bool) -> Goal:
    """Sliders for traffic, instances and minutes, and for the rise to detect."""

    def slide(column: Any, label: str, key: str, low: float, high: float, value: float, **options: Any) -> float:
        chosen: float = column.slider(label, low, high, value, key=key, bind="query-params", **options)
        return chosen

    top, below = st.columns(3, gap="large"), st.columns(3, gap="large")
    minutes = slide(top[0], "Minutes of load", "minutes", 5, 240, 60, step=5)
    instances = slide(top[1], "Instances per arm", "instances", 1, 32, 4)
    why = None if assumed else "taken from the stored runs"
    rate = slide(top[2], "Requests a second per arm", "rate", 1, 1000, 30, disabled=not assumed, help=why)
    latency = slide(below[0], "Rise of latency to detect, %", "latency", 1, 50, 10)
    failures = slide(below[1], "Rise of failures to detect, pp", "failures", 0.1, 5.0, 0.5, step=0.1)
    power = slide(below[2], "Required chance to detect it, %", "power", 50, 99, 80)
    return Goal(
        duration_s=minutes * 60.0,
        instances=int(instances),
        rate_per_s=float(rate) if assumed else None,
        regression=latency / 100,
        failures=failures / 100,
        power=power / 100,
    )


def _show_plan(workspace: Workspace, policy: Policy, release_id: str | None, goal: Goal) -> None:
    history = read_plan_history(
        workspace, policy, release_id, rate_per_s=goal.rate_per_s or 30.0, instances=goal.instances
    )
    _say_origin(history)
    plans = plan_gates(history, policy.rulebook, goal)
    if not plans:
        raise UsageError("the policy has no gate with a margin to plan for", hint="`evaluator policy show` prints it")
    st.subheader("What this test would detect", anchor="gates")
    snippet = SNIPPET.format(
        policy=f"Path({policy.origin!r})" if workspace.policy else "",
        store=f"Store.open(Path({str(workspace.store)!r}))" if release_id else None,
        release=release_id,
        rate=goal.rate_per_s or 0.0,
        instances=goal.instances,
        goal=goal,
    )
    head = (
        "gate",
        "allowed",
        "precision",
        "detects",
        "chance to detect",
        "GO if unchanged",
        "GO after",
        "variance of instances",
    )
    rows = [_row(plan, goal) for plan in plans]
    show_table(head, rows, caption="gates")
    hand_out("plan", head, rows, snippet, caption="gates")
    st.subheader("Precision by minutes and by instances", anchor="precision")
    around = sorted({max(2, goal.instances // 2), goal.instances, 2 * goal.instances, 4 * goal.instances})
    grids = tabulate(history, policy.rulebook, goal, [goal.duration_s * factor for factor in FACTORS], around)
    columns = st.columns(2, gap="large")
    for k, (plan, grid) in enumerate(zip(plans, grids, strict=True)):
        with columns[k % 2]:
            show_figure(draw_precision(plan, grid), f"precision-{k}", snippet)
    st.subheader("Ways to roll out, unchanged and with the regression", anchor="strategies")
    show_figure(draw_exposure(_compare(history, policy.rulebook, goal)), "exposure", snippet)


@st.cache_data(
    max_entries=32, show_spinner="simulating 2,000 rollouts …", hash_funcs={History: repr, Rulebook: repr, Goal: repr}
)
def _compare(history: History, rulebook: Rulebook, goal: Goal) -> tuple[Exposure, ...]:
    return compare_strategies(history, rulebook, goal)


def _say_origin(history: History) -> None:
    if history.assumed:
        text = (
            "Assumed, not measured: five endpoints of 40 to 250 ms, 0.1 % failures and bursts of them, load that "
            "drifts, instances that differ by 1 %. Choose a stored release to plan from your own service."
        )
    else:
        many = "comparison" if history.comparisons == 1 else "comparisons"
        rate = format_number(history.rate_per_s)
        text = (
            f"From {history.comparisons} stored {many} at {rate} requests a second per arm; "
            "more of them make the plan more reliable."
        )
    missing = [f"{name}: no stored data, not planned." for name in history.missing]
    show_markup('<p class="muted">{}</p>', " ".join([text, *missing]))


def _row(plan: GatePlan, goal: Goal) -> tuple[str, ...]:
    precision = plan.precision

    def harm(value: float) -> str:
        return format_margin(Margin(value, relative=precision.relative), precision.unit)

    after = "never"
    if math.isfinite(plan.go_after_s):
        after = f"{format_duration(plan.go_after_s)}, {format_count(round(plan.requests))} requests"
    elif math.isfinite(plan.go_instances):
        after = f"never; {format_number(plan.go_instances)} instances would be enough"
    return (
        name_metric(precision.rule),
        format_margin(precision.rule.margin, precision.unit),
        f"± {harm(plan.half_width)}",
        f"+{harm(plan.finds)}" if math.isfinite(plan.finds) else "nothing",
        f"{plan.found_chance:.0%} (+{harm(goal.harm(precision))})",
        f"{plan.go_chance:.0%}",
        after,
        f"{plan.persistent:.0%}",
    )


# ------------------------------------------------------------------ other margins


def _show_what_if(workspace: Workspace, release_id: str) -> None:
    st.subheader("The verdict under other margins", anchor="margins")
    verdict = read_past_verdict(read_release(workspace, release_id), None)
    if verdict is None:
        show_empty("It was not judged yet.", "Judge it first:", workspace.command(release_id))
        return
    judged = read_judgement(workspace, verdict)
    times = st.select_slider("Every margin, times", TIMES, 1.0, key="margins", bind="query-params")
    with_margin = [rule for rule in judged.rulebook.rules if rule.margin]
    margins = {rule.name: rule.margin.value * times for rule in with_margin if rule.margin}
    tried = judge_under_margins(judged, margins, release_id)
    show_markup(
        "<p>{} was judged {}; with margins × {} it would be {}. Nothing is kept: a margin is changed in the policy, "
        "where others can see it.</p>",
        link("release", release_id, release=release_id),
        words_of(verdict.word),
        f"{times:g}",
        words_of(tried.judgement.word),
    )
    rows = rank_comparisons([row for row in tried.evidence.comparisons if not row.scan])
    show(metrics_table(rows, release_id, several=len({row.arm for row in rows}) > 1, caption="under these margins"))


# ------------------------------------------------------------------ false alarms


def _show_calibration(workspace: Workspace, policy: Policy, release_id: str | None, *, has_releases: bool) -> None:
    st.subheader("Does this policy raise false alarms?", anchor="calibration")
    if not has_releases:
        show_empty("There are no stored baselines to try it on.", "Load or import some releases first.")
        return
    if not st.toggle(
        "Judge identical halves of stored baselines (takes a while)", key="calibrate", bind="query-params"
    ):
        show_empty("Not tried on this page yet.", "Turn it on above, or run", "evaluator calibrate")
        return
    report = read_calibration(workspace, policy, release_id)
    show_markup("<p><strong>{}</strong></p>", _conclude(report))
    head = ("identical halves by", "with", "judged", "NO-GO", "GO")
    rows = [_tally(tally) for tally in report.tallies]
    show_table(head, rows, caption="false alarms and power")
    hand_out("calibration", head, rows, "evaluator calibrate --json", caption="false alarms and power")


def _conclude(report: CalibrationReport) -> str:
    overall = report.overall
    if not overall.judged:
        return "Too little history to know: no stored baseline can be compared with itself."
    low, high = overall.interval(overall.no_go)
    observed = f"{overall.no_go} of {overall.judged} identical releases were NO-GO ({low:.1%} to {high:.1%})"
    verdicts = {"cries_wolf": "It raises too many false alarms", "keeps": "False alarms are within the limit"}
    if report.conclusion in verdicts:
        return f"{verdicts[report.conclusion]}: {observed}, {report.alpha:.1%} are allowed."
    needed = needed_comparisons(report.alpha)
    return (
        f"Too little history to know whether {report.alpha:.1%} are kept: {observed}; "
        f"without any alarm it takes {needed} independent comparisons."
    )


def _tally(tally: Tally) -> tuple[str, ...]:
    change = tally.change
    regression = f"latency +{change.latency:.0%}" if change.latency else f"failures +{100 * change.failures:g} pp"
    shares = ["–", "–"]
    if tally.judged:
        counts = (tally.no_go, tally.go)
        shares = ["{:.0%} ({:.0%} to {:.0%})".format(count / tally.judged, *tally.interval(count)) for count in counts]
    return (
        tally.kind,
        regression if change.latency or change.failures else "nothing changed",
        f"{tally.judged}",
        *shares,
    )
