"""Finds the files that a log was rotated into: by their names, their inodes, and the bytes that were read of them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluator.errors import InputError
from evaluator.sources.access_logs.log_files import FileId, FilePosition, FollowedFile

_PACKED = re.compile(r"\.(gz|bz2|xz|zst)$")
_TURN = r"[-._](?:\d[\d._T:Z+-]*|old|bak|prev)"
"""What rotation adds to a name: `.1`, `-20261129`, `.old`."""
_LEAST_DATE_DIGITS = 6
_ROUNDED_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RotatedFile:
    """A file that may have been the log before."""

    path: Path
    file_id: FileId
    changed_ns: int


def list_rotated(path: Path, earlier_paths: Collection[str] = ()) -> list[RotatedFile]:
    """List the file at `path` and those that it, or one of `earlier_paths`, may have been rotated into.

    They are sorted by the time of their last change, the file at `path` last. Files of other logs are left out, by
    their names.
    """
    names_by_folder: dict[Path, list[re.Pattern[str]]] = {}
    for place in dict.fromkeys([str(path), os.path.realpath(path), *earlier_paths]):
        folder, name = Path(place).parent, Path(place).name
        names_by_folder.setdefault(folder, []).append(_make_pattern(name, is_linked=path.is_symlink()))
    files: dict[FileId, RotatedFile] = {}
    for folder, patterns in names_by_folder.items():
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                if any(pattern.fullmatch(_PACKED.sub("", entry.name)) for pattern in patterns):
                    status = entry.stat()
                    file_id = (status.st_dev, status.st_ino)
                    files[file_id] = RotatedFile(Path(entry.path), file_id, status.st_mtime_ns)
    try:
        current_id = find_file_id(path)
    except OSError:
        current_id = None
    # Of two files that were changed in the same moment, the one with the higher number is the older one.
    return sorted(files.values(), key=lambda file: (file.file_id == current_id, file.changed_ns, _negate_number(file)))


def find_file_id(path: Path) -> FileId | None:
    """Device and inode of the file at a path; `None` if there is none. Raises OSError if that is not known."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _make_pattern(name: str, *, is_linked: bool) -> re.Pattern[str]:
    """Make the pattern of names that a file of this name may get by rotation, without the suffix of a packed file.

    `is_linked`: a symbolic link leads to the file. Then the next file may be one with another date in its name.
    """
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - also of names such as `.log`
    pattern = f"{re.escape(name)}(?:{_TURN})*|{re.escape(stem)}(?:{_TURN})+{re.escape(suffix)}"
    if is_linked and sum(character.isdigit() for character in name) >= _LEAST_DATE_DIGITS:
        pattern += "|" + re.sub(r"\d+", r"\\d+", re.escape(name))
    return re.compile(pattern)


def _negate_number(file: RotatedFile) -> int:
    """The number of a rotated file's name (`access.log.2`), negated; 0 if it has none."""
    number = re.search(r"\.(\d{1,4})$", _PACKED.sub("", file.path.name))
    return -int(number[1]) if number else 0


def open_log_file(file: RotatedFile, position: FilePosition | None = None) -> FollowedFile | None:
    """Open a file at its start, or at a position; `None` if it is gone, cannot be read or has not what was read."""
    try:
        opened = FollowedFile(file.path)
    except (OSError, InputError):
        return None
    if _PACKED.search(file.path.name) and not opened.is_packed:
        opened.close()
        return None  # it is empty, because it is just being packed: the file that it is made of is in the list, too
    if position is None:
        return opened
    try:
        is_same = opened.has_mark_of(position)
    except (OSError, InputError):
        is_same = False
    opened.close()
    return FollowedFile(file.path, position) if is_same else None


def find_position(files: Sequence[RotatedFile], position: FilePosition) -> tuple[RotatedFile, FollowedFile] | None:
    """Find the file that a position with a mark is in, by its inode, else by the bytes before the position; open it.

    `None` if no file has these bytes: it was deleted, or emptied.
    """
    same_inode = [file for file in files if file.file_id == position.file_id]
    # A copy, packed or not, is as new as what was read of it; some programs keep only the seconds of its time.
    newest_ns = position.changed_ns - _ROUNDED_NS
    others = [file for file in files if file not in same_inode and file.changed_ns >= newest_ns]
    for file in [*same_inode, *others]:
        opened = open_log_file(file, position)
        if opened is not None:
            return file, opened
    return None


def open_unread(
    files: Sequence[RotatedFile], positions: Sequence[FilePosition], opened_files: Sequence[FollowedFile]
) -> list[FollowedFile]:
    """Find the files that were written while others were followed, and not read yet; open them, the oldest first.

    `positions`: those of files that are followed or were read to their end; a file with the mark of one of them was
    read already, also if it is a packed copy. `opened_files`: those that are being read, with or without a mark. Inodes
    of others show nothing, because a number is used again when a file was deleted.
    """
    # Files that were changed last before all of those that are followed had been rotated before.
    oldest_ns = min((position.changed_ns for position in positions if not position.is_done), default=0)
    unread = []
    for file in files:
        if file.changed_ns < oldest_ns or any(file.file_id == opened.file_id for opened in opened_files):
            continue
        candidate = open_log_file(file)
        if candidate is None:
            continue
        try:
            is_known = any(position.mark_bytes and candidate.has_mark_of(position) for position in positions)
            is_copy = any(candidate.starts_like(opened) for opened in opened_files if not opened.offset)
        except (OSError, InputError):
            is_known = is_copy = True  # it is being packed now, from a file that is in the list, too
        if is_known or is_copy:
            candidate.close()
        else:
            unread.append(candidate)
    return unread
