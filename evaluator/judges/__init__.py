"""Evidence becomes a verdict: the judge, the correction for several questions, and the sentences of the reasons."""

from __future__ import annotations

from evaluator.judges.native import JUDGE, Judgement, judge_evidence

__all__ = ["JUDGE", "Judgement", "judge_evidence"]
