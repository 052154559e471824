"""`evaluator data backup`, `restore` and `new-decisions` as a person uses them."""

import shutil

import pytest

from evaluator.__main__ import run as run_command

POLICY = """hooks:
  promote:
    - command: {run: [sh, -c, "echo promoted >> out.txt"], undo: [sh, -c, "echo undone >> out.txt"]}
approvals: {promote: PROMOTE}
"""


@pytest.fixture
def run(judged_store, tmp_path, capfd, monkeypatch):
    folder = tmp_path / "place"
    shutil.copytree(judged_store.parent, folder)
    monkeypatch.chdir(folder)

    def call(*arguments):
        code = run_command(arguments)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    def write_policy(approvals):
        (folder / "evaluator.yaml").write_text(POLICY.replace("PROMOTE", str(approvals)))

    call.folder, call.write_policy = folder, write_policy
    write_policy(2)
    return call


def test_what_waited_in_a_backup_is_never_executed_and_a_new_verdict_promotes(run, tmp_path):
    assert run("promote", "cart@1.9.0", "--yes")[0] == 3
    code, out, err = run("data", "backup", str(tmp_path / "b"))
    assert code == 0, err
    assert " files, " in out
    assert "nothing could land for" in err
    # After the backup, the request is approved and executed.
    run.write_policy(0)
    assert run("reject", "i1")[0] == 0
    assert run("promote", "cart@1.9.0", "--yes")[0] == 0
    code, out, err = run("data", "restore", str(tmp_path / "b"), "--replace")
    assert code == 0, err
    assert "i1 promote cart@1.9.0 was requested, and is unknown now" in out
    assert "what was there before is in " in out
    assert "is unknown to this store: verdicts, holds, promotions and rollbacks" in err
    assert run("hooks", "worker", "--once")[1] == "no intent waits for execution\n"
    code, _, err = run("promote", "cart@1.9.0", "--yes")
    assert (code, "the verdict is from before decisions were lost" in err) == (3, True)
    assert run("promote", "cart@1.6.0", "--break-glass", "--reason", "x", "--yes")[0] == 3
    code, out, err = run("hooks", "retry", "i1")
    assert "its verdict is from before decisions were lost" in out + err or "have changed since" in out + err
    assert (run.folder / "out.txt").read_text() == "promoted\n"
    assert run("verdict", "cart@1.9.0")[0] == 0
    code, out, err = run("promote", "cart@1.9.0", "--yes")
    assert (code, out.startswith("i1003 promote cart@1.9.0: acknowledged")) == (0, True), err
    assert (run.folder / "out.txt").read_text() == "promoted\n" * 2
    assert run("audit", "verify")[0] == 0


def test_mistakes_have_a_sentence_and_no_effect(run, tmp_path):
    before = sorted(run.folder.iterdir())
    for arguments, says in (
        (("data", "backup", str(run.folder)), "exists already; nothing was written"),
        (("data", "backup", "evaluator.data/b"), "which is part of the store"),
        (("data", "backup", "b", "--pause", "soon"), "Error"),
        (("data", "restore", "evaluator.data"), "is not a backup: it has no manifest.json"),
        (("data", "restore", "nowhere"), "is not a backup"),
        (("data", "new-decisions", "--reason", "x"), "its decisions are not lost"),
        (("data", "new-decisions"), "Missing option '--reason'"),
    ):
        code, _, err = run(*arguments)
        assert code in (2, 4)
        assert says in err
    assert sorted(run.folder.iterdir()) == before


def test_new_decisions_promote_nothing_before_a_new_verdict(run):
    run.write_policy(0)
    for path in run.folder.glob("evaluator.control.sqlite*"):
        path.unlink()
    code, _, err = run("verdict", "cart@1.9.0")
    assert code == 4
    assert "`evaluator data new-decisions`" in err
    code, out, err = run("data", "new-decisions", "--reason", " ")
    assert (code, "the reason is missing" in err) == (2, True)
    code, out, err = run("data", "new-decisions", "--reason", "disk 3\ndied \x1b[31m")
    assert code == 0
    assert "cart@1.9.0: its service is not known, no versions" in out
    code, _, err = run("promote", "cart@1.9.0", "--yes")
    assert (code, "was not judged yet" in err) == (3, True)
    code, out, _ = run("audit", "show")
    assert "before are lost; disk 3 died [31m" in out
    # Where services have policies of their own, none is chosen before the service is set again.
    (run.folder / "evaluator.policies").mkdir()
    (run.folder / "evaluator.yaml").rename(run.folder / "evaluator.policies" / "cart.yaml")
    code, _, err = run("verdict", "cart@1.9.0")
    assert code == 2, err
    assert run("data", "service", "cart@1.9.0", "cart")[0] == 0
    assert run("verdict", "cart@1.9.0")[0] == 0
