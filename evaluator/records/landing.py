"""Landing: the files, how to read them, and the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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

    `kind` is one of:

    - `text`: the sources, joined by a space;
    - `integer`;
    - `number`: a duration in `unit` (s, ms, us, ns), the sum of the sources;
    - `clock`: a duration as a time of day or an interval, whose type has its unit;
    - `instant`: a time in `unit` (s, ms, us, ns since the epoch, iso, or a format such as `%d/%b/%Y:%H:%M:%S %z`);
      texts of several sources are joined by a space;
    - `constant`: `constant` in all rows, without sources;
    - `ended`: an instant minus the milliseconds of the second source;
    - `route`: a method, and the first of the other sources that is not empty, as a URL without host and query.

    For `failed`, which is unknown where the file has no value for it:

    - `true`: true is a failure; `false`: true is a success;
    - `status`: an HTTP status; 0, and 400 and above, are failures;
    - `filled`: any text is a failure, except a word for "nothing"; so is a status of 400 and above in the second
      source. If the third source is an HTTP method, a request without text needs a status;
    - `unexpected`: false is a failure; where it is empty, the status in the second source decides;
    - `zero`, `nonzero`: this number is a failure.
    """

    target: str
    sources: tuple[str, ...]
    kind: Literal[
        "text", "integer", "number", "clock", "instant", "true", "false", "status", "filled", "unexpected", "zero",
        "nonzero", "ended", "route", "constant",
    ]  # fmt: skip
    unit: str = ""
    constant: str = ""
    """Value of the kind `constant`, as text."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A test of one column: its text starts with one of `texts`, with none of them, is one, is none, or is not 0.

    A column without a value meets only `starts_not`.
    """

    column: str
    test: Literal["starts", "starts_not", "is", "is_not", "nonzero"]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OtherRows:
    """Rows of a file that are not requests: the conditions that they all meet, and the kind they are counted under."""

    kind: LeftOutKind | None
    """`None`: they only describe another row, and do not count as rows that were read."""
    conditions: tuple[Condition, ...]
    detail_column: str = ""
    """Column that names what a row is, where the kind alone does not."""
    failed: ColumnMap | None = None
    """How failures among them are recognised; `None`: as among requests."""


@dataclass(frozen=True, slots=True)
class SubResults:
    """Columns that show that a row is part of the request before it: JMeter's redirects and embedded files.

    Such a row follows its parent among the rows of a thread, its time is within the time of the parent, and its label
    ends in `-0`, `-1`, …; the label of the first part is the parent's label with this ending.
    """

    label: str
    thread: str = ""
    """Empty: the file does not name threads."""


@dataclass(frozen=True, slots=True)
class FileLayout:
    """The columns of a file of requests, and how they become the columns of a request row."""

    format: str
    """Name in the table of sources: locust, jtl, …"""
    reader: Literal["csv", "parquet", "k6", "json"]
    """`k6`: lines of k6's JSON; `json`: lines of any JSON objects."""
    columns: tuple[ColumnMap, ...]
    delimiter: str = ","
    header: tuple[str, ...] = ()
    """All columns of the file, in its order."""
    paths: tuple[tuple[str, ...], ...] = ()
    """Path to each column of the header, where columns may be inside of others: `("http", "status")` for the column
    `http.status` of JSON or Parquet. Empty: no column is."""
    others: tuple[OtherRows, ...] = ()
    """Rows that are not requests; the first match decides. A row without a match is a request."""
    kind_column: str = ""
    """Column that distinguishes requests from other rows, and must have a value."""
    sub_results: SubResults | None = None
    """How to recognise rows that are part of the request before them."""
    count_column: str = ""
    """Column with the number of requests that a row sums up: a row with more than one is a statistic, not a request."""
    rewrite: Callable[[Path, Path], None] | None = None
    """Writes the file (first argument) as Parquet (second), if the store cannot read it itself."""
    unreadable_column: str = ""
    """Column with the text of a row that could not be read, if the file was rewritten; empty for other rows."""
    line_column: str = ""
    """Column with the line number of a row, if the file was rewritten."""
    advice: str = ""
    """What the user can do if no row of the file is a request."""
    unseen: str = ""
    """Requests that were made and have no row in files of this format; empty: every request has a row."""


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One file of one arm. Which run it belongs to is decided once its times are known."""

    path: str
    arm: str
    number: int
    """Position among the files of its arm, in the order given."""
    layout: FileLayout
    rewritten: str = ""
    """Path of the unpacked or rewritten copy of the file, while it lands from that copy."""
    sensitive: bool = False
    """If true, no text of a request is kept except its path."""

    @property
    def readable_path(self) -> str:
        """Path of what the store reads: the file itself, or its unpacked or rewritten copy."""
        return self.rewritten or self.path


@dataclass(frozen=True, slots=True)
class LandingPlan:
    """Files to take into the store, with all that is needed to read them."""

    files: tuple[FilePlan, ...]
    skip_bad_rows: bool = False
    service: str = ""
    files_are: FilesAre | None = None
    """What several files of one arm are, as the user set it; `None`: determined from their times."""
    start: datetime | None = None
    """Requests that began before this time do not land."""
    end: datetime | None = None
    """Requests that began at this time or later do not land."""
    step: str = ""
    """Step of a rollout that the runs belong to; empty: to none."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Arm → share of the requests that a router sent to it; empty: no router chose the arm."""


