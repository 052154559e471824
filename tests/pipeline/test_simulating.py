"""Simulated releases are stored like loaded and scraped ones."""

from dataclasses import replace

import numpy as np
import pytest
from judging import SMALL

from evaluator.errors import UsageError
from evaluator.pipeline.assessing import read_data
from evaluator.pipeline.runs import choose_runs
from evaluator.pipeline.simulating import land_simulated
from evaluator.records import READING_SOURCE, Release, Rulebook, RunState, Service
from evaluator.simulate import scrape, simulate, to_cells
from evaluator.store import Store

CART = Release("cart@2", (Service("cart", "1", "2"),))
DESIGN = replace(SMALL, duration_s=60.0, replicates=3, users=7)


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "evaluator.duckdb", create=True)


def test_what_lands_is_what_was_simulated(store):
    requests = simulate(DESIGN, 1)
    runs = land_simulated(store, CART, requests)
    assert [run.replicate for run in runs] == [0, 1, 2]
    assert len({run.group for run in runs}) == 1
    assert {run.state for run in runs} == {RunState.COMPLETE}
    assert [dict(run.facts.users) for run in runs] == [{"baseline": 7, "canary": 7}] * 3
    assert sum(run.landed for run in runs) == len(requests)
    landed, straight = store.data.read_cells([run.id for run in runs]), to_cells(requests)
    assert landed.arms == straight.arms
    for name in ("n", "failures", "sum_time"):
        assert np.sum(getattr(landed.moments, name)) == np.sum(getattr(straight.moments, name))


def test_a_second_landing_is_a_group_of_its_own_and_the_newest(store):
    land_simulated(store, CART, simulate(DESIGN, 1))
    again = land_simulated(store, CART, simulate(DESIGN, 2))
    assert len(store.data.runs("cart@2")) == 6
    assert choose_runs(store.data.runs("cart@2"), "latest") == again


def test_scrapes_land_as_readings_with_the_requests(store):
    requests = simulate(replace(SMALL, duration_s=120.0), 1)
    *loads, scraped = land_simulated(store, CART, requests, scrape(requests))
    assert [run.source for run in loads] == ["import"]
    assert scraped.source == READING_SOURCE
    data = read_data(store, store.data.runs("cart@2"), Rulebook(()))
    assert data.runs == tuple(loads)
    assert data.collected == (scraped,)
    assert data.readings is not None
    assert set(data.readings.arms) == {"baseline", "canary"}


def test_names_are_checked_before_anything_is_written(store):
    with pytest.raises(UsageError):
        land_simulated(store, Release(""), simulate(DESIGN, 1))
    assert store.releases() == ()
