"""The numpy roll-up against a plain count, one request at a time."""

import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator.records import BLOCK_BUCKETS, Cells, choose_bucket_s
from evaluator.simulate import SCENARIOS, Requests, Scenario, simulate, simulate_cells, to_cells


def build(rows, users=None) -> Requests:
    """Requests of (run, arm, endpoint, instance, ts_us, response_us, failed, bytes, exception)."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 9).T
    return Requests(
        runs=("r0", "r1"),
        arms=("baseline", "canary"),
        endpoints=("GET /a", "GET /b", "POST /c"),
        instances=("x", ""),
        exceptions=("", "boom", "late"),
        run=table[0],
        arm=table[1],
        endpoint=table[2],
        instance=table[3],
        ts_us=table[4],
        response_us=table[5],
        failed=table[6] > 0,
        response_bytes=table[7],
        status=np.where(table[6] > 0, 500, 200),
        exception=np.where(table[6] > 0, table[8], 0),
        users=users,
    )


ROW = st.tuples(
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(0, 2),
    st.integers(0, 1),
    st.integers(1_700_000_000_000_000, 1_700_000_100_000_000),
    st.one_of(st.integers(0, 2_000_000), st.integers(0, 10**12)),
    st.integers(0, 1),
    st.integers(0, 10**6),
    st.integers(0, 2),
)


def exact_bin(us: int) -> int:
    """floor(115·log10(us)) in integers: the largest k with 10^k <= us^115."""
    value = max(us, 1) ** 115
    return len(str(value)) - 1


def named(cells: Cells, part, *extra: str):
    """Keys of the rows of a part of cells, by name, and their counts."""
    columns = [[cells.runs[c] for c in part.run], [cells.arms[c] for c in part.arm]]
    columns.append([cells.endpoints[c] for c in part.endpoint])
    for name in extra:
        column = getattr(part, name)
        columns.append([cells.instances[c] for c in column] if name == "instance" else list(column))
    return list(zip(*columns, strict=True))


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROW, max_size=40), bucket_s=st.sampled_from([1, 5, 15, 60]))
def test_roll_up_is_a_plain_count(rows, bucket_s):
    requests = build(rows)
    cells = to_cells(requests, bucket_s)
    groups, bins, blocks, kinds = defaultdict(list), Counter(), Counter(), Counter()
    for run, arm, endpoint, instance, ts, us, failed, size, exception in rows:
        bucket = ts // (bucket_s * 1_000_000)
        key = (requests.runs[run], requests.arms[arm], requests.endpoints[endpoint])
        instance_name = requests.instances[instance] or requests.arms[arm]
        groups[*key, instance_name, bucket].append((us, failed, size))
        if failed:
            kinds[*key, instance_name, 500, requests.exceptions[exception]] += 1
        else:
            bins[*key, bucket, exact_bin(us)] += 1
            blocks[*key, instance_name, bucket // BLOCK_BUCKETS, exact_bin(us)] += 1
    assert dict(zip(named(cells, cells.bins, "bucket", "bin"), cells.bins.n, strict=True)) == bins
    keys = named(cells, cells.instance_bins, "instance", "block", "bin")
    assert dict(zip(keys, cells.instance_bins.n, strict=True)) == blocks
    keys = named(cells, cells.failure_kinds, "instance", "status", "exception")
    assert dict(zip(keys, cells.failure_kinds.n, strict=True)) == kinds
    assert_moments(cells, groups)
    assert cells.grid == max(1, math.gcd(*(row[5] for row in rows if not row[6])))


def assert_moments(cells: Cells, groups) -> None:
    m = cells.moments
    keys = named(cells, m, "instance", "bucket")
    assert len(keys) == len(groups)
    for row, key in enumerate(keys):
        passed = [(us, size) for us, failed, size in groups[key] if not failed]
        times = [us for us, _ in passed]
        assert m.n[row] == len(groups[key])
        assert m.failures[row] == len(groups[key]) - len(passed)
        assert m.sum_time[row] == sum(times)
        assert max(times, default=0) >= 2**32 or m.sum_sq_time[row] == float(sum(us * us for us in times))
        assert [m.min_time[row], m.max_time[row]] == (
            [min(times), max(times)] if times else [pytest.approx(math.nan, nan_ok=True)] * 2
        )
        assert m.bytes[row] == sum(size for _, size in passed)
        assert m.bytes_sq[row] == sum(size * size for _, size in passed)


@pytest.mark.parametrize("power", range(13))
def test_powers_of_ten_are_edges(power):
    row = (0, 0, 0, 0, 0, 10**power, 0, 0, 0)
    below = (0, 0, 0, 0, 0, max(10**power - 1, 0), 0, 0, 0)
    cells = to_cells(build([row, below]), 1)
    assert cells.bins.bin.max() == 115 * power
    assert len(cells.bins.bin) == (1 if power == 0 else 2)


def test_no_requests_no_cells():
    cells = to_cells(build([]))
    assert len(cells.moments.n) == len(cells.bins.n) == len(cells.instance_bins.n) == len(cells.failure_kinds.n) == 0
    assert cells.grid == 1


def total(cells: Cells) -> tuple[int, int, int]:
    return int(cells.moments.n.sum()), int(cells.moments.failures.sum()), int(cells.bins.n.sum())


@pytest.mark.parametrize("name", ["AA", "AA_200_endpoints", "AA_replicates", "AA_closed", "single_75s"])
def test_cells_add_up_to_the_requests(name):
    design = SCENARIOS[name]
    requests, cells = simulate(design, 3), simulate_cells(design, 3)
    n, failures, successes = total(cells)
    assert n == len(requests)
    assert failures == requests.failed.sum() == cells.failure_kinds.n.sum()
    assert successes == n - failures == cells.instance_bins.n.sum()
    assert cells.moments.sum_time.sum() == requests.response_us[~requests.failed].sum()
    assert cells.runs == requests.runs
    assert len(
        np.unique(
            np.stack([getattr(cells.moments, k) for k in ("run", "arm", "endpoint", "instance", "bucket")]), axis=1
        ).T
    ) == len(cells.moments.n)


def test_cells_do_not_depend_on_the_order_of_rows():
    requests = simulate(Scenario(duration_s=120.0), 3)
    order = np.random.default_rng(0).permutation(len(requests))
    names = (
        "run",
        "arm",
        "endpoint",
        "instance",
        "ts_us",
        "response_us",
        "failed",
        "response_bytes",
        "status",
        "exception",
    )
    shuffled = replace(requests, **{name: getattr(requests, name)[order] for name in names})
    first, second = to_cells(requests, 1), to_cells(shuffled, 1)
    for part in ("moments", "bins", "instance_bins"):
        for name in type(getattr(first, part)).__slots__:
            np.testing.assert_array_equal(getattr(getattr(first, part), name), getattr(getattr(second, part), name))


def test_load_levels_are_the_highest():
    rows = [(0, 0, 0, 0, ts, 5, 0, 0, 0) for ts in (0, 1, 1_500_000)]
    loads = to_cells(build(rows, users=np.array([3, 7, 5])), 1).loads
    assert loads.bucket.tolist() == [0, 1]
    assert loads.users.tolist() == [7, 5]


def test_grid_is_found():
    assert simulate_cells(SCENARIOS["AA_integer_ms"], 1).grid == 1000
    assert simulate_cells(SCENARIOS["AA_1min"], 1).grid == 1


@pytest.mark.parametrize(
    ("duration_s", "bucket_s"), [(60, 1), (120, 1), (121, 5), (600, 5), (3600, 15), (21_600, 15), (86_400, 60)]
)
def test_bucket_by_duration(duration_s, bucket_s):
    assert choose_bucket_s(duration_s) == bucket_s


def test_bucket_of_the_design_wins():
    assert simulate_cells(replace(Scenario(), duration_s=60.0, bucket_s=5), 1).bucket_s == 5
    assert to_cells(simulate(Scenario(duration_s=60.0), 1)).bucket_s == 1
