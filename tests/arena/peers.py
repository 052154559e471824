"""What other methods answer for the same requests, at each minute: tests on raw requests, Kayenta, tea-tasting.

All test at a one-sided level of 5 % whether the candidate is worse than baseline; Kayenta uses its own constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr
from scipy.stats import ttest_ind_from_stats

from arena.kayenta import Settings, classify
from evaluator.simulate import Requests

__all__ = ["PEERS", "Flags", "Minutes", "ask_peers"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

ALPHA = 0.05
FIRST_MINUTE = 5
"""The first minute with a look."""

WORSE = Settings(direction="increase", allowed_increase=1.0)


@dataclass(frozen=True, slots=True)
class Minutes:
    """Requests of two arms by minute since the first. Arrays of sums have shape (2, minutes), baseline first."""

    n: FloatArray
    failures: FloatArray
    sum_ms: FloatArray
    """Σ response time of successes."""
    sum_sq_ms: FloatArray
    p99_ms: FloatArray
    times_ms: tuple[tuple[FloatArray, ...], ...]
    """Times of successes: for each arm one array per minute."""

    @property
    def ok(self) -> FloatArray:
        """Successes."""
        return self.n - self.failures

    @classmethod
    def of(cls, requests: Requests) -> Minutes:
        """Split the requests of baseline and the first candidate by minute."""
        minute = (requests.ts_us - requests.ts_us.min()) // 60_000_000
        count = int(minute.max()) + 1
        times = tuple(_split(requests, minute, arm, count) for arm in (0, 1))

        def total(of: Callable[[FloatArray], float]) -> FloatArray:
            return np.array([[of(values) if values.size else np.nan for values in side] for side in times])

        arms = [requests.arm == arm for arm in (0, 1)]
        return cls(
            n=np.array([np.bincount(minute[mine], minlength=count) for mine in arms], dtype=float),
            failures=np.array(
                [np.bincount(minute[mine & requests.failed], minlength=count) for mine in arms], dtype=float
            ),
            sum_ms=np.nan_to_num(total(lambda v: float(v.sum()))),
            sum_sq_ms=np.nan_to_num(total(lambda v: float(v @ v))),
            p99_ms=total(lambda v: float(np.quantile(v, 0.99))),
            times_ms=times,
        )


def _split(requests: Requests, minute: npt.NDArray[np.int64], arm: int, count: int) -> tuple[FloatArray, ...]:
    rows = np.flatnonzero((requests.arm == arm) & ~requests.failed)
    rows = rows[np.argsort(minute[rows], kind="stable")]
    edges = np.searchsorted(minute[rows], np.arange(1, count))
    return tuple(np.split(requests.response_us[rows] / 1000.0, edges))


# ------------------------------------------------------------------ tests on raw requests


def mann_whitney(minutes: Minutes) -> BoolArray:
    """Rank-sum test on all response times until each minute, with ties and continuity as SciPy's asymptotic method.

    Ranks are exact: each distinct time is a cell with two counts.
    """
    values = [np.concatenate(side) for side in minutes.times_ms]
    levels, code = np.unique(np.concatenate(values), return_inverse=True)
    codes = [
        np.split(part, np.cumsum(minutes.ok[arm])[:-1].astype(int)) for arm, part in enumerate(_halves(code, values))
    ]
    counts = np.zeros((2, levels.size))
    out = np.zeros(minutes.n.shape[1], dtype=np.bool_)
    for k in range(out.size):
        for arm in (0, 1):
            counts[arm] += np.bincount(codes[arm][k], minlength=levels.size)
        out[k] = k + 1 >= FIRST_MINUTE and _rank_sum_p(counts) < ALPHA
    return out


def _halves(code: npt.NDArray[np.int64], values: list[FloatArray]) -> tuple[npt.NDArray[np.int64], ...]:
    return code[: values[0].size], code[values[0].size :]


def _rank_sum_p(counts: FloatArray) -> float:
    """One-sided p-value for "the second row of counts is above the first"."""
    n_b, n_c = counts.sum(axis=1)
    if not n_b or not n_c:
        return 1.0
    u = float(counts[1] @ (np.cumsum(counts[0]) - counts[0] / 2))
    total, ties = n_b + n_c, counts.sum(axis=0)
    spread = n_b * n_c / 12 * (total + 1 - float((ties**3 - ties).sum()) / (total * (total - 1)))
    return float(ndtr(-(u - n_b * n_c / 2 - 0.5) / np.sqrt(spread))) if spread > 0 else 1.0


def welch(minutes: Minutes) -> BoolArray:
    """Welch's t-test on all response times until each minute."""
    n, mean, variance = _moments(minutes)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = ttest_ind_from_stats(
            mean[1],
            np.sqrt(variance[1]),
            n[1],
            mean[0],
            np.sqrt(variance[0]),
            n[0],
            equal_var=False,
            alternative="greater",
        )
    return np.asarray(found.pvalue < ALPHA)


