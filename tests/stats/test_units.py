"""All that reads times from cells does so in their unit: times a thousand times shorter give a thousandth."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from evaluator.calibration.inject import slow_down
from evaluator.records import MICROSECONDS, NANOSECONDS
from evaluator.simulate import SCENARIOS, simulate_cells
from evaluator.stats.shaping.bins import bin_limits_ms, mean_logs
from evaluator.stats.shaping.cells import multiply_times
from evaluator.stats.shaping.in_flight import settle_in_flight
from evaluator.stats.shaping.panel import build_panel

CELLS = simulate_cells(SCENARIOS["AA_1min"], 1)
SHORT = replace(CELLS, units_per_ms=NANOSECONDS)
"""The same numbers, of nanoseconds."""


def test_a_panel_has_milliseconds():
    long, short = build_panel(CELLS, "canary"), build_panel(SHORT, "canary")
    assert short.totals["time_ms"] * 1000 == pytest.approx(long.totals["time_ms"], rel=1e-12)
    assert short.rows.totals["time_ms"] * 1000 == pytest.approx(long.rows.totals["time_ms"], rel=1e-12)
    logs = long.totals["log_time_ms"] - long.ok * np.log(1000)
    assert short.totals["log_time_ms"] == pytest.approx(logs, abs=1e-6)
    assert (short.grid_ms * 1000, short.units_per_ms) == (long.grid_ms, NANOSECONDS)
    assert short.steps_ms * 1000 == pytest.approx(long.steps_ms)


@pytest.mark.parametrize("grid", [1, 7, 1000])
def test_limits_of_bins_are_those_of_the_unit(grid):
    limits_us = bin_limits_ms(500, grid / 1000, MICROSECONDS)
    assert bin_limits_ms(500, grid / 1e6, NANOSECONDS) * 1000 == pytest.approx(limits_us, rel=1e-12)
    # Whole microseconds, kept as nanoseconds: each bin is 345 bins higher.
    assert bin_limits_ms(845, grid / 1000, NANOSECONDS)[346:] == pytest.approx(limits_us[1:], rel=1e-12)
    assert mean_logs(845, grid / 1000, NANOSECONDS)[346:] == pytest.approx(
        mean_logs(500, grid / 1000, 1000)[1:], abs=1e-9
    )


def test_requests_in_flight_are_compared_with_seconds():
    assert settle_in_flight(SHORT, ()).usual_s * 1000 == pytest.approx(settle_in_flight(CELLS, ()).usual_s)


def test_cells_are_slowed_down_alike():
    long, short = slow_down(CELLS, "canary", 0.1), slow_down(SHORT, "canary", 0.1)
    for table in ("moments", "bins", "instance_bins"):
        for field in fields(getattr(long, table)):
            assert np.array_equal(
                getattr(getattr(long, table), field.name), getattr(getattr(short, table), field.name), equal_nan=True
            )


def test_cells_in_the_finer_unit_give_the_same_panel():
    """Microseconds that are read together with a run of nanoseconds."""
    finer = multiply_times(replace(SHORT, grid=1000), np.array([1000]))
    long, fine = build_panel(CELLS, "canary"), build_panel(finer, "canary")
    assert fine.totals["time_ms"] == pytest.approx(long.totals["time_ms"], rel=1e-12)
    assert fine.totals["log_time_ms"] == pytest.approx(long.totals["log_time_ms"], abs=1e-6)
    assert (fine.grid_ms, fine.constant) == (long.grid_ms, long.constant)
    assert fine.steps_ms.tolist() == long.steps_ms.tolist()
