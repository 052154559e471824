"""`evaluator data`: query, export, purge, back up and restore what is stored."""

from __future__ import annotations

import json
import sys
from io import BytesIO
from pathlib import Path

import click

from evaluator.cli import Session, emit, mask_control_characters
from evaluator.cli.backup import backup, new_decisions, restore
from evaluator.cli.terminal import rows_option
from evaluator.errors import UsageError
from evaluator.records import Release, Service, check_names


@click.group("data")
def command() -> None:
    """Query, export, purge, back up or restore what is stored."""


command.add_command(backup)
command.add_command(restore)
command.add_command(new_decisions)


@command.command("sql")
@click.argument("query", metavar="[QUERY]", required=False)
@rows_option(help_subject="result is")
@click.pass_obj
def query_store(session: Session, query: str | None, format_name: str) -> int:
    """Run a DuckDB query over a snapshot of the store; without QUERY the query is read from stdin.

    It can use the tables of the store (CONTRIBUTING.md, "What is stored"), and the views `requests` and `readings` with
    every request and every sample.
    """
    sql = query if query is not None else _read_query()
    store = session.open_store(adopt=True)
    if format_name == "table":
        emit(mask_control_characters(store.data.render(sql)))
        return 0
    table = store.data.query(sql)
    if format_name == "json":
        emit(json.dumps(table.to_pylist(), default=str, indent=1))
        return 0
    import pyarrow.csv  # a slow import that other formats do not need

    csv_file = BytesIO()
    pyarrow.csv.write_csv(table, csv_file)
    text = csv_file.getvalue().decode().rstrip("\n")
    # A program gets the values as they are.
    emit(mask_control_characters(text) if sys.stdout.isatty() else text)
    return 0


def _read_query() -> str:
    """Read a query from stdin. Raises UsageError if there is none."""
    if sys.stdin.isatty():
        click.echo("enter one query, then Ctrl-D:", err=True)
    sql = sys.stdin.read().strip()
    if not sql:
        raise UsageError("there is no query", hint="for example: `evaluator data sql 'SELECT count(*) FROM requests'`")
    return sql


@command.command("export")
@click.argument("release", metavar="RELEASE")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write to."
)
@click.pass_obj
def export_release(session: Session, release: str, folder: Path) -> int:
    """Write requests, cells, runs and verdicts of RELEASE as Parquet files."""
    for path in session.open_store(adopt=True).data.export(release, folder):
        emit(str(path))
    return 0


@command.command("service")
@click.argument("release", metavar="RELEASE")
@click.argument("names", metavar="SERVICE…", nargs=-1, required=True)
@click.pass_obj
def set_service(session: Session, release: str, names: tuple[str, ...]) -> int:
    """Set the service of RELEASE, or several services released together; it decides which policy applies."""
    from evaluator.intents import system_person

    check_names(Release(release, tuple(map(Service, names))))  # raises UsageError
    session.open_store(adopt=True).control.set_services(release, list(dict.fromkeys(names)), system_person().name)
    emit(f"{release} is a release of {' and '.join(names)}")
    return 0


@command.command("purge")
@click.argument("release", metavar="RELEASE")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def purge_release(session: Session, release: str, yes: bool) -> int:
    """Delete the request rows of RELEASE; its cells and verdicts stay, so it can still be judged."""
    store = session.open_store(adopt=True)
    store.control.release(release)  # raises UnknownName
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("purging needs a confirmation, and stdin is not a terminal", hint="confirm with --yes")
        click.confirm(f"Delete all request rows of {release}?", abort=True, err=True)
    from evaluator.intents import system_person

    deleted = store.data.purge(release)
    store.control.note(system_person().name, "purged", release, f"{deleted} request rows deleted")
    emit(f"{release}: {deleted} request rows deleted; cells and verdicts stay")
    return 0
