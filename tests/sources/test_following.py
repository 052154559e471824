"""A log is followed through every kind of rotation: no line is lost or read twice, and what cannot be seen is named."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import shutil
from dataclasses import replace

import pytest

from evaluator.errors import InputError
from evaluator.sources.access_logs import following, log_files
from evaluator.sources.access_logs.following import LogFollower
from evaluator.sources.access_logs.log_files import read_first_lines


class Writer:
    """A router that writes numbered lines, as one that has the file open does, and programs that rotate its log."""

    def __init__(self, folder):
        self.path = folder / "access.log"
        self.written = []
        self.opened = []
        self.open()

    def close(self):
        for file in self.opened:
            file.close()

    def open(self):
        self.file = self.path.open("ab", buffering=0)
        self.opened.append(self.file)

    def write(self, lines=1):
        for _ in range(lines):
            line = b"%d %s" % (len(self.written), b"x" * (len(self.written) % 50))
            self.written.append(line)
            self.file.write(line + b"\n")

    def rename(self, *, keep_writing=0):
        """Rotate by rename; `keep_writing`: lines that go to the renamed file before the router opens the new one."""
        numbered = sorted(self.path.parent.glob("access.log.*"), key=lambda path: -int(path.name.split(".")[2]))
        for path in numbered:
            number = int(path.name.split(".")[2])
            path.rename(path.with_name(path.name.replace(f".{number}", f".{number + 1}")))
        self.path.rename(self.path.with_name("access.log.1"))
        self.write(keep_writing)
        self.file.close()
        self.open()

    def compress(self):
        for path in self.path.parent.glob("access.log.*"):
            if not path.name.endswith(".gz"):
                with gzip.open(f"{path}.gz", "wb") as packed:
                    packed.write(path.read_bytes())
                shutil.copystat(path, f"{path}.gz")
                path.unlink()

    def copy_and_truncate(self):
        shutil.copyfile(self.path, self.path.with_name("access.log.1"))
        os.truncate(self.path, 0)


def list_holes(follower):
    return [hole.text for hole in follower.take_holes()]


def read_all(follower):
    lines = []
    while block := follower.read_block():
        lines += block.lines
    return lines


@pytest.fixture
def writer(tmp_path):
    with contextlib.closing(Writer(tmp_path)) as writer:
        yield writer


@pytest.fixture
def follow():
    followers = []

    def make(*args, **options):
        followers.append(LogFollower(*args, **options))
        return followers[-1]

    yield make
    for follower in followers:
        with contextlib.suppress(OSError):  # closed by the test
            follower.close()


def test_from_now_reads_what_is_written_from_now_on(follow, writer):
    writer.write(3)
    writer.file.write(b"3 cut in ")
    writer.written.append(b"3 cut in the middle")
    follower = follow(writer.path)
    assert read_all(follower) == []
    writer.file.write(b"the middle\n")
    writer.write(2)
    block = follower.read_block()
    assert block.lines == writer.written[3:]
    assert block.is_fresh
    assert follower.is_caught_up


def test_from_start_reads_all_and_a_line_only_when_it_is_whole(follow, writer):
    writer.write(3)
    writer.file.write(b"half")
    follower = follow(writer.path, from_start=True)
    assert read_all(follower) == writer.written
    writer.file.write(b" a line\n")
    assert read_all(follower) == [b"half a line"]


def test_a_rename_loses_nothing_also_if_the_router_writes_on(follow, writer):
    follower = follow(writer.path)
    writer.write(2)
    lines = read_all(follower)
    writer.write(2)
    writer.rename(keep_writing=3)
    writer.write(2)
    lines += read_all(follower)
    assert lines == writer.written
    assert list_holes(follower) == []


def test_the_old_file_is_read_until_it_was_silent_for_a_while(follow, writer):
    now = 0.0
    follower = follow(writer.path, clock=lambda: now)
    writer.write()
    old = writer.file
    writer.path.rename(writer.path.with_name("access.log.1"))
    writer.open()
    read_all(follower)
    now = following.GRACE_S - 1
    old.write(b"late\n")
    assert read_all(follower) == [b"late"]
    now += following.GRACE_S + 1
    old.write(b"without its end")
    assert read_all(follower) == []  # it has grown, so it is not over
    now += following.GRACE_S + 1
    assert read_all(follower) == [b"without its end"]
    assert [position.is_done for position in follower.positions()] == [True, False]


def test_several_rotations_between_two_looks(follow, writer):
    follower = follow(writer.path)
    writer.write(3)
    lines = read_all(follower)
    for _ in range(4):
        writer.write(2)
        writer.rename(keep_writing=1)
    writer.write(2)
    assert lines + read_all(follower) == writer.written
    assert list_holes(follower) == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_restart_after_several_rotations(follow, writer, packed):
    writer.write(50)
    writer.rename()
    follower = follow(writer.path)
    writer.write(200)
    lines = read_all(follower)
    positions = follower.positions()
    follower.close()
    for _ in range(3):
        writer.write(100)
        writer.rename(keep_writing=2)
    if packed:
        writer.compress()
    writer.write(5)
    follower = follow(writer.path, positions)
    assert lines + read_all(follower) == writer.written[50:]
    assert list_holes(follower) == []


def test_a_restart_in_a_packed_file_and_again(follow, writer, monkeypatch):
    monkeypatch.setattr(log_files, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(log_files, "LONGEST_LINE_BYTES", 500)
    follower = follow(writer.path)
    writer.write(20)
    lines = read_all(follower)
    writer.write(500)
    writer.rename()
    writer.write(10)
    writer.compress()
    for _ in range(4):
        follower = follow(writer.path, follower.positions())
        lines += follower.read_block().lines
    follower = follow(writer.path, follower.positions())
    assert lines + read_all(follower) == writer.written


def test_a_file_that_is_just_being_packed_is_not_read_as_text(follow, writer):
    writer.write(5)
    follower = follow(writer.path)
    writer.write(3000)
    follower.close()
    writer.rename()
    writer.write(5)
    writer.rename()
    writer.write(5)
    oldest = writer.path.with_name("access.log.2")
    packed = oldest.with_name("access.log.2.gz")
    packed.touch()
    os.utime(packed, ns=(oldest.stat().st_atime_ns, oldest.stat().st_mtime_ns))
    follower = follow(writer.path, follower.positions())
    lines = read_all(follower)
    with gzip.open(packed, "wb") as stream:
        stream.write(oldest.read_bytes())
    oldest.unlink()
    assert lines + read_all(follower) == writer.written[5:]


@pytest.mark.parametrize(("generation", "holes"), [(-1, 0), (None, 1)])
def test_an_inode_that_is_used_again_is_another_file(follow, writer, generation, holes):
    """The log was renamed and packed, and the new one got its inode: it was not emptied."""
    writer.write(5)
    follower = follow(writer.path, from_start=True)
    lines = read_all(follower)
    writer.write(5)
    follower.close()
    writer.rename()
    writer.compress()
    writer.write(5)
    status = writer.path.stat()
    [position] = follower.positions()
    reused = replace(position, device=status.st_dev, inode=status.st_ino, generation=generation)
    follower = follow(writer.path, [reused])
    assert lines + read_all(follower) == writer.written
    assert len(list_holes(follower)) == holes


def test_packing_what_was_read_does_not_repeat_it(follow, writer):
    follower = follow(writer.path)
    writer.write(100)
    writer.rename(keep_writing=1)
    lines = read_all(follower)
    writer.compress()
    writer.rename()
    lines += read_all(follower)
    follower = follow(writer.path, follower.positions())
    writer.write(1)
    writer.compress()
    follower = follow(writer.path, follower.positions())
    assert lines + read_all(follower) == writer.written


def test_copytruncate_reads_the_copy_and_names_the_hole(follow, writer):
    follower = follow(writer.path)
    writer.write(10)
    lines = read_all(follower)
    writer.write(10)
    writer.copy_and_truncate()
    writer.write(3)
    assert lines + read_all(follower) == writer.written
    assert list_holes(follower) == [
        f"{writer.path} was copied and emptied (copytruncate): lines written between the two were lost"
    ]
    assert list_holes(follower) == []


@pytest.mark.parametrize("restarts", [False, True])
def test_a_copy_that_the_next_one_overwrites_is_not_read_twice(follow, writer, restarts):
    """`cp access.log access.log.1; : > access.log` writes into the same file each time."""
    follower = follow(writer.path)
    lines = []
    for _ in range(4):
        writer.write(20)
        lines += read_all(follower)
        writer.write(5)
        writer.copy_and_truncate()
        writer.write(10)
        lines += read_all(follower)
        assert len(list_holes(follower)) == 1, "between copying and emptying"
        if restarts:
            follower.close()
            follower = follow(writer.path, follower.positions())
            lines += read_all(follower)
    assert sorted(lines) == sorted(writer.written)


def test_many_copies_between_restarts_are_not_read_twice(follow, writer):
    follower = follow(writer.path)
    writer.write(5)
    lines = read_all(follower)
    writer.rename()  # this file is read for another minute
    for number in range(12):
        writer.write(20)
        lines += read_all(follower)
        shutil.copyfile(writer.path, writer.path.with_name(f"access.log-202611{number:02}"))
        os.truncate(writer.path, 0)
        writer.write(5)
        lines += read_all(follower)
        follower.close()
        follower = follow(writer.path, follower.positions())
        lines += read_all(follower)
    assert sorted(lines) == sorted(writer.written)


def test_copytruncate_while_away(follow, writer):
    follower = follow(writer.path)
    writer.write(10)
    lines = read_all(follower)
    writer.write(10)
    writer.copy_and_truncate()
    writer.write(30)
    follower = follow(writer.path, follower.positions())
    assert lines + read_all(follower) == writer.written
    [hole] = list_holes(follower)
    assert "copytruncate" in hole


@pytest.mark.parametrize("lines_after", [2, 100])
def test_a_file_that_is_emptied_is_a_hole(follow, writer, lines_after):
    follower = follow(writer.path)
    writer.write(40)
    lines = read_all(follower)
    os.truncate(writer.path, 0)
    writer.write(lines_after)  # 100: the file is longer than before when it is looked at again
    assert lines + read_all(follower) == writer.written
    [(hole, seconds)] = [(hole.text, hole.seconds) for hole in follower.take_holes()]
    assert 0 <= seconds < 60
    assert hole.startswith(f"{writer.path} was emptied or written again: lines after byte ")


def test_a_writer_that_does_not_append_leaves_zeros(follow, tmp_path, monkeypatch):
    monkeypatch.setattr(log_files, "LONGEST_LINE_BYTES", 1000)
    path = tmp_path / "access.log"
    with path.open("wb", buffering=0) as file:
        follower = follow(path)
        file.write(b"a line\n" * 1000)
        assert len(read_all(follower)) == 1000
        os.truncate(path, 0)
        file.write(b"first\nsecond\n")
        assert read_all(follower) == [b"first", b"second"]
    assert len(list_holes(follower)) == 1


def test_a_file_that_disappears_and_comes_back(follow, writer):
    follower = follow(writer.path)
    writer.write(3)
    old = writer.file
    writer.path.unlink()
    lines = read_all(follower)
    assert follower.problem == "there is no such file"
    assert not follower.is_caught_up
    old.write(b"after\n")
    lines += read_all(follower)
    writer.open()
    writer.write(1)
    lines += read_all(follower)
    assert lines == [*writer.written[:3], b"after", writer.written[3]]
    assert follower.is_caught_up


@pytest.mark.parametrize(("restarts", "problem"), [(1, "there is no such file"), (3, "access.log is not a file")])
def test_a_file_that_comes_back_after_a_restart_goes_on_where_it_was_left(follow, writer, restarts, problem):
    """Its disk was not mounted yet."""
    writer.write(5)
    follower = follow(writer.path, from_start=True)
    lines = read_all(follower)
    away = writer.path.with_name("away")
    writer.path.rename(away)
    if "no such" not in problem:
        writer.path.mkdir()
    for _ in range(restarts):
        writer.write(2)
        follower.close()
        follower = follow(writer.path, follower.positions())
        assert read_all(follower) == []
        assert follower.problem.endswith(problem)
        assert not follower.is_caught_up
    if writer.path.is_dir():
        writer.path.rmdir()
    away.rename(writer.path)
    writer.write(2)
    assert lines + read_all(follower) == writer.written
    assert list_holes(follower) == []


def test_a_file_that_is_gone_after_a_restart_is_a_hole(follow, writer):
    follower = follow(writer.path)
    writer.write(3)
    read_all(follower)
    writer.path.unlink()
    writer.open()
    writer.write(2)
    follower = follow(writer.path, follower.positions())
    assert read_all(follower) == writer.written[3:]
    [hole] = list_holes(follower)
    assert hole.endswith(f" of {writer.path} is gone")


def test_a_file_that_does_not_exist_yet_is_read_from_its_start(follow, tmp_path):
    follower = follow(tmp_path / "access.log")
    assert follower.read_block() is None
    (tmp_path / "access.log").write_bytes(b"first\nsecond\n")
    block = follower.read_block()
    assert block.lines == [b"first", b"second"]
    assert block.is_fresh


def test_a_copy_in_place_of_the_log_is_not_read_again(follow, writer):
    follower = follow(writer.path)
    writer.write(30)
    lines = read_all(follower)
    shutil.copyfile(writer.path, writer.path.with_name("new"))
    writer.path.with_name("new").rename(writer.path)
    writer.open()
    writer.write(3)
    assert lines + read_all(follower) == writer.written


def test_a_symbolic_link_is_switched(follow, tmp_path):
    names = [f"access-2026-11-{day}.log" for day in (28, 29, 30)]
    link = tmp_path / "current.log"
    (tmp_path / names[0]).write_bytes(b"one\n")
    link.symlink_to(names[0])
    follower = follow(link, from_start=True)
    assert read_all(follower) == [b"one"]
    for number, name in enumerate(names[1:]):
        (tmp_path / name).write_bytes(b"day %d\n" % number)
        os.utime(tmp_path / name)
    link.unlink()
    link.symlink_to(names[2])
    again = follow(link, follower.positions())
    assert read_all(follower) == read_all(again) == [b"day 0", b"day 1"]


def test_another_log_of_the_folder_is_not_taken_for_a_rotated_one(follow, writer):
    follower = follow(writer.path)
    writer.write(1)
    lines = read_all(follower)
    writer.rename()
    for name in ("access.log.err", "access_ssl.log", "access.logs.1", "other.log.1"):
        writer.path.with_name(name).write_bytes(b"another\n")
    writer.write(1)
    assert lines + read_all(follower) == writer.written


def test_a_line_that_is_too_long_is_a_hole(follow, writer, monkeypatch):
    monkeypatch.setattr(log_files, "BLOCK_BYTES", 4000)
    monkeypatch.setattr(log_files, "LONGEST_LINE_BYTES", 1000)
    follower = follow(writer.path)
    writer.write(1)
    writer.file.write(b"y" * 1500 + b"\n")
    writer.write(1)
    writer.file.write(b"z" * 1500)
    lines = read_all(follower)
    writer.file.write(b"z" * 9000)
    read_all(follower)
    assert list_holes(follower) == [f"of {writer.path} longer than 1 MB"] * 2
    writer.file.write(b"z" * 9000)
    read_all(follower)
    assert list_holes(follower) == []  # the same line
    follower = follow(writer.path, follower.positions())
    writer.file.write(b"the end\n")
    writer.write(1)
    assert lines + read_all(follower) == writer.written


def test_what_cannot_be_followed_is_refused(follow, tmp_path):
    with pytest.raises(InputError, match="is not a file"):
        follow(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a file"):
        follow(tmp_path / "pipe")
    (tmp_path / "closed.log").touch(mode=0)
    if os.geteuid():
        with pytest.raises(InputError, match="cannot be read"):
            follow(tmp_path / "closed.log")


def test_the_first_lines_show_the_format(writer):
    assert read_first_lines(writer.path.with_name("none"), 3) == []
    writer.write(9)
    assert read_first_lines(writer.path, 3) == [line.decode() for line in writer.written[:3]]


@pytest.mark.parametrize("seed", range(12))
def test_random_rotations_and_restarts(follow, writer, seed, monkeypatch):
    monkeypatch.setattr(log_files, "BLOCK_BYTES", 1500)
    monkeypatch.setattr(log_files, "LONGEST_LINE_BYTES", 500)
    rng = random.Random(seed)
    follower = follow(writer.path)
    lines = []
    for _ in range(120):
        writer.write(rng.randrange(30))
        action = rng.choice(["read", "read all", "restart", "kill", "rename", "rename", "compress", "cut"])
        if action == "read" and (block := follower.read_block()):
            lines += block.lines
        elif action == "read all":
            lines += read_all(follower)
        elif action == "restart":
            follower.close()
            follower = follow(writer.path, follower.positions())
        elif action == "kill":  # what was read after the last saved position is read again
            positions = follower.positions()
            read_all(follower)
            follower = follow(writer.path, positions)
        elif action == "rename":
            writer.rename(keep_writing=rng.randrange(4))
        elif action == "compress":
            if not list(writer.path.parent.glob("*.gz")):
                writer.compress()
        elif action == "cut":
            writer.file.write(b"%d " % len(writer.written))
            if block := follower.read_block():
                lines += block.lines
            writer.file.write(b"cut\n")
            writer.written.append(b"%d cut" % len(writer.written))
    lines += read_all(follower)
    assert lines == writer.written
    assert list_holes(follower) == []
