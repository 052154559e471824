"""Groups of endpoints for comparisons: each endpoint by itself, some together, or all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluator.records.arrays import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Which endpoints are compared together. No endpoint is in two groups, and no group is empty."""

    of: IntArray
    """Group of each endpoint, shape (endpoints,); -1: in no group."""
    count: int
    """Number of groups."""
    order: IntArray
    """Indices of the endpoints that are in a group, group by group."""
    starts: IntArray
    """Index in `order` where each group begins, shape (groups,)."""

    def sum(self, values: FloatArray) -> FloatArray:
        """Sum `values` (..., endpoints, n) over the endpoints of each group: (..., groups, n)."""
        if self.count == 1 and self.order.size == self.of.size:
            # The only group has all endpoints: a product of matrices is the fastest sum.
            return np.asarray(np.ones((1, self.of.size)) @ values)
        if not self.count:
            return np.zeros((*values.shape[:-2], 0, values.shape[-1]))
        return np.add.reduceat(np.take(values, self.order, axis=-2), self.starts, axis=-2)

    def sum_totals(self, values: FloatArray) -> FloatArray:
        """Sum `values` (..., endpoints) over the endpoints of each group: (..., groups)."""
        return self.sum(values[..., None])[..., 0]

    def pick(self, chosen: BoolArray) -> Groups:
        """Keep the groups where `chosen` (groups,) is true, and number them from 0 in the same order.

        Endpoints of the other groups are then in no group (-1).
        """
        new_number = np.where(chosen, np.cumsum(chosen) - 1, -1)
        # The last element is for endpoints without a group: their -1 is the index of the last element.
        new_number = np.append(new_number, -1)
        return group_by(new_number[self.of])


def group_by(of: IntArray) -> Groups:
    """Build groups from the group of each endpoint, shape (endpoints,): numbers from 0 without a gap; -1: no group.

    >>> groups = group_by(np.array([1, 0, -1, 1]))
    >>> groups.sum_totals(np.array([1.0, 10.0, 100.0, 1000.0])).tolist()
    [10.0, 1001.0]
    """
    by_group = np.argsort(of, kind="stable")  # endpoints without a group (-1) come first
    without_group = np.searchsorted(of[by_group], 0)
    order = by_group[without_group:]
    starts = np.flatnonzero(np.diff(of[order], prepend=-1))
    return Groups(of, int(starts.size), order, starts)


def all_together(endpoints: int) -> Groups:
    """Put all endpoints into one group."""
    return group_by(np.zeros(endpoints, dtype=np.int64))
