"""`evaluator plan`: what a test would detect, how long it takes, what more instances gain, and how to roll out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import click

from evaluator.cli import Session, emit
from evaluator.cli.amounts import DURATION, SHARE
from evaluator.cli.gathering import gathered
from evaluator.cli.terminal import make_page
from evaluator.errors import UsageError
from evaluator.extensions import explain_missing_package
from evaluator.pipeline.hindsight import find_history
from evaluator.planning import (
    Exposure,
    GatePlan,
    Goal,
    Grid,
    History,
    choose_harms,
    compare_strategies,
    plan_gates,
    tabulate,
)
from evaluator.records import Margin
from evaluator.reports import Page
from evaluator.reports.base import align_columns, write_line
from evaluator.reports.plan import answer_plan
from evaluator.rollout.outlook import describe_rollout
from evaluator.wording import count_of, format_count, format_duration, format_margin, format_number, name_metric

FACTORS = (0.25, 0.5, 1, 2, 4)
"""Durations in the grid, as multiples of the planned one."""
TWICE_THE_MARGIN = "twice the widest margin of a gate"


@click.command("plan")
@click.argument("release", metavar="[RELEASE]", required=False)
@click.option("--rate", "rate_per_s", type=click.FloatRange(0, min_open=True), help="Requests per second of each arm.")
@click.option(
    "--duration", "duration_s", type=DURATION, default="60m", show_default=True, help="How long the test lasts."
)
@click.option(
    "--instances",
    "per_arm",
    type=click.IntRange(1, 1000),
    help="Instances of each arm, or replicates.  [default: as stored, or 4]",
)
@click.option(
    "--regression", "latency_rise", type=SHARE, help=f"Rise of latency to detect.  [default: {TWICE_THE_MARGIN}]"
)
@click.option(
    "--failures", "failures_rise", type=SHARE, help=f"Rise of failures to detect.  [default: {TWICE_THE_MARGIN}]"
)
@click.option("--power", type=SHARE, default="80%", show_default=True, help="Chance of detection, and of GO, to reach.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the plan to this file too: .svg, .png or .html.",
)
@gathered("goal", Goal)
@click.pass_obj
def command(
    session: Session,
    release: str | None,
    goal: Goal,
    per_arm: int | None,
    latency_rise: float | None,
    failures_rise: float | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Plan a test under the current policy, from the stored runs of RELEASE and its service, or from --rate alone.

    Shows for each gate what the test would detect and how likely GO is, what more minutes and more instances gain, and
    how many requests a regression would harm under each way to roll out.
    """
    if not goal.power < 1:
        raise UsageError(f"--power must be below 100%, not {goal.power:.0%}")
    policy = session.load_policy(release)
    if release is None and goal.rate_per_s is None:
        raise UsageError(
            "a plan needs a release with stored runs, or a rate",
            hint="run `evaluator plan RELEASE`, or `evaluator plan --rate 30` for 30 requests per second",
        )
    store = session.open_store() if release else None
    # The rate is not used if there is a release: its stored runs have one.
    history = find_history(
        store, policy, release, rate_per_s=goal.rate_per_s or 0.0, instances=per_arm or goal.instances
    )
    instances = per_arm or history.instances
    latency, failures = choose_harms(policy.rulebook)
    goal = replace(
        goal,
        instances=instances,
        regression=latency if latency_rise is None else latency_rise,
        failures=failures if failures_rise is None else failures_rise,
    )
    plans = plan_gates(history, policy.rulebook, goal)
    durations_s = [goal.duration_s * factor for factor in FACTORS]
    # Half as many instances to four times as many. At least 2 in place of the half: one instance shows no spread.
    instance_counts = sorted({max(2, instances // 2), max(instances, 1), 2 * instances, 4 * instances})
    grids = tabulate(history, policy.rulebook, goal, durations_s, instance_counts)
    strategies = compare_strategies(history, policy.rulebook, goal)
    if plot is not None:
        with explain_missing_package("drawing needs", "plots"):
            from evaluator.figures import draw_plan, save_figure

            save_figure(draw_plan(plans, grids, strategies), plot)
    if as_json:
        emit(json.dumps(_to_plain(history, goal, plans, grids, strategies), indent=2))
        return
    page = make_page()
    answer = answer_plan(plans, goal, goal.rate_per_s or history.rate_per_s) if plans else ()
    answer = (*answer, describe_rollout(policy, release or "RELEASE", history, goal))
    parts = (
        filter(None, answer),
        _write_head(release, history, goal),
        _write_gates(plans, goal, page),
        _write_grid(plans, grids, page),
        _write_strategies(strategies, goal, page),
        _write_notes(history),
    )
    # Indented lines are rows of tables and notes, which are as wide as they have to be.
    texts = ("\n".join(line if line.startswith("  ") else write_line(line, page) for line in part) for part in parts)
    emit("\n\n".join(texts))


# ------------------------------------------------------------------ for people


def _write_head(release: str | None, history: History, goal: Goal) -> Iterator[str]:
    """Write which test is planned, and which data the plan is based on."""
    title = f"plan for {release}" if release else "plan"
    size = f"{format_duration(goal.duration_s)}, {goal.instances} + {goal.instances} instances"
    rate = format_number(goal.rate_per_s or history.rate_per_s)
    yield f"{title}: {size}, {rate} requests/s an arm"
    if history.assumed:
        yield "  assumed, not measured: five endpoints of 40 to 250 ms, 0.1 % failures and bursts of them, load that"
        yield "  drifts, instances that differ by 1 %; `evaluator plan RELEASE` measures your own service"
    else:
        noun = "comparison" if history.comparisons == 1 else "comparisons"
        yield f"  from {history.comparisons} stored {noun}; more of them make the plan more reliable"
        if history.of_another_source:
            yield f"  left out: {count_of(history.of_another_source, 'comparison')} of data from another source"


def _write_gates(plans: Sequence[GatePlan], goal: Goal, page: Page) -> list[str]:
    """Write a table with a row for each gate: what the test detects, and how likely and how soon GO is.

    `goal`: the test that is planned, and the regression that it has to detect.
    """
    head = (
        "gate",
        "margin",
        "precision",
        "detects",
        "to detect",
        "chance",
        "GO if unchanged",
        f"{format_number(goal.power * 100)} % GO after",
        "variance of instances",
    )
    rows = []
    for plan in plans:
        rule = plan.precision.rule
        # Infinite: never with these instances, however long the test is.
        if math.isfinite(plan.go_after_s):
            go_after = f"{format_duration(plan.go_after_s)}, {format_count(round(plan.requests))} requests"
        elif math.isfinite(plan.go_instances):
            go_after = f"never; {format_number(plan.go_instances)} instances would be enough"
        else:
            go_after = "never"
        rows.append(
            (
                name_metric(rule),
                _write_harm(plan, rule.margin.value if rule.margin else 0.0),
                f"± {_write_harm(plan, plan.half_width)}",
                # "detects": the smallest rise that is found; "to detect": the rise of the goal, with its chance.
                f"+{_write_harm(plan, plan.finds)}" if math.isfinite(plan.finds) else "nothing",
                f"+{_write_harm(plan, goal.harm(plan.precision))}",
                _write_percent(plan.found_chance),
                _write_percent(plan.go_chance),
                go_after,
                _write_percent(plan.persistent),
            )
        )
    return align_columns([head, *rows], page)


def _write_harm(plan: GatePlan, harm: float) -> str:
    """Write a harm to a gate as its margin is written: in percent if relative (0.1 = 10 %), else in its unit."""
    return format_margin(Margin(harm, relative=plan.precision.relative), plan.precision.unit)


def _write_percent(share: float) -> str:
    """Write a share of 1 as whole percent."""
    return f"{format_number(round(share * 100))} %"


def _write_grid(plans: Sequence[GatePlan], grids: Sequence[Grid], page: Page) -> list[str]:
    """Write the precision of the gate that is hardest to pass: a row a duration, a column a number of instances.

    `grids` are of the same gates as `plans`, in the same order.
    """
    if not plans:
        return []
    # The smallest chance of GO is that of the gate that is hardest to pass.
    plan, grid = min(zip(plans, grids, strict=True), key=lambda plan_and_grid: plan_and_grid[0].go_chance)
    head = ("", *(f"{count} + {count} instances" for count in grid.instances))
    rows = []
    for duration_s, half_widths in zip(grid.seconds, grid.half_widths, strict=True):
        cells = [f"± {_write_harm(plan, width)}" if math.isfinite(width) else "–" for width in half_widths]
        rows.append((format_duration(duration_s), *cells))
    title = f"precision of {name_metric(plan.precision.rule)}, the hardest gate, by minutes and instances"
    return [title, *align_columns([head, *rows], page)]


def _write_strategies(strategies: Sequence[Exposure], goal: Goal, page: Page) -> list[str]:
    """Write a table with a row for each way to roll out: its result for an unchanged and for a worse release."""
    head = ("rollout", "unchanged: full after", "completed", "stopped", "worse: stopped before", "after it", "exposed")
    rows = [
        (
            strategy.label,
            _write_full_after(strategy.full_after_s),
            _write_percent(strategy.completes),
            f"{format_number(round(strategy.false_stop * 100, 1))} %",
            _write_percent(strategy.stopped),
            _write_percent(strategy.caught_after),
            f"{format_count(round(strategy.exposed))} requests",
        )
        for strategy in strategies
    ]
    title = f"ways to roll out, unchanged and with +{format_number(goal.regression * 100)} % latency"
    return [title, *align_columns([head, *rows], page)]


def _write_full_after(seconds: float) -> str:
    """Write after which time a release is rolled out fully; a dash for NaN: it never is."""
    if math.isnan(seconds):
        return "–"
    return format_duration(seconds) if seconds else "at once"


def _write_notes(history: History) -> Iterator[str]:
    """Explain the columns of the tables, and name the gates that could not be planned."""
    yield "  precision: half of the interval. chance: that the rise is NO-GO. exposed: requests that the worse version"
    yield "  serves until it is stopped, or until the watch after full rollout ends."
    yield "  Chances are for the gate alone and leave out the check of the run's last third; see docs/planning.md."
    for name in history.missing:
        yield f"  {name}: no stored data, not planned"


# ------------------------------------------------------------------ for programs


def _to_plain(
    history: History,
    goal: Goal,
    plans: Sequence[GatePlan],
    grids: Sequence[Grid],
    strategies: Sequence[Exposure],
) -> dict[str, Any]:
    """Return the plan as values of JSON; a number that is not finite becomes null.

    `plans`: each gate at the planned duration and instances. `grids`: half-widths of each gate at other durations and
    instances. `strategies`: what each way to roll out exposes users to.
    """
    goal = replace(goal, rate_per_s=goal.rate_per_s or history.rate_per_s)
    gates = []
    for plan in plans:
        precision = plan.precision
        plan_numbers = {field.name: getattr(plan, field.name) for field in fields(plan) if field.name != "precision"}
        gates.append(
            {
                "name": precision.rule.name,
                "margin": precision.rule.margin.value if precision.rule.margin else None,
                "relative": precision.relative,
                "baseline": precision.baseline,
                "unit": precision.unit,
                "regression": goal.harm(precision),
                **plan_numbers,
                # Over time after `reference_s` seconds (more time shrinks it), and between instances.
                "variance": {
                    "moving": precision.moving,
                    "reference_s": precision.reference_s,
                    "between_instances": precision.between,
                },
            }
        )
    plain = {
        "goal": asdict(goal),
        "assumed": history.assumed,
        "comparisons": history.comparisons,
        "missing": list(history.missing),
        "gates": gates,
        "grids": [asdict(grid) for grid in grids],
        "strategies": [asdict(strategy) for strategy in strategies],
    }
    return _replace_infinite(plain)  # type: ignore[no-any-return]


def _replace_infinite(value: Any) -> Any:
    """Replace each infinite number and NaN within a value by `None`, because JSON has neither. Tuples become lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _replace_infinite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_infinite(inner) for inner in value]
    return value
