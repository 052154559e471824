"""What a user does with the readings of a past hour, at real servers: collect and judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import metrics_servers
import numpy as np
import pytest
import requests
from metrics_servers import Line

from evaluator.__main__ import run
from evaluator.pipeline.collecting import CollectionInterval, collect_release
from evaluator.pipeline.judging import judge_release
from evaluator.policy import load_policy
from evaluator.records import Release, Verdict
from evaluator.store import Store

START = datetime(2026, 10, 1, 12, tzinfo=UTC)
STEP_S, SCRAPES = 15, 120
END = START + timedelta(seconds=STEP_S * SCRAPES)

VERSIONS = {
    "old": {},
    "new": {},
    "dead55": {"alive": 0.55},
    "dead70": {"alive": 0.7},
    "switched": {"drop": 900.0},
    "renamed": {"code": "status"},
    "crashing": {"born": 0.4},
}
"""How each version behaves: how long it lives, by how much its counters drop once, its label, when it came up."""


def history() -> str:
    lines = []
    for version, shape in VERSIONS.items():
        for pod in range(3):
            rng = np.random.default_rng(pod + 10 * len(version))
            own = {"version": version, "instance": f"{version}-{pod}:80"}
            good = 40_000_000 + np.cumsum(rng.poisson(20 * STEP_S, SCRAPES + 1)).astype(float)
            good[SCRAPES // 2 :] -= shape.get("drop", 0.0)
            code = shape.get("code", "code")
            for n in range(int(SCRAPES * shape.get("alive", 1.0)) + 1):
                at = START.timestamp() + n * STEP_S
                is_up = n >= SCRAPES * shape.get("born", 0.0)
                lines.append(Line("up", own, float(is_up), at))
                if not is_up:
                    continue
                lines.append(Line("http_requests_total", {**own, code: "200"}, float(good[n]), at))
                lines.append(Line("work_seconds_sum", own, float(good[n]) * 0.1, at))
                lines.append(Line("work_seconds_count", own, float(good[n]), at))
                lines.append(Line("work_seconds", {**own, "quantile": "0.9"}, 0.2, at))
    kinds = {"http_requests": "counter", "work_seconds": "summary", "up": "gauge"}
    lines.sort(key=lambda line: (line.name, sorted(line.labels.items()), line.ts))
    return metrics_servers.openmetrics(lines, kinds)


@pytest.fixture(scope="module", params=["prometheus", "victoria-metrics"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("server")
    if request.param == "prometheus":
        with metrics_servers.prometheus(folder, metrics_servers.backfill(folder, history())) as address:
            yield address
    else:
        with metrics_servers.victoria_metrics(folder, history()) as address:
            yield address


GATES = """
  - {name: failures, type: counter_ratio, failures: 'http_requests_total{$selector,LABEL=~"5.."}',
     requests: 'http_requests_total{$selector}', margin: 1pp}
  - {name: rate, type: counter_rate, query: 'http_requests_total{$selector}', margin: 20%}
"""


def write_policy(folder: Path, url: str, version: str, *, metrics: str = GATES, label: str = "code") -> Path:
    selectors = f"{{baseline: 'version=\"old\"', canary: 'version=\"{version}\"'}}"
    path = folder / "evaluator.yaml"
    path.write_text(
        f"sources: {{prometheus: {{url: '{url}', step: 15s, selectors: {selectors}}}}}\n"
        f"metrics:{metrics.replace('LABEL', label)}"
    )
    return path


def judge(
    folder: Path, url: str, version: str, start: datetime = START, end: datetime = END, **options: str
) -> Verdict:
    policy = load_policy(write_policy(folder, url, version, **options))
    store = Store.open(folder / "evaluator.duckdb", create=True)
    collect_release(store, Release("cart@2"), policy, CollectionInterval(start, end))
    return judge_release(store, "cart@2", policy, judged_at=datetime.now(UTC))


def finding(verdict: Verdict, check: str):
    return next(item for item in verdict.evidence.findings if item.check == check)


def test_an_equal_release_may_go_and_every_sample_is_accounted_for(tmp_path, url):
    verdict = judge(tmp_path, url, "new")
    assert verdict.word.value == "go"
    assert "never happened on baseline and canary, so it counts as 0" in finding(verdict, "series").text
    for query in verdict.queries:
        read, *parts = query["samples"].values()
        assert read == sum(parts)
    counted = next(query for query in verdict.queries if query["query"] == "http_requests_total{$selector}")
    assert counted["samples"]["judged"] >= 3 * SCRAPES


@pytest.mark.parametrize(("version", "minute"), [("dead55", "12:16:30"), ("dead70", "12:21:00")])
def test_a_canary_that_dies_is_no_pass_and_the_command_for_its_time_is_given(tmp_path, url, version, minute):
    verdict = judge(tmp_path, url, version)
    assert verdict.word.value == "inconclusive"
    silence = finding(verdict, "silence")
    assert silence.level.value == "fail"
    assert f"canary falls silent at 2026-10-01 {minute} UTC" in silence.text
    command = silence.remedy.partition("`")[2].partition("`")[0]
    assert command == f"evaluator collect cart@2 --from 2026-10-01T12:00:00Z --to 2026-10-01T{minute}Z"
    lived = datetime.fromisoformat(f"2026-10-01T{minute}+00:00")
    assert judge(tmp_path, url, version, end=lived).word.value == "go"


def test_a_canary_that_was_down_at_first_should_have_answered(tmp_path, url):
    """The server tried to scrape it, so it was not deployed later."""
    verdict = judge(tmp_path, url, "crashing")
    assert verdict.word.value == "inconclusive"
    targets = finding(verdict, "targets")
    assert targets.level.value == "fail"
    assert "targets of canary did not answer 39" in targets.text
    assert "crashing-0:80, crashing-1:80, crashing-2:80, first at 2026-10-01 12:00:15 UTC" in targets.text


def test_a_label_with_another_name_is_no_zero(tmp_path, url):
    verdict = judge(tmp_path, url, "new", label="status")
    assert verdict.word.value == "inconclusive"
    assert "no series of http_requests_total on baseline has the label status" in verdict.reasons[0].text
    assert "they have code, instance, version" in verdict.reasons[0].text


def test_a_label_that_was_renamed_on_one_arm_is_no_zero(tmp_path, url):
    verdict = judge(tmp_path, url, "renamed")
    assert verdict.word.value == "inconclusive"
    assert "no series of http_requests_total on canary has the label code" in verdict.reasons[0].text


def test_another_server_of_a_pair_is_no_restart(tmp_path, url):
    verdict = judge(tmp_path, url, "switched")
    assert verdict.word.value == "go"
    assert "dropped by less than half 3 times, which is no restart" in finding(verdict, "counter_drops").text
    assert not [item for item in verdict.evidence.findings if item.check == "restarts"]
    rate = next(item for item in verdict.evidence.comparisons if item.rule.name == "rate")
    assert abs(rate.effect.estimate) < 0.05
    assert max(item["samples"]["dropped"] for item in verdict.queries if item["arm"] == "canary") == 3


def test_a_summary_is_named_for_what_it_is(tmp_path, url):
    metrics = """
  - {name: p95, type: histogram_quantile, query: 'work_seconds{$selector}', quantile: 0.95, margin: 10%}
  - {name: mean, type: histogram_mean, query: 'work_seconds{$selector}', margin: 10%}
