"""`evaluator load --router`, and a recorder by hand: real Locust, through a real router, which names the server."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from routers import haproxy_router, nginx_router, service

from evaluator.__main__ import run
from evaluator.pipeline.landing import land_release
from evaluator.records import RunState
from evaluator.sources.load import free_port
from evaluator.store import Store

LOCUSTFILE = """
from locust import FastHttpUser, HttpUser, constant_throughput, task

class Reader(FastHttpUser):
    wait_time = constant_throughput(10)

    @task
    def read(self):
        self.client.get("/read")

class Buyer(HttpUser):
    wait_time = constant_throughput(10)

    @task
    def buy(self):
        with self.client.post("/buy", catch_response=True) as response:
            if response.status_code == 200:
                response.json()  # fails: the request ends without an event
"""
QUIET = LOCUSTFILE.replace("response.json()", "response.success()")

SERVER = "http-after-response set-header X-Arm %[srv_name]"
RETRIES = "http-after-response set-header X-Retries %rc"
ARMS = ["--arm-value", "baseline=b*", "--arm-value", "canary=c*", "--share", "canary=50%"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locustfile.py").write_text(QUIET)
    return tmp_path


def load(router, *words, seconds=3):
    address = f"http://127.0.0.1:{router.port}"
    options = ["--users", "4", "--spawn-rate", "20", "--run-time", f"{seconds}s", "-q"]
    return run(["load", "cart@2", "--router", address, *options, *words])


def read_run():
    return Store.open("evaluator.duckdb").data.runs("cart@2")[-1]


def count_rows():
    rows = Store.open("evaluator.duckdb").data.query(
        "SELECT arm, instance, failed, count(*) AS n FROM requests GROUP BY ALL ORDER BY ALL"
    )
    return {(row["arm"], row["instance"], row["failed"]): row["n"] for row in rows.to_pylist()}


def judge(capsys):
    """Word of the verdict, and its findings that are not good: name → level and text."""
    capsys.readouterr()
    run(["verdict", "cart@2", "--format", "json", "-q"])
    verdict = json.loads(capsys.readouterr().out)
    findings = {check["check"]: (check["status"], check["text"]) for check in verdict["health"]}
    return verdict["verdict"], findings


def test_each_request_belongs_to_the_server_that_answered(place, capsys):
    header = f"{SERVER}\n  {RETRIES}\n  http-after-response set-header X-Instance node-%[srv_name]"
    with service("b1") as b1, service("c1") as c1, service("c2") as c2:
        servers = {"b1": b1.port, "c1": c1.port, "c2": c2.port}
        with haproxy_router(place, servers, weights={"b1": 2}, frontend=header) as router:
            assert load(router, *ARMS, "--step", "half", "--processes", "2") == 0
    landed = read_run()
    # Requests that were sent when the users were stopped have no answer, and none of them waited for long.
    counted = {name: len(server.paths) for name, server in (("b1", b1), ("c1", c1), ("c2", c2))}
    rows = {instance.removeprefix("node-"): n for (_, instance, _), n in count_rows().items()}
    assert {arm for arm, _, _ in count_rows()} == {"baseline", "canary"}
    assert all(0 <= counted[name] - rows[name] <= 4 for name in counted)
    assert landed.facts.counted == landed.landed == sum(rows.values()) == landed.facts.router.answers > 10
    assert (landed.facts.router.without_server, landed.facts.users) == (0, {})
    assert (landed.shares, landed.step) == ({"baseline": 0.5, "canary": 0.5}, "half")
    word, findings = judge(capsys)
    assert word == "inconclusive"  # too short
    assert findings["router"][0] == "ok"
    assert findings["coverage"][0] == "ok"
    assert "share their users" in findings["pacing"][1]
    assert "users assigned" not in findings["sample_ratio"][1]


def test_failures_that_no_server_saw_belong_to_no_arm_and_forbid_a_go(place, capsys):
    sick = f"backend sick\n  server c1 127.0.0.1:{free_port()} check inter 100ms fall 1\ndefaults\n  mode http\n"
    sick += "  timeout connect 200ms\n  timeout client 2s\n  timeout server 1s\n  log global\n  option httplog"
    front = f"{SERVER}\n  {RETRIES}\n  use_backend sick if {{ rand(2) eq 0 }}"
    with (
        service("b1") as b1,
        haproxy_router(place, {"b1": b1.port}, frontend=front, defaults=sick) as router,
    ):
        assert load(router, *ARMS) == 0
    router_facts = read_run().facts.router
    assert router_facts.without_server == router_facts.without_server_failures >= 5
    assert not [key for key in count_rows() if key[0] == "canary" and key[1] != "c1"]
    word, findings = judge(capsys)
    assert word == "inconclusive"
    assert findings["without_server"][0] == "fail"
    assert "no server is named as the cause" in findings["without_server"][1]
    assert findings["coverage"][0] == "ok"


def test_a_router_that_names_no_server_is_an_error_with_the_lines_of_its_configuration(place, capsys):
    with service("b1") as b1, haproxy_router(place, {"b1": b1.port}) as router:
        assert load(router, *ARMS, seconds=2) == 4
    error = capsys.readouterr().err
    assert "no answer of run" in error
    assert "http-after-response set-header X-Arm %[srv_name]" in error
    assert "add_header X-Arm $upstream_addr always;" in error
    word, findings = judge(capsys)
    assert word == "inconclusive"
    assert findings["without_server"][0] == "fail"


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_load_whose_answers_name_no_arm_ends_early(place, capsys, processes):
    """A mistake in the name of a header would otherwise show at the end of an hour."""
    began = time.monotonic()
    (place / "locustfile.py").write_text(QUIET.replace("constant_throughput(10)", "constant_throughput(100)"))
    with service("b1") as b1, haproxy_router(place, {"b1": b1.port}, frontend=SERVER) as router:
        assert load(router, *ARMS, "--arm-header", "X-Amr", "--processes", processes, seconds=60) == 4
    assert time.monotonic() - began < 40
    error = capsys.readouterr().err
    assert "has the header X-Amr, so it is not known which arm answered" in error
    assert "http-after-response set-header X-Amr %[srv_name]" in error


def test_servers_of_no_arm_are_named(place, capsys):
    with service("b1") as b1, haproxy_router(place, {"b1": b1.port}, frontend=SERVER) as router:
        assert load(router, seconds=2) == 4  # by default, a value is the name of an arm, or its version
    assert "X-Arm of its answers has values such as b1" in capsys.readouterr().err


def test_a_recorder_by_hand_counts_what_nginx_tried_before(place, capsys):
    (place / "locustfile.py").write_text(LOCUSTFILE)
    dead = free_port()
    with service("b1") as b1:
        servers = {"b1": b1.port, "c1": dead}
        values = f"baseline=127.0.0.1:{b1.port},canary=127.0.0.1:{dead}"
        with nginx_router(
            place, servers, log_format="combined", server_options="max_fails=0",
            location="add_header X-Tried $upstream_addr always; proxy_next_upstream error non_idempotent;",
        ) as router:  # fmt: skip
            command = [
                sys.executable, "-m", "evaluator.sources.locust", "-f", "locustfile.py", "--headless",
                "--only-summary", "-u", "4", "-r", "20", "-t", "3s", "--host", f"http://127.0.0.1:{router.port}",
                "--evaluator-release", "cart@2", "--evaluator-arm-header", "X-Tried", "--evaluator-arm-values", values,
            ]  # fmt: skip
            subprocess.run(command, check=False, capture_output=True, timeout=60)
    store = Store.open("evaluator.duckdb", create=True)
    land_release(store, "cart@2")
    (landed,) = store.data.runs("cart@2")
    rows, facts = count_rows(), landed.facts
    failed = rows["canary", f"127.0.0.1:{dead}", True]
    answered = rows["baseline", f"127.0.0.1:{b1.port}", False]
    # About half of the requests or more were sent to the dead server first: after a failure, nginx chooses it again
    # sooner. All were answered by the other one.
    assert 0.3 * answered < failed <= answered
    assert facts.router.retried == {"canary": failed}
    assert not facts.router.retries_hidden
    assert landed.state is RunState.COMPLETE
    assert facts.counted == answered
    # The purchases have an answer, but no event: they are left out by name, of the arm that answered.
    (left_out,) = facts.left_out
    assert (left_out.arm, left_out.failures) == ("baseline", left_out.rows)
    word, findings = judge(capsys)
    assert word != "go"
    assert findings["retries"][0] == "warn"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "it is not known where the release runs"),
        (["--router", "http://127.0.0.1:1", "--canary", "http://127.0.0.1:2"], "excludes"),
        (["--baseline", "http://a", "--canary", "http://b", "--share", "canary=5%"], "--share without --router"),
        (["--baseline", "http://a", "--canary", "http://b", "--no-retries"], "--no-retries without --router"),
        (["--canary", "http://b"], "no address of the baseline"),
        (["--router", "http://127.0.0.1:1", "--arm-value", "canary"], "is not ARM=PATTERN"),
        (["--router", "http://127.0.0.1:1", "--arm-value", "canary=c*"], "names values of canary only"),
        (["--router", "http://127.0.0.1:1", "--arm-value", "canary=*", "--arm-value", "baseline=b"], "match the same"),
        (["--router", "http://127.0.0.1:1", "--arm-header", "X Arm"], "is no name of a header"),
        (["--router", "http://127.0.0.1:1", *ARMS, "--share", "blue=5%"], "no arm"),
        (["--router", "localhost"], "is not an address"),
        (["--router", "http://127.0.0.1:1"], "does not accept connections"),
    ],
)
def test_a_call_that_could_record_nothing_is_refused_before_the_load(place, capsys, words, says):
    assert run(["load", "cart@2", *words]) in (2, 4)
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--evaluator-arm-header", "X Arm"], "is no name of a header"),
        (["--evaluator-arm-header", "X-Arm", "--evaluator-arm-values", "canary=c"], "names values of canary only"),
        (["--evaluator-arm-header", "X-Arm", "--evaluator-arm", "canary"], "excludes"),
        (["--evaluator-arm", "canary", "--evaluator-no-retries"], "need --evaluator-arm-header"),
    ],
)
def test_a_recorder_by_hand_refuses_settings_that_do_not_fit(place, words, says):
    command = [sys.executable, "-m", "evaluator.sources.locust", "-f", "locustfile.py", "--headless", "-t", "1s"]
    command += ["--host", "http://127.0.0.1:1", "--evaluator-release", "cart@2"]
    ended = subprocess.run([*command, *words], check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert says in ended.stderr
