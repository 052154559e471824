"""A rollback of real traffic while something is broken: HAProxy and nginx send it back, and the trail has it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from hooks_world import balancing, serving, split_of
from metrics_servers import program, running

from evaluator.__main__ import run as run_command
from evaluator.cli import promote
from evaluator.sources.load import free_port
from evaluator.store import Store
from evaluator.store.control_file import control_path

NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  include {folder}/shop.conf;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://shop; }} }}
}}
"""
BEFORE, AFTER = {"baseline": 90, "canary": 10}, {"canary": 100}
RELEASE = "cart@1.9.0"
FILESYSTEM_BYTES = 64 << 20


@dataclass
class TrafficRouter:
    """A router with traffic on it, and the hook that moves it."""

    port: int
    hook: str

    def wait_for(self, split):
        """Whether the traffic becomes this: old workers of nginx answer for a moment after a reload."""
        deadline = time.monotonic() + 5
        while (seen := split_of(self.port)) != split and time.monotonic() < deadline:
            time.sleep(0.05)
        assert seen == split


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory):
    with balancing(tmp_path_factory.mktemp("haproxy")) as names:
        hook = f"haproxy: {{socket: {names['socket']}, backend: shop, servers: {{baseline: baseline, canary: canary}}}}"
        yield TrafficRouter(names["port"], hook)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    with serving("baseline") as baseline, serving("canary") as canary:
        config = folder / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, port=port))
        command = [program("nginx"), "-e", str(folder / "error.log"), "-c", str(config)]
        servers = {"baseline": f"127.0.0.1:{baseline.port}", "canary": f"127.0.0.1:{canary.port}"}
        options = {"file": str(folder / "shop.conf"), "upstream": "shop", "servers": servers}
        lines = [f"server 127.0.0.1:{baseline.port} weight=9;", f"server 127.0.0.1:{canary.port};"]
        (folder / "shop.conf").write_text("upstream shop {\n    " + "\n    ".join(lines) + "\n}\n")
        with running(command, port, "/"):
            text = f"{options | {'nginx': command}}"
            yield TrafficRouter(port, f"nginx: {text}".replace("'", '"'))


@pytest.fixture(params=["haproxy", "nginx"])
def router(request):
    return request.getfixturevalue(request.param)


def mount(*arguments):
    """Mount something, or leave the test out where it is not allowed: not as root, or as root of a plain container."""
    done = subprocess.run(["mount", *arguments], check=False, capture_output=True, text=True)
    if done.returncode and (os.geteuid() != 0 or not may_mount()):
        pytest.skip(f"a file system of its own is needed, which may not be mounted here: {done.stderr}")
    assert done.returncode == 0, done.stderr


def may_mount():
    """Does root have the capability to mount, CAP_SYS_ADMIN?"""
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> 21 & 1)


@dataclass
class Place:
    """A folder with a store whose release is promoted, on a file system of its own if a fault needs one."""

    folder: Path
    state: Path
    call: object

    @property
    def store(self):
        return self.folder / "evaluator.duckdb"

    @property
    def control(self):
        return control_path(self.store)

    def __call__(self, *arguments):
        return self.call(*arguments)


@pytest.fixture
def place(haproxy, nginx, judged_store, tmp_path, capfd, monkeypatch, request):
    """The place. The routers are started before, so that none of them has its folder as current one."""
    del haproxy, nginx
    folder, state = tmp_path / "disk" / "place", tmp_path / "state"
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("fault") is full_disk:
        state = folder.parent / "state"  # both copies of the journal are on the full disk
    folder.parent.mkdir()
    is_own = hasattr(request.node, "callspec") and request.node.callspec.params.get("fault") in ON_OWN_FILESYSTEM
    if is_own:
        mount("-t", "tmpfs", "-o", f"size={FILESYSTEM_BYTES}", "none", str(folder.parent))
    try:
        shutil.copytree(judged_store.parent, folder)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_STATE_HOME", str(state))
        monkeypatch.setattr(promote, "GOING_BACK_WAIT_S", 0.5)

        def call(*arguments):
            with monkeypatch.context() as patch, Path(os.devnull).open() as nothing:
                patch.setattr(sys, "stdin", nothing)
                code = run_command(arguments)
            out, err = capfd.readouterr()
            assert "Traceback" not in err
            assert "a bug in evaluator" not in err
            return code, out, err

        yield Place(folder, state, call)
    finally:
        monkeypatch.chdir(tmp_path)
        if is_own:
            subprocess.run(["umount", str(folder.parent)], check=True)


# ------------------------------------------------------------------ what is broken


@contextlib.contextmanager
def full_disk(place):
    filler = place.folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 65536)
    with pytest.raises(OSError, match="No space left"):
        (place.folder / "one-more").write_bytes(b"x" * 65536)
    yield
    filler.unlink()


