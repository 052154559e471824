"""Was the same thing asked of both arms: load, endpoints, and (over replicates) the same test?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from evaluator.health.base import Scene, ok, warn
from evaluator.records import Finding, Level

__all__ = ["check_comparability"]

NAME = "comparability"
MAX_LOAD_DIFFERENCE = 0.05
MAX_MIX_DIFFERENCE = 0.02
MIX_NOISE = 3.0
SAME_IN_ALL_RUNS = ("locustfile_sha256", "users", "pace", "targets", "host", "cores")


def check_comparability(scene: Scene) -> Iterable[Finding]:
    """Users per arm over time, endpoint mix, fingerprints of replicates."""
    found = [*_check_distinct(scene), *_check_load(scene), *_check_mix(scene), *_check_fingerprints(scene)]
    yield from found or [ok(NAME, "same load and endpoint mix on every arm")]


def _check_distinct(scene: Scene) -> Iterable[Finding]:
    """The same file given for both arms is no comparison: different requests never agree to the microsecond."""
    for arm, panel in scene.panels.items():
        alike = all(
            np.array_equal(values[0].sum(axis=1), values[1].sum(axis=1))
            for values in (panel.n, panel.failures, panel.sum_ms)
        )
        if alike and not all(panel.constant):
            yield Finding(NAME, Level.FAIL, f"{arm} and baseline hold the very same requests: one was given twice")


def _check_load(scene: Scene) -> Iterable[Finding]:
    """Equal numbers of running users, in proportion to the configured shares."""
    loads = scene.cells.loads
    shares = scene.rulebook.sample_ratio
    for code, arm in enumerate(scene.cells.arms[1:], start=1):
        means = [
            float(loads.users[loads.arm == a].mean()) / shares.get(scene.cells.arms[a], 1.0)
            for a in (0, code)
            if (loads.arm == a).any()
        ]
        if len(means) < 2 or max(means) == 0:
            continue
        difference = abs(means[1] / max(means[0], 1e-9) - 1)
        if difference > MAX_LOAD_DIFFERENCE:
            yield Finding(
                NAME, Level.FAIL, f"{arm} had {means[1]:.3g} users running on average, baseline {means[0]:.3g}"
            )


def _check_mix(scene: Scene) -> Iterable[Finding]:
    """Another endpoint mix is weighed out of the comparison, but worth knowing."""
    for arm, panel in scene.panels.items():
        totals = panel.n.sum(axis=2)
        counts = totals.sum(axis=1, keepdims=True)
        shares = totals / np.maximum(counts, 1)
        difference = np.abs(shares[1] - shares[0])
        noise = MIX_NOISE * np.sqrt((shares * (1 - shares) / np.maximum(counts, 1)).sum(axis=0))
        worst = int(np.argmax(difference - noise))
        if difference[worst] > max(MAX_MIX_DIFFERENCE, noise[worst]):
            own, other = (f"{share * 100:.1f} %" for share in shares[::-1, worst])
            yield warn(
                NAME,
                f"{panel.endpoints[worst]} is {own} of {arm}'s requests and {other} of baseline's; "
                "the comparison weighs endpoints alike",
            )


def _check_fingerprints(scene: Scene) -> Iterable[Finding]:
    """Replicates of one group must be the same test."""
    for key in SAME_IN_ALL_RUNS:
        values = {repr(run.fingerprint[key]) for run in scene.runs if key in run.fingerprint}
        if len(values) > 1:
            yield Finding(NAME, Level.FAIL, f"the runs judged together differ in {key}")
