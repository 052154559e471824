import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evaluator.errors import PolicyError
from evaluator.metrics import METRICS
from evaluator.policy import load_policy, parse_policy, policy_schema, with_learnt
from evaluator.policy.selection import find_policy
from evaluator.records import Direction, InstanceSpread, Learnt, Limit, Margin, Role

STARTER = Path(str(files("evaluator") / "starter" / "evaluator.yaml"))


def write(folder, text):
    path = folder / "evaluator.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def metric(folder, text):
    return load_policy(write(folder, f"metrics:\n  - {{name: m, {text}}}\n")).rulebook.rules[0]


def test_built_in_policy_is_the_documented_one():
    policy = load_policy()
    rules = {rule.name: rule for rule in policy.rulebook.rules}
    assert list(rules) == [
        "failure_rate",
        "latency_p50",
        "latency_p95",
        "latency_p99",
        "redirect_rate",
        "client_error_rate",
        "latency_mean",
        "throughput",
    ]
    assert {rules[name].role for name in ("redirect_rate", "client_error_rate")} == {Role.HOLD}
    assert rules["failure_rate"].margin == Margin(0.001, relative=False)
    assert all(rule.limit == Limit() for rule in rules.values())
    assert [rules[f"latency_p{p}"].margin.value for p in (50, 95, 99)] == [0.05, 0.1, 0.15]
    assert rules["throughput"].direction is Direction.HIGHER
    assert rules["latency_mean"].role is Role.WATCH
    assert (policy.rulebook.alpha, policy.rulebook.warm_up_s, policy.rulebook.mode) == (0.05, None, "block")
    assert (policy.rulebook.scan.margin, policy.rulebook.scan.failure_margin) == (0.25, 0.01)
    assert (policy.rulebook.prior.sd_latency, policy.rulebook.prior.sd_failures) == (0.05, 0.0005)
    assert policy.instance_header == "X-Instance"
    assert policy.origin == "built-in"


@pytest.mark.parametrize(
    "text", [pytest.param("", id="nothing"), pytest.param("# only a comment\n", id="comment"), "version: 1\n", "{}"]
)
def test_an_empty_policy_is_the_built_in_one(tmp_path, text):
    assert load_policy(write(tmp_path, text)).hash == load_policy().hash


def test_the_starter_spells_out_the_built_in_policy():
    policy = load_policy(STARTER)
    assert policy.effective == load_policy().effective
    assert policy.hash == load_policy().hash
    keys = set(yaml.safe_load(STARTER.read_text()))
    assert keys - {"sensitive"} == set(load_policy().effective)


def test_the_effective_policy_is_a_policy_that_means_the_same(tmp_path):
    text = """
service: cart
warm_up: 90s
metrics:
  - {name: a, type: latency_quantile, quantile: 0.9, endpoint: GET /x, margin: 0.02s, max: 0.4s}
  - {name: b, type: failure_rate, margin: 3%, max: 0.5}
  - {name: c, type: throughput, role: hold, margin: 0.07, min: 20}
health: {sample_ratio: {baseline: 9, canary: 1}}
instances: {baseline: 3, canary: 2, sd_latency: 0.1}
"""
    first = load_policy(write(tmp_path, text))
    again = load_policy(write(tmp_path, yaml.safe_dump(dict(first.effective))))
    assert again.effective == first.effective
    assert again.rulebook == first.rulebook
    assert again.hash == first.hash != load_policy().hash
    assert first.services == ("cart",)
    assert first.rulebook.sample_ratio == {"baseline": 0.9, "canary": 0.1}
    assert json.loads(json.dumps(first.effective)) == first.effective


@pytest.mark.parametrize(
    ("text", "margin"),
    [
        ("type: failure_rate, margin: 0.1pp", Margin(0.001, relative=False)),
        ("type: failure_rate, margin: 5%", Margin(0.05, relative=True)),
        ("type: latency_mean, margin: 5%", Margin(0.05, relative=True)),
        ("type: latency_mean, margin: 0.05", Margin(0.05, relative=True)),
        ("type: latency_mean, margin: 20ms", Margin(20.0, relative=False)),
        ("type: latency_mean, margin: 0.5s", Margin(500.0, relative=False)),
        ("type: latency_mean, margin: 250us", Margin(0.25, relative=False)),
        ("type: throughput, margin: 10/s", Margin(10.0, relative=False)),
        ("type: latency_mean, margin: 0", Margin(0.0, relative=True)),
    ],
)
def test_margins(tmp_path, text, margin):
    assert metric(tmp_path, text).margin == margin


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("type: failure_rate, max: 1%", 0.01),
        ("type: failure_rate, max: 0.02", 0.02),
        ("type: latency_mean, max: 400ms", 400.0),
        ("type: latency_mean, max: 0.4s", 400.0),
        ("type: latency_mean, max: 400", 400.0),
        ("type: throughput, max: 50/s", 50.0),
    ],
)
def test_limits(tmp_path, text, limit):
    assert metric(tmp_path, text).limit.max == limit


