"""Notebooks run without preparation, draw their figures, and are the same as the scripts of their names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jupytext
import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SAID = {
    "abn_experiment": ("promote C of shop@2-all", "variance −44", "0.7168"),
    "calibration": ("0 false alarms in 18 pairs", "73 pairs without any are needed"),
    "deep_dive": (
        "NO-GO ✗  cart@1.5.0 against 1.4.1",
        "canary-2    6\ncanary-3    4\n",
        "[(4, 'go'), (8, 'inconclusive'), (20, 'no_go')]",
    ),
    "metrics_server": ("'http_requests_total'", "['baseline', 'canary']", "canary: 1 series, "),
    "planning": ("2 stored comparisons", "blue_green"),
    "prometheus_join": (
        "by the server's metric alone go, by both no_go",
        "disagreement: the load sees client_mean of canary at +42.5 %",
        "50963.0  50963.0",
    ),
}
"""What each comes to: its text rests on that."""
FIGURES = {
    "abn_experiment": 1,
    "calibration": 1,
    "deep_dive": 5,
    "metrics_server": 0,
    "planning": 2,
    "prometheus_join": 2,
}
SVG = "image/svg+xml"


def pair(name: str) -> tuple[nbformat.NotebookNode, nbformat.NotebookNode]:
    return tuple(jupytext.read(NOTEBOOKS / f"{name}{suffix}") for suffix in (".py", ".ipynb"))


def test_every_notebook_is_a_pair_and_is_tried_here():
    assert (
        {path.stem for path in NOTEBOOKS.glob("*.py")} == {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(SAID)
    )


@pytest.mark.parametrize("name", SAID)
def test_script_and_notebook_are_the_same(name):
    script, notebook = ([(cell.cell_type, cell.source) for cell in one.cells] for one in pair(name))
    assert script == notebook, "bring them up to date: make notebooks"


@pytest.mark.parametrize("name", SAID)
def test_the_repository_keeps_no_outputs(name):
    _, notebook = pair(name)
    kept = [cell.source for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    assert kept == [], "clear the outputs before a commit: a reader runs it, and its history stays readable"
    lines = len((NOTEBOOKS / f"{name}.py").read_text().splitlines())
    assert lines < 130, "an alarm: a longer notebook is read by few; give a higher limit its reason here"


def test_a_script_runs(tmp_path):
    """One of them: the others have the same cells as notebooks that are run below."""
    command = [sys.executable, "-W", "error", str(NOTEBOOKS / "planning.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SAID)
def test_notebooks_run_and_draw(name, tmp_path):
    _, notebook = pair(name)
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert list(tmp_path.iterdir()) == [], "a notebook removes the files that it makes"
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    assert [one for one in outputs if one.output_type == "stream" and one.name == "stderr"] == []
    texts = [one.get("text") or one.get("data", {}).get("text/plain", "") for one in outputs]
    for text in SAID[name]:
        assert any(text in one for one in texts), f"{text!r} is not said by {name}: {texts}"
    figures = [one.data[SVG] for one in outputs if SVG in one.get("data", {})]
    assert len(figures) == FIGURES[name]
    for figure in figures:
        assert figure.count("aria-roledescription") > 5
        assert "://" not in figure.replace("http://www.w3.org/", "")
