import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from contextlib import suppress

import duckdb
import pyarrow as pa
import pytest

from evaluator.errors import EvaluatorError, StoreBusy, StoreError, UnknownName
from evaluator.records import Release, Run
from evaluator.store import Store, temporary
from evaluator.store.engine import attach, close_idle, open_engine, reuse_engine
from evaluator.store.migrations import SCHEMA_VERSION


def run_python(code: str, *arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], stdout=subprocess.PIPE, text=True, **options
    )


def test_create_then_open(tmp_path):
    path = tmp_path / "evaluator.duckdb"
    assert Store.open(path, create=True).releases() == ()
    assert Store.open(path).releases() == ()
    assert Store.open(path, create=True).file.folder == tmp_path / "evaluator.data"


def test_nothing_there(tmp_path):
    with pytest.raises(StoreError, match="there is no store at"):
        Store.open(tmp_path / "evaluator.duckdb")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_was_deleted_meanwhile_is_not_made_again(store):
    store.path.unlink()
    with pytest.raises(StoreError, match=r"evaluator\.duckdb is gone: it was deleted or moved") as caught:
        store.releases()
    assert "move it back" in caught.value.hint
    assert not store.path.exists()


def test_decisions_that_were_deleted_are_not_made_again(store):
    store.control.file.path.unlink()
    for use in (
        store.releases,
        lambda: store.control.note("ann", "note", "cart@1", "x"),
        lambda: Store.open(store.path),
    ):
        with pytest.raises(StoreError, match=r"evaluator\.control\.sqlite, .* is gone: it was deleted or moved"):
            use()
    assert not store.control.file.path.exists()


def test_directory(tmp_path):
    with pytest.raises(StoreError, match="is a directory"):
        Store.open(tmp_path, create=True)


@pytest.mark.parametrize("name", ["notes.txt", "requests.csv", "old.sqlite"])
@pytest.mark.parametrize("create", [True, False])
def test_text_file(tmp_path, create, name):
    path = tmp_path / name
    path.write_text("hello " * 1000)
    with pytest.raises(StoreError, match="is not a store: it is not a DuckDB file"):
        Store.open(path, create=create)
    assert path.read_text() == "hello " * 1000


def test_other_database(tmp_path):
    path = tmp_path / "other.duckdb"
    with duckdb.connect(path) as database:
        database.execute("CREATE TABLE mine AS SELECT 1 AS x")
    with pytest.raises(StoreError, match="not a store of the evaluator"):
        Store.open(path, create=True)


def test_newer_store_is_left_alone(store):
    with duckdb.connect(store.path) as newer:
        newer.execute("UPDATE meta SET schema_version = 999")
    before = store.path.read_bytes()
    with pytest.raises(StoreError, match=r"newer evaluator .schema 999, this one knows") as caught:
        Store.open(store.path)
    assert "upgrade" in caught.value.hint
    assert store.path.read_bytes() == before


def test_creation_that_was_killed_is_finished(tmp_path):
    path = tmp_path / "evaluator.duckdb"
    duckdb.connect(path).close()
    assert Store.open(path).releases() == ()


def test_older_schema_is_backed_up_before_its_upgrade(store, monkeypatch):
    from evaluator.store import migrations

    steps = (*migrations.MIGRATIONS, ("CREATE TABLE store.later (x INTEGER)",))
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", len(steps))
    Store.open(store.path)
    assert store.data.query("SELECT schema_version FROM meta").to_pylist() == [{"schema_version": SCHEMA_VERSION + 1}]
    backup = store.path.with_name(f"evaluator.duckdb.schema-{SCHEMA_VERSION}.backup")
    with duckdb.connect(backup, read_only=True) as old:
        assert old.execute("SELECT schema_version FROM meta").fetchall() == [(SCHEMA_VERSION,)]


def test_failed_upgrade_changes_nothing(store, monkeypatch):
    from evaluator.store import migrations

    steps = (*migrations.MIGRATIONS, ("CREATE TABLE store.later (x INTEGER)", "SELECT no_such_function()"))
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", len(steps))
    with pytest.raises(StoreError):
        Store.open(store.path)
    tables = store.data.query("SELECT table_name FROM duckdb_tables() WHERE table_name = 'later'")
    assert tables.num_rows == 0


