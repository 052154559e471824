"""Which records the audit trail covers, and whether they are what was written.

A row of the trail has the hash of each verdict, each request and each approval. A record without such a row was added
by hand, and a row without its record shows one that was edited or deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from evaluator.errors import StoreError
from evaluator.records.intents import JUDGED, IntentState
from evaluator.store import audit, intents, restarts, rollouts
from evaluator.store.control_file import Connection

IMPORTED = "imported"
"""Event that covers a record of an older store, which had no such rows."""

_EVENTS = (JUDGED, intents.REQUESTED, intents.APPROVED, IMPORTED, restarts.RESTORED, restarts.BEGUN, rollouts.STARTED)
_NEEDS_APPROVALS = (IntentState.APPROVED, IntentState.SENT, IntentState.ACKNOWLEDGED)
"""States of a request that it has only with all its approvals."""


def hash_verdict_row(release: str, judged_at: str, word: str, verdict_hash: str) -> str:
    """Hash what is stored of a verdict; `verdict_hash`: hash of its JSON."""
    return audit.hash_values(release, judged_at, word, verdict_hash)


def list_records(connection: Connection, release: str | None = None) -> Iterator[tuple[str, str, str]]:
    """Yield each record that a row of the trail must cover: its release, its name for people, and its hash.

    `release`: only the records of this release; `None`: all.
    """
    verdicts = connection.execute(
        "SELECT release, judged_at, word, verdict FROM verdicts WHERE ? IS NULL OR release = ? ORDER BY number",
        [release, release],
    )
    for of_release, judged_at, word, verdict_json in verdicts:
        name = f"the verdict of {judged_at[:19]} on {of_release}"
        yield of_release, name, hash_verdict_row(of_release, judged_at, word, audit.hash_text(verdict_json))
    for intent in intents.select(connection, "WHERE ? IS NULL OR release = ?", [release, release]):
        yield intent.release, f"the request {intent.id}", intents.hash_intent(intent)
        for approval in intents.read_approvals(connection, intent.id):
            name = f"the approval of {intent.id} by {approval.person}"
            yield intent.release, name, intents.hash_approval(approval)
    for rollout in rollouts.select(connection, "WHERE ? IS NULL OR release = ?", [release, release]):
        yield rollout.release, f"the rollout {rollout.id}", rollouts.hash_rollout(rollout)
    if release is None:  # restarts are of all releases
        for restart in restarts.read(connection):
            yield "", f"the restart of {restart.at:%Y-%m-%dT%H:%M:%S}", restarts.hash_restart(restart)


def verify_records(connection: Connection, release: str | None = None) -> None:
    """Check that records and rows of the trail that cover them agree. Raises StoreError, which names what differs.

    `release`: only those of this release; `None`: all. The trail itself is checked by `audit.verify`.
    """
    rows = audit.read(connection, release)
    uncovered = Counter(row.covers for row in rows if row.covers and row.event in _EVENTS)
    for _, name, content_hash in list_records(connection, release):
        if not uncovered[content_hash]:
            raise _explain_change(f"{name} is not what was written")
        uncovered[content_hash] -= 1
    for row in rows:
        if uncovered[row.covers]:
            what = f"what row {row.number} of the audit trail recorded ({row.event} {row.release} {row.intent}".rstrip()
            raise _explain_change(f"{what}) is gone")
    for intent in intents.select(connection, "WHERE ? IS NULL OR release = ?", [release, release]):
        approvals = len(intents.read_approvals(connection, intent.id))
        if intent.state in _NEEDS_APPROVALS and approvals < intent.approvals_needed:
            raise _explain_change(
                f"the request {intent.id} is {intent.state}, but has {approvals} of {intent.approvals_needed} approvals"
            )


def _explain_change(what: str) -> StoreError:
    return StoreError(
        f"the decisions were changed by hand: {what}", hint="compare with an export or a backup of the store"
    )
