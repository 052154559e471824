"""Rollback and hold while the decisions cannot be used: traffic of a real HAProxy goes back from the journal."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from hooks_world import balancing, split_of
from stored import repeat_verdict

from evaluator.__main__ import run as run_command
from evaluator.intents.journal_records import keep_needed
from evaluator.store import Store
from evaluator.store.control import Control
from evaluator.store.control_file import control_path
from evaluator.store.journal import Journal, find_journal

POLICY = """hooks:
  promote:
    - haproxy: {socket: SOCKET, backend: shop, servers: {baseline: baseline, canary: canary}}
"""
BEFORE, AFTER = {"baseline": 90, "canary": 10}, {"canary": 100}


def shares(proxy):
    """Who answers real requests, in percent, to the next ten: a change of weights begins a new round."""
    return {name: round(count, -1) for name, count in split_of(proxy["port"]).items()}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    with balancing(tmp_path_factory.mktemp("haproxy")) as names:
        yield names


@pytest.fixture
def run(judged_store, tmp_path, capfd, monkeypatch):
    folder = tmp_path / "place"
    shutil.copytree(judged_store.parent, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("evaluator.cli.promote.GOING_BACK_WAIT_S", 0.5)

    def call(*arguments):
        with monkeypatch.context() as patch, Path(os.devnull).open() as nothing:
            patch.setattr(sys, "stdin", nothing)
            code = run_command(arguments)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    call.folder = folder
    call.store = folder / "evaluator.duckdb"
    call.state = tmp_path / "state"
    return call


@pytest.fixture
def promoted(run, proxy):
    """A release whose promotion has moved the traffic to the candidate; in the end the traffic is as before."""
    (run.folder / "evaluator.yaml").write_text(POLICY.replace("SOCKET", str(proxy["socket"])))
    assert shares(proxy) == BEFORE
    assert run("promote", "cart@1.9.0", "--yes")[0] == 0
    assert shares(proxy) == AFTER
    return run


def restore_weights(proxy):
    for server, weight in BEFORE.items():
        command = f"echo 'set server shop/{server} weight {weight}' | socat - UNIX-CONNECT:{proxy['socket']}"
        subprocess.run(["bash", "-c", command], check=True, stdout=subprocess.DEVNULL)


def remove_all(run):
    for path in (run.store, control_path(run.store)):
        path.unlink()


def damage_all(run):
    for path in run.folder.glob("evaluator.control.sqlite-*"):
        path.unlink()
    for path in (run.store, control_path(run.store)):
        path.write_bytes(b"\xff" * 9000)


def remove_own_journal(run):
    remove_all(run)
    run.store.with_suffix(".journal").unlink()


@pytest.mark.parametrize("fault", [remove_all, damage_all, remove_own_journal])
def test_traffic_goes_back_whatever_happened_to_the_databases(fault, promoted, proxy):
    fault(promoted)
    code, out, err = promoted("rollback", "cart@1.9.0", "--yes", "--reason", "carts are odd")
    assert code == 0, err
    assert "roll back cart@1.9.0: acknowledged" in out or "rollback cart@1.9.0: acknowledged" in out
    assert "the decisions cannot be used: " in err
    assert "acting from the journal: " in err
    assert shares(proxy) == BEFORE
    # A second time there is nothing left to undo.
    code, _, err = promoted("rollback", "cart@1.9.0", "--yes", "--reason", "again")
    assert (code, "the journal has no hook of cart@1.9.0 to undo" in err) == (3, True)


def test_a_lock_on_the_decisions_stops_no_rollback_and_it_is_recorded_afterwards(promoted, proxy):
    with closing(sqlite3.connect(control_path(promoted.store), isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        code, _, err = promoted("rollback", "cart@1.9.0", "--yes", "--reason", "carts are odd")
        assert code == 0, err
        assert "has been kept locked by another process" in err
        assert shares(proxy) == BEFORE
    control = Store.open(promoted.store).control
    assert [intent.action for intent in control.intents()] == ["promote"]
    code, _, err = promoted("rollback", "cart@1.9.0", "--yes", "--reason", "once more")
    assert (code, "there is nothing to roll back" in err) == (3, True)
    [promotion, rollback] = control.intents()
    assert (rollback.action, rollback.state, rollback.reason) == ("rollback", "acknowledged", "carts are odd")
    assert rollback.undoes == (promotion.id,)
    assert any("from the journal" in row.text for row in control.audit())
    control.verify_audit()
    [undone] = control.deliveries(rollback.id)
    assert (undone.event, undone.outcome.state) == ("undo", "acknowledged")


def test_a_rollback_through_the_store_closes_what_the_journal_has(promoted, proxy):
    assert promoted("rollback", "cart@1.9.0", "--yes", "--reason", "carts are odd")[0] == 0
    assert shares(proxy) == BEFORE
    kinds = [record["kind"] for record in find_journal(promoted.store).read()]
    assert kinds == ["hook", "hook", "closed"]
    remove_all(promoted)
    code, _, err = promoted("rollback", "cart@1.9.0", "--yes", "--reason", "again")
    assert (code, "the journal has no hook of cart@1.9.0 to undo" in err) == (3, True)


def test_the_value_to_restore_is_in_the_journal_before_traffic_moves(run, proxy, monkeypatch):
    from evaluator.hooks.haproxy import HaProxy

    (run.folder / "evaluator.yaml").write_text(POLICY.replace("SOCKET", str(proxy["socket"])))
    seen = []
    execute = HaProxy._execute
    monkeypatch.setattr(
        HaProxy,
        "_execute",
        lambda hook, context: (seen.extend(find_journal(run.store).read()), execute(hook, context))[1],
    )
    assert run("promote", "cart@1.9.0", "--yes")[0] == 0
    [record] = seen
    assert (record["state"], json.loads(record["undo"])) == ("sent", BEFORE)
    assert run("rollback", "cart@1.9.0", "--yes", "--reason", "done")[0] == 0


def test_no_traffic_moves_without_a_journal(run, proxy):
    policy = POLICY.replace("SOCKET", str(proxy["socket"])) + "journal: /proc/no/journal\n"
    (run.folder / "evaluator.yaml").write_text(policy)
    code, out, err = run("promote", "cart@1.9.0", "--yes")
    assert code in (3, 4)
    assert "the journal that a rollback needs in an emergency cannot be written: /proc/no/journal" in out + err
    assert shares(proxy)["baseline"] > 80


def test_a_mistyped_store_has_no_journal(run):
    code, _, err = run("--store", "other.duckdb", "rollback", "cart@1.9.0", "--yes", "--reason", "x")
    assert code == 4
    assert "there is no store at" in err


def test_what_did_not_go_back_is_left_to_a_person(promoted, proxy, tmp_path):
    remove_all(promoted)
    socket = Path(str(proxy["socket"]))
    hidden = socket.with_name("hidden")
    socket.rename(hidden)
    try:
        code, out, _ = promoted("rollback", "cart@1.9.0", "--yes", "--reason", "carts are odd")
    finally:
        hidden.rename(socket)
    assert code == 4
    assert "failed" in out
    assert "# what is left to do by hand, in a shell:" in out
    assert shares(proxy) == AFTER
    assert promoted("rollback", "cart@1.9.0", "--yes", "--reason", "once more")[0] == 0
    assert shares(proxy) == BEFORE


def test_a_promotion_that_waited_is_not_executed_after_a_hold_from_the_journal(run, proxy):
    """The hold could not cancel it in the database: what executes it next has to notice."""
    (run.folder / "evaluator.yaml").write_text(POLICY.replace("SOCKET", str(proxy["socket"])))
    assert run("promote", "cart@1.9.0", "--yes")[0] == 0  # so that there is a journal
    assert run("rollback", "cart@1.9.0", "--yes", "--reason", "a first try")[0] == 0
    repeat_verdict(Store.open(run.store), "cart@1.9.0")
    assert run("promote", "cart@1.9.0", "--yes", "--queue")[0] == 0
    with closing(sqlite3.connect(control_path(run.store), isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        code, _, err = run("hold", "cart@1.9.0", "--yes", "--reason", "carts are odd")
        assert code == 0, err
    code, out, err = run("hooks", "worker", "--once")
    assert (code, out) == (0, "no intent waits for execution\n"), err
    promotions = [intent for intent in Store.open(run.store).control.intents() if intent.action == "promote"]
    assert promotions[-1].state == "cancelled"
    assert shares(proxy)["baseline"] > 80
    assert Store.open(run.store).control.intents()[-1].action == "hold"


def test_promotions_that_are_never_rolled_back_do_not_fill_the_journal(tmp_path):
    journal = Journal((tmp_path / "a.journal",))
    journal.make()
    for number in range(300):
        record = {
            "kind": "hook", "at": f"{number:06d}", "key": f"i{number}", "release": f"cart@{number}",
            "services": [["cart", "1", "2"]], "position": 0, "options": "x" * 4000,
            "hook": "command", "event": "promote", "undo": "", "state": "acknowledged", "process": "",
        }  # fmt: skip
        journal.append(record, keep_needed)
    intents = [record["key"] for record in journal.read()]
    assert intents[-5:] == [f"i{number}" for number in range(295, 300)]


# ------------------------------------------------------------------ what is left to a person


@pytest.mark.parametrize("fault", ["none", "no databases", "lost meanwhile"])
def test_what_is_left_can_be_pasted_into_a_shell(fault, promoted, proxy, monkeypatch):
    """A rollback that could not reach HAProxy says what to type, also with -q; a dry run says it beforehand."""
    if fault == "no databases":
        remove_all(promoted)
        code, planned, err = promoted("rollback", "cart@1.9.0", "--dry-run")
        assert code == 0, err
        assert planned.startswith("# rollback cart@1.9.0, from the journal\n# 1. undo: takes back the shares")
        assert "set server shop/baseline weight 90' | socat" in planned
    if fault == "lost meanwhile":
        deliver = Control.deliver

        def lose(control, *arguments):
            control_path(promoted.store).unlink(missing_ok=True)
            deliver(control, *arguments)

        monkeypatch.setattr(Control, "deliver", lose)
    assert shares(proxy) == AFTER
    socket = Path(str(proxy["socket"]))
    hidden = socket.with_name("hidden")
    socket.rename(hidden)
    try:
        code, out, _ = promoted("-q", "rollback", "cart@1.9.0", "--yes", "--reason", "carts are odd")
    finally:
        hidden.rename(socket)
    assert code == 4
    commands = out.partition("# what is left to do by hand, in a shell:\n")[2]
    assert commands.splitlines()[2].endswith(f"set server shop/baseline weight 90' | socat - UNIX-CONNECT:{socket}")
    pasted = subprocess.run(["bash", "-eu"], check=False, input=commands, capture_output=True, text=True)
    assert pasted.returncode == 0, pasted.stderr
    assert shares(proxy) == BEFORE


@pytest.mark.parametrize("is_dry", [False, True])
def test_where_nothing_knows_a_promotion_the_commands_for_the_baseline_are_printed(is_dry, promoted, proxy):
    """The data are there, so a journal is made; it is empty, and nothing is done from it."""
    control_path(promoted.store).unlink()
    promoted.store.with_suffix(".journal").unlink()
    for path in promoted.state.iterdir():
        path.unlink()
    arguments = ["--dry-run"] if is_dry else ["--yes"]
    code, out, err = promoted("rollback", "cart@1.9.0", *arguments, "--reason", "carts are odd")
    assert (code, "nothing was done" in err) == (3, True)
    assert shares(proxy) == AFTER
    subprocess.run(["bash", "-eu"], check=True, input=out, capture_output=True, text=True)
    assert shares(proxy) == {"baseline": 100}
    restore_weights(proxy)


def test_a_copy_that_is_missing_is_made_where_the_only_one_is_read_only(promoted, proxy, monkeypatch):
    """Whoever promoted had another XDG_STATE_HOME: what a rollback did must be written somewhere all the same."""
    remove_all(promoted)
    elsewhere = promoted.folder.parent / "elsewhere"
    monkeypatch.setenv("XDG_STATE_HOME", str(elsewhere))
    own = promoted.store.with_suffix(".journal")
    real_open = os.open

    def open_unless_read_only(path, flags, *rest, **options):
        if Path(path) == own and flags & os.O_RDWR:
            raise OSError(30, "Read-only file system")
        return real_open(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", open_unless_read_only)
    code, _, err = promoted("rollback", "cart@1.9.0", "--yes", "--reason", "carts are odd")
    assert code == 0, err
    assert "could not be written anywhere" not in err
    assert shares(proxy) == BEFORE
    code, _, err = promoted("rollback", "cart@1.9.0", "--yes", "--reason", "again")
    assert (code, "rolled it back at" in err) == (3, True)


def test_without_a_journal_what_the_policy_knows_is_printed(promoted, proxy):
    remove_own_journal(promoted)
    for path in promoted.state.iterdir():
        path.unlink()
    policy = (
        POLICY
        + "  rollback:\n    - haproxy: {socket: SOCKET, backend: shop, servers: {baseline: baseline, canary: canary}}\n"
    )
    (promoted.folder / "evaluator.yaml").write_text(policy.replace("SOCKET", str(proxy["socket"])))
    code, out, err = promoted("rollback", "cart@1.9.0", "--yes", "--reason", "carts are odd")
    assert code == 4
    assert "nothing was done. As far as the policy knows, this does it by hand, in a shell:" in err
    assert "the journal cannot be read" in err
    assert shares(proxy) == AFTER
    assert subprocess.run(["bash", "-eu"], check=False, input=out, stdout=subprocess.DEVNULL, text=True).returncode == 0
    assert shares(proxy) == {"baseline": 100}
    restore_weights(proxy)


@pytest.mark.parametrize("is_locked", [True, False])
def test_where_nothing_can_be_written_not_even_the_output_traffic_goes_back(is_locked, promoted, proxy):
    """stdout and stderr are files on a full disk."""
    with closing(sqlite3.connect(control_path(promoted.store), isolation_level=None)) as shell, open_full() as full:
        if is_locked:
            shell.execute("BEGIN IMMEDIATE")
        command = [sys.executable, "-m", "evaluator", "rollback", "cart@1.9.0", "--yes", "--reason", "odd"]
        code = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=full, stderr=full).returncode
    assert shares(proxy) == BEFORE
    assert code == 0


def open_full():
    return Path("/dev/full").open("w")


@pytest.mark.parametrize("control", ["gone", "restored"])
def test_a_promotion_that_only_the_journal_knows_is_rolled_back(control, promoted, proxy, judged_store):
    """The decisions are those of a backup, or begin again, with the data that are still there."""
    for path in [control_path(promoted.store), *promoted.folder.glob("*.sqlite-*")]:
        path.unlink()
    if control == "restored":
        shutil.copy(control_path(judged_store), control_path(promoted.store))
    code, _, err = promoted("rollback", "cart@1.9.0", "--yes", "--reason", "carts are odd")
    assert code == 0, err
    assert "acting from the journal" in err
    assert shares(proxy) == BEFORE


def test_the_folder_for_the_second_copy_cannot_be_used(run, proxy, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/no")
    (run.folder / "evaluator.yaml").write_text(POLICY.replace("SOCKET", str(proxy["socket"])))
    code, _, err = run("promote", "cart@1.9.0", "--yes")
    assert code == 0, err
    remove_all(run)
    assert run("rollback", "cart@1.9.0", "--yes", "--reason", "x")[0] == 0
    assert shares(proxy) == BEFORE


def test_a_hold_works_before_anything_was_promoted_too(run, proxy):
    """There is no journal yet, and the promotion that waits must not be executed."""
    (run.folder / "evaluator.yaml").write_text(POLICY.replace("SOCKET", str(proxy["socket"])))
    assert run("promote", "cart@1.9.0", "--yes", "--queue")[0] == 0
    with closing(sqlite3.connect(control_path(run.store), isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        code, _, err = run("hold", "cart@1.9.0", "--yes", "--reason", "carts are odd")
        assert code == 0, err
    code, out, err = run("hooks", "worker", "--once")
    assert (code, out) == (0, "no intent waits for execution\n"), err
    promotions = [intent for intent in Store.open(run.store).control.intents() if intent.action == "promote"]
    assert promotions[-1].state == "cancelled"
    assert shares(proxy) == BEFORE


# ------------------------------------------------------------------ a policy with mistakes


def test_a_mistake_in_the_policy_stops_no_rollback(promoted, proxy):
    policy = promoted.folder / "evaluator.yaml"
    told = promoted.folder / "told"
    policy.write_text(
        f"metrics: [{{metric: no_such}}]\nhooks:\n  promote: [{{no_such_hook: {{}}}}]\n"
        f"  rollback: [undo, {{command: {{run: [touch, {told}]}}}}]\n"
    )
    code, _, err = promoted("rollback", "cart@1.9.0", "--yes", "--reason", "carts are odd")
    assert code == 0, err
    assert "the policy has mistakes, so only what has none is used of" in err
    assert err.count("the policy has mistakes") == 1
    assert shares(proxy) == BEFORE
    assert told.exists(), "the hooks of rollback have no mistake"


@pytest.mark.parametrize("content", ["hooks: [", "\x00", None])
def test_a_policy_that_cannot_be_read_stops_no_rollback(content, promoted, proxy):
    policy = promoted.folder / "evaluator.yaml"
    policy.unlink()
    if content is None:
        policy.symlink_to("gone")
    else:
        policy.write_text(content)
    code, _, err = promoted("rollback", "cart@1.9.0", "--yes", "--reason", "carts are odd")
    assert code == 0, err
    assert "the policy cannot be used, so only what promotions changed is undone: " in err
    assert shares(proxy) == BEFORE
    assert promoted("hold", "cart@1.9.0", "--yes", "--reason", "until it is known why")[0] == 0


def test_a_mistake_in_the_policy_of_another_service_stops_no_rollback(promoted, proxy):
    policies = promoted.folder / "evaluator.policies"
    policies.mkdir()
    told = promoted.folder / "told"
    [service] = Store.open(promoted.store).control.release("cart@1.9.0").services
    own = f"hooks:\n  rollback: [undo, {{command: {{run: [touch, {told}]}}}}]\n"
    (policies / f"{service.name or 'default'}.yaml").write_text(own)
    (policies / "other.yaml").write_text("services: [")
    (promoted.folder / "evaluator.yaml").unlink()
    code, _, err = promoted("rollback", "cart@1.9.0", "--yes", "--reason", "carts are odd")
    assert code == 0, err
    assert shares(proxy) == BEFORE
    assert told.exists()


# ------------------------------------------------------------------ the worker


def test_a_worker_rolls_back_while_an_import_writes_the_data(promoted, proxy):
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); input()"
    shell = subprocess.Popen(
        [sys.executable, "-c", code, str(promoted.store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert shell.stdout.readline() == "open\n"
        assert promoted("rollback", "cart@1.9.0", "--yes", "--reason", "odd", "--queue")[0] == 0
        code, out, err = promoted("hooks", "worker", "--once")
        assert (code, "rollback cart@1.9.0: acknowledged" in out) == (0, True), out + err
    finally:
        shell.communicate("\n", timeout=10)
    assert shares(proxy) == BEFORE


def test_a_promotion_that_hangs_delays_a_rollback_and_does_not_stop_it(run, proxy, monkeypatch):
    """It holds the lock of the service. The request of the rollback ends by what was done from the journal."""
    begun, go = run.folder / "begun", run.folder / "go"
    hangs = f"touch {begun}; until [ -e {go} ]; do sleep 0.02; done"
    hook = f"    - command: {{run: [sh, -c, '{hangs}'], undo: ['true']}}\n"
    (run.folder / "evaluator.yaml").write_text(POLICY.replace("SOCKET", str(proxy["socket"])) + hook)
    monkeypatch.setattr("evaluator.cli.promote.LOCK_WAIT_S", 0.2)
    monkeypatch.setattr("evaluator.intents.emergency._SHORT_WAIT_S", 0.2)
    promoting = subprocess.Popen([sys.executable, "-m", "evaluator", "promote", "cart@1.9.0", "--yes"])
    while not begun.exists():
        time.sleep(0.02)
    assert shares(proxy) == AFTER
    ending = threading.Timer(2.0, go.touch)
    ending.start()
    code, out, err = run("rollback", "cart@1.9.0", "--yes", "--reason", "carts are odd")
    ending.join()
    assert code == 0, err
    assert "another process is executing an intent of cart@1.9.0" in err
    assert shares(proxy) == BEFORE
    assert promoting.wait(20) == 4 or "acknowledged" in out
    assert run("audit", "show", "cart@1.9.0")[0] == 0
    [_, rollback] = Store.open(run.store).control.intents()
    assert (rollback.action, rollback.state, rollback.id) == ("rollback", "acknowledged", "i2")


ROUTER = """\
import pathlib, sys
if sys.argv[1] == "get":
    print(pathlib.Path("shares.json").read_text())
