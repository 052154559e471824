"""`evaluator render`, and how `--format` writes: a file is written completely or not at all."""

import json
import os
import stat
import subprocess
import sys
import threading

import pytest

from evaluator.__main__ import run
from evaluator.cli import outputs
from evaluator.reports import FORMATS

VERDICT = {
    "schema_version": 1,
    "release": "cart@1.5.0",
    "verdict": "no_go",
    "reasons": [{"code": "regression", "metric": None, "arm": None, "slice": None, "text": "p95 rose 41 %"}],
    "next_action": "",
    "time_to_decision_s": None,
    "judge": "native",
    "monitoring": "fixed",
    "alpha": 0.05,
    "services": [{"name": "cart", "baseline": "1.4.1", "canary": "1.5.0"}],
    "arms": [],
    "window": {"start": None, "end": None},
    "incomplete": False,
    "mode": "block",
    "override": None,
    "policy": {},
    "queries": [],
    "policy_hash": "",
    "data_hash": "",
    "evaluator_version": "0.1.0",
    "judged_at": None,
    "metrics": [],
    "health": [],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.json").write_text(json.dumps(VERDICT, indent=2))
    return tmp_path


@pytest.fixture
def render(folder, capfd):
    def call(*args):
        code = run(["render", *args])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_rendering_is_not_judging(render):
    code, out, err = render("v.json")
    assert (code, err) == (0, "")
    assert out.startswith("NO-GO ✗  cart@1.5.0 against 1.4.1\n")


def test_every_format_can_be_rendered_at_once(render, folder):
    args = [word for name in FORMATS for word in ("--format", f"{name}=out.{name}")]
    assert render("v.json", *args) == (0, "", "")
    assert {path.name for path in folder.iterdir()} == {"v.json", *(f"out.{name}" for name in FORMATS)}
    assert json.loads((folder / "out.json").read_text()) == VERDICT


def test_json_is_rendered_byte_for_byte(render, folder):
    assert render("v.json", "--format", "json")[1] == (folder / "v.json").read_text() + "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_stdin_is_a_file_called_dash(folder, encoding):
    done = subprocess.run(
        [sys.executable, "-m", "evaluator", "render", "-", "--format", "markdown"],
        input=json.dumps(VERDICT).encode(encoding),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.decode().startswith("## NO-GO ✗ cart@1.5.0")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not JSON: it is empty"),
        (b'{"schema_version": 1, "release": "ca', "is not JSON: it is cut off in line 1"),
        (b'{"metrics": {}, "root_group": {}}', "not a verdict: it has no schema_version"),
        (b'{"schema_version": 2}', "has schema version 2, and this evaluator reads up to 1"),
        ("{}".encode("utf-16"), "it is not UTF-8 text"),
        (bytes(range(256)), "it is not UTF-8 text"),
    ],
    ids=str,
)
def test_what_is_no_verdict_is_refused_and_nothing_is_written(render, folder, content, says):
    (folder / "bad.json").write_bytes(content)
    code, out, err = render("bad.json", "--format", "junit=junit.xml")
    assert (code, out) == (2, "")
    assert err.startswith("Error: bad.json ")
    assert says in err
    assert "Hint: " in err
    assert not (folder / "junit.xml").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("nowhere.json",), "nowhere.json cannot be read: No such file or directory"),
        ((".",), ". cannot be read: Is a directory"),
        (("v.json", "--format", "junti"), "did you mean 'junit'"),
        (("v.json", "--format", "json", "--format", "human"), "two formats cannot both go to stdout"),
        (("v.json", "--format", "json=a", "--format", "human=./a"), "two formats cannot both go to"),
        (("v.json", "--format", "json=nowhere/x.json"), "'nowhere/x.json' is not a file that can be written"),
        (("v.json", "--format", "json=v.json/x"), "is not a file that can be written"),
        (("v.json", "--format", "json="), "'' is not a file that can be written"),
        ((), "VERDICT.json"),
    ],
    ids=str,
)
def test_wrong_usage_is_one_sentence(render, args, says):
    code, out, err = render(*args)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_a_folder_without_write_permission_is_refused_beforehand(render, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    code, _, err = render("v.json", "--format", "json=x.json")
    assert code == 2
    assert "this user may not write 'x.json'" in err


# ------------------------------------------------------------------ whole files


def test_a_file_that_cannot_be_finished_is_left_as_it_was(render, folder, monkeypatch):
    (folder / "out.txt").write_text("old")

    def fail(self, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(outputs.Path, "replace", fail)
    code, _, err = render("v.json", "--format", "human=out.txt")
    assert code == 4
    assert "No space left on device" in err
    assert (folder / "out.txt").read_text() == "old"
    assert {path.name for path in folder.iterdir()} == {"v.json", "out.txt"}


def test_a_file_keeps_its_mode_and_a_new_one_follows_the_mask(render, folder):
    existing = folder / "kept.json"
    existing.write_text("old")
    existing.chmod(0o640)
    before = os.umask(0o027)
    try:
        assert render("v.json", "--format", "json=kept.json", "--format", "markdown=new.md")[0] == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(existing.stat().st_mode) == 0o640
    assert stat.S_IMODE((folder / "new.md").stat().st_mode) == 0o640


def test_a_link_stays_a_link(render, folder):
    (folder / "link.json").symlink_to("target.json")
    assert render("v.json", "--format", "json=link.json")[0] == 0
    assert (folder / "link.json").is_symlink()
    assert json.loads((folder / "target.json").read_text()) == VERDICT


def test_a_pipe_is_written_to(render, folder):
    os.mkfifo(folder / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((folder / "pipe").read_text()))
    reader.start()
    assert render("v.json", "--format", "json=pipe")[0] == 0
    reader.join(10)
    assert json.loads(read[0]) == VERDICT


def test_devices_take_several_formats(render):
    assert render("v.json", "--format", "json=/dev/null", "--format", "junit=/dev/null") == (0, "", "")


# ------------------------------------------------------------------ the runner of GitHub


def test_the_report_for_people_is_named_to_later_steps(render, folder, monkeypatch):
    monkeypatch.setenv("GITHUB_OUTPUT", str(folder / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary"))
    code, out, _ = render("v.json", "--format", "github", "--format", "json=a.json", "--format", "markdown=b.md")
    assert code == 0
    assert out == "::error title=NO-GO ✗ cart@1.5.0::p95 rose 41 %25\n"
    assert "\nb.md\n" in (folder / "output").read_text()
    assert (folder / "summary").read_text().startswith("## NO-GO")


def test_other_formats_leave_the_runner_alone(render, folder, monkeypatch):
    monkeypatch.setenv("GITHUB_OUTPUT", str(folder / "output"))
    render("v.json", "--format", "markdown")
    assert not (folder / "output").exists()


def test_a_summary_that_cannot_be_written_is_no_verdict(render, folder, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder))
    code, _, err = render("v.json", "--format", "github")
    assert code == 4
    assert "Is a directory" in err
