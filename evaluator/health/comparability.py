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
"""Failure rate of both arms above which there is too little to compare."""
MAX_LOAD_DIFFERENCE = 0.05
MAX_MIX_DIFFERENCE = 0.02
MIX_NOISE = 3.0
"""Standard errors by which an endpoint's shares on both arms may differ by chance."""
SAME_IN_ALL_RUNS = ("locustfile", "users", "spawn_rate", "arguments", "targets", "router", "host", "cores")
"""Keys of a load's fingerprint that must be equal."""


def check_comparability(context: RequestContext) -> Iterable[Finding]:
    """Check the data, users and endpoints of the arms, and the settings of replicates; without problems one `ok`."""
    findings = [finding for check in _CHECKS for finding in check(context)]
    if not findings and context.panels:
        alike = "endpoint mix" if context.traffic_is_routed else "load and endpoint mix"
        findings = [ok(NAME, f"same {alike} on every arm")]
    yield from findings


def _check_distinct(context: RequestContext) -> Iterable[Finding]:
    """Fail if one file was given for both arms: different requests never agree to the microsecond."""
    for arm, panel in context.panels.items():
        arrays = (panel.n, panel.failures, panel.totals["time_ms"])  # shape (2, endpoints, slots): both arms
        # Of baseline and candidate: requests, failures and time of each endpoint.
        sums_by_arm = [[values[role].sum(axis=1) for values in arrays] for role in (0, 1)]
        alike = all(np.array_equal(baseline, candidate) for baseline, candidate in zip(*sums_by_arm, strict=True))
        # Constant times, as of a simulated service, agree although the requests differ.
        if alike and not all(panel.constant):
            text = f"{arm} and baseline have identical requests: the same data were given for both"
            yield fail(NAME, text, f"import the requests of baseline and of {arm} again, each from its own files")


def _check_answers(context: RequestContext) -> Iterable[Finding]:
    """Fail if nearly all requests fail on both arms: possibly none has reached the release, so nothing is compared."""
    for arm, panel in context.panels.items():
        failure_rates = [float(panel.failures[role].sum() / max(panel.n[role].sum(), 1)) for role in (0, 1)]
        if min(failure_rates) > MOST_FAILURES:
            percents = " and ".join(f"{format_number(rate * 100)} %" for rate in failure_rates)
            text = f"{percents} of the requests of baseline and {arm} failed, so there is too little to compare"
            text += f"; failures of {arm}{kinds}" if (kinds := context.list_kinds(arm)) else ""
            remedy = "check what both arms share: the address, a login, the column that marks failures"
            yield fail(NAME, text, remedy)


def _check_load(context: RequestContext) -> Iterable[Finding]:
    """Compare the mean number of running users of the arms, each divided by the arm's configured share.

    If a router chose the arm of each request, users belong to no arm, and `sample_ratio` compares requests.
    """
    if context.traffic_is_routed:
        return
    loads = context.cells.loads
    shares = context.rulebook.sample_ratio
    mean_users: dict[int, float] = {}  # by code of the arm; arms without recorded users are left out
    for arm_code, arm in enumerate(context.cells.arms):
        users = loads.users[loads.arm == arm_code]
        if users.size:
            mean_users[arm_code] = float(users.mean()) / shares.get(arm, 1.0)
    for arm_code, arm in enumerate(context.cells.arms[1:], start=1):
        if 0 not in mean_users or arm_code not in mean_users:  # 0: the baseline
            continue
        baseline, candidate = mean_users[0], mean_users[arm_code]
        if max(baseline, candidate) == 0:
            continue
        difference = abs(candidate / max(baseline, 1e-9) - 1)
        if difference > MAX_LOAD_DIFFERENCE:
            yield fail(NAME, f"{arm} had {candidate:.3g} users running on average, baseline {baseline:.3g}")


def _check_missing(context: RequestContext) -> Iterable[Finding]:
    """An endpoint with many requests on baseline and none on the candidate cannot be judged, so there is no GO."""
    for arm, panel in context.panels.items():
        baseline, candidate = panel.n.sum(axis=2)  # requests of each arm by endpoint, shape (endpoints,)
        without_requests = np.flatnonzero(candidate == 0)
        share = float(candidate.sum() / max(baseline.sum(), 1))
        # Endpoints of which the baseline has so many requests that the candidate cannot lack them by chance.
        missing = without_requests[find_absent(panel.n[0][without_requests], share)]
        if missing.size:
            largest = missing[np.argmax(baseline[missing])]
            further = f" (and {missing.size - 1} more)" if missing.size > 1 else ""
            requests = format_count(int(baseline[largest]))
            text = f"{panel.endpoints[largest]}{further} has {requests} requests on baseline"
            remedy = "send both arms the same requests; give a renamed endpoint one name on both arms"
            yield fail(NAME, f"{text} and none on {arm}", remedy)


def _check_mix(context: RequestContext) -> Iterable[Finding]:
    """Warn if an endpoint's share of the requests differs between the arms.

    It is only a warning, because the comparison gives each endpoint the same weight on both arms.
    """
    for arm, panel in context.panels.items():
        requests = panel.n.sum(axis=2)  # shape (2, endpoints): baseline and candidate
        requests_of_arm = requests.sum(axis=1, keepdims=True)
        shares = requests / np.maximum(requests_of_arm, 1)
        difference = np.abs(shares[1] - shares[0])
        # Differences of up to three standard errors may be chance.
        noise = MIX_NOISE * np.sqrt((shares * (1 - shares) / np.maximum(requests_of_arm, 1)).sum(axis=0))
        difference[requests[1] == 0] = 0.0  # the candidate lacks these endpoints, which has a finding of its own
        worst = int(np.argmax(difference - noise))
        if difference[worst] > max(MAX_MIX_DIFFERENCE, noise[worst]):
            baseline_share, arm_share = f"{shares[0, worst] * 100:.1f} %", f"{shares[1, worst] * 100:.1f} %"
            yield warn(
                NAME,
                f"{panel.endpoints[worst]} is {arm_share} of {arm}'s requests and {baseline_share} of baseline's; "
                "the comparison gives each endpoint the same weight on both arms",
            )


def _check_fingerprints(context: RequestContext) -> Iterable[Finding]:
    """Replicates must be runs of the same test: fail if a setting that identifies a load differs between runs."""
    for key in SAME_IN_ALL_RUNS:
        values = {repr(run.fingerprint[key]) for run in context.runs if key in run.fingerprint}
        if len(values) > 1:
            yield fail(NAME, f"the runs judged together differ in {key}")


_CHECKS = (_check_distinct, _check_answers, _check_load, _check_missing, _check_mix, _check_fingerprints)
