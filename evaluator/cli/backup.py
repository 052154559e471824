"""`evaluator data backup`, `restore` and `new-decisions`: what is left when files of the store are lost."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from evaluator.cli import Session, emit, mask_control_characters
from evaluator.cli.amounts import DURATION
from evaluator.errors import EvaluatorError, UsageError
from evaluator.wording import count_of, format_duration, quote_command


@click.command("backup")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--pause",
    "pause_s",
    type=DURATION,
    metavar="DURATION",
    default="20s",
    show_default=True,
    help="How long nothing may land while the DuckDB file is copied. Decisions are never stopped.",
)
@click.pass_obj
def backup(session: Session, folder: Path, pause_s: float) -> int:
    """Write a backup of the whole store into the new FOLDER: data, decisions, journal and request rows.

    It is of one moment, also while loads, imports, `tail` and promotions run. FOLDER appears when it is complete. Only
    its owner can read it.
    """
    from evaluator.store.backup import make_backup
    from evaluator.store.journal import find_journal

    store = session.open_store()
    try:
        journal_path = session.load_policy().promotion.journal
    except EvaluatorError:  # of several services, or a mistake: the copies at the default paths are enough
        journal_path = ""
    report = make_backup(store, folder, find_journal(store.path, journal_path), pause_s=pause_s)
    manifest = report.manifest
    emit(f"{folder}: {count_of(len(manifest.files), 'file')}, {report.size / 1e6:,.1f} MB")
    emit(f"  audit trail: {count_of(manifest.audit_rows, 'row')}, the last is {manifest.audit_head or 'none'}")
    session.say(f"nothing could land for {format_duration(round(report.paused_s, 1))} meanwhile")
    if manifest.changed_by_hand:
        session.say(f"warning: {manifest.changed_by_hand}; the backup has what is there now")
    if report.missing:
        files = count_of(len(report.missing), "file")
        session.say(
            f"warning: missing in the store, and so in the backup: {files} of rows, such as {report.missing[0]}"
        )
    return 0


@click.command("restore")
@click.argument("backup", metavar="BACKUP", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Move the store that is there to another folder. Nothing is deleted.")
@click.pass_obj
def restore(session: Session, backup: Path, replace: bool) -> int:
    """Restore the store (`--store`) from the folder BACKUP, after each file was compared with its checksum.

    What happened after the backup is unknown to the restored store. So requests that waited in it are not executed but
    become unknown, and no verdict from before the restore promotes anything: judge again. End all that uses the store
    first: loads, imports, `tail`, the app and workers.
    """
    from evaluator.intents import system_person
    from evaluator.store.restore import restore_backup

    private = session.has_sensitive_policy()
    restored = restore_backup(backup, session.store_path, system_person().name, replace=replace, private=private)
    manifest = restored.manifest
    made_at = f"{datetime.fromisoformat(manifest.made_at):%Y-%m-%d %H:%M} UTC"
    releases, rows = count_of(restored.releases, "release"), count_of(manifest.audit_rows, "row")
    lines = [
        f"{session.store_path}: restored from the backup of {made_at}, made by evaluator {manifest.evaluator}",
        f"  {releases}; audit trail: {rows}, the last is {manifest.audit_head or 'none'}",
    ]
    if restored.aside is not None:
        lines.append(f"  what was there before is in {restored.aside}")
    if restored.kept_journal is not None:
        lines.append(f"  the journal {restored.kept_journal} was kept: it may know more than that of the backup")
    lines += [
        f"  {intent.id} {intent.action.label} {intent.release} was {intent.state}, and is unknown now"
        for intent in restored.suspended
    ]
    emit(mask_control_characters("\n".join(lines)))  # a backup may have been changed by hand
    if manifest.changed_by_hand:
        session.say(f"warning: the backup had been changed by hand: {manifest.changed_by_hand}")
    session.say(
        f"what was decided after {made_at} is unknown to this store: verdicts, holds, promotions and rollbacks. Check "
        "which version has the traffic. To promote, judge again, and request it again; "
        f"`{quote_command('hooks', 'log')}` lists what is known"
    )
    return 0


@click.command("new-decisions")
@click.option("--reason", required=True, help="Why, in a sentence; it is kept in the audit trail.")
@click.pass_obj
def new_decisions(session: Session, reason: str) -> int:
    """Begin with new decisions if the file with those before is lost, and there is no backup of it.

    All verdicts, requests and the audit trail before are lost, which is the first row of the new one. The data stay, so
    every release can be judged again. Nothing is promoted on a verdict from before.
    """
    from evaluator.intents import system_person
    from evaluator.store.new_decisions import begin_decisions

    if not reason.strip():
        raise UsageError("the reason is missing", hint="say in one sentence how the decisions were lost")
    one_line = " ".join("".join(char if char.isprintable() else " " for char in reason).split())[:1000]
    begun = begin_decisions(session.store_path, system_person().name, one_line)
    emit(f"{session.store_path}: new decisions on {count_of(len(begun.releases), 'release')}; those before are lost")
    for release in begun.releases:
        services = " and ".join(service.name for service in release.services)
        known = f"service {services}" if services else "its service is not known"
        emit(mask_control_characters(f"  {release.id}: {known}, no versions"))
    session.say(
        "lost are also services, versions and labels of releases, and what calibration learnt. Set services again with "
        "`evaluator data service`, where services have policies of their own; land data again with "
        "--baseline-version and --canary-version, where hooks use versions. Check which version has the traffic"
    )
    return 0
