"""The units of systemd in the documentation: what they start exists, and neither unit stops the other."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "rollouts.md"
UNITS = dict(re.findall(r"```ini\n# /etc/systemd/system/(\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))


def read_unit(name):
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str
    parser.read_string(UNITS[name])
    return parser


def test_there_are_two():
    assert sorted(UNITS) == ["evaluator-guard.service", "evaluator-worker.service"]


@pytest.mark.parametrize("name", UNITS)
def test_what_they_start_exists(name):
    program, *arguments = read_unit(name)["Service"]["ExecStart"].split()
    own = Path(sys.executable).parent / Path(program).name
    done = subprocess.run([own, *arguments, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", UNITS)
def test_neither_stops_the_other(name):
    unit = read_unit(name)
    assert unit["Service"]["Restart"] == "always"
    assert unit["Service"]["KillMode"] == "mixed"
    assert not {"Requires", "BindsTo", "PartOf", "Conflicts", "PropagatesStopTo"} & set(unit["Unit"])
    assert "PrivateTmp" not in unit["Service"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_them(tmp_path):
    for name, text in UNITS.items():
        here = re.sub(r"/opt/evaluator/bin/\S+", sys.executable, text).replace("/bin/kill", shutil.which("kill"))
        (tmp_path / name).write_text(here.replace("User=evaluator", "User=root"))
    command = ["systemd-analyze", "verify", *tmp_path.glob("*.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "evaluator-" not in done.stderr, done.stderr
