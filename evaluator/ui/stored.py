"""A stored verdict, read back."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

from evaluator.policy import restore_policy
from evaluator.records import (
    ArmSummary,
    ArmValue,
    Comparison,
    Direction,
    Effect,
    Evidence,
    Finding,
    Level,
    Limit,
    Margin,
    MetricStatus,
    Reason,
    Release,
    Role,
    Rule,
    Service,
    Slice,
    Verdict,
    VerdictWord,
    Window,
)

__all__ = ["read_verdict"]


def read_verdict(text: str) -> Verdict:
    """Read a verdict as the store keeps it."""
    plain = json.loads(text)
    rules = {rule.name: rule for rule in restore_policy(plain["policy"]).rulebook.rules} if plain["policy"] else {}
    start, end = (_time(plain["window"][key]) for key in ("start", "end"))
    return Verdict(
        release=Release(plain["release"], tuple(Service(**one) for one in plain["services"])),
        word=VerdictWord(plain["verdict"]),
        reasons=tuple(
            Reason(one["code"], one["text"], one["metric"], one["arm"], (one["slice"] or {}).get("endpoint"))
            for one in plain["reasons"]
        ),
        next_action=plain["next_action"],
        evidence=Evidence(
            comparisons=tuple(_comparison(one, rules) for one in plain["metrics"]),
            findings=tuple(Finding(one["check"], Level(one["status"]), one["text"]) for one in plain["health"]),
            arms=tuple(ArmSummary(**one) for one in plain["arms"]),
            window=Window(start, end, (end - start).total_seconds() if start and end else 0.0),
            incomplete=plain["incomplete"],
        ),
        judge=plain["judge"],
        monitoring=plain["monitoring"],
        alpha=plain["alpha"],
        mode=plain["mode"],
        time_to_decision_s=plain["time_to_decision_s"],
        policy=plain["policy"],
        queries=tuple(plain["queries"]),
        policy_hash=plain["policy_hash"],
        data_hash=plain["data_hash"],
        evaluator_version=plain["evaluator_version"],
        judged_at=_time(plain["judged_at"]),
        override=plain["override"],
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _comparison(one: dict[str, Any], rules: dict[str, Rule]) -> Comparison:
    effect = one["effect"]
    known = rules.get(one["name"])
    endpoint = (one["slice"] or {}).get("endpoint")
    scan = known is None or known.slice.endpoint != endpoint
    known = None if scan else known
    relative = effect is None or effect["kind"] == "relative"
    rule = known or Rule(
        one["name"],
        one["type"],
        Role(one["role"]),
        None if one["margin"] is None else Margin(one["margin"], relative=relative),
        Direction(one["direction"]),
        Limit(**one["limit"]),
        slice=Slice(endpoint),
    )
    return Comparison(
        rule=rule,
        arm=one["arm"],
        unit=one["unit"],
        baseline=ArmValue(**one["baseline"]),
        candidate=ArmValue(**one["canary"]),
        method=one["method"],
        instances=tuple(one["instances"]),
        effect=None
        if effect is None
        else Effect(
            effect["kind"],
            math.nan if effect["estimate"] is None else effect["estimate"],
            -math.inf if effect["lower"] is None else effect["lower"],
            math.inf if effect["upper"] is None else effect["upper"],
        ),
        detectable_effect=one["detectable_effect"],
        no_data=one["reason"] if one["status"] == "no_data" else None,
        scan=scan,
        status=MetricStatus(one["status"]),
        p_value=one["p_value"],
        p_value_adjusted=one["p_value_adjusted"],
        reason=one["reason"],
    )
