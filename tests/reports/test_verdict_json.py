import dataclasses
import json
from datetime import datetime, timedelta, timezone
from importlib.resources import files

import jsonschema
import pytest

from evaluator.records import Window
from evaluator.reports import to_json

KINDS = ["go", "no_go", "inconclusive", "no_data", "hostile", "three_arms"]


@pytest.fixture(scope="module")
def schema():
    return json.loads((files("evaluator") / "schemas" / "verdict.schema.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_every_verdict_follows_the_published_schema(verdicts, schema, kind):
    text = to_json(verdicts[kind])
    jsonschema.validate(json.loads(text), schema)
    assert text.isascii()
    assert text == to_json(dataclasses.replace(verdicts[kind]))


def test_keys_are_those_of_the_contract_in_order(verdicts):
    plain = json.loads(to_json(verdicts["no_go"]))
    assert list(plain) == [
        "schema_version",
        "release",
        "verdict",
        "reasons",
        "next_action",
        "time_to_decision_s",
        "judge",
        "monitoring",
        "alpha",
        "services",
        "arms",
        "window",
        "incomplete",
        "mode",
        "override",
        "policy",
        "queries",
        "policy_hash",
        "data_hash",
        "evaluator_version",
        "judged_at",
        "metrics",
        "health",
    ]
    assert list(plain["metrics"][0]) == [
        "name",
        "type",
        "role",
        "arm",
        "slice",
        "status",
        "baseline",
        "canary",
        "unit",
        "effect",
        "margin",
        "limit",
        "instances",
        "direction",
        "method",
        "p_value",
        "p_value_adjusted",
        "detectable_effect",
        "reason",
    ]
    assert plain["reasons"][0] == {
        "code": "regression",
        "metric": "latency_mean",
        "arm": "canary",
        "slice": {"endpoint": "POST /orders"},
        "text": "p95 of POST /orders rose 41 % (90 % CI +33 % to +50 %), more than the 25 % allowed",
    }
    assert plain["metrics"][3]["slice"] == {"endpoint": "POST /checkout"}
    assert plain["metrics"][3]["limit"] == {"min": None, "max": 400.0}
    assert plain["health"][2]["status"] == "warn"


def test_floats_have_nine_significant_digits(verdicts):
    plain = json.loads(to_json(verdicts["go"]))
    assert plain["metrics"][0]["p_value"] == 0.0123456789


def test_what_is_not_finite_is_null(verdicts):
    text = to_json(verdicts["inconclusive"])
    p95 = json.loads(text)["metrics"][2]
    assert p95["effect"] == {"kind": "relative", "estimate": None, "lower": -0.02, "upper": None}
    assert p95["canary"] == {"value": None, "n": 84590}
    assert json.loads(to_json(verdicts["no_data"]))["metrics"][1]["baseline"]["value"] is None
    assert "Infinity" not in text


def test_no_data_says_why(verdicts):
    assert json.loads(to_json(verdicts["no_data"]))["metrics"][1]["reason"] == "no requests on canary"


def test_times_are_utc(verdicts):
    local = datetime(2026, 11, 2, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    evidence = dataclasses.replace(verdicts["go"].evidence, window=Window(local, None))
    plain = json.loads(to_json(dataclasses.replace(verdicts["go"], evidence=evidence)))
    assert plain["window"] == {"start": "2026-11-02T10:00:00Z", "end": None, "seconds": 0.0}
