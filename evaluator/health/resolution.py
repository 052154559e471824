"""The steps in which times were recorded, and whether the load tool rounded them."""

from __future__ import annotations

from collections.abc import Iterable

from evaluator.health.base import RequestContext, ok, warn
from evaluator.records import Finding
from evaluator.stats.estimators.resolution import steps_of
from evaluator.wording import describe_steps, find_finer_times, format_number

NAME = "resolution"
COARSE_SHARE = 0.05


def check_resolution(context: RequestContext) -> Iterable[Finding]:
    """Warn if a step of the recorded times of an arm is more than 5 % of the baseline's mean time."""
    by_text: dict[str, Finding] = {}  # several candidates may give the same text, which is shown once
    for arm, panel in context.panels.items():
        successes = float(panel.ok[0].sum())  # of the baseline
        mean_ms = float(panel.totals["time_ms"][0].sum()) / successes if successes else 0.0
        if mean_ms <= 0:
            continue
        steps_ms = steps_of(panel)  # of baseline and candidate
        description = describe_steps(steps_ms, ("baseline", arm), panel.units_per_ms)
        share = max(steps_ms) / mean_ms
        finding = ok(NAME, description)
        if share > COARSE_SHARE:
            text = f"{description}, {format_number(100 * share)} % of the baseline's mean time"
            finer = find_finer_times(max(steps_ms), panel.units_per_ms)
            remedy = f"a latency margin narrower than a step is not decided: {finer}, or allow more than one step"
            finding = warn(NAME, text, remedy)
        by_text[finding.text] = finding
    yield from by_text.values()