@pytest.mark.parametrize(
    ("text", "tolerance", "failure_tolerance"),
    [
        ("{}", None, None),
        ("{tolerance: auto, failure_tolerance: auto}", None, None),
        ("{tolerance: 10%, failure_tolerance: 0.2pp}", 0.10, 0.002),
        ("{tolerance: 0.1, failure_tolerance: 0.002}", 0.10, 0.002),
        ("{tolerance: 0%, failure_tolerance: 0pp}", 0.0, 0.0),
        ("{margin: 50%, tolerance: 40%}", 0.40, None),
    ],
)
def test_what_the_scan_tolerates(tmp_path, text, tolerance, failure_tolerance):
    policy = load_policy(write(tmp_path, f"endpoint_scan: {text}"))
    assert (policy.rulebook.scan.tolerance, policy.rulebook.scan.failure_tolerance) == (tolerance, failure_tolerance)
    again = parse_policy(policy.effective)
    assert (again.rulebook.scan, again.hash) == (policy.rulebook.scan, policy.hash)
    assert ("auto" in policy.effective["endpoint_scan"].values()) is (tolerance is None or failure_tolerance is None)


MISTAKES = [
    (
        "metrics:\n- {name: a, type: latency_quantile, quantile: .nan, margin: 5%}",
        2,
        "must be a finite number, not 'nan'",
    ),
    (
        "hooks: {promote: [{command: {set: [s], get: [g], shares: {canary: 120%}}}]}",
        1,
        "must be from 0 to 1, not 1.2",
    ),
    ("endpoint_scan: {tolerance: 30%}", 1, "must be at most margin (25%), got 30%: beyond margin it is NO-GO"),
    ("endpoint_scan: {margin: 5%, tolerance: 10%}", 1, "must be at most margin (5%)"),
    ("endpoint_scan: {failure_tolerance: 2pp}", 1, "must be at most failure_margin (1pp), got 2pp"),
    ("endpoint_scan: {tolerance: -5%}", 1, "must not be negative"),
    ("endpoint_scan: {tolerance: 20ms}", 1, "must be auto or relative to baseline, such as 10%, not 20ms"),
    ("endpoint_scan: {failure_tolerance: 5%}", 1, "is in percentage points: write 5pp instead of 5%"),
    ("endpoint_scan: {tolerance: .nan}", 1, "nan"),
    ("endpoint_scan: {tolerence: 5%}", 1, "did you mean 'tolerance'"),
    ("alpa: 0.1", 1, "did you mean 'alpha'"),
    ("\nalpha: 0.5", 2, "between 0 and 0.5"),
    ("alpha: 0", 1, "between 0 and 0.5"),
    ("alpha: .nan", 1, "nan"),
    ("alpha: .inf", 1, "inf"),
    ("alpha: yes", 1, "True"),
    ("mode: block\nmode: shadow", 2, "given twice, first on line 1"),
    ("- version", 1, "not a list"),
    ("just text", 1, "a single value"),
    ("version: 2", 1, "must be 1"),
    ("mode: shado", 1, "did you mean 'shadow'"),
    ("metrics: []", 1, "at least one entry"),
    ("metrics:", 1, "nothing"),
    ("metrics:\n  - {name: m, type: latency_quantil, margin: 5%}", 2, "did you mean 'latency_quantile'"),
    ("metrics:\n  - name: m\n    type: latency_quantile\n    quantile: 95\n    margin: 5%", 4, "did you mean 0.95"),
    ("metrics:\n  - {name: m, type: latency_quantile, margin: 5%}", 2, "quantile: is missing"),
    ("metrics:\n  - {name: m, type: latency_mean, quantile: 0.5, margin: 5%}", 2, "not taken by latency_mean"),
    ("metrics:\n  - {name: m, type: latency_mean, margin: -5%}", 2, "must not be negative"),
    ("metrics:\n  - {name: m, type: latency_mean, margin: 5pp}", 2, "relative (5%) or absolute"),
    ("metrics:\n  - {name: m, type: latency_mean, margin: 5}", 2, "such as 5ms"),
    ("metrics:\n  - {name: m, type: failure_rate, margin: 20ms}", 2, "such as 5pp"),
    ("metrics:\n  - {name: m, type: failure_rate, margin: 0.1}", 2, "such as 5pp"),
    ("metrics:\n  - {name: m, type: latency_mean, margin: .nan}", 2, "nan"),
    ("metrics:\n  - {name: m, type: throughput, margin: 100%}", 2, "below 100%"),
    ("metrics:\n  - {name: m, type: failure_rate, max: 200%}", 2, "from 0% to 100%"),
    ("metrics:\n  - {name: m, type: latency_mean, min: 9ms, max: 8ms}", 2, "must not be below min (9ms)"),
    ("metrics:\n  - {name: m, type: latency_mean}", 1, "no metric is a gate"),
    ("metrics:\n  - {name: m, type: latency_mean, role: gate}", 2, "needs a margin"),
    ("metrics:\n  - {name: m, type: latency_mean, role: watch}", 1, "no metric is a gate"),
    ("metrics:\n  - {name: m, type: latency_mean, role: gat, margin: 5%}", 2, "did you mean 'gate'"),
    ("metrics:\n  - {name: m, type: latency_mean, margn: 5%}", 2, "did you mean 'margin'"),
    ("metrics:\n  - {name: 95, type: latency_mean, margin: 5%}", 2, "put it in quotes"),
    ("metrics:\n  - {type: latency_mean, margin: 5%}", 2, "name: is missing"),
    (
        "metrics:\n  - {name: m, type: latency_mean, margin: 5%, direction: higher_is_better}",
        2,
        "must be lower_is_better for latency_mean",
    ),
    (
        "metrics:\n  - {name: m, type: latency_mean, margin: 5%}\n  - {name: m, type: latency_mean, margin: 9%}",
        3,
        "two metrics have the name 'm'",
    ),
    ("services:\n  - {name: a}\n  - {name: a}", 3, "two services have the name 'a'"),
    ("stages: {}", 1, "not available in this version"),
    ("monitoring: {mode: anytim}", 1, "did you mean 'anytime'"),
    ("monitoring: {early_go: maybe}", 1, "true or false"),
    ("monitoring: auto", 1, "must be a mapping"),
    ("warm_up: soon", 1, "must be a duration"),
    ("warm_up: -3", 1, "from 0s"),
    ("endpoint_scan: {failure_margin: 1%}", 1, "write 1pp"),
    ("endpoint_scan: {enabled: maybe}", 1, "true or false"),
    ("instances: {baseline: 0}", 1, "must be at least 1, not '0'"),
    ("instances: {header: 'a b'}", 1, "only characters that are allowed"),
    ("health: {coverage: 110%}", 1, "from 0 to 1"),
    ("health:\n  sample_ratio: {baseline: 1}", 2, "part for every arm"),
    ("health: {sample_ratio: {baseline: 0, canary: 1}}", 1, "above 0"),
    ("service: a\nservices: [{name: b}]", 2, "together with service"),
    ("a: [1,\nb: 2", 2, "expected"),
    ("a: 1\n---\nb: 1", 2, "document"),
    ("1: 2", 1, "a key must be text"),
    ("a: 2020-99-99", 1, "cannot be read"),
    ("a: 1\nb: \x07", 2, "U+0007"),
    ("x: &a {b: *a}", 1, "nested too deeply"),
    ("x: !!python/object:os.system {}", 1, "constructor"),
]


