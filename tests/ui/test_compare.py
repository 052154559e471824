"""Two runs or releases against each other."""

import re
from dataclasses import replace

import duckdb
from stored import STEADY, edit_decisions, judge, land

from evaluator.store import Store


def test_two_arms_are_compared_and_fingerprints_shown(page, store_path, text):
    shown = page("compare", store_path, a="cart@1.5.0", b="cart@1.6.0", by="arms")
    page_text = text(shown)
    assert not shown.exception
    assert "not run together" in page_text
    assert "✓ same" in page_text
    assert page_text.index("Second against first") > 0
    compared = "\n".join(element.proto.body for element in shown.get("html")).split('aria-label="metrics"')[1]
    assert "rose" in compared
    assert "cart@1.6.0 and cart@1.5.0 ran at different times" in compared
    assert "arm=" not in compared  # links lead to the release, whose arms have other names
    charts = " ".join(chart.proto.alt for chart in shown.get("vega_lite_chart"))
    assert "of cart@1.5.0 and cart@1.6.0" in charts
    for words in (compared, charts):
        assert not re.search(r">[^<]*\b(baseline|canary|candidate)\b", words)


def test_this_release_against_the_candidate_before_it(page, own, text):
    times = {"cart@1.6.0": "2026-01-05T02:00:00+00:00", "cart@1.9.0": "2026-01-05T03:00:00+00:00"}
    for release, at in times.items():
        edit_decisions(Store.open(own), "UPDATE verdicts SET judged_at = ? WHERE release = ?", at, release)
    for query in ({}, {"release": "cart@1.9.0"}):
        shown = page("compare", own, **query)
        page_text = text(shown)
        assert not shown.exception
        assert [box.value for box in shown.selectbox[:2]] == ["cart@1.6.0", "cart@1.9.0"]
        assert "cart@1.9.0 against cart@1.6.0: better: p50, p95, p99, mean." in page_text
        assert '<th scope="col"></th>' not in page_text
    assert [box.value for box in page("compare", own, release="cart@1.6.0").selectbox[:2]][1] == "cart@1.6.0"


def test_candidates_that_were_not_judged_or_of_other_services_are_refused_with_the_reason(page, own, text):
    store = Store.open(own)
    land(store, "shop@1", replace(STEADY, duration_s=60.0), service="shop")
    assert "shop@1 was not judged yet." in text(page("compare", own, a="cart@1.5.0", b="shop@1"))
    judge(store, "shop@1", figures=False)
    page_text = text(page("compare", own, a="cart@1.5.0", b="shop@1"))
    assert "service: different services do different work. Choose two tests of one service." in page_text
    assert "second against first" not in page_text


def test_another_test_is_refused_with_both_fingerprints(page, own, text):
    with duckdb.connect(str(own)) as connection:
        connection.execute(
            "UPDATE runs SET fingerprint = replace(fingerprint, 'sha256:1', 'sha256:2') WHERE release = 'cart@1.6.0'"
        )
    shown = page("compare", own, a="cart@1.5.0", b="cart@1.6.0")
    page_text = text(shown)
    assert "These cannot be compared." in page_text
    assert "✗ not comparable" in page_text
    assert "sha256:1" in page_text
    assert "sha256:2" in page_text
    assert "Second against first" not in [element.value for element in shown.header]


def test_what_was_recorded_as_nothing_is_not_called_unrecorded(page, own, text):
    with duckdb.connect(str(own)) as connection:
        connection.execute("""UPDATE runs SET fingerprint = replace(fingerprint, '{', '{"arguments": [], ')""")
    page_text = text(page("compare", own, a="cart@1.5.0", b="cart@1.6.0"))
    assert "not recorded" not in page_text
    assert "none" in page_text.split("arguments")[1][:100]


def test_another_machine_is_a_warning(page, own, text):
    with duckdb.connect(str(own)) as connection:
        connection.execute(
            "UPDATE runs SET fingerprint = replace(fingerprint, 'load-1', 'load-2') WHERE release = 'cart@1.6.0'"
        )
    page_text = text(page("compare", own, a="cart@1.5.0", b="cart@1.6.0"))
    assert "! differs" in page_text
    assert "may change the numbers by itself" in page_text


def test_the_same_side_twice_is_nothing_to_compare(page, store_path, text):
    assert "Both sides are the same." in text(page("compare", store_path, a="cart@1.5.0", b="cart@1.5.0"))


def test_arms_of_one_run_can_be_compared(page, store_path, text):
    page_text = text(
        page("compare", store_path, a="cart@1.6.0", a_arm="baseline", b="cart@1.6.0", b_arm="canary", by="arms")
    )
    assert "cart@1.6.0 (baseline)</th>" in page_text
    assert "cart@1.6.0 (canary)</th>" in page_text


def test_an_empty_store_says_what_to_do(page, tmp_path, text):
    Store.open(tmp_path / "evaluator.duckdb", create=True)
    assert "No release has landed yet." in text(page("compare", tmp_path / "evaluator.duckdb"))


def test_a_run_of_a_release_leads_here(page, store_path, text):
    page_text = text(page("release", store_path, release="cart@1.9.0"))
    run = page_text.split("./compare?a=cart%401.9.0&amp;a_run=")[2].split('"')[0]
    shown = page("compare", store_path, a="cart@1.9.0", a_run=run, b="cart@1.5.0")
    assert shown.selectbox(key="a_run").value == run
    assert f"cart@1.9.0, run {run}</th>" in text(shown)
