"""A release while it is recorded: how far its runs are, and what each arm has recorded."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from evaluator.pipeline.counting import count_recorded, describe_progress, list_running
from evaluator.records import Run
from evaluator.ui.frame import show_again_once_changed
from evaluator.ui.pieces import clean, make_table, mark_up_command, show
from evaluator.ui.reads import ReleaseView, Workspace, now, open_store
from evaluator.wording import format_number

DONE = 100
"""Length of the bar of progress."""


def show_unjudged(workspace: Workspace, view: ReleaseView) -> None:
    """Show in the place of a verdict what is recorded, and how to judge it; the page changes once it is judged."""
    name, running = clean(view.release.id), list_running(view.runs)
    command = mark_up_command(workspace.command(view.release.id))
    if running:
        advice = Markup("{} judges what is recorded; this page then shows the verdict.").format(command)
        word = "RECORDING …"
    else:
        landed = sum(run.landed for run in view.runs)
        advice = Markup("{} requests have landed. Judge them: {}").format(f"{landed:,}", command)
        word = "NOT JUDGED"
    show(
        Markup(
            '<section class="ev-banner" aria-label="verdict"><h1><span class="word muted">{}</span>'
            '<span class="name">{}</span></h1>{}<p class="next">{}</p></section>'
        ).format(word, name, _make_progress(running), advice)
    )
    show_recorded(workspace, running)
    if not running:
        show_again_once_changed()


def make_recording(runs: Sequence[Run]) -> Markup:
    """Make the box of the runs that are being recorded below a verdict; empty if none is."""
    running = list_running(runs)
    if not running:
        return Markup("")
    return Markup('<section class="ev-banner" aria-label="recording">{}</section>').format(_make_progress(running))


def show_recorded(workspace: Workspace, running: Sequence[Run]) -> None:
    """Show what each arm has recorded in the runs that are going on; nothing without any."""
    arms = count_recorded(open_store(workspace, decisions_only=True), running) if running else ()
    if not arms:
        return
    rows = [
        (
            arm.name,
            f"{arm.requests:,}",
            f"{arm.failures:,} ({format_number(100 * arm.failures / arm.requests) if arm.requests else 0} %)",
            f"{format_number(arm.rate_per_s)} /s",
        )
        for arm in arms
    ]
    show(make_table(("arm", "recorded requests", "failures", "now"), rows, caption="what is recorded"))


def _make_progress(running: Sequence[Run]) -> Markup:
    """Make a line and a bar for each run: how far it is of what is planned."""
    present = now()
    lines = []
    for run in running:
        bar = Markup("")
        if run.started is not None and run.planned_end is not None and run.planned_end > run.started:
            part = (present - run.started) / (run.planned_end - run.started)
            bar = Markup('<progress max="{}" value="{}" aria-label="recorded"></progress>').format(
                DONE, min(max(round(DONE * part), 0), DONE)
            )
        replicates = int(run.fingerprint.get("replicates", 1))
        repeated = f", run {run.replicate + 1} of {replicates}" if replicates > 1 else ""
        lines.append(
            Markup("<li>recorded: {} ({}{}) {}</li>").format(
                describe_progress(run, present), clean(run.source), repeated, bar
            )
        )
    return Markup('<ul class="ev-list">{}</ul>').format(Markup("").join(lines)) if lines else Markup("")
