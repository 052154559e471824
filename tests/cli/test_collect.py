"""`evaluator collect`, `load --collect` and `demo --prometheus`, with a Prometheus that scrapes the sample service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluator.__main__ import run
from evaluator.records import Arm
from evaluator.sources.sample import find_loadtests, start_arms, start_prometheus
from evaluator.store import Store


def judged(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict]:
    """Metrics of a verdict by name."""
    capsys.readouterr()
    assert run(["verdict", *words, "--format", "json"]) in (0, 1, 3)
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)["metrics"] if row["role"] != "scan"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["collect", "cart@2", "--from", "2026-11-25T10:00:00"], "has no time zone"),
        (["collect", "cart@2", "--from", "yesterday"], "is not a time such as"),
        (["collect", "cart@2", "--follow", "--to", "now"], "--to cannot be used with --follow"),
        (["collect", "cart@2", "--run-time", "5m"], "--run-time needs --follow"),
        (["collect", "cart@2", "--to", "now"], "--to needs --from"),
        (["collect", "cart@2"], "there is no window to collect"),
        (["collect", "cart@2", "--from", "now", "--to", "-1h"], "is not before --to"),
        (["collect", "cart@2", "--from", "-1h"], "names no metrics server"),
        (["collect", "cart@2", "--baseline-window", "-2h"], "is not a window START/END"),
        (["collect", "cart@2", "--baseline-window", "-1h/-2h"], "does not start before its end"),
        (["collect", "cart@2", "--canary-window", "2026-11-25T10:00:00/now"], "has no time zone"),
        (["collect", "cart@2", "--arm-window", "-2h/-1h"], "is not NAME=START/END"),
        (["collect", "cart@2", "--arm-window", "b=-2h"], "--arm-window b=-2h: '-2h' is not a window"),
        (["collect", "cart@2", "--baseline-window", "-2h/-1h", "--from", "-1h"], "cannot be used with --from"),
        (["collect", "cart@2", "--baseline-window", "-2h/-1h", "--follow"], "cannot be used with --from"),
        (["collect", "cart@2", "--baseline-window", "-2h/-1h"], "names no metrics server"),
    ],
)
def test_what_cannot_be_collected(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert run(words) == 2
    assert message in capsys.readouterr().err


def test_a_load_with_collect_is_judged_by_both(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    versions = [("baseline", "1", "none"), ("canary", "2", "none")]
    with (
        start_arms(versions, instances=2, leak_over_s=60, metrics=True) as arms,
        start_prometheus(arms, tmp_path / "prometheus") as url,
    ):
        text = (find_loadtests() / "evaluator-prometheus.yaml").read_text().replace("http://127.0.0.1:9090", url)
        Path("evaluator.yaml").write_text(text)
        assert run([*load(arms), "--collect"]) == 0
        captured = capsys.readouterr()
        assert "readings in run" in captured.out
        assert run(["collect", "shop@2"]) == 0  # the window of the load again, as a run of its own
    metrics = judged(capsys, "shop@2")
    for name in ("latency_p95", "server_failures", "server_mean", "cpu", "memory"):
        assert metrics[name]["status"] != "no_data", metrics[name]["reason"]
    client, server = metrics["latency_p50"]["baseline"]["value"], metrics["server_mean"]["baseline"]["value"]
    assert 0.5 * client < server < 2 * client
    sources = [run.source for run in Store.open(Path("evaluator.duckdb")).data.runs("shop@2")]
    assert sources == ["locust", "prometheus", "prometheus"]
    assert run(["releases"]) == 0
    assert "shop@2" in capsys.readouterr().out


def load(arms: tuple[Arm, ...]) -> list[str]:
    baseline, canary = (",".join(arm.urls) for arm in arms)
    locustfile = str(find_loadtests() / "locustfile.py")
    words = ["load", "shop@2", "--baseline", baseline, "--canary", canary, "--locustfile", locustfile]
    return [*words, "--users", "20", "--spawn-rate", "20", "--run-time", "20s"]


def test_collect_fails_before_the_load_where_nothing_could_be_collected(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arms = (Arm("baseline", ("http://127.0.0.1:9",)), Arm("canary", ("http://127.0.0.1:9",)))
    assert run([*load(arms), "--collect"]) == 2
    assert "no metric of readings" in capsys.readouterr().err


def test_the_demo_with_prometheus(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["demo", "--prometheus", "--seconds", "20"]) in (0, 3)
    assert "started a Prometheus" in capsys.readouterr().err
    metrics = judged(capsys, "shop@1.5.0", "--store", "demo/evaluator.duckdb", "--policy", "demo/demo-prometheus.yaml")
    assert metrics["server_mean"]["status"] != "no_data", metrics["server_mean"]["reason"]
    assert Path("demo/shop@1.5.0.html").read_text().startswith("<!DOCTYPE html>")
