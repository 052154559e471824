"""A store in a folder whose name is a pattern to DuckDB: its own files are read, not those of folders that match."""

import shutil

import pytest

from evaluator.errors import StoreError
from evaluator.pipeline.importing import import_outcomes, import_release
from evaluator.records import OutcomeOptions, Release
from evaluator.sources.files import plan_landing
from evaluator.store import Store

LOG = "ts,endpoint,response_time_ms,failed\n" + "".join(f"{1780000000 + k},GET /,{k + 1},false\n" for k in range(9))
OUTCOMES = "user_id,variant,amount\n" + "".join(f"u{k},{'AB'[k % 2]},{k}\n" for k in range(40))


def write_files(folder):
    """Write request files and outcomes into a new folder, and return it."""
    folder.mkdir()
    for name in ("old.csv", "new.csv"):
        (folder / name).write_text(LOG)
    (folder / "users.csv").write_text(OUTCOMES)
    return folder


def fill(store, folder):
    """Land requests and outcomes, and return numbers that are read from the files of the store."""
    import_release(
        store,
        Release("cart@2"),
        plan_landing({"baseline": [str(folder / "old.csv")], "canary": [str(folder / "new.csv")]}),
    )
    import_outcomes(store, Release("ab@1"), [str(folder / "users.csv")], OutcomeOptions())
    [run] = store.data.runs("ab@1")
    outcomes = store.data.read_outcomes(run, values=["amount"], row_values=["amount"])
    sums = [float(values.sum()) for _, values in outcomes.row_values["amount"]]
    [requests] = store.data.query("SELECT count(*) AS n, sum(response_time_ms) AS ms FROM requests").to_pylist()
    return requests, sums


@pytest.mark.parametrize("name", ["a[1]b*", "s[1].duckdb"])
def test_the_files_of_such_a_store_are_read(tmp_path, monkeypatch, name):
    folder = write_files(tmp_path / name)
    monkeypatch.chdir(folder)
    store = Store.open(folder / (name if name.endswith(".duckdb") else "evaluator.duckdb"), create=True)
    requests, sums = fill(store, folder)
    assert requests == {"n": 18, "ms": 90.0}
    assert sums == [380.0, 400.0]
    assert store.data.purge("cart@2") == 18


@pytest.mark.parametrize("name", ["q?/e.duckdb", "e?.duckdb", "x,y/e.duckdb"])
def test_a_path_that_duckdb_cannot_use_is_refused(tmp_path, name):
    with pytest.raises(StoreError, match=r"cannot keep a store under a path with '[?,]'"):
        Store.open(tmp_path / name, create=True)
    Store.open(tmp_path / "e,f.duckdb", create=True)


def test_a_folder_that_matches_is_not_read(tmp_path):
    """A copy of the store under a name that the other one matches as a pattern, with other data in the same places."""
    folder = write_files(tmp_path / "a[1]b*")
    store = Store.open(folder / "evaluator.duckdb", create=True)
    fill(store, folder)
    shutil.copytree(folder, tmp_path / "a1bc")
    for path in (tmp_path / "a1bc" / "evaluator.data").rglob("*"):
        if path.is_file():
            path.write_bytes(b"another file")
    [run] = store.data.runs("ab@1")
    outcomes = store.data.read_outcomes(run, values=["amount"], row_values=["amount"])
    assert [float(values.sum()) for _, values in outcomes.row_values["amount"]] == [380.0, 400.0]
    assert store.data.query("SELECT count(*) AS n FROM requests").to_pylist() == [{"n": 18}]
