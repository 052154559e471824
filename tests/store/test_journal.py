"""The journal of rollbacks: whatever happens to a copy, what was written before is read, or its cause is named."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from evaluator import second_disk
from evaluator.errors import StoreError
from evaluator.store import journal as journal_module
from evaluator.store.journal import AREA_BYTES, Journal, default_paths


@pytest.fixture
def journal(tmp_path):
    made = Journal((tmp_path / "a.journal", tmp_path / "other" / "b.journal"))
    made.make()
    return made


def record(number, **more):
    return {"at": f"2026-01-01T00:00:{number:09d}", "number": number, **more}


def numbers(journal):
    return [entry["number"] for entry in journal.read()]


def test_what_is_written_is_read_in_order_from_every_copy(journal):
    for number in range(5):
        journal.append(record(number, text="é" * number))
    assert numbers(journal) == [0, 1, 2, 3, 4]
    for path in journal.paths:
        assert numbers(Journal((path,))) == [0, 1, 2, 3, 4]
        assert path.stat().st_size == 2 * AREA_BYTES
        assert path.stat().st_mode & 0o077 == 0


def test_making_it_again_changes_nothing(journal):
    journal.append(record(1))
    assert journal.make() == journal.paths
    assert numbers(journal) == [1]


def test_a_full_area_is_left_for_the_other_with_what_is_needed(journal):
    def keep(records):
        return [entry for entry in records if entry["number"] % 10 == 0]

    for number in range(80):
        journal.append(record(number, filler="x" * 8_000), keep)
    kept = numbers(journal)
    assert kept[-1] == 79
    assert {number for number in range(80) if number % 10 == 0} <= set(kept)
    assert len(kept) < 40
    assert all(path.stat().st_size == 2 * AREA_BYTES for path in journal.paths)


def test_a_journal_full_of_what_is_needed_says_so_and_stays_as_it_was(journal):
    for number in range(15):
        journal.append(record(number, filler="x" * 16_000))
    with pytest.raises(StoreError, match=r"it is full: 16 hooks can still be undone"):
        journal.append(record(15, filler="x" * 30_000))
    assert numbers(journal) == list(range(15))


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_a_record_that_was_cut_by_a_crash_ends_the_journal(cut, tmp_path):
    journal = Journal((tmp_path / "a.journal",))
    journal.make()
    journal.append(record(1))
    with journal.paths[0].open("rb") as file:
        end = file.read().rfind(b"}") + 1
    journal.append(record(2))
    data = bytearray(journal.paths[0].read_bytes())
    last = data.rfind(b"}")
    data[last - cut : last + 1] = b"\0" * (cut + 1)
    journal.paths[0].write_bytes(data)
    assert end < last
    assert numbers(journal) == [1]
    journal.append(record(3))
    assert numbers(journal) == [1, 3]


def test_the_copy_with_the_newest_record_counts(journal):
    journal.append(record(1))
    first, second = journal.paths
    second.rename(second.with_suffix(".away"))
    journal.append(record(2))
    second.with_suffix(".away").rename(second)
    assert numbers(journal) == [1, 2]
    first.unlink()
    assert numbers(journal) == [1]


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\0" * 2 * AREA_BYTES])
def test_a_file_that_is_no_journal_is_named(content, tmp_path):
    path = tmp_path / "a.journal"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"cannot be read: .*a\.journal: it is not a journal of the evaluator"):
        Journal((path,)).read()
    if content:
        with pytest.raises(StoreError, match="cannot be written"):
            Journal((path,)).make()
        assert path.read_bytes() == content


def test_neither_a_link_nor_a_file_of_another_user_is_used(tmp_path, monkeypatch):
    other_user = 4242
    target, link = tmp_path / "target", tmp_path / "a.journal"
    Journal((target,)).make()
    link.symlink_to(target)
    with pytest.raises(StoreError, match="cannot be written"):
        Journal((link,)).append(record(1))
    shared = tmp_path / "shared"  # as /dev/shm: everyone may write to it
    shared.mkdir()
    target = target.rename(shared / "a.journal")
    if os.getuid():
        monkeypatch.setattr(journal_module.os, "getuid", lambda: other_user)
    else:  # files of root are trusted
        os.chown(target, other_user, -1)
    assert Journal((target,)).read() == ()  # whoever can write here could change the store, too
    shared.chmod(0o1777)
    if os.getuid():  # the owner of a folder can do everything in it
        return
    with pytest.raises(StoreError, match="it belongs to the user with the id"):
        Journal((target,)).read()


def test_several_processes_write_one_journal(journal):
    code = """
