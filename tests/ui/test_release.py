"""One release in each state."""

import re
import shlex
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape

import duckdb
import pytest
from stored import HOSTILE, STEADY, edit_decisions, judge, land

from evaluator.records import RunState
from evaluator.store import Store

WORDS = {
    "cart@1.6.0": "NO-GO ✗",
    "cart@1.7.0": "INCONCLUSIVE ?",
    "cart@1.8.0": "INCONCLUSIVE ?",
    "cart@1.9.0": "GO ✓",
}


@pytest.mark.parametrize(("release", "word"), WORDS.items())
def test_the_answer_comes_first_and_then_what_it_rests_on(page, store_path, text, release, word):
    shown = page("release", store_path, release=release)
    page_text = text(shown)
    assert not shown.exception
    assert "could not be shown" not in page_text
    assert page_text.index(word) < page_text.index("Next:") < page_text.index('aria-label="metrics"')
    titles = [element.value for element in shown.header]
    for title in ("Metric by metric", "Where in the distribution it moved", "What happened when", "Endpoints"):
        assert title in titles
    assert "data_hash" not in page_text
    assert "sha256:" in page_text
    assert len(shown.get("vega_lite_chart")) >= 6


def test_what_fails_comes_first_and_what_passes_is_folded(page, store_path, text):
    page_text = text(page("release", store_path, release="cart@1.6.0"))
    table = page_text.split('aria-label="metrics"')[1].split("</table>")[0]
    assert table.index("p50") < table.index("p95") < table.index("p99") < table.index("geometric mean")
    assert "✓ pass" not in table
    assert "mean" not in table.split("geometric")[0]
    assert re.findall(r"<summary>(.*?)</summary>", page_text) == ["2 metrics are only shown: mean and throughput"]
    notes = re.findall(r'class="reason">(.*?)</span>', table)
    assert not [note for note in notes if "rose" in note]  # nothing that the columns say as well


def test_every_figure_has_numbers_downloads_and_a_snippet(page, store_path):
    shown = page("release", store_path, release="cart@1.6.0")
    charts = len(shown.get("vega_lite_chart"))
    kinds = [button.proto.label for button in shown.get("download_button")]
    assert kinds.count("PNG") == kinds.count("SVG") == charts
    assert kinds.count("CSV") == charts + 2
    assert len([element for element in shown.code if ".plot." in element.value]) >= charts


def test_the_address_chooses_metric_arm_and_endpoint(page, store_path, text):
    chosen = {"release": "cart@1.8.0", "metric": "latency_p99", "arm": "canary_b", "endpoint": "GET /endpoint/001"}
    shown = page("release", store_path, **chosen)
    for key in ("metric", "arm", "endpoint"):
        assert shown.selectbox(key=key).value == chosen[key]
    assert "GET /endpoint/001 from 0 s to" in text(shown)


def test_the_interval_ends_with_the_load(page, own):
    store = Store.open(own)
    land(store, "cart@3", replace(STEADY, duration_s=40.0))
    judge(store, "cart@3", figures=False)
    shown = page("release", own, release="cart@3")
    assert not shown.exception
    slider = shown.slider(key="window")
    assert slider.max <= 44  # whole buckets
    assert slider.value == (0.0, slider.max)


@pytest.mark.parametrize(
    "forged",
    [
        {"release": "nobody@1"},
        {"release": "<script>alert(1)</script>"},
        {"release": "cart@1.6.0", "verdict": "-1"},
        {"release": "cart@1.6.0", "verdict": "99999999999999999999"},
        {"release": "cart@1.6.0", "verdict": "nan"},
        {"release": "cart@1.6.0", "metric": "'; DROP TABLE runs --", "arm": "../../etc/passwd", "endpoint": "\x00"},
        {"release": "cart@1.6.0", "window": "nan", "find": "%' OR 1=1 --"},
    ],
)
def test_forged_addresses_are_answered_in_words(page, store_path, text, forged):
    shown = page("release", store_path, **forged)
    page_text = text(shown)
    assert not shown.exception
    assert "unexpected" not in page_text
    assert "<script" not in page_text
    assert Store.open(store_path).data.runs("cart@1.6.0")


def test_an_unknown_release_names_those_that_there_are(page, store_path, text):
    page_text = text(page("release", store_path, release="cart@1.6.O"))
    assert "there is no release" in page_text
    assert "did you mean" in page_text


def test_an_unknown_name_in_a_link_shows_nothing_else_until_another_is_chosen(page, store_path, text):
    """A link to a release that is gone must not show the GO of another one."""
    shown = page("release", store_path, release="gone@1")
    page_text = text(shown)
    assert "there is no release" in page_text
    assert not any(word in page_text for word in ("GO", "Next:"))
    assert shown.query_params["release"] == "gone@1"
    shown.run()
    assert "there is no release" in text(shown)
    chosen = shown.selectbox(key="release").select("cart@1.9.0").run()
    assert "GO ✓" in text(chosen)
    assert chosen.query_params["release"] == "cart@1.9.0"
    unknown = page("release", store_path, release="cart@1.8.0", metric="latency_p12")
    assert "there is no metric" in text(unknown)
    assert "INCONCLUSIVE ?" in text(unknown)
    unknown.selectbox(key="release").select("cart@1.9.0").run()
    assert "GO ✓" in text(unknown)


