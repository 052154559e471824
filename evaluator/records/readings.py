"""Readings: samples of a metrics server for each arm, and their additive summary.

A metric of the policy sends one or more queries. A source answers each query for each arm with series of samples. These
are summed up into reading cells, from which metrics are computed as from the cells of requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from evaluator.records.arrays import FloatArray, IntArray

QUOTED = r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`[^`]*`"
"""Pattern of the quoted value of a label in a query."""
PLAIN_QUERY = re.compile(rf"\s*(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?P<labels>\{{(?:[^{{}}\"'`]|{QUOTED})*\}})?\s*")
"""Pattern of a plain query: the name of a series and its labels, without functions or operators."""


def metric_name(text: str) -> str:
    """Return the name of the series in a plain query; empty if the query has functions or operators."""
    match = PLAIN_QUERY.fullmatch(text)
    return match["name"] if match else ""


class QueryKind(StrEnum):
    """What the numbers of a query mean."""

    COUNTER = "counter"
    """They only grow, and start again from 0 at a restart. Their increases are compared."""
    HISTOGRAM = "histogram"
    """Counters of observations up to each bound, with their number and sum; classic or native."""
    GAUGE = "gauge"
    """Each number is a value by itself, and may fall."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query as the policy has it: `$selector`, `$window` and `$step` are not filled in yet."""

    text: str
    """The query; for a histogram, its name has no suffix: `http_request_duration_seconds{$selector}`."""
    kind: QueryKind


Spans = tuple[tuple[int, int], ...]
"""Starts and ends (ms since the epoch), in the order of time."""

UP = Query("up{$selector}", QueryKind.GAUGE)
"""The series that a server itself writes for each target: 1 if the target answered the scrape, 0 if it did not."""

WINDOWS = "windows"
"""Key of `ReadingCells.sources`: arm → its windows, if the arms ran one after the other."""

Part = Literal["value", "bucket", "sum", "count"]
PARTS: tuple[Part, ...] = ("value", "bucket", "sum", "count")
"""Which part of a query's answer a series is: the value of a counter or gauge, or one of a histogram's counters."""


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one series in the order of time, at most one for each time. A missing scrape has no sample."""

    labels: Mapping[str, str]
    instance: str
    endpoint: str
    """Value of the label that the policy names as endpoint; empty if it names none."""
    part: Part
    le: float
    """Upper bound of a histogram's bucket, +inf for the last, in the unit of the query; NaN for other parts."""
    ts_ms: IntArray
    """Time of each sample, ms since the epoch (UTC)."""
    values: FloatArray


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a source to one query, for one arm and one interval of time."""

    query: Query
    arm: str
    sent: tuple[str, ...]
    """The queries as they were sent, with everything filled in."""
    start: datetime
    end: datetime
    step_s: float
    series: tuple[Series, ...]
    warnings: tuple[str, ...] = ()
    """Warnings of the server about its answer, such as that it is partial."""
    nan: int = 0
    """Samples that were not a number. They are left out."""
    duplicates: int = 0
    """Series with the same instance, endpoint, part and bound as another series. They are left out."""
    notes: tuple[str, ...] = ()
    """Hints of the server, such as about names; they do not mean that data are missing."""
    read: int | None = None
    """Samples received, including those left out; `None`: not counted, and `series` has all of them."""
    infinite: int = 0
    """Samples that were infinite. They are left out."""
    repeated: int = 0
    """Samples for a time that already has one, including samples of duplicate series. They are left out."""
    outside: int = 0
    """Samples outside the requested time. They are left out."""
    impossible: str = ""
    """Why the query can never match anything on this arm; empty if it can."""
    form: str = ""
    """Form of a histogram: classic, native, summary …; empty if it has no series."""


@dataclass(frozen=True, slots=True)
class QueryFacts:
    """Counts for one query of one arm, for findings and for the verdict's list of queries."""

    query: Query
    arm: str
    sent: tuple[str, ...] = ()
    series: int = 0
    warnings: tuple[str, ...] = ()
    nan: int = 0
    duplicates: int = 0
    resets: int = 0
    """How often a counter started again from 0."""
    notes: tuple[str, ...] = ()
    impossible: str = ""
    form: str = ""
    read: int = 0
    """Samples received = samples used + `nan` + `infinite` + `repeated` + `outside` + `falls`."""
    infinite: int = 0
    repeated: int = 0
    outside: int = 0
    falls: int = 0
    """Samples of a counter below the sample before, without a restart; the step to such a sample is left out."""
    used: tuple[tuple[int, int], ...] = ()
    """Pairs of bucket and samples used; the first sample of a series counts, as the start of its first increase."""
    shared: int = 0
    """Series that the baseline has as well, with the same labels."""
    start_ms: int = 0
    """Start of the time that was collected, ms since the epoch."""
    end_ms: int = 0
    """End of that time."""
    step_ms: float = 0.0
    """Time between two scrapes."""
    spans: Spans = ()
    """Intervals in which at least one series of the query had samples without a gap."""
    lives: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Instance → its first and last sample, ms since the epoch."""
    expected: int = 0
    """Samples that all series would have without gaps, each from its first to its last sample."""
    missing: int = 0
    """Those of the expected samples that are missing."""


@dataclass(frozen=True, slots=True)
class ReadingCells:
    """One row per query × arm × instance × endpoint × bucket × part × bound. All columns have shape (rows,).

    `arms[0]` is the baseline. Codes in the columns index `queries`, `arms`, `instances`, `endpoints` and `PARTS`.
    Cells of two intervals of time, or of several series of one instance, merge by addition.
    """

    queries: tuple[Query, ...]
    arms: tuple[str, ...]
    instances: tuple[str, ...]
    endpoints: tuple[str, ...]
    bucket_s: int
    query: IntArray
    arm: IntArray
    instance: IntArray
    endpoint: IntArray
    bucket: IntArray
    """Number of the bucket since the epoch: floor(ts / bucket_s). An increase belongs to the time it was seen."""
    part: IntArray
    le: FloatArray
    """Upper bound of a histogram's bucket; NaN for other parts."""
    n: IntArray
    """Samples of a gauge, or steps between two samples of a counter."""
    seconds: FloatArray
    """Time that these steps cover, s; 0 for gauges."""
    total: FloatArray
    """Sum of a gauge's samples, or the increase of a counter."""
    peak: FloatArray
    """Largest sample of a gauge; NaN for counters."""
    facts: tuple[QueryFacts, ...] = ()
    sources: Mapping[str, Any] = field(default_factory=dict)
    """Where the readings came from: URL, step, and what else must be equal to compare two collections. No secrets."""

    @property
    def windows(self) -> Mapping[str, Spans]:
        """Arm → its windows in the order of time, if the arms ran one after the other; empty: they ran together.

        The first windows of all arms are compared with each other, then the second …
        """
        windows: Mapping[str, list[tuple[int, int]]] = self.sources.get(WINDOWS, {})
        return {arm: tuple((start_ms, end_ms) for start_ms, end_ms in of_arm) for arm, of_arm in windows.items()}
