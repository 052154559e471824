"""Pieces of pages as HTML. Every text goes through `Markup.format`, which escapes it; nothing else makes HTML here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from urllib.parse import urlencode

import streamlit as st
from markupsafe import Markup

from evaluator.figures.base import PALETTE, color_arms
from evaluator.records import BASELINE, Comparison, Finding, MetricStatus, Role, Verdict, VerdictWord
from evaluator.reports import VERDICT_WORDS, plain_text
from evaluator.reports.base import HEALTH_MARKS, STATUS_MARKS, format_allowed, format_both, format_effect
from evaluator.wording import format_change, format_duration, name_comparison, name_metric

__all__ = [
    "address",
    "banner",
    "clean",
    "clock",
    "css_color",
    "definitions",
    "empty",
    "health_list",
    "heat_map",
    "legend",
    "link",
    "metrics_table",
    "plain",
    "show",
    "show_table",
    "since",
    "table",
    "words_of",
]

LONGEST = 300
FARTHEST = 3.0
"""Multiples of the margin that an interval is drawn to; what lies beyond ends in an arrow."""
STUB = 8.0
"""Percent of the width at which the line before an arrow begins, where all of the interval lies beyond."""


def show(*parts: Markup) -> None:
    """Put pieces on the page."""
    st.html(Markup('<div class="ev">{}</div>').format(Markup("").join(parts)))


def clean(text: object) -> str:
    """Text that neither moves what stands beside it nor fills the page."""
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
    """The address of a page, beside that of any other."""
    query = urlencode({name: str(value) for name, value in chosen.items() if value is not None})
    return f"./{page}" + (f"?{query}" if query else "") + (f"#{at}" if at else "")


def clock(moment: datetime | None) -> Markup:
    """A moment in UTC, in the reader's zone where the browser tells it."""
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
    known = VerdictWord(word)
    return Markup('<strong class="{}">{}</strong>').format(known.value, VERDICT_WORDS[known])


def empty(what: str, why: str, command: str = "") -> Markup:
    """What is not there, why, and the exact command that changes that."""
    then = Markup(" <code>{}</code>").format(command) if command else ""
    return Markup('<div class="ev-empty" role="status"><strong>{}</strong>{}{}</div>').format(
        clean(what), clean(why), then
    )


def with_code(text: str) -> Markup:
    """A sentence whose commands, between backticks, look like what they are."""
    parts = clean(text).split("`")
    marked = (Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts))
    return Markup("").join(marked)


def definitions(pairs: Iterable[tuple[str, object]]) -> Markup:
    """Names and what they are."""
    rows = (Markup("<dt>{}</dt><dd>{}</dd>").format(name, _safe(value)) for name, value in pairs)
    return Markup('<dl class="ev-dl">{}</dl>').format(Markup("").join(rows))


def _safe(value: object) -> object:
    return value if isinstance(value, Markup) else clean(value)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> Markup:
    """Rows whose first cell names them; on a phone each row is a block."""
    top = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in head)
    body = Markup("").join(_row(head, row) for row in rows)
    return Markup(
        '<div class="ev-scroll ev-rows" tabindex="0" role="region" aria-label="{}"><table><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(caption or " and ".join(head[:2]), top, body)


def _row(head: Sequence[str], row: Sequence[object]) -> Markup:
    cells = (
        Markup('<td data-of="{}">{}</td>').format(name, _safe(value))
        for name, value in zip(head[1:], row[1:], strict=True)
    )
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(_safe(row[0]), Markup("").join(cells))


def show_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> None:
    """Put a table on the page."""
    show(table(head, rows, caption=caption))


# ------------------------------------------------------------------ a verdict


def banner(verdict: Verdict, notes: Sequence[Markup]) -> Markup:
    """The answer, the reasons that decided it, and what to do next."""
    against = ", ".join(f"{one.name} {one.baseline}".strip() for one in verdict.release.services if one.baseline)
    reasons = Markup("").join(Markup("<li>{}</li>").format(clean(one.text)) for one in verdict.reasons[:4])
    more = Markup('<p class="muted">and {} more reasons, below</p>').format(len(verdict.reasons) - 4)
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
        more if len(verdict.reasons) > 4 else "",
        with_code(verdict.next_action or "nothing"),
        Markup(" · ").join(notes),
    )


def health_list(findings: Sequence[Finding]) -> Markup:
    """Each check: what it saw, the worst first."""
    order = {"fail": 0, "warn": 1, "ok": 2}
    rows = Markup("").join(
        Markup('<li><span class="{}" aria-hidden="true">{}</span> <strong>{}</strong> <span>{}</span>{}</li>').format(
            one.level.value,
            HEALTH_MARKS[one.level],
            one.check.replace("_", " "),
            clean(one.text),
            Markup('<span class="reason">{}</span>').format(clean(one.remedy)) if one.remedy else "",
        )
        for one in sorted(findings, key=lambda one: order[one.level.value])
    )
    return Markup('<ul class="ev-list">{}</ul>').format(rows)


# ------------------------------------------------------------------ metrics with their intervals


def metrics_table(
    rows: Sequence[Comparison], release_id: str, *, several: bool = False, caption: str = "metrics"
) -> Markup:
    """Metrics in the given order: both values, the change with its interval drawn against the margin, the status."""
    head = ("metric", "status", "role", "baseline", "candidate", "change", "against the margin", "allowed")
    colors = color_arms([row.arm for row in rows])
    laid = (_metric_row(row, release_id, css_color(colors[row.arm]), several=several) for row in rows)
    return table(head, laid, caption=caption)


def css_color(color: str) -> str:
    """A colour of the figures as the style sheet has it: light and dark."""
    return f"light-dark({color}, {PALETTE[color]})"


