"""Did the arms run at the same time? Only then does what hits both cancel."""

from __future__ import annotations

from collections.abc import Iterable

from evaluator.health.base import Scene, ok, warn
from evaluator.records import Finding, Level

__all__ = ["check_overlap"]

NAME = "overlap"
ENOUGH_REPLICATES = 3
MAX_DROPPED = 0.05


def check_overlap(scene: Scene) -> Iterable[Finding]:
    """Arms at different times forbid a GO, unless enough replicates show how much time itself matters."""
    for arm in scene.cells.arms[1:]:
        panel = scene.panels.get(arm)
        if panel is None:
            yield Finding(NAME, Level.FAIL, f"{arm} and baseline share no usable data")
            continue
        apart = [code for code, together in panel.paired.items() if not together]
        if not apart:
            yield from _dropped(scene, arm)
        elif len(panel.paired) >= ENOUGH_REPLICATES:
            yield warn(
                NAME, f"{arm} and baseline ran at different times; {len(panel.paired)} replicates show by how much"
            )
        else:
            yield Finding(
                NAME,
                Level.FAIL,
                f"{arm} and baseline ran at different times: what changed in between cannot be told from the release",
                remedy=f"run both arms at once: `evaluator load {scene.release} --baseline URL --canary URL`",
            )


def _dropped(scene: Scene, arm: str) -> Iterable[Finding]:
    """Requests that had no partner at the same time on the same endpoint."""
    panel = scene.panels[arm]
    code = scene.cells.arms.index(arm)
    moments = scene.cells.moments
    all_requests = [int(moments.n[moments.arm == a].sum()) for a in (0, code)]
    total = panel.block_sum(panel.n)
    lonely = (total[0] == 0) | (total[1] == 0)
    # Warm-up is cut on purpose: only what the panel holds is counted.
    lost = [float((panel.n[a] * lonely).sum()) / max(float(panel.n[a].sum()), 1.0) for a in (0, 1)]
    worst = max(lost)
    if worst > MAX_DROPPED:
        yield warn(NAME, f"{worst * 100:.1f} % of an arm's requests have no counterpart at the same time and endpoint")
    else:
        yield ok(NAME, f"{arm} and baseline ran together, {all_requests[0]:,} + {all_requests[1]:,} requests")
