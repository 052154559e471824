"""The card below the answer: where a failing release fails, since when, and with which kinds of failures."""

from __future__ import annotations

import streamlit as st
from markupsafe import Markup

from evaluator.records import Comparison, Fault, Verdict
from evaluator.reports.failures import HEAD, list_failure_rows
from evaluator.reports.faults import NOTHING_SHOWN, FaultText, list_parts
from evaluator.ui.pieces import clean, link, mark_up_time, show_empty, show_markup, show_table


def make_fault_card(verdict: Verdict) -> Markup | None:
    """Make the card; `None` if no fault was looked for, as with a GO. Each part is a link to what shows it."""
    if verdict.faults is None:
        return None
    items = Markup("").join(
        Markup("<li>{}.</li>").format(
            Markup("").join(_mark_up_part(verdict, fault, part) for part in list_parts(fault))
        )
        for fault in verdict.faults
    )
    if not items:
        items = Markup("<li>{}</li>").format(NOTHING_SHOWN)
    return Markup(
        '<section class="ev-fault is-{}" aria-label="where it fails"><h2>Where and since when</h2><ul>{}</ul></section>'
    ).format(verdict.word.value, items)


def show_failures(verdict: Verdict) -> None:
    """Show how many requests of each arm fail, where, and with which kinds of failures."""
    st.subheader("Failures", anchor="failures")
    if verdict.failures is None:
        show_empty("Kinds of failures are not recorded in this verdict.", "Judge the release again to see them.")
        return
    shown, folded = list_failure_rows(verdict)
    if not shown:
        show_empty("No request failed.", "Kinds of failures (HTTP status, exception) would be listed here.")
        return
    show_markup('<p class="muted">Requests that failed, those of the warm-up among them.</p>')
    show_table(HEAD, shown, caption="failures")
    if folded:
        with st.expander(f"{len(folded)} more places with failures", key="more-failures"):
            show_table(HEAD, folded, caption="more failures")


def _mark_up_part(verdict: Verdict, fault: Fault, part: FaultText) -> str | Markup:
    """Write a part of the sentence: a link to the endpoint, the instances or the time that it names, or its text."""
    row = _find_shown(verdict, fault)
    # A page that has to add a choice to its address forgets which heading it was asked for.
    chosen = {"release": verdict.release.id, "metric": row.rule.name if row else None}
    if part.about == "endpoint":
        scanned = {compared.rule.slice.endpoint for compared in verdict.evidence.comparisons}
        if part.text in scanned:
            return link("release", part.text, at="closer", endpoint=clean(part.text), **chosen)
        return link("release", part.text, at="endpoints", **chosen)
    if part.about == "instance":
        return link("release", part.text, at="metric", arm=fault.arm if row else None, **chosen)
    if part.about == "kinds":
        return link("release", part.text, at="failures", **chosen)
    if part.about == "onset":
        return link("release", part.text, at="timeline", **chosen)
    if part.about == "time":
        return mark_up_time(part.at)
    return clean(part.text)


def _find_shown(verdict: Verdict, fault: Fault) -> Comparison | None:
    """Find the metric whose figure shows the instances of a fault; `None` if no metric is of its kind."""
    for row in verdict.evidence.comparisons:
        metric = row.rule.metric
        is_of_kind = metric.is_failure_rate if fault.what == "failures" else metric.is_response_time
        if row.arm == fault.arm and is_of_kind and not row.scan and row.must_be_within:
            return row
    return None
