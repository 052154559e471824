"""What a contributor might add: for each kind one file, and its line in one table with the import that it needs.

A strategy has no file: it is a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ACCESS_LOG", "ADDITIONS", "Addition", "source"]


@dataclass(frozen=True)
class Addition:
    """A new file (none where `path` is empty), and changes of an existing one: text → its replacement."""

    path: str
    content: str
    table: str
    changes: dict[str, str]

    def make(self, tree: Path) -> None:
        """Add it to a copy of the project."""
        table = tree / self.table
        if self.path:
            new = tree / self.path
            assert not new.exists()
            new.write_text(self.content, encoding="utf-8")
        text = table.read_text(encoding="utf-8")
        for before, after in self.changes.items():
            assert text.count(before) == 1, f"{self.table}: {before}"
            text = text.replace(before, after)
        table.write_text(text, encoding="utf-8")


METRIC = Addition(
    "evaluator/metrics/goodput.py",
    '''"""Successful requests over some seconds."""

from dataclasses import replace
from typing import ClassVar

from pydantic import Field, field_validator

from evaluator.metrics.base import Pair, RequestMetric, answer, check_enough
from evaluator.records import Comparison, Direction, Rule
from evaluator.stats.estimators.rates import compare_rates


class Goodput(RequestMetric):
    """Successes over some seconds, compared as a ratio."""

    type: ClassVar[str] = "goodput"
    direction: ClassVar[Direction] = Direction.HIGHER

    seconds: int = Field(description="Seconds over which they are counted.", examples=[60])

    @field_validator("seconds")
    @classmethod
    def _at_most_an_hour(cls, value: int) -> int:
        if not 0 < value <= 3600:
            raise ValueError(f"must be from 1 to 3600, not {value}")
        return value

    @property
    def value_unit(self) -> str:
        """`ok/60 s`."""
        return f"ok/{self.seconds} s"

    @property
    def note(self) -> str:
        """Over how many seconds."""
        return f" (over {self.seconds} s)"

    def compare(self, pair: Pair, rule: Rule) -> Comparison:
        """Answer its rule."""
        why = check_enough(pair, successes=True)
        if why:
            return pair.no_data(rule, why)
        estimate = compare_rates(
            pair.panel.ok.sum(axis=1),
            pair.panel,
            alpha=pair.alpha,
            margin=rule.margin,
            limit=rule.limit,
            sign=-1.0,
        )
        counted = replace(
            estimate, baseline=estimate.baseline * self.seconds, candidate=estimate.candidate * self.seconds
        )
        return answer(pair, rule, counted, method="paired rate", n=(pair.successes(0), pair.successes(1)))
''',
    "evaluator/metrics/__init__.py",
    {
        '        "throughput": ': '        "goodput": f"{_PACKAGE}.goodput:Goodput",\n        "throughput": ',
    },
)

SLOW = Addition(
    "evaluator/metrics/slow.py",
    '''"""Share of requests that took longer than some time."""

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from evaluator.metrics.base import EndpointMetric, Pair, UnitTotals
from evaluator.records import Rule
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.distribution import count_done, count_done_by_row
from evaluator.stats.estimators.estimate import Estimate


class Slow(EndpointMetric):
    """Requests, or successes, beyond a time, compared as failures are."""

    type: ClassVar[str] = "slow"
    amounts: ClassVar[Literal["share"]] = "share"
    value_unit: ClassVar[str] = "fraction"
    method: ClassVar[str] = "score test"

    beyond_ms: float = Field(gt=0, description="The time.", examples=[250])
    of: Literal["all", "ok"] = Field("all", description="all: a failure is slow. ok: only successes are counted.")

    def name(self, chosen: str) -> str:
        """`slow`."""
        return "slow"

    @property
    def note(self) -> str:
        """Beyond which time, and of which requests."""
        return f" (beyond {self.beyond_ms:g} ms, of {self.of})"

    @property
    def of_successes(self) -> bool:
        """Does it read successful requests only?"""
        return self.of == "ok"

    def estimate(self, pair: Pair, rule: Rule) -> Estimate:
        """Those beyond the time of all."""
        panel, rows, at = pair.panel, pair.panel.rows, np.array([self.beyond_ms])
        of_rows = rows.n - rows.failures if self.of_successes else rows.n
        rows = replace(rows, n=of_rows, failures=of_rows - count_done_by_row(panel, at)[0])
        of = self.counted(panel)
        return replace(
            pair, panel=replace(panel, n=of, failures=of - count_done(panel, at)[0], rows=rows)
        ).compare_failures(rule)

    def of_units(self, units: UnitTotals) -> FloatArray:
        """The same of each."""
        of = units.n - units.failures if self.of_successes else units.n
        return 1 - units.done(self.beyond_ms) / of
''',
    "evaluator/metrics/__init__.py",
    {'        "outcome_mean": ': '        "slow": f"{_PACKAGE}.slow:Slow",\n        "outcome_mean": '},
)

READING = Addition(
    "evaluator/metrics/gauge_above.py",
    '''"""Share of a gauge's samples above a level."""

