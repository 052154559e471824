"""Every rule of the policy and the endpoint scan, put to every candidate arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from evaluator.errors import UnknownName
from evaluator.metrics.base import Pair, RequestMetric, no_data
from evaluator.metrics.scan import MIN_FOR_TIME, Scanned, scan_endpoints
from evaluator.records import BASELINE, Cells, Comparison, Role, Rule, Rulebook
from evaluator.stats.estimate import Depth
from evaluator.stats.panel import Panel, build_panel
from evaluator.stats.rare import pool_rare_endpoints
from evaluator.stats.uncertainty import choose_design
from evaluator.stats.window import WarmUp

__all__ = ["Measured", "Pairs", "measure", "pair_up"]


@dataclass(frozen=True, slots=True)
class Measured:
    """Comparisons of all candidates, and what they were made from."""

    comparisons: tuple[Comparison, ...]
    """In the order of arms, the policy's rules and the scan's rows."""
    pairs: tuple[Pair, ...]
    scanned: tuple[Scanned, ...]

    @property
    def unjudged_share(self) -> float:
        """Largest share of traffic, over candidates, that the scan could not judge."""
        return max((scan.unjudged_share for scan in self.scanned), default=0.0)

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Endpoints that the scan could not judge for some candidate."""
        return tuple(sorted({name for scan in self.scanned for name in scan.unjudged}))


@dataclass(frozen=True, slots=True)
class Pairs:
    """The data of every candidate, whole and by the endpoints that rules ask for, laid out once for all looks."""

    cells: Cells
    rulebook: Rulebook
    of: Mapping[tuple[str, str | None], Pair | None]

    def at(self, arm: str, endpoint: str | None, before_bucket: int | None) -> Pair | None:
        """The pair as it was before this bucket (all of it: `None`)."""
        pair = self.of[arm, endpoint]
        if pair is None or before_bucket is None:
            return pair
        panel = pair.panel.before(before_bucket)
        if panel is None:
            return None
        depth: Depth = "answers" if self.rulebook.monitoring.early_go else "suspects"
        return replace(pair, panel=panel, design=choose_design(panel, self.rulebook.prior), depth=depth)


def pair_up(cells: Cells, rulebook: Rulebook, warm_up: WarmUp) -> Pairs:
    """Lay out what `rulebook` asks for. Raises `UnknownName` for an endpoint that nobody called."""
    _check_endpoints(cells, rulebook)
    slices = {None: None, **{rule.slice.endpoint: None for rule in rulebook.rules}}
    found: dict[tuple[str, str | None], Pair | None] = {}
    whole = cells
    cells = pool_rare_endpoints(cells, MIN_FOR_TIME, keep={name for name in slices if name})
    for arm in cells.arms[1:]:
        for endpoint in slices:
            panel = build_panel(cells, arm, endpoint=endpoint, first_bucket=warm_up.first_bucket)
            found[arm, endpoint] = (
                None if panel is None else _pair(panel, arm, rulebook, _mean_users(cells, arm, warm_up))
            )
    return Pairs(whole, rulebook, found)


def _pair(panel: Panel, arm: str, rulebook: Rulebook, users: tuple[float, float] | None) -> Pair:
    return Pair(panel, choose_design(panel, rulebook.prior), arm, rulebook.alpha, rulebook.prior, users)


def _mean_users(cells: Cells, arm: str, warm_up: WarmUp) -> tuple[float, float] | None:
    """Mean users of baseline and candidate over the judged buckets in which they were recorded."""
    loads = cells.loads
    first = np.array([warm_up.first_bucket.get(code, 0) for code in range(len(cells.runs))])
    judged = loads.bucket >= first[loads.run]
    counts = [loads.users[judged & (loads.arm == code)] for code in (0, cells.arms.index(arm))]
    if not all(users.size and users.any() for users in counts):
        return None
    return float(counts[0].mean()), float(counts[1].mean())


