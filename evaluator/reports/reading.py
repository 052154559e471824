"""A verdict read back from its JSON, so that it can be rendered without a store."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.resources import files
from typing import Any, NoReturn

from pydantic import ValidationError

from evaluator.errors import InputError, UnknownName
from evaluator.metrics import restore_metric
from evaluator.records import (
    NO_RESPONSE,
    WHOLE,
    ArmSummary,
    ArmValue,
    Comparison,
    Direction,
    Effect,
    Evidence,
    EvidenceKind,
    FailureCount,
    FailureKind,
    Fault,
    FaultOnset,
    FaultPlace,
    Finding,
    HarmChange,
    Iteration,
    LeftOut,
    LeftOutKind,
    Level,
    Limit,
    Margin,
    MetricStatus,
    Period,
    ProductionSummary,
    Reason,
    Release,
    Role,
    Rule,
    Service,
    Slice,
    StoredVerdict,
    Verdict,
    VerdictWord,
    View,
    Window,
)
from evaluator.reports.base import clean_and_cut
from evaluator.reports.verdict_json import SCAN_METHOD, SCHEMA_VERSION

HINT = "give the file that `evaluator verdict RELEASE --format json=FILE` wrote"


def from_json(text: str, origin: str = "the input") -> Verdict:
    """Read the JSON of a verdict that `to_json` wrote; `to_json` makes the same text of it again.

    Raises InputError if it is no such JSON; `origin` says in its message where the text is from.
    """
    plain = _parse(text, origin)
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if isinstance(version, bool) or not isinstance(version, int):  # a bool is an int in Python
        raise InputError(f"{origin} is JSON, but not a verdict: it has no schema_version", hint=HINT)
    if not 1 <= version <= SCHEMA_VERSION:
        raise InputError(
            f"{origin} has schema version {_short(str(version))}, and this evaluator reads up to {SCHEMA_VERSION}",
            hint="render it with the evaluator that wrote it, or a newer one",
        )
    _check_schema(plain, origin)
    try:
        return _to_verdict(plain)
    except ValidationError as error:
        option = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(
            f"{origin} is of another version of {error.title}: the option '{option}' in its policy cannot be read",
            hint="judge the release again",
        ) from None
    except UnknownName as error:
        raise InputError(
            f"{origin} is of another version of the evaluator: {_short(error.message)}", hint="judge the release again"
        ) from None
    except (ValueError, OverflowError) as error:
        raise InputError(f"{origin} is not a verdict: {_short(str(error))}", hint=HINT) from None


def read_stored(stored: StoredVerdict) -> Verdict:
    """Read a saved verdict, with its override where the release was promoted against it. Raises InputError."""
    verdict = from_json(stored.json, f"the verdict of {stored.release}")
    return replace(verdict, override=stored.override) if stored.override else verdict


def _parse(text: str, origin: str) -> Any:
    """Read JSON; raises InputError that says where the JSON is wrong, or that its end is missing."""
    try:
        return json.loads(text.removeprefix("\N{BYTE ORDER MARK}"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        # An error at the very end means that the rest of the file is missing.
        last_position = len(text.rstrip()) - 1
        is_at_end = last_position > 0 and error.pos >= last_position
        if not text.strip():
            problem = "it is empty"
        elif error.msg.startswith("Unterminated") or is_at_end:
            problem = f"it is cut off in line {error.lineno}"
        else:
            problem = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise InputError(f"{origin} is not JSON: {problem}", hint=HINT) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin} is not JSON: {_short(str(error))}", hint=HINT) from None


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads and JSON forbids."""
    raise ValueError(f"{name} is not a JSON number")


def _check_schema(plain: Any, origin: str) -> None:
    """Raise InputError at the most telling place where the values are not as the schema of verdicts requires."""
    # Only reading a verdict needs the validator.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    schema = json.loads((files("evaluator") / "schemas" / "verdict.schema.json").read_text(encoding="utf-8"))
    try:
        error = best_match(Draft202012Validator(schema).iter_errors(plain))
    except RecursionError:
        raise InputError(f"{origin} is not a verdict: it is nested too deeply", hint=HINT) from None
    if error is not None:
        location = ".".join(str(part) for part in error.absolute_path) or "the top"
        raise InputError(f"{origin} is not a verdict: at {_short(location)}, {_short(error.message)}", hint=HINT)


def _short(text: str) -> str:
    """Make a text from a file fit for a message."""
    return clean_and_cut(text, 160)


# ------------------------------------------------------------------ JSON → records


