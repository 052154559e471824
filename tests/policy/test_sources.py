"""The section `sources`, the metrics of readings, and what is wrong with them, by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from evaluator.errors import PolicyError
from evaluator.policy import load_policy, parse_policy, policy_schema
from evaluator.quantities import parse_quantity
from evaluator.records import Direction, Margin, Query, QueryKind, Role
from evaluator.sources.prometheus.options import Auth, Basic, Tls
from evaluator.sources.prometheus.sets import QUERY_SETS

SERVER = """sources:
  prometheus:
    url: https://prometheus.example.org/prod
    selectors: {baseline: 'version="1.4"', canary: 'version="1.5"'}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "evaluator.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def one_metric(folder: Path, metric: str):
    return load_policy(write(folder, f"{SERVER}metrics:\n  - {metric}\n")).rulebook.rules[0]


def test_all_options_reach_the_source(tmp_path):
    text = """sources:
  prometheus:
    url: https://prometheus.example.org/prod
    selectors: {baseline: 'version="1.4"', canary: 'version="1.5"', b: 'version="1.6"'}
    step: 1m
    instance_label: pod
    endpoint_label: handler
    headers: {X-Team: shop, X-Api-Key: "${KEY}"}
    tenant: team-a
    auth: {basic: {username: ann, password: "${PASSWORD}"}}
    tls: {ca: ca.pem, cert: own.pem, key: own.key}
    timeout: 10s
    max_series: 50
    replica_labels: [ha]
metrics:
  - {name: m, type: gauge_mean, query: "memory{$selector}", margin: 5%}
"""
    options = load_policy(write(tmp_path, text)).prometheus
    assert (options.url, options.step_s, options.timeout) == ("https://prometheus.example.org/prod", 60, 10.0)
    assert list(options.selectors) == ["baseline", "canary", "b"]
    assert (options.instance_label, options.endpoint_label, options.tenant) == ("pod", "handler", "team-a")
    assert options.auth == Auth(basic=Basic(username="ann", password="${PASSWORD}"))
    assert options.tls == Tls(ca="ca.pem", cert="own.pem", key="own.key", verify=True)
    assert (options.max_series, options.replica_labels) == (50, ["ha"])
    assert options.headers == {"X-Team": "shop", "X-Api-Key": "${KEY}"}


@pytest.mark.parametrize(
    ("metric", "queries", "kind", "unit", "scale"),
    [
        (
            (
                "{name: m, type: counter_ratio, failures: 'r_total{$selector,code=\"500\"}', "
                "requests: 'r_total{$selector}', margin: 1pp}"
            ),
            ('r_total{$selector,code="500"}', "r_total{$selector}"),
            QueryKind.COUNTER,
            "",
            1.0,
        ),
        (
            "{name: m, type: histogram_mean, query: 'seconds{$selector}', margin: 5%}",
            ("seconds{$selector}",),
            QueryKind.HISTOGRAM,
            "ms",
            1000.0,
        ),
        (
            "{name: m, type: histogram_mean, query: 'bytes{$selector}', unit: bytes, margin: 5%}",
            ("bytes{$selector}",),
            QueryKind.HISTOGRAM,
            "bytes",
            1.0,
        ),
        (
            "{name: m, type: gauge_max, query: 'a{$selector} / b{$selector}', unit: ratio, margin: 5pp}",
            ("a{$selector} / b{$selector}",),
            QueryKind.GAUGE,
            "fraction",
            1.0,
        ),
        (
            "{name: m, type: gauge_slope, query: 'a{$selector}', margin: 3abs}",
            ("a{$selector}",),
            QueryKind.GAUGE,
            "",
            1.0,
        ),
    ],
)
def test_a_metric_knows_what_it_asks_and_in_which_unit(tmp_path, metric, queries, kind, unit, scale):
    rule = one_metric(tmp_path, metric)
    assert rule.metric.queries == tuple(Query(text, kind) for text in queries)
    assert (rule.metric.scaled_unit, rule.metric.scale) == (unit, scale)


