"""The figures of a judgement as Altair charts, drawn as in report and app."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from evaluator.errors import EvaluatorError, UnknownName, UsageError
from evaluator.extensions import explain_missing_package
from evaluator.figures import (
    Figure,
    color_arms,
    draw_distribution,
    draw_forest,
    draw_over_time,
    draw_shift,
    draw_timeline,
    draw_units,
    pick_decisive,
    put_below_each_other,
    rank_by_margin,
    with_finding,
)
from evaluator.records import BASELINE, Comparison, Verdict

if TYPE_CHECKING:
    from evaluator.figures.compose import Chart


PAGE, COLUMN = 1000, 640
"""Widths (px) of a figure across the page, and of one that reads better narrow."""
MOST_ENDPOINTS = 20


@dataclass(frozen=True, slots=True)
class Plots:
    """The figures of a judgement. Each call returns an Altair chart; its title states what it shows.

    The forest is drawn from the comparisons. All other figures need curves, which the first call computes from the
    cells that were judged. Raises EvaluatorError where altair is not installed.

    >>> found = release.compare()
    >>> found.plot.forest().title.text
    ['2 of 4 shown to be worse than allowed: p50 and p95; 2 of 4 not known yet: p99 and failures']
    >>> found.plot.units("latency_p50").title.text
    ['p50: all 3 instances of canary are above all of baseline: it is not a single one']
    >>> found.plot.timeline().save("timeline.html")  # or .svg, .png
    """

    verdict: Verdict = field(repr=False)
    trace: Callable[[], Mapping[str, Any]] = field(repr=False)

    def __post_init__(self) -> None:
        with explain_missing_package("plots need", "plots", EvaluatorError):
            import_module("altair")

    def forest(self, *, endpoints: bool = False, width: int = PAGE) -> Chart:
        """Every change against its margin, the worst first: the policy's metrics, or the `endpoints` of the scan.

        Raises UsageError where none has a margin and a change.
        """
        scanned = [row for row in self._rows if row.scan]
        rows = rank_by_margin(scanned)[:MOST_ENDPOINTS] if endpoints else pick_decisive(self._rows)
        several = len(self._candidates) > 1
        figure = draw_forest(rows, colors=self._colors, width=width, with_arms=several)
        if figure is None:
            raise UsageError(
                f"no {'endpoint' if endpoints else 'metric'} has both a change and a margin, which the forest shows"
            )
        return put_below_each_other([figure], self._colors) if several else with_finding(figure)

    def band(self, metric: str | None = None, *, arm: str | None = None, width: int = COLUMN) -> Chart:
        """The change of a metric after each look, with its interval, the margin, and the decision.

        Without a name: the metric that is furthest beyond its margin. Raises UnknownName, and UsageError for a metric
        without this line: one with the role watch, one of readings or outcomes, or one of several runs judged together.
        """
        row, curve = self._find("over_time", "line over time", metric, arm)
        return with_finding(draw_over_time(row, curve, color=self._colors[row.arm], width=width))

    def units(self, metric: str | None = None, *, arm: str | None = None, width: int = COLUMN) -> Chart:
        """A metric for each instance (for each run where there is one instance): is a single pod the cause?

        Without a name: the metric that is furthest beyond its margin. Raises as `band` does.
        """
        row, curve = self._find("units", "value by instance", metric, arm)
        return with_finding(draw_units(row, curve, colors=self._colors, width=width))

    def shift(self, arm: str | None = None, *, width: int = COLUMN) -> Chart:
        """The change of the response time at every quantile, for each candidate.

        Raises UnknownName, and UsageError where no requests were judged.
        """
        return self._draw_each("quantiles", draw_shift, arm, width)

    def distribution(self, arm: str | None = None, *, width: int = COLUMN) -> Chart:
        """The distribution functions of response times of baseline and candidate, for each candidate.

        Raises as `shift` does.
        """
        return self._draw_each("distributions", draw_distribution, arm, width)

    def timeline(self, *, width: int = PAGE) -> Chart:
        """Latency, failures, load and readings of every arm on one time axis.

        Raises UsageError where no requests were judged.
        """
        curves = self.trace()
        if not curves["timeline"]:
            raise self._nothing("timeline")
        figures = draw_timeline(curves["timeline"], curves["readings"], width=width)
        return put_below_each_other(figures, color_arms([arm["name"] for arm in curves["timeline"]["arms"]]))

    # -------------------------------------------------------------- what is drawn

    @property
    def _rows(self) -> Sequence[Comparison]:
        return self.verdict.evidence.comparisons

    @property
    def _candidates(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.arm for row in self._rows))

    @property
    def _colors(self) -> Mapping[str, str]:
        return color_arms([*(arm.name for arm in self.verdict.evidence.arms), *self._candidates])

    def _draw_each(self, key: str, draw: Callable[..., Figure], arm: str | None, width: int) -> Chart:
        """One figure a candidate, below each other."""
        self._check_arm(arm)
        curves = [curve for curve in self.trace()[key] if arm in (None, curve["arm"])]
        if not curves:
            raise self._nothing("distribution")
        figures = [draw(curve, color=self._colors[curve["arm"]], width=width) for curve in curves]
        shown = (BASELINE, *(curve["arm"] for curve in curves))
        return put_below_each_other(figures, {name: self._colors[name] for name in shown})

    def _find(self, key: str, what: str, metric: str | None, arm: str | None) -> tuple[Comparison, Mapping[str, Any]]:
        """The comparison of that name that has a curve of this kind, the worst where several have."""
        self._check_arm(arm)
        own = [row for row in self._rows if not row.scan and arm in (None, row.arm)]
        names = {row.rule.name for row in own}
        if metric is not None and metric not in names:
            raise UnknownName("metric", metric, names)
        traced = {(curve["name"], curve["arm"], curve["endpoint"]): curve[key] for curve in self.trace()["metrics"]}
        drawable = [row for row in own if metric in (None, row.rule.name) and traced.get(_key(row))]
        if not drawable:
            names_traced = dict.fromkeys(row.rule.name for row in own if traced.get(_key(row)))
            hint = f"there is one for {', '.join(names_traced)}" if names_traced else None
            raise UsageError(f"there is no {what} for {metric or 'any metric'}", hint=hint)
        row = (rank_by_margin(drawable) or drawable)[0]
        return row, traced[_key(row)]

    def _check_arm(self, arm: str | None) -> None:
        if arm is not None and arm not in self._candidates:
            raise UnknownName("candidate", arm, self._candidates)

    def _nothing(self, what: str) -> UsageError:
        return UsageError(f"there is no {what} of {self.verdict.release.id}: none of its requests were judged")


def _key(row: Comparison) -> tuple[str, str, str | None]:
    return row.rule.name, row.arm, row.rule.slice.endpoint
