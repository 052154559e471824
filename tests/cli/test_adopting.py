"""What was recorded by hand in a folder without a store is found by the next command, whichever it is."""

import json
import threading
import time
from pathlib import Path

import pytest
from recordings import record

import evaluator
from evaluator.__main__ import run
from evaluator.errors import StoreError
from evaluator.permissions import make_private
from evaluator.sources.recording import MANIFEST_NAME
from evaluator.store.data import StoredData

STORE = Path("evaluator.duckdb")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys, *arguments):
    code = run(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert "bug in evaluator" not in err
    return code, out, err


def test_a_verdict_makes_the_store(capsys):
    record(STORE, "cart@1")
    code, out, _ = call(capsys, "verdict", "cart@1", "--format", "json")
    assert (code, json.loads(out)["arms"][0]["requests"]) == (3, 40)
    assert STORE.is_file()


def test_every_release_is_listed_with_its_requests_also_when_there_is_a_store(capsys):
    record(STORE, "a b")
    code, out, err = call(capsys, "releases")
    assert (code, "a b" in out, "  80  " in out) == (0, True, True)
    assert "found a recording of a b" in err
    record(STORE, "second", run="run-2")
    code, out, err = call(capsys, "releases")
    assert ("second" in out, "a b" in err, "second" in err) == (True, False, True)


def test_a_recording_that_only_its_owner_can_read_makes_a_store_that_only_its_owner_can_read(capsys):
    record(STORE, "cart@1")
    make_private(Path("evaluator.data"))  # as a recorder with --evaluator-sensitive
    assert call(capsys, "releases")[0] == 0
    assert STORE.stat().st_mode & 0o777 == 0o600
    modes = {path.stat().st_mode & 0o077 for path in Path("evaluator.data").rglob("*")}
    assert modes == {0}


def test_queries_see_it(capsys):
    record(STORE, "cart@1")
    assert call(capsys, "data", "sql", "SELECT count(*) AS n FROM requests", "--format", "csv")[1] == '"n"\n80\n'


def test_a_notebook_sees_it():
    record(STORE, "cart@1")
    [(count,)] = evaluator.open(STORE).release("cart@1").sql("SELECT count(*) FROM requests").fetchall()
    assert count == 80


@pytest.mark.parametrize("policy", ["evaluator.yaml", "evaluator.policies/default.yaml"])
def test_a_wait_that_began_before_anything_was_there_sees_it(capsys, policy):
    Path(policy).parent.mkdir(exist_ok=True)
    Path(policy).write_text("metrics: [{name: latency_mean, type: latency_mean, role: gate, margin: 10%}]\n")

    def record_later():
        time.sleep(0.5)
        record(STORE, "cart@1")

    recorder = threading.Thread(target=record_later)
    recorder.start()
    code, out, _ = call(capsys, "verdict", "cart@1", "--wait", "20s", "--format", "json")
    recorder.join()
    assert (code, json.loads(out)["arms"][0]["requests"]) == (3, 40)


def test_a_wait_for_nothing_ends_at_its_deadline(capsys):
    Path("evaluator.policies").mkdir()
    Path("evaluator.policies/cart.yaml").touch()
    code, out, _ = call(capsys, "watch", "cart@1", "--wait", "1s")
    assert (code, "the deadline passed after 1 s: there is no such release" in out) == (3, True)
    assert not STORE.exists()


def test_without_a_recording_there_is_no_store(capsys):
    code, _, err = call(capsys, "releases")
    assert (code, err.splitlines()[0]) == (4, f"Error: there is no store at {STORE.absolute()}")
    Path("evaluator.data").mkdir()
    code, _, err = call(capsys, "verdict", "cart@1")
    assert (code, f"and no recording in the folder {Path('evaluator.data').absolute()}" in err) == (4, True)
    assert not STORE.exists()


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "7", '{"run": 1}',
        '{"run": "run-1", "release": "other", "service": "", "started": 1.0, "run_time_s": null, "fingerprint": {}}',
        '{"run": "run-1", "release": "cart@1", "service": "", "started": NaN, "run_time_s": null, "fingerprint": {}}',
        '{"run": "run-1", "release": "cart@1", "service": "", "started": "x", "run_time_s": 1, "fingerprint": {}}',
        '{"run": "run-1", "release": "cart@1", "service": 3, "started": 1.0, "run_time_s": 1e99, "fingerprint": []}',
    ],
)  # fmt: skip
def test_a_manifest_that_is_half_written_or_of_another_program_is_named(capsys, content):
    manifest = record(STORE, "cart@1") / MANIFEST_NAME
    manifest.write_text(content)
    code, out, err = call(capsys, "verdict", "cart@1")
    assert (code, out) == (4, "")
    assert f"{manifest.absolute()} does not describe a recording: " in err
    assert "move" in err
    assert not STORE.exists()
    record(STORE, "cart@2")
    code, out, err = call(capsys, "releases")
    assert (code, "cart@2" in out, "cart@1" in out) == (0, True, False)
    assert call(capsys, "verdict", "cart@1")[0] == 4  # its requests are there, and cannot be judged


def test_a_manifest_of_a_newer_recorder_is_read(capsys):
    manifest = record(STORE, "cart@1") / MANIFEST_NAME
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "unheard_of": 1}))
    assert "cart@1" in call(capsys, "releases")[1]


def test_a_file_in_place_of_the_folder_and_a_folder_that_cannot_be_written(capsys, monkeypatch):
    Path("evaluator.data").touch()
    assert call(capsys, "releases")[0] == 4
    code, _, err = call(capsys, "import", "r", "--baseline", "nothing.csv")
    assert code == 2
    Path("evaluator.data").unlink()
    record(STORE, "cart@1")

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied", str(STORE))

    monkeypatch.setattr("evaluator.store.migrations.pq.write_table", refuse)
    code, _, err = call(capsys, "releases")
    assert (code, "the store" in err, "cannot be made: Permission denied" in err) == (4, True, True)


def test_who_may_only_read_the_store_still_sees_what_is_in_it(capsys, caplog, monkeypatch):
    record(STORE, "cart@1")
    call(capsys, "releases")
    record(STORE, "cart@2", run="run-2")

    def refuse(*_arguments, **_options):
        raise StoreError("the store cannot be written: permission denied", hint="check its permissions")

    monkeypatch.setattr(StoredData, "register_run", refuse)
    code, out, _ = call(capsys, "releases")
    assert (code, "cart@1" in out, "cart@2" in out) == (0, True, False)
    assert "the recording of cart@2 was not read: the store cannot be written" in caplog.text


def test_another_command_may_find_it_at_the_same_time(capsys, monkeypatch):
    record(STORE, "cart@1")
    register = StoredData.register_run

    def register_twice(data, release, run, **options):
        register(data, release, run, **options)
        register(data, release, run, **options)  # raises StoreError, as if the first call was of another process

    monkeypatch.setattr(StoredData, "register_run", register_twice)
    code, out, _ = call(capsys, "verdict", "cart@1", "--format", "json")
    assert (code, json.loads(out)["arms"][0]["requests"]) == (3, 40)
