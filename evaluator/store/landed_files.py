"""Files that have landed before, and files that say the same: their requests must not count twice."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from evaluator.errors import InputError
from evaluator.records import FilePlan, Landed, LandingPlan
from evaluator.store.engine import Engine
from evaluator.store.file import StoreFile
from evaluator.store.inspection import Inspection

__all__ = ["find_landed", "find_same", "hash_files", "match_landed"]


def hash_files(plan: LandingPlan, inspection: Inspection) -> dict[FilePlan, str]:
    """Hash what is taken of each file: what it says, and of which period."""
    hashes = {file: inspection.read(file).sha256 for file in plan.files}
    if plan.start is None and plan.end is None:
        return hashes
    period = f"{plan.start} {plan.end}"
    return {file: hashlib.sha256(f"{sha256} {period}".encode()).hexdigest() for file, sha256 in hashes.items()}


def find_same(files: Sequence[FilePlan], inspection: Inspection) -> list[str]:
    """Point out files of several arms that say the same. Raises InputError for two such files of one arm."""
    doubts = []
    known: dict[str, FilePlan] = {}
    known_of_arm: dict[tuple[str, str], FilePlan] = {}
    for file in files:
        content = inspection.read(file).content
        twin = known_of_arm.setdefault((file.arm, content), file)
        if twin is not file:
            raise InputError(
                f"{twin.path} and {file.path} have the same content: their requests would count twice",
                hint="give one of them",
            )
        other = known.setdefault(content, file)
        if other.path != file.path:
            doubts.append(f"{other.path} and {file.path} have the same content, which cannot show a difference")
    return doubts


def find_landed(store: StoreFile, release_id: str, plan: LandingPlan, inspection: Inspection) -> Landed | None:
    """Find the runs of a release in which the files of a plan have landed; none of them: `None`.

    Raises InputError where only some have.
    """
    with store.opened() as engine:
        if not engine.execute("SELECT 1 FROM store.runs WHERE release = ? LIMIT 1", [release_id]).fetchall():
            return None  # a file need not be hashed before it is read
    hashes = hash_files(plan, inspection)
    with store.opened() as engine:
        landed = match_landed(engine, release_id, hashes)
    if landed is None:
        return None
    as_said = {"parts": len(landed.runs) == 1, "replicates": landed.parts == (1,)}
    if plan.files_are is None or as_said[plan.files_are]:
        return landed
    doubt = (
        f"the files have landed otherwise than as {plan.files_are}; import them under another release id to judge so"
    )
    return dataclasses.replace(landed, doubts=(doubt,))


def match_landed(engine: Engine, release_id: str, hashes: Mapping[FilePlan, str]) -> Landed | None:
    """Tell whether these files have landed as one group, in whatever order and as whatever of runs.

    None of them: `None`. Raises InputError where some have.
    """
    rows = engine.execute(
        """SELECT runs."group", runs.id, sha256, rows FROM store.segments
        JOIN store.runs ON runs.id = segments.run WHERE release = ? ORDER BY runs."group", replicate, sha256""",
        [release_id],
    ).fetchall()
    arms = {sha256: file.arm for file, sha256 in hashes.items()}
    for group in dict.fromkeys(row[0] for row in rows):
        own = [(run, sha256, count) for of, run, sha256, count in rows if of == group]
        if arms.keys() <= {sha256 for _, sha256, _ in own}:
            counts = Counter((run, arms[sha256]) for run, sha256, count in own if sha256 in arms and count)
            runs = tuple(dict.fromkeys(run for run, *_ in own))
            return Landed(already=len(hashes), runs=runs, parts=tuple(sorted(set(counts.values()))))
    landed = {sha256: run for _, run, sha256, _ in rows}
    for file, sha256 in hashes.items():
        if sha256 in landed:
            raise InputError(
                f"{file.path} has been imported into '{release_id}' already (run {landed[sha256]});"
                " together with the other files it would count twice",
                hint="give only the new files, or import all of them under another release id",
            )
    return None
