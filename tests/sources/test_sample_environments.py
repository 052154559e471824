"""The environments of the demo of rollouts: their program, their router, and that nothing of them is left."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml
from hooks_world import make_context
from metrics_servers import wait_for

from evaluator.hooks import make_hook, make_router
from evaluator.policy import parse_policy
from evaluator.records.rollouts import Act, Observe
from evaluator.rollout.planning import make_plan
from evaluator.sources import sample_environments
from evaluator.sources.sample_environments import (
    ENVIRONMENTS,
    KINDS,
    Environments,
    count_sessions,
    end_processes,
    find_processes,
    list_traces,
    parse_log_time,
    prepare_environments,
    read_traffic,
    start_production_router,
)
from evaluator.sources.sample_etcd import start_etcd
from evaluator.sources.sample_policy import Times, find_first_stage, write_policy

VERSIONS = {"baseline": "1.4.1", "canary": "1.5.0"}


@pytest.fixture
def environments(tmp_path):
    with prepare_environments(tmp_path, VERSIONS, "errors", instances=2) as made:
        yield made


def ask(address, path="/health"):
    with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
        return json.load(answer)


def test_the_program_starts_nothing_twice_and_finds_what_runs_without_files(environments, tmp_path):
    [first, second] = environments.list_addresses("test", "canary")
    environments.run("deploy", "test", "canary")
    environments.run("deploy", "test", "canary")
    wait_for(lambda: can_connect(first) and can_connect(second), "the instances")
    assert ask(first) == {"endpoint": "GET /health", "version": "1.5.0"}
    assert len(find_processes([f"--end-with {os.getpid()}"])) == 2
    environments.run("teardown", "test")
    assert not find_processes([f"--end-with {os.getpid()}"])
    environments.run("teardown", "test")  # there is nothing left, which is no mistake
    environments.run("configure", "production")
    assert (tmp_path / "production.configuration").read_text() == "version: 1.5.0\n"
    environments.run("restore", "production")
    assert (tmp_path / "production.configuration").read_text() == "version: 1.4.1\n"
    with pytest.raises(sample_environments.SourceError, match="invalid choice: 'fly'"):
        environments.run("fly", "production")


def can_connect(address):
    try:
        ask(address)
    except OSError:
        return False
    return True


def test_the_configuration_in_etcd_has_an_effect_that_is_measured_and_its_undo_takes_it_back(tmp_path):
    with (
        start_etcd(tmp_path) as url,
        prepare_environments(tmp_path, VERSIONS, "configuration", instances=1, etcd=url) as environments,
    ):
        acts = yaml.safe_load(write_policy(environments, "shop@1.5.0", "canary", Times()))["rollout"]["acts"]
        [entry] = next(act for act in acts["5 %"] if act["name"] == "configure production")["hooks"]
        hook = make_hook("etcd", entry["etcd"])
        environments.run("deploy", "production")
        [[baseline], [candidate]] = [environments.list_addresses("production", arm) for arm in VERSIONS]
        wait_for(lambda: can_connect(baseline) and can_connect(candidate), "the instances")

        def measure(address):
            began = time.monotonic()
            for _ in range(5):
                ask(address, "/products")
            return time.monotonic() - began

        assert measure(candidate) < 2 * measure(baseline)
        done = hook.execute(make_context())
        assert done.state == "acknowledged", done
        wait_for(
            lambda: measure(candidate) > 2 * measure(baseline), "a page of the candidate takes three times as long"
        )
        assert hook.undo(make_context(), done.earlier).state == "acknowledged"
        wait_for(lambda: measure(candidate) < 2 * measure(baseline), "it takes as long as before")
        hook_of_nonsense = make_hook("etcd", entry["etcd"] | {"value": '{"page": "many"}'})
        assert hook_of_nonsense.execute(make_context()).state == "acknowledged"
        time.sleep(2 * 0.5)  # it is read twice
        assert measure(candidate) < 2 * measure(baseline)


def test_a_configuration_without_etcd_is_refused(tmp_path):
    with (
        pytest.raises(sample_environments.SourceError, match="the regression configuration needs etcd"),
        prepare_environments(tmp_path, VERSIONS, "configuration"),
    ):
        pass


def test_instances_end_with_the_process_that_they_belong_to(environments, tmp_path):
    with subprocess.Popen(["sleep", "60"]) as owner:
        settings = json.loads((tmp_path / "environments.json").read_text())
        (tmp_path / "environments.json").write_text(json.dumps(settings | {"end_with": owner.pid}))
        environments.run("deploy", "test", "canary")
        assert len(find_processes([f"--end-with {owner.pid}"])) == 2
        owner.kill()
    wait_for(lambda: not find_processes([f"--end-with {owner.pid}"]), "their end")


def test_a_reload_of_the_router_keeps_the_shares(environments, tmp_path):
    environments.run("deploy", "production")
    options = yaml.safe_load(write_policy(environments, "shop@1.5.0", "canary", Times()))["rollout"]["router"]["shop"]
    router = make_router("haproxy", options["haproxy"])
    with start_production_router(environments):
        assert router.read_shares() == {"baseline": 1.0, "canary": 0.0}
        router.set_shares({"baseline": 0.75, "canary": 0.25})
        subprocess.run([str(tmp_path / "reload.sh")], check=True)
        wait_for(lambda: (tmp_path / "haproxy.errors").read_text().count("Loading success") == 2, "the reload")
        assert router.read_shares() == {"baseline": 0.75, "canary": 0.25}
        for _ in range(40):
            ask(environments.router.url.removeprefix("http://"), "/health")
        wait_for(lambda: sum(read_traffic(environments.router.log).requests.values()) == 40, "the log")
        traffic = read_traffic(environments.router.log)
        assert traffic.candidate_share == pytest.approx(0.25, abs=0.06)
        assert sum(count_sessions(environments.socket).values()) == 40
        assert abs(traffic.last_of_candidate - time.time()) < 60
        assert read_traffic(environments.router.log, end=traffic.last_of_candidate).requests["canary"] < 10
    traces = list_traces(environments, tmp_path / "x.duckdb")
    environments.run("teardown", "production")
    assert end_processes(traces, 5.0) == []


def test_what_does_not_end_by_itself_is_ended_and_named(tmp_path):
    environments = Environments(tmp_path, {}, 1, tmp_path / "s")
    [_, trace, *_] = list_traces(environments, tmp_path / "x.duckdb")
    program = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    words = [sys.executable, "-c", program, "-f", str(tmp_path / "haproxy.cfg")]
    with subprocess.Popen(words) as stubborn:
        wait_for(lambda: find_processes([trace]), "its start")
        [left] = end_processes([trace], 0.3)
        assert left.endswith(trace)
        assert stubborn.wait(10) == -signal.SIGKILL


def test_times_of_the_log_are_utc():
    assert parse_log_time("29/Nov/2026:21:00:00.123") == pytest.approx(1795986000.123)


@pytest.mark.parametrize(
    ("strategy", "first"),
    [
        ("canary", ("", "test", "pre-production", "50 %", "5 %", "5 %", "50 %")),
        ("blue_green", ("", "test", "pre-production", "switch", "switch", "switch", "")),
        ("big_bang", ("", "full", "", "full", "full", "full", "")),
    ],
)
def test_the_policy_makes_a_plan_by_each_strategy(tmp_path, strategy, first):
    seen_in = dict(zip(KINDS, first, strict=True))
    ports = {name: {"baseline": (1, 2), "canary": (3, 4)} for name in ENVIRONMENTS}
    environments = Environments(tmp_path, ports, 5, tmp_path / "s")
    text = write_policy(environments, "shop@1.5.0", strategy, Times())
    plan = make_plan(parse_policy(yaml.safe_load(text)), "shop@1.5.0")
    stages = [step.name for step in plan.steps if isinstance(step, Observe)]
    with_users = [step.stage for step in plan.steps if isinstance(step, Act) and step.is_shift]
    assert {kind: find_first_stage(strategy, kind, with_users) for kind in KINDS} == seen_in
    assert set(seen_in.values()) <= {"", *stages}
    shares = [step.share for step in plan.steps if isinstance(step, Act) and step.is_shift]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_missing_haproxy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    environments = Environments(tmp_path, {"production": {"baseline": (), "canary": ()}}, 5, tmp_path / "s")
    with pytest.raises(sample_environments.SourceError, match="haproxy is not installed"):
        start_production_router(environments).__enter__()
