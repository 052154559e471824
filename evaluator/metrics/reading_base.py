"""The base of metrics of readings: the queries of a metric, and how the answers of two arms are compared."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, field_validator

from evaluator.fields import QueryText
from evaluator.metrics.base import Pair, no_data
from evaluator.metrics.options import MetricModel
from evaluator.records import (
    BLOCK_BUCKETS,
    Comparison,
    EvidenceKind,
    InstancePrior,
    Query,
    QueryKind,
    ReadingCells,
    Rule,
    metric_name,
)
from evaluator.stats.estimators.edges import EdgePanel
from evaluator.stats.estimators.estimate import Depth
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.shaping.reading_panels import ReadingView, measures_the_same, name_of
from evaluator.stats.variance.longrun import MIN_BUCKETS
from evaluator.stats.variance.uncertainty import choose_design

MIN_COUNTED = 30
TIMES = {"s": 1000.0, "ms": 1.0, "us": 0.001, "µs": 0.001, "ns": 1e-6}
"""Unit of time → its length in ms."""
AnyPanel = TypeVar("AnyPanel", Panel, EdgePanel)


@dataclass(frozen=True, slots=True)
class ReadingPair:
    """Readings of the baseline and of one candidate."""

    view: ReadingView
    arm: str
    alpha: float
    prior: InstancePrior
    panels: dict[Any, Any]
    """Panels over all readings by their keys, shared by the pairs of all looks; `None`: there is no panel.

    Under `("cut", *key)`: the end of a look (bucket), and the panel that was cut there.
    """
    before_s: float | None = None
    """An earlier look: only readings before this moment, seconds since the epoch; `None`: all of them."""
    depth: Depth = "full"

    @property
    def readings(self) -> ReadingCells:
        """The cells."""
        return self.view.readings

    @property
    def arms(self) -> tuple[int, int]:
        """Codes (positions among the arms) of baseline and candidate."""
        return 0, self.readings.arms.index(self.arm)

    def find_or_build(self, key: tuple[Any, ...], build: Callable[[], AnyPanel | None]) -> AnyPanel | None:
        """Find the panel of `key` as it was at this look; `None`: the arms have no time in common.

        `key` identifies the panel for this candidate. `build` builds it over all readings, and is called once, as the
        pairs of all looks share `self.panels`. For an earlier look, the panel is cut at the end of the look.
        """
        panel_key: tuple[Any, ...] = (self.arm, *key)
        if panel_key not in self.panels:
            self.panels[panel_key] = build()
        panel: AnyPanel | None = self.panels[panel_key]
        if panel is None or self.before_s is None:
            return panel
        # A panel sums up instances by blocks of BLOCK_BUCKETS buckets, so it can be cut only between two blocks: a
        # block that has only begun at the end of this look counts at the next look.
        end_bucket = int(self.before_s // (panel.bucket_s * BLOCK_BUCKETS)) * BLOCK_BUCKETS
        # The cut panel is kept until the next look, because several metrics read the same panel.
        cut_key = ("cut", *panel_key)
        kept_end_bucket, _ = self.panels.get(cut_key, (None, None))
        if kept_end_bucket != end_bucket:
            self.panels[cut_key] = (end_bucket, panel.before(end_bucket))
        cut_panel: AnyPanel | None = self.panels[cut_key][1]
        return cut_panel

    def view_at_look(self) -> ReadingView:
        """The readings up to this look, for panels that cannot be built once and then cut."""
        if self.before_s is None:
            return self.view
        return self.view.before(int(self.before_s // self.readings.bucket_s))

    def as_request_pair(self, panel: Panel, *, history: bool = False) -> Pair:
        """Make the input of a metric of requests from a panel of readings, so that the same methods compare both.

        `history`: use what earlier load runs of the service showed about differences between instances; this fits
        response times and failures only.
        """
        prior = self.prior if history else replace(self.prior, latency=None, failures=None)
        return Pair(panel, choose_design(panel, prior), self.arm, self.alpha, prior, depth=self.depth)


class ReadingMetric(MetricModel):
    """A metric of readings: its queries, and how the answers of two arms are compared."""

    evidence: ClassVar[EvidenceKind] = EvidenceKind.READINGS
    kind: ClassVar[QueryKind]
    """The kind of its queries."""
    noun: ClassVar[str] = ""
    """What it counts, if at least thirty are needed on each arm; else empty."""
    optional: ClassVar[int] = 0
    """How many of its first queries may lack series, if the last query's metric has series."""

    @field_validator("query", "failures", "requests", check_fields=False)
    @classmethod
    def _check_query(cls, text: str) -> str:
        """Refuse a query that cannot select an arm's series, or whose increases cannot be computed."""
        if "$selector" not in text:
            name = text.partition("{")[0] if metric_name(text) else "name"  # empty if it is an expression
            raise ValueError(f"needs $selector where the labels of an arm go: {name}{{$selector}}")
        if cls.kind is not QueryKind.GAUGE and not metric_name(text):
            expected = f"the {cls.kind} itself, without rate(), sum() or other functions"
            raise ValueError(f"must be {expected}: {cls.type} takes increases by itself")
        suffix = re.search(r"_(bucket|sum|count)$", metric_name(text))
        if cls.kind is QueryKind.HISTOGRAM and suffix:
            raise ValueError(f"must be the histogram's name without {suffix[0]}")
        return text

    @property
    @abstractmethod
    def queries(self) -> tuple[Query, ...]:
        """Its queries, the denominator last."""

    @property
    def denominator(self) -> Query | None:
        """Query that counts its requests or observations."""
        return self.queries[-1] if self.noun else None

    @property
    def scale(self) -> float:
        """Factor on the numbers of a query: 1000 for seconds shown as ms."""
        return 1.0

    @property
    def scaled_unit(self) -> str:
        """Unit of the numbers of a query after scaling; empty if none is set."""
        return ""

    def build(self, view: ReadingView, arm: str, endpoint: str | None) -> Panel | None:
        """Build the panel of the baseline and an arm; `None` if they have no time in common."""
        raise NotImplementedError

    def find_panel(self, pair: ReadingPair, endpoint: str | None) -> Panel | None:
        """Find the panel that is compared, built once for all looks; `endpoint=None`: all endpoints."""
        # The panel may depend on the metric's options, so they are part of its key.
        key = (self.type, self.model_dump_json(), endpoint)
        return pair.find_or_build(key, lambda: self.build(pair.view, pair.arm, endpoint))

    @abstractmethod
    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule from a panel that is long enough."""

    def check(self, pair: ReadingPair, rule: Rule) -> str | None:
        """Say why its queries cannot be compared; `None`: both arms have series of them, for the rule's endpoint."""
        readings, endpoint = pair.readings, rule.slice.endpoint
        missing = [query for query in self.queries if query not in readings.queries]
        if missing:
            return f"{name_of(missing[0])} was not collected"
        if endpoint is not None and endpoint not in readings.endpoints:
            return f"no series has the endpoint {endpoint}"
        for index, query in enumerate(self.queries):
            rows = readings.query == readings.queries.index(query)
            arms_without_series = [arm for arm in pair.arms if not (rows & (readings.arm == arm)).any()]
            # Failures that never happened have no series. They count as 0 if they are selected from the same metric as
            # the requests (the last query); a metric of their own may be misspelt.
            may_lack_series = index < self.optional and measures_the_same(query, self.queries[-1])
            # Arms whose query may be at fault: then the server said why it can match nothing (`fact.impossible`).
            suspects = [readings.arms[arm] for arm in (pair.arms if may_lack_series else arms_without_series)]
            for fact in readings.facts:
                if fact.query == query and fact.arm in suspects and fact.impossible:
                    return f"{query.text.strip()} cannot find anything: {fact.impossible}"
            if arms_without_series and not may_lack_series:
                return f"{query.text.strip()} has no series of {' and '.join(suspects)} in the time that is judged"
        return None

    def compare(self, pair: ReadingPair, rule: Rule) -> Comparison:
        """Answer a rule; without enough data, by a comparison without data."""
        if why := self.check(pair, rule):
            return no_data(rule, pair.arm, why)
        panel = self.find_panel(pair, rule.slice.endpoint)
        if panel is None:
            return no_data(rule, pair.arm, f"baseline and {pair.arm} have no readings of the same time")
        if panel.slots < MIN_BUCKETS:
            seconds, needed = panel.slots * panel.bucket_s, MIN_BUCKETS * panel.bucket_s
            return no_data(rule, pair.arm, f"only {seconds} s of usable readings, at least {needed} s are needed")
        for index, arm in enumerate(("baseline", pair.arm)):  # `index`: of the arm in the panel
            count = float(panel.n[index].sum())
            if self.noun and count < MIN_COUNTED:  # without a noun, `n` counts nothing that must be frequent
                why = f"only {count:.0f} {self.noun} on {arm}, at least {MIN_COUNTED} are needed"
                return no_data(rule, pair.arm, why)
        return self.answer(pair, rule, panel)


