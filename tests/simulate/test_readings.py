"""Scraped readings of simulated requests agree with the requests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from judging import simulate_readings

from evaluator.records import PARTS
from evaluator.simulate import SCENARIOS, Scrapes, scrape, simulate, to_cells
from evaluator.simulate.readings import DURATION, FAILURES, REQUESTS

DESIGN = replace(SCENARIOS["AA"], duration_s=600.0, rate_per_s=40.0)


@pytest.fixture(scope="module")
def requests():
    drawn = simulate(DESIGN, 1)
    return replace(drawn, ts_us=drawn.ts_us // 1000 * 1000)  # scrapes come between milliseconds


def table(keys, values):
    out: dict[tuple[int, ...], float] = {}
    for key, value in zip(zip(*(key.tolist() for key in keys), strict=True), values.tolist(), strict=True):
        out[key] = out.get(key, 0.0) + value
    return {key: pytest.approx(value) for key, value in out.items() if value}


def rows(readings, query, part="value", le=None):
    chosen = (readings.query == readings.queries.index(query)) & (readings.part == PARTS.index(part))
    return chosen if le is None else chosen & (readings.le == le)


@pytest.mark.parametrize("scrapes", [Scrapes(), Scrapes(restarts=5)])
def test_counters_agree_with_the_cells_of_the_requests(requests, scrapes):
    readings, cells = simulate_readings(requests, scrapes, seed=4), to_cells(requests, 15)
    assert readings.instances == cells.instances
    moments = cells.moments
    keys = [moments.arm, moments.instance, moments.endpoint, moments.bucket]
    for query, values in ((REQUESTS, moments.n), (FAILURES, moments.failures)):
        own = rows(readings, query)
        columns = [getattr(readings, name)[own] for name in ("arm", "instance", "endpoint", "bucket")]
        assert table(columns, readings.total[own]) == table(keys, values)


def test_histograms_agree_with_the_requests(requests):
    readings = simulate_readings(requests)
    assert readings.total[rows(readings, DURATION, "sum")].sum() == pytest.approx(requests.response_us.sum() / 1e6)
    within = readings.total[rows(readings, DURATION, "bucket", 0.1)].sum()
    assert within == (requests.response_us <= 100_000).sum()
    everything = readings.total[rows(readings, DURATION, "bucket", np.inf)].sum()
    assert everything == readings.total[rows(readings, DURATION, "count")].sum() == len(requests)


def test_restarts_and_missing_scrapes_are_counted(requests):
    facts = simulate_readings(requests, Scrapes(restarts=3, missing=0.2), seed=1).facts
    assert sum(fact.resets for fact in facts if fact.query == REQUESTS) == 3
    lost = [fact for fact in facts if fact.query == REQUESTS]
    share = sum(fact.missing for fact in lost) / sum(fact.expected for fact in lost)
    assert share == pytest.approx(0.2, abs=0.05)


def test_arms_can_be_left_out(requests):
    assert {answer.arm for answer in scrape(requests, Scrapes(arms=("canary",)))} == {"canary"}
