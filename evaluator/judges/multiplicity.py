"""Several questions, one false-alarm rate."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["holm"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: reject where the adjusted value is below alpha, family-wise.

    Source: Holm (1979), Scandinavian Journal of Statistics 6, 65-70. A p-value that is not a number counts as 1.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    clean = [p if p == p else 1.0 for p in p_values]  # noqa: PLR0124 the test for not-a-number
    order = sorted(range(len(clean)), key=clean.__getitem__)
    out = [1.0] * len(clean)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(clean) - rank) * clean[i]))
        out[i] = highest
    return out