@pytest.mark.parametrize(("text", "line", "says"), [pytest.param(*m, id=f"{i}-{m[2]}") for i, m in enumerate(MISTAKES)])
def test_mistakes_are_named_with_their_place(tmp_path, text, line, says):
    path = write(tmp_path, text)
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    message = caught.value.message
    assert f"{path}:{line}: " in message
    assert says in message
    assert "pydantic" not in message


def test_every_mistake_is_named_once(tmp_path):
    with pytest.raises(PolicyError) as caught:
        load_policy(write(tmp_path, "alpha: 7\nmode: x\nwarm_up: y\n"))
    assert [line.split(":")[1] for line in caught.value.message.splitlines()] == ["1", "2", "3"]


def test_a_bomb_of_aliases_is_refused(tmp_path):
    text = "a0: &a0 [1,1,1,1,1,1,1,1,1]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    with pytest.raises(PolicyError, match="not a policy"):
        load_policy(write(tmp_path, text))


def test_anchors_and_merges_may_be_used(tmp_path):
    text = "metrics:\n  - &one {name: a, type: latency_mean, margin: 5%}\n  - {<<: *one, name: b}\n"
    assert [rule.name for rule in load_policy(write(tmp_path, text)).rulebook.rules] == ["a", "b"]


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: None], ids=["folder", "missing"])
def test_a_policy_that_cannot_be_read(tmp_path, make):
    path = tmp_path / "evaluator.yaml"
    make(path)
    with pytest.raises(PolicyError, match="cannot be read") as caught:
        load_policy(path)
    assert caught.value.exit_code == 2


