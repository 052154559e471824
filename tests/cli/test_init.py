import ast
import os
import subprocess
import sys

import pytest

from evaluator.__main__ import run
from evaluator.policy import load_policy


def test_what_it_writes_changes_nothing(tmp_path, capfd):
    assert run(["init", str(tmp_path / "new" / "place")]) == 0
    out, err = capfd.readouterr()
    policy, locustfile = (tmp_path / "new" / "place" / name for name in ("evaluator.yaml", "locustfile.py"))
    assert out.splitlines() == [str(policy), str(locustfile)]
    assert "evaluator load" in err
    assert load_policy(policy).hash == load_policy().hash


def test_the_locustfile_is_one_that_locust_takes(tmp_path):
    run(["init", str(tmp_path)])
    ast.parse((tmp_path / "locustfile.py").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", "locustfile.py", "--list"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Visitor" in done.stdout


@pytest.mark.parametrize("name", ["evaluator.yaml", "locustfile.py"])
def test_nothing_is_overwritten(tmp_path, capfd, name):
    (tmp_path / name).write_text("mine")
    assert run(["init", str(tmp_path)]) == 2
    assert f"{name} exists already" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_that_is_a_file(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    assert run(["init", str(tmp_path / "file")]) == 2
    assert "is a file" in capfd.readouterr().err


def test_a_full_disk_is_said(tmp_path):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "evaluator", "policy", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ},
            check=False,
        )
    assert done.returncode == 4
    assert done.stderr.decode() == "Error: No space left on device\n"
