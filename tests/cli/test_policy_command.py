import json

import pytest

from evaluator.__main__ import run
from evaluator.policy import load_policy


@pytest.fixture
def policy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evaluator.yaml"
    path.write_text("alpha: 0.1\n")
    return path


def test_check_names_the_file_and_its_gates(policy, capfd):
    assert run(["policy", "check"]) == 0
    shown_only = "shown only, because of role: watch or without margin: latency_mean, throughput"
    gates = "failure_rate, latency_p50, latency_p95, latency_p99"
    holds = "redirect_rate, client_error_rate"
    assert capfd.readouterr().out == f"{policy}: ok; gates: {gates}; holds: {holds}; {shown_only}\n"


def test_check_names_metrics_that_decide_nothing(policy, capfd):
    revenue = "{name: revenue, type: outcome_mean, outcome: amount}"
    policy.write_text(f"metrics: [{revenue}]\n")
    assert run(["policy", "check"]) == 2
    assert "no metric is a gate" in capfd.readouterr().err
    policy.write_text(
        f"metrics: [{revenue}, {{name: a, type: throughput, margin: 5%}}, {{name: b, type: latency_mean, role: hold, "
        "margin: 5%}]\n"
    )
    assert run(["policy", "check"]) == 0
    parts = "gates: a; holds: b; shown only, because of role: watch or without margin: revenue"
    assert capfd.readouterr().out == f"{policy}: ok; {parts}\n"


def test_check_of_a_mistake(policy, capfd):
    policy.write_text("alpha: 0.1\nalpa: 1\n")
    assert run(["policy", "check"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{policy}:2: alpa: " in err


def test_show_writes_a_policy_that_means_the_same(policy, capfd):
    assert run(["policy", "show"]) == 0
    shown = capfd.readouterr().out
    assert shown.startswith(f"# from {policy}\n# sha256:")
    original = load_policy(policy).hash
    policy.write_text(shown)
    assert load_policy(policy).hash == original


def test_show_as_json(policy, capfd):
    assert run(["policy", "show", "--format", "json"]) == 0
    loaded = load_policy(policy)
    assert json.loads(capfd.readouterr().out) == {**loaded.effective, **loaded.afterwards}


def test_the_policy_of_the_option_wins_over_the_folder(policy, tmp_path, monkeypatch, capfd):
    other_policy = tmp_path / "other.yaml"
    other_policy.write_text("alpha: 0.2\n")
    for args in (["policy", "show", "--policy", "other.yaml"], ["policy", "show", "other.yaml"]):
        run(args)
        assert "alpha: 0.2" in capfd.readouterr().out
    monkeypatch.setenv("EVALUATOR_POLICY", "other.yaml")
    run(["policy", "show"])
    assert "alpha: 0.2" in capfd.readouterr().out


def test_schema(capfd):
    assert run(["policy", "schema"]) == 0
    assert json.loads(capfd.readouterr().out)["title"] == "PolicyFile"


def test_a_tree_that_is_not_installed_has_no_schema(monkeypatch, capfd):
    monkeypatch.setattr("evaluator.hooks.HOOKS", {})
    assert run(["policy", "schema"]) == 2
    out, err = capfd.readouterr()
    assert not out
    assert "a tree that is not installed" in err
    assert "install it first" in err
