"""Verdicts as rows, for a data frame or an Arrow table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluator.errors import EvaluatorError
from evaluator.extensions import explain_missing_package
from evaluator.records import NO_RESPONSE, FailureCount

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


def flatten_failures(counts: Iterable[FailureCount]) -> Iterator[dict[str, Any]]:
    """Return a row without nested values for each kind of failures at each place; an arm without failures has one."""
    for count in counts:
        rows: list[tuple[int | None, str | None, str, int]] = [
            (None if kind.status == NO_RESPONSE else kind.status, kind.exception, "", kind.n) for kind in count.kinds
        ]
        rows += [
            (None, None, note, n)
            for note, n in (("other kinds", count.other_kinds), ("not recorded", count.not_recorded))
            if n or (note == "other kinds" and not count.failures)
        ]
        for status, exception, note, n in rows:
            yield {
                "arm": count.arm,
                "endpoint": count.endpoint,
                "instance": count.instance,
                "requests": count.requests,
                "failures": count.failures,
                "status": status,
                "exception": exception,
                "note": note,
                "n": n,
            }


def to_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Make a data frame from rows (column → value). Raises EvaluatorError if pandas is not installed."""
    with explain_missing_package("data frames need", "notebook", EvaluatorError):
        import pandas as pd

    return pd.DataFrame(list(rows))
