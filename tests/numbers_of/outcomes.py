"""Cases of `evaluator.stats.outcomes`: units, which have no time axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from evaluator.records import Direction, Limit, Margin, Monitoring, OutcomeFacts, OutcomeLook, Outcomes
from evaluator.stats.outcomes.arms import (
    compare_assignment,
    dunnett_p,
    find_posterior,
    probabilities_of_best,
    share_of_baseline,
)
from evaluator.stats.outcomes.joint import Errors, find_loadings, split_by_units, trace_share
from evaluator.stats.outcomes.levels import (
    adjust_levels,
    compare_levels,
    compare_proportions,
    linear_mean,
    linear_ratio,
    merge_moments,
    moments_of,
    trace_harm,
)
from evaluator.stats.outcomes.looks import find_dearest, find_earlier_looks, find_price
from evaluator.stats.outcomes.quantiles import cluster, compare_quantiles, find_quantile

NAN = float("nan")
VARIABLES = ("rows", "spent", "before", "twice before", "age")
QUESTIONS: Mapping[str, Mapping[str, Any]] = {
    "nothing": {"margin": None, "direction": Direction.LOWER},
    "relative": {"margin": Margin(0.1), "direction": Direction.LOWER, "limit": Limit(min=0.1, max=4.0)},
    "absolute": {"margin": Margin(0.2, relative=False), "direction": Direction.LOWER, "limit": Limit(max=0.3)},
    "higher": {"margin": Margin(0.05), "direction": Direction.HIGHER, "limit": Limit(min=2.0)},
    "higher, absolute": {"margin": Margin(0.3, relative=False), "direction": Direction.HIGHER},
    "higher, nothing": {"margin": None, "direction": Direction.HIGHER},
}


def _draw(arms: int = 3, units: int = 60, shift: float = 0.3) -> list[np.ndarray]:
    """Units of each arm: rows, what was spent, and covariates of which one says nothing new."""
    random = np.random.default_rng(8)
    out = []
    for arm in range(arms):
        before = random.gamma(2, 1, units + 7 * arm)
        rows = 1.0 + random.poisson(1.5, before.size)
        spent = before * (0.6 + 0.1 * arm) + random.gamma(2, 0.4, before.size) + shift * arm
        out.append(np.column_stack([rows, spent, before, 2 * before, random.normal(40, 9, before.size)]))
    return out


def _levels(covariates: tuple[int, ...], *, ratio: bool = False, values: list[np.ndarray] | None = None) -> Any:
    moments = [moments_of(arm) for arm in values or _draw()]
    linear = [linear_ratio(part, 1, 0) if ratio else linear_mean(part, 1) for part in moments]
    levels = adjust_levels(linear, moments, covariates)
    out: dict[str, Any] = {"levels": levels}
    for name, question in QUESTIONS.items():
        for arm in range(1, len(moments)):
            out[f"{name} {arm}"] = compare_levels(levels, arm, alpha=0.05, **question)
        out[f"{name} harm"] = trace_harm(levels, 1, margin=question["margin"], direction=question["direction"])
    return out


def _odd_levels() -> Any:
    still, none = np.ones((5, 1)), np.zeros((5, 1))
    cases = {
        "still": (still, still),
        "still and apart": (still, 2 * still),
        "baseline of 0": (none, still),
        "below 0": (-still - np.arange(5)[:, None], still),
        "barely above 0": (np.arange(-3.0, 5.0)[:, None], np.arange(8.0)[:, None]),
        "few": (np.array([[1.0], [2.0]]), np.array([[5.0]])),
        "nobody": (np.zeros((0, 1)), still),
    }
    out: dict[str, Any] = {}
    for name, (baseline, candidate) in cases.items():
        moments = [moments_of(baseline), moments_of(candidate)]
        levels = adjust_levels([linear_mean(part, 0) for part in moments], moments, ())
        for by, question in list(QUESTIONS.items())[:4]:
            out[f"{name}, {by}"] = compare_levels(levels, 1, alpha=0.05, **question)
        out[f"{name}, levels"] = levels
    moments = [moments_of(np.array([[0.0, 1.0], [0.0, 2.0]]))] * 2
    out["no denominator"] = linear_ratio(moments[0], 1, 0)
    return out


def _moments() -> Any:
    first, second = (moments_of(arm) for arm in _draw(2))
    empty = moments_of(np.zeros((0, 5)))
    return {
        "one": first,
        "together": merge_moments(first, second),
        "first empty": merge_moments(empty, first).mean,
        "last empty": merge_moments(first, empty).mean,
        "ratio": linear_ratio(first, 1, 0),
    }


def _proportions() -> Any:
    questions = {
        "nothing": {"margin": None, "direction": Direction.LOWER},
        "relative": {"margin": Margin(0.1), "direction": Direction.LOWER, "limit": Limit(min=0.01, max=0.2)},
        "absolute": {"margin": Margin(0.02, relative=False), "direction": Direction.HIGHER, "limit": Limit(max=0.5)},
        "higher": {"margin": Margin(0.05), "direction": Direction.HIGHER},
    }
    counts = (((40, 60), (300, 320)), ((0, 3), (50, 50)), ((50, 50), (50, 50)), ((0, 0), (20, 30)), ((9, 8), (400, 90)))
    return {
        f"{successes} of {units}, {name}": compare_proportions(successes, units, alpha=0.05, **by)
        for successes, units in counts
        for name, by in questions.items()
    }


def _quantiles() -> Any:
    values = [arm[:, 1] for arm in _draw(2, 90)]
    unit = [np.repeat(np.arange(0, size, 3), 3)[:size] * 10 for size in (values[0].size, values[1].size)]
    arms = {
        "one a unit": [cluster(one) for one in values],
        "several a unit": [cluster(one, own) for one, own in zip(values, unit, strict=True)],
        "steps": [cluster(np.round(one)) for one in values],
        "constant": [cluster(np.full(9, 2.0)), cluster(np.full(8, 2.0))],
        "below 0": [cluster(one - 4) for one in values],
        "one cluster": [cluster(np.arange(4.0) + 1, np.zeros(4)), cluster(np.arange(6.0), np.arange(6) % 2)],
        "few": [cluster(np.array([1.0, 3.0])), cluster(np.array([2.0]))],
    }
    out: dict[str, Any] = {"found": [find_quantile(np.array([1.0, 2, 4, 8]), p) for p in (0.0, 0.3, 0.5, 1.0)]}
    for name, (baseline, candidate) in arms.items():
        for by, question in QUESTIONS.items():
            p = 0.5 if by in ("relative", "higher") else 0.9
            out[f"{name}, {by}, {p}"] = compare_quantiles(baseline, candidate, p, alpha=0.05, **question)
    return out


def _arms() -> Any:
    t, loadings = np.array([0.9, 3.7, -1.2, np.inf, -np.inf, NAN]), np.array([0.6, 0.7, 0.1, 0.5, 0.5, 0.5])
    out: dict[str, Any] = {
        f"dunnett {way} {df}": dunnett_p(t, loadings, df, way)
        for way in ("two-sided", "greater", "less")
        for df in (2.0, 12.0, 1e6, 1e7)
    }
    return out | {
        "default": dunnett_p(t[:2], loadings[:2], 12),
        "share": share_of_baseline(0.2, np.array([0.1, 0.0])),
        "share of nothing": share_of_baseline(0.0, np.array([0.1, 0.0])),
        "best": [
            probabilities_of_best(np.array([1.0, 1.1, 0.7]), np.array([0.01, 0.02, 0.0]), highest=way)
            for way in (True, False)
        ],
        "assignment": [
            compare_assignment(*case) for case in (([520, 480], [1, 1]), ([0, 0], [1, 1]), ([9, 1, 4], [3, 1, 1]))
        ],
        "posterior": [
            find_posterior(*case)
            for case in ((0.2, 0.1, 0.1, 0.3), (-0.2, 0.1, 0.0, 0.05), (0.2, 0.0, 0.1, 0.3), (0.1, 0.0, 0.1, 0.3))
        ],
        "posterior of nothing": [
            find_posterior(*case) for case in ((NAN, 0.1, 0.1, 0.3), (0.2, np.inf, 0.1, 0.3), (0.2, 0.1, 0.1, 0.0))
        ],
        "posterior at 0": find_posterior(0.0, 0.0, 0.1, 0.3),
    }


def _joint() -> Any:
    values = _draw(3, 40)
    moments = [moments_of(arm) for arm in values]
    levels = adjust_levels([linear_mean(part, 1) for part in moments], moments, (2,))
    ratios = adjust_levels([linear_ratio(part, 1, 0) for part in moments], moments, ())
    harm = {"margin": Margin(0.1), "direction": Direction.LOWER}
    weights = [trace_harm(levels, 1, **harm), trace_harm(levels, 2, **harm), trace_harm(ratios, 1, **harm)]
    share = [trace_share(arm[:, 1], 2.0, strict=strict) for arm in values for strict in (False, True)]
    unit = [np.arange(arm.shape[0]) // 2 for arm in values]
    clustered = trace_share(
        np.where(values[0][:, 1] > 3, NAN, values[0][:, 1]), 2.0, strict=False, unit=unit[0], units=25
    )
    complete = [arm[:, 1] < 4 for arm in values]
    winsorised = split_by_units(weights[0], [arm[few] for arm, few in zip(values, complete, strict=True)], complete)
    quantile = Errors(influence={0: share[0], 1: -share[2]})
    errors = [*(Errors(row) for row in weights), None, winsorised, quantile, Errors(np.zeros((3, 5)))]
    by_variable = {k: tuple(arm[:, k] for arm in values) for k in range(len(VARIABLES))}
    small = [*moments[:2], moments_of(values[2][:1])]
    return {
        "influence of two arms": sorted(split_by_units(weights[2], values, [few | True for few in complete]).influence),
        "influence": [winsorised.influence[arm] for arm in sorted(winsorised.influence)],
        "shares": share,
        "clustered": clustered,
        "by sums": find_loadings([Errors(row) for row in weights], moments),
        "by units and sums": find_loadings(errors, moments, by_variable),
        "values not read": find_loadings(errors, moments),
        "an arm of one unit": find_loadings([Errors(row) for row in weights], small),
    }


def make_outcomes(data: list[np.ndarray], looks: tuple[OutcomeLook, ...] = (), run: str = "now") -> Outcomes:
    return Outcomes(
        run=run,
        arms=("baseline", "B", "C")[: len(data)],
        columns=(),
        variables=VARIABLES,
        moments=tuple(moments_of(arm) for arm in data),
        skewness=tuple(np.zeros(len(VARIABLES)) for _ in data),
        facts=OutcomeFacts(units=sum(map(len, data))),
        values={},
        looks=looks,
    )


def look_at(data: list[np.ndarray], paid: str, run: str) -> OutcomeLook:
    moments = [moments_of(arm) for arm in data]
    sums = {
        name: {v: (float(m.n), float(m.mean[k]), float(m.products[k, k])) for k, v in enumerate(VARIABLES)}
        for name, m in zip(("baseline", "B", "C"), moments, strict=False)
    }
    return OutcomeLook(run, sum(part.n for part in moments), sums, paid)


def _looks() -> Any:
    data = _draw(3, 100)
    out: dict[str, Any] = {}
    for name, monitoring in (
        ("auto", Monitoring()),
        ("fixed", Monitoring(mode="fixed")),
        ("anytime", Monitoring(mode="anytime")),
        ("unplanned", Monitoring(mode="group_sequential")),
        ("planned", Monitoring(max_units=600)),
    ):
        looks: list[OutcomeLook] = []
        for units in (30, 60, 60, 107):
            part = [arm[:units] for arm in data]
            outcomes = make_outcomes(part, tuple(looks), str(units))
            price = find_price(outcomes, 1, monitoring)
            out[f"{name} {len(looks)}"] = {
                "kind": price.kind,
                "paid": price.paid,
                "share": price.share,
                "refused": price.refused,
                "earlier": len(find_earlier_looks(outcomes, 2)),
                "dearest": len(find_dearest(outcomes, monitoring).earlier),
                "pay": [
                    price.pay(p, claim) for claim in ("worse", "within") for p in (1e-320, 1e-9, 1e-3, 0.02, 0.6, NAN)
                ],
                "level": [price.level(alpha, claim) for claim in ("worse", "within") for alpha in (0.05, 1e-4, 0.2)],
            }
            looks.append(look_at(part, price.paid, str(units)))
    out["no candidate"] = find_dearest(make_outcomes(data[:1]), Monitoring()).units
    return out


CASES: Mapping[str, Callable[[], Any]] = {
    "outcomes: means": lambda: _levels(()),
    "outcomes: one covariate": lambda: _levels((2,)),
    "outcomes: collinear covariates": lambda: _levels((2, 3, 4)),
    "outcomes: ratio": lambda: _levels((), ratio=True),
    "outcomes: ratio with a covariate": lambda: _levels((2,), ratio=True, values=_draw(2)),
    "outcomes: covariate without spread": lambda: _levels(
        (2,), values=[arm * np.array([1, 1, 0, 1, 1]) for arm in _draw(2, 9)]
    ),
    "outcomes: odd levels": _odd_levels,
    "outcomes: moments": _moments,
    "outcomes: proportions": _proportions,
    "outcomes: quantiles": _quantiles,
    "outcomes: several arms": _arms,
    "outcomes: errors together": _joint,
    "outcomes: looks": _looks,
}