COPIED = (
    "next_action",
    "judge",
    "monitoring",
    "alpha",
    "mode",
    "time_to_decision_s",
    "policy",
    "policy_hash",
    "data_hash",
    "evaluator_version",
    "override",
)
"""Keys that are the same in JSON and record."""


def _to_verdict(plain: Mapping[str, Any]) -> Verdict:
    """Make the record of a verdict from its JSON, which must agree with the schema."""
    window, period = plain["window"], plain.get("period")
    policy_metrics = plain["policy"].get("metrics", ())
    return Verdict(
        release=Release(plain["release"], tuple(Service(**service) for service in plain["services"])),
        word=VerdictWord(plain["verdict"]),
        reasons=tuple(
            Reason(
                reason["code"],
                reason["text"],
                reason["metric"],
                reason["arm"],
                _endpoint(reason["slice"]),
                _evidence(reason),
            )
            for reason in plain["reasons"]
        ),
        evidence=Evidence(
            comparisons=tuple(_to_comparison(row, policy_metrics) for row in plain["metrics"]),
            findings=tuple(
                Finding(
                    row["check"],
                    Level(row["status"]),
                    row["text"],
                    row.get("void", False),
                    row.get("remedy", ""),
                    _evidence(row),
                )
                for row in plain["health"]
            ),
            arms=tuple(_to_arm(arm) for arm in plain["arms"]),
            window=_to_window(window),
            production=_to_window(plain["production_window"]) if "production_window" in plain else Window(),
            incomplete=plain["incomplete"],
            monitoring=plain["monitoring"],
        ),
        queries=tuple(plain["queries"]),
        step=plain.get("step", ""),
        environment=plain.get("environment", ""),
        only_step=plain.get("only_step", False),
        other_steps=tuple(plain.get("other_steps", ())),
        policy_path=plain.get("policy_path", ""),
        judged_at=_time(plain["judged_at"]),
        faults=tuple(map(_to_fault, plain["faults"])) if "faults" in plain else None,
        failures=tuple(map(_to_failures, plain["failures"])) if "failures" in plain else None,
        iteration=_to_iteration(plain["iteration"]) if "iteration" in plain else None,
        figures=plain.get("figures"),
        period=WHOLE if period is None else Period(_time(period["from"]), _time(period["to"])),
        **{key: plain[key] for key in COPIED},  # the same in JSON and record
    )


def _to_arm(plain: Mapping[str, Any]) -> ArmSummary:
    """Make the record of an arm from its JSON; rows that were left out become records too."""
    production = None
    if live := plain.get("production"):
        production = ProductionSummary(**{**live, "left_out": _to_left_out(plain["name"], live)})
    return ArmSummary(**{**plain, "left_out": _to_left_out(plain["name"], plain), "production": production})


def _to_fault(plain: Mapping[str, Any]) -> Fault:
    """Make the record of a fault from its JSON; its text is written again when it is needed."""
    onset = plain["onset"]
    return Fault(
        plain["arm"],
        plain["what"],
        endpoints=_to_place(plain["endpoints"]),
        instances=_to_place(plain["instances"]),
        onset=FaultOnset(
            onset["kind"],
            elapsed_s=onset.get("elapsed_s"),
            since=_time(onset.get("since")),
            earliest_s=onset.get("earliest_s"),
            latest_s=onset.get("latest_s"),
            earliest=_time(onset.get("earliest")),
            latest=_time(onset.get("latest")),
        ),
        requests=plain["requests"],
        baseline=plain["baseline"],
        candidate=plain["candidate"],
        kinds=_to_kinds(plain["kinds"]),
    )


def _to_iteration(plain: Mapping[str, Any]) -> Iteration:
    """Make the record of what became of earlier harms from its JSON."""
    harms = tuple(HarmChange(**harm) for harm in plain["harms"])
    return Iteration(**{**plain, "judged_at": _time(plain["judged_at"]), "harms": harms})


def _to_failures(plain: Mapping[str, Any]) -> FailureCount:
    """Make the record of the failures of a place from their JSON."""
    return FailureCount(**{**plain, "kinds": _to_kinds(plain["kinds"])})


def _to_kinds(plain: Sequence[Mapping[str, Any]]) -> tuple[FailureKind, ...]:
    """Make the records of kinds of failures from their JSON."""
    return tuple(
        FailureKind(NO_RESPONSE if kind["status"] is None else kind["status"], kind["exception"], kind["n"])
        for kind in plain
    )


