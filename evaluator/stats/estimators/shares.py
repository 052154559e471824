"""Compare the share of requests of one kind by score, where a change is harm whichever way it goes (method B.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evaluator.records import Limit, Margin
from evaluator.records.arrays import FloatArray
from evaluator.stats.estimators.estimate import Depth, Estimate, GroupAnswers
from evaluator.stats.estimators.failures import compare_failures
from evaluator.stats.shaping.groups import all_together
from evaluator.stats.shaping.panel import Panel
from evaluator.stats.variance.uncertainty import Design

SD_INSTANCE = 0.0
"""Instances of one version answer the same request with the same status, so no difference between them is assumed."""


@dataclass(frozen=True, slots=True)
class ShareChange:
    """The change of a share, and its direction."""

    estimate: Estimate
    """Of one group: all endpoints. Its distances beyond the margin are those in the direction of the change."""
    fell: bool
    """Did the share fall?"""


def compare_shares(
    panel: Panel,
    design: Design,
    counted: str,
    *,
    alpha: float,
    margin: Margin | None,
    limit: Limit,
    depth: Depth = "full",
) -> ShareChange:
    """Compare the share of requests of one kind, among those whose status is known (method B.2, shares either way).

    The share and its complement are tested as failure rates are, each against a rise. "Worse" is shown in either
    direction, so twice the smaller p-value counts (Bonferroni); "within" must hold in both, so the larger one counts
    (two one-sided tests; Schuirmann 1987).

    Args:
        panel: Baseline and candidate, with the totals `statuses` and, if there are such requests, `counted`.
        design: What is replicated: whole runs, instances within runs, or nothing.
        counted: Name of the total that counts the requests of this kind.
        alpha: One-sided level of the interval.
        margin: Largest change of the share that is tolerated, a difference (0.01 is 1 pp); `None`: the question is
            whether there is any change.
        limit: Bounds on the candidate's own share.
        depth: What is computed, as for failure rates.
    """
    # Earlier runs show how much failure rates differ between instances, not shares of statuses.
    design = replace(design, failures=None)
    groups = all_together(len(panel.endpoints))
    share, complement = _count_as_failures(panel, counted)
    rise, fall = (
        compare_failures(
            part,
            design,
            alpha=alpha,
            margin=margin,
            sd_instance=SD_INSTANCE,
            sd_share=SD_INSTANCE,
            limit=limit_of_part,
            groups=groups,
            depth=depth,
        )
        for part, limit_of_part in ((share, limit), (complement, Limit()))
    )
    fell = bool(rise.candidate[0] < rise.baseline[0])
    towards = fall if fell else rise
    estimate = replace(
        rise,
        against_margin=_join_answers(towards.against_margin, rise.against_margin, fall.against_margin),
        against_zero=_join_answers(towards.against_zero, rise.against_zero, fall.against_zero),
        trend=towards.trend,
        needed=towards.needed,
        loadings=towards.loadings,
    )
    return ShareChange(estimate, fell)


def _count_as_failures(panel: Panel, counted: str) -> tuple[Panel, Panel]:
    """Return the panel with requests of known status as all, and with the counted or the other ones as failures."""
    parts: list[Panel] = []
    rows = panel.rows
    known, known_rows = panel.totals["statuses"], rows.totals["statuses"]
    counts: FloatArray = panel.totals.get(counted, np.zeros_like(known))
    row_counts: FloatArray = rows.totals.get(counted, np.zeros_like(known_rows))
    for failures, row_failures in ((counts, row_counts), (known - counts, known_rows - row_counts)):
        parts.append(
            replace(panel, n=known, failures=failures, rows=replace(rows, n=known_rows, failures=row_failures))
        )
    return parts[0], parts[1]


def _join_answers(towards: GroupAnswers, rise: GroupAnswers, fall: GroupAnswers) -> GroupAnswers:
    """Join the answers of both directions; `towards`: those in the direction of the change, whose distance is shown."""
    return GroupAnswers(
        beyond=towards.beyond,
        p_worse=np.minimum(1.0, 2 * np.minimum(rise.p_worse, fall.p_worse)),
        p_within=np.maximum(rise.p_within, fall.p_within),
    )