def _moments(minutes: Minutes) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Successes, their mean and variance up to each minute."""
    n, total, squares = (np.cumsum(v, axis=1) for v in (minutes.ok, minutes.sum_ms, minutes.sum_sq_ms))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / n
        return n, mean, np.maximum(squares - n * mean**2, 0.0) / (n - 1)


def two_proportions(minutes: Minutes) -> BoolArray:
    """Pooled z-test on the share of failures until each minute."""
    n, x = np.cumsum(minutes.n, axis=1), np.cumsum(minutes.failures, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = x.sum(axis=0) / n.sum(axis=0)
        z = (x[1] / n[1] - x[0] / n[0]) / np.sqrt(pooled * (1 - pooled) * (1 / n[0] + 1 / n[1]))
    return np.asarray(ndtr(-z) < ALPHA)


# ------------------------------------------------------------------ Kayenta


def kayenta_mean(minutes: Minutes) -> BoolArray:
    """Kayenta on means per minute."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _kayenta(minutes.sum_ms / minutes.ok)


def kayenta_p99(minutes: Minutes) -> BoolArray:
    """Kayenta on 99th percentiles per minute."""
    return _kayenta(minutes.p99_ms)


def kayenta_failures(minutes: Minutes) -> BoolArray:
    """Kayenta on failure rates per minute."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _kayenta(minutes.failures / minutes.n)


def _kayenta(points: FloatArray) -> BoolArray:
    looks = range(1, points.shape[1] + 1)
    return np.array(
        [k >= FIRST_MINUTE and classify(points[1, :k], points[0, :k], WORSE).classification == "High" for k in looks]
    )


# ------------------------------------------------------------------ tea-tasting


def tea_tasting_mean(minutes: Minutes) -> BoolArray:
    """tea-tasting's `Mean` on the aggregates of response times until each minute."""
    return _tea_tasting(*_moments(minutes))


def tea_tasting_failures(minutes: Minutes) -> BoolArray:
    """tea-tasting's `Mean` on the aggregates of a 0/1 column of failures."""
    n, x = np.cumsum(minutes.n, axis=1), np.cumsum(minutes.failures, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = x / n
        return _tea_tasting(n, share, share * (1 - share) * n / (n - 1))


def _tea_tasting(n: FloatArray, mean: FloatArray, variance: FloatArray) -> BoolArray:
    from tea_tasting.aggr import Aggregates
    from tea_tasting.metrics import Mean

    metric = Mean("x", alternative="greater")

    def flags(k: int) -> bool:
        if k + 1 < FIRST_MINUTE or n[:, k].min() < 2 or variance[:, k].max() <= 0:
            return False
        sides = [Aggregates(int(n[a, k]), {"x": float(mean[a, k])}, {"x": float(variance[a, k])}) for a in (0, 1)]
        return bool(metric.analyze_aggregates(*sides).pvalue < ALPHA)

    return np.array([flags(k) for k in range(n.shape[1])])


# ------------------------------------------------------------------ all of them

PEERS: Mapping[str, Callable[[Minutes], BoolArray]] = {
    "Mann–Whitney, requests": mann_whitney,
    "Welch, requests": welch,
    "z-test, failures": two_proportions,
    "tea-tasting 1.14 Mean, latency": tea_tasting_mean,
    "tea-tasting 1.14 Mean, failures": tea_tasting_failures,
    "Kayenta, mean a minute": kayenta_mean,
    "Kayenta, p99 a minute": kayenta_p99,
    "Kayenta, failures a minute": kayenta_failures,
}
"""Name → method: (minutes) → is the candidate flagged at the end of each minute?"""

ANY_KAYENTA = "Kayenta, any of the three"


@dataclass(frozen=True, slots=True)
class Flags:
    """One method on one release: does one look at the end flag it, and the first minute at which a look flags it."""

    horizon: bool
    first_minute: int | None


def ask_peers(requests: Requests) -> dict[str, Flags]:
    """Return the answer of each peer."""
    minutes = Minutes.of(requests)
    flagged = {name: ask(minutes) for name, ask in PEERS.items()}
    flagged[ANY_KAYENTA] = np.logical_or.reduce([v for name, v in flagged.items() if name.startswith("Kayenta")])
    return {name: _sum_up(v) for name, v in flagged.items()}


def _sum_up(flagged: BoolArray) -> Flags:
    late = flagged.copy()
    late[: FIRST_MINUTE - 1] = False
    first = np.flatnonzero(late)
    return Flags(bool(flagged[-1]), int(first[0]) + 1 if first.size else None)
