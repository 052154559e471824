"""Number sparse codes: find which of many possible keys are in use, and give each a position."""

from __future__ import annotations

import numpy as np

from evaluator.records.arrays import BoolArray, IntArray

LARGEST_TABLE = 20_000_000
"""Up to this number of possible keys, a table of all of them is quicker than sorting."""
MOST_CODES = 2.0**62
"""Up to this number of combinations, each combination of codes fits in one integer."""
BEFORE_ALL, AFTER_ALL = -(2**62), 2**62
"""Numbers of a bucket or block before all data, and after all data."""


def distinct(codes: IntArray) -> IntArray:
    """Return the distinct values of small codes, in order: as `numpy.unique`, without sorting or hashing.

    >>> distinct(np.array([4, 1, 4])).tolist()
    [1, 4]
    """
    return np.asarray(np.flatnonzero(np.bincount(codes)))


def rows_of_each(codes: IntArray) -> list[tuple[int, BoolArray | slice]]:
    """Return each distinct code with a mask that selects its rows.

    If there is only one code, a slice of all rows takes the place of the mask: a slice copies no data.

    >>> [(code, mask.tolist()) for code, mask in rows_of_each(np.array([2, 5, 2]))]
    [(2, [True, False, True]), (5, [False, True, False])]
    >>> rows_of_each(np.array([2, 2]))
    [(2, slice(None, None, None))]
    """
    distinct_codes = distinct(codes).tolist()
    if len(distinct_codes) == 1:
        return [(distinct_codes[0], slice(None))]
    return [(code, codes == code) for code in distinct_codes]


def group_rows(columns: IntArray) -> tuple[IntArray, IntArray]:
    """Sort rows by their keys; rows of equal keys keep their order.

    `columns` has the shape (columns of the key, rows); the first column is the most significant.

    Returns:
        Indices of the rows in sorted order, shape (rows,), and the positions in this order at which a new key begins,
        shape (distinct keys,).

    >>> group_rows(np.array([[1, 0, 1, 0], [5, 7, 5, 6]]))
    (array([3, 1, 0, 2]), array([0, 1, 2]))
    """
    if not columns.shape[1]:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    least = columns.min(axis=1)
    ranges = columns.max(axis=1) - least + 1
    if float(np.prod(ranges.astype(np.float64))) < MOST_CODES:
        # The columns are combined into one integer for each row: sorting one column is faster.
        combined = np.zeros(columns.shape[1], dtype=np.int64)
        for column, column_least, column_range in zip(columns, least, ranges, strict=True):
            combined *= column_range
            combined += column - column_least
        order = np.argsort(combined, kind="stable")
        changes = np.diff(combined[order]) != 0
    else:
        order = np.lexsort(columns[::-1])  # the last column of `lexsort` is the most significant
        changes = (np.diff(columns[:, order], axis=1) != 0).any(axis=0)
    return order, np.flatnonzero(np.append(True, changes))


def number_groups(order: IntArray, starts: IntArray) -> IntArray:
    """Return the number of the group (0, 1, …) of each row, from the order and the starts that `group_rows` returns."""
    group = np.empty_like(order)
    sizes = np.diff(np.append(starts, order.size))
    group[order] = np.repeat(np.arange(starts.size), sizes)
    return group


class Index:
    """The distinct keys among `codes` (all in 0 … possible - 1), in order, and the position of each.

    >>> import numpy as np
    >>> index = Index(np.array([7, 3, 7]), 10)
    >>> index.keys.tolist(), index.find(np.array([3, 4, 7, -1])).tolist()
    ([3, 7], [0, -1, 1, -1])
    """

    def __init__(self, codes: IntArray, possible: int) -> None:
        """Find the distinct keys among `codes`, which are all in 0 … `possible` - 1."""
        self.codes, self.possible = codes, possible
        # Position of each possible key, -1 if it is not in use; `None` if such a table would be too large.
        self._table: IntArray | None = None
        if possible <= LARGEST_TABLE:
            used = np.zeros(possible, dtype=bool)
            used[codes] = True
            self.keys: IntArray = np.flatnonzero(used)
            # One element more, so that -1 finds nothing.
            self._table = np.full(possible + 1, -1)
            self._table[self.keys] = np.arange(self.keys.size)
        else:
            self.keys = np.unique(codes)

    @property
    def size(self) -> int:
        """Number of distinct keys."""
        return int(self.keys.size)

    def find(self, keys: IntArray) -> IntArray:
        """Return the position of each of these keys; -1 for a key that is not in use, or is itself -1."""
        if self._table is not None:
            return np.take(self._table, keys)
        position = np.minimum(np.searchsorted(self.keys, keys), self.keys.size - 1)
        return np.where(self.keys[position] == keys, position, -1)