def test_amounts_are_in_the_unit_of_the_metric(tmp_path):
    quantile = one_metric(
        tmp_path,
        "{name: m, type: histogram_quantile, quantile: 0.9, query: 's{$selector}', margin: 20ms, max: 0.4s}",
    )
    assert (quantile.margin, quantile.limit.max, quantile.metric.quantile) == (Margin(20.0, relative=False), 400.0, 0.9)
    share = one_metric(
        tmp_path, "{name: m, type: histogram_share, query: 's{$selector}', below: 0.25s, margin: 1pp, min: 95%}"
    )
    assert (share.metric.below, share.margin, share.limit.min) == (
        parse_quantity("250ms"),
        Margin(0.01, relative=False),
        0.95,
    )
    assert share.direction is Direction.HIGHER


def test_a_gauge_may_be_better_upwards(tmp_path):
    free = one_metric(
        tmp_path, "{name: m, type: gauge_mean, query: 'free{$selector}', direction: higher_is_better, margin: 5%}"
    )
    assert free.direction is Direction.HIGHER


@pytest.mark.parametrize("name", QUERY_SETS)
def test_a_set_adds_its_metrics_to_those_of_the_policy(tmp_path, name):
    policy = load_policy(write(tmp_path, f"{SERVER}    queries: [{name}]\n"))
    names = [rule.name for rule in policy.rulebook.rules]
    assert "latency_p95" in names
    assert names[-len(QUERY_SETS[name]) :] == [metric["name"] for metric in QUERY_SETS[name]]
    again = parse_policy(json.loads(json.dumps(dict(policy.effective))))
    assert again.hash == policy.hash


def test_a_metric_of_ones_own_takes_the_place_of_a_ready_made_one(tmp_path):
    text = f"""{SERVER}    queries: [red-http]
metrics:
  - {{name: http_mean, type: histogram_mean, query: "mine{{$selector}}", margin: 50%}}
"""
    rules = {rule.name: rule for rule in load_policy(write(tmp_path, text)).rulebook.rules}
    assert rules["http_mean"].metric.queries[0].text == "mine{$selector}"
    assert rules["http_failures"].role is Role.GATE
    assert list(rules).count("http_mean") == 1


def test_ready_made_metrics_alone(tmp_path):
    rules = load_policy(write(tmp_path, f"{SERVER}    queries: [red-http]\nmetrics: []\n")).rulebook.rules
    assert {rule.name for rule in rules} == {metric["name"] for metric in QUERY_SETS["red-http"]}
    with pytest.raises(PolicyError, match="must have at least one entry"):
        load_policy(write(tmp_path, f"{SERVER}metrics: []\n"))


METRIC_ERRORS = [
    ("{name: m, type: gauge_mean, margin: 5%}", "query: is missing: gauge_mean needs one, such as"),
    ("{name: m, type: counter_ratio, requests: 'a{$selector}', margin: 1pp}", "failures: is missing"),
    ("{name: m, type: gauge_mean, query: 'a{version=\"1\"}', margin: 5%}", "query: needs $selector where"),
    ("{name: m, type: counter_rate, query: 'rate(a_total{$selector}[5m])', margin: 5%}", "must be the counter itself"),
    ("{name: m, type: histogram_mean, query: 'a_bucket{$selector}', margin: 5%}", "name without _bucket"),
    ("{name: m, type: histogram_mean, query: 'sum(a{$selector})', margin: 5%}", "must be the histogram itself"),
    ("{name: m, type: latency_mean, query: 'a{$selector}', margin: 5%}", "query: is not taken by latency_mean"),
    (
        "{name: m, type: counter_ratio, query: 'a{$selector}', margin: 1pp}",
        "query: is not taken by counter_ratio; give failures and requests",
    ),
    ("{name: m, type: histogram_share, query: 'a{$selector}', margin: 1pp}", "below: is missing: histogram_share"),
    ("{name: m, type: gauge_mean, query: 'a{$selector}', below: 5ms, margin: 5%}", "below: is not taken by gauge_mean"),
    (
        "{name: m, type: histogram_share, query: 'a{$selector}', below: 5%, margin: 1pp}",
        "must be an amount such as 250ms",
    ),
    ("{name: m, type: histogram_quantile, query: 'a{$selector}', margin: 5%}", "quantile: is missing"),
    ("{name: m, type: latency_mean, unit: s, margin: 5%}", "unit: is not taken by latency_mean"),
    (
        "{name: m, type: histogram_mean, query: 'a{$selector}', direction: higher_is_better, margin: 5%}",
        "must be lower_is_better for histogram_mean",
    ),
    ("{name: m, type: gauge_mean, query: 'a{$selector}', margin: 5pp}", "must be relative (5%) or absolute"),
    ("{name: m, type: gauge_meen, query: 'a{$selector}', margin: 5%}", "did you mean 'gauge_mean'"),
]


