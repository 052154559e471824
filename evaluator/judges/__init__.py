"""Evidence becomes a verdict: one module a judge, and the table that names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from evaluator.judges.native import Judgement, judge_natively
from evaluator.records import Evidence, Rulebook

__all__ = ["JUDGES", "Judge", "Judgement"]

Judge = Callable[[Evidence, Rulebook, str], Judgement]
"""(evidence, rulebook, release id) → judgement."""

JUDGES: Mapping[str, Judge] = {"native": judge_natively}
