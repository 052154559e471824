"""Looking more than once at one false-alarm rate (method B.4).

Group-sequential: the error is spent along the planned duration, so a look costs what the spending function says,
whoever looked. Anytime: a confidence sequence, valid at every moment of a run without a planned end.

Sources: Lan & DeMets (1983), Biometrika 70, 659-663 (spending); Armitage, McPherson & Rowe (1969), JRSS A 132, 235-244
(recursive integration); Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024), Annals of Statistics 52(6), 2613-2640,
Theorem 2.2 and Appendix B (asymptotic confidence sequences, one-sided).
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Literal

import numpy as np

from evaluator.records.arrays import FloatArray

Spending = Literal["linear", "obrien_fleming"]

GRID = 60
"""Looks of the table: at every 60th of the planned duration. A look in between uses the earlier one."""
PERSISTENT_SHARES = np.array([0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
"""Shares of the final variance that time does not shrink, for which the table holds boundaries."""
ALPHAS = np.concatenate([np.geomspace(1e-8, 0.1, 36), [0.2, 0.35, 0.5]])
"""One-sided levels of the table."""

STEP = 0.01
LOWEST = -6.0
HALF = 0.3
"""A confidence sequence is defined for levels below one half, and no use near it."""
TUNE_AT_S = 1800.0
"""Seconds of data after which a confidence sequence is tightest."""
NEVER = 40.0
"""Boundary where nothing may be spent: never crossed, but a number."""


def spent(kind: Spending, alpha: float, fraction: FloatArray) -> FloatArray:
    """Error spent by each fraction of the planned duration: α·t, or 2(1 - Φ(z_{α/2}/√t)).

    The latter leaves nearly everything for the end; with few degrees of freedom it cannot stop even large harm early.
    On 60 simulated releases α·t found harm one or two minutes earlier than α·t^1.5 at no cost that so few could show
    (+3 % after an hour: 57 against 58 %); `docs/accuracy.md` has what looks cost against one look at the end.
    """
    if kind == "linear":
        return np.asarray(alpha * fraction)
    from scipy.special import ndtr, ndtri

    return np.asarray(2 * ndtr(ndtri(alpha / 2) / np.sqrt(fraction)))


def spent_by_first(alpha: float, runs: int) -> float:
    """Error that the first of several equal runs may spend by itself: α·t^1.5 of its share t of the data.

    Less than the α·t of looks within a run: whoever stops there never sees whether the other runs agree.
    """
    return float(alpha * runs**-1.5)


def information(fraction: FloatArray, persistent: float) -> FloatArray:
    """Information at each fraction of the duration where the share `persistent` of the final variance never shrinks."""
    return np.asarray(1 / (persistent + (1 - persistent) / fraction))


def boundaries(info: FloatArray, spend: FloatArray) -> FloatArray:
    """One-sided boundaries on Z for looks at rising `info` (last = 1) that spend `spend` in all up to each look.

    The law of the score process not yet stopped is carried from look to look on a grid.

    >>> import numpy as np
    >>> t = np.arange(1, 6) / 5  # two-sided 5 % O'Brien-Fleming type, five looks
    >>> boundaries(t, spent("obrien_fleming", 0.025, t)).round(2).tolist()
    [4.88, 3.36, 2.68, 2.29, 2.03]
    """
    from scipy.special import ndtr

    grid = np.arange(LOWEST, -LOWEST, STEP)
    reach = np.arange(-grid.size, grid.size + 1) * STEP
    out = np.empty(info.size)
    before, already = 0.0, 0.0
    mass = np.zeros(grid.size)
    mass[np.argmin(np.abs(grid))] = 1.0
    for k, (now, total) in enumerate(zip(info, spend, strict=True)):
        sd = np.sqrt(max(now - before, 1e-12))
        near = np.abs(reach) < 8 * sd + 2 * STEP
        kernel = ndtr((reach[near] + STEP / 2) / sd) - ndtr((reach[near] - STEP / 2) / sd)
        mass = np.convolve(mass, kernel)[(kernel.size - 1) // 2 :][: grid.size]
        edge = _edge(grid, mass, total - already)
        out[k] = min(edge / np.sqrt(now), NEVER)
        # What is left below the edge; the cell with the edge keeps its part.
        mass = mass * np.clip((edge - (grid - STEP / 2)) / STEP, 0.0, 1.0)
        before, already = now, total
    return out


def _edge(grid: FloatArray, mass: FloatArray, spend: float) -> float:
    """Value above which lies the mass `spend`, by linear interpolation within a cell."""
    if spend < 1e-14:
        return NEVER
    above = np.cumsum(mass[::-1])[::-1]
    k = int(np.searchsorted(-above, -spend, side="right")) - 1
    if k < 0:
        return float(grid[0])
    beyond = above[k + 1] if k + 1 < grid.size else 0.0
    share = (above[k] - spend) / max(mass[k], 1e-300)
    return float(grid[k] - STEP / 2 + min(share, 1.0) * STEP) if above[k] > beyond else float(grid[k])


@lru_cache(maxsize=1)
def _table() -> dict[str, FloatArray]:
    """Boundaries by kind of spending: for each of `PERSISTENT_SHARES` and `ALPHAS`, at each look of the `GRID`."""
    with (files("evaluator.stats.inference") / "boundaries.npz").open("rb") as file, np.load(file) as loaded:
        return {name: np.asarray(loaded[name], dtype=float) for name in loaded.files}


def sequential_p(p_value: FloatArray, fraction: float, persistent: FloatArray, kind: Spending = "linear") -> FloatArray:
    """Level at which a look at this fraction of the duration would have crossed, from its ordinary p-value.

    `persistent` is the share of the variance at this look that time does not shrink. The smallest of these over all
    looks is the sequential p-value.
    """
    from scipy.special import ndtri

    # The ordinary p-value may come from few degrees of freedom: its normal equivalent meets the boundary.
    z = np.minimum(-ndtri(np.clip(p_value, 1e-300, 1.0)), NEVER - 1)
    out = np.empty(z.shape)
    for i in np.ndindex(z.shape):
        edges = _edges(fraction, float(persistent[i]), kind)
        out[i] = np.exp(np.interp(-z[i], -edges, np.log(ALPHAS))) if z[i] > edges[-1] else 1.0
    return np.where(np.isnan(p_value), np.nan, out)


def boundary_z(level: float, fraction: float, persistent: float, kind: Spending = "linear") -> float:
    """Boundary on Z of a look at this fraction of the duration at a one-sided `level` over all looks.

    >>> round(boundary_z(0.05, 1.0, 0.0), 2), round(boundary_z(0.05, 1.0, 0.0, "obrien_fleming"), 2)
    (2.14, 1.89)
    """
    return float(np.interp(np.log(level), np.log(ALPHAS), _edges(fraction, persistent, kind)))


def _edges(fraction: float, persistent: float, kind: Spending) -> FloatArray:
    """Boundaries at each of `ALPHAS`; `persistent` is the share of the variance at this look."""
    look = min(max(int(np.floor(fraction * GRID + 1e-9)), 1), GRID) - 1
    share = min(persistent / max(persistent + (1 - persistent) * fraction, 1e-12), float(PERSISTENT_SHARES[-1]))
    table = _table()[kind][:, :, look]
    at = int(np.searchsorted(PERSISTENT_SHARES, share, side="right")) - 1
    upper = min(at + 1, PERSISTENT_SHARES.size - 1)
    part = (share - PERSISTENT_SHARES[at]) / max(PERSISTENT_SHARES[upper] - PERSISTENT_SHARES[at], 1e-12)
    return np.asarray((1 - part) * table[at] + part * table[upper])


def anytime_critical(alpha: FloatArray | float, elapsed_s: float, tune_at_s: float) -> FloatArray:
    """Multiple of the standard error that a one-sided confidence sequence adds at this moment.

    Tightest around `tune_at_s`.
    """
    alpha = np.asarray(alpha, dtype=float)
    log = -2 * np.log(2 * alpha)
    u = (log + np.log(log + 1)) * elapsed_s / tune_at_s
    return np.asarray(np.sqrt(2 * (u + 1) / u * np.log1p(np.sqrt(u + 1) / (2 * alpha))))


def anytime_z(level: FloatArray | float, elapsed_s: float, tune_at_s: float, persistent: float) -> FloatArray:
    """Boundary on Z of the confidence sequence; the persistent share meets the normal quantile, in quadrature."""
    from scipy.special import ndtri

    moving = anytime_critical(level, elapsed_s, tune_at_s)
    return np.asarray(np.sqrt(moving**2 * (1 - persistent) + ndtri(1 - np.asarray(level)) ** 2 * persistent))


def anytime_p(p_value: FloatArray, persistent: FloatArray, elapsed_s: float, tune_at_s: float) -> FloatArray:
    """Level at which the confidence sequence excludes "not beyond the bound" at this moment.

    `p_value` is the ordinary one, `persistent` the share of the variance that time does not shrink. The shrinking part
    meets the sequence, the persistent part the normal quantile; the two half-widths add in quadrature.
    """
    from scipy.special import ndtri

    z = np.minimum(-ndtri(np.clip(p_value, 1e-300, 1.0)), NEVER)
    levels = ALPHAS[ALPHAS < HALF]
    out = np.empty(z.shape)
    for i in np.ndindex(z.shape):
        reach = anytime_z(levels, elapsed_s, tune_at_s, float(persistent[i]))
        out[i] = np.exp(np.interp(-z[i], -reach, np.log(levels))) if z[i] > reach[-1] else 1.0
    return np.where(np.isnan(p_value), np.nan, out)
