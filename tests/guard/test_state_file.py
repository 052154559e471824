"""The file of a guarded rollout survives kills, full disks and damage, or says that it does not."""

from __future__ import annotations

import contextlib
import os
import subprocess

import pytest

from evaluator.errors import HookError
from evaluator.guard import state_file
from evaluator.guard.state_file import StateFile, find_state_files


def make(*folders):
    for folder in folders:
        folder.mkdir(exist_ok=True)
    return StateFile(tuple(folder / "r1.guard" for folder in folders))


def test_what_was_written_last_is_read(tmp_path):
    file = make(tmp_path / "a", tmp_path / "b")
    file.make({"n": 0})
    for n in range(1, 6):
        file.write({"n": n})
    for folder in ("a", "b"):
        [found] = find_state_files([tmp_path / folder]).values()
        stored = found.read()
        assert (stored.state, stored.is_damaged) == ({"n": 5}, False)
    assert oct((tmp_path / "a" / "r1.guard").stat().st_mode)[-3:] == "600"


@pytest.mark.parametrize("calls", range(6))
def test_a_kill_in_a_write_leaves_the_state_before_or_the_new_one(calls, tmp_path, monkeypatch):
    file = make(tmp_path)
    file.make({"n": 1})
    file.write({"n": 2})
    done = 0
    real = os.pwrite

    def pwrite(handle, data, at):
        """Write half of it in the call in which the process is killed."""
        nonlocal done
        done += 1
        if done > calls:
            if len(data) > 100:
                real(handle, data[: len(data) // 2], at)
            raise KeyboardInterrupt
        return real(handle, data, at)

    monkeypatch.setattr(state_file.os, "pwrite", pwrite)
    try:
        file.write({"n": 3, "text": "x" * 500})
        ended = True
    except KeyboardInterrupt:
        ended = False
    monkeypatch.undo()
    stored = make(tmp_path).read()
    assert stored.state["n"] == (3 if ended else 2)
    assert not stored.is_damaged


def test_damage_is_known(tmp_path):
    file = make(tmp_path)
    file.make({"n": 1})
    file.write({"n": 2})
    path = tmp_path / "r1.guard"
    content = bytearray(path.read_bytes())
    content[content.index(b'{"n":2}') + 5] ^= 1
    path.write_bytes(content)
    stored = make(tmp_path).read()
    assert (stored.state, stored.is_damaged) == ({"n": 1}, True)
    path.write_bytes(b"\xff" * len(content))
    assert make(tmp_path).read() is None
    path.write_bytes(b"")
    assert make(tmp_path).read() is None


def test_going_back_is_in_both_slots(tmp_path):
    file = make(tmp_path)
    file.make({"is_back": False})
    file.write({"is_back": True}, twice=True)
    path = tmp_path / "r1.guard"
    content = path.read_bytes()
    half = len(content) // 2
    for damaged in (b"\xff" * half + content[half:], content[:half] + b"\xff" * half):
        path.write_bytes(damaged)
        assert make(tmp_path).read().state == {"is_back": True}


def test_one_copy_is_enough(tmp_path):
    file = make(tmp_path / "a", tmp_path / "b")
    file.make({"n": 1})
    file.write({"n": 2})
    (tmp_path / "a" / "r1.guard").unlink()
    assert make(tmp_path / "a", tmp_path / "b").read().state == {"n": 2}
    file.write({"n": 3})
    assert make(tmp_path / "b").read().state == {"n": 3}


def test_another_process_that_wrote_is_noticed(tmp_path):
    file = make(tmp_path)
    file.make({"n": 1})
    assert file.read_newer() is None
    other = make(tmp_path)
    other.read()
    other.write({"n": 2})
    assert file.read_newer().state == {"n": 2}
    assert file.read_newer() is None


def test_links_of_other_users_are_not_followed(tmp_path):
    (tmp_path / "target").write_bytes(b"keep")
    (tmp_path / "r1.guard").symlink_to(tmp_path / "target")
    with pytest.raises(HookError, match="cannot be made"):
        make(tmp_path).make({"n": 1})
    assert (tmp_path / "target").read_bytes() == b"keep"


def fill(path):
    """Fill the disk with a file."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as filling:
        while True:
            filling.write(b"x" * 4096)


def test_a_full_disk_stops_no_write(tmp_path):
    mounted = tmp_path / "small"
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", mounted], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        file = make(mounted)
        file.make({"n": 1})
        fill(mounted / "fill")
        file.write({"n": 2})
        with pytest.raises(HookError, match="No space left"):
            StateFile((mounted / "r2.guard",)).make({"n": 1})
        assert not (mounted / "r2.guard").exists()
        assert file.read().state == {"n": 2}
    finally:
        file.close()
        subprocess.run(["umount", mounted], check=True)
