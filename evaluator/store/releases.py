"""Releases as rows of the control file, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from evaluator.errors import UnknownName
from evaluator.records import Release, Service
from evaluator.store.control_file import Connection, to_text, to_time


def put_release(connection: Connection, release: Release) -> None:
    """Store a release; it replaces a stored one of the same id."""
    connection.execute(
        "INSERT OR REPLACE INTO releases VALUES (?, ?, ?, ?)",
        [
            release.id,
            json.dumps([asdict(service) for service in release.services]),
            json.dumps(dict(release.labels), sort_keys=True),
            to_text(release.created_at or datetime.now(UTC)),
        ],
    )


def find_release(connection: Connection, release_id: str) -> Release | None:
    """Read a release; `None` if it is not in the store."""
    rows = connection.execute("SELECT * FROM releases WHERE id = ?", [release_id]).fetchall()
    return to_release(rows[0]) if rows else None


def to_release(row: Sequence[Any]) -> Release:
    """Make a release from its row: id, services (JSON), labels (JSON), time; what follows is ignored."""
    release_id, services_json, labels_json, created_at = row[:4]
    services = tuple(Service(**service) for service in json.loads(services_json))
    return Release(release_id, services, json.loads(labels_json), to_time(created_at) if created_at else None)


def read_release(connection: Connection, release_id: str) -> Release:
    """Read a release. Raises UnknownName, which lists the releases of the store."""
    release = find_release(connection, release_id)
    if release is None:
        ids = [row[0] for row in connection.execute("SELECT id FROM releases").fetchall()]
        raise UnknownName("release", release_id, ids)
    return release
