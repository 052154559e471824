"""Correlations of errors of outcomes: several metrics of the same units, several candidates with one baseline.

Each level is, to first order, a sum over units. Two metrics of one user are correlated, and two candidates share the
users of the baseline. The covariance of two errors is the sum, over units, of the products of their contributions. If
only sums were read, their cross products give the same result as the units (method B.5, outcomes).

Sources: Dunnett (1955), JASA 50, 1096-1121 (the shared baseline); Hothorn, Bretz & Westfall (2008), Biometrical
Journal 50, 346-363 (any contrasts, by their covariance).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluator.records import UnitMoments
from evaluator.records.arrays import BoolArray, FloatArray, IntArray

NOTHING_LEFT = 1e-9
"""If less than this part of an error's variance remains, it is a combination of the errors before it."""


@dataclass(frozen=True, slots=True)
class Errors:
    """The error of one comparison as a sum; positive is harm. Either `weights` or `influence` is set."""

    weights: FloatArray | None = None
    """The error is Σ weights · (means of the variables), shape (arms, variables)."""
    influence: Mapping[int, FloatArray] = field(default_factory=dict)
    """Arm → contribution of each of its units to the error, shape (units,); other arms contribute nothing."""


def from_weights(weights: FloatArray, values: Sequence[FloatArray], complete: Sequence[BoolArray]) -> Errors:
    """Compute the errors by units from weights on the means of the units that were kept.

    Args:
        weights: Shape (arms, variables).
        values: For each arm, the variables of the units that were kept, shape (units kept, variables).
        complete: For each arm, which of all its units were kept, shape (units,).
    """
    influence = {}
    for arm, row in enumerate(weights):
        if row.any() and values[arm].shape[0]:
            own = np.zeros(complete[arm].size)
            own[complete[arm]] = (values[arm] - values[arm].mean(axis=0)) @ row / values[arm].shape[0]
            influence[arm] = own
    return Errors(influence=influence)


def trace_share(
    values: FloatArray, point: float, *, strict: bool, unit: IntArray | None = None, units: int = 0
) -> FloatArray:
    """Return the influence of each unit on the share of values at or below `point`, shape (units,).

    Args:
        values: Values, shape (values,); NaN is no value.
        point: The threshold.
        strict: Whether values equal to `point` do not count.
        unit: Unit of each value, 0 … `units` - 1; `None`: one value for each unit.
        units: Number of units, if `unit` is given.
    """
    is_value = ~np.isnan(values)
    below = (values < point) if strict else (values <= point)
    count = max(int(is_value.sum()), 1)
    influence = np.where(is_value, below - below[is_value].sum() / count, 0.0) / count
    return np.asarray(influence if unit is None else np.bincount(unit, weights=influence, minlength=units), float)


def find_loadings(
    errors: Sequence[Errors | None],
    moments: Sequence[UnitMoments],
    values: Mapping[int, tuple[FloatArray, ...]] | None = None,
) -> list[tuple[float, ...]]:
    """Compute a row of loadings for each comparison; the dot product of two rows is the correlation of their errors.

    Args:
        errors: Errors of each comparison, `None` if it has none; its row is then empty.
        moments: Moments of all variables, for each arm.
        values: Variable → for each arm, its value of each unit, if they were read. They are needed for correlations
            between errors by weights and errors by units; without them these count as 0.
    """
    positions = [i for i, error in enumerate(errors) if error is not None]
    out: list[tuple[float, ...]] = [() for _ in errors]
    covariance = _covariance([error for error in errors if error is not None], moments, values or {})
    for i, row in zip(positions, _factor(covariance), strict=True):
        out[i] = tuple(row.tolist())
    return out


def _covariance(
    errors: Sequence[Errors], moments: Sequence[UnitMoments], values: Mapping[int, tuple[FloatArray, ...]]
) -> FloatArray:
    """Covariance of all errors; 0 between an error by weights and one by units if the values were not read."""
    total = np.zeros((len(errors), len(errors)))
    by_sums = [i for i, error in enumerate(errors) if error.weights is not None]
    by_units = [i for i, error in enumerate(errors) if error.weights is None]
    for arm, part in enumerate(moments):
        if part.n < 2:
            continue
        weights = [error.weights[arm] for error in errors if error.weights is not None]
        if weights:
            rows = np.stack(weights)
            total[np.ix_(by_sums, by_sums)] += rows @ part.products @ rows.T / (part.n * (part.n - 1))
        traced = {i: errors[i].influence[arm] for i in by_units if arm in errors[i].influence}
        scale = part.n / (part.n - 1)
        for i, influence in traced.items():
            for j, second in traced.items():
                total[i, j] += scale * float(influence @ second)
            for j, row in zip(by_sums, weights, strict=True):
                # Σ over units of influence × the unit's contribution to Σ weights · mean. The sum of influences is 0,
                # so means cancel.
                used = np.flatnonzero(row).tolist()
                if not all(k in values for k in used):
                    continue
                shared = scale * float(sum(row[k] * float(influence @ values[k][arm]) for k in used)) / part.n
                total[i, j] += shared
                total[j, i] += shared
    return total


def _factor(covariance: FloatArray) -> FloatArray:
    """Lower triangular rows of unit length whose dot products are the correlations (Cholesky, also if singular).

    An error with variance 0 gets a row of zeros.
    """
    sd = np.sqrt(np.diag(covariance))
    unit = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 0)
    correlation = covariance * np.outer(unit, unit)
    rows: FloatArray = np.zeros((sd.size, sd.size))
    for j in range(sd.size):
        residual = correlation[j, j] - float(rows[j, :j] @ rows[j, :j])
        if residual > NOTHING_LEFT:
            rows[j, j] = np.sqrt(residual)
            rows[j + 1 :, j] = (correlation[j + 1 :, j] - rows[j + 1 :, :j] @ rows[j, :j]) / rows[j, j]
    return rows