elif pathlib.Path("broken").exists():
    sys.exit("the router is away")
else:
    pathlib.Path("shares.json").write_text(sys.argv[2])
"""


@pytest.mark.parametrize("fault", [None, remove_all])
def test_a_deployment_is_not_undone_while_its_router_keeps_the_users(fault, run):
    """Undoing it would take down the servers that they are at."""
    (run.folder / "router.py").write_text(ROUTER)
    (run.folder / "shares.json").write_text('{"baseline": 1.0, "canary": 0.0}')
    router = [sys.executable, "router.py"]
    hooks = [
        {"command": {"run": ["touch", "deployed"], "undo": ["rm", "deployed"], "required": True}},
        {"command": {"set": [*router, "set", "${shares}"], "get": [*router, "get"]}},
    ]
    (run.folder / "evaluator.yaml").write_text(json.dumps({"hooks": {"promote": hooks}}))
    assert run("promote", "cart@1.9.0", "--yes")[0] == 0
    assert json.loads((run.folder / "shares.json").read_text())["canary"] == 1
    (run.folder / "broken").touch()
    if fault:
        fault(run)
    code, out, err = run("rollback", "cart@1.9.0", "--yes", "--reason", "odd")
    assert code == 4
    assert "users may still be at the candidate: its router or its instances could not be taken back" in out
    assert (run.folder / "deployed").exists(), err
    (run.folder / "broken").unlink()
    code, out, err = run("rollback", "cart@1.9.0", "--yes", "--reason", "the router is back")
    assert code == 0, err
    assert json.loads((run.folder / "shares.json").read_text())["canary"] == 0
    assert not (run.folder / "deployed").exists()
