"""How finely times were recorded."""

from __future__ import annotations

from collections.abc import Iterable

from evaluator.health.base import Scene, ok, warn
from evaluator.records import Finding

__all__ = ["check_resolution"]

NAME = "resolution"
COARSE_SHARE = 0.05


def check_resolution(scene: Scene) -> Iterable[Finding]:
    """Warns where one step of the recorded times is a notable share of the mean time."""
    step_ms = scene.cells.grid_us / 1000
    successes = scene.cells.moments.n.sum() - scene.cells.moments.failures.sum()
    if not successes:
        return
    mean_ms = float(scene.cells.moments.sum_us.sum()) / 1000 / int(successes)
    if step_ms > COARSE_SHARE * mean_ms:
        yield warn(
            NAME, f"times are recorded in steps of {step_ms:g} ms, {step_ms / max(mean_ms, 1e-9):.0%} of their mean"
        )
    else:
        yield ok(NAME, f"times are recorded in steps of {step_ms:g} ms")
