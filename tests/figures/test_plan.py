from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from click.testing import CliRunner

from evaluator.cli import evaluator


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    result = CliRunner().invoke(evaluator, ["plan", "--rate", "30", "--json", "--plot", str(folder / "plan.svg")])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), (folder / "plan.svg").read_text(encoding="utf-8")


def test_a_plan_is_drawn_with_every_gate_and_strategy(drawn):
    plain, svg = drawn
    text = " ".join(node.text or "" for node in ET.fromstring(svg).iter())
    assert len(plain["gates"]) == 4
    for word in ("failures", "p50", "p95", "p99", "minutes", "big bang", "blue-green", "canary", "A/B test"):
        assert word in text
    least = min(plain["strategies"], key=lambda row: row["exposed"])["label"]
    assert f"{least} exposes the fewest" in text


def test_a_name_that_is_no_figure_is_refused(tmp_path):
    result = CliRunner().invoke(evaluator, ["plan", "--rate", "30", "--plot", str(tmp_path / "plan.gif")])
    assert "cannot be written as 'plan.gif'" in str(result.exception)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    result = CliRunner().invoke(evaluator, ["plan", "--rate", "30", "--plot", str(tmp_path / "no" / "plan.svg")])
    assert "cannot be written" in str(result.exception)