def test_another_release_does_not_take_over_what_was_chosen_for_the_one_before(page, store_path):
    of_one = {"verdict": "1", "metric": "latency_p95", "find": "004", "endpoint": "GET /endpoint/004"}
    shown = page("release", store_path, release="cart@1.6.0", window=["30", "90"], **of_one)
    assert shown.slider(key="window").value == (30.0, 90.0)
    shown.selectbox(key="release").select("cart@1.5.0").run()
    assert not shown.exception
    assert shown.text_input(key="find").value == ""
    assert shown.selectbox(key="endpoint").value == "all endpoints"
    assert shown.slider(key="window").value == (0.0, 300.0)
    assert "verdict" not in shown.query_params
    assert set(shown.query_params) == {"release", "metric"}


def test_a_release_without_verdict_names_the_command(page, own, text):
    land(Store.open(own), "cart@2.0.0", STEADY, seed=9)
    shown = page("release", own, release="cart@2.0.0")
    assert "NOT JUDGED" in text(shown)
    assert f"evaluator --store {shlex.quote(str(own))} verdict cart@2.0.0<" in unescape(text(shown))


def test_newer_data_than_the_verdict_is_shown(page, own, text):
    store = Store.open(own)
    run = store.data.runs("cart@1.6.0")[0]
    store.data.finish_run(run.id, state=RunState.COMPLETE, ended=datetime.now(UTC), facts=run.facts)
    page_text = text(page("release", own, release="cart@1.6.0"))
    assert "newer data has landed" in page_text


def test_a_run_that_is_being_recorded_is_marked(page, own, text):
    store = Store.open(own)
    land(store, "cart@2.1.0", STEADY, seed=3, live=True)
    judge(store, "cart@2.1.0")
    shown = page("release", own, release="cart@2.1.0")
    assert not shown.exception
    assert ">recording</span>" in text(shown)


def test_simulated_data_are_told_from_measured_ones(page, own, text):
    assert "simulated data" not in text(page("release", own, release="cart@1.5.0"))
    with duckdb.connect(str(own)) as connection:
        connection.execute("""UPDATE runs SET fingerprint = replace(fingerprint, '{', '{"simulated": true, ')""")
    page_text = text(page("release", own, release="cart@1.5.0"))
    assert "simulated data</span>nothing was measured" in page_text
    assert '<td data-of="source">import, simulated</td>' in page_text


def test_an_earlier_verdict_has_an_address_of_its_own(page, own, text):
    judge(Store.open(own), "cart@1.6.0")
    shown = page("release", own, release="cart@1.6.0", verdict="1")
    assert "an earlier verdict; see the latest" in text(shown)
    assert "Next:</strong> look at the latest verdict" in text(shown)


def test_figures_are_computed_from_cells_where_none_were_kept(page, own, text):
    judge(Store.open(own), "cart@1.6.0", figures=False)
    shown = page("release", own, release="cart@1.6.0")
    assert "could not be shown" not in text(shown)
    assert len(shown.get("vega_lite_chart")) >= 6


def test_hostile_names_are_text(page, hostile, html):
    shown = page("release", hostile)
    page_text = html(shown)
    assert not shown.exception
    assert HOSTILE not in page_text
    assert "&lt;img src=x onerror=alert(1)&gt;GET /endpoint/000" in page_text
    assert "<code>evaluator verdict" in page_text
    assert "verdict &#39;&lt;img src=x" in page_text


def test_a_policy_of_another_version_is_a_sentence(page, own, text):
    edit_decisions(
        Store.open(own),
        """UPDATE verdicts SET verdict = replace(verdict, '"alpha": 0.05,', '"alpha": 0.05, "novelty": 1,')""",
    )
    shown = page("release", own, release="cart@1.6.0")
    assert not shown.exception
    assert "Traceback" not in text(shown)


def test_reading_a_page_leaves_the_store_as_it_was(page, own):
    before = own.read_bytes()
    page("release", own, release="cart@1.6.0")
    page("plan", own, release="cart@1.6.0")
    assert own.read_bytes() == before
    shutil.move(own, own.with_suffix(".away"))  # nobody holds it


def test_tables_have_the_colours_of_the_legend_whatever_their_order(page, store_path, text):
    shown = page("release", store_path, release="cart@1.8.0")
    page_text = text(shown)
    keys = re.findall(r'ev-key" style="color:(light-dark\([^)]*\))"></span>([\w-]+)', page_text)
    legend = {arm: color for color, arm in keys}
    assert len({legend["canary"], legend["canary_b"]}) == 2
    rows = [row.split("</tr>")[0] for row in page_text.split("<tr")[1:]]
    rows = [row for row in (*rows, *page_text.split('class="ev-tile"')[1:]) if "--canary:" in row]
    drawn = {
        (arm, re.search(r"--canary:(light-dark\([^)]*\))", row)[1])
        for row in rows
        for arm in legend
        if re.search(rf"arm={arm}[&#\"]", row)
    }
    assert drawn == {(arm, legend[arm]) for arm in ("canary", "canary_b")}
