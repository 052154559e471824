"""Failures that accumulate on a candidate while they are too few to judge: a warning, never a verdict.

The test takes failures for independent. In bursts they are not, so this check does not decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from evaluator.health.base import RequestContext, warn
from evaluator.records import Finding
from evaluator.stats.inference.assignment import log_wealth_of_excess
from evaluator.wording import format_number

NAME = "early_warning"
MOST_FAILURES = 50
"""With more failures the failure rate itself is judged well enough."""
LEAST_WHOLE = 0.01
"""Smaller shares are not shown as whole percent: they are not 0."""


def check_early_warning(context: RequestContext) -> Iterable[Finding]:
    """Warn if the candidate has more of the rare failures than its share of the requests explains."""
    for arm, panel in context.panels.items():
        failures = int(panel.failures.sum())  # of baseline and candidate
        failures_of_candidate = int(panel.failures[1].sum())
        if not 0 < failures <= MOST_FAILURES:
            continue
        requests = panel.n.sum(axis=(1, 2))  # of baseline and candidate
        share = float(requests[1] / requests.sum())
        # The wealth of a bet on an excess: without any, the chance that it ever exceeds 1 / alpha is at most alpha.
        if log_wealth_of_excess(failures_of_candidate, failures, share) > -math.log(context.rulebook.alpha):
            percent = f"{share * 100:.0f}" if share >= LEAST_WHOLE else format_number(share * 100)
            text = f"{arm} has {failures_of_candidate} of {failures} failures with {percent} % of the requests"
            yield warn(NAME, text + context.list_kinds(arm))
