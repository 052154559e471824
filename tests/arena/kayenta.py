"""Kayenta's judge (NetflixACAJudge-v1.0) as a peer: the rank-sum interval by root finding, and its rule.

Written from the published behaviour of spinnaker/kayenta at commit a69573be, and tested with the numbers of its own
test suite (`tests/data/kayenta.json`). Its peculiarities are kept: the continuity correction of the estimate, and roots
with an absolute precision of 1e-4, so that the answer depends on the unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from scipy.stats import rankdata

FloatArray = npt.NDArray[np.float64]

EPSILON = 2.220446049250313e-16
ROOT_TOLERANCE = 1e-4
MOST_STEPS = 1001


class AllTied(ArithmeticError):
    """All observations are equal: Kayenta labels the metric Error and leaves it out."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Interval and estimate of the shift experiment - control."""

    low: float
    high: float
    estimate: float


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a metric in a canary config; the defaults are those of Kayenta's judge."""

    tolerance: float = 0.25
    conf_level: float = 0.98
    allowed_increase: float | None = None
    allowed_decrease: float | None = None
    critical_increase: float | None = None
    critical_decrease: float | None = None
    effect_measure: Literal["meanRatio", "cles"] = "meanRatio"
    direction: Literal["increase", "decrease", "either"] = "either"
    nan_strategy: Literal["remove", "replace"] = "remove"
    critical: bool = False
    must_have_data: bool = False

    def threshold(self, value: float | None) -> float:
        """Return an effect size of the config, or its default."""
        no_effect = 1.0 if self.effect_measure == "meanRatio" else 0.5
        return no_effect if value is None else value


@dataclass(frozen=True, slots=True)
class Label:
    """Pass, High, Low, Nodata, NodataFailMetric or Error; `critical`: a critical failure."""

    classification: str
    critical: bool = False


# ------------------------------------------------------------------ the rule


def classify(experiment: FloatArray, control: FloatArray, settings: Settings | None = None) -> Label:
    """Label one metric. Times are not used: the arrays are sets of points."""
    settings = settings or Settings()
    e, c = (_clean(np.asarray(values, dtype=float), settings) for values in (experiment, control))
    if not e.size or not c.size:
        return _label_missing(settings)
    if np.array_equal(np.sort(e), np.sort(c)) or np.unique(np.concatenate([e, c])).size == 1:
        return Label("Pass")
    try:
        found = locate(e, c, settings.conf_level)
    except (AllTied, ValueError):
        return Label("Error")
    effect = mean_ratio(e, c) if settings.effect_measure == "meanRatio" else cles(e, c)
    return _label(found, effect, settings)


def _clean(values: FloatArray, settings: Settings) -> FloatArray:
    return values[~np.isnan(values)] if settings.nan_strategy == "remove" else np.nan_to_num(values, nan=0.0)


def _label_missing(settings: Settings) -> Label:
    if settings.nan_strategy == "replace":
        return Label("Pass")
    if settings.must_have_data and not settings.critical:
        return Label("NodataFailMetric")
    return Label("Nodata", settings.critical)


def _label(found: Interval, effect: float, settings: Settings) -> Label:
    bound = settings.tolerance * abs(found.estimate)
    unknown = np.isnan(effect)
    up = settings.direction != "decrease" and found.low > bound
    if up and (unknown or effect >= settings.threshold(settings.allowed_increase)):
        return Label(
            "High", settings.critical and bool(unknown or effect >= settings.threshold(settings.critical_increase))
        )
    down = settings.direction != "increase" and found.high < -bound
    if down and (unknown or effect <= settings.threshold(settings.allowed_decrease)):
        return Label(
            "Low", settings.critical and bool(unknown or effect <= settings.threshold(settings.critical_decrease))
        )
    return Label("Pass")


def mean_ratio(experiment: FloatArray, control: FloatArray) -> float:
    """Mean of experiment / mean of control; NaN if either is zero."""
    e, c = float(np.mean(experiment)), float(np.mean(control))
    return float("nan") if e == 0 or c == 0 else e / c


def cles(experiment: FloatArray, control: FloatArray) -> float:
    """Common-language effect size: P(E > C) + ½ P(E = C)."""
    m, n = len(experiment), len(control)
    ranks = float(rankdata(np.concatenate([experiment, control]))[:m].sum())
    return (2 * ranks - m * (m + 1)) / (2 * m * n)