def _to_place(plain: Mapping[str, Any]) -> FaultPlace:
    """Make the record of the endpoints (instances) of a fault from their JSON."""
    return FaultPlace(**{**plain, "names": tuple(plain["names"])})


def _to_left_out(arm: str, plain: Mapping[str, Any]) -> tuple[LeftOut, ...]:
    """Make the records of rows that were left out of an arm from the JSON of its counts."""
    return tuple(
        LeftOut(arm, LeftOutKind(part["kind"]), part["rows"], part["failures"], part.get("detail", ""))
        for part in plain.get("left_out", ())
    )


def _to_window(plain: Mapping[str, Any]) -> Window:
    """Make the record of a judged time from its JSON; seconds that are missing are NaN."""
    return Window(_time(plain["start"]), _time(plain["end"]), plain.get("seconds", math.nan))


def _evidence(plain: Mapping[str, Any]) -> EvidenceKind | None:
    """Read the kind of evidence that a reason, finding or metric names; `None`: it names none."""
    return EvidenceKind(plain["evidence"]) if "evidence" in plain else None


def _to_comparison(plain: Mapping[str, Any], policy_metrics: Sequence[Mapping[str, Any]]) -> Comparison:
    """Make the record of a comparison from its JSON.

    `policy_metrics`: the metrics of the policy in the verdict; the options of a metric are only there.
    """
    status, effect = MetricStatus(plain["status"]), plain["effect"]
    # With an effect there were data: the status then means that the rule asks nothing (it has no margin and no limit).
    has_no_data = status is MetricStatus.NO_DATA and effect is None
    # The margin is of the same kind (relative or absolute) as the effect; without an effect the JSON states it.
    margin_kind = effect["kind"] if effect else plain.get("margin_kind", "relative")
    rule = Rule(
        plain["name"],
        restore_metric(plain, policy_metrics),
        Role(plain["role"]),
        None if plain["margin"] is None else Margin(plain["margin"], relative=margin_kind == "relative"),
        Direction(plain["direction"]),
        Limit(**plain["limit"]),
        slice=Slice(_endpoint(plain["slice"])),
    )
    return Comparison(
        rule=rule,
        arm=plain["arm"],
        unit=plain["unit"],
        baseline=ArmValue(**plain["baseline"]),
        candidate=_to_candidate_value(plain["canary"], effect),
        method=plain["method"],
        instances=(plain["instances"][0], plain["instances"][1]),
        effect=_to_effect(effect) if effect else None,
        detectable_effect=plain["detectable_effect"],
        no_data=(plain["reason"] or "no data") if has_no_data else None,
        scan=plain["method"].startswith(SCAN_METHOD),  # the JSON has no other mark of these rows
        status=status,
        p_value=plain["p_value"],
        p_value_adjusted=plain["p_value_adjusted"],
        reason=plain["reason"],
        view=View(**plain["view"]) if "view" in plain else None,  # probabilities for people, which decide nothing
        evidence=EvidenceKind.LIVE if plain.get("evidence") == EvidenceKind.LIVE else None,
    )


def _to_candidate_value(plain: Mapping[str, Any], effect: Mapping[str, Any] | None) -> ArmValue:
    """Make the record of the candidate's value from its JSON: null is infinite if a quantile became a failure."""
    value = ArmValue(**plain)
    if value.value is None and effect and _is_failure(effect):
        return ArmValue(math.inf, value.n)
    return value


def _is_failure(plain: Mapping[str, Any]) -> bool:
    """Is an effect, in its JSON, infinite, because a quantile became a failure? Its lower end is finite then."""
    return plain["estimate"] is None and plain["lower"] is not None


def _to_effect(plain: Mapping[str, Any]) -> Effect:
    """Make the record of an effect from its JSON.

    JSON has neither NaN nor infinity: an end of the interval that is null is infinite, an estimate that is null is NaN.
    """
    values_of_null = {"estimate": math.inf if _is_failure(plain) else math.nan, "lower": -math.inf, "upper": math.inf}
    numbers = {key: value if plain[key] is None else plain[key] for key, value in values_of_null.items()}
    return Effect(plain["kind"], **numbers)


def _endpoint(plain: Mapping[str, str] | None) -> str | None:
    """Read the endpoint of a slice (`{"endpoint": "GET /cart"}`, or null); `None`: all endpoints."""
    return None if plain is None else plain["endpoint"]


def _time(text: str | None) -> datetime | None:
    """Read a time in ISO 8601; `None`: there is none."""
    return None if text is None else datetime.fromisoformat(text)
