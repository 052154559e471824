"""What a row of a table of metrics has to say in words, next to its numbers and its status."""

from __future__ import annotations

from evaluator.records import Comparison, Direction, MetricStatus
from evaluator.reports.base import is_watched
from evaluator.wording import format_margin, format_number


def explain_adjustment(row: Comparison) -> str:
    """Say that a metric is open although its interval lies beyond its margin, as it is decided with others.

    Empty for any other row.
    """
    effect, margin, p_value, adjusted = row.effect, row.rule.margin, row.p_value, row.p_value_adjusted
    if row.status is not MetricStatus.INCONCLUSIVE or row.unresolved or is_watched(row):
        return ""
    if effect is None or margin is None or p_value is None or adjusted is None or not adjusted > p_value:
        return ""
    least_harm = effect.lower if row.rule.direction is Direction.LOWER else -effect.upper
    if not least_harm > margin.value:
        return ""
    others = "endpoints" if row.scan else "gates"
    p_values = f"p {format_number(p_value)}, adjusted {format_number(min(adjusted, 1.0))}"
    allowed = format_margin(margin, row.unit)
    return f"beyond {allowed} by itself, but not after allowing for the other {others} ({p_values})"


def explain_row(row: Comparison) -> str:
    """Say what a row of the table of metrics does not show; empty if its numbers and its status say it all.

    That is why it has no result, or why its status is another one than its interval has by itself: a gate is decided
    together with the others, by its limits, or by how it develops.
    """
    effect, margin = row.effect, row.rule.margin
    if row.no_data or effect is None or is_watched(row):
        return row.no_data or ""
    if margin is None:
        return "" if row.status is MetricStatus.PASS else row.reason
    is_rise_harm = row.rule.direction is Direction.LOWER
    least_harm, most_harm = (effect.lower, effect.upper) if is_rise_harm else (-effect.upper, -effect.lower)
    is_beyond, is_within = least_harm > margin.value, most_harm < margin.value
    if (row.status is MetricStatus.FAIL and is_beyond) or (row.status is MetricStatus.PASS and is_within):
        return ""
    if row.status is not MetricStatus.INCONCLUSIVE:
        return row.reason
    if row.unresolved:
        return row.unresolved
    is_open_by_itself = not (is_beyond or is_within) and not row.rule.limit.count
    return "" if is_open_by_itself else explain_adjustment(row) or row.reason