from typing import ClassVar, Literal

from pydantic import Field

from evaluator.metrics.base import answer
from evaluator.metrics.reading_base import QueryMetric, ReadingPair
from evaluator.records import Comparison, QueryKind, Rule
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.shaping.reading_panels import VALUE, Contribution, ReadingView, build_panel


class GaugeAbove(QueryMetric):
    """Samples above a level count as failures."""

    type: ClassVar[str] = "gauge_above"
    kind: ClassVar[QueryKind] = QueryKind.GAUGE
    amounts: ClassVar[Literal["share"]] = "share"
    value_unit: ClassVar[str] = "fraction"

    above: float = Field(description="The level.", examples=[95])

    def build(self, view: ReadingView, arm: str, endpoint: str | None) -> Panel | None:
        """Build the panel of samples, of which those above the level fail."""
        rows = view.find(self.queries[0], VALUE, endpoint)
        n = view.readings.n[rows].astype(float)
        above = n * (view.readings.total[rows] > self.above * n)
        return build_panel(view, arm, Contribution(rows, n), failures=Contribution(rows, above), of_instance=True)

    def answer(self, pair: ReadingPair, rule: Rule, panel: Panel) -> Comparison:
        """Answer a rule."""
        request_pair = pair.as_request_pair(panel)
        estimate = request_pair.compare_failures(rule)
        return answer(request_pair, rule, estimate, method=f"score test, {request_pair.design.kind}")
''',
    "evaluator/metrics/__init__.py",
    {'        "gauge_max": ': '        "gauge_above": f"{_PACKAGE}.gauge_above:GaugeAbove",\n        "gauge_max": '},
)

METHOD = Addition(
    "evaluator/stats/estimators/capped.py",
    '''"""Means of buckets that are cut at their 90th percentile (winsorised, Tukey 1962)."""

from dataclasses import replace

import numpy as np

from evaluator.stats.estimators.estimate import Estimate
from evaluator.stats.estimators.means import compare_means
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.uncertainty import Design


def compare_capped(panel: Panel, design: Design, **asked: object) -> Estimate:
    """Compare mean response times (ms) of which no bucket counts with more than the 90th percentile of all."""
    means = panel.totals["time_ms"] / np.maximum(panel.ok, 1)
    capped = np.minimum(means, np.quantile(means[panel.ok > 0], 0.9)) * panel.ok
    return compare_means(replace(panel, totals={**panel.totals, "time_ms": capped}), design, **asked)
''',
    "evaluator/metrics/latency.py",
    {
        "from evaluator.stats.estimators.estimate import": (
            "from evaluator.stats.estimators.capped import compare_capped\n"
            "from evaluator.stats.estimators.estimate import"
        ),
        "        return pair.compare_means(rule)\n": """\
        return compare_capped(
            pair.panel,
            pair.design,
            alpha=pair.alpha,
            margin=rule.margin,
            sd_instance=pair.prior.sd_latency,
            limit=rule.limit,
            groups=pair.groups,
            depth=pair.depth,
            tolerance=pair.tolerance,
        )
""",
    },
)

CHECK = Addition(
    "evaluator/health/weekend.py",
    '''"""Whether a release was judged on days on which few people are there."""

from collections.abc import Iterable

from evaluator.health.base import RequestContext, ok, warn
from evaluator.records import Finding


def check_weekend(context: RequestContext) -> Iterable[Finding]:
    """Warns where a run began on a weekend."""
    days = {run.started.weekday() for run in context.runs if run.started}
    yield warn("weekend", "judged on a weekend") if days & {5, 6} else ok("weekend", "judged on working days")
''',
    "evaluator/health/__init__.py",
    {
        "from evaluator.health.warm_up import": "from evaluator.health.weekend import check_weekend\n"
        "from evaluator.health.warm_up import",
        "        check_pacing,\n": "        check_pacing,\n        check_weekend,\n",  # only a load has this check
    },
)

REPORT = Addition(
    "evaluator/reports/lines.py",
    '''"""One line for each metric, for programs that read lines."""

from evaluator.records import Verdict
from evaluator.reports.base import Page


def render(verdict: Verdict, page: Page) -> str:
    """Name and status, with a tab between them."""
    del page
    return "\\n".join(f"{row.rule.name}\\t{row.status.value}" for row in verdict.evidence.comparisons)
