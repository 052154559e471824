"""What a contributor might add: for each kind one file, and its line in one table with the import that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ADDITIONS", "Addition", "source"]


@dataclass(frozen=True)
class Addition:
    """A new file, and what is changed of one that is there: text → what takes its place."""

    path: str
    content: str
    table: str
    changes: dict[str, str]

    def make(self, tree: Path) -> None:
        """Add it to a copy of the project."""
        new, table = tree / self.path, tree / self.table
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
        "        check_resolution,\n    )": "        check_resolution,\n        check_weekend,\n    )",
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

from evaluator.hooks.base import BaseHook, HookContext, HookOptions, Outcome


class BellOptions(HookOptions):
    """Where the bell is."""

    room: str


class Bell(BaseHook[BellOptions]):
    """Rings it."""

    kind = "bell"
    Options = BellOptions

    def _describe(self) -> str:
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


def source(content: str) -> Addition:
    """The source that CONTRIBUTING.md shows, as one of ours."""
    return Addition(
        "evaluator/sources/files/gatling.py",
        content,
        "evaluator/sources/files/recognising.py",
        {'        "k6": ': '        "gatling": f"{_ROOM}.gatling:GATLING",\n        "k6": '},
    )


ADDITIONS = (METRIC, METHOD, CHECK, REPORT, HOOK, PAGE, COMMAND)
