"""Procedures agree with printed results (`tests/data/published.json`) to the printed decimals."""

import json
import math
from pathlib import Path

import pytest
from scipy.optimize import brentq
from scipy.special import ndtri

from evaluator.judges.multiplicity import holm
from evaluator.stats.inference.score import difference_interval, one_sample_z, ratio_interval

ENTRIES = json.loads((Path(__file__).parents[1] / "data" / "published.json").read_text(encoding="utf-8"))["entries"]
DIFFERENCE_MN = {"Miettinen-Nurminen", "miettinen-nurminen", "PropCIs diffscoreci"}
# The asymptotic score interval of Fagerland, Lydersen & Laake is printed without the factor N / (N - 1).
DIFFERENCE_MEE = {"Mee", "mee-farrington-manning", "Miettinen-Nurminen asymptotic score"}
RATIO_MN = {"Miettinen-Nurminen asymptotic score RR (N/(N-1) variance)"}
RATIO_PLAIN = {"PropCIs riskscoreci (Koopman)"}


def cases(family: str, methods: set[str]):
    chosen = [e for e in ENTRIES if e["family"] == family and e["method"] in methods]
    return [pytest.param(e, id=e["id"]) for e in chosen]


def printed(entry, value: float):
    """`value` as the entry prints it: to its decimals, significant figures, or as many as the number itself shows."""
    if "significant" in entry.get("note", ""):
        return pytest.approx(value, abs=0.5 * 10 ** (math.floor(math.log10(abs(value))) - 1) + 1e-12)
    shown = len(repr(value).partition(".")[2]) if entry["decimals"] is None else entry["decimals"]
    return pytest.approx(value, abs=0.5 * 10**-shown + 1e-12)


def limits(entry):
    return [printed(entry, float(entry["published"][end])) for end in ("lower", "upper")]


def counts(entry) -> tuple[float, ...]:
    return tuple(entry["inputs"][name] for name in ("x1", "n1", "x2", "n2"))


def critical(entry) -> float:
    return float(ndtri((1 + entry["inputs"]["conf"]) / 2))


def without_correction(entry) -> float:
    """Critical value for which our score, with its N / (N - 1), is the score without."""
    total = entry["inputs"]["n1"] + entry["inputs"]["n2"]
    return critical(entry) * math.sqrt((total - 1) / total)


def test_entries_are_distinct_and_cited():
    assert len({entry["id"] for entry in ENTRIES}) == len(ENTRIES) == 81
    assert all(entry["citation"] and entry["published"] for entry in ENTRIES)


@pytest.mark.parametrize("entry", cases("proportion_difference_ci", DIFFERENCE_MN))
def test_difference_of_proportions(entry):
    assert [float(v) for v in difference_interval(*counts(entry), critical(entry))] == limits(entry)


@pytest.mark.parametrize("entry", cases("proportion_difference_ci", DIFFERENCE_MEE))
def test_difference_of_proportions_without_correction(entry):
    assert [float(v) for v in difference_interval(*counts(entry), without_correction(entry))] == limits(entry)


@pytest.mark.parametrize("entry", cases("proportion_ratio_ci", RATIO_MN))
def test_ratio_of_proportions(entry):
    assert [float(v) for v in ratio_interval(*counts(entry), critical(entry))] == limits(entry)


@pytest.mark.parametrize("entry", cases("proportion_ratio_ci", RATIO_PLAIN))
def test_ratio_of_proportions_without_correction(entry):
    assert [float(v) for v in ratio_interval(*counts(entry), without_correction(entry))] == limits(entry)


@pytest.mark.parametrize("entry", cases("single_proportion_ci", {"Wilson score"}))
def test_one_proportion(entry):
    x, n, z = entry["inputs"]["x"], entry["inputs"]["n"], critical(entry)
    lower = brentq(lambda p: float(one_sample_z(x, n, p)) - z, 1e-9, x / n - 1e-9)
    upper = brentq(lambda p: float(one_sample_z(x, n, p)) + z, x / n + 1e-9, 1 - 1e-9)
    assert [lower, upper] == limits(entry)


@pytest.mark.parametrize("entry", cases("multiple_testing", {"15 p-values: Bonferroni / Holm / BH at q=.05"}))
def test_holm(entry):
    adjusted = holm(entry["inputs"]["p"])
    assert sum(p < entry["inputs"]["alpha"] for p in adjusted) == entry["published"]["holm_rejects"]
