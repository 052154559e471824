"""Requests that had no answer when a load ended."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from judging import RUN, SMALL

from evaluator.records import InFlight, LeftOut, LeftOutKind, Period, RunFacts
from evaluator.simulate import simulate_cells
from evaluator.stats.shaping.in_flight import NO_ANSWER, cut_in_flight, settle_in_flight

CELLS = simulate_cells(replace(SMALL, duration_s=60.0), 1)
END_S = float((CELLS.moments.bucket.max() + 1) * CELLS.bucket_s)


def waiting(age_s, arm="canary", endpoint=CELLS.endpoints[0], instance="new"):
    return InFlight(arm, instance, endpoint, END_S - age_s, age_s)


def settle(*requests, cells=CELLS):
    run = replace(RUN, id=cells.runs[0], facts=RunFacts(in_flight=requests))
    return settle_in_flight(cells, (run,))


def test_old_requests_have_failed_where_they_began():
    settled = settle(waiting(30.0), waiting(30.0), waiting(2.0))
    added = settled.cells.moments.n.size - CELLS.moments.n.size
    assert added == 1
    assert settled.cells.moments.n[-1] == settled.cells.moments.failures[-1] == 2
    assert settled.cells.moments.bucket[-1] == (END_S - 30) // CELLS.bucket_s
    assert settled.cells.instances[settled.cells.moments.instance[-1]] == "new"
    assert settled.cells.failure_kinds.exception[-1] == NO_ANSWER
    assert settled.cut_off == (LeftOut("canary", LeftOutKind.CUT_OFF, 1),)
    assert len(settled.failed) == 2


def test_young_requests_change_nothing():
    settled = settle(waiting(9.9), waiting(9.9, arm="baseline"))
    assert settled.cells is CELLS
    assert [part.arm for part in settled.cut_off] == ["baseline", "canary"]


def test_a_slow_baseline_gives_more_time():
    """Three times the baseline's p99.9, from the upper edge of its bin."""
    slow = replace(CELLS, bins=replace(CELLS.bins, bin=CELLS.bins.bin + 115))  # ten times as long
    patience = settle(cells=slow).patience_s
    at = np.repeat(slow.bins.bin, np.where(slow.bins.arm == 0, slow.bins.n, 0))
    exact = 3 * 10 ** (np.quantile(at, 0.999, method="inverted_cdf") / 115) / 1e6
    assert exact <= patience <= exact * 1.03
    assert patience > 10
    assert settle().patience_s == 10.0


@pytest.mark.parametrize("arm", ["canary", "blue"])
def test_an_arm_that_never_answered_gets_its_failures(arm):
    only = replace(CELLS, arms=("baseline", arm))
    nobody = replace(only, moments=type(CELLS.moments)(**{
        name: getattr(CELLS.moments, name)[CELLS.moments.arm == 0] for name in type(CELLS.moments).__dataclass_fields__
    }))  # fmt: skip
    settled = settle(*(waiting(40.0, arm=arm, endpoint="GET /new"),) * 5, cells=nobody)
    of_arm = settled.cells.moments.arm == settled.cells.arms.index(arm)
    assert settled.cells.moments.failures[of_arm].sum() == 5
    assert "GET /new" in settled.cells.endpoints


def at(age_s):
    return datetime.fromtimestamp(END_S - age_s, UTC)


@pytest.mark.parametrize(
    ("period", "kept", "cut"),
    [
        pytest.param(Period(start=at(20)), [2.0], LeftOut("canary", LeftOutKind.OUTSIDE_PERIOD, 1, 1), id="from"),
        pytest.param(Period(end=at(10)), [], LeftOut("canary", LeftOutKind.OUTSIDE_PERIOD, 2, 1), id="to"),
    ],
)
def test_requests_in_flight_outside_the_period_are_named_with_their_failures(period, kept, cut):
    run = replace(RUN, id=CELLS.runs[0], facts=RunFacts(in_flight=(waiting(30.0), waiting(2.0)), users_stopped=at(0)))
    (part,), left_out = cut_in_flight(CELLS, (run,), period)
    assert [one.age_s for one in part.facts.in_flight] == kept
    assert left_out == (cut,)
    assert part.facts.users_stopped == (period.end or at(0))
