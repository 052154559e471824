"""Pieces of pages as HTML. Every text goes through `Markup.format`, which escapes it; nothing else makes HTML here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from urllib.parse import urlencode

import streamlit as st
from markupsafe import Markup

from evaluator.figures.base import PALETTE, color_arms, is_worse_upwards, name_row
from evaluator.records import BASELINE, Comparison, Finding, Verdict, VerdictWord
from evaluator.reports import VERDICT_WORDS, plain_text
from evaluator.reports.base import (
    HEALTH_MARKS,
    format_allowed,
    format_both,
    format_effect,
    is_only_shown,
    mark_status,
    name_check,
    name_role,
    put_worst_first,
)
from evaluator.reports.overview import HeatMap
from evaluator.wording import format_change, format_duration, name_metric

LONGEST = 300
FARTHEST = 3.0
"""Multiples of the margin that an interval is drawn to; what lies beyond ends in an arrow."""
STUB = 8.0
"""Percent of the width at which the line before an arrow begins, where the whole interval lies beyond."""


def show(part: Markup) -> None:
    """Put a piece on the page."""
    st.html(Markup('<div class="ev">{}</div>').format(part))


def show_markup(template: str, *values: object) -> None:
    """Put HTML on the page in which each `{}` is filled with a value, escaped unless it is a piece."""
    show(Markup(template).format(*values))  # noqa: S704 the pages' own text


def show_list(items: Iterable[Markup]) -> None:
    """Put a list of `<li>` on the page."""
    show_markup('<ul class="ev-list">{}</ul>', Markup("").join(items))


def show_empty(what: str, why: str, command: str = "", *, alert: bool = False) -> None:
    """Show what is missing, why, and the exact command that changes that; `alert`: announced to screen readers."""
    then = Markup(" <code>{}</code>").format(command) if command else ""
    box = Markup('<div class="ev-empty" role="status"><strong>{}</strong>{}{}</div>').format(
        with_code(what), with_code(why), then
    )
    show(Markup('<div role="alert">{}</div>').format(box) if alert else box)


def clean(text: object) -> str:
    """Text that cannot change the layout: without control characters, at most `LONGEST` long."""
    plain = plain_text(str(text))
    return plain if len(plain) <= LONGEST else plain[: LONGEST - 1] + "…"


def plain(text: object) -> str:
    """Text that Markdown leaves alone, for labels and captions."""
    return "".join(
        f"\\{character}" if character in "\\`*_{}[]()<>#+-.!|~$:" else character for character in clean(text)
    )


def link(page: str, text: str, *, at: str = "", **chosen: object) -> Markup:
    """A link to a page of this app with what is chosen there. `at`: the heading to go to."""
    return Markup('<a href="{}" target="_self">{}</a>').format(address(page, at=at, **chosen), clean(text))


def address(page: str, *, at: str = "", **chosen: object) -> str:
    """The address of a page, relative to any other page."""
    query = urlencode({name: str(value) for name, value in chosen.items() if value is not None})
    return f"./{page}" + (f"?{query}" if query else "") + (f"#{at}" if at else "")


def clock(moment: datetime | None) -> Markup:
    """A moment in the reader's time zone, where the browser names it, else in UTC."""
    if moment is None:
        return Markup("–")
    shown = moment.astimezone(_zone())
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.astimezone(UTC).isoformat(), f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC", f"{shown:%Y-%m-%d %H:%M}"
    )


def _zone() -> tzinfo:
    """The reader's own zone, where their browser names one that is known here."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def since(moment: datetime | None, now: datetime) -> str:
    """How long ago: `14 min ago`."""
    if moment is None:
        return "at an unknown time"
    seconds = (now - moment).total_seconds()
    if seconds >= 2 * 86400:
        return f"{int(seconds // 86400)} days ago"
    return "just now" if seconds < 10 else f"{format_duration(float(int(seconds)))} ago"


def words_of(word: VerdictWord | str | None) -> Markup:
    """A verdict's word and mark, coloured."""
    if not word:
        return Markup('<span class="muted">not judged</span>')
    verdict_word = VerdictWord(word)
    return Markup('<strong class="{}">{}</strong>').format(verdict_word.value, VERDICT_WORDS[verdict_word])


