"""What a metric of readings is: what it asks a source, and how the answers of two arms compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from evaluator.metrics.base import Pair
from evaluator.records import (
    BLOCK_BUCKETS,
    ArmValue,
    Comparison,
    InstancePrior,
    MetricStatus,
    Query,
    QueryKind,
    ReadingCells,
    Rule,
)
from evaluator.stats.edges import EdgePanel
from evaluator.stats.estimate import Depth
from evaluator.stats.longrun import MIN_BUCKETS
from evaluator.stats.panel import Panel
from evaluator.stats.reading_panels import ReadingView, measures_the_same, name_of
from evaluator.stats.uncertainty import choose_design

__all__ = [
    "NOTHING",
    "ReadingMetric",
    "ReadingPair",
    "check_length",
    "check_series",
    "find_forms",
    "no_readings",
    "show_unit",
]

MIN_COUNTED = 30
NOTHING = "there are no readings"
Laid = TypeVar("Laid", Panel, EdgePanel)


@dataclass(frozen=True, slots=True)
class ReadingPair:
    """Readings of the baseline and of one candidate."""

    view: ReadingView
    arm: str
    alpha: float
    prior: InstancePrior
    laid: dict[Any, Any]
    """Panels laid out for one look, kept for the next."""
    before_s: float | None = None
    """An earlier look: only what lies before this moment, seconds since the epoch."""
    depth: Depth = "full"

    @property
    def readings(self) -> ReadingCells:
        """The cells."""
        return self.view.readings

    @property
    def arms(self) -> tuple[int, int]:
        """Codes of baseline and candidate."""
        return 0, self.readings.arms.index(self.arm)

    def lay(self, key: tuple[Any, ...], make: Callable[[], Laid | None]) -> Laid | None:
        """A panel, made once, as it was at this look."""
        place: tuple[Any, ...] = (self.arm, *key)
        if place not in self.laid:
            self.laid[place] = make()
        whole: Laid | None = self.laid[place]
        if whole is None or self.before_s is None:
            return whole
        # Instances are known by whole blocks; what the last one has begun counts at the next look.
        bucket = int(self.before_s // (whole.bucket_s * BLOCK_BUCKETS)) * BLOCK_BUCKETS
        last = self.laid.get(("last", *place))
        if last is None or last[0] != bucket:
            last = self.laid["last", *place] = (bucket, whole.before(bucket))
        before: Laid | None = last[1]
        return before

    def seen(self) -> ReadingView:
        """All readings of this look, for what cannot be cut later."""
        if self.before_s is None:
            return self.view
        return self.view.before(int(self.before_s // self.readings.bucket_s))

    def of(self, panel: Panel, *, history: bool = False) -> Pair:
        """A pair as metrics of requests have it. `history`: earlier load runs tell how instances differ in this."""
        prior = self.prior if history else replace(self.prior, latency=None, failures=None)
        return Pair(panel, choose_design(panel, prior), self.arm, self.alpha, prior, depth=self.depth)


CompareReadings = Callable[[ReadingPair, Rule], Comparison]


@dataclass(frozen=True, slots=True)
class ReadingMetric:
    """One type of metric of readings."""

    asks: tuple[QueryKind, ...]
    """Kinds of its queries, in the order of `Rule.queries`."""
    compare: CompareReadings
    unit: str = ""
    """Unit where the rule names none."""
    per: str = ""
    """What its unit is divided by: `/s`, `/h`."""
    optional: int = 0
    """How many of the queries, the first ones, may have no series where the last one's metric has."""


def show_unit(rule: Rule, metric: ReadingMetric) -> str:
    """Unit of the metric's values."""
    unit = rule.unit or metric.unit
    return unit if not metric.per or unit.endswith(metric.per) else unit + metric.per


def no_readings(rule: Rule, arm: str, unit: str, why: str) -> Comparison:
    """The answer that there is none, with the reason."""
    return Comparison(
        rule=rule,
        arm=arm,
        unit=unit,
        baseline=ArmValue(None, 0),
        candidate=ArmValue(None, 0),
        method="none",
        no_data=why,
        status=MetricStatus.NO_DATA,
    )


def check_series(pair: ReadingPair, rule: Rule, metric: ReadingMetric) -> str | None:
    """Why the queries of a rule cannot be compared, or `None`."""
    missing = [query for query in rule.queries if query not in pair.readings.queries]
    if missing:
        return f"{name_of(missing[0])} was not collected"
    endpoint = rule.slice.endpoint
    if endpoint is not None and endpoint not in pair.readings.endpoints:
        return f"no series has the endpoint {endpoint}"
    for place, query in enumerate(rule.queries):
        absent = [arm for arm in pair.arms if not _has_rows(pair, query, arm)]
        never = place < metric.optional and measures_the_same(query, rule.queries[-1])
        if impossible := _find_impossible(pair, query, pair.arms if never else absent):
            return impossible
        if absent and not never:
            names = " and ".join(pair.readings.arms[arm] for arm in absent)
            return f"{query.text.strip()} has no series of {names} in the time that is judged"
    return None


def _find_impossible(pair: ReadingPair, query: Query, arms: Sequence[int]) -> str:
    """Why a query could match nothing on one of these arms; empty where it could, or where nobody looked."""
    names = [pair.readings.arms[arm] for arm in arms]
    return next(
        (
            f"{query.text.strip()} cannot find anything: {fact.impossible}"
            for fact in pair.readings.facts
            if fact.query == query and fact.arm in names and fact.impossible
        ),
        "",
    )


def find_forms(pair: ReadingPair, query: Query) -> dict[str, str]:
    """What the histogram of a query is on each of the two arms, where that is known."""
    names = [pair.readings.arms[arm] for arm in pair.arms]
    facts = pair.readings.facts
    return {fact.arm: fact.form for fact in facts if fact.query == query and fact.arm in names and fact.form}


def _has_rows(pair: ReadingPair, query: Query, arm: int) -> bool:
    readings = pair.readings
    return bool(((readings.query == readings.queries.index(query)) & (readings.arm == arm)).any())


def check_length(pair: ReadingPair, panel: Panel | None, noun: str = "") -> str | None:
    """Why there is too little, or `None`. `noun`: what is counted, where thirty of it are needed on each arm."""
    if panel is None:
        return f"baseline and {pair.arm} share no time in which both were read"
    if panel.slots < MIN_BUCKETS:
        seconds, needed = panel.slots * panel.bucket_s, MIN_BUCKETS * panel.bucket_s
        return f"only {seconds} s of usable readings, at least {needed} s are needed"
    for place, arm in enumerate(("baseline", pair.arm)):
        count = float(panel.n[place].sum())
        if noun and count < MIN_COUNTED:
            return f"only {count:.0f} {noun} on {arm}, at least {MIN_COUNTED} are needed"
    return None
