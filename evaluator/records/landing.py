"""What lands: files, how to read them, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from evaluator.records.releases import Release
from evaluator.records.rows import LeftOut, LeftOutKind

FilesAre = Literal["parts", "replicates"]
"""What several files of one arm are: parts of one run, or a run each."""

_REAL_TIMES_SINCE = datetime(1980, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """How one column of the request row is made from columns of a file.

    `kind` says how: `text` (several sources are joined by a space), `integer`, `number` (a time, `unit` s, ms, us or
    ns), `instant` (`unit` s, ms, us, ns since the epoch, or iso), and for `failed`, which is unknown where the file
    does not tell it: `true` (true is a failure), `false` (true is a success), `status` (a HTTP status: 0 and 400 and
    above are failures), `filled` (any text is a failure, except a word for nothing, and a status of 400 and above where
    the second source has one; where the third is a method of HTTP, a request without text needs a status), `unexpected`
    (false is a failure; where it is empty, the status of the second source), `zero` and `nonzero` (this number is a
    failure). `ended` is an instant less the milliseconds of the second source; `route` is a method and the first of the
    other sources that is not empty, a URL without host and query.
    """

    target: str
    sources: tuple[str, ...]
    kind: Literal[
        "text", "integer", "number", "instant", "true", "false", "status", "filled", "unexpected", "zero", "nonzero",
        "ended", "route",
    ]  # fmt: skip
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """What one column holds: it starts with a text, starts with none, is one of them, is none of them, or is not 0.

    A column without a value is of no known text: it meets `starts_not` only.
    """

    column: str
    test: Literal["starts", "starts_not", "is", "is_not", "nonzero"]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OtherRows:
    """Rows of a file that are no requests: how they are known (all conditions), and what they are called."""

    kind: LeftOutKind | None
    """`None`: they describe what has a row of its own, and do not count as rows that were read."""
    conditions: tuple[Condition, ...]
    detail_column: str = ""
    """Column that says what a row is, where the kind alone does not."""
    failed: ColumnMap | None = None
    """How failures among them are known, where not as among requests."""


@dataclass(frozen=True, slots=True)
class SubResults:
    """Columns by which a row is known as part of the request before it, as JMeter writes redirects and embedded files.

    Such a row follows its parent among the rows of a thread, its time lies within the time of the parent, and its label
    ends in `-0`, `-1`, …; the label of the first is that of the parent with such an ending.
    """

    label: str
    thread: str = ""
    """Empty: the file does not tell threads apart."""


@dataclass(frozen=True, slots=True)
class FileLayout:
    """What a file of requests looks like and how its columns become those of a request row."""

    format: str
    """Its name in the table of sources: locust, jtl, …"""
    reader: Literal["csv", "parquet", "k6"]
    """`k6`: lines of k6's JSON."""
    columns: tuple[ColumnMap, ...]
    delimiter: str = ","
    header: tuple[str, ...] = ()
    """All columns of the file, in its order."""
    others: tuple[OtherRows, ...] = ()
    """Rows that are no requests; the first that matches decides. What matches none of them is a request."""
    kind_column: str = ""
    """Column that tells requests from other rows, and must have a value."""
    sub_results: SubResults | None = None
    """How rows are known that are part of the request before them."""
    count_column: str = ""
    """Column with the number of requests that a row stands for: more than one is no request, but a statistic."""
    rewrite: Callable[[Path, Path], None] | None = None
    """Writes the file (first) as Parquet (second) where the store cannot read it itself."""
    line_column: str = ""
    """Column with the line that a row stands on, where the file was rewritten."""
    advice: str = ""
    """What to do where no row of the file is a request."""


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One file of one arm. What it is of a run is decided once its times are known."""

    path: str
    arm: str
    number: int
    """Its place among the files of its arm, as they were given."""
    layout: FileLayout
    rewritten: str = ""
    """Where the rewritten file is, while it lands."""
    sensitive: bool = False
    """Nothing of a request is kept beyond its path."""


@dataclass(frozen=True, slots=True)
class LandingPlan:
    """Files to take into the store, with all that is needed to read them."""

    files: tuple[FilePlan, ...]
    skip_bad_rows: bool = False
    service: str = ""
    files_are: FilesAre | None = None
    """What several files of one arm are, where the user said so; else their times tell."""
    start: datetime | None = None
    """Requests that began before it do not land."""
    end: datetime | None = None
    """Requests that began then or later do not land."""


@dataclass(frozen=True, slots=True)
class FileTimes:
    """When the requests of one file were made."""

    file: FilePlan
    first: datetime
    last: datetime
    pause_s: float = 0.0
    """Longest time between two requests of the file, to the second."""

    @property
    def seconds(self) -> float:
        """How long the file lasts."""
        return (self.last - self.first).total_seconds()


@dataclass(frozen=True, slots=True)
class FileRuns:
    """What the files of an import are of runs."""

    runs: tuple[tuple[FilePlan, ...], ...]
    """The files of each run, of all arms; run k is replicate k."""
    why: str = ""
    """How that was told; empty where no arm has several files."""
    declared: FilesAre | None = None
    """What the user says that several files of one arm are."""
    overlapping: bool = False
    """Do files of one arm that were declared to be runs of their own overlap in time, as parts of one run do?"""
    doubts: tuple[str, ...] = ()
    """Sentences about what may not be as it should."""


ArrangeFiles = Callable[[LandingPlan, Sequence[FileTimes]], FileRuns]
"""Tells from the times of files which of them are of one run. Raises InputError where that is not clear."""


@dataclass(frozen=True, slots=True)
class Landed:
    """What a landing did. `already`: segments or files that had landed before and were left alone."""

    rows: int = 0
    segments: int = 0
    quarantined: tuple[str, ...] = ()
    already: int = 0
    left_out: tuple[LeftOut, ...] = ()
    """Rows that were read and did not land, by arm and kind."""
    runs: tuple[str, ...] = ()
    """Ids of the runs that hold the data, also where they had landed before."""
    parts: tuple[int, ...] = ()
    """How many files an arm has in a run: each number that occurs, the smallest first."""
    why: str = ""
    """How it was told what the files are of runs."""
    doubts: tuple[str, ...] = ()
    """Sentences about what may not be as it should."""

    def count(self, kind: LeftOutKind) -> int:
        """Rows of one kind that did not land, over all arms."""
        return sum(part.rows for part in self.left_out if part.kind is kind)


def counts_from_start(moment: datetime) -> bool:
    """Tell a time that counts from the start of a test from one that counts from 1970."""
    return moment < _REAL_TIMES_SINCE


@dataclass(frozen=True, slots=True)
class ReleaseSummary:
    """A release in one line of a list."""

    release: Release
    groups: int = 0
    runs: int = 0
    rows: int = 0
    last_run: datetime | None = None
    verdict: str | None = None
    judged_at: datetime | None = None
    mode: str | None = None
    """Mode of the latest verdict: `block` or `shadow`."""
    shadow_verdicts: int = 0
    would_have_blocked: int = 0
    """Shadow verdicts that were NO-GO or INCONCLUSIVE."""


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A verdict as it was saved, and whether a release was promoted against it."""

    release: str
    word: str
    judged_at: datetime
    json: str
    override: Mapping[str, str] | None = None
    """By whom, when and why, where glass was broken."""

    @property
    def data_hash(self) -> str:
        """Hash of the data that it judged."""
        return str(json.loads(self.json)["data_hash"])