def test_a_policy_in_another_encoding(tmp_path):
    path = tmp_path / "evaluator.yaml"
    path.write_bytes(b"mode: block\nservice: caf\xe9\n")
    with pytest.raises(PolicyError, match=r"evaluator\.yaml:2: not UTF-8"):
        load_policy(path)


def test_the_nearest_policy_upwards_applies(tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    path = write(tmp_path, "")
    assert find_policy(deep) == path
    nearer = write(tmp_path / "a", "")
    assert find_policy(deep) == nearer


def test_published_schema_is_current_and_describes_the_policies():
    published = json.loads((files("evaluator") / "schemas" / "policy.schema.json").read_text())
    assert published == policy_schema(), "run: evaluator policy schema > evaluator/schemas/policy.schema.json"
    jsonschema.validate(dict(load_policy().effective), published)
    jsonschema.validate(yaml.safe_load(STARTER.read_text()), published)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"alpa": 1}, published)


@pytest.mark.parametrize(
    ("metric", "fits"),
    [
        ({"type": "latency_quantile", "quantile": 0.95, "margin": "5%"}, True),
        ({"type": "latency_quantile", "margin": "5%"}, False),
        ({"type": "latency_mean", "quantile": 0.95, "margin": "5%"}, False),
        ({"type": "throughput", "role": "watch", "below": "5ms"}, False),
        ({"type": "outcome_mean", "outcome": "spent", "winsorise": "99%", "margin": "5%"}, True),
        ({"type": "outcome_mean", "outcome": "spent", "wins": "99%", "margin": "5%"}, False),
    ],
)
def test_the_schema_knows_what_each_type_takes(metric, fits):
    validator = jsonschema.Draft202012Validator(policy_schema())
    assert validator.is_valid({"metrics": [{"name": "m", **metric}]}) is fits


def test_every_metric_type_is_named_in_the_starter():
    assert all(name in STARTER.read_text() for name in METRICS)


@given(st.floats(0.0001, 900), st.sampled_from(["%", "ms", "s", "us"]))
def test_spellings_of_a_margin_survive_the_round_trip(tmp_path_factory, number, unit):
    folder = tmp_path_factory.mktemp("policy")
    path = write(folder, f"metrics:\n  - {{name: m, type: latency_mean, margin: {number}{unit}}}\n")
    policy = load_policy(path)
    again = load_policy(write(folder, yaml.safe_dump(dict(policy.effective))))
    assert again.rulebook == policy.rulebook


