"""The list of releases."""

import re

from evaluator.cli import COMMANDS
from evaluator.store import Store


def test_waiting_heat_map_and_list_are_there(page, made, text):
    shown = page("releases", made)
    said = text(shown)
    assert not shown.exception
    assert "What waits for me" in said
    assert said.index("is safe to promote") < said.index("./promote?release=cart%401.9.0")
    for mark in ("✓", "✗", "?", "∅", "·"):
        assert f">{mark}<small>" in said, mark
    assert './release?release=cart%401.6.0&amp;metric=latency_p95&amp;arm=canary#metric"' in said


def test_a_filter_is_part_of_the_address(page, made, text):
    shown = page("releases", made, q="1.6")
    table = text(shown).split("releases by metrics")[1].split("</table>")[0]
    assert "cart@1.6.0" in table
    assert "cart@1.5.0" not in table
    assert shown.text_input(key="q").value == "1.6"


def test_a_filter_that_finds_nothing_says_so(page, made, text):
    assert "No judged release has that in its name." in text(page("releases", made, q="'; DROP TABLE releases --"))
    assert len(Store.open(made).releases()) == 5


def test_without_a_store_it_names_the_command_that_makes_one(page, tmp_path, text):
    said = text(page("releases", tmp_path / "evaluator.duckdb"))
    assert "There is no store at" in said
    assert "evaluator demo" in said


def test_an_empty_store_says_what_to_do(page, tmp_path, text):
    Store.open(tmp_path / "evaluator.duckdb", create=True)
    said = text(page("releases", tmp_path / "evaluator.duckdb"))
    assert "No release has landed yet." in said
    assert "evaluator load RELEASE --baseline URL --canary URL" in said


def test_a_store_that_is_none_is_a_sentence_and_no_traceback(page, tmp_path, text):
    path = tmp_path / "evaluator.duckdb"
    path.write_text("this is no database")
    shown = page("releases", path)
    assert not shown.exception
    assert 'role="alert"' in text(shown)
    assert "Traceback" not in text(shown)


def test_commands_on_pages_exist(page, made, tmp_path, text):
    pages = [page("releases", tmp_path / "none.duckdb"), page("releases", made)]
    pages += [page("release", made, release=release) for release in ("cart@1.6.0", "cart@1.7.0", "cart@1.9.0")]
    named = {name for one in pages for name in re.findall(r"<code>evaluator (\w+)", text(one))}
    assert named
    assert named <= set(COMMANDS)
