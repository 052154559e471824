"""Cells split into identical halves, and regressions added to them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import SMALL, evidence, judge

from evaluator.calibration.inject import fail_more, slow_down
from evaluator.calibration.splits import balanced_halves, both_ways, pair_runs, split_instances, split_time
from evaluator.records import VerdictWord
from evaluator.simulate import SCENARIOS, Change, simulate, simulate_cells, to_cells
from evaluator.simulate.requests import Requests

DESIGN = replace(SMALL, instances=(4,), users=20)
CELLS = simulate_cells(DESIGN, 3)
TABLES = ("moments", "bins", "instance_bins")
BIN = 10 ** (1 / 115) - 1


def histogram(rows, arm=1):
    of_arm = rows.arm == arm
    return np.bincount(rows.bin[of_arm], weights=rows.n[of_arm], minlength=1200)


def effects(cells):
    return {c.rule.name: c.effect.estimate for c in evidence(cells).comparisons if not c.scan and c.effect}


# ------------------------------------------------------------------ injected


@pytest.mark.parametrize("change", [0.05, 0.10, 0.5, -0.2])
def test_slower_cells_are_cells_of_slower_requests(change):
    """The same seed draws the same requests, so they differ by at most the width of a bin."""
    injected = slow_down(CELLS, "canary", change)
    simulated = simulate_cells(replace(DESIGN, changes=(Change(latency=change),)), 3)
    for name in ("n", "failures", "bucket", "instance"):
        assert np.array_equal(getattr(injected.moments, name), getattr(simulated.moments, name))
    for name in ("sum_time", "sum_sq_time", "min_time", "max_time"):
        np.testing.assert_allclose(getattr(injected.moments, name), getattr(simulated.moments, name), rtol=3e-4)
    for table in ("bins", "instance_bins"):
        slowed, drawn = (np.cumsum(histogram(getattr(cells, table))) for cells in (injected, simulated))
        assert slowed[-1] == drawn[-1]
        # One histogram never lies more than one bin beside the other.
        assert (slowed[:-1] <= drawn[1:]).all()
        assert (drawn[:-1] <= slowed[1:]).all()
    estimates, expected = effects(injected), effects(simulated)
    for name, value in expected.items():
        assert estimates[name] == pytest.approx(value, abs=1.5 * BIN), name


def test_slower_cells_leave_the_other_arm_alone():
    injected = slow_down(CELLS, "canary", 0.1)
    for table in ("bins", "instance_bins"):
        assert np.array_equal(histogram(getattr(injected, table), 0), histogram(getattr(CELLS, table), 0))


def test_whole_milliseconds_stay_on_their_grid():
    cells = simulate_cells(replace(SCENARIOS["AA_integer_ms"], duration_s=900.0), 1)
    truth = simulate_cells(replace(SCENARIOS["AA_integer_ms"], duration_s=900.0, changes=(Change(latency=0.2),)), 1)
    injected = slow_down(cells, "canary", 0.2)
    possible = set(np.floor(115 * np.log10(1000.0 * np.arange(1, 100_000))).astype(int))
    assert set(injected.bins.bin[injected.bins.arm == 1].tolist()) <= possible
    for name, value in effects(truth).items():
        if name.startswith("latency_p"):
            assert effects(injected)[name] == pytest.approx(value, abs=0.03), name


def test_added_failures_are_those_of_a_failing_release():
    injected = fail_more(CELLS, "canary", 0.02, np.random.default_rng(1))
    ok = injected.moments.n - injected.moments.failures
    for table in ("bins", "instance_bins"):
        for arm in (0, 1):
            assert histogram(getattr(injected, table), arm).sum() == ok[injected.moments.arm == arm].sum()
    assert (injected.moments.statuses == ok).all()  # all simulated requests have a status
    added = effects(injected)["failure_rate"] - effects(CELLS)["failure_rate"]
    assert added == pytest.approx(0.02, abs=0.004)
    simulated = simulate_cells(replace(DESIGN, changes=(Change(failures_added=0.02),)), 3)
    for name in ("latency_p50", "latency_mean"):
        assert effects(injected)[name] == pytest.approx(effects(simulated)[name], abs=0.02)


def test_an_added_regression_is_found_like_a_real_one():
    design = replace(SCENARIOS["AA"], duration_s=1800.0)
    for seed in range(3):
        assert judge(slow_down(simulate_cells(design, seed), "canary", 0.2)).word is VerdictWord.NO_GO


# ------------------------------------------------------------------ split


def test_halves_are_balanced_and_each_is_followed_by_its_complement():
    halves = balanced_halves(list("abcd"), 100, np.random.default_rng(1))
    assert len(set(halves)) == len(halves) == 6
    assert all(set(half) ^ set(mirror) == set("abcd") for half, mirror in zip(halves[::2], halves[1::2], strict=True))
    assert len(balanced_halves(list("abcdefgh"), 10, np.random.default_rng(1))) == 10
    assert {len(half) for half in balanced_halves(list("abc"), 10, np.random.default_rng(1))} == {1, 2}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_a_split_of_cells_equals_a_split_of_requests(seed):
    """Requests of the baseline with half of its instances renamed to the candidate give the same cells."""
    requests = simulate(replace(DESIGN, duration_s=120.0, users=None), seed)
    alone = _only(requests, requests.arm == 0)
    chosen = [requests.instances.index(f"baseline-{k}") for k in (1, 2)]
    renamed = replace(alone, arms=("baseline", "canary"), arm=np.isin(alone.instance, chosen).astype(np.int64))
    expected = to_cells(renamed, 4)
    split = split_instances(to_cells(requests, 1), ("baseline-1", "baseline-2"))
    assert split.bucket_s == expected.bucket_s == 4
    for table in TABLES:
        split_rows, expected_rows = (_rows(cells, getattr(cells, table)) for cells in (split, expected))
        assert split_rows == expected_rows, table


def _only(requests, keep):
    columns = ("run", "arm", "endpoint", "instance", "ts_us", "response_us", "failed", "response_bytes", "status")
    assert isinstance(requests, Requests)
    return replace(
        requests, **{name: getattr(requests, name)[keep] for name in columns}, exception=requests.exception[keep]
    )


def _rows(cells, rows):
    """Rows as a multiset, by names instead of codes; NaN where nothing succeeded counts as -1."""
    columns = []
    for name in rows.__dataclass_fields__:
        values = getattr(rows, name)
        if name in ("endpoint", "instance"):
            names = np.array(cells.endpoints if name == "endpoint" else cells.instances)
            columns.append(names[values].tolist())
        else:
            columns.append(np.nan_to_num(np.asarray(values, float), nan=-1).tolist())
    return Counter(zip(*columns, strict=True))


def test_no_request_is_lost_in_time():
    split = split_time(CELLS, np.random.default_rng(1))
    of_baseline = CELLS.moments.arm == 0
    assert split.moments.n.sum() == CELLS.moments.n[of_baseline].sum()
    assert split.bins.n.sum() == split.instance_bins.n.sum() == CELLS.bins.n[CELLS.bins.arm == 0].sum()
    assert judge(split).word is VerdictWord.INCONCLUSIVE


def test_past_runs_are_at_the_same_time_or_one_after_the_other():
    runs = [simulate_cells(replace(DESIGN, duration_s=300.0), seed) for seed in range(4)]
    over = evidence(pair_runs([(runs[0], runs[1]), (runs[2], runs[3])], together=True))
    assert not [finding for finding in over.findings if finding.check == "overlap" and finding.level == "fail"]
    assert over.arms[1].requests == sum(int(cells.moments.n[cells.moments.arm == 0].sum()) for cells in runs[1::2])
    beside = evidence(pair_runs([(runs[0], runs[1])], together=False))
    assert [finding.level for finding in beside.findings if finding.check == "overlap"] == ["fail"]


def test_runs_with_other_endpoints_are_compared_by_name():
    one, three = (simulate_cells(replace(DESIGN, duration_s=300.0, endpoints=count), 1) for count in (1, 3))
    joined = pair_runs([(one, three)], together=True)
    assert joined.endpoints[0] == one.endpoints[0]
    assert joined.moments.n.sum() == sum(int(c.moments.n[c.moments.arm == 0].sum()) for c in (one, three))


def test_both_ways_exchange_the_arms_and_nothing_else():
    cells = simulate_cells(replace(SMALL, changes=(Change(), Change())), 3)
    pair, turned = both_ways(cells)
    assert pair.arms == turned.arms == ("baseline", "canary")
    for arm in (0, 1):
        own, exchanged = pair.moments, turned.moments
        assert own.n[own.arm == arm].sum() == cells.moments.n[cells.moments.arm == arm].sum()
        assert (exchanged.sum_time[exchanged.arm == 1 - arm] == own.sum_time[own.arm == arm]).all()
    assert pair.bins.n.sum() == turned.bins.n.sum() < cells.bins.n.sum()
