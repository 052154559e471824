"""Plan: what a test would detect, how long it takes, how to roll out, and the verdict under other margins."""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

from evaluator.calibration import CalibrationReport, Tally, needed_comparisons
from evaluator.errors import UsageError
from evaluator.figures import color_judged_arms, draw_exposure, draw_precision
from evaluator.pipeline.reviewing import judge_under_margins
from evaluator.planning import (
    Exposure,
    GatePlan,
    Goal,
    History,
    choose_harms,
    compare_strategies,
    plan_gates,
    tabulate,
)
from evaluator.policy import Policy
from evaluator.records import Margin, Rulebook
from evaluator.reports.overview import rank_comparisons
from evaluator.reports.plan import answer_plan
from evaluator.rollout.outlook import describe_rollout
from evaluator.ui.controls import choose, start_anew
from evaluator.ui.frame import guarded
from evaluator.ui.metric_table import make_metrics_table
from evaluator.ui.panels import show_figure, show_numbers
from evaluator.ui.pieces import (
    complete_command,
    keep_units,
    link,
    mark_up_verdict,
    show,
    show_empty,
    show_markup,
    show_table,
)
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
from evaluator.wording import count_of, format_count, format_duration, format_margin, format_number, name_metric

ASSUMED_RATE_PER_S, ASSUMED_INSTANCES = 30.0, 4
MOST_INSTANCES = 32
NO_HISTORY = "no history: assume a service"
DURATION_FACTORS = (0.25, 0.5, 1, 2, 4)
"""Durations for which precision is shown, in multiples of the chosen one."""
MARGIN_FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
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
    """Show the page Plan: what a test detects, the verdict under other margins, and false alarms of the policy."""
    st.title("Plan")
    workspace = find_workspace()
    names = [summary.release.id for summary in read_summaries(workspace)] if workspace.store.exists() else []
    release = choose(
        "Based on the stored data of",
        [*names, NO_HISTORY],
        "release",
        (names or [NO_HISTORY])[0],
        "release",
        own_controls=("rate", "instances", "latency", "failures", "margins", "calibrate"),
    )
    release_id = None if release == NO_HISTORY else release
    policy = read_policy(workspace, *filter(None, [release_id]))
    answer = st.container()  # above the controls that it depends on
    goal = _choose_goal(workspace, policy, release_id)
    # Each part is guarded: an error in it leaves the other parts of the page.
    guarded(lambda: _show_plan(workspace, policy, release_id, goal, answer))()
    if release_id:
        guarded(lambda: _show_other_margins(workspace, release_id))()
    guarded(lambda: _show_calibration(workspace, policy, release_id, has_releases=bool(names)))()


def _choose_goal(workspace: Workspace, policy: Policy, release_id: str | None) -> Goal:
    """Let the reader choose the length of the test, instances, the request rate, and the rise to find.

    `release_id`: the release whose stored runs are the basis, and have a rate; `None`: an assumed service.
    """
    stored_rate, stored_instances = _read_size(workspace, policy, release_id)
    latency_default, failures_default = choose_harms(policy.rulebook)

    def slide(
        column: Any, label: str, key: str, minimum: float, maximum: float, default: float, **options: Any
    ) -> float:
        """Show a slider whose choice is in the address."""
        start_anew(key, default)
        chosen: float = column.slider(label, minimum, maximum, default, key=key, bind="query-params", **options)
        return chosen

    first_row, second_row = st.columns(3), st.columns(3)
    minutes = slide(first_row[0], "Minutes of load", "minutes", 5, 240, 60, step=5)
    instances = slide(first_row[1], "Instances per arm", "instances", 1, MOST_INSTANCES, stored_instances)
    start_anew("rate", stored_rate)
    rate: float = first_row[2].number_input(
        "Requests a second per arm", 0.01, None, stored_rate, key="rate", bind="query-params", format="%.4g"
    )
    latency = slide(second_row[0], "Rise of latency to find, %", "latency", 1, 100, round(100 * latency_default))
    failures_pp = round(1000 * failures_default) / 10
    failures = slide(second_row[1], "Rise of failures to find, pp", "failures", 0.1, 10.0, failures_pp, step=0.1)
    power = slide(second_row[2], "Required chance, %", "power", 50, 99, 80)
    return Goal(
        duration_s=minutes * 60.0,
        instances=int(instances),
        rate_per_s=None if release_id and rate == stored_rate else rate,
        regression=latency / 100,
        failures=failures / 100,
        power=power / 100,
    )


