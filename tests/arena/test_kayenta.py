"""The peer gives the labels that Kayenta's own test suite expects (`tests/data/kayenta.json`)."""

import json
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from arena.kayenta import AllTied, Settings, classify, cles, locate, mean_ratio, score

CASES = json.loads((Path(__file__).parents[1] / "data" / "kayenta.json").read_text(encoding="utf-8"))["cases"]
KNOWN = {field.name for field in fields(Settings)}


def cases(kind):
    return [pytest.param(case, id=case["id"]) for case in CASES if case["kind"] == kind]


def sides(case, first="experiment", second="control"):
    return (np.array(case["inputs"][side], dtype=float) for side in (first, second))


def test_cases_are_distinct_and_cited():
    assert len({case["id"] for case in CASES}) == len(CASES) == 26
    assert all("Suite.scala" in case["citation"] for case in CASES)


@pytest.mark.parametrize("case", cases("mann_whitney_classify"))
def test_labels(case):
    label = classify(*sides(case), Settings(**{k: v for k, v in case["params"].items() if k in KNOWN}))
    assert label.classification == case["expect"]["classification"]
    assert label.critical == case["expect"].get("critical", label.critical)


@pytest.mark.parametrize("case", cases("location_ci"))
def test_interval_and_estimate(case):
    found = locate(*sides(case), case["params"]["confidence_level"])
    for name, value in (("ci_low", found.low), ("ci_high", found.high), ("estimate", found.estimate)):
        assert value == pytest.approx(case["expect"][name], abs=case["abs_tol"][name])


@pytest.mark.parametrize("case", cases("location_ci_intermediates"))
def test_interval_depends_on_the_path_to_the_root(case):
    """The lower end is above the upper: the tolerance of the roots is absolute, and Kayenta's own test expects it."""
    x, y = sides(case, "x", "y")
    found, expect = locate(x, y, case["params"]["confidence_level"]), case["expect"]
    values = {"ci_low": found.low, "ci_high": found.high, "estimate": found.estimate}
    ends = {"min": expect["mu_min"], "max": expect["mu_max"]}
    for end, mu in ends.items():
        for side in ("low", "high"):
            values[f"f_at_mu_{end}_zq_{side}"] = score(x, np.sort(y), mu, expect[f"zq_{side}"])
    assert values == pytest.approx({name: expect[name] for name in values}, abs=case["abs_tol"])


@pytest.mark.parametrize("case", cases("wilcoxon_z"))
def test_standardised_rank_sum(case):
    x, y = sides(case, "x", "y")
    value = score(x, np.sort(y), case["params"]["mu"], case["params"]["quantile"])
    assert value == pytest.approx(case["expect"]["value"], abs=case["abs_tol"])


@pytest.mark.parametrize("case", cases("mean_ratio"))
def test_mean_ratio(case):
    assert mean_ratio(*sides(case)) == pytest.approx(float(case["expect"]["value"]), nan_ok=True)


@pytest.mark.parametrize("case", cases("cles"))
def test_common_language_effect_size(case):
    assert cles(*sides(case)) == pytest.approx(case["expect"]["value"], abs=case["abs_tol"] or 1e-12)


def test_all_tied_is_an_error_without_a_verdict():
    zeros = np.zeros(3)
    with pytest.raises(AllTied):
        locate(zeros, zeros, 0.98)
    assert (
        classify(np.array([math.nan]), np.ones(3), Settings(must_have_data=True)).classification == "NodataFailMetric"
    )
