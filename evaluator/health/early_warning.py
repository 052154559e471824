"""Failures that accumulate on a candidate while they are too few to judge: a warning, never a verdict.

The test takes failures for independent. In bursts they are not, so this check does not decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from evaluator.health.base import RequestContext, warn
from evaluator.records import Finding
from evaluator.stats.inference.assignment import log_wealth_of_excess

NAME = "early_warning"
MOST_FAILURES = 50
"""With more failures the failure rate itself is judged well enough."""


def check_early_warning(context: RequestContext) -> Iterable[Finding]:
    """Warns if the candidate has more of the rare failures than its share of the requests explains."""
    for arm, panel in context.panels.items():
        failures = [int(panel.failures[a].sum()) for a in (0, 1)]
        if not 0 < sum(failures) <= MOST_FAILURES:
            continue
        requests = panel.n.sum(axis=(1, 2))
        share = float(requests[1] / requests.sum())
        if log_wealth_of_excess(failures[1], sum(failures), share) > -math.log(context.rulebook.alpha):
            yield warn(
                NAME, f"{arm} has {failures[1]} of {sum(failures)} failures with {share * 100:.0f} % of the requests"
            )
