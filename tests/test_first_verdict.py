"""The tutorial, executed as written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parent.parent / "docs" / "first-verdict.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|yaml)\n(.*?)```", PAGE, re.DOTALL)
ANSWERS = {"evaluator demo --seconds 30": "GO ✓", "evaluator demo --regression endpoint --seconds 30": "NO-GO ✗"}


def test_the_tutorial_says_what_happens(tmp_path):
    (yaml,) = (text for kind, text in BLOCKS if kind == "yaml")
    commands = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if " app " not in line]
    assert len(commands) >= 6
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        if "policy check" in command:
            (tmp_path / "evaluator.yaml").write_text(yaml, encoding="utf-8")
        done = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            env=environment,
        )
        assert "Error" not in done.stderr, done.stderr
        if command in ANSWERS:
            assert done.stdout.startswith(ANSWERS[command]), done.stdout
            assert done.returncode == (ANSWERS[command] == "NO-GO ✗")

    assert (tmp_path / "demo" / "shop@1.5.0-endpoint.html").exists()
