"""Properties of a metric that need no comparison: what it reads, its name and its unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from evaluator.records.readings import Query
from evaluator.records.words import Direction, EvidenceKind


class Metric:
    """A type of metric with its options. Each type is a class in `evaluator.metrics`; its fields are the options."""

    type: ClassVar[str]
    """Name in the policy."""
    evidence: ClassVar[EvidenceKind]
    """The kind of evidence that it reads."""
    direction: ClassVar[Direction] = Direction.LOWER
    """Which way is better."""
    short: ClassVar[str] = ""
    """Name for people, used where the policy gives the metric no name other than its type."""
    any_direction: ClassVar[bool] = False
    """Is `direction` only a default that the policy may reverse?"""
    both_directions: ClassVar[bool] = False
    """Is a change harm whichever way it goes? `direction` of a comparison is then the way that it went."""
    counted_status: ClassVar[str] = ""
    """Of a share of requests by their HTTP status: name of the total of a panel that counts them; else empty."""
    refused: ClassVar[Mapping[str, str]] = {}
    """Options of other types that a user might expect here → the message if one is given."""
    is_response_size: ClassVar[bool] = False
    """Is it the size of answers?"""
    is_failure_rate: ClassVar[bool] = False
    """Is it the share of requests that failed?"""
    is_response_time: ClassVar[bool] = False
    """Is it the time that requests took, measured by the load generator or by the server?"""
    is_geometric_mean: ClassVar[bool] = False
    """Is it a geometric mean? Readers are shown what that is."""
    counts_traffic: ClassVar[bool] = False
    """Is it how many requests an arm gets? Then it compares versions only if each arm has users of its own."""
    needs_failures_within: ClassVar[bool] = False
    """Can it pass only if failures are shown to be within their margin?"""

    @property
    def amounts(self) -> Literal["share", "ms", "/s", "abs"]:
        """Unit of absolute margins and limits in the policy; `abs`: the unit of the values themselves."""
        return "abs"

    @property
    def value_unit(self) -> str:
        """Unit of its values in a verdict."""
        raise NotImplementedError

    def name(self, chosen: str) -> str:
        """Name for people: `p95`, `mean`, `failures`; or `chosen`, if the policy chose a name other than the type."""
        return self.short if self.short and chosen == self.type else chosen

    @property
    def note(self) -> str:
        """Remark that is shown with the name wherever the metric is compared; may be empty."""
        return ""

    @property
    def k6_name(self) -> str:
        """Name of the same number in the summary of k6; empty if k6 has none."""
        return ""

    @property
    def share_above(self) -> float:
        """Share of requests above its value, 0 to 1."""
        return 0.5

    @property
    def queries(self) -> tuple[Query, ...]:
        """Queries that it sends to a metrics server, the denominator last."""
        return ()

    @property
    def denominator(self) -> Query | None:
        """Query that counts its requests or observations."""
        return None

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of the imported outcomes that it reads."""
        return ()

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """Columns known before the test, for which the metric is adjusted."""
        return ()

    @property
    def uncut_mean(self) -> str:
        """Outcome whose mean it takes without capping the largest values; empty if it takes none."""
        return ""
