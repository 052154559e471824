"""Two runs or releases against each other."""

import duckdb


def test_the_newest_two_are_compared_and_fingerprints_shown(page, made, text):
    shown = page("compare", made, a="cart@1.5.0", b="cart@1.6.0")
    said = text(shown)
    assert not shown.exception
    assert "not run together" in said
    assert "✓ same" in said
    assert said.index("Second against first") > 0
    assert "In tables and figures baseline is cart@1.5.0 (canary), canary is cart@1.6.0 (canary)." in said
    assert "rose" in said.split('aria-label="metrics"')[1]


def test_another_test_is_refused_with_both_fingerprints(page, own, text):
    with duckdb.connect(str(own)) as connection:
        connection.execute(
            "UPDATE runs SET fingerprint = replace(fingerprint, 'sha256:1', 'sha256:2') WHERE release = 'cart@1.6.0'"
        )
    shown = page("compare", own, a="cart@1.5.0", b="cart@1.6.0")
    said = text(shown)
    assert "These cannot be compared." in said
    assert "✗ forbids it" in said
    assert "sha256:1" in said
    assert "sha256:2" in said
    assert "Second against first" not in [one.value for one in shown.subheader]


def test_another_machine_is_a_warning(page, own, text):
    with duckdb.connect(str(own)) as connection:
        connection.execute(
            "UPDATE runs SET fingerprint = replace(fingerprint, 'load-1', 'load-2') WHERE release = 'cart@1.6.0'"
        )
    said = text(page("compare", own, a="cart@1.5.0", b="cart@1.6.0"))
    assert "! differs" in said
    assert "may move the numbers by itself" in said


def test_the_same_side_twice_is_nothing_to_compare(page, made, text):
    assert "Both sides are the same." in text(page("compare", made, a="cart@1.5.0", b="cart@1.5.0"))


def test_arms_of_one_run_can_be_compared(page, made, text):
    said = text(page("compare", made, a="cart@1.6.0", a_arm="baseline", b="cart@1.6.0", b_arm="canary"))
    assert "baseline is cart@1.6.0 (baseline)" in said


def test_an_empty_store_says_what_to_do(page, tmp_path, text):
    from evaluator.store import Store

    Store.open(tmp_path / "evaluator.duckdb", create=True)
    assert "There is nothing to compare yet." in text(page("compare", tmp_path / "evaluator.duckdb"))


def test_a_run_of_a_release_leads_here(page, made, text):
    said = text(page("release", made, release="cart@1.9.0"))
    run = said.split("./compare?a=cart%401.9.0&amp;a_run=")[2].split('"')[0]
    shown = page("compare", made, a="cart@1.9.0", a_run=run, b="cart@1.5.0")
    assert shown.selectbox(key="a_run").value == run
    assert f"cart@1.9.0, run {run} (canary)" in text(shown)