def test_place_that_cannot_be_written():
    with pytest.raises(StoreError, match="cannot be made"):
        Store.open("/proc/evaluator.duckdb", create=True)


def test_read_only_files_can_be_read_but_not_written(store):
    code = """
        import os, sys
        from pathlib import Path
        from evaluator.errors import StoreError
        from evaluator.records import Release, Run
        from evaluator.store import Store
        if os.getuid() == 0:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        store = Store.open(Path(sys.argv[1]))
        print(store.releases())
        try:
            store.data.register_run(Release("r"), Run("x", "r", "x", "locust"))
        except StoreError as error:
            print("refused:", error.message)
    """
    # The other user must reach the folder; afterwards the folders above have their old permissions.
    above = {path: path.stat().st_mode for path in store.path.parent.parents if path.stat().st_uid == os.getuid()}
    try:
        for path, mode in above.items():
            path.chmod(mode | 0o055)
        store.path.parent.chmod(0o555)
        store.path.chmod(0o444)
        process = run_python(code, str(store.path))
        out, _ = process.communicate(timeout=30)
    finally:
        store.path.parent.chmod(0o755)
        for path, mode in above.items():
            path.chmod(mode & 0o7777)
    assert process.returncode == 0
    assert out.startswith("()\nrefused: ")
    assert "Permission denied" in out or "permission" in out.lower()


def test_busy_store_names_the_process(store):
    holder = run_python(
        "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()",
        str(store.path),
        stdin=subprocess.PIPE,
    )
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(StoreBusy, match=rf"process {holder.pid} .*more than 0.3 s"):
            Store.open(store.path, wait_s=0.3)
    finally:
        holder.communicate("")
    assert Store.open(store.path).releases() == ()


def test_busy_store_is_waited_for(store):
    holder = run_python(
        "import duckdb, sys, time; held = duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(1)",
        str(store.path),
    )
    assert holder.stdout.readline() == "held\n"
    assert Store.open(store.path).releases() == ()
    holder.communicate()


def test_nothing_is_kept_open(store):
    duckdb.connect(store.path).close()
    store.releases()
    duckdb.connect(store.path).close()


def test_unknown_names_suggest(store, new_run):
    new_run()
    with pytest.raises(UnknownName, match="did you mean 'cart@2'"):
        store.control.release("cart@3")
    with pytest.raises(UnknownName, match="did you mean 'run-1'"):
        store.data.land_segments("run-2")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        pytest.param(
            duckdb.IOException(
                'IO Error: Async write failed: {"exception_message":"Could not write file \\"/x/seg.parquet.tmp\\":'
                ' No space left on device","errno":"28"}'
            ),
            r"the disk is full: /x/seg\.parquet\.tmp could not be written",
            id="full-disk",
        ),
        pytest.param(
            duckdb.TransactionException('Failed to commit: Cannot open file "/x/e.duckdb.wal": Permission denied'),
            r"permission denied: /x/e\.duckdb\.wal cannot be opened",
            id="locked-folder",
        ),
    ],
)
def test_errors_of_duckdb_about_files_are_reworded(error, says):
    with pytest.raises(EvaluatorError, match=says) as caught, open_engine():
        raise error
    assert caught.value.hint


def test_a_full_disk_after_the_commit_is_no_failure(store):
    class FullDisk:
        def __init__(self, engine):
            self.engine = engine

        def execute(self, statement, *arguments):
            if statement == "DETACH store":
                raise duckdb.IOException("IO Error: Could not write file: No space left on device")
            return self.engine.execute(statement, *arguments)

    with open_engine() as engine, attach(FullDisk(engine), store.path, write=True, wait_s=1):
        engine.execute("CREATE TABLE store.kept AS SELECT 1 AS x")
    assert store.data.query("SELECT x FROM kept").to_pylist() == [{"x": 1}]


def test_a_name_that_the_folder_of_requests_has(tmp_path):
    with pytest.raises(StoreError, match=r"cannot be called shop\.data"):
        Store.open(tmp_path / "shop.data", create=True)
    assert list(tmp_path.iterdir()) == []


