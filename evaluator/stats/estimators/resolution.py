"""How far the steps of the recorded times may have moved a comparison (method B.2, steps of recorded times).

A time that is recorded in steps of h may be up to h/2 away from its number. If times spread over several steps, this
averages out: with a standard deviation of h/2 the mean of a normal distribution moves by at most 0.3 % of h (Widrow,
Kollár and Liu 1996). If all times are on one step, it does not: all of them may be at the edge of the step. In between,
on two steps with shares P and 1 - P, the true mean or median is between the recorded one and the border of both steps.
"""

from __future__ import annotations

import numpy as np

from evaluator.records.arrays import BoolArray, FloatArray
from evaluator.stats.estimators.distribution import Distribution
from evaluator.stats.shaping.bins import bin_limits_ms
from evaluator.stats.shaping.groups import Groups
from evaluator.stats.shaping.panel import Panel

LONE_SHARE = 0.25
"""A step with a smaller share of the requests is one of many, and rounding averages out."""
FINE_SHARE = 0.002
"""A step below this share of the mean does not matter."""


def step_of_arms_ms(panel: Panel) -> FloatArray:
    """Return the step of each arm's times (ms), shape (2,): the coarsest with at least a quarter of its requests."""
    ok = panel.ok.sum(axis=2)
    out = np.empty(2)
    for arm in (0, 1):
        order = np.argsort(-panel.steps_us[arm], kind="stable")
        reached = np.cumsum(ok[arm][order]) >= LONE_SHARE * max(float(ok[arm].sum()), 1.0)
        out[arm] = panel.steps_us[arm][order[int(np.argmax(reached))]] / 1000
    return out


def steps_of(panel: Panel, endpoint: str | None = None) -> tuple[float, float]:
    """Return the step (ms) of the times of baseline and candidate, of one endpoint or (`None`) of all requests."""
    if endpoint in panel.endpoints:
        of_arms = panel.steps_us[:, panel.endpoints.index(endpoint)] / 1000
    else:
        of_arms = step_of_arms_ms(panel)
    return float(of_arms[0]), float(of_arms[1])


def find_doubt_ms(panel: Panel, groups: Groups) -> FloatArray:
    """Find how much (ms) rounding may have moved the difference of mean times of each group, shape (groups,).

    For each arm this is half a step for requests on a single step, and nothing for requests on several steps. If the
    arms have different steps, half of the larger one is added, because a tool may round or cut off.
    """
    steps, ok = panel.steps_us / 1000, panel.ok.sum(axis=2)
    wide = steps.max(axis=0)
    mean = panel.totals["time_ms"].sum(axis=(0, 2)) / np.maximum(ok.sum(axis=0), 1)
    coarse = (wide > FINE_SHARE * mean) & (ok > 0).all(axis=0)
    if not coarse.any():
        return np.zeros(groups.count)
    apart = np.where(steps[0] != steps[1], wide / 2, 0.0)
    doubt = np.where(coarse, _lone_ms(panel, coarse).sum(axis=0) + apart, 0.0)
    weight = ok[0] * ok[1] / np.maximum(ok[0] + ok[1], 1)
    total = groups.sum_totals(weight)
    return np.divide(groups.sum_totals(weight * doubt), total, out=np.zeros(groups.count), where=total > 0)


def log_doubt(doubt: FloatArray, level: FloatArray) -> FloatArray:
    """Convert a doubt in the unit of the level to a difference of logarithms; all arrays have shape (groups,)."""
    return np.asarray(np.log1p(np.divide(doubt, level, out=np.zeros_like(doubt), where=level > 0)))


def _lone_ms(panel: Panel, coarse: BoolArray) -> FloatArray:
    """How far (ms) the mean time of each arm and endpoint may be off because requests are on single steps.

    Shape (2, endpoints).
    """
    bins, shape = panel.bins, panel.steps_us.shape
    owner, slot = np.divmod(bins.cell, panel.stride)
    bin_of = np.repeat(np.arange(bins.sizes.size), bins.sizes)
    out = np.zeros(panel.steps_us.size)
    for step_us in np.unique(panel.steps_us[:, coarse]):
        of_step = ((panel.steps_us == step_us) & coarse).ravel()
        rows = np.flatnonzero(of_step[owner] & (slot < panel.slots))
        # Bins without a multiple of the step have no width; the others are adjacent to each other.
        rank = np.cumsum(np.diff(bin_limits_ms(bins.last, step_us / 1000)) > 0)
        ranks = int(rank[-1]) + 2
        key, group = np.unique(owner[rows] * ranks + rank[bin_of[rows]], return_inverse=True)
        count: FloatArray = np.bincount(group, weights=bins.n[rows], minlength=key.size).astype(float)
        cell = key // ranks
        share = count / np.maximum(np.bincount(cell, weights=count, minlength=out.size), 1)[cell]
        adjoining = count.copy()
        follows = np.flatnonzero(np.diff(key) == 1)
        adjoining[follows] += count[follows + 1]
        adjoining[follows + 1] += count[follows]
        among = count / np.maximum(adjoining, 1)
        hidden = np.where(share >= LONE_SHARE, share * _hidden(among), 0.0)
        out += np.bincount(cell, weights=hidden, minlength=out.size) * step_us / 1000
    return out.reshape(shape)


def _hidden(among: FloatArray) -> FloatArray:
    """Part of a step that rounding may hide (0 to 1/2), from the step's share `among` itself and its neighbours."""
    return np.asarray(np.maximum(1 - 0.5 / np.maximum(among, 1e-300), 0.0))


def find_quantile_doubt_ms(curve: Distribution, quantile_ms: float, step_ms: float) -> float:
    """Find how much (ms) the quantile of one arm may be off, because many requests are on the same step.

    Times within one bin of the histogram cannot be distinguished, so a step is at least as wide as its bin.
    """
    limits = curve.limits
    if not np.isfinite(quantile_ms) or quantile_ms >= limits[-1]:
        return 0.0
    behind = int(np.searchsorted(limits, quantile_ms, side="right"))
    low, width = float(limits[behind - 1]), float(limits[behind] - limits[behind - 1])
    if step_ms > width:
        low, width = float((np.floor(quantile_ms / step_ms + 0.5) - 0.5) * step_ms), step_ms
    before, within, after = np.diff(curve.at(low + width * np.arange(-1.0, 3.0))).tolist()
    if within < LONE_SHARE * float(curve.cumulative[-1]):
        return 0.0
    return width * float(_hidden(np.array(within / (before + within + after))))