def _read_size(workspace: Workspace, policy: Policy, release_id: str | None) -> tuple[float, int]:
    """Read how many requests a second and how many instances each arm had in the stored runs of a release.

    Usual numbers without them.
    """
    if release_id is None:
        return ASSUMED_RATE_PER_S, ASSUMED_INSTANCES
    try:
        history = read_plan_history(
            workspace, policy, release_id, rate_per_s=ASSUMED_RATE_PER_S, instances=ASSUMED_INSTANCES
        )
    except UsageError:  # the plan says what is missing
        return ASSUMED_RATE_PER_S, ASSUMED_INSTANCES
    return float(f"{history.rate_per_s:.4g}"), min(max(history.instances, 1), MOST_INSTANCES)


def _show_plan(workspace: Workspace, policy: Policy, release_id: str | None, goal: Goal, place: Any) -> None:
    """Show what the test detects by each gate, its precision, and the ways to roll out.

    `release_id`: the release whose stored data are the basis; `None`: an assumed service. `place`: where the answer in
    a sentence is shown. Raises UsageError if the policy has no gate with a margin.
    """
    history = read_plan_history(
        # The rate is missing only with a release, whose stored runs have one: then it is not used.
        workspace,
        policy,
        release_id,
        rate_per_s=goal.rate_per_s or ASSUMED_RATE_PER_S,
        instances=goal.instances,
    )
    plans = plan_gates(history, policy.rulebook, goal)
    if not plans:
        raise UsageError("the policy has no gate with a margin to plan for", hint="`evaluator policy show` prints it")
    answer, *others = answer_plan(plans, goal, goal.rate_per_s or history.rate_per_s)
    others.append(_describe_rollout(policy, release_id or "RELEASE", history, goal))
    with place:
        show_markup('<p class="ev-answer"><strong>{}</strong> {}</p>', keep_units(answer), keep_units(" ".join(others)))
    _show_origin(history)
    st.header("What this test would detect", anchor="gates")
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
        "smallest rise found",
        "chance to find the chosen rise",
        "chance of GO if unchanged",
        "GO after",
        "uncertainty that only more instances remove",
    )
    rows = [_make_gate_row(plan, goal) for plan in plans]
    show_table(head, ([keep_units(cell) for cell in row] for row in rows), caption="gates")
    show_numbers("plan", head, rows, snippet, caption="gates")
    st.header("Precision by minutes and by instances", anchor="precision")
    # Around the chosen values: half as many instances to four times as many, a quarter of the time to four times.
    instance_counts = sorted({max(2, goal.instances // 2), goal.instances, 2 * goal.instances, 4 * goal.instances})
    durations_s = [goal.duration_s * factor for factor in DURATION_FACTORS]
    grids = tabulate(history, policy.rulebook, goal, durations_s, instance_counts)
    columns = st.columns(2, gap="large")
    for index, (plan, grid) in enumerate(zip(plans, grids, strict=True)):
        with columns[index % 2]:
            show_figure(draw_precision(plan, grid), f"precision-{index}", snippet)
    st.header("Ways to roll out, unchanged and with the regression", anchor="strategies")
    show_figure(draw_exposure(_simulate_rollouts(history, policy.rulebook, goal)), "exposure", snippet)


@st.cache_data(
    max_entries=32,
    show_spinner="simulating your rollout …",
    hash_funcs={Policy: lambda policy: policy.hash, History: repr, Goal: repr},
)
def _describe_rollout(policy: Policy, release: str, history: History, goal: Goal) -> str:
    """Say how the rollout of the policy will probably go; cached until one of the arguments changes."""
    return describe_rollout(policy, release, history, goal)


@st.cache_data(
    max_entries=32, show_spinner="simulating 2,000 rollouts …", hash_funcs={History: repr, Rulebook: repr, Goal: repr}
)
def _simulate_rollouts(history: History, rulebook: Rulebook, goal: Goal) -> tuple[Exposure, ...]:
    """Simulate each way to roll out; the result is cached until one of the arguments changes."""
    return compare_strategies(history, rulebook, goal)


def _show_origin(history: History) -> None:
    """Show where the numbers of the plan are from: an assumed service, or stored comparisons."""
    if history.assumed:
        text = (
            "Assumed, not measured: five endpoints of 40 to 250 ms, 0.1 % failures and bursts of them, load that "
            "drifts, instances that differ by 1 %. Choose a stored release to plan from your own service."
        )
    else:
        noun = "comparison" if history.comparisons == 1 else "comparisons"
        rate = format_number(history.rate_per_s)
        text = (
            f"Based on {history.comparisons} stored {noun} at {rate} requests a second per arm; "
            "more of them make the plan more reliable."
        )
        if history.of_another_source:
            text += f" Left out: {count_of(history.of_another_source, 'comparison')} of data from another source."
    missing = [f"{name}: no stored data, not planned." for name in history.missing]
    show_markup('<p class="muted">{}</p>', " ".join([text, *missing]))


def _make_gate_row(plan: GatePlan, goal: Goal) -> tuple[str, ...]:
    """Make the cells of a gate for the table of gates.

    In order: its name; its margin; the half-width of its interval; the smallest harm that the test detects with the
    chance that the goal requires; the chance to detect the harm of the goal, and that harm; the chance of GO for an
    unchanged release; the time and requests after which that is the chance that the goal requires; and the share of
    the variance that only more instances shrink.
    """
    precision, smallest_detected = plan.precision, plan.finds

    def write_harm(harm: float) -> str:
        """Write a harm as a margin is written: in percent if relative (0.1 = 10 %), else in the metric's unit."""
        return format_margin(Margin(harm, relative=precision.relative), precision.unit)

    harm, margin = goal.harm(precision), precision.rule.margin
    is_allowed = ", which is allowed" if margin and harm <= margin.value * (1 + 1e-9) else ""
    # Infinite: a GO does not get that chance, however long the test is, or with no number of instances.
    go_after = "never"
    if math.isfinite(plan.go_after_s):
        go_after = f"{format_duration(plan.go_after_s)}, {format_count(round(plan.requests))} requests"
    elif math.isfinite(plan.go_instances):
        go_after = f"never; {format_number(plan.go_instances)} instances would be enough"
    return (
        name_metric(precision.rule),
        format_margin(precision.rule.margin, precision.unit),
        f"± {write_harm(plan.half_width)}",
        f"+{write_harm(smallest_detected)}" if math.isfinite(smallest_detected) else "nothing",
        f"{_write_percent(plan.found_chance)} for +{write_harm(harm)}{is_allowed}",
        _write_percent(plan.go_chance),
        go_after,
        _write_percent(plan.persistent),
    )


def _write_percent(share: float) -> str:
    """Write a share of 1 as whole percent."""
    return f"{share * 100:.0f} %"


# ------------------------------------------------------------------ other margins


def _show_other_margins(workspace: Workspace, release_id: str) -> None:
    """Show the latest verdict of a release as it would be if all margins were multiplied by a factor."""
    st.header("The verdict under other margins", anchor="margins")
    verdict = read_past_verdict(read_release(workspace, release_id), None)
    if verdict is None:
        show_empty("It was not judged yet.", "Judge it first:", workspace.command(release_id))
        return
    judged = read_judgement(workspace, verdict)
    start_anew("margins", 1.0)
    factor = st.select_slider("Every margin, times", MARGIN_FACTORS, 1.0, key="margins", bind="query-params")
    margins = {rule.name: rule.margin.value * factor for rule in judged.rulebook.rules if rule.margin}
    with_other_margins = judge_under_margins(judged, margins, release_id)
    show_markup(
        "<p>{} was judged {}; with margins × {} it would be {}. Nothing is kept: a margin is changed in the policy, "
        "where others can see it.</p>",
        link("release", text=release_id, release=release_id),
        mark_up_verdict(verdict.word),
        f"{factor:g}",
        mark_up_verdict(with_other_margins.judgement.word),
    )
    metrics = rank_comparisons(
        [comparison for comparison in with_other_margins.evidence.comparisons if not comparison.scan]
    )
    has_several_candidates = len({comparison.arm for comparison in metrics}) > 1
    colors = color_judged_arms(with_other_margins.evidence)
    show(
        make_metrics_table(metrics, release_id, colors, with_arms=has_several_candidates, caption="under these margins")
    )


# ------------------------------------------------------------------ false alarms


def _show_calibration(workspace: Workspace, policy: Policy, release_id: str | None, *, has_releases: bool) -> None:
    """Show how often the policy gives a wrong verdict on identical halves of stored baselines, if the reader asks."""
    st.header("Does this policy raise false alarms?", anchor="calibration")
    if not has_releases:
        show_empty("There are no stored baselines to try it on.", "Load or import some releases first.")
        return
    start_anew("calibrate", default=False)
    if not st.toggle(
        "Judge identical halves of stored baselines (takes a while)", key="calibrate", bind="query-params"
    ):
        show_empty("Not tried on this page yet.", "Turn it on above, or run", "evaluator calibrate")
        return
    report = read_calibration(workspace, policy, release_id)
    show_markup("<p><strong>{}</strong></p>", _write_conclusion(report))
    head = ("identical halves by", "with", "judged", "NO-GO", "GO")
    rows = [_make_tally_row(tally) for tally in report.tallies]
    show_table(head, rows, caption="false alarms and power")
    command = complete_command("evaluator calibrate --json")
    show_numbers("calibration", head, rows, command, caption="false alarms and power")


def _write_conclusion(report: CalibrationReport) -> str:
    """Say whether the policy raises too many false alarms, and on how many identical releases that rests."""
    overall = report.overall
    if not overall.judged:
        return "Too little history to know: no stored baseline can be compared with itself."
    low, high = overall.interval(overall.no_go)  # 95 % interval of the share that is NO-GO
    observed = f"{overall.no_go} of {overall.judged} identical releases were NO-GO ({low:.1%} to {high:.1%})"
    sentences = {"cries_wolf": "It raises too many false alarms", "keeps": "False alarms are within the limit"}
    if report.conclusion in sentences:
        return f"{sentences[report.conclusion]}: {observed}, {report.alpha:.1%} are allowed."
    needed = needed_comparisons(report.alpha)
    return (
        f"Too little history to know whether {report.alpha:.1%} are kept: {observed}; "
        f"without any alarm it takes {needed} independent comparisons."
    )


def _make_tally_row(tally: Tally) -> tuple[str, ...]:
    """Make the cells of a tally, which counts verdicts on stored data that were split into two halves.

    In order: by what the data were split, what was changed in one half, how many verdicts there are, and the shares
    that are NO-GO and GO.
    """
    change = tally.change
    if change.latency:
        regression = f"latency +{change.latency * 100:.0f} %"
    elif change.failures:
        regression = f"failures +{100 * change.failures:g} pp"
    else:
        regression = "nothing changed"

    def write_share(count: int) -> str:
        """Write `count` as a share of the tally's verdicts with its 95 % interval; a dash without verdicts."""
        if not tally.judged:
            return "–"
        low, high = tally.interval(count)
        return f"{100 * count / tally.judged:.0f} % ({100 * low:.0f} % to {100 * high:.0f} %)"

    return tally.kind, regression, f"{tally.judged}", write_share(tally.no_go), write_share(tally.go)
