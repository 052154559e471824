"""Evidence becomes a verdict: the judge, what several questions cost, and the sentences that say why."""

from __future__ import annotations

from evaluator.judges.native import JUDGE, Judgement, judge_evidence

__all__ = ["JUDGE", "Judgement", "judge_evidence"]