"""
    verdict = judge(tmp_path, url, "new", metrics=metrics)
    by_rule = {comparison.rule.name: comparison for comparison in verdict.evidence.comparisons}
    assert "work_seconds is a summary (quantile) on baseline" in by_rule["p95"].no_data
    assert "histogram_mean" in by_rule["p95"].no_data
    assert by_rule["mean"].no_data is None


@pytest.mark.parametrize("url", ["victoria-metrics"], indirect=True)
def test_vmrange_buckets_are_named_for_what_they_are(tmp_path, url):
    """Only VictoriaMetrics has such buckets."""
    rows = [
        f'odd_seconds_{part}{{version="{version}",instance="{version}:1"{labels}}} {20 * n} '
        f"{round((START.timestamp() + n * STEP_S) * 1000)}"
        for version in ("old", "new")
        for part, labels in (("bucket", ',vmrange="1.000e-01...1.136e-01"'), ("sum", ""), ("count", ""))
        for n in range(SCRAPES + 1)
    ]
    requests.post(f"{url}/api/v1/import/prometheus", data="\n".join(rows), timeout=10).raise_for_status()
    requests.get(f"{url}/internal/force_flush", timeout=10)
    metrics = (
        "\n  - {name: p95, type: histogram_quantile, query: 'odd_seconds{$selector}', quantile: 0.95, margin: 9%}\n"
    )
    verdict = judge(tmp_path, url, "new", metrics=metrics)
    assert "odd_seconds is VictoriaMetrics' buckets (vmrange) on baseline" in verdict.evidence.comparisons[0].no_data


def test_readings_kept_by_an_earlier_version_are_no_pass(tmp_path, url):
    """Their facts have other names, and no account."""
    judge(tmp_path, url, "new")
    with duckdb.connect(str(tmp_path / "evaluator.duckdb")) as store:
        facts = json.loads(store.execute("SELECT facts FROM readings_of").fetchall()[0][0])
        old = [
            {key: fact[key] for key in ("query", "arm", "sent", "series", "warnings", "nan")}
            | {"started": 0, "ended": 0}
            for fact in facts
        ]
        store.execute("UPDATE readings_of SET facts = ?", [json.dumps(old)])
    policy = load_policy(tmp_path / "evaluator.yaml")
    store = Store.open(tmp_path / "evaluator.duckdb")
    verdict = judge_release(store, "cart@2", policy, judged_at=datetime.now(UTC))
    assert verdict.word.value == "inconclusive"
    assert "collected by an earlier version" in finding(verdict, "samples").text


def test_the_commands_of_a_canary_that_never_answered(tmp_path, url, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_policy(tmp_path, url, "never")
    window = ["--from", f"{START:%Y-%m-%dT%H:%M:%SZ}", "--to", f"{END:%Y-%m-%dT%H:%M:%SZ}"]
    assert run(["collect", "cart@2", *window]) == 0
    printed = capsys.readouterr()
    assert "canary has no readings" in printed.err
    assert run(["verdict", "cart@2"]) == 3
    verdict_text = " ".join(capsys.readouterr().out.split())
    assert "no query has a series of canary" in verdict_text
    assert len(Store.open(tmp_path / "evaluator.duckdb").control.verdicts("cart@2")) == 1
