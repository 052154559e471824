"""Two roll-ups of the same rows, numpy's and the store's, give the same cells."""

from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from evaluator.records import Release, Run, choose_bucket_s
from evaluator.simulate import SCENARIOS, simulate, to_cells, to_parquet
from evaluator.simulate.requests import EPOCH_US
from evaluator.store.base import Store


def assert_equal(first, second) -> None:
    for field in fields(first):
        left_column, right_column = getattr(first, field.name), getattr(second, field.name)
        if is_dataclass(left_column):
            assert_equal(left_column, right_column)
        elif isinstance(left_column, np.ndarray):
            np.testing.assert_array_equal(left_column, right_column, err_msg=field.name)
        else:
            assert left_column == right_column, field.name


@pytest.mark.parametrize(
    "name",
    [
        "AA",
        "AA_replicates",
        "AA_short_pods",
        "AA_integer_ms",
        "AA_unlabelled",
        "AA_spawn",
        "AA_three_arms",
        "single_75s",
        "errx3",
    ],
)
def test_store_rolls_up_to_equal_cells(name, tmp_path):
    design = replace(SCENARIOS[name], duration_s=min(SCENARIOS[name].duration_s, 600.0))
    requests = simulate(design, 5)
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    started = datetime.fromtimestamp(EPOCH_US / 1e6, UTC)
    ended = started + timedelta(seconds=design.duration_s)
    runs = [
        Run(run, "shop", "group", "import", replicate=k, started=started, planned_end=ended)
        for k, run in enumerate(requests.runs)
    ]
    for run in runs:
        store.data.register_run(Release("shop"), run)
    to_parquet(requests, store.data.segment_folder(runs[0]).parent, rows=5000)
    for run in runs:
        store.data.land_segments(run.id)
    expected = to_cells(requests, choose_bucket_s(design.duration_s))
    assert_equal(expected, store.data.read_cells(requests.runs))
