"""Follows one access log while it is written: through rotation, and from the position at which it was left.

A log that is rotated by a rename loses no line and repeats none. One that is copied and emptied (copytruncate) loses
what was written between the two steps: this is named as a hole, because no program can see these lines.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluator.errors import InputError, SourceError
from evaluator.sources.access_logs.log_files import FileId, FilePosition, FollowedFile, LineBlock, Truncated
from evaluator.sources.access_logs.rotation import find_file_id, find_position, list_rotated, open_unread

GRACE_S = 60.0
"""A rotated file is read until nothing was added for this long: processes of a router may write on for a while."""

_MOST_DONE = 8
"""How many files that were read to their end are remembered, so that their packed copies are not read again; and as
many more as a start may find, because they were changed after a file that is still read."""


@dataclass(frozen=True, slots=True)
class Hole:
    """A part of a log that could not be read."""

    text: str
    """A sentence for people; of whole lines the end of one that begins with their number, `3 lines …`."""
    seconds: float | None = None
    """How long it is at most (s); `None`: not known."""
    lines: int = 0
    """Number of lines, if whole lines were not read; else 0."""


class LogFollower:
    """One path, the files that it has led to and that may still grow, and the positions in them."""

    def __init__(
        self,
        path: Path,
        positions: Sequence[FilePosition] = (),
        *,
        from_start: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Follow `path` from the `positions` that `positions()` gave, else from its end, or its start (`from_start`).

        A file that does not exist yet is read from its start. Raises InputError for a path that cannot be followed.
        """
        self.path = path
        self._clock = clock
        self._files: list[FollowedFile] = []
        """The oldest first; the last one is that to which the path leads, if it leads to any."""
        self._done: list[FilePosition] = [position for position in positions if position.is_done]
        self._awaited: list[FilePosition] = []
        """Positions in a file that was not there at the start, and may come back: a disk is not mounted yet."""
        self._copies: set[FollowedFile] = set()
        """Copies of the log that were made before it was emptied: they do not grow."""
        self._grown_at: dict[FollowedFile, float] = {}
        """File → when it had lines last (`clock`)."""
        self._holes: list[Hole] = []
        self._read_at: dict[FollowedFile, float] = {}
        """File → when it was read last (`clock`)."""
        self._has_started = False
        self.problem = ""
        """Why the path cannot be read now: there is no file, or it may not be read; empty if it can."""
        if any(not position.is_done for position in positions):
            self._resume([position for position in positions if not position.is_done])
        elif path.exists():
            try:
                self._add(FollowedFile(path, at_end=not from_start))
            except OSError as error:
                raise InputError(f"{path} cannot be read: {error.strerror}", hint="let this user read it") from error
        self._look_at_path()
        self._has_started = True

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()

    def positions(self) -> tuple[FilePosition, ...]:
        """Up to where the files were read, the oldest first: from there another follower goes on."""
        return (*self._done, *self._awaited, *(file.make_position() for file in self._files))

    def take_holes(self) -> list[Hole]:
        """Return, once, the parts of the log that could not be read."""
        holes, self._holes = self._holes, []
        return holes

    @property
    def is_caught_up(self) -> bool:
        """Is there a file, and was everything read that was in it at the last look?"""
        return not self.problem and bool(self._files) and all(file.is_at_end for file in self._files)

    def read_block(self) -> LineBlock | None:
        """Read the next whole lines; `None` if there are no new ones now. Raises SourceError if the disk fails."""
        self._look_at_path()
        for file in tuple(self._files):
            was_at_end, changed_before = file.is_at_end, file.changed_ns
            try:
                lines, too_long = file.read_lines()
            except Truncated:
                if file is self._files[-1]:
                    self._go_on_after_truncation(file)
                else:
                    self._leave_overwritten(file)
                return self.read_block()
            except OSError as error:
                raise SourceError(f"{file.path} cannot be read: {error.strerror}") from error
            except InputError as error:
                self._holes.append(Hole(f"the rest of {file.path} could not be read: {error.message}"))
                self._finish(file)
                continue
            if too_long:
                self._holes.append(Hole(f"of {self.path} longer than 1 MB", lines=too_long))
            self._read_at[file] = self._clock()
            if lines or file.changed_ns != changed_before:
                self._grown_at[file] = self._clock()
            if lines:
                return LineBlock(self.path, file.file_id, lines, is_fresh=was_at_end and file is self._files[-1])
            is_silent = file in self._copies or self._clock() - self._grown_at[file] > GRACE_S
            if file is not self._files[-1] and file.is_at_end and is_silent:
                rest = file.read_rest()
                self._finish(file)
                if rest:
                    return LineBlock(self.path, file.file_id, rest, is_fresh=False)
        return None

    # -------------------------------------------------------------- rotation

    def _look_at_path(self) -> None:
        """Find out whether the path leads to another file than before; if so, read those in between and that one."""
        try:
            current_id = find_file_id(self.path)
            self.problem = "" if current_id else "there is no such file"
            if current_id is None or (self._files and current_id == self._files[-1].file_id):
                return
            newest = self._files[-1].make_position() if self._files else None
            current = FollowedFile(self.path)
        except InputError as error:
            self.problem = error.message
            return
        except OSError as error:
            self.problem = error.strerror or str(error)
            return
        if newest is not None:
            rotated = list_rotated(self.path, {position.path for position in self.positions()})
            others = [file for file in rotated if file.file_id != current.file_id]
            for unread in open_unread(others, self.positions(), self._files):
                self._add(unread)
            if newest.mark_bytes and current.has_mark_of(newest):
                # Another file with the same bytes: a copy has replaced the log. What was read is not read again.
                current.close()
                current = FollowedFile(self.path, newest)
        if self._has_started:
            current.is_at_end = True  # all of its lines were written since the last look
        self._add(self._go_on_where_awaited(current))

    def _is_log_of(self, position: FilePosition) -> bool:
        """Is the file of a position still the log, and not another file with the same inode?"""
        try:
            current = FollowedFile(self.path)
        except (OSError, InputError):
            return False
        with contextlib.closing(current):
            is_new = None not in (position.generation, current.generation) and position.generation != current.generation
            return current.file_id == position.file_id and not is_new

    def _can_be_opened(self) -> bool:
        """Does the path lead to a file that can be read now?"""
        try:
            FollowedFile(self.path).close()
        except (OSError, InputError):
            return False
        return True

    def _go_on_where_awaited(self, current: FollowedFile) -> FollowedFile:
        """Open a file at the position that was awaited, if it has what was read; else name what is gone."""
        awaited, self._awaited = self._awaited, []
        found = [position for position in awaited if current.has_mark_of(position)]
        if found:
            current.close()
            return FollowedFile(self.path, max(found, key=lambda position: position.offset))
        self._holes += [_describe_gone(position) for position in awaited]
        return current

    def _go_on_after_truncation(self, file: FollowedFile) -> None:
        """Read the rest of what a file had from a copy of it, if there is one; then the file from its start."""
        position = file.make_position()
        # What was lost was written between two looks.
        lost_s = self._clock() - self._read_at[file] if file in self._read_at else None
        others = [
            rotated for rotated in list_rotated(self.path, {position.path}) if rotated.file_id not in self._open_ids()
        ]
        located = find_position(others, position) if position.mark_bytes else None
        if located:
            _, copy = located
            self._copies.add(copy)
            self._files.insert(self._files.index(file), copy)
            self._grown_at[copy] = self._clock()
            self._holes.append(Hole(self._describe_copying(), lost_s))
        else:
            text = f"{self.path} was emptied or written again: lines after byte {position.offset} were lost"
            self._holes.append(Hole(text, lost_s))
        file.restart()

    def _leave_overwritten(self, file: FollowedFile) -> None:
        """Stop reading a rotated file that has other contents now, such as the next copy of the log.

        These are read from the log itself. What was not read of the file before is lost.
        """
        if not file.is_at_end:
            offset = file.make_position().offset
            self._holes.append(Hole(f"{file.path} was written again: lines after byte {offset} were lost"))
        self._finish(file)

    def _describe_copying(self) -> str:
        """Describe the hole that is left when a log is copied and emptied."""
        return f"{self.path} was copied and emptied (copytruncate): lines written between the two were lost"

    def _resume(self, positions: Sequence[FilePosition]) -> None:
        """Open the files in which a follower has been, those written since, and last the one the path leads to."""
        rotated = list_rotated(self.path, {position.path for position in positions})
        try:
            current_id = find_file_id(self.path)
        except OSError:
            current_id = None  # `_look_at_path` finds out why
        for position in positions:
            if not position.mark_bytes:
                continue  # nothing was read of the file: it is found among the unread ones
            located = find_position(rotated, position)
            if located is None and position == positions[-1] and not self._can_be_opened():
                self._awaited.append(position)
                continue
            if located is None:
                self._holes.append(_describe_gone(position))
                continue
            file, opened = located
            self._add(opened)
            if position.file_id != file.file_id and self._is_log_of(position):
                # The inode is still that of the log, but its contents are in another file.
                self._copies.add(opened)
                self._holes.append(Hole(self._describe_copying()))
        others = [file for file in rotated if file.file_id != current_id]  # the path itself is opened later
        for unread in open_unread(others, [*self._done, *positions], self._files):
            self._add(unread)
        if self._files and current_id in self._open_ids():  # the path leads to the last file of the list
            current = next(opened for opened in self._files if opened.file_id == current_id)
            self._files.remove(current)
            self._files.append(current)

    # -------------------------------------------------------------- the list of files

    def _open_ids(self) -> set[FileId]:
        """Device and inode of each file that is open."""
        return {file.file_id for file in self._files}

    def _add(self, file: FollowedFile) -> None:
        """Read this file from now on, after all others."""
        self._files.append(file)
        self._grown_at[file] = self._clock()

    def _finish(self, file: FollowedFile) -> None:
        """Stop reading a file that has come to its end."""
        self._files.remove(file)
        done = [*self._done, file.make_position(is_done=True)]
        oldest_ns = min((other.changed_ns for other in self._files), default=0)
        is_recent = [position.changed_ns >= oldest_ns and bool(self._files) for position in done[:-_MOST_DONE]]
        self._done = [*itertools.compress(done[:-_MOST_DONE], is_recent), *done[-_MOST_DONE:]]
        del self._grown_at[file]
        self._read_at.pop(file, None)
        self._copies.discard(file)
        with contextlib.suppress(OSError):
            file.close()


def _describe_gone(position: FilePosition) -> Hole:
    """Describe what was not read of a file that is no longer there."""
    return Hole(f"what followed byte {position.offset} of {position.path} is gone")
