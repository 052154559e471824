"""What a killed import leaves is removed by the next one; what a living one is about to land is not."""

import os
import signal
import subprocess
import sys
import time

import pytest

from evaluator.pipeline.importing import import_release
from evaluator.records import Release, RunFacts, RunState
from evaluator.sources.files import plan_landing
from evaluator.store import importing
from evaluator.store.locks import CLAIM, claimed, exclusive, shared
from evaluator.store.migrations import prepare_folder

HEADER = "ts,endpoint,response_time_ms,failed\n"

STOP_AT = """
import sys, time
from pathlib import Path
from evaluator.pipeline.importing import import_release
from evaluator.records import Release, RunFacts, RunState
from evaluator.sources.files import plan_landing
from evaluator.store import Store, importing, outcomes

def stop_before(module, name):
    go_on = getattr(module, name)
    def stop(*args, **kwargs):
        print("here", flush=True)
        sys.stdin.readline()
        return go_on(*args, **kwargs)
    setattr(module, name, stop)

stop_before(importing, sys.argv[3])
print(import_release(Store.open(Path(sys.argv[1])), Release("r"), plan_landing({"canary": [sys.argv[2]]})).rows)
"""


def write_csv(path, second=0):
    path.write_text(HEADER + f"2026-10-01T12:00:{second:02}Z,GET /,3.5,false\n" * 5)
    return path


def land(store, path):
    return import_release(store, Release("r"), plan_landing({"canary": [str(path)]}))


@pytest.fixture
def start_import(store, tmp_path):
    """Start an import that waits before a step, and give its process once it waits there."""
    processes = []

    def start(step, second=30):
        path = write_csv(tmp_path / f"{second}.csv", second)
        process = subprocess.Popen(
            [sys.executable, "-c", STOP_AT, str(store.path), str(path), step],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "here\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def folders(store):
    return sorted(path.name for path in (store.file.folder / "r").glob("*"))


@pytest.mark.parametrize("step", ["write_clean_segment", "_write_runs", "write_manifest"])
def test_a_killed_import_is_cleaned_up_by_the_next(store, tmp_path, start_import, caplog, step):
    kill(start_import(step))
    [leftover] = folders(store)
    landed = land(store, write_csv(tmp_path / "a.csv"))
    assert folders(store) == list(landed.runs) != [leftover]
    assert f"r/{leftover} (" in caplog.text
    assert "killed before it landed" in caplog.text
    assert store.data.query("SELECT count(*) AS n FROM requests").to_pylist() == [{"n": 5}]
    assert list(store.file.folder.rglob(CLAIM)) == []
    assert land(store, tmp_path / "30.csv").rows == 5


def test_a_living_import_keeps_its_files(store, tmp_path, start_import):
    living = start_import("_write_runs")
    land(store, write_csv(tmp_path / "a.csv"))
    assert len(folders(store)) == 2
    out, _ = living.communicate("\n")
    assert out == "5\n"
    assert store.data.query("SELECT count(*) AS n FROM requests").to_pylist() == [{"n": 10}]


def test_an_import_killed_after_it_landed_stays(store, tmp_path, caplog):
    landed = land(store, write_csv(tmp_path / "a.csv"))
    claim = store.file.folder / "r" / landed.runs[0] / CLAIM
    claim.touch()
    land(store, write_csv(tmp_path / "b.csv", 1))
    assert not claim.exists()
    assert caplog.text == ""
    assert store.data.query("SELECT count(*) AS n FROM requests").to_pylist() == [{"n": 10}]


def test_nothing_is_removed_while_rows_are_read(store, tmp_path, start_import):
    kill(start_import("_write_runs"))
    [leftover] = folders(store)
    with shared(store.file.empty_segment):
        land(store, write_csv(tmp_path / "a.csv"))
        assert leftover in folders(store)
    land(store, write_csv(tmp_path / "b.csv", 1))
    assert leftover not in folders(store)


def test_an_import_that_fails_leaves_nothing(store, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(importing, "_write_runs", fail)
    with pytest.raises(KeyboardInterrupt):
        land(store, write_csv(tmp_path / "a.csv"))
    assert folders(store) == []


def test_locks(tmp_path):
    folder = tmp_path / "r" / "run"
    with claimed(folder), exclusive(folder / CLAIM) as dead:
        assert not dead
    with exclusive(folder / CLAIM) as dead:
        assert dead
        with exclusive(folder / CLAIM, wait_s=0.1) as second:
            assert not second
    with shared(tmp_path / "nothing"), exclusive(tmp_path / "nothing") as had:
        assert not had


def test_a_claim_that_is_swept_while_it_is_made_is_made_again(tmp_path):
    """A process that gets the lock of a file that was deleted meanwhile starts again."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / CLAIM).touch()
    code = (
        "import sys; from pathlib import Path; from evaluator.store.locks import claimed\n"
        "print('here', flush=True)\nwith claimed(Path(sys.argv[1])): print((Path(sys.argv[1]) / sys.argv[2]).exists())"
    )
    with exclusive(folder / CLAIM) as dead:
        assert dead
        process = subprocess.Popen([sys.executable, "-c", code, str(folder), CLAIM], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "here\n"
        time.sleep(0.3)
        (folder / CLAIM).unlink()
        folder.rmdir()
    assert process.communicate(timeout=20)[0] == "True\n"


def test_what_killed_processes_left_unfinished_is_removed_when_their_run_ends(store, new_run):
    run = new_run()
    folder = store.data.segment_folder(run)
    folder.mkdir(parents=True)
    for name in ("seg-w-000000.parquet.17.tmp", "facts-w.json.tmp", "facts-w.json"):
        (folder / name).touch()
    store.data.finish_run(run.id, state=RunState.INCOMPLETE, ended=None, facts=RunFacts())
    assert [path.name for path in folder.iterdir()] == ["facts-w.json"]


def test_an_unfinished_file_of_a_store_that_was_never_made_is_removed_when_it_is_old(store):
    old, new = (store.file.folder / f"schema.parquet.{pid}.tmp" for pid in (1, 2))
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    prepare_folder(store.file)
    assert (old.exists(), new.exists()) == (False, True)