# ------------------------------------------------------------------ the interval


def locate(experiment: FloatArray, control: FloatArray, conf_level: float) -> Interval:
    """Interval and estimate of the shift, as defined by R's `wilcox.test(exact=FALSE, conf.int=TRUE)`.

    Raises:
        AllTied: if all observations are equal.
    """
    x, y = _add_noise(np.asarray(experiment, dtype=float), np.asarray(control, dtype=float))
    low, high = float(x.min() - y.max()), float(x.max() - y.min())
    z = float(ndtri(1 - (1 - conf_level) / 2))
    sorted_y = np.sort(y)
    return Interval(
        low=_root_within(lambda mu: score(x, sorted_y, mu, z), low, high),
        high=_root_within(lambda mu: score(x, sorted_y, mu, -z), low, high),
        estimate=find_root(lambda mu: score(x, sorted_y, mu, 0.0), low, high),
    )


def _add_noise(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Add Gaussian noise to two constants. Kayenta's has no seed; here it has one, so that results can be repeated."""
    if np.unique(x).size > 1 or np.unique(y).size > 1:
        return x, y
    rng = np.random.default_rng(0)
    noisy = [v + rng.standard_normal(v.size) * 1e-5 * abs(v[0]) for v in (x, y)]
    return noisy[0], noisy[1]


def score(x: FloatArray, sorted_y: FloatArray, mu: float, quantile: float) -> float:
    """Standardised rank sum of x - mu against y, with continuity correction, minus the quantile."""
    shifted = x - mu
    n, m = x.size, sorted_y.size
    below = np.searchsorted(sorted_y, shifted, "left") + np.searchsorted(sorted_y, shifted, "right")
    w = below.sum() / 2 - n * m / 2
    ties = np.unique(np.concatenate([shifted, sorted_y]), return_counts=True)[1].astype(float)
    spread = (ties**3 - ties).sum() / ((n + m) * (n + m - 1))
    sigma = np.sqrt(n * m / 12 * (n + m + 1 - spread))
    if sigma == 0:
        raise AllTied
    return float((w - np.sign(w) / 2) / sigma - quantile)


def _root_within(f: Callable[[float], float], low: float, high: float) -> float:
    if f(low) <= 0:
        return low
    return high if f(high) >= 0 else find_root(f, low, high)


def find_root(f: Callable[[float], float], low: float, high: float) -> float:
    """Brent's `zero` from Netlib, step by step: the path decides the answer, because 1e-4 is coarse.

    Source: Brent (1973), Algorithms for Minimization without Derivatives, chapter 4.
    """
    a, b, fa, fb = low, high, f(low), f(high)
    c, fc = a, fa
    if fa == 0:
        return a
    for _ in range(MOST_STEPS):
        before = b - a
        if abs(fc) < abs(fb):
            a, b, c, fa, fb, fc = b, c, b, fb, fc, fb
        tolerance = 2 * EPSILON * abs(b) + ROOT_TOLERANCE / 2
        step = (c - b) / 2
        if abs(step) <= tolerance or fb == 0:
            return b
        if abs(before) >= tolerance and abs(fa) > abs(fb):
            step = _interpolate((a, b, c), (fa, fb, fc), step, before, tolerance)
        if abs(step) < tolerance:
            step = tolerance if step > 0 else -tolerance
        a, fa = b, fb
        b += step
        fb = f(b)
        if fb * fc > 0:
            c, fc = a, fa
    return b


def _interpolate(
    at: tuple[float, float, float], values: tuple[float, float, float], half: float, before: float, tolerance: float
) -> float:
    """Secant or inverse quadratic step if it is small enough, else half of the interval."""
    (a, b, c), (fa, fb, fc) = at, values
    t1, cb = fb / fa, c - b
    if a == c:
        p, q = cb * t1, 1 - t1
    else:
        q, t1, t2 = fa / fc, fb / fc, fb / fa
        p = t2 * (cb * q * (q - t1) - (b - a) * (t1 - 1))
        q = (q - 1) * (t1 - 1) * (t2 - 1)
    p, q = (p, -q) if p > 0 else (-p, q)
    return p / q if p < 0.75 * cb * q - abs(tolerance * q) / 2 and p < abs(before * q / 2) else half
