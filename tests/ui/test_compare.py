"""Two runs or releases against each other."""

import duckdb


def test_the_newest_two_are_compared_and_fingerprints_shown(page, store_path, text):
    shown = page("compare", store_path, a="cart@1.5.0", b="cart@1.6.0")
    page_text = text(shown)
    assert not shown.exception
    assert "not run together" in page_text
    assert "✓ same" in page_text
    assert page_text.index("Second against first") > 0
    assert "In tables and figures baseline is cart@1.5.0 (canary), canary is cart@1.6.0 (canary)." in page_text
    assert "rose" in page_text.split('aria-label="metrics"')[1]


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
    page_text = text(page("compare", store_path, a="cart@1.6.0", a_arm="baseline", b="cart@1.6.0", b_arm="canary"))
    assert "baseline is cart@1.6.0 (baseline)" in page_text


def test_an_empty_store_says_what_to_do(page, tmp_path, text):
    from evaluator.store import Store

    Store.open(tmp_path / "evaluator.duckdb", create=True)
    assert "No release has landed yet." in text(page("compare", tmp_path / "evaluator.duckdb"))


def test_a_run_of_a_release_leads_here(page, store_path, text):
    page_text = text(page("release", store_path, release="cart@1.9.0"))
    run = page_text.split("./compare?a=cart%401.9.0&amp;a_run=")[2].split('"')[0]
    shown = page("compare", store_path, a="cart@1.9.0", a_run=run, b="cart@1.5.0")
    assert shown.selectbox(key="a_run").value == run
    assert f"cart@1.9.0, run {run} (canary)" in text(shown)