@pytest.mark.parametrize(("metric", "message"), METRIC_ERRORS)
def test_what_is_wrong_with_a_metric_of_readings(tmp_path, metric, message):
    with pytest.raises(PolicyError) as raised:
        one_metric(tmp_path, metric)
    assert message in raised.value.message
    assert raised.value.message.startswith(f"{tmp_path / 'evaluator.yaml'}:6: ")


SOURCE_ERRORS = [
    ("url: prometheus:9090", "url: must be an address such as http://prometheus:9090"),
    ("url: http://ann:secret@prometheus", "must not hold a password"),
    ("url: ann:pa55@prometheus:9090", "such as http://prometheus:9090, not '[secret]@prometheus:9090'"),
    ("url: ftp://ann:pa55@prometheus", "not 'ftp://[secret]@prometheus'"),
    ("step: 0.5s", "step: must be whole seconds"),
    ("queries: [red-htp]", "did you mean 'red-http'"),
    ("auth: {bearer: abc123}", "must name an environment variable"),
    ("auth: {basic: {username: ann, password: pa55}}", "must name an environment variable"),
    ('auth: {bearer: "${A}", basic: {username: ann, password: "${B}"}}', "takes bearer or basic, not both"),
    ("headers: {Authorization: Bearer abc}", "of Authorization must name an environment variable"),
    ("selectors: {canary: 'version=\"1\"', b: 'version=\"2\"'}", "must have the arm baseline"),
    ("selectors: {baseline: '1.4', canary: '1.5'}", "must be label matchers"),
    ("max_serie: 5", "did you mean 'max_series'"),
]


@pytest.mark.parametrize(("line", "message"), SOURCE_ERRORS)
def test_what_is_wrong_with_a_source(tmp_path, line, message):
    key = line.partition(":")[0]
    remaining = "".join(f"{row}\n" for row in SERVER.splitlines() if not row.strip().startswith(f"{key}:"))
    with pytest.raises(PolicyError) as raised:
        load_policy(write(tmp_path, f"{remaining}    {line}\n    instance_label: pod\n"))
    assert message in raised.value.message
    assert "abc123" not in raised.value.message
    assert "pa55" not in raised.value.message


def test_a_metric_of_readings_needs_a_source(tmp_path):
    first = "{name: a, type: latency_mean, margin: 5%}"
    text = f"metrics:\n  - {first}\n  - {{name: m, type: gauge_mean, query: 'a{{$selector}}', margin: 5%}}\n"
    with pytest.raises(PolicyError, match=r"evaluator.yaml:3: metrics\[1\]: gauge_mean needs sources"):
        load_policy(write(tmp_path, text))


def test_the_schema_describes_sources():
    document = yaml.safe_load(f"{SERVER}    queries: [red-http]\n")
    jsonschema.validate(document, policy_schema())
    document["sources"]["prometheus"]["queries"] = ["nobody"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, policy_schema())
