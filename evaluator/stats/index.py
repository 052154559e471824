"""Numbering of sparse codes: which of many possible keys are in use, and at which place."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Index", "distinct", "rows_of_each"]

IntArray = npt.NDArray[np.int64]

LARGEST_TABLE = 20_000_000
"""Possible keys up to which a table of all of them is quicker than sorting."""


def distinct(codes: IntArray) -> IntArray:
    """The distinct values of small codes, in order: `numpy.unique` without its sorting or hashing.

    >>> distinct(np.array([4, 1, 4])).tolist()
    [1, 4]
    """
    return np.asarray(np.flatnonzero(np.bincount(codes)))


def rows_of_each(codes: IntArray) -> list[tuple[int, npt.NDArray[np.bool_] | slice]]:
    """Each distinct code and its rows: all of them, which copies nothing, where there is no other.

    >>> rows_of_each(np.array([2, 2]))
    [(2, slice(None, None, None))]
    """
    found = distinct(codes).tolist()
    return [(found[0], slice(None))] if len(found) == 1 else [(code, codes == code) for code in found]


class Index:
    """The distinct keys among `given` (all in 0 … possible - 1), in order, and the place of each.

    >>> import numpy as np
    >>> index = Index(np.array([7, 3, 7]), 10)
    >>> index.keys.tolist(), index.find(np.array([3, 4, 7, -1])).tolist()
    ([3, 7], [0, -1, 1, -1])
    """

    def __init__(self, given: IntArray, possible: int) -> None:
        self.given, self.possible = given, possible
        self._table: IntArray | None = None
        if possible <= LARGEST_TABLE:
            used = np.zeros(possible, dtype=bool)
            used[given] = True
            self.keys: IntArray = np.flatnonzero(used)
            # One place more, so that -1 (nowhere) finds nothing.
            self._table = np.full(possible + 1, -1)
            self._table[self.keys] = np.arange(self.keys.size)
        else:
            self.keys = np.unique(given)

    @property
    def size(self) -> int:
        """How many distinct keys there are."""
        return int(self.keys.size)

    def find(self, wanted: IntArray) -> IntArray:
        """Place of each wanted key, -1 where it is not in use or is itself -1."""
        if self._table is not None:
            return np.take(self._table, wanted)
        at = np.minimum(np.searchsorted(self.keys, wanted), self.keys.size - 1)
        return np.where(self.keys[at] == wanted, at, -1)