@given(st.text(max_size=40))
def test_no_text_brings_anything_but_a_policy_or_a_policy_error(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("policy") / "evaluator.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        load_policy(path)
        message = f"{path}:"
    except PolicyError as error:
        message = error.message
    assert message.startswith(f"{path}:")


# ------------------------------------------------------------------ what history says of instances


@pytest.mark.parametrize(
    ("text", "learnt", "latency"),
    [
        pytest.param("", None, 0.05, id="nothing learnt"),
        pytest.param("", Learnt(0.01, 0.0001, 4, 2, 12.0), 0.05, id="too few comparisons"),
        pytest.param("", Learnt(0.01, 0.0001, 12, 6, 37.0), 0.0167, id="pooled with the built-in value"),
        pytest.param("", Learnt(0.09, 0.0001, 12, 6, 37.0), 0.09, id="never below what was learnt"),
        pytest.param("", Learnt(None, None, 12, 6, 37.0), 0.05, id="nothing known of latency"),
        pytest.param("instances: {sd_latency: 8%}", Learnt(0.01, 0.0001, 12, 6, 37.0), 0.08, id="said, and larger"),
        pytest.param("instances: {sd_latency: 2%}", Learnt(0.03, 0.0001, 12, 6, 37.0), 0.03, id="said, and smaller"),
    ],
)
def test_history_says_how_much_instances_differ(tmp_path, text, learnt, latency):
    policy = load_policy(write(tmp_path, text))
    judged = with_learnt(policy, learnt)
    assert judged.rulebook.prior.sd_latency == pytest.approx(latency, abs=6e-5)
    assert replace(judged.rulebook, prior=policy.rulebook.prior) == policy.rulebook
    unchanged = judged.rulebook.prior == policy.rulebook.prior
    assert unchanged == (judged.hash == policy.hash) == (judged.effective == policy.effective)


def test_what_was_learnt_of_instances_and_drift_reaches_the_judge():
    learnt = Learnt(0.03, 0.0001, 12, 6, 37.0, 0.012, 0.0004, 7, 5)
    judged = with_learnt(load_policy(), learnt)
    prior = judged.rulebook.prior
    assert prior.latency == InstanceSpread(prior.sd_latency, 12, 0.012, 7)
    assert prior.failures == InstanceSpread(prior.sd_failures, 12, 0.0004, 7)
    assert judged.effective["instances"]["history"]["between_arms_comparisons"] == 7
    assert with_learnt(judged, learnt).hash == judged.hash  # what the file says of history stands


def test_history_can_be_stated_in_the_file(tmp_path):
    text = (
        "instances: {sd_latency: 2%, history: {comparisons: 8, between_arms_latency: 1%, between_arms_comparisons: 6}}"
    )
    prior = load_policy(write(tmp_path, text)).rulebook.prior
    assert prior.latency == InstanceSpread(0.02, 8, 0.01, 6)


OPTIONS = {
    "quantile": "0.95",
    "outcome": "x",
    "per": "y",
    "below": "250ms",
    "query": "'m{$selector}'",
    "failures": "'f{$selector}'",
    "requests": "'r{$selector}'",
}
"""Values of the options that some types of metrics need."""


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_any_type_without_bounds_is_shown_only(tmp_path, name):
    required = [key for key, field in METRICS[name].model_fields.items() if field.is_required()]
    text = ", ".join([f"type: {name}", *(f"{key}: {OPTIONS[key]}" for key in required)])

    def read_role(bounds):
        """Role of the metric in a policy that has a gate besides."""
        selectors = "{baseline: 'v=\"1\"', canary: 'v=\"2\"'}"
        policy = f"""
sources: {{prometheus: {{url: 'http://127.0.0.1:9', selectors: {selectors}}}}}
metrics:
  - {{name: gate, type: failure_rate, margin: 1pp}}
  - {{name: m, {text}{bounds}}}
"""
        return load_policy(write(tmp_path, policy)).rulebook.rules[1].role

    assert read_role("") is Role.WATCH
    assert read_role(", margin: null") is Role.WATCH
    margin = "5pp" if METRICS[name].both_directions else "5%"
    assert read_role(f", margin: {margin}") is Role.GATE
    for role in ("gate", "hold"):
        with pytest.raises(PolicyError, match=f"a {role} needs a margin, a min or a max; without role it is shown"):
            read_role(f", role: {role}")


def test_no_go_may_have_a_smaller_level_than_alpha(tmp_path):
    """Without the key, or with the value of alpha, the policy and its hash are as before."""
    plain, same, smaller = (
        parse_policy({"alpha": 0.04} | key) for key in ({}, {"alpha_no_go": "4%"}, {"alpha_no_go": 0.01})
    )
    assert "alpha_no_go" not in plain.effective
    assert plain.hash == same.hash != smaller.hash
    levels = [policy.rulebook.no_go_level for policy in (plain, same, smaller)]
    assert levels == [0.04, 0.04, 0.01]
    assert parse_policy(smaller.effective).hash == smaller.hash
    file = tmp_path / "evaluator.yaml"
    file.write_text("alpha: 1%\nalpha_no_go: 2%\n")
    with pytest.raises(PolicyError, match=r"evaluator.yaml:2: alpha_no_go: must be at most alpha \(0.01\), not 0.02"):
        load_policy(file)
