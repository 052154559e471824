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

from evaluator.cli.demo_rollout import find_expected_stage
from evaluator.hooks import make_hook, make_router
from evaluator.policy import parse_policy
from evaluator.records.rollouts import Observe
from evaluator.rollout.planning import make_plan
from evaluator.rollout.strategies import STRATEGIES as ALL_STRATEGIES
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
    read_replacements,
    read_traffic,
    start_baseline,
    start_production_router,
)
from evaluator.sources.sample_etcd import start_etcd
from evaluator.sources.sample_policy import STRATEGIES, Times, write_policy
from evaluator.sources.sample_router import start_users

VERSIONS = {"baseline": "1.4.1", "canary": "1.5.0"}
PORTS = {name: {"baseline": (1, 2, 3), "canary": (4, 5, 6)} for name in ENVIRONMENTS}


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
        ("canary", ("", "test", "pre-production", "50 %", "5 %", "5 %", "50 %", "")),
        ("rolling", ("", "first", "first", "first", "first", "first", "first", "")),
        ("ab_test", ("", "10 %", "50 %", "50 %", "10 %", "10 %", "50 %", "50 %")),
        ("blue_green", ("", "test", "pre-production", "switch", "switch", "switch", "", "")),
        ("big_bang", ("", "full", "", "full", "full", "full", "", "")),
    ],
)
def test_the_policy_makes_a_plan_by_each_strategy(tmp_path, strategy, first):
    seen_in = dict(zip(KINDS, first, strict=True))
    environments = Environments(tmp_path, PORTS, 5, tmp_path / "s")
    text = write_policy(environments, "shop@1.5.0", strategy, Times())
    plan = make_plan(parse_policy(yaml.safe_load(text)), "shop@1.5.0")
    assert set(STRATEGIES) == set(ALL_STRATEGIES), "the demo has each way to roll out"
    assert {kind: find_expected_stage(plan, strategy, kind) for kind in KINDS} == seen_in
    shares = [step.share for step in plan.steps if isinstance(step, Observe)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_canary_release_without_test_environments_sees_it_later(tmp_path):
    environments = Environments(tmp_path, PORTS, 5, tmp_path / "s")
    text = write_policy(environments, "shop@1.5.0", "canary", Times(canary_load=False))
    plan = make_plan(parse_policy(yaml.safe_load(text)), "shop@1.5.0")
    assert [find_expected_stage(plan, "canary", kind) for kind in ("errors", "latency")] == ["5 %", "50 %"]


def test_instances_get_one_version_after_the_other_and_the_log_says_which_requests_were_whose(environments, tmp_path):
    start_baseline(environments, VERSIONS, "rolling")
    with start_production_router(environments, "rolling"):
        url = environments.router.url.removeprefix("http://")
        wait_for(lambda: can_connect(url), "the instances")
        environments.run("health", "production", "s1", "1.4.1")
        with pytest.raises(sample_environments.SourceError, match=r"s1 has 1\.4\.1, not 1\.5\.0"):
            environments.run("health", "production", "s1", "1.5.0")
        old = find_processes([f"--end-with {os.getpid()}"])
        environments.run("replace", "production", "s1", "1.4.1")
        assert find_processes([f"--end-with {os.getpid()}"]) == old, "it has this version"
        environments.run("replace", "production", "s1", "1.5.0")
        wait_for(lambda: can_connect(f"127.0.0.1:{environments.instances['s1']}"), "the new version")
        environments.run("health", "production", "s1", "1.5.0")
        with pytest.raises(sample_environments.SourceError, match="no instance s9"):
            environments.run("replace", "production", "s9", "1.5.0")
        replaced, log = read_replacements(tmp_path, VERSIONS), environments.router.log
        at = replaced.by_instance["s1"][-1][0]
        wait_for(lambda: can_connect(url) and read_traffic(log, replaced=replaced).requests["canary"], "its requests")
        assert read_traffic(log, end=at, replaced=replaced).requests["canary"] == 0
        assert sum(read_traffic(log).requests.values()) == 0, "without the replacements it is not known whose they are"


def test_visitors_keep_their_arm_and_their_rows_are_outcomes(environments):
    start_baseline(environments, VERSIONS, "ab_test")
    environments.run("deploy", "production", "canary")
    text = write_policy(environments, "shop@1.5.0", "ab_test", Times())
    router = make_router("haproxy", yaml.safe_load(text)["rollout"]["router"]["shop"]["haproxy"])
    with start_production_router(environments, "ab_test"):
        assert router.read_shares() == {"baseline": 1.0, "canary": 0.0}
        wait_for(lambda: can_connect(environments.router.url.removeprefix("http://")), "the instances")
        router.set_shares({"baseline": 0.5, "canary": 0.5})

        def read_rows():
            text = environments.visits.read_text() if environments.visits.exists() else ""
            return [row.split(",") for row in text.splitlines()[1:]]

        with start_users(environments.router, 10, 10, 60, environments.visits):
            wait_for(lambda: {arm for _, arm, *_ in read_rows()} == set(VERSIONS), "visitors of both arms")
        rows = read_rows()
        assert len({user for user, *_ in rows}) == len(rows), "each is another visitor"
        assert {bought for _, _, bought, _ in rows} <= {"0", "1"}
        assert all(abs(float(seen) - time.time()) < 60 for *_, seen in rows)
        for user, arm, *_ in rows[-4:]:
            asked = urllib.request.Request(f"{environments.router.url}/health", headers={"Cookie": f"shop_user={user}"})
            with urllib.request.urlopen(asked, timeout=5) as answer:
                assert answer.headers["X-Instance"].startswith(arm)
                assert "Set-Cookie" not in answer.headers


def test_a_missing_haproxy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    environments = Environments(tmp_path, {"production": {"baseline": (), "canary": ()}}, 5, tmp_path / "s")
    with pytest.raises(sample_environments.SourceError, match="haproxy is not installed"):
        start_production_router(environments).__enter__()