def with_code(text: str) -> Markup:
    """A sentence whose commands, between backticks, are shown as code."""
    parts = clean(text).split("`")
    marked = (Markup("<code>{}</code>").format(part) if index % 2 else part for index, part in enumerate(parts))
    return Markup("").join(marked)


def show_definitions(pairs: Iterable[tuple[str, object]]) -> None:
    """Put names with their values on the page."""
    rows = (Markup("<dt>{}</dt><dd>{}</dd>").format(name, _safe(value)) for name, value in pairs)
    show_markup('<dl class="ev-dl">{}</dl>', Markup("").join(rows))


def _safe(value: object) -> object:
    return value if isinstance(value, Markup) else clean(value)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> Markup:
    """Rows whose first cell names them; on a phone each row is a block."""
    top = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in head)
    body = []
    for row in rows:
        cells = (
            Markup('<td data-of="{}">{}</td>').format(name, _safe(value))
            for name, value in zip(head[1:], row[1:], strict=True)
        )
        body.append(Markup('<tr><th scope="row">{}</th>{}</tr>').format(_safe(row[0]), Markup("").join(cells)))
    return Markup(
        '<div class="ev-scroll ev-rows" tabindex="0" role="region" aria-label="{}"><table><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(caption or " and ".join(head[:2]), top, Markup("").join(body))


def show_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> None:
    """Put a table on the page."""
    show(table(head, rows, caption=caption))


# ------------------------------------------------------------------ a verdict


def banner(verdict: Verdict, notes: Sequence[Markup]) -> Markup:
    """The answer, the reasons that decided it, and what to do next."""
    against = ", ".join(
        f"{service.name} {service.baseline}".strip() for service in verdict.release.services if service.baseline
    )
    reasons = Markup("").join(Markup("<li>{}</li>").format(clean(reason.text)) for reason in verdict.reasons[:4])
    further = Markup('<p class="muted">and {} more reasons, below</p>').format(len(verdict.reasons) - 4)
    return Markup(
        '<section class="ev-banner is-{}" aria-label="verdict"><p><span class="word {}">{}</span>'
        '<span class="name">{}</span> <span class="muted">{}</span></p><ul>{}</ul>{}'
        '<p class="next"><strong>Next:</strong> {}</p><p class="said muted">{}</p></section>'
    ).format(
        verdict.word.value,
        verdict.word.value,
        VERDICT_WORDS[verdict.word],
        clean(verdict.release.id),
        f"against {clean(against)}" if against else "",
        reasons,
        further if len(verdict.reasons) > 4 else "",
        with_code(verdict.next_action or "nothing"),
        Markup(" · ").join(notes),
    )


def show_health(findings: Sequence[Finding]) -> None:
    """Put each check on the page with what it found, the worst first."""
    st.subheader("Was it a fair comparison?", anchor="health")
    if not findings:
        show_empty("No check was made.", "")
        return
    show_list(
        Markup('<li><span class="{}" aria-hidden="true">{}</span> <strong>{}</strong> <span>{}</span>{}</li>').format(
            finding.level.value,
            HEALTH_MARKS[finding.level],
            name_check(finding),
            clean(finding.text),
            Markup('<span class="reason">{}</span>').format(clean(finding.remedy)) if finding.remedy else "",
        )
        for finding in put_worst_first(findings)
    )


# ------------------------------------------------------------------ metrics with their intervals


def metrics_table(
    rows: Sequence[Comparison], release_id: str, *, several: bool = False, caption: str = "metrics"
) -> Markup:
    """Metrics in the given order: both values, the change with its interval drawn against the margin, the status."""
    head = ("metric", "status", "role", "baseline", "candidate", "change", "against the margin", "allowed")
    colors = color_arms([row.arm for row in rows])
    table_rows = []
    for row in rows:
        chosen: dict[str, object] = {"metric": row.rule.name, "arm": row.arm}
        if row.scan:
            chosen = {"endpoint": clean(row.rule.slice.endpoint)}
        at, name = "closer" if row.scan else "metric", name_row(row, with_arm=several)
        title = Markup('{}<span class="reason">{}</span>').format(
            link("release", name, at=at, release=release_id, **chosen), clean(row.reason or row.no_data or "")
        )
        drawn = draw_interval(row, css_color(colors[row.arm]))
        numbers = (*format_both(row), format_effect(row), drawn, format_allowed(row))
        table_rows.append((title, name_status(row), name_role(row), *numbers))
    return table(head, table_rows, caption=caption)


def name_status(row: Comparison) -> Markup:
    """Mark and word of a metric's status, coloured."""
    kind = "watch" if is_only_shown(row) else row.status.value
    return Markup('<span class="status {}">{}</span>').format(kind, mark_status(row, "· shown only"))


def css_color(color: str) -> str:
    """A colour of the figures as CSS, for light and dark pages."""
    return f"light-dark({color}, {PALETTE[color]})"


def draw_interval(row: Comparison, color: str) -> Markup:
    """An interval on an axis of margins: the shaded part is allowed, the dashed line is the margin."""
    effect, margin = row.effect, row.rule.margin
    if effect is None or math.isnan(effect.estimate):
        return Markup("")
    ends = [abs(end) for end in (effect.lower, effect.upper) if math.isfinite(end)]
    unit = margin.value if margin and margin.value > 0 else max([abs(effect.estimate), *ends])
    if not math.isfinite(unit) or unit <= 0:
        return Markup("")

    def at(value: float) -> float:
        """Where a change lies, in percent of the width."""
        held = min(max(0.0 if math.isnan(value) else value / unit, -FARTHEST), FARTHEST)
        return 50 + 50 * held / FARTHEST

    zero, most = 50.0, FARTHEST * unit
    edge = at(unit if is_worse_upwards(row) else -unit) if margin else zero
    low, high = min(at(effect.lower), 100 - STUB), max(at(effect.upper), STUB)
    places: list[tuple[str, float, float | None]] = [("band", min(zero, edge), abs(edge - zero)), ("zero", zero, None)]
    places += [("edge", edge, None)] if margin else []
    places += [("whisker", low, high - low)]
    places += [("dot", at(effect.estimate), None)] if abs(effect.estimate) <= most else []
    parts = [
        Markup('<i class="{}" style="left:{}{}"></i>').format(
            kind, f"{offset:.2f}%", "" if width is None else f";width:{width:.2f}%"
        )
        for kind, offset, width in places
    ]
    parts += [Markup('<i class="more"></i>')] if effect.upper > most else []
    parts += [Markup('<i class="less"></i>')] if effect.lower < -most else []
    label = f"{name_metric(row.rule)} {format_effect(row)}, {format_allowed(row)} allowed"
    return Markup('<div class="ev-interval" role="img" aria-label="{}" style="{}">{}</div>').format(
        clean(label), f"--canary:{color}", Markup("").join(parts)
    )


def heat_map(heat: HeatMap) -> Markup:
    """Releases by metrics: the verdict of each, and the status of each metric."""
    head = Markup("").join(
        Markup('<th scope="col">{}</th>').format(clean(name)) for name in ("release", "verdict", *heat.metrics)
    )
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th><td>{}</td>{}</tr>').format(
            link("release", verdict.release.id, release=verdict.release.id),
            words_of(verdict.word),
            Markup("").join(_heat_cell(verdict.release.id, cell) for cell in cells),
        )
        for verdict, cells in heat.rows
    )
    return Markup(
        '<div class="ev-scroll ev-heat" tabindex="0" role="region" aria-label="releases by metrics">'
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(head, body)


def _heat_cell(release_id: str, row: Comparison | None) -> Markup:
    if row is None:
        return Markup('<td class="muted"><span aria-label="not measured">–</span></td>')
    change = format_change(row.effect, row.unit) if row.effect else "no data"
    label = f"{release_id}, {name_metric(row.rule)}: {row.status.value.replace('_', ' ')}, {change}"
    return Markup('<td class="{}"><a href="{}" target="_self" aria-label="{}">{}<small>{}</small></a></td>').format(
        "watch" if is_only_shown(row) else row.status.value,
        address("release", at="metric", release=release_id, metric=row.rule.name, arm=row.arm),
        clean(label),
        mark_status(row, "·").split(" ")[0],
        change,
    )


def legend(arms: Mapping[str, str]) -> Markup:
    """Which line of the figures is which arm."""
    keys = Markup("").join(
        Markup('<span><span class="ev-key" style="color:{}{}"></span>{}</span>').format(
            color, ";border-top-style:dashed" if name == BASELINE else "", clean(name)
        )
        for name, color in arms.items()
    )
    return Markup('<p class="ev-legend">{}</p>').format(keys)
