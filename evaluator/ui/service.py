"""Service: what its users meet now, and its last candidates."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from markupsafe import Markup

from evaluator.figures.base import is_worse_upwards
from evaluator.intents.life import Lives
from evaluator.records import Comparison, Verdict
from evaluator.records.intents import Action
from evaluator.records.life import LifeState, ServiceLife
from evaluator.reports.accumulation import accumulate
from evaluator.reports.base import format_allowed, format_effect
from evaluator.reports.overview import HeatMap, HeatRow, build_heat_map
from evaluator.ui.controls import choose
from evaluator.ui.exposed import show_exposed
from evaluator.ui.frame import guarded, show_empty_store, show_missing_store
from evaluator.ui.heat import LEGEND, make_heat_map, name_arm
from evaluator.ui.pieces import (
    clean,
    find_status_class,
    link,
    mark_up_time,
    show,
    show_definitions,
    show_empty,
    show_markup,
    write_address,
    write_age,
)
from evaluator.ui.reads import Workspace, find_workspace, now, read_latest, read_lives, read_policy, read_summaries
from evaluator.ui.waits import show_waiting
from evaluator.wording import count_of

CANDIDATES = 10
"""How many of its newest candidates are shown."""
FARTHEST = 2.0
"""Multiples of the margin that a trend is drawn to."""


def show_service() -> None:
    """Show the page Service: what is live, what a rollout gives to users now, what waits, and the last candidates."""
    st.title("Service")
    workspace = find_workspace()
    if not workspace.store.exists():
        show_missing_store()
        return
    summaries, lives = read_summaries(workspace), read_lives(workspace)
    if not summaries:
        show_empty_store()
        return
    # That of the newest release is the default; a release without a service counts as one of its own.
    services = list(
        dict.fromkeys(
            name
            for summary in summaries
            for name in sorted({service.name for service in summary.release.services}) or [summary.release.id]
        )
    )
    service = choose("Service", services, "service", services[0], "service")
    st.set_page_config(page_title=f"{clean(service)} · Service")
    releases = [
        summary.release.id
        for summary in summaries
        if service in {known.name for known in summary.release.services} or service == summary.release.id
    ]
    show(_make_live_box(lives.services.get(service, ServiceLife(service))))
    guarded(lambda: show_exposed(workspace, releases))()
    st.header("What waits for me", anchor="waits")
    guarded(lambda: show_waiting(workspace, releases, "Nothing: its newest release was acted on."))()
    verdicts = sorted(
        (verdict for verdict in read_latest(workspace) if verdict.release.id in releases and verdict.judged_at),
        key=lambda verdict: verdict.judged_at or now(),
        reverse=True,
    )
    _show_candidates(workspace, verdicts[:CANDIDATES])
    _show_accumulated(verdicts, lives, service)
    guarded(lambda: _show_policy(workspace, releases[0]))()


def _make_live_box(live: ServiceLife) -> Markup:
    """Make the box that says what users of the service meet, since when, and who promoted it."""
    if live.doubt:
        word, css_class = Markup("? not known"), "inconclusive"
        why = Markup("<p>What users of {} meet is not known: {}.</p>").format(clean(live.service), clean(live.doubt))
        if live.release:
            why += Markup("<p>The last release that was promoted is {}.</p>").format(
                link("release", live.release, release=live.release)
            )
    elif not live.release:
        word, css_class = Markup("none"), "none"
        others = f"users who do not meet {live.candidate} by the rollout" if live.rollout else "users"
        why = Markup("<p>No promotion of {} stands: {} meet what was deployed by other means.</p>").format(
            clean(live.service), clean(others)
        )
    else:
        word, css_class = link("release", live.release, release=live.release), "go"
        how = f"live again, because {live.restored_by} was rolled back" if live.restored_by else "live: promoted"
        by = "" if live.restored_by else f" by {live.by}"
        why = Markup("<p>{} {} ({}){}{}</p>").format(
            clean(how),
            write_age(live.at, now()),
            mark_up_time(live.at),
            clean(by),
            f": {clean(live.why)}" if live.why and not live.restored_by else "",
        )
    return Markup(
        '<section class="ev-banner is-{}" aria-label="live now"><p><span class="muted">Live now</span> '
        '<span class="name">{}</span></p>{}<p class="said muted">As far as promotions are recorded here.</p></section>'
    ).format(css_class, word, why)


# ------------------------------------------------------------------ candidates


def _show_candidates(workspace: Workspace, verdicts: Sequence[Verdict]) -> None:
    """Show the newest candidates with their changes against their own baselines, and the trend of each metric."""
    st.header("Last candidates", anchor="candidates")
    if not verdicts:
        show_empty("None of its releases was judged.", "Judge one:", workspace.command("RELEASE"))
        return
    st.caption("Each change is that of a candidate against its own baseline, measured at the same time.")
    heat = build_heat_map(verdicts)
    show(make_heat_map(heat, read_lives(workspace).releases, "last candidates by metrics"))
    show(LEGEND)
    if len(verdicts) > 1:
        st.header("Trend of each metric", anchor="trend")
        st.caption(
            "A mark for each candidate with its interval, the newest at the right. The shaded part is allowed, and a "
            "triangle lies beyond the axis."
        )
        show(_make_trends(heat))


def _show_accumulated(verdicts: Sequence[Verdict], lives: Lives, service: str) -> None:
    """Show how far the service has moved by all releases that were promoted one after the other."""
    promoted = [
        verdict
        for verdict in verdicts
        if verdict.release.id in lives.releases and lives.releases[verdict.release.id].state in _WAS_LIVE
    ]
    if not promoted:
        return
    accumulated = accumulate(promoted, service)
    if isinstance(accumulated, str):
        st.caption(f"How far {clean(service)} has moved over several releases is not known: {clean(accumulated)}.")
        return
    st.header(f"Since {clean(accumulated.since)}", anchor="since")
    st.caption(
        f"The changes of {count_of(len(accumulated.heat.rows), 'release')} that were promoted one after the other, "
        "added up. The shaded part is what each of them was allowed."
    )
    show(_make_trends(accumulated.heat))


_WAS_LIVE = (LifeState.LIVE, LifeState.REPLACED)


def _make_trends(heat: HeatMap) -> Markup:
    """Make a small figure for each metric: the change of each candidate with its interval, the oldest first."""
    figures = []
    for position, name in enumerate(heat.metrics):
        rows = [(row, comparison) for row in reversed(heat.rows) if (comparison := row.comparisons[position])]
        if not rows:
            continue
        newest_row, newest = rows[-1]
        unit = _find_axis_unit([comparison for _, comparison in rows])
        if unit is None:
            continue
        allowed = f", {format_allowed(newest)} allowed" if newest.rule.margin else ""
        figures.append(
            Markup(
                '<figure class="ev-trend"><figcaption><strong>{}</strong> <span class="muted">newest {}{}</span>'
                '</figcaption><div class="plot">{}{}</div></figure>'
            ).format(
                clean(name),
                f"{name_arm(newest_row, newest)}{format_effect(newest)}",
                allowed,
                _make_band(newest, unit),
                Markup("").join(_make_point(row, row.comparisons[position], unit) for row in reversed(heat.rows)),
            )
        )
    return Markup('<div class="ev-trends">{}</div>').format(Markup("").join(figures))


def _find_axis_unit(comparisons: Sequence[Comparison]) -> float | None:
    """Find the change that is the unit of the axis: the newest margin, else the farthest change; None if there is none.

    `comparisons`: of one metric, the newest last.
    """
    margin = comparisons[-1].rule.margin
    if margin is not None and margin.value > 0:
        return margin.value
    changes = [abs(comparison.effect.estimate) for comparison in comparisons if comparison.effect is not None]
    farthest = max((change for change in changes if change < float("inf")), default=0.0)
    return farthest or None


def _place(change: float, unit: float) -> float:
    """Place a change on the axis, in percent of its height from below: 0 is in the middle."""
    return 50 + 50 * min(max(change / unit, -FARTHEST), FARTHEST) / FARTHEST


def _make_band(comparison: Comparison, unit: float) -> Markup:
    """Make the shaded part of a figure: from no change to the margin, in the direction of harm."""
    zero = Markup('<i class="zero" style="bottom:50%"></i>')
    margin = comparison.rule.margin
    if margin is None:
        return zero
    edge = _place(margin.value if is_worse_upwards(comparison) else -margin.value, unit)
    bottom, height = min(edge, 50.0), abs(edge - 50.0)
    band = Markup('<i class="band" style="bottom:{}%;height:{}%"></i>').format(f"{bottom:.1f}", f"{height:.1f}")
    return band + zero


def _make_point(row: HeatRow, comparison: Comparison | None, unit: float) -> Markup:
    """Make the mark of one candidate: its change with the interval, a link to the release; a gap if it has none."""
    release = row.verdict.release.id
    effect = comparison.effect if comparison is not None else None
    if comparison is None or effect is None or effect.estimate != effect.estimate:  # NaN
        return Markup('<span class="gap" title="{}"></span>').format(f"{clean(release)}: no data")
    low, high = _place(effect.lower, unit), _place(effect.upper, unit)
    multiple = effect.estimate / unit
    css_class = "over" if multiple > FARTHEST else "under" if multiple < -FARTHEST else "dot"
    text = f"{release}: {name_arm(row, comparison)}{format_effect(comparison)}"
    return Markup(
        '<a class="{}" href="{}" target="_self" title="{}" aria-label="{}">'
        '<i class="whisker" style="bottom:{}%;height:{}%"></i><i class="{}" style="bottom:{}%"></i></a>'
    ).format(
        find_status_class(comparison),
        write_address("release", at="metric", release=release, metric=comparison.rule.name, arm=comparison.arm),
        clean(text),
        clean(text),
        f"{low:.1f}",
        f"{max(high - low, 1.0):.1f}",
        css_class,
        f"{_place(effect.estimate, unit):.1f}",
    )


# ------------------------------------------------------------------ policy


def _show_policy(workspace: Workspace, newest_release: str) -> None:
    """Show which policy applies to the service, and what a promotion needs under it."""
    policy = read_policy(workspace, newest_release)
    rules = policy.promotion
    hooks = len(rules.hooks.get(Action.PROMOTE, ()))
    promote = "nothing can be promoted: it names no hooks that promote"
    if hooks:
        promote = f"{count_of(hooks, 'hook')}, {_describe_approvals(rules.needed(Action.PROMOTE))}"
    st.header("Policy", anchor="policy")
    show_definitions(
        [
            ("file", str(policy.path or workspace.policy or "the built-in policy")),
            ("to promote", promote),
            ("to roll back", _describe_approvals(rules.needed(Action.ROLLBACK))),
        ]
    )
    show_markup('<p class="muted">{}</p>', link("plan", "plan a test of its next candidate", release=newest_release))


def _describe_approvals(needed: int) -> str:
    """Say how many people have to agree."""
    return count_of(needed, "approval") if needed else "no approval"