class QueryMetric(ReadingMetric):
    """A metric of readings that asks one query."""

    default_unit: ClassVar[str] = ""
    """Unit of the query's numbers if the policy sets none."""
    per: ClassVar[str] = ""
    """Suffix of the unit of its values: `/s`, `/h`."""
    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(("failures", "requests"), "is not taken by {type}; give query")

    query: QueryText = Field(description="The PromQL query, with $selector for the labels of the arm.")
    unit: Annotated[str, Field(pattern=r"^[^\s\x00-\x1f]{1,20}$")] | None = Field(
        None, description="Unit of the query's numbers: s, ms, us, ns, ratio, bytes or any word. Histograms: s."
    )

    @property
    def queries(self) -> tuple[Query, ...]:
        """Its query."""
        return (Query(self.query, self.kind),)

    @property
    def scale(self) -> float:
        """Factor on the numbers of the query: 1000 for seconds, as times are shown in ms; 1 without a unit of time."""
        return TIMES.get(self.unit or self.default_unit, 1.0)

    @property
    def scaled_unit(self) -> str:
        """Unit of the numbers of the query after scaling; empty if none is set."""
        unit = self.unit or self.default_unit
        if unit in TIMES:
            return "ms"
        return "fraction" if unit == "ratio" else unit

    @property
    def value_unit(self) -> str:
        """Unit of its values in a verdict: that of the query, with a suffix such as `/s` for a rate."""
        unit = self.scaled_unit
        return unit if unit.endswith(self.per) else unit + self.per

    @property
    def amounts(self) -> Literal["share", "ms", "abs"]:
        """Unit of absolute margins and limits in the policy; `abs`: the query's own unit, whatever it is."""
        if self.scaled_unit == "ms":
            return "ms"
        return "share" if self.scaled_unit == "fraction" else "abs"
