"""A verdict read back from its JSON, and everything that is not one."""

import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import pytest

from evaluator.errors import InputError
from evaluator.metrics import METRICS
from evaluator.policy import parse_policy
from evaluator.records import Comparison, Level, Limit, Margin
from evaluator.reports import FORMATS, Page, from_json, to_json
from evaluator.reports.verdict_json import SCHEMA_VERSION

KINDS = ["go", "no_go", "inconclusive", "no_data", "hostile", "three_arms"]
SCHEMA = json.loads((files("evaluator") / "schemas" / "verdict.schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_written_the_same(verdicts, kind):
    text = to_json(verdicts[kind])
    jsonschema.validate(json.loads(text), SCHEMA)
    assert to_json(from_json(text)) == text


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["go", "no_go", "hostile", "three_arms"])
def test_a_format_is_the_same_from_the_verdict_and_from_its_json(verdicts, kind, name):
    verdict = verdicts[kind]
    assert FORMATS[name](from_json(to_json(verdict)), Page(120)) == FORMATS[name](verdict, Page(120))


def test_a_quantile_that_became_a_failure_is_one_after_reading_too(verdicts):
    verdict = verdicts["inconclusive"]
    back = FORMATS["human"](from_json(to_json(verdict)), Page(120))
    p95 = next(line for line in back.splitlines() if line.startswith("  p95 ") and "gate" in line)
    assert p95 in FORMATS["human"](verdict, Page(120))
    assert "failed" in p95
    assert "+∞ % (−2 … +∞)" in p95


def test_findings_keep_what_to_do_and_what_they_void(verdicts):
    back = from_json(to_json(verdicts["inconclusive"])).evidence.findings
    assert back == verdicts["inconclusive"].evidence.findings
    assert [finding.void for finding in back if finding.level is Level.FAIL] == [False, True]


def test_a_margin_keeps_its_scale_without_an_effect(verdicts):
    back = from_json(to_json(verdicts["no_data"])).evidence.comparisons
    assert [row.rule.margin for row in back] == [Margin(0.001, relative=False), Margin(0.1)]
    assert back[0].rule.limit == Limit(max=0.01)
    assert back[1].no_data == "no requests on canary"


def test_figures_are_kept_where_there_are_some(verdicts):
    plain = to_json(verdicts["go"])
    assert '"figures"' not in plain
    figures = {"version": 1, "timeline": [{"at_s": 1.5, "p95": None}], "ecdf": {}}
    text = to_json(replace(verdicts["go"], figures=figures))
    jsonschema.validate(json.loads(text), SCHEMA)
    assert from_json(text).figures == figures
    assert to_json(from_json(text)) == text


def test_a_verdict_that_was_stored_before_the_optional_keys_can_be_read(verdicts):
    plain = json.loads(to_json(verdicts["inconclusive"]))
    del plain["window"]["seconds"]
    for row in plain["metrics"]:
        row.pop("quantile", None)
    for finding in plain["health"]:
        finding.pop("remedy", None)
        finding.pop("void", None)
    text = json.dumps(plain, indent=2)
    assert to_json(from_json(text)) == text
    assert "judged on 84,112 + 84,590 requests" in FORMATS["human"](from_json(text), Page(120))


OPTIONS = {
    "quantile": 0.9,
    "outcome": "revenue",
    "per": "rows",
    "covariates": ["before", "country"],
    "winsorise": "99.5%",
    "query": "http_request_duration_seconds{$selector}",
    "failures": 'http_requests_total{$selector,code=~"5.."}',
    "requests": "http_requests_total{$selector}",
    "unit": "us",
    "below": "250ms",
}

SERVER = {"url": "http://prometheus:9090", "selectors": {"baseline": 'version="1"', "canary": 'version="2"'}}


ABSOLUTE = ("redirect_rate", "client_error_rate")
"""Metrics whose margin cannot be relative."""


@pytest.fixture
def of_every_type(verdicts):
    """A verdict with a metric of every type, and every option of it set."""
    sections = [
        {"name": f"my {name}", "type": name, "margin": "5pp" if name in ABSOLUTE else "5%"}
        | {key: OPTIONS[key] for key in kind.model_fields}
        for name, kind in METRICS.items()
    ]
    policy = parse_policy({"metrics": sections, "sources": {"prometheus": SERVER}})
    measured = verdicts["go"].evidence.comparisons
    row_of_kind = {kind: next(r for r in measured if r.effect.kind == kind) for kind in ("relative", "absolute")}
    rows = tuple(
        replace(
            row_of_kind["absolute" if rule.type in ABSOLUTE else "relative"], rule=rule, unit=rule.metric.value_unit
        )
        for rule in policy.rulebook.rules
    )
    evidence = replace(verdicts["go"].evidence, comparisons=rows)
    return replace(verdicts["go"], evidence=evidence, policy=policy.effective)


def test_every_metric_is_read_back_with_all_its_options(of_every_type):
    text = to_json(of_every_type)
    jsonschema.validate(json.loads(text), SCHEMA)
    metrics, back = ([row.rule.metric for row in v.evidence.comparisons] for v in (of_every_type, from_json(text)))
    assert back == metrics
    assert len(back) == len(METRICS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_says_all_options_of_a_metric_that_was_read_back(of_every_type, name):
    written = FORMATS[name](of_every_type, Page(120))
    assert FORMATS[name](from_json(to_json(of_every_type)), Page(120)) == written
    if name == "junit":
        assert "my outcome_mean (winsorised at 99.5 %)" in written


def test_options_that_a_metric_has_no_longer_are_an_error_that_says_what_to_do(of_every_type):
    plain = json.loads(to_json(of_every_type))
    metric = next(candidate for candidate in plain["policy"]["metrics"] if candidate["type"] == "histogram_share")
    del metric["below"]
    assert "another version of HistogramShare: the option 'below' in its policy" in sentence(json.dumps(plain))


def test_a_row_of_the_scan_is_known_by_its_method(verdicts):
    rows = from_json(to_json(verdicts["no_go"])).evidence.comparisons
    assert [row.scan for row in rows] == [row.scan for row in verdicts["no_go"].evidence.comparisons]
    assert all(isinstance(row, Comparison) for row in rows)


def sentence(text):
    with pytest.raises(InputError) as caught:
        from_json(text, "v.json")
    message = caught.value.message
    assert message.startswith("v.json ")
    assert message.isprintable()
    assert len(message) < 500
    assert caught.value.hint
    return message


def test_a_file_that_is_cut_off_anywhere_is_refused(verdicts):
    text = to_json(verdicts["no_go"])
    for end in range(0, len(text), 97):
        assert "is not JSON" in sentence(text[:end])
    assert "cut off in line" in sentence(text[: len(text) // 2].rsplit(",", 1)[0])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        ("  \n", "it is empty"),
        ("NO-GO ✗ cart", "line 1, column 1"),
        ("[]", "not a verdict"),
        ("null", "not a verdict"),
        ("1", "not a verdict"),
        ('{"metrics": {"http_reqs": {"count": 1}}, "root_group": {}}', "no schema_version"),
        ('{"schema_version": true}', "no schema_version"),
        ('{"schema_version": "1"}', "no schema_version"),
        (f'{{"schema_version": {SCHEMA_VERSION + 1}}}', "has schema version 2"),
        ('{"schema_version": 1}', "is a required property"),
        ('{"schema_version": 0}', "has schema version 0"),
        ('{"schema_version": 1, "alpha": NaN}', "NaN is not a JSON number"),
        ('{"schema_version": ' + "9" * 5000 + "}", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
    ids=lambda value: value[:24],
)
def test_what_is_foreign_is_refused_in_one_sentence(text, says):
    assert says in sentence(text)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("verdict",), "maybe", "at verdict"),
        (("judged_at",), "yesterdayZ", "Invalid isoformat"),
        (("metrics",), {}, "at metrics"),
        (("metrics", 0, "status"), "great", "at metrics.0.status"),
        (("metrics", 0, "effect", "kind"), "\x1b[31m", "at metrics.0.effect"),
        (("metrics", 0, "instances"), [1], "at metrics.0.instances"),
        (("reasons",), [], "at reasons"),
        (("services", 0, "owner"), "me", "at services.0"),
        (("release",), ["x" * 100_000], "at release"),
    ],
    ids=str,
)
def test_what_is_nearly_a_verdict_is_refused_with_the_place(verdicts, path, value, says):
    plain = json.loads(to_json(verdicts["no_go"]))
    inner = plain
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert says in sentence(json.dumps(plain))


def test_a_policy_that_is_nested_too_deeply_is_refused(verdicts):
    deep = '{"a":' * 90_000 + "1" + "}" * 90_000
    text = to_json(verdicts["go"]).replace('"policy": {', f'"policy": {{"deep": {deep},', 1)
    assert "is not JSON" in sentence(text)


def test_a_byte_order_mark_is_not_held_against_it(verdicts):
    text = to_json(verdicts["go"])
    assert to_json(from_json("\ufeff" + text)) == text


def test_a_type_of_metric_that_is_not_known_is_an_error_that_names_the_file(of_every_type):
    plain = json.loads(to_json(of_every_type))
    row = next(row for row in plain["metrics"] if row["type"] == "failure_rate")
    row["type"] = "goodput"
    with pytest.raises(InputError, match=r"v\.json is of another version of the evaluator: .*'goodput'"):
        from_json(json.dumps(plain), origin="v.json")