import sys
from pathlib import Path
from evaluator.store.journal import Journal
journal = Journal(tuple(map(Path, sys.argv[2:])))
for number in range(20):
    journal.append({"at": f"{number:03d}", "number": f"{sys.argv[1]}-{number}"})
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", code, name, *map(str, journal.paths)]) for name in ("a", "b", "c")
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    written = numbers(journal)
    assert len(written) == 60
    for name in ("a", "b", "c"):
        assert [number for number in written if number.startswith(name)] == [f"{name}-{i}" for i in range(20)]


def test_the_default_is_next_to_the_store_and_in_the_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    own, other = default_paths(tmp_path / "evaluator.duckdb")
    assert own == tmp_path / "evaluator.journal"
    assert other.parent == tmp_path / "state"
    assert other.name != default_paths(tmp_path / "x" / "evaluator.duckdb")[1].name


def test_a_journal_of_a_newer_evaluator_is_left_alone(tmp_path):
    journal = Journal((tmp_path / "newer.journal",))
    journal.make()
    content = journal.paths[0].read_bytes().replace(b"evaluator journal 1\n", b"evaluator journal 2\n")
    journal.paths[0].write_bytes(content)
    for use in (journal.make, journal.read, lambda: journal.append({"kind": "closed", "at": "2026", "intents": []})):
        with pytest.raises(StoreError, match="was written by a newer evaluator: upgrade this one"):
            use()
    assert journal.paths[0].read_bytes() == content


# ------------------------------------------------------------------ copies that could not be written for a while


def away(path):
    """Take a copy away, as a file system that is not mounted."""
    return path.rename(path.with_suffix(".away"))


def test_what_each_copy_lacks_is_read_from_the_other_and_written_to_it(journal):
    first, second = journal.paths
    journal.append(record(1))
    kept = away(second)
    journal.append(record(2))
    kept.rename(second)
    kept = away(first)
    journal.append(record(3))
    kept.rename(first)
    assert numbers(journal) == [1, 2, 3]
    assert numbers(Journal((first,))) == [1, 2]
    journal.append(record(4))
    assert numbers(journal) == numbers(Journal((first,))) == numbers(Journal((second,))) == [1, 2, 3, 4]


def test_what_was_left_out_of_one_copy_does_not_come_back_from_an_old_one(journal):
    first, second = journal.paths
    journal.append(record(1))
    kept = away(second)
    for number in range(2, 40):  # more than an area holds
        journal.append(record(number, filler="x" * 16_000), lambda records: records[-2:])
    kept.rename(second)
    assert 1 not in numbers(journal)
    journal.append(record(40))
    assert numbers(Journal((second,))) == numbers(Journal((first,))) == numbers(journal)
    assert 1 not in numbers(journal)


def test_a_copy_that_was_cut_while_its_area_was_changed_is_what_it_was_before(journal):
    journal.append(record(1))
    path = journal.paths[0]
    data = bytearray(path.read_bytes())
    data[AREA_BYTES + 40 : AREA_BYTES + 90] = b"\x7f" * 50  # the body of the next area, before its header
    path.write_bytes(data)
    assert numbers(Journal((path,))) == [1]


def test_who_may_read_the_store_may_read_the_journal_next_to_it(tmp_path):
    (tmp_path / "a.control.sqlite").touch(mode=0o644)
    shared = Journal((tmp_path / "a.journal", tmp_path / "state" / "b.journal"))
    shared.make()
    assert [path.stat().st_mode & 0o044 for path in shared.paths] == [0o044, 0]
    shared.paths[0].unlink()
    (tmp_path / "a.control.sqlite").chmod(0o600)
    shared.make()
    assert shared.paths[0].stat().st_mode & 0o077 == 0


def test_machines_that_share_a_folder_have_copies_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    names = set()
    for machine in (b"1", b"2"):
        monkeypatch.setattr(second_disk, "_read_machine_id", lambda machine=machine: machine)
        names.add(default_paths(tmp_path / "x" / "evaluator.duckdb")[1].name)
    assert len(names) == 2
