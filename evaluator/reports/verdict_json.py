"""The verdict as JSON: the contract with all programs that act on it (evaluator/schemas/verdict.schema.json).

The same verdict gives the same bytes: the order of keys is fixed, floats have 9 significant digits, and the text is
ASCII. What is not a finite number (an interval without an upper end) is null.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from evaluator.records import (
    NO_RESPONSE,
    WHOLE,
    ArmSummary,
    Comparison,
    EvidenceKind,
    FailureCount,
    FailureKind,
    Fault,
    LeftOut,
    Service,
    Verdict,
)
from evaluator.reports.base import Page
from evaluator.reports.faults import write_fault

SCHEMA_VERSION = 1
SCAN_METHOD = "endpoint scan"
"""How the method of a row of the endpoint scan starts."""


def render(verdict: Verdict, page: Page) -> str:
    """Write a verdict as JSON. `page` is part of the interface of all formats and is not used here."""
    del page
    return to_json(verdict)


def to_json(verdict: Verdict) -> str:
    """Write a verdict as JSON text, ending without a newline."""
    return json.dumps(_to_plain(verdict), indent=2, allow_nan=False)


def _to_plain(verdict: Verdict) -> dict[str, Any]:
    """Turn a verdict into the values of its JSON, in the order of the keys of the file."""
    evidence, window = verdict.evidence, verdict.evidence.window
    seconds = window.seconds if math.isfinite(window.seconds) else None
    has_live = any(comparison.kind is EvidenceKind.LIVE for comparison in evidence.comparisons)
    plain = {
        "schema_version": SCHEMA_VERSION,
        "release": verdict.release.id,
        "verdict": verdict.word.value,
        "reasons": [
            _add_unless_none(
                {
                    "code": reason.code,
                    "metric": reason.metric,
                    "arm": reason.arm,
                    "slice": _slice_to_plain(reason.slice),
                    "text": reason.text,
                },
                {"evidence": _evidence_to_plain(reason.evidence)},
            )
            for reason in verdict.reasons
        ],
        "next_action": verdict.next_action,
        "time_to_decision_s": verdict.time_to_decision_s,
        "judge": verdict.judge,
        "monitoring": verdict.monitoring,
        "alpha": verdict.alpha,
        "services": [_write_service(service) for service in verdict.release.services],
        "arms": [_arm_to_plain(arm) for arm in evidence.arms],
        "window": _add_unless_none({"start": window.start, "end": window.end}, {"seconds": seconds}),
        "incomplete": evidence.incomplete,
        "mode": verdict.mode,
        "override": verdict.override,
        "policy": verdict.policy,
        "queries": list(verdict.queries),
        "policy_hash": verdict.policy_hash,
        "data_hash": verdict.data_hash,
        "evaluator_version": verdict.evaluator_version,
        "judged_at": verdict.judged_at,
        "metrics": [_comparison_to_plain(comparison, has_live=has_live) for comparison in evidence.comparisons],
        "health": [
            _add_unless_none(
                {"check": finding.check, "status": finding.level.value, "text": finding.text},
                {
                    "void": finding.void or None,
                    "remedy": finding.remedy or None,
                    "evidence": _evidence_to_plain(finding.evidence),
                },
            )
            for finding in evidence.findings
        ],
    }
    plain |= _list_optional(verdict)
    return {key: _canonical(value) for key, value in plain.items()}


def _write_service(service: Service) -> dict[str, Any]:
    """Write a service with its versions; those of further arms only if there are any."""
    plain = dataclasses.asdict(service)
    return plain if service.arms else {name: value for name, value in plain.items() if name != "arms"}


def _list_optional(verdict: Verdict) -> dict[str, Any]:
    """List the keys that only some verdicts have, with their values."""
    production, period = verdict.evidence.production, verdict.period
    window = {"start": production.start, "end": production.end, "seconds": production.seconds}
    optional = {
        "policy_path": verdict.policy_path or None,
        "period": {"from": period.start, "to": period.end} if period != WHOLE else None,
        "production_window": window if production.start or production.seconds else None,
        "step": verdict.step or None,
        "environment": verdict.environment or None,
        "only_step": verdict.only_step or None,
        "other_steps": list(verdict.other_steps) or None,
        "faults": None if verdict.faults is None else [_fault_to_plain(fault) for fault in verdict.faults],
        "failures": None if verdict.failures is None else [_failures_to_plain(count) for count in verdict.failures],
        "iteration": None if verdict.iteration is None else dataclasses.asdict(verdict.iteration),
        "figures": verdict.figures,
    }
    return _add_unless_none({}, optional)


def _arm_to_plain(arm: ArmSummary) -> dict[str, Any]:
    """Turn the counts of an arm into the values of its JSON; rows left out only if the rows read are known."""
    plain: dict[str, Any] = {
        "name": arm.name,
        "role": arm.role,
        "requests": arm.requests,
        "instances": arm.instances,
        "runs": arm.runs,
    }
    parts = _left_out_to_plain(arm.left_out)
    production = None
    if arm.production is not None:
        live = arm.production
        production = _add_unless_none(
            {"requests": live.requests, "instances": live.instances, "runs": live.runs},
            {"read": live.read or None, "left_out": _left_out_to_plain(live.left_out) if live.read else None},
        )
    optional = {
        "units": arm.units or None,
        "read": arm.read or None,
        "left_out": parts if arm.read else None,
        "production": production,
    }
    return _add_unless_none(plain, optional)


def _fault_to_plain(fault: Fault) -> dict[str, Any]:
    """Turn a fault into the values of its JSON."""
    return dataclasses.asdict(fault) | {
        "onset": _add_unless_none({}, dataclasses.asdict(fault.onset)),
        "kinds": _kinds_to_plain(fault.kinds),
        "text": write_fault(fault),
    }


def _failures_to_plain(count: FailureCount) -> dict[str, Any]:
    """Turn the failures of a place into the values of their JSON."""
    return dataclasses.asdict(count) | {"kinds": _kinds_to_plain(count.kinds)}


def _kinds_to_plain(kinds: Sequence[FailureKind]) -> list[dict[str, Any]]:
    """Turn kinds of failures into the values of their JSON; the status of a failure without a response is null."""
    return [
        {"status": None if kind.status == NO_RESPONSE else kind.status, "exception": kind.exception, "n": kind.n}
        for kind in kinds
    ]


def _left_out_to_plain(parts: Sequence[LeftOut]) -> list[dict[str, Any]]:
    """Turn the counts of rows that are not judged into the values of their JSON."""
    return [
        _add_unless_none(
            {"kind": part.kind.value, "rows": part.rows, "failures": part.failures}, {"detail": part.detail or None}
        )
        for part in parts
    ]


def _evidence_to_plain(evidence: EvidenceKind | None) -> str | None:
    """Turn a kind of evidence into the value of its JSON; `None`: the key is left out."""
    return None if evidence is None else evidence.value


def _add_unless_none(plain: dict[str, Any], optional: Mapping[str, Any]) -> dict[str, Any]:
    """Return `plain` with those keys of `optional` whose value is not None."""
    return plain | {key: value for key, value in optional.items() if value is not None}


def _slice_to_plain(endpoint: str | None) -> dict[str, str] | None:
    """Turn an endpoint into the value of its JSON; `None`: all endpoints."""
    return None if endpoint is None else {"endpoint": endpoint}


def _comparison_to_plain(row: Comparison, *, has_live: bool) -> dict[str, Any]:
    """Turn a comparison into the values of its JSON. The candidate has the key `canary` whatever its name.

    `has_live`: the verdict has requests of production, so each row says which evidence it is of.
    """
    rule = row.rule
    plain: dict[str, Any] = {
        "name": rule.name,
        "type": rule.type,
        "role": rule.role.value,
        "arm": row.arm,
        "slice": _slice_to_plain(rule.slice.endpoint),
        "status": row.status.value,
        "baseline": {"value": row.baseline.value, "n": row.baseline.n},
        "canary": {"value": row.candidate.value, "n": row.candidate.n},
        "unit": row.unit,
        "effect": dataclasses.asdict(row.effect) if row.effect else None,
        "margin": None if rule.margin is None else rule.margin.value,
        "limit": {"min": rule.limit.min, "max": rule.limit.max},
        "instances": list(row.instances),
        "direction": rule.direction.value,
        "method": row.method,
        "p_value": row.p_value,
        "p_value_adjusted": row.p_value_adjusted,
        "detectable_effect": row.detectable_effect,
        "reason": row.reason or row.no_data or "",
    }
    # An effect says already whether the margin is relative.
    margin_kind = None
    if rule.margin is not None and row.effect is None:
        margin_kind = "relative" if rule.margin.relative else "absolute"
    optional = {
        "quantile": getattr(rule.metric, "quantile", None),
        "margin_kind": margin_kind,
        "view": dataclasses.asdict(row.view) if row.view else None,
        "evidence": row.kind.value if has_live else None,
    }
    return _add_unless_none(plain, optional)


def _canonical(value: Any) -> Any:
    """Turn a value, also within lists and mappings, into its only JSON form, so that equal verdicts are equal bytes.

    Floats get 9 significant digits (None if not finite), times become UTC texts that end in Z.
    """
    if isinstance(value, float):
        return float(f"{value:.9g}") + 0.0 if math.isfinite(value) else None  # + 0.0 makes -0.0 a plain 0.0
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(key): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return value
