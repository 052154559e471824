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


def split_by_units(weights: FloatArray, values: Sequence[FloatArray], complete: Sequence[BoolArray]) -> Errors:
    """Split the error of a comparison into contributions of units, from its weights on the means of the variables.

    The error is the sum of the contributions. Only some units were compared (those with all values): the means are
    theirs, and the other units contribute 0.

    Args:
        weights: Derivative of the error by each mean, shape (arms, variables).
        values: For each arm, the variables of the units that were compared, shape (units compared, variables).
        complete: For each arm, which of all its units were compared, shape (units,).
    """
    influence = {}
    for arm, arm_weights in enumerate(weights):
        units_compared = values[arm].shape[0]
        if arm_weights.any() and units_compared:
            contributions = np.zeros(complete[arm].size)
            contributions[complete[arm]] = (values[arm] - values[arm].mean(axis=0)) @ arm_weights / units_compared
            influence[arm] = contributions
    return Errors(influence=influence)


def trace_share(
    values: FloatArray, point: float, *, strict: bool, unit: IntArray | None = None, units: int = 0
) -> FloatArray:
    """Return the influence of each unit on the share of values at or below `point`, shape (units,); its sum is 0.

    The influence is how much the unit moves the share from what it is over all units.

    Args:
        values: Values, shape (values,); NaN is no value.
        point: The threshold.
        strict: Whether only values below `point` count, not those equal to it.
        unit: Unit of each value, 0 … `units` - 1; `None`: one value for each unit.
        units: Number of units, if `unit` is given.
    """
    is_value = ~np.isnan(values)
    is_below = (values < point) if strict else (values <= point)
    count = max(int(is_value.sum()), 1)
    share_below = is_below[is_value].sum() / count
    influence = np.where(is_value, is_below - share_below, 0.0) / count
    return np.asarray(influence if unit is None else np.bincount(unit, weights=influence, minlength=units), float)


def find_loadings(
    errors: Sequence[Errors | None],
    moments: Sequence[UnitMoments],
    values: Mapping[int, tuple[FloatArray, ...]] | None = None,
) -> list[tuple[float, ...]]:
    """Compute a row of loadings for each comparison; the dot product of two rows is the correlation of their errors.

    Comparisons that are tested together need these correlations: metrics share their units, candidates the baseline.

    Args:
        errors: Error of each comparison, given by its weights on the means of the variables or by the contributions of
            the units; `None` if it is unknown, then the row is empty.
        moments: Moments of all variables, for each arm.
        values: Index of a variable → for each arm, the value of each unit (units,), if it was read. Only with them is
            the correlation known between an error by weights and an error by units; else it counts as 0.
    """
    known_errors = {i: error for i, error in enumerate(errors) if error is not None}
    loadings: list[tuple[float, ...]] = [() for _ in errors]
    covariance = _find_covariance(list(known_errors.values()), moments, values or {})
    for i, row in zip(known_errors, _factor_correlations(covariance), strict=True):
        loadings[i] = tuple(row.tolist())
    return loadings


def _find_covariance(
    errors: Sequence[Errors], moments: Sequence[UnitMoments], values: Mapping[int, tuple[FloatArray, ...]]
) -> FloatArray:
    """Return the covariance of all errors, shape (errors, errors): the sum over arms, which are independent.

    Errors are given by weights on means, or by contributions of units. Between an error by weights and an error by
    units, it needs the values of the units: it is 0 if a variable is missing in `values`.
    """
    covariance = np.zeros((len(errors), len(errors)))
    by_weights = [i for i, error in enumerate(errors) if error.weights is not None]
    by_units = [i for i, error in enumerate(errors) if error.weights is None]
    for arm, arm_moments in enumerate(moments):
        n = arm_moments.n
        if n < 2:
            continue
        # Between two errors by weights: from the covariance of the means.
        all_weights = [error.weights[arm] for error in errors if error.weights is not None]
        if all_weights:
            stacked = np.stack(all_weights)
            covariance[np.ix_(by_weights, by_weights)] += stacked @ arm_moments.products @ stacked.T / (n * (n - 1))
        influences = {i: errors[i].influence[arm] for i in by_units if arm in errors[i].influence}
        # As in the variance of a sample, products are divided by n - 1, not by n.
        correction = n / (n - 1)
        for i, influence in influences.items():
            # Between two errors by units.
            for j, other_influence in influences.items():
                covariance[i, j] += correction * float(influence @ other_influence)
            # Between an error by units and one by weights.
            for j, weights in zip(by_weights, all_weights, strict=True):
                variables = np.flatnonzero(weights).tolist()
                if not all(k in values for k in variables):
                    continue
                # Σ over units of influence × the unit's contribution to Σ weights · mean. The sum of influences is 0,
                # so means cancel.
                products = sum(weights[k] * float(influence @ values[k][arm]) for k in variables)
                mixed = correction * float(products) / n
                covariance[i, j] += mixed
                covariance[j, i] += mixed
    return covariance


def _factor_correlations(covariance: FloatArray) -> FloatArray:
    """Return rows of unit length whose dot products are the correlations of the errors (Cholesky factor).

    `covariance` and the result, a lower triangle, have the shape (errors, errors). It may be singular: one error may be
    a combination of others. An error with variance 0 gets a row of zeros.
    """
    sd = np.sqrt(np.diag(covariance))
    inverse_sd = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 0)
    correlation = covariance * np.outer(inverse_sd, inverse_sd)
    rows: FloatArray = np.zeros((sd.size, sd.size))
    for j in range(sd.size):
        # What the errors before do not explain. If nothing is left, column j stays 0.
        residual = correlation[j, j] - float(rows[j, :j] @ rows[j, :j])
        if residual > NOTHING_LEFT:
            rows[j, j] = np.sqrt(residual)
            rows[j + 1 :, j] = (correlation[j + 1 :, j] - rows[j + 1 :, :j] @ rows[j, :j]) / rows[j, j]
    return rows
