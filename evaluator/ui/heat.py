"""Releases by metrics: a row per release, a cell per metric with its mark and its change."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from evaluator.records import Comparison
from evaluator.records.life import Life, LifeState
from evaluator.reports.base import mark_status
from evaluator.reports.overview import HeatMap, HeatRow
from evaluator.ui.pieces import clean, find_status_class, link, mark_up_state, mark_up_verdict, write_address
from evaluator.wording import format_change, name_metric

LEGEND = Markup(
    '<p class="ev-legend"><span>✓ within what is allowed</span><span>✗ shown to be worse</span>'
    "<span>? not known yet</span><span>∅ no data</span><span>· shown only</span></p>"
)


def make_heat_map(heat: HeatMap, lives: Mapping[str, Life], caption: str) -> Markup:
    """Make a table with a row per release: its verdict and state, its endpoints, and the status of each metric.

    `lives`: by release. `caption`: what screen readers call the table. On a phone each row is a block, which repeats
    the names of the columns.
    """
    has_endpoints = any(row.endpoints is not None for row in heat.rows)
    names = ("release", "verdict", *(["endpoints"] if has_endpoints else []), *heat.metrics)
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(clean(name)) for name in names)
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th><td data-of="verdict">{}{}</td>{}{}</tr>').format(
            link("release", text=row.verdict.release.id, release=row.verdict.release.id),
            mark_up_verdict(row.verdict.word),
            _make_state(lives.get(row.verdict.release.id)),
            _make_endpoint_cell(row) if has_endpoints else "",
            Markup("").join(
                _make_cell(row, name, comparison)
                for name, comparison in zip(heat.metrics, row.comparisons, strict=True)
            ),
        )
        for row in heat.rows
    )
    return Markup(
        '<div class="ev-scroll ev-rows ev-heat" tabindex="0" role="region" aria-label="{}">'
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(clean(caption), head, body)


def _make_state(life: Life | None) -> Markup:
    """Write what was done with a release below its verdict; nothing if it was only judged."""
    if life is None or life.state in (LifeState.NOT_JUDGED, LifeState.JUDGED):
        return Markup("")
    return Markup('<span class="reason">{}</span>').format(mark_up_state(life))


def name_arm(row: HeatRow, comparison: Comparison) -> str:
    """Name the candidate that a cell is about, if the verdict is about several, `canary_b: `; else it is empty."""
    return f"{comparison.arm}: " if row.is_of_several else ""


def _make_cell(row: HeatRow, name: str, comparison: Comparison | None) -> Markup:
    """Make a cell with the mark and the change of a metric, a link to its figures; a dash if it was not compared.

    Of several candidates it names the one that it is about.
    """
    if comparison is None:
        return Markup('<td class="muted missing" data-of="{}"><span aria-label="not measured">–</span></td>').format(
            clean(name)
        )
    release_id, arm = row.verdict.release.id, name_arm(row, comparison)
    change = format_change(comparison) if comparison.effect else "no data"
    label = f"{release_id}, {name_metric(comparison.rule)}: {arm}{comparison.status.value.replace('_', ' ')}, {change}"
    return Markup(
        '<td class="{}" data-of="{}"><a href="{}" target="_self" aria-label="{}">{}<small>{}{}</small></a></td>'
    ).format(
        find_status_class(comparison),
        clean(name),
        write_address("release", at="metric", release=release_id, metric=comparison.rule.name, arm=comparison.arm),
        clean(label),
        mark_status(comparison, watched_mark="·").split(" ")[0],  # without its word
        Markup("<span>{}</span> ").format(clean(arm.strip())) if arm else "",
        change.replace(" ", "\N{NO-BREAK SPACE}"),
    )


def _make_endpoint_cell(row: HeatRow) -> Markup:
    """Make a cell that counts the endpoints that are worse, a link to the endpoints; a dash if none was compared."""
    if row.endpoints is None:
        return Markup('<td class="muted missing" data-of="endpoints"><span aria-label="not compared">–</span></td>')
    failed, compared = row.endpoints.failed, row.endpoints.compared
    release_id = row.verdict.release.id
    mark, counts = ("✗", f"{failed} of {compared:,}") if failed else ("·", f"0 of {compared:,}")
    label = f"{release_id}, endpoints shown to be worse: {failed} of {compared}"
    if row.is_of_several:
        counts, label = f"{counts}, any arm", f"{label}, on any candidate"
    return Markup(
        '<td class="{}" data-of="endpoints"><a href="{}" target="_self" aria-label="{}">{}<small>{}</small></a></td>'
    ).format(
        "fail" if failed else "watch",
        write_address("release", at="endpoints", release=release_id),
        clean(label),
        mark,
        counts.replace(" ", "\N{NO-BREAK SPACE}"),
    )
