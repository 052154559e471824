"""People are notified by the commands that act, also of what is done without the store; exit codes stay the same."""

import json
import shutil

import pytest
from hooks_world import receiving, reply

from evaluator.__main__ import run as run_command

POLICY = """link: https://evaluator.example.org/promote?release=${release}&request=${request}
hooks:
  promote:
    - command: {run: [sh, -c, "exit 0"], undo: [sh, -c, "exit 0"]}
  notify:
    - notify: {to: ["json://127.0.0.1:PORT/${CHAT_TOKEN}"], allow_hosts: [127.0.0.1]}
approvals: {promote: NEEDED}
"""


@pytest.fixture
def receiver():
    with receiving() as opened:
        yield opened


@pytest.fixture
def run(judged_store, tmp_path, capfd, monkeypatch, receiver):
    folder = tmp_path / "place"
    shutil.copytree(judged_store.parent, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("CHAT_TOKEN", "pa55-t0ken")

    def call(*arguments, approvals=0):
        policy = POLICY.replace("PORT", str(receiver.port)).replace("NEEDED", str(approvals))
        (folder / "evaluator.yaml").write_text(policy)
        code = run_command(arguments)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        assert "pa55" not in out + err
        return code, out, err

    call.folder = folder
    return call


def titles(receiver):
    return [json.loads(request.body)["title"].removeprefix("cart@1.9.0: ") for request in receiver.requests]


def test_each_command_sends_what_it_did(run, receiver):
    assert run("hooks", "test", "notify")[0] == 0
    assert receiver.requests == []
    assert run("promote", "cart@1.9.0", "--yes", approvals=2)[0] == 3
    assert run("reject", "i1", approvals=2)[0] == 0
    assert run("promote", "cart@1.9.0", "--yes")[0] == 0
    assert run("hold", "cart@1.9.0", "--yes", "--reason", "odd")[0] == 0
    assert run("rollback", "cart@1.9.0", "--yes", "--reason", "odd")[0] == 0
    expected = ["promote waiting", "promote cancelled", "promote acknowledged", "hold acknowledged"]
    assert titles(receiver) == [*expected, "rollback acknowledged"]
    assert "https://evaluator.example.org/promote?release=cart%401.9.0&request=i1" in receiver.requests[0].body.decode()


def test_a_message_that_is_refused_changes_no_exit_code(run, receiver):
    receiver.answers = [reply(500, b"pa55-t0ken")]
    code, out, err = run("promote", "cart@1.9.0", "--yes")
    assert code == 0
    assert "i1 promote cart@1.9.0: acknowledged" in out
    assert "people were not notified that i1 is acknowledged: notify: 0 of 1 were notified, not json" in err
    assert run("hooks", "log")[1].startswith("i1 promote cart@1.9.0: acknowledged: 1 hook done")
    assert "not notified" in run("audit", "show")[1]


def test_a_rollback_without_the_store_is_sent_at_once(run, receiver):
    assert run("promote", "cart@1.9.0", "--yes")[0] == 0
    for path in [*run.folder.glob("*.sqlite*"), *run.folder.glob("*.duckdb")]:
        path.unlink()
    assert run("rollback", "cart@1.9.0", "--yes", "--reason", "odd")[0] == 0
    assert titles(receiver) == ["promote acknowledged", "rollback acknowledged"]
    message = json.loads(receiver.requests[-1].body)["message"]
    assert "without the database, from the journal: undo: command  acknowledged" in message