def test_several_reads_share_one_opening_and_nothing_is_written_meanwhile(tmp_path, monkeypatch):
    from evaluator.store import file

    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    opened = []
    attach = file.attach
    monkeypatch.setattr(file, "attach", lambda *arguments, **how: (opened.append(1), attach(*arguments, **how))[1])
    with store.reading(), store.reading():
        assert store.releases() == ()
        assert store.control.intents() == ()
        with pytest.raises(StoreError, match="cannot be written while it is read"):
            store.data.register_run(Release("cart@1"), Run("x", "cart@1", "x", "locust"))
        store.control.note("ann", "note", "cart@1", "x")  # decisions wait for no data
    assert len(opened) == 1
    assert [row.event for row in store.control.audit()] == ["note"]


# ------------------------------------------------------------------ engines that are used again


@pytest.fixture
def idle():
    close_idle()
    yield
    close_idle()


def open_and_name(search):
    """Settings of an engine, and the number of the tables that it sees."""
    with reuse_engine(search=search) as engine:
        return engine.execute(
            "SELECT current_setting('TimeZone'), current_setting('memory_limit'), current_setting('file_search_path'),"
            "(SELECT count(*) FROM duckdb_tables())"
        ).fetchone()


def test_an_engine_that_is_used_again_has_nothing_of_its_last_use(idle, tmp_path, monkeypatch):
    opened = []
    connect = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda *path, **options: opened.append(path) or connect(*path, **options))
    for folder in (tmp_path / "a", tmp_path / "b"):
        with reuse_engine(search=folder) as engine:
            engine.execute("SET TimeZone = 'Asia/Tokyo'")
            engine.execute("CREATE TEMP TABLE rows AS SELECT 1")
            engine.register("frame", pa.table({"a": [1]}))
        assert open_and_name(folder) == ("UTC", "488.2 MiB", str(folder), 0)
        with reuse_engine(search=folder) as engine, pytest.raises(duckdb.CatalogException):
            engine.execute("FROM frame")
    assert len(opened) == 1


def test_two_at_once_share_nothing(idle, tmp_path):
    with reuse_engine(search=tmp_path) as one, reuse_engine(search=tmp_path) as other:
        one.execute("CREATE TABLE mine AS SELECT 1")
        assert other.execute("SELECT count(*) FROM duckdb_tables()").fetchone() == (0,)


def leave_a_table(engine):
    engine.execute("CREATE TABLE left_behind AS SELECT 1")


def leave_a_file_attached(engine):
    engine.execute("ATTACH 'left.duckdb' AS store")


def fail(engine):
    engine.execute("FROM nowhere")


@pytest.mark.parametrize("use", [leave_a_table, leave_a_file_attached, fail])
def test_an_engine_that_is_not_clean_is_closed(idle, tmp_path, monkeypatch, use):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with suppress(EvaluatorError), reuse_engine(search=tmp_path) as engine:
        use(engine)
    assert not list(tmp_path.glob("evaluator-*"))
    assert open_and_name(tmp_path)[-1] == 0
    if use is leave_a_file_attached:
        duckdb.connect("left.duckdb").close()  # nobody keeps it open


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_no_engine_is_there_in_a_child_process(idle, tmp_path):
    open_and_name(tmp_path)
    child = os.fork()
    if child == 0:
        os._exit(0 if open_and_name(tmp_path)[-1] == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_engine_leaves_no_folder_at_the_end(tmp_path):
    code = (
        "from pathlib import Path; from evaluator.store.engine import reuse_engine\n"
        f"with reuse_engine(search=Path({str(tmp_path)!r})) as engine: engine.execute('SELECT 1')"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}, check=False)
    assert (done.returncode, list(tmp_path.iterdir())) == (0, [])


def test_an_engine_whose_temporary_folder_is_gone_is_not_used_again(idle, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = temporary._ProcessFolder()
    monkeypatch.setattr(temporary, "_FOLDER", folder)
    for _ in range(2):
        with reuse_engine(search=tmp_path) as engine:
            engine.execute("SET memory_limit = '20MB'; SET threads = 1")
            engine.execute("CREATE TEMP TABLE w AS SELECT range AS k, md5(range::VARCHAR) AS v FROM range(1_000_000)")
        [made] = tmp_path.iterdir()
        shutil.rmtree(made)  # as by a program that cleans up old temporary files
    folder.remove()
