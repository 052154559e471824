"""Copies of the DuckDB file keep other processes out until the last byte is copied."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from evaluator.errors import StoreError
from evaluator.store import copying
from evaluator.store.copying import copy_database

WRITE = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('SELECT 1')"


def can_write(path) -> bool:
    return subprocess.run([sys.executable, "-c", WRITE, str(path)], capture_output=True, check=False).returncode == 0


def test_no_process_can_write_between_the_file_and_its_log(store, tmp_path, monkeypatch):
    log = store.path.with_name(store.path.name + ".wal")
    asked = []
    copy_chunk = copying._copy_chunk

    def ask_first(source, target):
        asked.append(can_write(store.path))
        return copy_chunk(source, target)

    with store.file.opened():
        log.write_bytes(b"")  # DuckDB takes an empty one for none
        monkeypatch.setattr(copying, "_copy_chunk", ask_first)
        copy_database(store.file, tmp_path / "copy")
    assert len(asked) >= 3  # the file, its end, the log
    assert not any(asked)
    assert (tmp_path / "copy").read_bytes() == store.path.read_bytes()
    assert (tmp_path / "copy.wal").read_bytes() == b""


@pytest.mark.parametrize("can_share", [True, False])
def test_a_copy_is_the_same_also_without_help_of_the_file_system(store, tmp_path, monkeypatch, can_share):
    if not can_share:
        monkeypatch.setattr(copying.os, "copy_file_range", lambda *_: (_ for _ in ()).throw(OSError()), raising=False)
    with store.file.opened():
        copy_database(store.file, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == store.path.read_bytes()


def test_a_copy_that_takes_too_long_is_given_up(store, tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "_copy_chunk", lambda *_: time.sleep(0.02) or 1)
    with store.file.opened(), pytest.raises(StoreError, match="takes too long: nothing can land meanwhile"):
        copy_database(store.file, tmp_path / "copy", limit_s=0.05)
