"""Cases of `evaluator.stats.estimators`: two arms compared over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from evaluator.records import Direction, InstancePrior, InstanceSpread, Limit, Margin
from evaluator.stats.estimators.contrast import are_within_bounds, log_bound
from evaluator.stats.estimators.distribution import find_limits_ms
from evaluator.stats.estimators.estimate import Estimate, Tolerance
from evaluator.stats.estimators.failures import compare_failures
from evaluator.stats.estimators.means import compare_means
from evaluator.stats.estimators.quantile_pairs import QuantileEstimate, QuantileQuestion, standardise_both
from evaluator.stats.estimators.quantiles import compare_quantiles
from evaluator.stats.estimators.rates import active_slots, compare_rates
from evaluator.stats.estimators.resolution import find_doubt_ms, find_quantile_doubt_ms, step_of_arms_ms, steps_of
from evaluator.stats.estimators.shares import compare_shares
from evaluator.stats.estimators.strata import build_strata, standardise_levels, standardise_levels_by_run
from evaluator.stats.estimators.typical import compare_typical_times
from evaluator.stats.shaping.groups import all_together, group_by
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.instances import InstanceFrame
from evaluator.stats.variance.uncertainty import choose_design
from numbers_of.releases import REQUESTS, panel_of

ALPHA = 0.05
LATENCY: Mapping[str, Any] = {"alpha": ALPHA, "sd_instance": 0.05}
RATE: Mapping[str, Any] = {"alpha": ALPHA, "sd_instance": 0.0005}
SHALLOW = ("instances", "replicates", "faster", "steps of 10 ms", "one a side")
"""Releases of which everything is asked, and less than everything as well."""
ODD = ("all failed", "candidate failed", "baseline failed")
EVERY_KIND = ("instances", "rare", "short lives", "two blocks", "replicates", "one against three", "apart")
WITH_HISTORY = InstancePrior(
    baseline=2, canary=5, latency=InstanceSpread(0.06, 8, 0.02, 6), failures=InstanceSpread(0.004, 12, 0.001, 5)
)
ABSOLUTE, LIMITS = Margin(4.0, relative=False), Limit(min=20.0, max=150.0)
HIGHER = Direction.HIGHER


def _tolerate(groups: int) -> Tolerance:
    return Tolerance(np.linspace(0.02, 0.3, groups), np.linspace(3.0, 0.0, groups), 0.25)


def _leave_out_noise(result: Any) -> Any:
    """Where all or none failed, influences are rounding: nothing of it is kept that has no unit."""
    if isinstance(result, QuantileEstimate):
        return replace(result, estimate=result.estimate and _leave_out_noise(result.estimate))
    return replace(result, trend=None, loadings=None) if isinstance(result, Estimate) else result


def _choose(name: str, cases: Mapping[str, Callable[[], Any]], usual: tuple[str, ...]) -> Any:
    """Every case of a few releases, the usual ones of the others: files of numbers grow."""
    chosen = {case: make() for case, make in cases.items() if name in SHALLOW or case in usual}
    return {case: _leave_out_noise(result) for case, result in chosen.items()} if name in ODD else chosen


def _means(name: str) -> Any:
    panel, design = panel_of(name), choose_design(panel_of(name))
    many = len(panel.endpoints)
    every = group_by(np.arange(many))
    cases: Mapping[str, Callable[[], Any]] = {
        "plain": lambda: compare_means(panel, design, margin=None, **LATENCY),
        "relative": lambda: compare_means(
            panel, design, margin=Margin(0.1), limit=LIMITS, tolerance=_tolerate(1), **LATENCY
        ),
        "absolute": lambda: compare_means(panel, design, margin=ABSOLUTE, limit=Limit(max=80.0), **LATENCY),
        "suspects": lambda: compare_means(panel, design, margin=Margin(0.1), limit=LIMITS, depth="suspects", **LATENCY),
        "typical, suspects": lambda: compare_typical_times(
            panel, design, margin=Margin(0.1), groups=all_together(many), depth="suspects", **LATENCY
        ),
        "sizes": lambda: compare_means(panel, design, margin=Margin(0.05), direction=HIGHER, of="bytes", **LATENCY),
        "endpoints": lambda: compare_means(
            panel, design, margin=Margin(0.02), groups=every, tolerance=_tolerate(many), **LATENCY
        ),
        "typical": lambda: compare_typical_times(
            panel, design, margin=Margin(0.02), groups=every, tolerance=_tolerate(many), **LATENCY
        ),
    }
    return _choose(name, cases, ("relative", "endpoints", *(("absolute",) if name in EVERY_KIND else ())))


def _failures(name: str) -> Any:
    panel, design = panel_of(name), choose_design(panel_of(name))
    many = len(panel.endpoints)
    every = group_by(np.arange(many))
    tolerance = Tolerance(np.linspace(0.0, 1.0, many), np.linspace(0.01, 0.03, many), 0.05)
    limit = Limit(min=0.001, max=0.03)
    cases: Mapping[str, Callable[[], Any]] = {
        "plain": lambda: compare_failures(panel, design, margin=None, **RATE),
        "absolute": lambda: compare_failures(panel, design, margin=Margin(0.005, relative=False), limit=limit, **RATE),
        "relative": lambda: compare_failures(panel, design, margin=Margin(0.5), limit=Limit(max=0.02), **RATE),
        "suspects": lambda: compare_failures(
            panel, design, margin=Margin(0.005, relative=False), depth="suspects", limit=limit, **RATE
        ),
        "answers": lambda: compare_failures(panel, design, margin=Margin(0.5), depth="answers", **RATE),
        "endpoints": lambda: compare_failures(
            panel, design, margin=Margin(0.01, relative=False), groups=every, tolerance=tolerance, **RATE
        ),
        "endpoints, absolute": lambda: (
            compare_failures(
                panel,
                design,
                margin=Margin(0.01, relative=False),
                groups=every,
                sd_share=0.2,
                tolerance=replace(tolerance, relative=np.zeros(many)),
                **RATE,
            ).against_tolerance
        ),
    }
    return _choose(name, cases, ("absolute", "relative", "endpoints"))


def _quantiles(name: str) -> Any:
    panel, design = panel_of(name), choose_design(panel_of(name))
    questions: tuple[QuantileQuestion, ...] = (
        QuantileQuestion(0.5, Margin(0.05)),
        QuantileQuestion(0.95, ABSOLUTE, limit=Limit(max=200.0, min=1.0)),
        QuantileQuestion(0.9, Margin(0.10), HIGHER, Limit(min=60.0)),
        *((QuantileQuestion(0.99), QuantileQuestion(0.999, Margin(0.1))) if name in (*SHALLOW, *ODD) else ()),
    )
    full = compare_quantiles(panel, design, questions, **LATENCY)
    out = {f"{one.probability}": found for one, found in zip(questions, full, strict=True)}
    if name in ODD:
        return {p: _leave_out_noise(found) for p, found in out.items()}
    for depth in ("answers", "suspects") if name in SHALLOW else ():
        found = compare_quantiles(panel, design, questions[:3], depth=depth, **LATENCY)
        out |= {f"{depth} {one.probability}": answer for one, answer in zip(questions, found, strict=False)}
    return out


def _rates(name: str) -> Any:
    panel = panel_of(name)
    events = panel.n.sum(axis=1)
    options: Mapping[str, Any] = {"alpha": ALPHA, "limit": Limit(min=5.0, max=60.0)}
    return {
        "active": active_slots(panel),
        "plain": compare_rates(events, panel, margin=None, sign=-1.0, **options),
        "relative": compare_rates(events, panel, margin=Margin(0.05), sign=-1.0, exposure=(10.0, 9.0), **options),
        "absolute": compare_rates(events, panel, margin=Margin(2.0, relative=False), sign=1.0, **options),
    }


def _resolution(name: str) -> Any:
    panel = panel_of(name)
    many = len(panel.endpoints)
    baseline, candidate = standardise_both(panel)
    quantiles = [curve.quantile(p) for curve in (baseline, candidate) for p in (0.0, 0.01, 0.5, 0.95)]
    return {
        "steps": panel.steps_ms,
        "constant": panel.constant,
        "of arms": step_of_arms_ms(panel),
        "of endpoint": steps_of(panel, panel.endpoints[-1]),
        "of all": steps_of(panel),
        "doubt": find_doubt_ms(panel, all_together(many)),
        "doubt of endpoints": find_doubt_ms(panel, group_by(np.arange(many))),
        "curves": [baseline, candidate],
        "quantiles": quantiles,
        "quantile doubt": [
            find_quantile_doubt_ms(baseline, at, step)
            for at in (*quantiles[1:4], 1e9, np.inf)
            for step in (0.001, 1.0, 10.0)
        ],
        "limits": find_limits_ms(panel),
    }


def count_failures_as_redirects(panel: Panel) -> Panel:
    """The panel as if each request had a status, and failures were redirects."""
    rows = panel.rows
    row_totals = {**rows.totals, "statuses": rows.n, "redirects": rows.failures}
    totals = {**panel.totals, "statuses": panel.n, "redirects": panel.failures}
    return replace(panel, totals=totals, rows=replace(rows, totals=row_totals))


def _shares(name: str) -> Any:
    panel, design = count_failures_as_redirects(panel_of(name)), choose_design(panel_of(name))
    return {
        "margin": compare_shares(
            panel, design, "redirects", alpha=ALPHA, margin=Margin(0.005, relative=False), limit=Limit(max=0.02)
        ),
        "none of the kind": compare_shares(
            panel, design, "client_errors", alpha=ALPHA, margin=Margin(0.005, relative=False), limit=Limit()
        ),
    }


def _with_history() -> Any:
    """What is on file, and what the policy says stands behind one label."""
    out: dict[str, Any] = {}
    for name in ("instances", "one a side", "replicates"):
        panel = panel_of(name)
        design = choose_design(panel, WITH_HISTORY)
        out[name] = {
            "hardly known": compare_quantiles(panel, design, [QuantileQuestion(0.5)], alpha=0.001, sd_instance=50.0),
            "design": [design.kind, design.runs, design.instances, design.replicate_counts],
            "mean": compare_means(panel, design, margin=Margin(0.1), limit=LIMITS, **LATENCY),
            "absolute": compare_means(
                panel, design, margin=ABSOLUTE, floor=np.array([[1e-4], [4e-4]]), direction=HIGHER, **LATENCY
            ),
            "failures": compare_failures(panel, design, margin=None, limit=Limit(max=0.03), **RATE),
            "p95": compare_quantiles(panel, design, [QuantileQuestion(0.9, Margin(0.1), limit=LIMITS)], **LATENCY),
        }
    return out


def _several_candidates() -> Any:
    out: dict[str, Any] = {}
    for arm in ("canary", "canary_b"):
        panel = panel_of("several candidates", arm)
        design = choose_design(panel)
        out[arm] = {
            "mean": compare_means(panel, design, margin=Margin(0.1), **LATENCY),
            "failures": compare_failures(panel, design, margin=None, **RATE),
            "p90": compare_quantiles(panel, design, [QuantileQuestion(0.9, Margin(0.1))], **LATENCY)[0].estimate,
        }
    return out


def _earlier() -> Any:
    """Looks at a part of a run."""
    out: dict[str, Any] = {}
    for name in ("instances", "rare", "apart", "one a side"):
        whole = panel_of(name)
        first = int(whole.offset[0])
        for buckets in (0, 8, 16, 32):
            panel = whole.before(whole.origin + (first // 4 + buckets // 4) * 4)
            if panel is None:
                out[f"{name} {buckets}"] = "nothing"
                continue
            design = choose_design(panel)
            out[f"{name} {buckets}"] = {
                "mean": compare_means(panel, design, margin=Margin(0.1), **LATENCY).against_margin,
                "failures": compare_failures(panel, design, margin=None, **RATE).against_margin,
                "p50": [
                    one.estimate and one.estimate.against_margin
                    for one in compare_quantiles(panel, design, [QuantileQuestion(0.5, Margin(0.1))], **LATENCY)
                ],
            }
    return out


def _strata(name: str) -> Any:
    panel = panel_of(name)
    groups = group_by(np.array([0, -1, *[1] * (len(panel.endpoints) - 2)]))
    strata = build_strata(panel, panel.ok, groups)
    # Name in the stored numbers → field.
    parts = {
        "weight": "block_weight",
        "share": "slot_share",
        "each": "request_weight",
        "lean": "weight_shift",
        "mass": "slot_weight",
        "volume": "total_weight",
        "effective": "effective_n",
    }
    times = panel.totals["time_ms"]
    rows = panel.rows
    return {name: getattr(strata, field) for name, field in parts.items()} | {
        "levels": [standardise_levels(strata, arm, times[arm]) for arm in (0, 1)],
        "stacked": standardise_levels(strata, 1, np.stack([times[1], panel.failures[1]])),
        "runs": [standardise_levels_by_run(strata, arm, times[arm]) for arm in (0, 1)],
        "instances": InstanceFrame(rows, rows.n, groups).variance(
            np.stack([rows.failures, rows.n * 0.7]),
            np.array([[0.01] * groups.count, [0.0] * groups.count]),
            relative=False,
        ),
        "instances, relative": InstanceFrame(rows, rows.n - rows.failures, groups).variance(
            rows.totals["time_ms"], np.full(groups.count, 1.1), relative=True
        ),
    }


def _short() -> Any:
    """Fewer buckets than anything can be said of."""
    panel = panel_of("short")
    design, groups = choose_design(panel), all_together(len(panel.endpoints))
    return {
        "typical": compare_typical_times(panel, design, margin=None, groups=groups, **LATENCY),
        "throughput": compare_rates(panel.n.sum(axis=1), panel, alpha=ALPHA, margin=None, limit=Limit(), sign=-1.0),
    }


def _bounds() -> Any:
    margins = (None, Margin(0.1), Margin(2.0), Margin(0.3, relative=False))
    return {
        "log": [log_bound(margin, sign, 1.5) for margin in margins for sign in (1.0, -1.0)],
        "well": [
            are_within_bounds(np.array([1.0]), np.array([value]), margin, limit, sign)
            for value in (0.8, 1.0, 1.05, 1.1, 1.3)
            for margin in margins
            for limit in (Limit(), Limit(max=1.05), Limit(min=1.0))
            for sign in (1.0, -1.0)
        ],
    }


STEPS = tuple(name for name in REQUESTS if "step" in name or "bin" in name or "constant" in name)
ELSEWHERE = ("several candidates", "short", "two replicates", "three runs of instances", "both constant", "29 buckets")
TIMED = tuple(name for name in REQUESTS if name not in {*ODD, *ELSEWHERE})
ALSO = ("one against three", "30 buckets", "no failures", "endpoints of one arm")
CASES: Mapping[str, Callable[[], Any]] = {
    **{f"means: {name}": lambda name=name: _means(name) for name in TIMED},
    **{f"failures: {name}": lambda name=name: _failures(name) for name in (*TIMED[:13:2], *ODD, *ALSO)},
    **{f"quantiles: {name}": lambda name=name: _quantiles(name) for name in (*TIMED, *ODD)},
    **{f"rates: {name}": lambda name=name: _rates(name) for name in ("instances", "rare", "apart", "replicates apart")},
    **{f"shares: {name}": lambda name=name: _shares(name) for name in ("instances", "one a side", "apart")},
    **{f"resolution: {name}": lambda name=name: _resolution(name) for name in ("instances", *STEPS)},
    **{f"strata: {name}": lambda name=name: _strata(name) for name in EVERY_KIND},
    "history and declared instances": _with_history,
    "several candidates": _several_candidates,
    "earlier looks": _earlier,
    "a short run": _short,
    "bounds": _bounds,
}