def _metric_row(row: Comparison, release_id: str, color: str, *, several: bool) -> Sequence[object]:
    name = f"{name_comparison(row)}, {row.arm}" if several else name_comparison(row)
    chosen: dict[str, object] = {"metric": row.rule.name, "arm": row.arm}
    if row.scan:
        chosen = {"endpoint": clean(row.rule.slice.endpoint)}
    title = Markup("{}{}").format(
        link("release", name, at="closer" if row.scan else "metric", release=release_id, **chosen),
        Markup('<span class="reason">{}</span>').format(clean(row.reason or row.no_data or "")),
    )
    both = format_both(row)
    watched = row.rule.role is Role.WATCH and row.status is not MetricStatus.NO_DATA
    status = Markup('<span class="status {}">{}</span>').format(
        "watch" if watched else row.status.value, "· shown only" if watched else STATUS_MARKS[row.status]
    )
    role = "scan" if row.scan else row.rule.role.value
    return (title, status, role, *both, format_effect(row), draw_interval(row, color), format_allowed(row))


@dataclass(frozen=True, slots=True)
class _Span:
    """Positions of an interval on its own axis, in percent of the width."""

    zero: float
    edge: float
    low: float
    high: float
    dot: float | None
    cut_low: bool
    cut_high: bool


def draw_interval(row: Comparison, color: str = "") -> Markup:
    """An interval on an axis of margins: the shaded part is allowed, the dashed line is the margin."""
    span = _place(row)
    if span is None:
        return Markup("")
    parts = [
        _bar("band", min(span.zero, span.edge), abs(span.edge - span.zero)),
        _bar("zero", span.zero),
        *([_bar("edge", span.edge)] if row.rule.margin else []),
        _bar("whisker", span.low, span.high - span.low),
        *([_bar("dot", span.dot)] if span.dot is not None else []),
    ]
    parts += [Markup('<i class="more"></i>')] if span.cut_high else []
    parts += [Markup('<i class="less"></i>')] if span.cut_low else []
    said = f"{name_metric(row.rule)} {format_effect(row)}, {format_allowed(row)} allowed"
    painted = f"--canary:{color}" if color else ""
    return Markup('<div class="ev-interval" role="img" aria-label="{}" style="{}">{}</div>').format(
        clean(said), painted, Markup("").join(parts)
    )


def _bar(kind: str, left: float, width: float | None = None) -> Markup:
    room = "" if width is None else f";width:{width:.2f}%"
    return Markup('<i class="{}" style="left:{}{}"></i>').format(kind, f"{left:.2f}%", room)


def _place(row: Comparison) -> _Span | None:
    effect, margin = row.effect, row.rule.margin
    if effect is None or math.isnan(effect.estimate):
        return None
    unit = margin.value if margin and margin.value > 0 else max(abs(effect.estimate), _half(effect.lower, effect.upper))
    if not math.isfinite(unit) or unit <= 0:
        return None

    def at(value: float) -> float:
        held = min(max(0.0 if math.isnan(value) else value / unit, -FARTHEST), FARTHEST)
        return 50 + 50 * held / FARTHEST

    edge = unit if row.rule.direction.value == "lower_is_better" else -unit
    return _Span(
        zero=50.0,
        edge=at(edge) if margin else 50.0,
        low=min(at(effect.lower), 100 - STUB),
        high=max(at(effect.upper), STUB),
        dot=at(effect.estimate) if abs(effect.estimate) <= FARTHEST * unit else None,
        cut_low=effect.lower < -FARTHEST * unit,
        cut_high=effect.upper > FARTHEST * unit,
    )


def _half(lower: float, upper: float) -> float:
    return max((abs(end) for end in (lower, upper) if math.isfinite(end)), default=0.0)


def heat_map(
    columns: Sequence[str], rows: Iterable[tuple[Markup, Markup, Sequence[tuple[str, Comparison] | None]]]
) -> Markup:
    """Releases by metrics. Each row: its name, its verdict, and the release and comparison behind each metric."""
    head = Markup("").join(
        Markup('<th scope="col">{}</th>').format(clean(name)) for name in ("release", "verdict", *columns)
    )
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th><td>{}</td>{}</tr>').format(
            name, word, Markup("").join(_heat_cell(cell) for cell in cells)
        )
        for name, word, cells in rows
    )
    return Markup(
        '<div class="ev-scroll ev-heat" tabindex="0" role="region" aria-label="releases by metrics">'
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(head, body)


def _heat_cell(cell: tuple[str, Comparison] | None) -> Markup:
    if cell is None:
        return Markup('<td class="muted"><span aria-label="not measured">–</span></td>')
    release_id, row = cell
    watched = row.rule.role is Role.WATCH and row.status is not MetricStatus.NO_DATA
    mark = "·" if watched else STATUS_MARKS[row.status].split(" ")[0]
    change = format_change(row.effect, row.unit) if row.effect else "no data"
    said = f"{release_id}, {name_metric(row.rule)}: {row.status.value.replace('_', ' ')}, {change}"
    return Markup('<td class="{}"><a href="{}" target="_self" aria-label="{}">{}<small>{}</small></a></td>').format(
        "watch" if watched else row.status.value,
        address("release", at="metric", release=release_id, metric=row.rule.name, arm=row.arm),
        clean(said),
        mark,
        change,
    )


def legend(arms: Mapping[str, str]) -> Markup:
    """What the lines of the figures stand for."""
    keys = Markup("").join(
        Markup('<span><span class="ev-key" style="color:{}{}"></span>{}</span>').format(
            color, ";border-top-style:dashed" if name == BASELINE else "", clean(name)
        )
        for name, color in arms.items()
    )
    return Markup('<p class="ev-legend">{}</p>').format(keys)
