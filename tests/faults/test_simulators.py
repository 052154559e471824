"""A few releases of each simulator of `benchmarks/faults.py`, which measures hundreds: no wrong name, few missed."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path

import pytest
from judging import RULEBOOK, RUN

from evaluator.assess.requests import pair_requests
from evaluator.faults import find_fault
from evaluator.records import choose_bucket_s
from evaluator.simulate import to_cells

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


RELEASES = 5


@pytest.mark.parametrize(
    ("source", "first", "places", "onsets"),
    [("simulate", 960_000, 5, 5), ("log", 961_000, 5, 3), ("services", 962_000, 4, 2)],
)
def test_faults_of_each_simulator_are_named_and_nothing_else(source, first, places, onsets, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.import_module("faults")
    design = next(
        one for one in benchmark.DESIGNS if one.source == source and one.what == "failures" and one.instances == 1
    )
    counts: Counter[str] = Counter()
    for seed in range(first, first + RELEASES):
        requests, truth = benchmark.draw(design, seed)
        cells = to_cells(requests, choose_bucket_s(truth.duration_s))
        found = find_fault(pair_requests(cells, (RUN,), RULEBOOK), "canary", "failures")
        if found is None:
            continue
        assert not benchmark.is_wrong(found.endpoints, truth.endpoints), seed
        assert not benchmark.is_wrong(found.instances, truth.instances), seed
        assert benchmark.find_onset_state(found, truth.fault) != "wrong", seed
        is_named = benchmark.is_named(found.endpoints, truth.endpoints)
        counts["places"] += is_named and benchmark.is_named(found.instances, truth.instances)
        counts[benchmark.find_onset_state(found, truth.fault)] += 1
    assert counts["places"] >= places, counts
    assert counts["named"] >= onsets, counts
