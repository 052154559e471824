"""The table of metrics: each with its change against what is allowed, all intervals on one axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from evaluator.figures.base import is_worse_upwards, join_words, name_row
from evaluator.figures.forest import MarginUse, find_axis, find_margin_use
from evaluator.records import Comparison, FailureCount, MetricStatus, Verdict
from evaluator.reports.base import format_allowed, format_both, format_effect, name_role
from evaluator.reports.failures import describe_kinds
from evaluator.reports.metric_rows import explain_row
from evaluator.reports.overview import count_metrics, group_metrics
from evaluator.ui.pieces import clean, keep_units, link, mark_up_status, to_css_color
from evaluator.wording import clip_interval, count_of, name_comparison, name_metric

MIN_LINE = 5.0
"""Length of the line before an arrow, percent of the width, if the whole interval lies beyond the axis."""
LAST_NAME, MIDDLE = 75.0, 55.0
"""Places on the axis, percent of the width: the last one to whose right a name fits, and about the middle."""
MOST_NAMES = 6
"""Metrics that the title of a folded part names."""
COLUMNS = ("status", "metric", "change", "allowed", "baseline", "candidate", "role")
"""All columns but that of the intervals, which has the marks of its axis as its head."""

SIDES = ("baseline", "candidate")
"""The columns of the two values that are compared."""


def make_metrics_table(
    comparisons: Sequence[Comparison],
    release_id: str,
    colors: Mapping[str, str],
    *,
    with_arms: bool = False,
    caption: str = "metrics",
    axis: tuple[float, float] | None = None,
    failures: Sequence[FailureCount] | None = None,
    sides: tuple[str, str] = SIDES,
) -> Markup:
    """Make a table of comparisons, in the given order: status, change, and its interval against what is allowed.

    Each name is a link to the figures of the metric and endpoint. A sentence below it says only what the other columns
    do not. `colors`: those of the arms, by name. `with_arms` adds the arm to the names. `axis`: ends of the axis, as of
    `find_common_axis`; `None`: that of these comparisons. `failures`: their kinds are written below a name.
    `sides`: what is compared, if it is not the baseline and a candidate.
    """
    axis = axis or find_common_axis(comparisons)
    rows = Markup("").join(
        _make_row(
            comparison,
            release_id,
            to_css_color(colors[comparison.arm]),
            axis,
            describe_kinds(comparison, failures),
            sides,
            with_arm=with_arms,
        )
        for comparison in comparisons
    )
    named = dict(zip(SIDES, map(clean, sides), strict=True))
    heads = {
        column: Markup('<th scope="col" role="columnheader">{}</th>').format(named.get(column, column))
        for column in COLUMNS
    }
    heads["change"] += Markup('<th scope="col" role="columnheader">{}</th>').format(_draw_axis(axis))
    return Markup(
        '<div class="ev-metrics" role="region" aria-label="{}"><table role="table">'
        '<thead role="rowgroup"><tr role="row">{}</tr></thead><tbody role="rowgroup">{}</tbody></table></div>'
    ).format(caption, Markup("").join(heads.values()), rows)


def _make_row(
    comparison: Comparison,
    release_id: str,
    color: str,
    axis: tuple[float, float],
    kinds: str,
    sides: tuple[str, str],
    *,
    with_arm: bool,
) -> Markup:
    """Make the row of a comparison; `kinds`: of its failures. See `make_metrics_table`."""
    chosen: dict[str, str | None]
    if comparison.scan:
        heading, chosen = "closer", {"endpoint": clean(comparison.rule.slice.endpoint)}
    else:
        # Where sides are compared, the arm has the name of its side, which is none of the release.
        arm = comparison.arm if sides == SIDES else None
        heading, chosen = "metric", {"metric": comparison.rule.name, "arm": arm}
    name = link("release", text=name_row(comparison, with_arm=with_arm), at=heading, release=release_id, **chosen)
    notes = filter(None, (explain_row(comparison), kinds))
    note_html = Markup("").join(Markup('<span class="reason">{}</span>').format(clean(note)) for note in notes)
    cells: dict[str, object] = {
        "change": format_effect(comparison),
        "against what is allowed": draw_interval(comparison, color, axis),
        "allowed": keep_units(format_allowed(comparison)),
        **dict(zip(("baseline", "candidate"), format_both(comparison), strict=True)),
        "role": name_role(comparison),
    }
    named = dict(zip(SIDES, map(clean, sides), strict=True))  # what a narrow page writes before each value
    return Markup(
        '<tr role="row"><td role="cell" data-of="status">{}</td><th role="rowheader" scope="row">{}{}</th>{}</tr>'
    ).format(
        mark_up_status(comparison),
        name,
        note_html,
        Markup("").join(
            Markup('<td role="cell" data-of="{}" data-name="{}">{}</td>').format(
                column, named.get(column, column), value
            )
            for column, value in cells.items()
        ),
    )


def find_common_axis(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """Find the ends of the axis, in margins of harm, on which all intervals of these comparisons are drawn."""
    return find_axis(use for comparison in comparisons if (use := _measure(comparison)) is not None)


def _measure(comparison: Comparison) -> MarginUse | None:
    """Measure harm in margins. With a margin of 0 the farthest end of the interval counts as one margin.

    `None` if there is nothing to draw: no estimate, or no margin.
    """
    use, effect, margin = find_margin_use(comparison), comparison.effect, comparison.rule.margin
    if use is not None or effect is None or margin is None or margin.value > 0 or math.isnan(effect.estimate):
        return use
    sign = 1 if is_worse_upwards(comparison) else -1
    ends = sorted(sign * end for end in (effect.lower, effect.upper) if not math.isnan(end))
    unit = max((abs(value) for value in (effect.estimate, *ends) if math.isfinite(value)), default=0.0)
    if not unit or not ends:
        return None
    return MarginUse(sign * effect.estimate / unit, ends[0] / unit, ends[-1] / unit)


def _place(harm: float, axis: tuple[float, float]) -> float:
    """Place harm (in margins) on the axis, in percent of its width; what lies beyond it is at 0 or 100."""
    low, high = axis
    return 100 * (min(max(harm, low), high) - low) / (high - low)


def _draw_axis(axis: tuple[float, float]) -> Markup:
    """Draw the marks of the axis: no change, the direction of harm, and above them the end of what is allowed.

    No name covers another or leaves the column: what is allowed begins at its mark, or ends there if that is near the
    right end, and the direction of harm is named where no change is not.
    """
    zero, edge = _place(0.0, axis), _place(1.0, axis)
    allowed = f"right:{100 - edge:.2f}%" if edge > LAST_NAME else f"left:{edge:.2f}%"
    return Markup(
        '<span class="ev-axis"><span class="allowed" style="{}">allowed</span><span class="none" style="left:{}%">0'
        '</span><span class="worse" style="{}:0">worse →</span></span>'
    ).format(allowed, f"{zero:.2f}", "left" if zero > MIDDLE else "right")


def draw_interval(comparison: Comparison, color: str, axis: tuple[float, float]) -> Markup:
    """Draw a change with its interval on an axis of harm in margins, whose ends `axis` has: right is worse.

    The shaded part is what is allowed, the dashed line its harmful edge. What lies beyond the axis is drawn at its end,
    with an arrow if it is an interval; an end of a rate's interval that is clipped at 0 % or 100 % is a bar. Empty if
    there is nothing to draw: no estimate, or no margin.
    """
    use, effect = _measure(comparison), comparison.effect
    if use is None or effect is None:
        return Markup("")
    low, high = axis

    def draw_part(css_class: str, left: float, width: float | None = None) -> Markup:
        """Draw a part from `left`, both in percent of the width; `None`: its style sets the width."""
        width_style = "" if width is None else f";width:{width:.2f}%"
        return Markup('<i class="{}" style="left:{}{}"></i>').format(css_class, f"{left:.2f}%", width_style)

    has_margin = comparison.rule.margin is not None and comparison.rule.margin.value > 0
    edge = 1.0 if has_margin else 0.0
    band_start, band_end = _place(-edge, axis), _place(edge, axis)
    # An interval beyond the axis still has a short line, on which its arrow stands.
    line_start, line_end = min(_place(use.lower, axis), 100 - MIN_LINE), max(_place(use.upper, axis), MIN_LINE)
    parts = [
        draw_part("band", band_start, band_end - band_start),
        draw_part("zero", _place(0.0, axis)),
        draw_part("edge", _place(edge, axis)),
        draw_part("whisker", line_start, line_end - line_start),
        draw_part("dot", _place(use.estimate, axis)),
    ]
    parts += [Markup('<i class="more"></i>')] if use.upper > high else []
    parts += [Markup('<i class="less"></i>')] if use.lower < low else []
    shown_ends = clip_interval(comparison)
    clipped = (shown_ends[0] > effect.lower, shown_ends[1] < effect.upper)
    if not is_worse_upwards(comparison):
        clipped = clipped[::-1]
    parts += [draw_part("clip", _place(use.lower, axis))] if clipped[0] and use.lower >= low else []
    parts += [draw_part("clip", _place(use.upper, axis))] if clipped[1] and use.upper <= high else []
    label = f"{name_metric(comparison.rule)} {format_effect(comparison)}, {format_allowed(comparison)} allowed"
    return Markup('<div class="ev-interval" role="img" aria-label="{}" style="{}">{}</div>').format(
        clean(label), f"--canary:{color}", Markup("").join(parts)
    )


# ------------------------------------------------------------------ all metrics of a verdict


def make_verdict_table(verdict: Verdict, colors: Mapping[str, str]) -> Markup:
    """Make the tables of a verdict: what decides it first, endpoints of the scan included; the rest is folded.

    With a GO for one of several candidates, the rows are the chosen one's, and each other candidate is folded. All
    intervals have one axis. `colors`: those of the arms, by name.
    """
    rows = verdict.evidence.comparisons
    arms = list(dict.fromkeys(row.arm for row in rows))
    doubtful = {(reason.arm or "", reason.slice) for reason in verdict.reasons if reason.code == "endpoint_worse"}
    chosen = next((reason.arm for reason in verdict.reasons if reason.code == "best_arm"), None)
    by_arm = {arm: group_metrics([row for row in rows if row.arm == arm], doubtful) for arm in arms}
    groups = by_arm[chosen] if chosen in by_arm else group_metrics(rows, doubtful)
    others = [arm for arm in arms if arm != chosen] if chosen in by_arm else []
    shown = [
        row
        for group in (groups, *(by_arm[arm] for arm in others))
        for row in (*group.deciding, *group.passing, *group.watched)
    ]
    axis, with_arms = find_common_axis(shown), len(arms) > 1 and not others

    def make_table(part: Sequence[Comparison], caption: str) -> Markup:
        """Make the table of a part of the rows."""
        return make_metrics_table(
            part,
            verdict.release.id,
            colors,
            with_arms=with_arms,
            caption=clean(caption),
            axis=axis,
            failures=verdict.failures,
        )

    parts = [make_table(groups.deciding or groups.passing or groups.watched, "metrics")]
    if groups.more_endpoints:
        text = f"{count_of(groups.more_endpoints, 'more endpoint')} {'fails' if groups.more_endpoints == 1 else 'fail'}"
        parts.append(Markup("<p>{}</p>").format(link("release", text, at="endpoints", release=verdict.release.id)))
    if groups.deciding and groups.passing:
        count = count_metrics(groups.passing)
        verb = "passes" if len(groups.passing) == 1 else "pass"
        parts.append(_fold(f"{count} {verb}", groups.passing, make_table(groups.passing, "metrics that pass")))
    if groups.watched and (groups.deciding or groups.passing):
        is_one = len(groups.watched) == 1
        title = f"{count_of(len(groups.watched), 'metric')} {'is' if is_one else 'are'} only shown"
        parts.append(_fold(title, groups.watched, make_table(groups.watched, "metrics that are only shown")))
    for arm in others:
        group = by_arm[arm]
        failing = [row for row in group.deciding if row.status is MetricStatus.FAIL]
        open_rows = [row for row in group.deciding if row.status is not MetricStatus.FAIL]
        counts = [
            f"{len(part)} {words}"
            for part, words in ((failing, "worse"), (open_rows, "not decided"), (group.passing, "pass"))
            if part
        ]
        own_rows = (*group.deciding, *group.passing, *group.watched)
        parts.append(_fold(f"not chosen: {arm}, {', '.join(counts)}", (), make_table(own_rows, f"metrics of {arm}")))
    return Markup('<div class="ev-verdict">{}</div>').format(Markup("").join(parts))


def _fold(title: str, named: Sequence[Comparison], content: Markup) -> Markup:
    """Fold a part of the page below a title, which names the metrics of `named`."""
    names = join_words(list(dict.fromkeys(name_comparison(row) for row in named)), MOST_NAMES)
    text = f"{title}: {names}" if names else title
    return Markup('<details class="ev-fold"><summary>{}</summary>{}</details>').format(clean(text), content)
