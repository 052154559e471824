"""What may be asked of a metric without comparing anything: what it reads, what it is called, and in which unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from evaluator.records.readings import Query
from evaluator.records.words import Direction, EvidenceKind


class Metric:
    """A type of metric with its options. The types are in `evaluator.metrics`, a class and its options each."""

    type: ClassVar[str]
    """As the policy names it."""
    evidence: ClassVar[EvidenceKind]
    """What it reads."""
    direction: ClassVar[Direction] = Direction.LOWER
    """Which way is better."""
    short: ClassVar[str] = ""
    """What people call it where the policy gives it no name but that of its type."""
    any_direction: ClassVar[bool] = False
    """`direction` is a default that the policy may turn round."""
    refused: ClassVar[Mapping[str, str]] = {}
    """Options of other types that might be expected here → what is said where one is given."""
    is_failure_rate: ClassVar[bool] = False
    """Is it the share of requests that failed?"""
    is_response_time: ClassVar[bool] = False
    """Is it how long requests took, as the load or as the server itself saw it?"""
    needs_failures_within: ClassVar[bool] = False
    """Does it say nothing good while more failures are not excluded?"""

    @property
    def amounts(self) -> Literal["share", "ms", "/s", "abs"]:
        """Unit of absolute margins and limits in the policy; `abs` is that of its values, whatever it is."""
        return "abs"

    @property
    def value_unit(self) -> str:
        """Unit of its values in a verdict."""
        raise NotImplementedError

    def name(self, chosen: str) -> str:
        """What people call it: `p95`, `mean`, `failures`; the policy's own name where it chose one."""
        return self.short if self.short and chosen == self.type else chosen

    @property
    def note(self) -> str:
        """What is said with its name wherever it is compared; empty where there is nothing."""
        return ""

    @property
    def k6_name(self) -> str:
        """Name of the same number in the summary of k6; empty where it has none."""
        return ""

    @property
    def share_above(self) -> float:
        """Share of requests that lie above its value."""
        return 0.5

    @property
    def queries(self) -> tuple[Query, ...]:
        """What it asks a metrics server, its denominator last."""
        return ()

    @property
    def denominator(self) -> Query | None:
        """Query that counts its requests or observations."""
        return None

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Outcomes that it reads, as they were imported."""
        return ()

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """Columns known before the test that it is adjusted for."""
        return ()

    @property
    def uncut_mean(self) -> str:
        """Outcome of which it takes the mean as it is, with its largest values; empty where it does not."""
        return ""
