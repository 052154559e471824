"""Temporary files are private, and those of a killed process are removed; those of a living one are not."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from evaluator.errors import StoreError
from evaluator.store import temporary
from evaluator.store.engine import open_engine, open_shared
from evaluator.store.temporary import MARK, PREFIX, name_temporary_path, remove_abandoned, temporary_folder

HOLD = """
import sys
from evaluator.store.temporary import temporary_folder
with temporary_folder() as folder:
    (folder / "requests").touch()
    print(folder.parent, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary_files(tmp_path, monkeypatch):
    """A folder for temporary files of its own, in which this process has none yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = temporary._ProcessFolder()
    monkeypatch.setattr(temporary, "_FOLDER", folder)
    yield tmp_path
    folder.remove()


def test_only_the_owner_can_read_what_a_query_spills(temporary_files, tmp_path):
    with open_engine(read=None) as engine:
        engine.execute("SET memory_limit = '20MB'; SET threads = 1")
        engine.execute("CREATE TABLE wide AS SELECT range AS k, md5(range::VARCHAR) AS v FROM range(1_000_000)")
        [folder] = temporary_files.glob(f"{PREFIX}*")
        spilled = [path for path in folder.rglob("*") if path.is_file() and path.name != MARK]
        assert sum(path.stat().st_size for path in spilled) > 1e6
        assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == [MARK]


def test_queries_of_a_notebook_do_not_share_a_folder(tmp_path, store):
    copies = [Path(shutil.copyfile(store.path, tmp_path / f"copy-{k}")) for k in range(2)]
    engines = [open_shared(copy, search=tmp_path) for copy in copies]
    folders = {engine.execute("SELECT current_setting('temp_directory')").fetchone() for engine in engines}
    assert len(folders) == 2


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(temporary_files):
    environment = {**os.environ, "TMPDIR": str(temporary_files)}
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        folder = process.stdout.readline().strip()
        remove_abandoned()
        assert os.path.isdir(folder)  # noqa: PTH112
        process.kill()
    assert os.path.isdir(folder)  # noqa: PTH112
    name_temporary_path()  # the first use of the next process
    assert not os.path.exists(folder)  # noqa: PTH110


def test_what_is_not_ours_stays(temporary_files):
    users_own = temporary_files / f"{PREFIX}abcdefgh"
    users_own.mkdir()
    (users_own / "thesis.txt").touch()
    target = temporary_files / "target"
    target.mkdir()
    (target / MARK).touch()
    (temporary_files / f"{PREFIX}link").symlink_to(target)
    (temporary_files / f"{PREFIX}file").touch()
    before = sorted(temporary_files.rglob("*"))
    remove_abandoned()
    assert sorted(temporary_files.rglob("*")) == before


def test_a_folder_of_another_user_stays(temporary_files, monkeypatch):
    other = temporary_files / f"{PREFIX}abcdefgh"
    other.mkdir()
    (other / MARK).touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    remove_abandoned()
    assert other.exists()


def test_a_folder_that_is_taken_away_before_it_is_locked_is_made_again(temporary_files, monkeypatch):
    made = []
    make = tempfile.mkdtemp

    def make_and_lose(**options):
        made.append(make(**options))
        if len(made) == 1:
            os.rmdir(made[0])  # noqa: PTH106
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    with temporary_folder() as folder:
        assert str(folder.parent) == made[1]


def test_a_forked_process_leaves_the_folder_to_its_parent():
    path = name_temporary_path()
    path.mkdir()
    handle = temporary._FOLDER._handle
    copy = os.dup(handle)  # as in a child, which has its own handle of the same lock
    temporary._FOLDER.forget()
    remove_abandoned()
    assert path.exists()
    os.close(copy)
    remove_abandoned()
    assert not path.exists()


def test_a_folder_that_a_cleaner_of_old_files_has_deleted_is_made_again():
    first = name_temporary_path().parent
    (first / MARK).unlink()
    first.rmdir()
    assert name_temporary_path().parent.is_dir()


@pytest.mark.parametrize("folder", ["nothing", "full"])
def test_without_a_folder_for_temporary_files_the_error_says_what_to_do(temporary_files, monkeypatch, folder):
    def refuse(*_arguments, **_options):
        raise OSError(28, "No space left on device", folder)

    monkeypatch.setattr(tempfile, "gettempdir" if folder == "nothing" else "mkdtemp", refuse)
    with pytest.raises(StoreError, match=r"no temporary folder can be made: .*No space left") as caught, open_engine():
        pass
    assert "TMPDIR" in caught.value.hint
