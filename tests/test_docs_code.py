"""Python in the documents runs, and prints what the documents say that it prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)
"""A block of code, and what it prints where that follows at once."""
CODED = [
    path for path in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]) if "```python" in path.read_text()
]


@pytest.mark.parametrize("path", CODED, ids=lambda path: path.name)
def test_code_of_the_documents_runs_and_prints_what_they_say(path):
    """One process a document: locust patches the whole interpreter."""
    blocks = BLOCK.findall(path.read_text(encoding="utf-8"))
    code = "\n".join(code for code, _ in blocks)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(printed for _, printed in blocks)


def test_the_method_is_worked_through_with_numbers():
    assert "method.md" in {path.name for path in CODED}
