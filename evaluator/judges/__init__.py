"""Evidence becomes a verdict: the judge, the correction for several questions, and the sentences of the reasons."""

from __future__ import annotations

from evaluator.judges.iterations import compare_with_rejected
from evaluator.judges.native import JUDGE, Judgement, judge_evidence
from evaluator.judges.pointing import point_to_faults

__all__ = ["JUDGE", "Judgement", "compare_with_rejected", "judge_evidence", "point_to_faults"]
