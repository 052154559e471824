"""Python in the documents runs, and prints what the documents say that it prints."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from judging import SMALL

from evaluator.pipeline.simulating import land_simulated
from evaluator.records import Release
from evaluator.simulate import simulate
from evaluator.store import Store

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)
"""A block of code, and what it prints where that follows at once."""
CODED = [
    path for path in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]) if "```python" in path.read_text()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the code runs: with a store that knows the release that documents speak of."""
    place = tmp_path_factory.mktemp("documents")
    requests = simulate(SMALL, 1)
    requests = replace(requests, endpoints=("POST /checkout", *requests.endpoints[1:]))
    store = Store.open(place / "evaluator.duckdb", create=True)
    land_simulated(store, Release("cart@1.5.0"), requests)
    return place


@pytest.mark.parametrize("path", CODED, ids=lambda path: path.name)
def test_code_of_the_documents_runs_and_prints_what_they_say(path, folder):
    """One process a document: locust patches the whole interpreter."""
    blocks = BLOCK.findall(path.read_text(encoding="utf-8"))
    code = "\n".join(code for code, _ in blocks)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(printed for _, printed in blocks)


def test_the_method_is_worked_through_with_numbers():
    assert "method.md" in {path.name for path in CODED}
