"""`evaluator releases`: what is in the store."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from evaluator.cli import Session, emit
from evaluator.cli.terminal import make_page, write_time
from evaluator.records import ReleaseSummary, VerdictWord
from evaluator.records.life import Life
from evaluator.reports import VERDICT_WORDS
from evaluator.reports.base import align_columns
from evaluator.reports.life import describe_life, name_state

HEAD = ("release", "versions", "verdict", "state", "runs", "requests", "last run (UTC)")


@click.command("releases")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.pass_obj
def command(session: Session, as_json: bool) -> None:
    """List the releases in the store with their latest verdict, the newest first.

    The state says what was done with a release: whether it is live, held, rolled back, or waits for approval.
    """
    from evaluator.intents import read_lives

    store = session.open_store(adopt=True)
    releases, lives = store.releases(), read_lives(store, datetime.now(UTC)).releases
    if as_json:
        emit(json.dumps([_to_plain(summary, lives[summary.release.id]) for summary in releases], indent=2))
    elif releases:
        rows = [_make_row(summary, lives[summary.release.id]) for summary in releases]
        emit("\n".join(align_columns([HEAD, *rows], make_page(), indent="")))
        shadow_count = sum(summary.shadow_verdicts for summary in releases)
        if shadow_count:
            blocked_count = sum(summary.would_have_blocked for summary in releases)
            noun = "verdict" if shadow_count == 1 else "verdicts"
            session.say(f"{shadow_count} {noun} in shadow mode, of which {blocked_count} would have blocked")
    else:
        session.say("no releases yet; `evaluator load` or `evaluator import` creates one")


def _make_row(summary: ReleaseSummary, life: Life) -> tuple[str, ...]:
    """Make the row of a release in the table, with the columns of HEAD."""
    release = summary.release
    versions = [f"{service.name} {service.baseline or '?'} → {service.canary or '?'}" for service in release.services]
    verdict = VERDICT_WORDS[VerdictWord(summary.verdict)] if summary.verdict else "–"
    if summary.mode == "shadow":
        verdict += " (shadow)"
    last_run = f"{summary.last_run.astimezone(UTC):%Y-%m-%d %H:%M}" if summary.last_run else "–"
    counts = (str(summary.runs), f"{summary.rows:,}")
    return release.id, ", ".join(versions) or "–", verdict, name_state(life), *counts, last_run


def _to_plain(summary: ReleaseSummary, life: Life) -> dict[str, object]:
    """Return what is known about a release as values of JSON, for programs."""
    release = summary.release
    return {
        "release": release.id,
        "services": [
            {"name": service.name, "baseline": service.baseline, "canary": service.canary}
            for service in release.services
        ],
        "labels": dict(release.labels),
        "verdict": summary.verdict,
        "judged_at": summary.judged_at and write_time(summary.judged_at),
        "mode": summary.mode,
        "shadow_verdicts": summary.shadow_verdicts,
        "would_have_blocked": summary.would_have_blocked,
        "state": str(life.state),
        "state_since": life.at and write_time(life.at),
        "state_text": describe_life(life),
        "live": life.is_live,
        "groups": summary.groups,
        "runs": summary.runs,
        "requests": summary.rows,
        "last_run": summary.last_run and write_time(summary.last_run),
    }
