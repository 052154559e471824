"""Does a single endpoint answer with other statuses? A missing route is hidden in the share of all requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from evaluator.health.base import NAMED, RequestContext, fail
from evaluator.health.left_out import LARGEST_BURST
from evaluator.records import Finding, Metric, Role
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.inference.score import difference_z
from evaluator.stats.inference.student import t_below
from evaluator.stats.shaping.silence import measure_clusters
from evaluator.wording import format_number

NAME = "status_mix"
LARGEST_SHIFT = 0.1
"""Shift of a share at a single endpoint up to which only the metric of all endpoints decides."""
SURE = 0.001
"""p-value, corrected for the number of endpoints, below which a larger shift is not chance."""
MIN_REQUESTS = 30
"""Endpoints with fewer requests on an arm are not looked at."""


def check_status_mix(context: RequestContext) -> Iterable[Finding]:
    """Fail for single endpoints whose share of redirects or client errors shifted by far more than chance explains.

    Only for the shares that the policy has a gate or hold of, over all endpoints. An endpoint with little traffic
    hardly moves these, but users who need it meet another answer.
    """
    asked = [
        rule.metric
        for rule in context.rulebook.rules
        if rule.metric.counted_status and rule.role is not Role.WATCH and rule.slice.endpoint is None
    ]
    for metric in dict.fromkeys(asked):
        for arm, panel in context.panels.items():
            if metric.counted_status in panel.totals:
                shares, shifted = _find_shifted(panel.totals[metric.counted_status], panel.totals["statuses"])
                if shifted.size:
                    yield _describe(metric, arm, [panel.endpoints[i] for i in shifted], shares[:, shifted])


def _find_shifted(counted: FloatArray, known: FloatArray) -> tuple[FloatArray, IntArray]:
    """Find the endpoints whose share shifted by more than `LARGEST_SHIFT` and than chance.

    `counted`: requests of the kind, of `known`, those with a known status, both (2, endpoints, slots). Returns the
    share of each arm and endpoint, (2, endpoints), and the indices of these endpoints, the largest shift first.
    """
    counts, all_known = counted.sum(axis=2), known.sum(axis=2)
    shares = counts / np.maximum(all_known, 1)
    shift = np.abs(shares[1] - shares[0])
    has_enough = (all_known >= MIN_REQUESTS).all(axis=0)
    candidates = np.flatnonzero(has_enough & (shift > LARGEST_SHIFT))
    if not candidates.size:
        return shares, candidates
    # A single user may repeat a request that is not found: requests in a burst count as one.
    sizes = np.stack([measure_clusters(of_arm[candidates])[0] for of_arm in counted]).max(axis=0)
    bursts = np.clip(sizes, 1.0, LARGEST_BURST)
    counts_c, known_c, counts_b, known_b = (
        values[candidates] / bursts for values in (counts[1], all_known[1], counts[0], all_known[0])
    )
    z = difference_z(counts_c, known_c, counts_b, known_b, 0.0)
    p_values = 2 * t_below(-np.abs(z), np.inf) * int(has_enough.sum())  # corrected for all that were compared
    sure = candidates[p_values < SURE]
    return shares, sure[np.argsort(-shift[sure], kind="stable")]


def _describe(metric: Metric, arm: str, endpoints: Sequence[str], shares: FloatArray) -> Finding:
    """Name the endpoints with their shares, (2, endpoints), on baseline and the candidate `arm`."""
    texts = [
        f"{endpoint} {format_number(baseline * 100)} % → {format_number(candidate * 100)} %"
        for endpoint, baseline, candidate in zip(endpoints[:NAMED], *shares[:, :NAMED], strict=True)
    ]
    more = f" and {len(endpoints) - NAMED} more" if len(endpoints) > NAMED else ""
    text = f"the share of {metric.short} shifted from baseline to {arm} at {', '.join(texts)}{more}"
    remedy = f"check what {arm} answers there; if this is intended, set `role: watch` for {metric.type} in the policy"
    return fail(NAME, text, remedy)
