"""Figures of a judgement: the same as in report and app, titled with what they show."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from judging import SMALL

import evaluator
from evaluator.errors import EvaluatorError, UnknownName, UsageError
from evaluator.figures import color_arms, draw_forest, draw_over_time, draw_shift, draw_timeline, pick_decisive
from evaluator.pipeline.importing import import_outcomes
from evaluator.pipeline.simulating import land_simulated
from evaluator.records import OutcomeOptions, Release
from evaluator.simulate import Change, scrape, simulate
from evaluator.store import Store

KINDS = ("forest", "band", "windows", "units", "shift", "distribution", "timeline")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> evaluator.api.Snapshot:
    """A slower candidate with readings, two candidates of which one is slower, and outcomes alone."""
    folder = tmp_path_factory.mktemp("store")
    store_made = Store.open(folder / "evaluator.duckdb", create=True)
    slower = simulate(replace(SMALL, users=20, changes=(Change(latency=0.3, endpoint=0.5),)), 3)
    land_simulated(store_made, Release("cart@2"), slower, scrape(slower))
    land_simulated(store_made, Release("cart@3"), simulate(replace(SMALL, changes=(Change(), Change(latency=0.3))), 3))
    rows = [f"{k},{'AB'[k % 2]},{k % 3}" for k in range(300)]
    Path(folder, "users.csv").write_text("\n".join(["unit,arm,spent", *rows]))
    import_outcomes(store_made, Release("shop@2"), [str(folder / "users.csv")], OutcomeOptions())
    return evaluator.open(store_made.path)


@pytest.fixture(scope="module")
def judgement(store):
    return store.release("cart@2").compare()


def spec(chart) -> dict:
    return chart.to_dict(validate=True)


def data(chart) -> list:
    """Every row that is drawn."""
    return [row for rows in spec(chart)["datasets"].values() for row in rows]


def titles(chart) -> list[str]:
    plain = spec(chart)
    parts = plain.get("vconcat", [plain])
    return [" ".join(part["title"]["text"]) for part in parts if "title" in part]


def test_each_is_drawn_by_the_function_that_report_and_app_draw_with(judgement):
    rows, curves = judgement.comparisons, judgement.trace()
    colors = color_arms(["canary"])
    worst = judgement["latency_p95"]
    traced = next(curve for curve in curves["metrics"] if curve["name"] == "latency_p95")
    shift = draw_shift(curves["quantiles"][0], color=colors["canary"], width=640)
    strips = draw_timeline(curves["timeline"], curves["readings"], colors=colors, width=1000)
    assert titles(judgement.plot.forest()) == [draw_forest(pick_decisive(rows), colors=colors).title]
    assert titles(judgement.plot.band("latency_p95")) == [
        draw_over_time(worst, traced["over_time"], color=colors["canary"]).title
    ]
    assert titles(judgement.plot.shift()) == [shift.title]
    assert titles(judgement.plot.timeline()) == [curve.title for curve in strips]
    assert data(shift.chart)
    for row in data(shift.chart):
        assert row in data(judgement.plot.shift())


def test_without_a_name_the_worst_is_drawn(judgement):
    assert titles(judgement.plot.band())[0].startswith("p95 by all data up to each time: +")
    assert titles(judgement.plot.units())[0].startswith("p95: all 3 instances of canary are above all of baseline")
    assert titles(judgement.plot.band("latency_p99"))[0].startswith("p99 by all data")


def test_the_forest_of_endpoints_has_those_of_the_scan(judgement):
    drawn = {row["name"] for row in data(judgement.plot.forest(endpoints=True)) if "name" in row}
    assert drawn
    assert all("/endpoint/" in name for name in drawn)
    assert "p95" in {row["name"] for row in data(judgement.plot.forest()) if "name" in row}


def test_several_candidates_are_distinguished(store):
    judgement = store.release("cart@3").compare()
    for draw in (judgement.plot.forest, judgement.plot.shift, judgement.plot.distribution, judgement.plot.timeline):
        named = {row["arm"]: row["color"] for row in data(draw()) if "from" in row and "color" in row}
        assert named == color_arms(["canary", "canary_b"])
    assert len(titles(judgement.plot.shift())) == 2
    assert len(titles(judgement.plot.shift("canary_b"))) == 1
    assert "canary_b" in titles(judgement.plot.units())[0]
    assert "of canary " in titles(judgement.plot.units(arm="canary"))[0]
    with pytest.raises(UnknownName, match="no candidate 'canary_c'; did you mean 'canary"):
        judgement.plot.shift("canary_c")


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_has_the_requested_size(judgement, kind, tmp_path):
    chart = getattr(judgement.plot, kind)(width=500)
    plain = spec(chart)
    assert {part["width"] for part in plain.get("vconcat", [plain])[-1:]} == {500}
    assert plain["background"] == "white"
    chart.save(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_room_for_a_long_finding_is_added(judgement):
    wide, narrow = (judgement.plot.band(width=width) for width in (900, 300))
    lines = [spec(chart)["title"]["text"] for chart in (wide, narrow)]
    assert len(lines[1]) > len(lines[0])
    assert narrow.height - wide.height == 17 * (len(lines[1]) - len(lines[0]))


def test_curves_are_computed_once_and_only_when_they_are_drawn(store, monkeypatch):
    import evaluator.pipeline.drawing

    calls = []
    real = evaluator.pipeline.drawing.trace_figures
    monkeypatch.setattr(
        evaluator.pipeline.drawing, "trace_figures", lambda *arguments: calls.append(arguments) or real(*arguments)
    )
    judgement = store.release("cart@2").compare()
    judgement.plot.forest()
    assert calls == []
    judgement.plot.shift()
    judgement.plot.timeline()
    assert len(calls) == 1


def test_a_part_of_the_requests_is_drawn_as_it_was_judged(store):
    endpoint = "GET /endpoint/000"
    judgement = store.release("cart@2").compare(endpoints=[endpoint])
    on_all = store.release("cart@2").compare()
    per_s = [max(arm["per_s"]) for curve in (judgement, on_all) for arm in curve.trace()["timeline"]["arms"][:1]]
    assert 0 < per_s[0] < per_s[1]


def test_what_cannot_be_drawn_says_why(store, judgement):
    with pytest.raises(UnknownName, match="no metric 'latency_p96'; did you mean"):
        judgement.plot.band("latency_p96")
    with pytest.raises(UsageError, match="no line over time for throughput") as caught:
        judgement.plot.band("throughput")
    assert caught.value.hint.startswith("there is one for failure_rate, latency_p50")
    outcomes = store.release("shop@2").compare(
        policy={"metrics": [{"name": "spent", "type": "outcome_mean", "outcome": "spent", "margin": "5%"}]}
    )
    for draw in (outcomes.plot.shift, outcomes.plot.timeline):
        with pytest.raises(UsageError, match="of shop@2: none of its requests were judged"):
            draw()
    assert "spent" in {row.get("name") for row in data(outcomes.plot.forest())}
    with pytest.raises(UsageError, match="no endpoint has both a change and a margin"):
        outcomes.plot.forest(endpoints=True)
    with pytest.raises(UsageError, match="no value by instance for any metric"):
        outcomes.plot.units()


def test_without_altair_plots_say_what_to_install(judgement, monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(EvaluatorError, match="plots need the package 'altair'") as caught:
        judgement.plot.forest()
    assert caught.value.hint == "pip install 'release-evaluator[plots]'"
