"""With `sensitive: true` only the owner can read what is stored and written."""

import os
from pathlib import Path

import pytest
from recordings import record
from request_files import write_requests

from evaluator.__main__ import run
from evaluator.store import Store


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o022)
    yield tmp_path
    assert os.umask(before) == 0o022  # as the commands found it


def import_release(name):
    for arm in ("old", "new"):
        write_requests(Path(f"{arm}.parquet"), seconds=30)
    assert run(["import", name, "--baseline", "old.parquet", "--canary", "new.parquet", "-q"]) == 0


def modes(*roots):
    """Modes of the roots and of all that is in them."""
    paths = [path for root in map(Path, roots) for path in (root, *root.rglob("*"))]
    return {path.stat().st_mode & 0o777 for path in paths}


def test_by_default_the_umask_decides():
    import_release("a")
    run(["verdict", "a", "--format", "json=v.json"])
    assert modes("evaluator.duckdb", "evaluator.data", "v.json") == {0o755, 0o644}


def test_store_segments_reports_and_exports_are_private():
    Path("evaluator.yaml").write_text("sensitive: true\n")
    import_release("a")
    Path("r.html").touch(mode=0o644)
    assert run(["verdict", "a", "--format", "html=r.html", "--format", "json=v.json"]) in (0, 3)
    assert run(["render", "v.json", "--format", "junit=j.xml"]) == 0
    assert run(["data", "export", "a", "--to", "out"]) == 0
    assert modes("evaluator.duckdb", "evaluator.data", "out", "r.html", "v.json", "j.xml") == {0o700, 0o600}


@pytest.mark.parametrize("command", [["releases"], ["verdict", "a", "--dry-run"], ["data", "sql", "SELECT 1"]])
def test_turned_on_later_the_next_command_makes_private_what_is_there(command):
    import_release("a")
    Path("evaluator.duckdb.wal.old").touch()
    Path("evaluator.yaml").write_text("sensitive: true\n")
    run(command)
    assert modes("evaluator.duckdb", "evaluator.data", "evaluator.duckdb.wal.old") == {0o700, 0o600}


def test_a_store_is_private_if_any_of_its_services_is_sensitive():
    Path("evaluator.policies").mkdir()
    Path("evaluator.policies/pay.yaml").write_text("sensitive: true\n")
    Path("evaluator.policies/default.yaml").touch()
    import_release("a")  # under the default
    assert modes("evaluator.duckdb", "evaluator.data") == {0o700, 0o600}


def test_a_private_store_stays_private_for_all_who_write_to_it():
    Path("evaluator.yaml").write_text("sensitive: true\n")
    import_release("a")
    Path("evaluator.yaml").unlink()
    import_release("b")
    record(Path("evaluator.duckdb"), "by-hand")
    run(["verdict", "by-hand"])
    store = Store.open(Path("evaluator.duckdb"))
    with store.control.alone(["cart"]):
        assert modes("evaluator.duckdb", "evaluator.data") == {0o700, 0o600}


def test_files_of_another_user_are_a_warning(monkeypatch, capsys, caplog):
    import_release("a")
    Path("evaluator.yaml").write_text("sensitive: true\n")

    def refuse(path, _mode):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    assert run(["releases"]) == 0
    assert "other users can read the store" in caplog.text
    assert "chmod -R go= " in caplog.text
