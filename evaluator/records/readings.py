"""Readings: what a metrics server said of each arm, and their additive summary.

A policy's metric asks one or more queries. A source answers each query for each arm with series of samples; these are
summed up into reading cells, from which metrics are computed just as from the cells of requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

QUOTED = r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`[^`]*`"
"""A value of a label in a query, as a pattern."""
PLAIN_QUERY = re.compile(rf"\s*(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?P<labels>\{{(?:[^{{}}\"'`]|{QUOTED})*\}})?\s*")
"""The name of a series with labels, and no function or operator around it."""


def metric_name(text: str) -> str:
    """Name of the series of a plain query; empty where functions or operators stand around it."""
    match = PLAIN_QUERY.fullmatch(text)
    return match["name"] if match else ""


class QueryKind(StrEnum):
    """What the numbers of a query are."""

    COUNTER = "counter"
    """They only grow, and start again at a restart. What counts is by how much they grew."""
    HISTOGRAM = "histogram"
    """Counters of observations up to each bound, with their number and sum; classic or native."""
    GAUGE = "gauge"
    """Each number stands for itself."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query of the policy, as written there: `$selector`, `$window` and `$step` are not filled in yet."""

    text: str
    """For a histogram without its suffix: `http_request_duration_seconds{$selector}`."""
    kind: QueryKind


Spans = tuple[tuple[int, int], ...]
"""Starts and ends, in order."""

UP = Query("up{$selector}", QueryKind.GAUGE)
"""What a server itself writes of each target that it scrapes: 1 where it answered, 0 where it did not."""

Part = Literal["value", "bucket", "sum", "count"]
PARTS: tuple[Part, ...] = ("value", "bucket", "sum", "count")
"""What a series is of its query: the value of a counter or gauge, or one of the counters of a histogram."""


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one series in the order of time, at most one a moment. A missing scrape is a missing sample."""

    labels: Mapping[str, str]
    instance: str
    endpoint: str
    """Value of the label that the policy names as endpoint; empty where it names none."""
    part: Part
    le: float
    """Upper bound of a histogram's bucket, +inf for the last, in the unit of the query; NaN for other parts."""
    ts_ms: IntArray
    """Time of each sample, ms since the epoch (UTC)."""
    values: FloatArray


@dataclass(frozen=True, slots=True)
class Answer:
    """What a source said to one query for one arm over one stretch of time."""

    query: Query
    arm: str
    sent: tuple[str, ...]
    """The queries as sent, everything filled in."""
    start: datetime
    end: datetime
    step_s: float
    series: tuple[Series, ...]
    warnings: tuple[str, ...] = ()
    """What the server itself said of its answer, such as that it is partial."""
    nan: int = 0
    """Samples that were not a number. They are left out."""
    duplicates: int = 0
    """Series that said the same as another (same instance, endpoint, part and bound). They are left out."""
    notes: tuple[str, ...] = ()
    """Hints of the server, such as on names; they do not say that anything is missing."""
    read: int | None = None
    """Samples that came, with those that are left out; `None`: nobody counted, `series` has all there were."""
    infinite: int = 0
    """Samples that were infinite. They are left out."""
    repeated: int = 0
    """Samples for a moment that has one already, those of duplicate series among them. They are left out."""
    outside: int = 0
    """Samples of another time than was asked for. They are left out."""
    impossible: str = ""
    """Why the query could match nothing on this arm, whatever happened there; empty where it could."""
    form: str = ""
    """What a histogram is: classic, native, a summary …; empty where it has no series."""


@dataclass(frozen=True, slots=True)
class QueryFacts:
    """What happened to one query of one arm, for findings and for the verdict's list of queries."""

    query: Query
    arm: str
    sent: tuple[str, ...] = ()
    series: int = 0
    warnings: tuple[str, ...] = ()
    nan: int = 0
    duplicates: int = 0
    resets: int = 0
    """How often a counter started again."""
    notes: tuple[str, ...] = ()
    impossible: str = ""
    form: str = ""
    read: int = 0
    """Samples that came: those that are used, and what the next fields and `nan` count."""
    infinite: int = 0
    repeated: int = 0
    outside: int = 0
    falls: int = 0
    """Samples of a counter that were below the one before without a restart; the step to them is left out."""
    used: tuple[tuple[int, int], ...] = ()
    """Bucket, and how many samples of it are used; the first sample of a series is used as what the next grows from."""
    shared: int = 0
    """Series that the baseline has as well, with all their labels."""
    start_ms: int = 0
    """The time that was collected."""
    end_ms: int = 0
    step_ms: float = 0.0
    """Distance of scrapes."""
    spans: Spans = ()
    """When any series of it was seen: from a first to a last sample (ms) without a hole between them."""
    lives: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """First and last sample of each instance (ms)."""
    expected: int = 0
    """Samples that a series without gaps would have, over all series from their first to their last sample."""
    missing: int = 0
    """How many of them were not there."""


@dataclass(frozen=True, slots=True)
class ReadingCells:
    """One row per query × arm × instance × endpoint × bucket × part × bound. All columns have shape (rows,).

    `arms[0]` is the baseline. Codes in the columns index `queries`, `arms`, `instances`, `endpoints` and `PARTS`.
    Cells add up: of two stretches of time, and of series of one instance.
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
    """Number of the bucket since the epoch: floor(ts / bucket_s). An increase belongs to the moment it was seen."""
    part: IntArray
    le: FloatArray
    """Upper bound of a histogram's bucket; NaN for other parts."""
    n: IntArray
    """Samples of a gauge, or steps between two samples of a counter."""
    seconds: FloatArray
    """Time that those steps cover; 0 for gauges."""
    total: FloatArray
    """Sum of a gauge's samples, or by how much a counter grew."""
    peak: FloatArray
    """Largest sample of a gauge; NaN for counters."""
    facts: tuple[QueryFacts, ...] = ()
    sources: Mapping[str, Any] = field(default_factory=dict)
    """Where the readings came from: url, step, and what else makes two collections comparable. No secrets."""
