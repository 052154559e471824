"""Finished trials on disk: one line of JSON each, one file per design, so that an interrupted run can continue."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import evaluator
from arena.grid import Trial

__all__ = ["Record", "append", "find_open", "fingerprint", "read_results"]

Record = Mapping[str, Any]

PEERS = ("grid.py", "kayenta.py", "peers.py", "trial.py")
NOT_ASKED = ("__main__.py", "cli", "pipeline", "reports", "sources", "store")
"""Packages that a judged simulation does not use."""


def fingerprint() -> str:
    """Compute a digest of the code that decides the result of a trial; strings count, comments and formatting do not.

    Results of different code are kept apart.
    """
    package = Path(evaluator.__file__).parent
    judging = [p for p in package.rglob("*.py") if p.relative_to(package).parts[0] not in NOT_ASKED]
    digest = hashlib.sha256()
    for path in sorted([*judging, *(Path(__file__).parent / name for name in PEERS)]):
        digest.update(ast.dump(ast.parse(path.read_bytes())).encode())
    for path in sorted(package.rglob("*.npz")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def read_results(folder: Path) -> dict[str, list[Record]]:
    """Read records by design, in the order of their seeds; of a seed with several records, the last counts."""
    out = {}
    for path in sorted(folder.glob("*.jsonl")):
        records = {record["seed"]: record for record in _read_lines(path)}
        out[path.stem] = [records[seed] for seed in sorted(records)]
    return out


def _read_lines(path: Path) -> Iterable[Record]:
    """Read complete lines; if the run was interrupted, one may be incomplete."""
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def find_open(trials: Iterable[Trial], done: Mapping[str, list[Record]]) -> list[Trial]:
    """Find trials that have not been run yet, or not with all their kinds of monitoring."""
    known = {(name, record["seed"]): set(record.get("ours", ())) for name, rows in done.items() for record in rows}
    return [trial for trial in trials if not set(trial.modes) <= known.get((trial.design, trial.seed), set())]


def append(folder: Path, record: Record) -> None:
    """Add one finished trial."""
    path = folder / f"{record['design']}.jsonl"
    with path.open("a", encoding="utf-8") as file:
        # The line before may be incomplete: begin a new one. Empty lines are skipped.
        file.write("\n" + json.dumps(record, allow_nan=False) + "\n")
