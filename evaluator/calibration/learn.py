"""How much instances of one version differ, learnt from stored runs.

Two places show it: the instances of one arm of a run, and the replicates of a group with one instance a side (their
comparisons differ by the instances that they drew). Both are freed of what time alone explains. Squares are pooled by
their degrees of freedom (method B.3): s² = Σ ν s² / Σ ν.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluator.calibration.splits import only_runs
from evaluator.records import Cells, Learnt
from evaluator.stats.instances import InstanceFrame
from evaluator.stats.longrun import MIN_BUCKETS, time_variance
from evaluator.stats.panel import Panel, build_panel
from evaluator.stats.strata import build_strata, levels

__all__ = ["learn_instances"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Squares:
    """One comparison: squared deviations of latency (log) and failures (rate), and their degrees of freedom."""

    latency: float
    failures: float
    df: float


@dataclass(frozen=True, slots=True)
class _Shift:
    """Candidate against baseline in one run, and how sure time lets us be of it."""

    value: float
    variance: float


def learn_instances(stored: Sequence[Cells]) -> Learnt:
    """Learn from the cells of run groups. Arms with one instance teach nothing, but replicates of such runs do."""
    squares: list[_Squares] = []
    runs = 0
    for cells in stored:
        panels = [panel for panel in _panels(cells) if panel.slots >= MIN_BUCKETS]
        found = [item for panel in panels for item in _from_instances(panel)] or list(_from_replicates(panels))
        squares += found
        runs += len(panels) if found else 0
    return Learnt(
        sd_latency=_pool(squares, "latency"),
        sd_failures=_pool(squares, "failures"),
        comparisons=len(squares),
        runs=runs,
        df=sum(item.df for item in squares),
    )


def _pool(squares: Sequence[_Squares], name: str) -> float | None:
    known = [(getattr(item, name), item.df) for item in squares if math.isfinite(getattr(item, name))]
    total = sum(df for _, df in known)
    if not total:
        return None
    # Parts below 0 are what remains after time was taken out; only their sum is cut.
    return math.sqrt(max(sum(value * df for value, df in known) / total, 0.0))


def _panels(cells: Cells) -> Iterator[Panel]:
    """One panel for each run that has both arms."""
    for code in np.unique(cells.moments.run):
        alone = only_runs(cells, int(code))
        panel = build_panel(alone, cells.arms[1]) if len(cells.arms) > 1 else None
        if panel is not None:
            yield panel


def _from_instances(panel: Panel) -> Iterator[_Squares]:
    rows = panel.rows
    ok, everything = build_strata(panel, panel.ok), build_strata(panel, panel.n)
    means = [float(levels(ok, arm, panel.sum_ms[arm]).level[0]) for arm in (0, 1)]
    rates = [float(levels(everything, arm, panel.failures[arm]).level[0]) for arm in (0, 1)]
    if not all(np.isfinite([*means, *rates])) or min(means) <= 0:
        return
    slow = InstanceFrame(rows, rows.n - rows.failures, ok.groups).variance(
        rows.sum_ms, np.array([means[1] / means[0]]), relative=True
    )
    fail = InstanceFrame(rows, rows.n, everything.groups).variance(
        rows.failures, np.array([rates[1] - rates[0]]), relative=False
    )
    for arm in (0, 1):
        effective = float(slow.effective[arm, 0])
        if effective > 1 and np.isfinite(slow.variance[arm, 0]):
            own = [float((part.variance - part.within)[arm, 0]) * effective for part in (slow, fail)]
            yield _Squares(own[0], own[1], effective - 1)


def _from_replicates(panels: Sequence[Panel]) -> Iterator[_Squares]:
    if len(panels) < 2:
        return
    parts = [
        _spread([_log_shift(panel) for panel in panels]),
        _spread([_rate_shift(panel) for panel in panels]),
    ]
    yield _Squares(parts[0], parts[1], float(len(panels) - 1))


def _spread(shifts: Sequence[_Shift]) -> float:
    """Variance of one instance: each shift holds that of two."""
    values = np.array([shift.value for shift in shifts])
    return float(values.var(ddof=1) - np.mean([shift.variance for shift in shifts])) / 2


def _log_shift(panel: Panel) -> _Shift:
    strata = build_strata(panel, panel.ok)
    both = [levels(strata, arm, panel.sum_ms[arm]) for arm in (0, 1)]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log(both[1].level / both[0].level)
        influence = both[1].influence / both[1].level[:, None] - both[0].influence / both[0].level[:, None]
    return _Shift(float(value[0]), float(time_variance(influence).variance[0]))


def _rate_shift(panel: Panel) -> _Shift:
    strata = build_strata(panel, panel.n)
    both = [levels(strata, arm, panel.failures[arm]) for arm in (0, 1)]
    variance = time_variance(both[1].influence - both[0].influence).variance
    return _Shift(float((both[1].level - both[0].level)[0]), float(variance[0]))
