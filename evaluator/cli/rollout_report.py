"""`evaluator rollout report`: a rollout as one HTML file."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import click

from evaluator.cli import Session, emit
from evaluator.cli.outputs import find_path, replace_output
from evaluator.errors import StoreError, UnknownName
from evaluator.extensions import explain_missing_package

FORMAT = "html"


@click.command("report")
@click.argument("release")
@click.option("--rollout", "rollout_id", metavar="ID", help="A rollout such as r2.  [default: the newest one]")
@click.option(
    "--format", "output", metavar="F[=PATH]", default=FORMAT, help="html; to stdout, or to a file.  [default: html]"
)
@click.pass_obj
def report_command(session: Session, release: str, rollout_id: str | None, output: str) -> None:
    """Write a rollout of RELEASE as one HTML file. Changes nothing.

    It shows the ladder of its stages, each step with what it needed and what it got, the requests of users that met
    the candidate, the verdicts, and what happened when. The rollout may still be running.
    """
    from evaluator.pipeline.landing import land_release
    from evaluator.rollout.reporting import make_report, read_facts
    from evaluator.store.rollouts import Rollouts

    path = _find_path(output)
    store = session.open_store()
    found = Rollouts(store.control.file).rollouts(release)
    if not found:
        names = {rollout.release for rollout in Rollouts(store.control.file).rollouts()}
        raise UnknownName("rollout of", release, sorted(names))
    chosen = next((rollout for rollout in reversed(found) if rollout_id in (None, rollout.id)), None)
    if chosen is None:
        raise UnknownName("rollout", str(rollout_id), [rollout.id for rollout in found])
    with contextlib.suppress(StoreError, UnknownName):  # what has landed until now is shown, too
        land_release(store, release)
    with explain_missing_package("the report of a rollout needs", "plots"):
        from evaluator.reports.rollout import to_html

        text = to_html(make_report(read_facts(store, chosen), datetime.now(UTC)))
    if path is None:
        emit(text)
        return
    replace_output(path, text + "\n", private=session.has_sensitive_policy())
    session.say(f"the report: {path}")


def _find_path(output: str) -> Path | None:
    """Find the path in `html=PATH`; None: stdout. Raises UnknownName for another format, and UsageError."""
    name, _, target = output.partition("=")
    if name != FORMAT:
        raise UnknownName("format", name, [FORMAT])
    if output == FORMAT:
        return None
    return find_path(target)
