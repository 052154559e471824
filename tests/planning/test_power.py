import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from evaluator.errors import UsageError
from evaluator.planning.power import critical_value, find_criticals, find_power, worst_z
from evaluator.stats.inference.calendar import Calendar

PUBLISHED = {
    entry["id"]: entry
    for entry in json.loads((Path(__file__).parents[1] / "data" / "published.json").read_text(encoding="utf-8"))[
        "entries"
    ]
    if entry["family"] == "power"
}


def test_every_published_power_is_covered():
    assert set(PUBLISHED) == {"power.t", "power.prop"}


def test_power_of_t_as_printed():
    entry = PUBLISHED["power.t"]
    n, delta, sd = (entry["inputs"][name] for name in ("n", "delta", "sd"))
    df, alpha = 2 * (n - 1), entry["inputs"].get("alpha", 0.05)
    power = find_power(delta, sd * math.sqrt(2 / n), df, stats.t.ppf(1 - alpha / 2, df))
    assert round(power, 7) == entry["published"]["value"]


def test_power_of_proportions_as_printed():
    entry = PUBLISHED["power.prop"]
    n, first, second = (entry["inputs"][name] for name in ("n", "p1", "p2"))
    pooled = (first + second) / 2
    null_se = math.sqrt(2 * pooled * (1 - pooled) / n)
    se = math.sqrt((first * (1 - first) + second * (1 - second)) / n)
    power = find_power(abs(second - first), se, math.inf, stats.norm.ppf(0.975), null_se=null_se)
    assert round(power, 2) == entry["published"]["value"]


@pytest.mark.parametrize("df", [3.0, 7.5, 40.0, 1e3])
@pytest.mark.parametrize("shift", [-0.05, 0.0, 0.02, 0.1, 0.4])
def test_power_is_noncentral_t(df, shift):
    critical = float(stats.t.ppf(0.99, df))
    assert find_power(shift, 0.03, df, critical) == pytest.approx(stats.nct.sf(critical, df, shift / 0.03), abs=1e-6)


def test_extremes_are_numbers():
    assert find_power(1e9, 1e-9, 6.0, 2.0) == pytest.approx(1.0)
    assert find_power(-1e9, 1e-9, 6.0, 2.0) == pytest.approx(0.0)
    assert (find_power(1.0, 0.0, 6.0, 2.0), find_power(-1.0, 0.0, 6.0, 2.0)) == (1.0, 0.0)


def test_without_shift_the_power_is_the_level():
    assert find_power(0.0, 1.0, 9.0, critical_value(1.959964, 9.0)) == pytest.approx(0.025, abs=1e-6)


def test_early_looks_reduce_the_power_at_the_end_little():
    end_s, df, between_instance = np.array([3600.0]), np.array([8.0]), np.array([0.2])
    fixed, looked, anytime = (
        float(find_criticals(Calendar(kind, (600,), 3600, final=True), end_s, 0.01, df, between_instance)[0])
        for kind in ("fixed", "group_sequential", "anytime")
    )
    assert fixed < looked < anytime
    assert math.isclose(fixed, stats.t.ppf(0.99, 8))
    assert worst_z(0.01, 0.2)[0] > worst_z(0.01, 0.2)[-1]


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.stats.power", None)
    with pytest.raises(UsageError, match="statsmodels") as raised:
        find_power(0.1, 0.04, 6, 1.9432)
    assert raised.value.hint == "pip install 'release-evaluator[stats]'"
