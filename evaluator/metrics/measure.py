"""Every rule of the policy and the endpoint scan, put to every candidate arm."""

from __future__ import annotations

from dataclasses import dataclass

from evaluator.errors import UnknownName
from evaluator.metrics import REQUEST_METRICS
from evaluator.metrics.base import Pair, declared
from evaluator.metrics.scan import Scanned, scan_endpoints
from evaluator.records import BASELINE, ArmValue, Cells, Comparison, MetricStatus, Rule, Rulebook
from evaluator.stats.panel import build_panel
from evaluator.stats.uncertainty import choose_design
from evaluator.stats.window import WarmUp

__all__ = ["Measured", "measure"]

UNITS = {"failure_rate": "fraction", "throughput": "/s"}


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


def measure(cells: Cells, rulebook: Rulebook, warm_up: WarmUp, *, before_bucket: int | None = None) -> Measured:
    """Compare every candidate of `cells` with the baseline. Raises `UnknownName` for an endpoint that nobody called.

    `before_bucket`: an earlier look, at the data before this bucket only; intervals are left out.
    """
    _check_endpoints(cells, rulebook)
    part = _Part(cells, rulebook, warm_up, before_bucket)
    comparisons: list[Comparison] = []
    pairs: list[Pair] = []
    scanned: list[Scanned] = []
    for arm in cells.arms[1:]:
        pair = part.pair(arm)
        if pair is None:
            why = _missing(cells, arm)
            comparisons += [_nothing(rule, arm, why) for rule in rulebook.rules]
            continue
        pairs.append(pair)
        comparisons += [_compare(part, pair, rule) for rule in rulebook.rules]
        found = scan_endpoints(pair, rulebook.scan)
        scanned.append(found)
        comparisons += found.comparisons
    return Measured(tuple(comparisons), tuple(pairs), tuple(scanned))


@dataclass(frozen=True, slots=True)
class _Part:
    """The part of the data that is compared."""

    cells: Cells
    rulebook: Rulebook
    warm_up: WarmUp
    before_bucket: int | None

    def pair(self, arm: str, endpoint: str | None = None) -> Pair | None:
        panel = build_panel(
            self.cells,
            arm,
            endpoint=endpoint,
            first_bucket=self.warm_up.first_bucket,
            before_bucket=self.before_bucket,
        )
        if panel is None:
            return None
        design = choose_design(panel, declared(self.rulebook.prior))
        return Pair(panel, design, arm, self.rulebook.alpha, self.rulebook.prior, self.before_bucket is not None)


def _compare(part: _Part, pair: Pair, rule: Rule) -> Comparison:
    endpoint = rule.slice.endpoint
    if endpoint is None:
        return REQUEST_METRICS[rule.type](pair, rule)
    own = part.pair(pair.arm, endpoint)
    if own is None:
        return _nothing(rule, pair.arm, f"{endpoint} was not called on both arms")
    return REQUEST_METRICS[rule.type](own, rule)


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


def _nothing(rule: Rule, arm: str, why: str) -> Comparison:
    return Comparison(
        rule=rule,
        arm=arm,
        unit=UNITS.get(rule.type, "ms"),
        baseline=ArmValue(None, 0),
        candidate=ArmValue(None, 0),
        method="none",
        no_data=why,
        status=MetricStatus.NO_DATA,
    )
