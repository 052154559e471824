"""The steps in which times were recorded, and whether the load tool rounded them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from evaluator.health.base import RequestContext, fail, name_some, ok, warn
from evaluator.records import MICROSECONDS, Finding, Level
from evaluator.stats.estimators.resolution import find_log_doubt, steps_of
from evaluator.stats.shaping.groups import group_by
from evaluator.stats.shaping.panel import Panel
from evaluator.wording import describe_steps, find_finer_times, format_number

NAME = "resolution"
COARSE_SHARE = 0.05


def check_resolution(context: RequestContext) -> Iterable[Finding]:
    """Warn if a step of the recorded times of an arm is more than 5 % of the baseline's mean time.

    If the store's microseconds hide how an endpoint's geometric mean changed, which the endpoint scan compares, no GO
    is possible: the scan would find nothing.
    """
    by_text: dict[str, Finding] = {}  # several candidates may give the same text, which is shown once
    scan = context.rulebook.scan
    for arm, panel in context.panels.items():
        successes = float(panel.ok[0].sum())  # of the baseline
        mean_ms = float(panel.totals["time_ms"][0].sum()) / successes if successes else 0.0
        if mean_ms <= 0:
            continue
        steps_ms = steps_of(panel)  # of baseline and candidate
        units_per_ms, mixed_unit_ms = panel.units_per_ms, panel.mixed_unit_ms
        description = describe_steps(steps_ms, ("baseline", arm), units_per_ms, mixed_unit_ms=mixed_unit_ms)
        share = max(steps_ms) / mean_ms
        finding = ok(NAME, description)
        if share > COARSE_SHARE:
            if max(steps_ms) <= mixed_unit_ms:
                description += ": steps of 1 µs"
            text = f"{description}, {format_number(100 * share)} % of the baseline's mean time"
            finer = find_finer_times(max(steps_ms), units_per_ms, mixed_unit_ms=mixed_unit_ms)
            remedy = f"a latency margin narrower than a step is not decided: {finer}, or allow more than one step"
            finding = warn(NAME, text, remedy)
        hidden = _list_hidden_endpoints(panel, scan.margin) if scan.enabled else []
        if hidden:
            hides = _fail_hidden(hidden, panel, scan.margin)
            by_text[hides.text] = hides
        if not hidden or finding.level is not Level.OK:
            by_text[finding.text] = finding
    yield from by_text.values()


def _fail_hidden(endpoints: list[str], panel: Panel, margin: float) -> Finding:
    """Forbid a GO, because the geometric means of these endpoints may have changed by `margin`, that of the scan."""
    kept = "in whole microseconds"
    cure = "if the files have finer times, import them as another release; else time several calls together"
    if panel.mixed_unit_ms:
        kept += " in some of these runs"
        cure = find_finer_times(panel.mixed_unit_ms, panel.units_per_ms, mixed_unit_ms=panel.mixed_unit_ms)
    text = (
        f"the store keeps the times of {name_some(endpoints)} {kept}, too coarse for the shortest of them: rounding "
        f"may hide a change of their geometric mean by {format_number(100 * margin)} %, the margin of the endpoint scan"
    )
    return fail(NAME, text, f"more requests do not help: {cure}")


def _list_hidden_endpoints(panel: Panel, margin: float) -> list[str]:
    """List the endpoints whose geometric mean may differ by more than `margin` because the store keeps microseconds.

    Steps of the load tool or its file are left out: the store cannot make them finer. So are endpoints whose times are
    all 0, as of events that are no requests.
    """
    unit_ms = panel.mixed_unit_ms or 1 / panel.units_per_ms
    if unit_ms * MICROSECONDS < 1:
        return []
    doubt = find_log_doubt(panel, group_by(np.arange(len(panel.endpoints))))
    is_of_store = (panel.steps_ms <= unit_ms).any(axis=0)
    has_times = panel.totals["time_ms"].sum(axis=(0, 2)) > 0
    hidden = np.flatnonzero((doubt > np.log1p(margin)) & is_of_store & has_times)
    return [panel.endpoints[position] for position in hidden]