''',
    "evaluator/reports/__init__.py",
    {
        '        "markdown": ': '        "lines": f"{__name__}.lines:render",\n        "markdown": ',
    },
)

HOOK = Addition(
    "evaluator/hooks/bell.py",
    '''"""Rings a bell."""

from collections.abc import Mapping

from evaluator.hooks.base import BaseHook, HookContext, HookOptions, Outcome


class BellOptions(HookOptions):
    """Where the bell is."""

    room: str


class Bell(BaseHook[BellOptions]):
    """Rings it."""

    kind = "bell"
    Options = BellOptions

    def _describe(self, words: Mapping[str, str]) -> str:
        return f"rings the bell in {self.options.room}"

    def _execute(self, context: HookContext) -> Outcome:
        return Outcome("acknowledged", f"rang for {context.release}")
''',
    "pyproject.toml",
    {
        '[project.entry-points."evaluator.hooks"]\n': '[project.entry-points."evaluator.hooks"]\n'
        'bell = "evaluator.hooks.bell:Bell"\n'
    },
)

PAGE = Addition(
    "evaluator/ui/hello.py",
    '''"""Hello: that the app is there."""

import streamlit as st


def show_hello() -> None:
    """The page."""
    st.title("Hello")
''',
    "evaluator/ui/__init__.py",
    {
        "from evaluator.ui.plan import": "from evaluator.ui.hello import show_hello\nfrom evaluator.ui.plan import",
        '    (guarded(show_plan), {"title"': '    (guarded(show_hello), {"title": "Hello", "url_path": "hello"}),\n'
        '    (guarded(show_plan), {"title"',
    },
)

COMMAND = Addition(
    "evaluator/cli/hello.py",
    '''"""`evaluator hello`."""

import click

from evaluator.cli import Session, emit


@click.command("hello")
@click.pass_obj
def command(session: Session) -> int:
    """Say which store is meant."""
    emit(f"hello {session.store_path}")
    return 0
''',
    "evaluator/cli/__init__.py",
    {'    "init": (': '    "hello": ("evaluator.cli.hello", "Say which store is meant."),\n    "init": ('},
)

STRATEGY = Addition(
    "",
    "",
    "evaluator/planning/strategies.py",
    {'    "ab_test": Strategy(': '    "dark": Strategy("dark launch", (Stage(0.0, 0.1),)),\n    "ab_test": Strategy('},
)


def source(content: str) -> Addition:
    """The source that CONTRIBUTING.md shows, as one of ours."""
    return Addition(
        "evaluator/sources/files/tsung.py",
        content,
        "evaluator/sources/files/recognising.py",
        {'        "k6": ': '        "tsung": f"{_PACKAGE}.tsung:TSUNG",\n        "k6": '},
    )


ADDITIONS = (METRIC, SLOW, READING, METHOD, CHECK, REPORT, HOOK, PAGE, COMMAND, STRATEGY)


ACCESS_LOG = '''"""Access logs whose lines end with the seconds that a request took: files that ours refuse."""

import re
from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.records import ColumnMap
from evaluator.sources.files import FileFormat, Table, build_layout

LINE = re.compile(
    r'\\S+ \\S+ \\S+ \\[(?P<ended>[^]]+)\\] '
    r'"(?P<request>[A-Z]+ \\S+) [^"]*" (?P<status>\\d+) \\d+ (?P<s>[\\d.]+)$'
)
COLUMNS = ("line", "ended", "request", "status", "ms")


def rewrite(log, parquet):
    """Write every line as a row; one that is none of a log has nothing else, and so is a bad row."""
    rows = []
    with log.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            found = LINE.match(line.rstrip())
            row = dict.fromkeys(COLUMNS) | {"line": str(number)}
            if found:
                ended = datetime.strptime(found["ended"], "%d/%b/%Y:%H:%M:%S %z").timestamp()
                took_ms = 1000 * float(found["s"])
                row |= {"ended": str(ended), "request": found["request"], "status": found["status"], "ms": str(took_ms)}
            rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in COLUMNS])), parquet)


def build_access_layout(head, column_requests):
    columns = (
        ColumnMap("ts", ("ended",), "instant", "s"),
        ColumnMap("endpoint", ("request",), "text"),
        ColumnMap("response_time_ms", ("ms",), "number", "ms"),
        ColumnMap("failed", ("status",), "status"),
    )
    layout = build_layout("access-log", Table(head.path, COLUMNS, {}), columns, column_requests)
    return replace(layout, reader="parquet", rewrite=rewrite, line_column="line")


ACCESS = FileFormat(build_access_layout, claims=lambda head: LINE.match(head.top.partition("\\n")[0]) is not None)
'''
"""A source of another package: of files that are refused where nobody reads them."""
