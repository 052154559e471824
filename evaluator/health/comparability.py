"""Did both arms get the same load and endpoints, and are replicates runs of the same test?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from evaluator.health.base import RequestContext, fail, ok, warn
from evaluator.records import Finding
from evaluator.stats.shaping.silence import find_absent
from evaluator.wording import format_count, format_number

NAME = "comparability"
MOST_FAILURES = 0.95
MAX_LOAD_DIFFERENCE = 0.05
MAX_MIX_DIFFERENCE = 0.02
MIX_NOISE = 3.0
SAME_IN_ALL_RUNS = ("locustfile", "users", "spawn_rate", "arguments", "targets", "host", "cores")
"""Keys of a load's fingerprint that must be equal."""


def check_comparability(context: RequestContext) -> Iterable[Finding]:
    """Users per arm over time, endpoint mix, fingerprints of replicates."""
    findings = [finding for look in _LOOKS for finding in look(context)]
    if not findings and context.panels:
        findings = [ok(NAME, "same load and endpoint mix on every arm")]
    yield from findings


def _check_distinct(context: RequestContext) -> Iterable[Finding]:
    """Detects one file given for both arms: different requests never agree to the microsecond."""
    for arm, panel in context.panels.items():
        alike = all(
            np.array_equal(values[0].sum(axis=1), values[1].sum(axis=1))
            for values in (panel.n, panel.failures, panel.totals["time_ms"])
        )
        if alike and not all(panel.constant):
            text = f"{arm} and baseline have identical requests: the same data were given for both"
            yield fail(NAME, text, f"import the requests of baseline and of {arm} again, each from its own files")


def _check_answers(context: RequestContext) -> Iterable[Finding]:
    """Arms on which nearly all requests fail cannot be compared: no request may have reached the release."""
    for arm, panel in context.panels.items():
        shares = [float(panel.failures[a].sum() / max(panel.n[a].sum(), 1)) for a in (0, 1)]
        if min(shares) > MOST_FAILURES:
            percents = " and ".join(f"{format_number(share * 100)} %" for share in shares)
            text = f"{percents} of the requests of baseline and {arm} failed, so there is too little to compare"
            remedy = "check what both arms share: the address, a login, the column that marks failures"
            yield fail(NAME, text, remedy)


def _check_load(context: RequestContext) -> Iterable[Finding]:
    """Equal numbers of running users, in proportion to the configured shares."""
    loads = context.cells.loads
    shares = context.rulebook.sample_ratio
    for code, arm in enumerate(context.cells.arms[1:], start=1):
        means = [
            float(loads.users[loads.arm == a].mean()) / shares.get(context.cells.arms[a], 1.0)
            for a in (0, code)
            if (loads.arm == a).any()
        ]
        if len(means) < 2 or max(means) == 0:
            continue
        difference = abs(means[1] / max(means[0], 1e-9) - 1)
        if difference > MAX_LOAD_DIFFERENCE:
            yield fail(NAME, f"{arm} had {means[1]:.3g} users running on average, baseline {means[0]:.3g}")


def _check_missing(context: RequestContext) -> Iterable[Finding]:
    """An endpoint with many requests on baseline and none on the candidate cannot be judged, so there is no GO."""
    for arm, panel in context.panels.items():
        totals = panel.n.sum(axis=2)
        unasked = np.flatnonzero(totals[1] == 0)
        share = float(totals[1].sum() / max(totals[0].sum(), 1))
        missing = unasked[find_absent(panel.n[0][unasked], share)]
        if missing.size:
            first = missing[np.argmax(totals[0][missing])]
            further = f" (and {missing.size - 1} more)" if missing.size > 1 else ""
            text = f"{panel.endpoints[first]}{further} has {format_count(int(totals[0][first]))} requests on baseline"
            remedy = "send both arms the same requests; give a renamed endpoint one name on both arms"
            yield fail(NAME, f"{text} and none on {arm}", remedy)


def _check_mix(context: RequestContext) -> Iterable[Finding]:
    """A different endpoint mix is weighed out of the comparison, so it is only a warning."""
    for arm, panel in context.panels.items():
        totals = panel.n.sum(axis=2)
        counts = totals.sum(axis=1, keepdims=True)
        shares = totals / np.maximum(counts, 1)
        difference = np.abs(shares[1] - shares[0])
        noise = MIX_NOISE * np.sqrt((shares * (1 - shares) / np.maximum(counts, 1)).sum(axis=0))
        difference[totals[1] == 0] = 0.0  # `_check_missing` names these
        worst = int(np.argmax(difference - noise))
        if difference[worst] > max(MAX_MIX_DIFFERENCE, noise[worst]):
            arm_share, baseline_share = (f"{share * 100:.1f} %" for share in shares[::-1, worst])
            yield warn(
                NAME,
                f"{panel.endpoints[worst]} is {arm_share} of {arm}'s requests and {baseline_share} of baseline's; "
                "the comparison gives each endpoint the same weight on both arms",
            )


def _check_fingerprints(context: RequestContext) -> Iterable[Finding]:
    """Replicates of one group must be the same test."""
    for key in SAME_IN_ALL_RUNS:
        values = {repr(run.fingerprint[key]) for run in context.runs if key in run.fingerprint}
        if len(values) > 1:
            yield fail(NAME, f"the runs judged together differ in {key}")


_LOOKS = (_check_distinct, _check_answers, _check_load, _check_missing, _check_mix, _check_fingerprints)
