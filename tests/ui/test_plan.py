"""What a test would detect."""

import duckdb


def test_from_what_is_stored(page, store_path, text):
    shown = page("plan", store_path, release="cart@1.9.0", minutes="30", instances="8")
    page_text = text(shown)
    assert not shown.exception
    assert shown.slider(key="minutes").value == 30
    assert "stored comparisons" in page_text
    assert "chance of GO if unchanged" in page_text
    answer = page_text.index("With 58.2 requests a second and 8 + 8 instances ")
    assert answer < page_text.index("stored comparisons at 58.2 requests a second")
    assert round(shown.number_input(key="rate").value, 1) == 58.2  # what is stored; another one may be chosen
    assert shown.slider(key="latency").value == 30  # twice the widest margin: a rise as large as it is allowed
    shown.number_input(key="rate").set_value(200.0).run()
    assert "With 200 requests a second" in text(shown)
    assert len(shown.get("vega_lite_chart")) == 5
    shown.selectbox(key="release").select("cart@1.7.0").run()
    assert shown.number_input(key="rate").value < 100  # what was typed for another release is not used for this one


def test_without_history_the_page_shows_that_it_assumes(page, tmp_path, text):
    shown = page("plan", tmp_path / "evaluator.duckdb")
    page_text = text(shown)
    assert not shown.exception
    assert "Assumed, not measured" in page_text
    assert "There are no stored baselines to try it on." in page_text


def test_other_margins_are_tried_and_nothing_is_kept(page, store_path, text):
    shown = page("plan", store_path, release="cart@1.9.0")
    shown.select_slider(key="margins").set_value(0.5).run()
    page_text = text(shown)
    assert "with margins × 0.5 it would be" in page_text
    assert "Nothing is kept" in page_text


def test_false_alarms_of_this_policy(page, store_path, text):
    shown = page("plan", store_path, release="cart@1.9.0", calibrate="true")
    assert "identical releases were NO-GO" in text(shown)


def test_a_mistake_in_the_policy_is_shown_with_its_line(page, store_path, tmp_path, text, monkeypatch):
    policy = tmp_path / "evaluator.yaml"
    policy.write_text("alhpa: 0.1\n")
    monkeypatch.setenv("EVALUATOR_POLICY", str(policy))
    page_text = text(page("plan", store_path))
    assert f"{policy}:1" in page_text
    assert "did you mean" in page_text


def test_imported_data_are_not_mixed_with_loads(page, own, text):
    with duckdb.connect(str(own)) as connection:
        connection.execute("UPDATE runs SET source = 'locust' WHERE release IN ('cart@1.5.0', 'cart@1.6.0')")
    page_text = text(page("plan", own, release="cart@1.9.0"))
    assert "Left out: 2 comparisons of data from another source." in page_text