def measure(pairs: Pairs, *, before_bucket: int | None = None) -> Measured:
    """Compare every candidate with the baseline.

    `before_bucket`: an earlier look, at the data before this bucket only. It asks what can decide the verdict before
    its time: gates, and holds where a GO may fall early; intervals are left out.
    """
    rules = [rule for rule in pairs.rulebook.rules if before_bucket is None or _decides_early(rule, pairs.rulebook)]
    comparisons: list[Comparison] = []
    whole: list[Pair] = []
    scanned: list[Scanned] = []
    rulebook = pairs.rulebook
    for arm in pairs.cells.arms[1:]:
        pair = pairs.at(arm, None, before_bucket)
        if pair is None:
            why = _missing(pairs.cells, arm)
            comparisons += [no_data(rule, arm, why) for rule in rules]
            continue
        whole.append(pair)
        comparisons += _compare_all(pairs, pair, rules, before_bucket)
        found = scan_endpoints(pair, rulebook.scan, rulebook.rules)
        scanned.append(found)
        comparisons += found.comparisons
    return Measured(_tell_instances_apart(comparisons, whole), tuple(whole), tuple(scanned))


def _tell_instances_apart(comparisons: list[Comparison], pairs: list[Pair]) -> tuple[Comparison, ...]:
    """Give each candidate's instances places of their own among the loadings; the baseline's are shared by all.

    That is what makes the comparisons of several candidates with one baseline correlated, as in Dunnett's test.
    """
    counts = {pair.arm: pair.design.instances[1] for pair in pairs if pair.design.kind == "instances"}
    if len(counts) < 2:
        return tuple(comparisons)
    before = dict(zip(counts, accumulate(counts.values(), initial=0), strict=False))
    total = sum(counts.values())

    def widen(comparison: Comparison) -> Comparison:
        own = counts.get(comparison.arm, 0)
        if not comparison.loadings or not own:
            return comparison
        first, row = before[comparison.arm], comparison.loadings
        last = (0.0,) * (total - first - own)
        return replace(comparison, loadings=(*row[:-own], *(0.0,) * first, *row[-own:], *last))

    return tuple(widen(comparison) for comparison in comparisons)


def _decides_early(rule: Rule, rulebook: Rulebook) -> bool:
    return rule.role is Role.GATE or (rule.role is Role.HOLD and rulebook.monitoring.early_go)


def _compare_all(pairs: Pairs, whole: Pair, rules: Sequence[Rule], before_bucket: int | None) -> list[Comparison]:
    """Compare by every rule, in the order of the rules; those of one type and slice together where that type can."""
    found: dict[int, Comparison] = {}
    groups: dict[tuple[str, str | None], list[int]] = {}
    for place, rule in enumerate(rules):
        groups.setdefault((rule.type, rule.slice.endpoint), []).append(place)
    for (_, endpoint), places in groups.items():
        asked = RequestMetric.among([rules[place] for place in places])
        pair = whole if endpoint is None else pairs.at(whole.arm, endpoint, before_bucket)
        if pair is None:
            why = f"{endpoint} was not called on both arms"
            answers = tuple(no_data(rule, whole.arm, why) for _, rule in asked)
        else:
            answers = type(asked[0][0]).compare_all(pair, asked)
        found |= zip(places, answers, strict=True)
    return [found[place] for place in range(len(rules))]


def _check_endpoints(cells: Cells, rulebook: Rulebook) -> None:
    for rule in rulebook.rules:
        endpoint = rule.slice.endpoint
        if endpoint is not None and endpoint not in cells.endpoints:
            raise UnknownName(
                "endpoint", endpoint, cells.endpoints, hint=f"metric '{rule.name}' of the policy asks for it"
            )


def _missing(cells: Cells, arm: str) -> str:
    """Which arm has nothing, or why two arms with data cannot be compared."""
    counts = [int(cells.moments.n[cells.moments.arm == cells.arms.index(name)].sum()) for name in (BASELINE, arm)]
    for name, count in zip((BASELINE, arm), counts, strict=True):
        if not count:
            return f"{name} has no requests"
    return f"no run has requests of both {BASELINE} and {arm} after warm-up"
