"""Look more than once with one false-alarm rate (method B.4).

Group-sequential: alpha is spent over the planned duration, and the spending function alone sets the cost of a look.
Anytime: a confidence sequence, which is valid at each time of a run without a planned end.

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
"""Looks of the table: one at each 60th of the planned duration. A look in between uses the one before."""
PERSISTENT_SHARES = np.array([0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
"""Persistent shares of the final variance for which the table has boundaries: variance that time does not shrink."""
ALPHAS = np.concatenate([np.geomspace(1e-8, 0.1, 36), [0.2, 0.35, 0.5]])
"""One-sided levels of the table."""

STEP = 0.01
LOWEST = -6.0
"""The grid on which boundaries are computed: from `LOWEST` to its opposite, in cells of `STEP`."""
HALF = 0.3
"""Confidence sequences are used for levels below this; they are defined below one half, and useless near it."""
TUNE_AT_S = 1800.0
"""Seconds of data at which a confidence sequence is narrowest."""
NEVER = 40.0
"""Boundary where no alpha may be spent: finite, but never crossed."""


def spent(kind: Spending, alpha: float, fraction: FloatArray) -> FloatArray:
    """Return how much of the error rate alpha looks may have spent by each `fraction` t of the planned duration.

    Each look may be wrong, so all looks together share alpha (Lan & DeMets 1983). `linear` is α·t. `obrien_fleming`
    is 2(1 - Φ(z_{α/2}/√t)): it keeps nearly all alpha for the end, and with few degrees of freedom it cannot stop
    even large harm early. On 60 simulated releases α·t detected harm one or two minutes earlier than α·t^1.5,
    without a visible cost (+3 % after an hour: 57 against 58 %). docs/accuracy.md compares looks with a single look
    at the end.
    """
    if kind == "linear":
        return np.asarray(alpha * fraction)
    from scipy.special import ndtr, ndtri

    return np.asarray(2 * ndtr(ndtri(alpha / 2) / np.sqrt(fraction)))


def spent_by_first(alpha: float, runs: int) -> float:
    """Return the alpha that may be spent on the first of several equal `runs`: α·t^1.5, where t = 1 / `runs`.

    It is less than the α·t of looks within a run: after a stop, it stays unknown whether other runs agree.
    """
    return float(alpha * runs**-1.5)


def information(fraction: FloatArray, persistent: float) -> FloatArray:
    """Return the information (1 / variance) at each fraction of the duration, relative to that at the end.

    `persistent` is the share of the final variance that time does not shrink.
    """
    return np.asarray(1 / (persistent + (1 - persistent) / fraction))


def boundaries(info: FloatArray, spend: FloatArray) -> FloatArray:
    """Compute one-sided boundaries on Z (the standardised estimate) for several looks, so that alpha is not exceeded.

    The distribution of the score process, given that it has not stopped, is computed from look to look on a grid
    (Armitage, McPherson & Rowe 1969).

    Args:
        info: Information at each look, increasing, the last is 1; shape (looks,).
        spend: Alpha spent up to and including each look, shape (looks,).

    Returns:
        The boundary of each look, shape (looks,).

    >>> import numpy as np
    >>> t = np.arange(1, 6) / 5  # two-sided 5 % O'Brien-Fleming type, five looks
    >>> boundaries(t, spent("obrien_fleming", 0.025, t)).round(2).tolist()
    [4.88, 3.36, 2.68, 2.29, 2.03]
    """
    from scipy.special import ndtr

    # The score (Z · √info) begins at 0 and has the variance `info` at each look. `mass` is its distribution in the
    # cells of `grid`: the probability of each.
    grid = np.arange(LOWEST, -LOWEST, STEP)
    steps = np.arange(-grid.size, grid.size + 1) * STEP
    boundary_of_look = np.empty(info.size)
    info_before, spent_before = 0.0, 0.0
    mass = np.zeros(grid.size)
    mass[np.argmin(np.abs(grid))] = 1.0
    for k, (info_now, spent_now) in enumerate(zip(info, spend, strict=True)):
        # Add the normal increment since the look before.
        sd = np.sqrt(max(info_now - info_before, 1e-12))
        increments = steps[np.abs(steps) < 8 * sd + 2 * STEP]  # larger ones have no probability
        kernel = ndtr((increments + STEP / 2) / sd) - ndtr((increments - STEP / 2) / sd)
        mass = np.convolve(mass, kernel)[(kernel.size - 1) // 2 :][: grid.size]  # without what is off the grid
        # The score above which the alpha of this look lies.
        edge = _find_edge(grid, mass, spent_now - spent_before)
        boundary_of_look[k] = min(edge / np.sqrt(info_now), NEVER)
        # Keep the mass below the edge, and a part of the cell with the edge.
        mass = mass * np.clip((edge - (grid - STEP / 2)) / STEP, 0.0, 1.0)
        info_before, spent_before = info_now, spent_now
    return boundary_of_look


def _find_edge(grid: FloatArray, mass: FloatArray, spend: float) -> float:
    """Find the value that leaves the mass `spend` above it, by linear interpolation within a cell.

    `mass` is the probability of each cell of width `STEP` around the points of `grid`. If there is nothing to spend,
    the value is `NEVER`, which no statistic exceeds; if more than all mass is to be spent, it is the lowest point.
    """
    if spend < 1e-14:
        return NEVER
    mass_from_cell = np.cumsum(mass[::-1])[::-1]  # of each cell and all cells above it; falling
    # The last cell from which on there is at least this mass. Negated, because `searchsorted` needs rising values.
    k = int(np.searchsorted(-mass_from_cell, -spend, side="right")) - 1
    if k < 0:
        return float(grid[0])
    # The cell has mass: without any, cell k + 1 would be the last one.
    share_of_cell = (mass_from_cell[k] - spend) / mass[k]
    return float(grid[k] - STEP / 2 + min(share_of_cell, 1.0) * STEP)


@lru_cache(maxsize=1)
def _load_table() -> dict[str, FloatArray]:
    """Load the table of boundaries on Z: kind of spending → shape (persistent shares, alphas, looks)."""
    with (files("evaluator.stats.inference") / "boundaries.npz").open("rb") as file, np.load(file) as loaded:
        return {name: np.asarray(loaded[name], dtype=float) for name in loaded.files}


def sequential_p(p_value: FloatArray, fraction: float, persistent: FloatArray, kind: Spending = "linear") -> FloatArray:
    """Return the lowest alpha, as a level of all looks together, at which this look would have crossed its boundary.

    The smallest of these over all looks is the sequential p-value.

    Args:
        p_value: Ordinary p-values of this look; NaN stays NaN.
        fraction: Share of the planned duration at this look.
        persistent: Share of the variance at this look that time does not shrink, same shape as `p_value`.
        kind: How alpha is spent.
    """
    from scipy.special import ndtri

    # The ordinary p-value may have few degrees of freedom: its normal equivalent is compared with the boundary.
    # Below `NEVER`, so that no p-value crosses a boundary where nothing may be spent.
    z = np.minimum(-ndtri(np.clip(p_value, 1e-300, 1.0)), NEVER - 1)
    lowest_alpha = np.ones(z.shape)
    for i in np.ndindex(z.shape):
        boundary_by_alpha = _find_boundaries(fraction, float(persistent[i]), kind)
        if z[i] > boundary_by_alpha[-1]:
            # Boundaries fall with alpha; interpolation needs rising values.
            lowest_alpha[i] = np.exp(np.interp(-z[i], -boundary_by_alpha, np.log(ALPHAS)))
    return np.where(np.isnan(p_value), np.nan, lowest_alpha)


def boundary_z(level: float, fraction: float, persistent: float, kind: Spending = "linear") -> float:
    """Return the boundary on Z of a look at this fraction of the duration, for a one-sided `level` over all looks.

    `persistent` is the share of the variance at this look that time does not shrink; `kind` is how alpha is spent.

    >>> round(boundary_z(0.05, 1.0, 0.0), 2), round(boundary_z(0.05, 1.0, 0.0, "obrien_fleming"), 2)
    (2.14, 1.89)
    """
    return float(np.interp(np.log(level), np.log(ALPHAS), _find_boundaries(fraction, persistent, kind)))


def _find_boundaries(fraction: float, persistent: float, kind: Spending) -> FloatArray:
    """Return the boundary on Z of a look for each of `ALPHAS`, from the table, shape (alphas,).

    Args:
        fraction: Share of the planned duration at the look; it is rounded down to a look of the table.
        persistent: Share of the variance at the look that time does not shrink. The table needs the share of the final
            variance, and is interpolated between its shares.
        kind: How alpha is spent.
    """
    # Index in the table, which has a look at each 1 / GRID of the duration. 1e-9: exactly at a look is that look.
    look = min(max(int(np.floor(fraction * GRID + 1e-9)), 1), GRID) - 1
    # Until the end, the other part of the variance shrinks to this fraction, so the persistent share grows.
    share_at_end = persistent / max(persistent + (1 - persistent) * fraction, 1e-12)
    share_at_end = min(share_at_end, float(PERSISTENT_SHARES[-1]))
    table = _load_table()[kind][:, :, look]
    # The shares of the table around it; the last has no upper neighbour.
    lower = int(np.searchsorted(PERSISTENT_SHARES, share_at_end, side="right")) - 1
    upper = min(lower + 1, PERSISTENT_SHARES.size - 1)
    distance = max(PERSISTENT_SHARES[upper] - PERSISTENT_SHARES[lower], 1e-12)
    weight_of_upper = (share_at_end - PERSISTENT_SHARES[lower]) / distance
    return np.asarray((1 - weight_of_upper) * table[lower] + weight_of_upper * table[upper])


def anytime_critical(alpha: FloatArray | float, elapsed_s: float, tune_at_s: float) -> FloatArray:
    """Return the half-width of a one-sided confidence sequence in standard errors (Waudby-Smith et al. 2024).

    The interval of this half-width is valid at all times of a run together, so a run may be looked at at any time.

    Args:
        alpha: One-sided level, below one half.
        elapsed_s: Seconds of data (or another measure of information).
        tune_at_s: Where the sequence is narrowest, in the same unit.
    """
    alpha = np.asarray(alpha, dtype=float)
    log_alpha = -2 * np.log(2 * alpha)
    # u = t·ρ², with the ρ for which the sequence is narrowest at `tune_at_s` (formulas and names of Appendix B).
    u = (log_alpha + np.log(log_alpha + 1)) * elapsed_s / tune_at_s
    return np.asarray(np.sqrt(2 * (u + 1) / u * np.log1p(np.sqrt(u + 1) / (2 * alpha))))


def anytime_z(level: FloatArray | float, elapsed_s: float, tune_at_s: float, persistent: float) -> FloatArray:
    """Return the boundary on Z of a confidence sequence if time does not shrink all of the variance.

    The part of the variance that time shrinks gets the sequence's boundary, the share `persistent`, which it does not
    shrink, the normal quantile; the two half-widths add in quadrature.

    Args:
        level: One-sided level, below one half.
        elapsed_s: Seconds of data (or another measure of information).
        tune_at_s: Where the sequence is narrowest, in the same unit.
        persistent: Share of the variance that time does not shrink.
    """
    from scipy.special import ndtri

    sequence_z = anytime_critical(level, elapsed_s, tune_at_s)
    normal_z = ndtri(1 - np.asarray(level))
    return np.asarray(np.sqrt(sequence_z**2 * (1 - persistent) + normal_z**2 * persistent))


def anytime_p(p_value: FloatArray, persistent: FloatArray, elapsed_s: float, tune_at_s: float) -> FloatArray:
    """Return the lowest level at which a confidence sequence rejects the hypothesis of these p-values at this time.

    It is 1 if the sequence does not reject it at any level. Other times than this look may be looked at as well.

    Args:
        p_value: Ordinary p-values of this look; NaN stays NaN.
        persistent: Share of the variance that time does not shrink, same shape as `p_value`.
        elapsed_s: Seconds of data (or another measure of information).
        tune_at_s: Where the sequence is narrowest, in the same unit.
    """
    from scipy.special import ndtri

    z = np.minimum(-ndtri(np.clip(p_value, 1e-300, 1.0)), NEVER)
    levels = ALPHAS[ALPHAS < HALF]
    lowest_level = np.ones(z.shape)
    for i in np.ndindex(z.shape):
        boundary_by_level = anytime_z(levels, elapsed_s, tune_at_s, float(persistent[i]))
        if z[i] > boundary_by_level[-1]:
            # Boundaries fall with the level; interpolation needs rising values.
            lowest_level[i] = np.exp(np.interp(-z[i], -boundary_by_level, np.log(levels)))
    return np.where(np.isnan(p_value), np.nan, lowest_level)
