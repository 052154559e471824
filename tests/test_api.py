"""The objects of a notebook: they keep no file open, answer queries, and display themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from judging import SMALL

import evaluator
from evaluator.errors import PolicyError, StoreError, UnknownName, UsageError
from evaluator.pipeline.judging import judge_release, keep_verdict
from evaluator.pipeline.simulating import land_simulated
from evaluator.policy import load_policy
from evaluator.records import Learnt, Release, Service
from evaluator.simulate import Change, simulate
from evaluator.store import Store

SLOWER = replace(SMALL, changes=(Change(latency=0.3),))


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """A store with a slower candidate that was judged, and a healthy one."""
    folder = tmp_path_factory.mktemp("store")
    store = Store.open(folder / "evaluator.duckdb", create=True)
    for name, design in (("cart@2", SLOWER), ("cart@3", SMALL)):
        land_simulated(store, Release(name, (Service("cart", "1", name[-1]),)), simulate(design, 3))
    judge_release(store, "cart@2", load_policy(), judged_at=datetime(2026, 1, 5, tzinfo=UTC))
    return store.path


@pytest.fixture
def store(path):
    return evaluator.open(path)


def test_the_newest_release_comes_first_and_each_is_found_by_name(store):
    assert store.releases == ("cart@3", "cart@2")
    release = store.release("cart@2")
    assert release.services == (Service("cart", "1", "2"),)
    assert [run.source for run in release.runs] == ["import"]
    assert "cart@2: 1 run" in repr(release)
    assert [release.name for release in store] == ["cart@3", "cart@2"]
    with pytest.raises(UnknownName, match="did you mean 'cart@"):
        store.release("cart@4")


def test_a_store_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match="there is no store at"):
        evaluator.open(tmp_path / "none.duckdb")


def test_a_judgement_shows_itself(store):
    judgement = store.release("cart@2").compare()
    assert judgement.word == "no_go"
    assert repr(judgement).startswith("NO-GO ✗  cart@2 against 1")
    page = judgement._repr_html_()
    assert page.startswith("<p><b>NO-GO ✗</b> cart@2</p>")
    assert "<td>✗ fail</td>" in page
    assert judgement["latency_p95"].effect.estimate == pytest.approx(0.3, abs=0.1)
    with pytest.raises(UnknownName, match="or 'latency_p95'"):
        judgement["latency_p96"]


def test_a_judgement_as_rows(store):
    judgement = store.release("cart@2").compare()
    frame, table = judgement.to_pandas(), judgement.to_arrow()
    assert list(frame.columns) == table.column_names
    assert len(frame) == table.num_rows == len(judgement.comparisons)
    row = frame[frame.metric == "latency_p95"].iloc[0]
    assert row["effect"] == pytest.approx(judgement["latency_p95"].effect.estimate, rel=1e-6)
    assert judgement.to_dict()["verdict"] == "no_go"


def test_other_metrics_and_other_settings(store):
    release = store.release("cart@2")
    p90 = {"name": "p90", "type": "latency_quantile", "quantile": 0.9, "margin": "60%"}
    judgement = release.compare(metrics=[p90], endpoint_scan={"enabled": False}, alpha=0.1)
    assert [row.rule.name for row in judgement.comparisons] == ["p90"]
    assert judgement.verdict.alpha == 0.1
    assert judgement["p90"].status == "pass"
    with pytest.raises(PolicyError, match="did you mean 'alpha'"):
        release.compare(alpa=0.1)


def test_a_policy_as_a_mapping(store):
    mapping = {"metrics": [{"name": "m", "type": "latency_mean", "margin": "5%"}]}
    judgement = store.release("cart@2").compare(policy=mapping)
    assert [row.rule.name for row in judgement.comparisons if not row.scan] == ["m"]


def test_a_part_of_the_requests(store):
    release = store.release("cart@2")
    on_all = release.compare()
    endpoint = on_all.comparisons[-1].rule.slice.endpoint
    part = release.compare(endpoints=[endpoint])
    assert {row.rule.slice.endpoint for row in part.comparisons if row.scan} == {endpoint}
    window = on_all.verdict.evidence.window
    late = release.compare(start=window.start + (window.end - window.start) / 2)
    assert late["latency_p50"].baseline.n < 0.7 * on_all["latency_p50"].baseline.n
    with pytest.raises(UnknownName, match="no instance 'pod'"):
        release.compare(instances=["pod"])


def test_nothing_that_is_asked_is_kept(store, path):
    store.release("cart@3").compare()
    assert Store.open(path).control.verdicts("cart@3") == ()
    assert len(store.release("cart@2").verdicts()) == 1


def test_all_verdicts_as_one_frame(store):
    frame = store.results()
    assert set(frame.release) == {"cart@2"}
    assert frame.loc[frame.metric == "latency_p95", "verdict"].item() == "no_go"


def test_queries_over_one_release_or_all(store):
    count = "SELECT count(*) AS n FROM requests"
    own_count = store.release("cart@2").sql(count).fetchall()[0][0]
    assert 0 < own_count < store.sql(count).fetchall()[0][0]
    relation = store.release("cart@2").sql("SELECT arm, response_time_ms FROM requests")
    assert relation.filter("arm = 'canary'").aggregate("count(*)").fetchall()[0][0] < own_count
    assert store.sql("SELECT ? + 1", [41]).fetchall() == [(42,)]
    with pytest.raises(UsageError, match="cannot be run"):
        store.sql("SELECT nothing FROM nowhere")


def test_a_relation_does_not_lock_the_store(store, path):
    relation = store.sql("SELECT id FROM releases ORDER BY id")
    Store.open(path, wait_s=1).control.save_learnt("other", Learnt(0.05, 0.001, 9, 9))
    assert relation.fetchall() == [("cart@2",), ("cart@3",)]


def test_a_stored_verdict_is_shown_as_it_was_given(store):
    release = store.release("cart@2")
    stored, again = release.judgement(), release.compare()
    assert stored.word == "no_go"
    assert stored.verdict.judged_at == datetime(2026, 1, 5, tzinfo=UTC)
    assert stored.verdict.data_hash == again.verdict.data_hash
    assert release.judgement(0).verdict == stored.verdict
    for draw in ("band", "units", "shift", "distribution", "timeline"):
        assert getattr(stored.plot, draw)().to_dict() == getattr(again.plot, draw)().to_dict()
    with pytest.raises(UsageError, match="no verdict 1 of cart@2; 1 are stored"):
        release.judgement(1)
    with pytest.raises(UsageError, match="no verdict of cart@3 yet"):
        store.release("cart@3").judgement()


def test_figures_kept_with_a_verdict_are_drawn_as_they_are(tmp_path):
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    land_simulated(store, Release("cart@2"), simulate(SLOWER, 3))
    verdict = judge_release(store, "cart@2", load_policy(), judged_at=datetime(2026, 1, 5, tzinfo=UTC), figures=True)
    stored = evaluator.open(store.path).release("cart@2").judgement()
    assert stored.trace() == json.loads(json.dumps(verdict.figures))
    judge_release(store, "cart@2", load_policy(), judged_at=datetime(2026, 1, 6, tzinfo=UTC))
    assert evaluator.open(store.path).release("cart@2").judgement(0).trace().keys() == stored.trace().keys()


def test_a_verdict_on_data_that_changed_since_is_not_drawn_from_others(tmp_path):
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    land_simulated(store, Release("cart@2"), simulate(SLOWER, 3))
    verdict = judge_release(store, "cart@2", load_policy(), judged_at=datetime(2026, 1, 5, tzinfo=UTC), save=False)
    keep_verdict(store, replace(verdict, data_hash="sha256:other"))
    with pytest.raises(UsageError, match="the data that it judged have changed or are gone"):
        evaluator.open(store.path).release("cart@2").judgement().plot.shift()


def test_the_front_door_costs_nothing():
    code = "import evaluator, sys; print(sorted({'duckdb', 'pandas', 'numpy', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
