"""Verdicts as rows, for a data frame or an Arrow table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluator.errors import EvaluatorError
from evaluator.extensions import explain_missing_package

if TYPE_CHECKING:
    import pandas as pd


def flatten(verdict: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return a row without nested values for each metric of a verdict's JSON. A missing effect gives `None`."""
    for metric in verdict["metrics"]:
        effect = metric["effect"] or {}
        yield {
            "release": verdict["release"],
            "metric": metric["name"],
            "type": metric["type"],
            "role": metric["role"],
            "arm": metric["arm"],
            "endpoint": (metric["slice"] or {}).get("endpoint"),
            "status": metric["status"],
            "baseline": metric["baseline"]["value"],
            "canary": metric["canary"]["value"],
            "unit": metric["unit"],
            "effect": effect.get("estimate"),
            "lower": effect.get("lower"),
            "upper": effect.get("upper"),
            "effect_kind": effect.get("kind"),
            "margin": metric["margin"],
            "p_value": metric["p_value"],
            "p_value_adjusted": metric["p_value_adjusted"],
            "detectable_effect": metric["detectable_effect"],
            "n_baseline": metric["baseline"]["n"],
            "n_canary": metric["canary"]["n"],
            "method": metric["method"],
            "reason": metric["reason"],
            **({"evidence": metric["evidence"]} if "evidence" in metric else {}),
        }


def to_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Make a data frame from rows (column → value). Raises EvaluatorError if pandas is not installed."""
    with explain_missing_package("data frames need", "notebook", EvaluatorError):
        import pandas as pd

    return pd.DataFrame(list(rows))