@contextlib.contextmanager
def read_only(place):
    mount("-o", "remount,ro", str(place.folder.parent))
    yield
    mount("-o", "remount,rw", str(place.folder.parent))


@contextlib.contextmanager
def locked(place):
    with closing(sqlite3.connect(place.control, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        yield


@contextlib.contextmanager
def locked_for_readers_too(place):
    with closing(sqlite3.connect(place.control, isolation_level=None)) as shell:
        shell.execute("PRAGMA locking_mode = EXCLUSIVE")
        shell.execute("BEGIN EXCLUSIVE")
        shell.execute("CREATE TABLE held (x)")
        yield
        shell.execute("ROLLBACK")


@contextlib.contextmanager
def replaced(paths, replace):
    """Replace files by something else, until the fault is gone."""
    kept = [(path, path.with_name(path.name + ".kept")) for path in paths if path.exists()]
    for path, away in kept:
        path.rename(away)
        replace(path)
    yield
    for path, away in kept:
        path.unlink(missing_ok=True)
        away.rename(path)


def of_sqlite(place):
    return [place.control, *place.folder.glob("evaluator.control.sqlite-*")]


def damaged_sqlite(place):
    return replaced(of_sqlite(place), lambda path: path.write_bytes(b"\xff" * 9000))


def empty_sqlite(place):
    return replaced(of_sqlite(place), lambda path: path.touch())


def gone_sqlite(place):
    return replaced(of_sqlite(place), lambda _path: None)


def damaged_duckdb(place):
    return replaced([place.store], lambda path: path.write_bytes(b"\xff" * 9000))


def gone_duckdb(place):
    return replaced([place.store], lambda _path: None)


def gone_both(place):
    return replaced([place.store, *of_sqlite(place)], lambda _path: None)


def held_duckdb(place):
    """By the open read-only shell of an analyst."""
    return held(place, "read_only=True")


def written_duckdb(place):
    """As by an import that lands."""
    return held(place, "read_only=False")


@contextlib.contextmanager
def held(place, how):
    code = f"import duckdb, sys; c = duckdb.connect(sys.argv[1], {how}); print('open', flush=True); input()"
    shell = subprocess.Popen(
        [sys.executable, "-c", code, str(place.store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert shell.stdout.readline() == "open\n"
        yield
    finally:
        shell.communicate("\n", timeout=10)


ON_OWN_FILESYSTEM = (full_disk, read_only)
FROM_JOURNAL = {
    full_disk: "the disk is full",
    read_only: "cannot be written: permission denied",
    locked: "has been kept locked by another process",
    locked_for_readers_too: "has been kept locked by another process",
    damaged_sqlite: "is damaged",
    empty_sqlite: "",
    gone_sqlite: "",
    gone_both: "there is no store at",
}
"""Fault → the sentence that names it."""
THROUGH_STORE = (damaged_duckdb, gone_duckdb, held_duckdb, written_duckdb)


def promote_all(place, router, more="", after=""):
    """Promote the release: then the candidate has all traffic. `more`: hooks after that of the router."""
    (place.folder / "evaluator.yaml").write_text(f"hooks:\n  promote:\n    - {router.hook}\n{more}{after}")
    router.wait_for(BEFORE)
    code, _, err = place("promote", RELEASE, "--yes")
    assert code == 0, err
    router.wait_for(AFTER)


def check_trail(place, hooks=1, reason="carts are odd"):
    """Check that the trail has the rollback exactly once, with its hooks, and that nothing is left to roll back."""
    code, shown, err = place("audit", "show", RELEASE, "--format", "csv")
    assert code == 0, err
    control = Store.open(place.store, decisions_only=True).control
    promotion, *rollbacks = [intent for intent in control.intents(RELEASE) if intent.state != "cancelled"]
    assert [(intent.action, intent.state) for intent in rollbacks] == [("rollback", "acknowledged")]
    assert (rollbacks[0].undoes, rollbacks[0].reason) == ((promotion.id,), reason)
    done = [(delivery.event, delivery.outcome.state) for delivery in control.deliveries(rollbacks[0].id)]
    assert done == [("undo", "acknowledged")] * hooks
    assert shown.count(f"rollback: {reason}") == 1
    assert place("audit", "verify")[0] == 0
    code, _, err = place("rollback", RELEASE, "--yes", "--reason", "once more")
    assert (code, "there is nothing to roll back" in err) == (3, True), err
    assert len(control.intents(RELEASE)) == 2


@pytest.mark.parametrize("fault", FROM_JOURNAL)
def test_traffic_goes_back_from_the_journal(fault, router, place):
    promote_all(place, router)
    with fault(place):
        began = time.monotonic()
        code, out, err = place("rollback", RELEASE, "--yes", "--reason", "carts are odd")
        assert code == 0, err
        assert time.monotonic() - began < 15 * promote.GOING_BACK_WAIT_S, "the decisions are waited for once"
        router.wait_for(BEFORE)
        assert "the decisions cannot be used: " in err
        assert FROM_JOURNAL[fault] in err
        assert out.startswith(f"rollback {RELEASE}: acknowledged\nundo: ")
    check_trail(place)


@pytest.mark.parametrize("fault", THROUGH_STORE)
def test_traffic_goes_back_through_the_store_whatever_happens_to_the_data(fault, router, place):
    promote_all(place, router)
    with fault(place):
        code, _, err = place("rollback", RELEASE, "--yes", "--reason", "carts are odd")
        assert (code, "the decisions cannot be used" in err) == (0, False), err
        router.wait_for(BEFORE)
        for arguments in (
            ("hold", RELEASE, "--yes", "--reason", "until it is known why"),
            ("audit", "note", RELEASE, "a note"),
            ("approve",),
            ("audit", "show", RELEASE),
        ):
            code, _, err = place(*arguments)
            assert code == 0, (arguments, err)
    assert place("audit", "verify")[0] == 0


# ------------------------------------------------------------------ in the middle of a rollback


LOCK = """
import pathlib, sqlite3, subprocess, sys, time
control, released = sys.argv[1:3]
if sys.argv[3:]:
    subprocess.Popen([sys.executable, __file__, control, released], start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not pathlib.Path(released + ".held").exists():
        time.sleep(0.01)
    sys.exit()
shell = sqlite3.connect(control, isolation_level=None, timeout=10)
shell.execute("BEGIN IMMEDIATE")
pathlib.Path(released + ".held").touch()
while not pathlib.Path(released).exists():
    time.sleep(0.01)
"""
"""Takes the lock on the decisions in a process that lives on until a file is there."""


def in_the_middle(place, undo):
    """A second hook of the promotion, whose undoing comes first: it runs this command."""
    command = ", ".join(f'"{word}"' for word in undo)
    return f"    - command: {{run: ['true'], undo: [{command}], time_limit: 20s}}\n"


def test_a_lock_that_is_taken_after_the_first_hook_delays_nothing(router, place):
    script, released = place.state.parent / "lock.py", place.state.parent / "released"
    script.write_text(LOCK)
    undo = [sys.executable, str(script), str(place.control), str(released), "begin"]
    promote_all(place, router, in_the_middle(place, undo))
    began = time.monotonic()
    try:
        code, out, err = place("rollback", RELEASE, "--yes", "--reason", "carts are odd")
        took_s = time.monotonic() - began
        assert code == 0, err
        router.wait_for(BEFORE)
        assert "i2 (rollback cart@1.9.0) was executed (acknowledged), but the decisions cannot be written" in err
        assert "acting from the journal" not in err, "nothing is done twice"
        assert out.count("undo: ") == 2
        assert took_s < 10
    finally:
        released.touch()
    check_trail(place, hooks=2)


@pytest.mark.parametrize("what", ["damaged", "gone"])
def test_what_happens_to_the_decisions_after_the_first_hook_stops_nothing(what, router, place):
    away = place.folder / "kept"
    if what == "gone":
        undo = ["sh", "-c", f"mkdir {away}; mv {place.control}* {away}"]
    else:
        damage = f"for f in {place.control}*; do head -c 9000 /dev/urandom > $f; done"
        undo = ["sh", "-c", f"mkdir {away}; cp -p {place.control}* {away}; {damage}"]
    promote_all(place, router, in_the_middle(place, undo))
    code, out, err = place("rollback", RELEASE, "--yes", "--reason", "carts are odd")
    assert code == 0, err
    router.wait_for(BEFORE)
    assert out.count("undo: ") == 2
    assert "acting from the journal" not in err
    for path in of_sqlite(place):
        path.unlink(missing_ok=True)
    for path in away.iterdir():
        path.rename(place.folder / path.name)
    check_trail(place, hooks=2)


def test_no_copy_of_the_journal_can_be_written_and_traffic_goes_back_all_the_same(router, place):
    """As on a machine whose disks are all read-only."""
    promote_all(place, router)
    copies = [place.store.with_suffix(".journal"), *place.state.iterdir()]
    assert len(copies) == 2
    with contextlib.ExitStack() as faults:
        faults.enter_context(locked(place))
        for path in copies:
            faults.enter_context(unwritable(path))
        code, out, err = place("rollback", RELEASE, "--yes", "--reason", "carts are odd")
        assert code == 0, err
        router.wait_for(BEFORE)
        assert "this could not be written anywhere, so keep it: the journal cannot be written: " in err
        assert "undo: " in out


@contextlib.contextmanager
def unwritable(path):
    """A file of a read-only file system."""
    mount("--bind", str(path), str(path))
    mount("-o", "remount,bind,ro", str(path))
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)
