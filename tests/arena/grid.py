"""Which designs are simulated, how often, and what the judge is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean, LatencyQuantile
from evaluator.policy import load_policy
from evaluator.records import Margin, Monitoring, Role, Rule, Rulebook, Scan, Slice
from evaluator.simulate import SCENARIOS, Scenario

__all__ = [
    "ALL_MODES",
    "ALPHA",
    "FULL",
    "GATES_ALONE",
    "METRICS",
    "MODES",
    "PEERED",
    "QUICK",
    "SCAN_ALONE",
    "Mode",
    "Trial",
    "is_unchanged",
    "own_rulebooks",
    "plan_trials",
]

ALPHA = 0.05

PEERED = (
    "AA",
    "AA_inst0",
    "AA_inst3",
    "AA_mix",
    "mean+3%",
    "mean+5%",
    "mean+10%",
    "mean+20%",
    "p99x1.5",
    "errx3",
    "endpoint+30%",
    "leak",
    "improve-10%",
)
"""Designs that the peers judge as well, and that are judged with anytime monitoring."""

QUICK = dict.fromkeys(PEERED, 100)
"""Design → number of releases."""

FULL = {name: 50 if design.duration_s > 21_600 else 200 for name, design in SCENARIOS.items()} | {"AA": 400}

Mode = Literal["fixed", "auto", "anytime"]

MODES: tuple[Mode, ...] = ("fixed", "auto")
"""One look at the end; a look each minute with a planned end, as in the built-in policy."""

ALL_MODES: tuple[Mode, ...] = (*MODES, "anytime")
"""In addition without a planned end: for the designs with peers, in the full grid."""

METRICS: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("latency_mean", LatencyMean(), margin=Margin(0.0)),
        Rule("latency_p50", LatencyQuantile(quantile=0.50), margin=Margin(0.0)),
        Rule("latency_p95", LatencyQuantile(quantile=0.95), margin=Margin(0.0)),
        Rule("latency_p99", LatencyQuantile(quantile=0.99), margin=Margin(0.0)),
        Rule("failure_rate", FailureRate(), margin=Margin(0.0, relative=False)),
    )
}
"""The five gates at margin 0."""


@dataclass(frozen=True, slots=True, order=True)
class Trial:
    """One release, and the kinds of monitoring to judge it with."""

    design: str
    seed: int
    modes: tuple[Mode, ...] = MODES


def plan_trials(replications: Mapping[str, int], *, anytime: bool) -> list[Trial]:
    """Plan all releases, in the order of seeds: a table of half the releases then has all its rows."""
    modes = {name: ALL_MODES if anytime and name in PEERED else MODES for name in replications}
    return sorted(
        (Trial(name, seed, modes[name]) for name, n in replications.items() for seed in range(n)), key=lambda t: t.seed
    )


def is_unchanged(name: str) -> bool:
    """Are both versions identical in this design?"""
    return name.startswith("AA") or name == "single_75s"


def own_rulebooks(design: Scenario, mode: Mode) -> dict[str, Rulebook]:
    """Return what the judge is asked: the built-in policy, and five gates and the scan at margin 0.

    If one endpoint is worse in the design, the mean of this endpoint at margin 0 as well.
    """
    changed = [change.endpoint_index % design.endpoints for change in design.changes if change.endpoint]
    where = [Slice(f"GET /endpoint/{number:03d}") for number in changed]
    own = tuple(
        replace(METRICS["latency_mean"], name="endpoint_mean", role=Role.WATCH, slice=slice_) for slice_ in where
    )
    books = {
        "policy": load_policy(None).rulebook,
        "zero": Rulebook((*METRICS.values(), *own), scan=Scan(margin=0.0, failure_margin=0.0)),
    }
    monitoring = Monitoring(mode=mode, max_duration_s=design.duration_s)
    return {name: replace(book, alpha=ALPHA, monitoring=monitoring) for name, book in books.items()}


GATES_ALONE = Scan(enabled=False)
SCAN_ALONE = Scan(margin=0.0, failure_margin=0.0, alpha_share=1.0)
