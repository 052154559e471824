"""The list of releases."""

import re
from html import unescape

from stored import edit_decisions

from evaluator.cli import COMMANDS
from evaluator.store import Store


def test_waiting_heat_map_and_list_are_there(page, store_path, text):
    shown = page("releases", store_path)
    page_text = text(shown)
    assert not shown.exception
    assert "What waits for me" in page_text
    assert "is GO, but cannot be promoted now: it was judged " in page_text
    for mark in ("✓", "✗", "?", "∅", "·"):
        assert f">{mark}<small>" in page_text, mark
    assert './release?release=cart%401.6.0&amp;metric=latency_p95&amp;arm=canary#metric"' in page_text


def test_a_filter_is_part_of_the_address(page, store_path, text):
    shown = page("releases", store_path, q="1.6")
    page_text = text(shown)
    assert "cart@1.6.0" in page_text.split("cart by metrics")[1].split("</table>")[0]
    for other in ("cart@1.5.0", "cart@1.9.0"):  # neither in what waits, nor in the tables
        assert f">{other}<" not in page_text
    assert shown.text_input(key="q").value == "1.6"


def test_a_filter_that_finds_nothing_says_so(page, store_path, text):
    assert "None of the 5 releases is like that." in text(page("releases", store_path, q="'; DROP TABLE releases --"))
    assert len(Store.open(store_path).releases()) == 5


def test_without_a_store_it_names_the_command_that_makes_one(page, tmp_path, text):
    page_text = text(page("releases", tmp_path / "evaluator.duckdb"))
    assert "There is no store at" in page_text
    assert f"<code>evaluator --store {tmp_path / 'evaluator.duckdb'} demo</code>" in page_text


def test_an_empty_store_says_what_to_do(page, tmp_path, text):
    Store.open(tmp_path / "evaluator.duckdb", create=True)
    page_text = text(page("releases", tmp_path / "evaluator.duckdb"))
    assert "No release has landed yet." in page_text
    assert f"<code>evaluator --store {tmp_path / 'evaluator.duckdb'} demo</code>" in page_text


def test_commands_name_the_store_unless_it_is_the_one_in_the_folder(page, tmp_path, text, monkeypatch):
    folder = tmp_path / "a folder"
    folder.mkdir()
    Store.open(folder / "evaluator.duckdb", create=True)
    named = f"<code>evaluator --store '{folder}/evaluator.duckdb' "
    page_text = unescape(text(page("rollout", folder / "evaluator.duckdb")))
    assert f"{named}rollout plan RELEASE" in page_text
    monkeypatch.chdir(folder)
    assert "<code>evaluator rollout plan RELEASE" in text(page("rollout", folder / "evaluator.duckdb"))
    # by itself, the demo would write to another store than the one that the page shows
    assert f"{named}demo" in unescape(text(page("releases", folder / "evaluator.duckdb")))


def test_a_store_that_is_none_is_a_sentence_and_no_traceback(page, tmp_path, text):
    path = tmp_path / "evaluator.duckdb"
    path.write_text("this is no database")
    shown = page("releases", path)
    assert not shown.exception
    assert 'role="alert"' in text(shown)
    assert "Traceback" not in text(shown)


def test_commands_on_pages_exist(page, store_path, tmp_path, text):
    pages = [page("releases", tmp_path / "none.duckdb"), page("releases", store_path)]
    pages += [page("release", store_path, release=release) for release in ("cart@1.6.0", "cart@1.7.0", "cart@1.9.0")]
    named = {name for shown in pages for name in re.findall(r"<code>evaluator (?:--store \S+ )?(\w+)", text(shown))}
    assert named
    assert named <= set(COMMANDS)


def test_a_service_that_was_set_after_the_verdict_counts(page, own, text):
    services = '[{"name": "basket", "baseline": "", "canary": ""}]'
    edit_decisions(Store.open(own), "UPDATE releases SET services = ? WHERE id = 'cart@1.6.0'", services)
    shown = text(page("releases", own))
    table = shown[shown.index('aria-label="basket by metrics"') :]
    assert "cart@1.6.0" in table[: table.index("</table>")]
    assert '<td data-of="versions">basket</td>' in shown
