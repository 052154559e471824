"""How errors of outcomes hang together: several metrics of the same units, several candidates with one baseline.

Every level is, to first order, a sum over units. Two metrics of one user move together, and two candidates share the
users of the baseline: the covariance of two errors is the sum of products of what each unit adds to either. Where sums
are all that is read, their cross products say the same as the units.

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
"""Below this part of its variance an error is taken to be made of the errors before it."""


@dataclass(frozen=True, slots=True)
class Errors:
    """What the error of one comparison is made of; positive is harm. One of the two is given."""

    weights: FloatArray | None = None
    """The error is Σ weights · (means of the variables), shape (arms, variables)."""
    influence: Mapping[int, FloatArray] = field(default_factory=dict)
    """Arm → what each of its units adds to the error; an arm that is not named adds nothing."""


def from_weights(weights: FloatArray, values: Sequence[FloatArray], complete: Sequence[BoolArray]) -> Errors:
    """Errors by units, from weights (arms, variables) on the means of the units that were kept.

    `values`: those units' variables, (units kept, variables) an arm; `complete`: which of all units they are.
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
    """What each unit adds to the share of values at or below `point` (`strict`: below); NaN is no value.

    `unit`: the unit of each value, a place in 0…`units` - 1; `None`: one value a unit.
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
    """Give each comparison a row; the sum of products of two rows is the correlation of their errors.

    `moments`: all variables of each arm. `values`: variable → its value of every unit, by arm, where they were read:
    they tie errors that are known by sums to errors that are known by units. Nothing for a comparison without errors.
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
    """Covariance of all errors. Between one known by sums and one known by units: 0 unless its values were read."""
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
                # Σ over units of influence × what the unit adds to Σ weights · mean. Influences sum up to 0, so means
                # drop out.
                used = np.flatnonzero(row).tolist()
                if not all(k in values for k in used):
                    continue
                shared = scale * float(sum(row[k] * float(influence @ values[k][arm]) for k in used)) / part.n
                total[i, j] += shared
                total[j, i] += shared
    return total


def _factor(covariance: FloatArray) -> FloatArray:
    """Lower triangular rows of unit length whose products are the correlations (Cholesky, which may be singular).

    An error without any variance gets a row of zeros.
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
