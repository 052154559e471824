"""`evaluator audit`: show and check the audit trail, and add notes on a release."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict

import click

from evaluator.cli import Session, emit
from evaluator.cli.terminal import rows_option, write_time
from evaluator.reports import plain_text
from evaluator.reports.base import escape_formula

COLUMNS = ("number", "at", "actor", "event", "release", "intent", "text", "covers", "hash")


@click.group("audit")
def command() -> None:
    """Show who did what, check that the record was not changed, and add notes."""


@command.command("show")
@click.argument("release", metavar="[RELEASE]", required=False)
@rows_option(help_subject="rows are")
@click.pass_obj
def show(session: Session, release: str | None, format_name: str) -> None:
    """List requests, approvals, executions and notes (of RELEASE, or of all releases), the oldest first."""
    store = session.open_store(decisions_only=True)
    if release is not None:
        store.control.release(release)  # raises UnknownName
    rows = [{**asdict(row), "at": write_time(row.at)} for row in store.control.audit(release)]
    if format_name == "json":
        emit(json.dumps(rows, indent=1))
    elif format_name == "csv":
        csv_file = io.StringIO()
        writer = csv.DictWriter(csv_file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        # A spreadsheet would run a cell such as `=…` as a formula.
        writer.writerows({name: escape_formula(str(value)) for name, value in row.items()} for row in rows)
        emit(csv_file.getvalue().rstrip("\n"))
    else:
        shown_columns = [name for name in COLUMNS if name not in ("covers", "hash")]
        lines = ["  ".join(str(row[name]) for name in shown_columns if row[name] != "") for row in rows]
        emit("\n".join(map(plain_text, lines)) or "the audit trail has no entries yet")


@command.command("verify")
@click.pass_obj
def verify(session: Session) -> None:
    """Check that no row of the audit trail was changed, and print the hash of the last row.

    An edit is detected unless all rows after it were rewritten as well. To detect that too, keep the hash outside of
    the store and compare it later.
    """
    emit(session.open_store(decisions_only=True).control.verify_audit())


@command.command("note")
@click.argument("release", metavar="RELEASE")
@click.argument("text", metavar="TEXT")
@click.pass_obj
def note(session: Session, release: str, text: str) -> None:
    """Add a note on RELEASE, with your name and the time."""
    store = session.open_store(decisions_only=True)
    from evaluator.intents import system_person, write_note  # this imports the whole judge

    row = write_note(store, session.load_policy(release), system_person(), release, text)
    emit(f"note {row.number} on {plain_text(release)} by {plain_text(row.actor)}")
