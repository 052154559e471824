"""What a metric is: a question put to two arms, and the one shape of its answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from evaluator.records import (
    ArmValue,
    Comparison,
    Direction,
    Drift,
    Effect,
    InstancePrior,
    Question,
    Rule,
)
from evaluator.stats.estimate import Asked, Depth, Estimate
from evaluator.stats.longrun import MIN_BUCKETS
from evaluator.stats.panel import Panel
from evaluator.stats.resolution import steps_of
from evaluator.stats.uncertainty import Design
from evaluator.wording import STORE_STEP_MS, explain_coarse, format_number

__all__ = ["Compare", "CompareTogether", "Pair", "answer", "check_enough", "no_data"]

MIN_REQUESTS = 30
CONSTANT_BELOW = 200
ALIKE_STEP = 0.02
"""Times that are stored as one number are said to be equal only if the store's step is at most this part of them."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Baseline and one candidate arm, prepared: what a metric reads."""

    panel: Panel
    design: Design
    arm: str
    alpha: float
    prior: InstancePrior
    users: tuple[float, float] | None = None
    """Mean users of baseline and candidate, where they were recorded."""
    depth: Depth = "full"
    """Less than full at a look before the last."""

    def requests(self, arm: int) -> int:
        """Requests of baseline (0) or candidate (1)."""
        return int(self.panel.n[arm].sum())

    def successes(self, arm: int) -> int:
        """Successful requests of baseline (0) or candidate (1)."""
        return int(self.panel.ok[arm].sum())

    def name(self, arm: int) -> str:
        """The arm's name."""
        return self.arm if arm else "baseline"


Compare = Callable[[Pair, Rule], Comparison]
"""A metric: reads a pair, answers its rule. Never raises for want of data: see `no_data`."""

CompareTogether = Callable[[Pair, Sequence[Rule]], tuple[Comparison, ...]]
"""The same for several rules of one type, which share most of their work."""


def check_enough(pair: Pair, *, successes: bool, both: bool = True) -> str | None:
    """Why a comparison cannot be made, or `None`. `both`: the candidate needs successes as well."""
    if pair.panel.slots < MIN_BUCKETS:
        seconds = pair.panel.slots * pair.panel.bucket_s
        return f"only {seconds} s of usable data, at least {MIN_BUCKETS * pair.panel.bucket_s} s are needed"
    for arm in (0, 1):
        if pair.requests(arm) < MIN_REQUESTS:
            return f"only {pair.requests(arm)} requests on {pair.name(arm)}, at least {MIN_REQUESTS} are needed"
        if successes and (both or arm == 0) and pair.successes(arm) < MIN_REQUESTS:
            return f"only {pair.successes(arm)} successes on {pair.name(arm)}, at least {MIN_REQUESTS} are needed"
        if successes and pair.panel.constant[arm] and pair.successes(arm) < CONSTANT_BELOW:
            return _explain_equal(pair, arm)
    return None


def _explain_equal(pair: Pair, arm: int) -> str:
    """What to say of an arm whose times are all stored as the same number."""
    count = pair.successes(arm)
    level_ms = float(pair.panel.totals["time_ms"][arm].sum()) / count
    if level_ms * ALIKE_STEP >= STORE_STEP_MS:
        return f"all {count} times on {pair.name(arm)} are equal"
    return (
        f"all {count} times on {pair.name(arm)} are stored as {format_number(level_ms)} ms: this store keeps times in "
        f"steps of {format_number(STORE_STEP_MS)} ms, too coarse to tell them apart; time several calls together"
    )


def no_data(pair: Pair, rule: Rule, unit: str, why: str) -> Comparison:
    """The answer that there is none, with the reason."""
    return Comparison(
        rule=rule,
        arm=pair.arm,
        unit=unit,
        baseline=ArmValue(None, pair.requests(0)),
        candidate=ArmValue(None, pair.requests(1)),
        method="none",
        instances=pair.design.behind,
        no_data=why,
    )


def answer(
    pair: Pair,
    rule: Rule,
    estimate: Estimate,
    *,
    unit: str,
    method: str,
    n: tuple[int, int],
    group: int = 0,
    scan: bool = False,
) -> Comparison:
    """One group of an estimate as a comparison; without finite numbers, the answer that there is none."""
    g = group
    numbers = (estimate.baseline[g], estimate.against_margin.p_worse[g], estimate.against_margin.p_within[g])
    if not all(math.isfinite(number) for number in numbers):
        return no_data(pair, rule, unit, "the data give no finite estimate")
    # Without a margin shares are compared as a difference, everything else as a ratio.
    relative = unit != "fraction" if rule.margin is None else rule.margin.relative
    candidate = float(estimate.candidate[g])
    questions = [_question("zero", 0.0, estimate.against_zero, g)]
    if rule.margin:
        questions.append(_question("margin", rule.margin.value, estimate.against_margin, g))
    bounds = [bound for bound in (rule.limit.max, rule.limit.min) if bound is not None]
    questions += [
        _question("limit", bound, asked, g) for bound, asked in zip(bounds, estimate.against_limit, strict=True)
    ]
    if scan and estimate.against_tolerance is not None and estimate.tolerance is not None:
        questions.append(_question("tolerance", float(estimate.tolerance[g]), estimate.against_tolerance, g))
    too_coarse = estimate.coarse is not None and bool(estimate.coarse[g])
    return Comparison(
        rule=rule,
        arm=pair.arm,
        unit=unit,
        baseline=ArmValue(float(estimate.baseline[g]), n[0]),
        candidate=ArmValue(candidate if math.isfinite(candidate) else float("inf"), n[1]),
        method=method,
        instances=pair.design.behind,
        effect=Effect(
            "relative" if relative else "absolute",
            float(estimate.effect[g]),
            float(estimate.lower[g]),
            float(estimate.upper[g]),
        ),
        questions=tuple(questions),
        drift=Drift(
            float(estimate.trend.last_third[g]),
            float(estimate.trend.p_worsening[g]),
            float(estimate.trend.at_end[g]),
        ),
        detectable_effect=_finite(estimate.detectable[g]),
        needed_time=float(estimate.needed[g]),
        lasting_share=float(estimate.lasting[g]),
        loadings=() if estimate.loadings is None else tuple(estimate.loadings[g].tolist()),
        se=_finite(estimate.se[g]),
        df=float(estimate.df[g]),
        unresolved=_explain_step(pair, rule, float(estimate.baseline[g])) if too_coarse else "",
        too_coarse=too_coarse,
        scan=scan,
    )


def _explain_step(pair: Pair, rule: Rule, level_ms: float) -> str:
    steps = steps_of(pair.panel, rule.slice.endpoint)
    return explain_coarse(steps, (pair.name(0), pair.name(1)), level_ms, rule.margin) if rule.margin else ""


def _question(
    kind: Literal["margin", "limit", "zero", "tolerance"], bound: float, asked: Asked, group: int
) -> Question:
    return Question(kind, bound, float(asked.p_worse[group]), float(asked.p_within[group]))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def is_higher_better(rule: Rule) -> bool:
    """Does this metric improve upwards?"""
    return rule.direction is Direction.HIGHER
