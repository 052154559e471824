"""The log of verdicts."""

from evaluator.store import Store


def test_every_verdict_with_what_it_rests_on(page, store_path, text):
    shown = page("audit", store_path)
    page_text = text(shown)
    assert not shown.exception
    for release in ("cart@1.5.0", "cart@1.9.0"):
        assert release in page_text
    assert page_text.count('title="sha256:') == 10


def test_filters_are_in_the_address(page, store_path, text):
    table = text(page("audit", store_path, word="NO-GO", q="cart")).split("</table>")[0]
    assert "cart@1.6.0" in table
    assert "cart@1.9.0" not in table


def test_nothing_yet(page, tmp_path, text):
    Store.open(tmp_path / "evaluator.duckdb", create=True)
    assert "No verdict was given yet." in text(page("audit", tmp_path / "evaluator.duckdb"))
