"""Did the answers of an endpoint lose most of their content? An empty page is fast, and its status is 200."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from evaluator.health.base import NAMED, RequestContext, fail
from evaluator.records import ACCESS_LOG_SOURCE, Finding
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.inference.student import t_below
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.shaping.rare import OTHER_ENDPOINTS
from evaluator.wording import format_number

NAME = "answer_size"
SMALLEST_RATIO = 0.5
"""Mean size of the candidate's answers, as a multiple of the baseline's, down to which a release may change it."""
CONSTANT_RATIO = 0.9
"""The same if all answers of the candidate have one size, and those of the baseline do not. Sizes of some routers count
headers, too, so answers without content are not 0 bytes, but all alike."""
CONSTANT_SPREAD = 0.01
"""Spread of the candidate's mean sizes over time, as a part of the baseline's, up to which its answers are alike."""
SURE = 0.001
"""p-value, corrected for the number of endpoints, below which smaller answers are not chance."""
MIN_ANSWERS = 30
"""Endpoints with fewer successes on an arm are not looked at."""


def check_answer_size(context: RequestContext) -> Iterable[Finding]:
    """Fail for endpoints whose successful answers lost their content on the candidate, by more than chance.

    So they did if they are less than half as large as the baseline's; or all alike and smaller, where those of the
    baseline differ.

    Nothing if sizes are not recorded, or if the policy has a metric of them: then people have decided what is allowed.
    """
    if any(rule.metric.is_response_size for rule in context.rulebook.rules):
        return
    for arm, panel in context.panels.items():
        # The file of one arm may have no sizes. Logs and the recorder have them of both arms, or of none.
        has_same_source = all(run.source in (ACCESS_LOG_SOURCE, "locust") for run in context.runs)
        if has_same_source or panel.totals["bytes"].sum(axis=(1, 2)).all():
            means, smaller = _find_smaller(panel)
            if smaller.size:
                yield _describe(arm, [panel.endpoints[i] for i in smaller], means[:, smaller])


def _find_smaller(panel: Panel) -> tuple[FloatArray, IntArray]:
    """Find the endpoints whose answers are smaller than `SMALLEST_RATIO` of the baseline's, by more than chance.

    Of answers that are all alike, `CONSTANT_RATIO` counts.

    Returns the mean bytes of each arm and endpoint, (2, endpoints), and the indices of these endpoints, the smallest
    ratio first.
    """
    size, answers = panel.totals["bytes"], panel.ok  # (2, endpoints, slots)
    all_answers = np.maximum(answers.sum(axis=2), 1)
    means = size.sum(axis=2) / all_answers
    # Variance of a mean over time: by what its bytes in each slot differ from those of as many mean answers.
    variance = ((size - means[..., np.newaxis] * answers) ** 2).sum(axis=2) / all_answers**2
    is_endpoint = np.array([endpoint != OTHER_ENDPOINTS for endpoint in panel.endpoints])  # not a mix of several
    compared = is_endpoint & (answers.sum(axis=2) >= MIN_ANSWERS).all(axis=0) & (means[0] > 0)
    spread = np.sqrt(variance)
    is_constant = spread[1] <= CONSTANT_SPREAD * spread[0]  # also where both are constant, but then
    is_constant &= spread[0] > 0  # nothing is known of what the sizes count
    ratio = np.where(is_constant, CONSTANT_RATIO, SMALLEST_RATIO)
    beyond = means[1] - ratio * means[0]
    candidates = np.flatnonzero(compared & (beyond < 0))
    deviation = np.sqrt(variance[1] + ratio**2 * variance[0])[candidates]
    with np.errstate(divide="ignore"):
        z = beyond[candidates] / deviation  # infinite if all answers of an arm have one size
    smaller = candidates[t_below(z, np.inf) * compared.sum() < SURE]
    ratios = means[1, smaller] / means[0, smaller]
    return means, smaller[np.argsort(ratios, kind="stable")]


def _describe(arm: str, endpoints: Sequence[str], means: FloatArray) -> Finding:
    """Name the endpoints with their mean bytes, (2, endpoints), on baseline and the candidate `arm`."""
    texts = [
        f"{endpoint} {format_number(baseline)} → {format_number(candidate)}"
        for endpoint, baseline, candidate in zip(endpoints[:NAMED], *means[:, :NAMED], strict=True)
    ]
    more = f" and {len(endpoints) - NAMED} more" if len(endpoints) > NAMED else ""
    text = (
        f"successful answers of {arm} are much smaller than the baseline's, by mean size in bytes: {', '.join(texts)}"
    )
    remedy = f"check what {arm} answers there: pages may be empty, or cut. If this is intended, add a metric to the "
    remedy += "policy that says what is allowed, such as `{name: size, type: response_size, role: watch}`"
    return fail(NAME, text + more, remedy)
