"""Which runs are judged together: the newest of each kind, a step of a rollout, one service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evaluator.errors import UnknownName
from evaluator.pipeline.runs import choose_runs, list_steps
from evaluator.records import Run

START = datetime(2026, 3, 2, tzinfo=UTC)


def run(name, source="access_log", group="", step="", hour=0, service=""):
    started = START + timedelta(hours=hour)
    return Run(name, "cart@2", group or name, source, started=started, step=step, service=service)


STAGING = run("staging", "locust", hour=0)
LOAD_5 = run("load-5", "locust", step="5%", hour=1)
LIVE_0, LIVE_5, LIVE_25 = (
    run(f"live-{hour}", group="live", step=step, hour=hour) for hour, step in ((1, ""), (2, "5%"), (3, "25%"))
)
READINGS_5, READINGS_25 = (run(f"read-{s}", "prometheus", step=f"{s}%", hour=s // 5) for s in (5, 25))
OUTCOMES = run("outcomes", "outcomes", hour=4)
ROLLOUT = (STAGING, LIVE_0, LIVE_5, LIVE_25, READINGS_5, READINGS_25, OUTCOMES)


def names(runs):
    return [one.id for one in runs]


def test_a_step_is_judged_with_its_load_its_production_and_its_readings():
    runs = (*ROLLOUT, LOAD_5)
    assert names(choose_runs(runs, "latest", "5%")) == ["live-2", "read-5", "load-5"]
    assert names(choose_runs(runs, "latest", "25%")) == ["live-3", "read-25"]


def test_without_a_step_the_newest_one_is_judged_with_all_that_belongs_to_none():
    assert names(choose_runs(ROLLOUT, "latest")) == ["staging", "live-3", "read-25", "outcomes"]


def test_a_load_of_an_older_step_is_not_judged_with_a_newer_step():
    assert names(choose_runs((LOAD_5, LIVE_5, LIVE_25), "latest")) == ["live-3"]


def test_without_steps_nothing_changes():
    runs = (run("a", "locust"), run("b", "locust", hour=1), OUTCOMES)
    assert names(choose_runs(runs, "latest")) == ["b", "outcomes"]


def test_a_step_that_was_begun_again_counts_by_its_newest_run():
    runs = (LIVE_5, LIVE_25, run("again", group="live", step="5%", hour=9))
    assert list_steps(runs) == ("25%", "5%")
    assert names(choose_runs(runs, "latest")) == ["live-2", "again"]


def test_an_unknown_step_is_refused_with_those_that_exist():
    with pytest.raises(UnknownName) as error:
        choose_runs(ROLLOUT, "latest", "50%")
    assert "no step '50%'" in error.value.message
    assert "25%" in error.value.message
    with pytest.raises(UnknownName) as error:
        choose_runs((STAGING,), "latest", "50%")
    assert "--step" in error.value.hint


def test_a_run_of_another_step_cannot_be_chosen_with_a_step():
    assert names(choose_runs(ROLLOUT, "live-2", "5%")) == ["live-2"]
    with pytest.raises(UnknownName):
        choose_runs(ROLLOUT, "live-3", "5%")


def test_each_service_has_production_requests_of_its_own():
    """Both are chosen, and the check `phases` says that they are not one: neither is left out in silence."""
    cart, pay = run("cart", service="cart"), run("pay", service="pay", hour=1)
    newer = run("pay-2", service="pay", hour=2)
    assert names(choose_runs((cart, pay, newer), "latest")) == ["cart", "pay-2"]
    assert names(choose_runs((run("unnamed"), pay), "latest")) == ["pay"]
