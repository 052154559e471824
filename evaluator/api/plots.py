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
    color_judged_arms,
    draw_distribution,
    draw_forest,
    draw_over_time,
    draw_shift,
    draw_timeline,
    draw_units,
    draw_windows,
    pick_decisive,
    put_below_each_other,
    rank_by_margin,
    with_finding,
)
from evaluator.figures.base import is_drawn
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
        """Raise EvaluatorError, with the way to install it, if altair is missing."""
        with explain_missing_package("plots need", "plots", EvaluatorError):
            import_module("altair")

    def forest(self, *, endpoints: bool = False, width: int = PAGE) -> Chart:
        """Draw each change against its margin, the worst first: of the policy's metrics, or of the scanned `endpoints`.

        Raises UsageError if none has a margin and a change.
        """
        if endpoints:
            rows = rank_by_margin([comparison for comparison in self._comparisons if comparison.scan])[:MOST_ENDPOINTS]
        else:
            rows = pick_decisive(self._comparisons)
        has_several_candidates = len(self._candidates) > 1
        figure = draw_forest(rows, colors=self._colors, width=width, with_arms=has_several_candidates)
        if figure is None:
            raise UsageError(
                f"no {'endpoint' if endpoints else 'metric'} has both a change and a margin, which the forest shows"
            )
        # Several candidates need the legend of colours that `put_below_each_other` adds.
        return put_below_each_other([figure], self._colors) if has_several_candidates else with_finding(figure)

    def band(
        self, metric: str | None = None, *, arm: str | None = None, endpoint: str | None = None, width: int = COLUMN
    ) -> Chart:
        """Draw the change of a metric after each look, with its interval, the margin, and the decision.

        `metric`: by default the metric that is furthest beyond its margin. `endpoint`: one that the scan found to fail.
        Raises UnknownName, and UsageError for a metric without this line: with the role watch, of readings or outcomes,
        or of several runs judged together.
        """
        comparison, curve = self._find_curve("over_time", "line over time", metric, arm, endpoint)
        return with_finding(draw_over_time(comparison, curve, color=self._colors[comparison.arm], width=width))

    def windows(
        self, metric: str | None = None, *, arm: str | None = None, endpoint: str | None = None, width: int = COLUMN
    ) -> Chart:
        """Draw the change of a metric within each window of the run by itself: when did it begin?

        The arguments and errors are those of `band`; a run that is too short for windows is a UsageError as well.
        """
        comparison, curve = self._find_curve("windows", "change within windows", metric, arm, endpoint)
        return with_finding(draw_windows(comparison, curve, color=self._colors[comparison.arm], width=width))

    def units(
        self, metric: str | None = None, *, arm: str | None = None, endpoint: str | None = None, width: int = COLUMN
    ) -> Chart:
        """Draw a metric for each instance (for each run if there is one instance): is a single pod the cause?

        `metric`: by default the metric that is furthest beyond its margin. `endpoint`: one that the scan found to fail.
        Raises UnknownName, and UsageError for a metric without these values.
        """
        comparison, curve = self._find_curve("units", "value by instance", metric, arm, endpoint)
        return with_finding(draw_units(comparison, curve, colors=self._colors, width=width))

    def shift(self, arm: str | None = None, *, width: int = COLUMN) -> Chart:
        """Draw the change of the response time at every quantile, of one candidate (`arm`) or of each.

        Raises UnknownName for an unknown candidate, and UsageError if no requests were judged.
        """
        return self._draw_each("quantiles", draw_shift, arm, width)

    def distribution(self, arm: str | None = None, *, width: int = COLUMN) -> Chart:
        """Draw the distribution functions of response times of the baseline and of one candidate (`arm`) or each.

        Raises UnknownName for an unknown candidate, and UsageError if no requests were judged.
        """
        return self._draw_each("distributions", draw_distribution, arm, width)

    def timeline(self, *, width: int = PAGE) -> Chart:
        """Draw latency, failures, load and readings of every arm on one time axis.

        Raises UsageError if no requests were judged.
        """
        curves = self.trace()
        if not curves["timeline"]:
            raise self._explain_missing("timeline")
        figures = draw_timeline(curves["timeline"], curves["readings"], colors=self._colors, width=width)
        return put_below_each_other(figures, self._colors)

    # -------------------------------------------------------------- what is drawn

    @property
    def _comparisons(self) -> Sequence[Comparison]:
        return self.verdict.evidence.comparisons

    @property
    def _candidates(self) -> tuple[str, ...]:
        """Names of the arms that were compared with the baseline."""
        return tuple(dict.fromkeys(comparison.arm for comparison in self._comparisons))

    @property
    def _colors(self) -> Mapping[str, str]:
        """Colour of each arm, by name."""
        return color_judged_arms(self.verdict.evidence)

    def _draw_each(self, key: str, draw: Callable[..., Figure], arm: str | None, width: int) -> Chart:
        """Draw a figure for `arm`, or for each candidate (`None`), below each other.

        `key`: the part of the traced data with a curve for each candidate. `draw`: the function that draws one curve.
        """
        self._check_arm(arm)
        curves = [curve for curve in self.trace()[key] if arm in (None, curve["arm"])]
        if not curves:
            raise self._explain_missing("distribution")
        figures = [draw(curve, color=self._colors[curve["arm"]], width=width) for curve in curves]
        shown_arms = (BASELINE, *(curve["arm"] for curve in curves))
        return put_below_each_other(figures, {name: self._colors[name] for name in shown_arms})

    def _find_curve(
        self, key: str, label: str, metric: str | None, arm: str | None, endpoint: str | None = None
    ) -> tuple[Comparison, Mapping[str, Any]]:
        """Find the comparison, of those with a curve of the kind `key`, that is worst by its margin; and this curve.

        `metric` and `arm` limit the choice; `None`: any. `endpoint`: that of a comparison; `None`: not of the scan.
        `label` names the kind of curve in the message of UsageError, which is raised if there is none. Raises
        UnknownName for an unknown metric or arm.
        """
        self._check_arm(arm)
        of_policy = [
            comparison
            for comparison in self._comparisons
            if (not comparison.scan if endpoint is None else comparison.rule.slice.endpoint == endpoint)
            and arm in (None, comparison.arm)
            and is_drawn(comparison, self.trace())
        ]
        names = {comparison.rule.name for comparison in of_policy}
        if metric is not None and metric not in names:
            raise UnknownName("metric", metric, names)
        curves = {(curve["name"], curve["arm"], curve["endpoint"]): curve.get(key) for curve in self.trace()["metrics"]}
        with_curve = [comparison for comparison in of_policy if curves.get(_identify(comparison))]
        drawable = [comparison for comparison in with_curve if metric in (None, comparison.rule.name)]
        if not drawable:
            other_names = dict.fromkeys(comparison.rule.name for comparison in with_curve)
            hint = f"there is one for {', '.join(other_names)}" if other_names else None
            raise UsageError(f"there is no {label} for {metric or 'any metric'}", hint=hint)
        # Without any margin there is no order by it: then the first is taken.
        chosen = (rank_by_margin(drawable) or drawable)[0]
        return chosen, curves[_identify(chosen)]

    def _check_arm(self, arm: str | None) -> None:
        """Raise UnknownName if `arm` is no candidate; `None`, any candidate, is allowed."""
        if arm is not None and arm not in self._candidates:
            raise UnknownName("candidate", arm, self._candidates)

    def _explain_missing(self, what: str) -> UsageError:
        """Make the error for a figure (`what`) that needs requests, of which none were judged."""
        return UsageError(f"there is no {what} of {self.verdict.release.id}: none of its requests were judged")


def _identify(comparison: Comparison) -> tuple[str, str, str | None]:
    """Return name, arm and endpoint (`None`: all) of a comparison, by which its curves are found."""
    return comparison.rule.name, comparison.arm, comparison.rule.slice.endpoint