@dataclass(frozen=True, slots=True)
class FileTimes:
    """When the requests of one file were made."""

    file: FilePlan
    first_request: datetime
    last_request: datetime
    pause_s: float = 0.0
    """Longest time between two requests of the file, whole seconds."""

    @property
    def seconds(self) -> float:
        """Time from the first request to the last, s."""
        return (self.last_request - self.first_request).total_seconds()


@dataclass(frozen=True, slots=True)
class FileRuns:
    """Which files of an import belong to which run."""

    runs: tuple[tuple[FilePlan, ...], ...]
    """The files of each run, of all arms; run k is replicate k."""
    why: str = ""
    """How the runs were determined; empty where no arm has several files."""
    declared: FilesAre | None = None
    """What several files of one arm are, as the user set it."""
    overlapping: bool = False
    """Do files of one arm overlap in time although the user declared them to be replicates?"""
    doubts: tuple[str, ...] = ()
    """Sentences about what may be wrong."""


ArrangeFiles = Callable[[LandingPlan, Sequence[FileTimes]], FileRuns]
"""Determines from the times of files which of them belong to one run. Raises InputError if that is not clear."""


@dataclass(frozen=True, slots=True)
class Landed:
    """Result of a landing."""

    rows: int = 0
    segments: int = 0
    quarantined: tuple[str, ...] = ()
    """Names of segments that could not be read."""
    already: int = 0
    """Segments or files that had landed before, and did not change."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows that were read and did not land, by arm and kind."""
    runs: tuple[str, ...] = ()
    """Ids of the runs that hold the data, also if they had landed before."""
    parts: tuple[int, ...] = ()
    """Numbers of files that an arm has in a run: each number that occurs, the smallest first."""
    why: str = ""
    """How it was determined which files belong to which run."""
    doubts: tuple[str, ...] = ()
    """Sentences about what may be wrong."""

    def count(self, kind: LeftOutKind) -> int:
        """Rows of one kind that did not land, over all arms."""
        return sum(part.rows for part in self.left_out if part.kind is kind)


def counts_from_start(moment: datetime) -> bool:
    """Is this time counted from the start of a test, not from 1970? True before 1980."""
    return moment < _REAL_TIMES_SINCE


@dataclass(frozen=True, slots=True)
class ReleaseSummary:
    """A release in one line of a list."""

    release: Release
    groups: int = 0
    runs: int = 0
    rows: int = 0
    last_run: datetime | None = None
    running: int = 0
    """How many of its runs are being recorded."""
    running_since: datetime | None = None
    """When the first of these began."""
    running_until: datetime | None = None
    """When the last of these is planned to end; None: that is not planned."""
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
    """By whom, when and why the release was promoted against it; `None`: by no person."""

    @property
    def data_hash(self) -> str:
        """Hash of the data that it judged."""
        return str(json.loads(self.json)["data_hash"])
