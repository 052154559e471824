"""A rollout of a sensitive service: two other people agree, and nothing of a request but its path is kept or shown."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hooks_world import receiving
from rollout_cases import start_rollout
from routers import ask, haproxy_router, nginx_router, send_raw, service

from evaluator.__main__ import run
from evaluator.errors import EvaluatorError, NotReached
from evaluator.guard.client import GuardClient
from evaluator.guard.places import find_copies_folder
from evaluator.intents import approve
from evaluator.intents.rollout_plans import count_agreements
from evaluator.intents.rollout_start import explain_obstacle_to_start
from evaluator.policy import load_policy, parse_policy
from evaluator.records.intents import IntentState, Person
from evaluator.records.rollouts import Act, InstanceWork, Observe, StepNeeds
from evaluator.rollout.planning import make_plan
from evaluator.rollout.recording import StepLoad
from evaluator.store import Store

SECRET = "s3cr3t"
"""Part of everything that may not be found anywhere."""
REQUESTS = (
    f"/pay?token={SECRET}-query",
    f"/pay;jsessionid={SECRET}-parameter",
    f"/pay%3Ftoken={SECRET}-encoded",
    f"/pay?next=/x?y={SECRET}-twice",
    f"/users/ann.{SECRET}@example.org",
    f"/pay#{SECRET}-fragment",
)
HEADERS = {
    "Authorization": f"Bearer {SECRET}-bearer",
    "Cookie": f"session={SECRET}-cookie",
    "Referer": f"https://shop/?from={SECRET}-referer",
    "User-Agent": f"{SECRET}-agent",
}
RAW = (
    f"GET http://ann:{SECRET}-password@shop/pay?x={SECRET}-absolute HTTP/1.1\r\nConnection: close\r\n\r\n",
    f"GET /pay?a=b {SECRET}-space HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
    f"{SECRET}-nonsense\r\n\r\n",
)
CAPTURES = "\n  ".join(f"capture request header {name} len 64" for name in HEADERS)
UNREADABLE = f"card 4111 1111 of ann, {SECRET}-line, /pay?x={SECRET}\n"
STAGES = """\
    - {name: half, share: 50%, needs: nothing, bake: 2s, agree: 2}
    - {name: full, share: 100%, needs: nothing, bake: 1s, agree: 2}
"""
POLICY = """\
service: cart
sensitive: true
rollout:
  strategy: canary
  lease: 20s
  router:
    cart: {{haproxy: {{socket: {socket}, backend: shop, servers: {{baseline: [b1], canary: [c1]}}}}}}
  live: {{access_log: {log}, lateness: 1s}}
  unanswered: {{after: 20s}}
  stages:
{stages}
roles: {{approver: ["*"]}}
hooks:
  notify:
    - notify: {{to: ["json://127.0.0.1:{port}/"], allow_hosts: [127.0.0.1]}}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in which commands run; its guard is ended afterwards."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield folder
    with contextlib.suppress(NotReached):
        os.kill(GuardClient(folder / "evaluator.duckdb").ping()["pid"], signal.SIGTERM)


@contextlib.contextmanager
def using(router):
    """Users who send what may not be kept, and lines in the log that cannot be read, until the block ends."""
    ended = threading.Event()

    def use():
        while not ended.is_set():
            for path in REQUESTS:
                ask(router.port, path, "POST", HEADERS)
            for raw in RAW:
                send_raw(router.port, raw.encode())
            with router.log.open("a") as opened:
                opened.write(UNREADABLE)
            ended.wait(0.2)

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5)


class People(threading.Thread):
    """They agree to each step that waits, one after the other."""

    def __init__(self, store_path, *names):
        super().__init__(daemon=True)
        self.store_path, self.names, self.problems, self.ended = store_path, names, [], threading.Event()
        self.agreed = {}
        """Step → who has agreed to it, and the state after each agreement."""

    def run(self):
        while not self.ended.wait(0.1):
            try:
                self.look()
            except EvaluatorError as error:  # such as a store that is just being made
                self.problems.append(error.message)

    def look(self):
        store = Store.open(self.store_path, decisions_only=True)
        for intent in store.control.intents():
            for name in self.names if intent.state is IntentState.REQUESTED else ():
                after = approve(store, load_policy(Path("evaluator.yaml")), Person(name, (name,)), intent.id)
                self.agreed.setdefault(intent.step, []).append((name, after.state))


def find_secrets(*folders):
    """Files that have a secret, and where."""
    return {
        str(path): path.read_bytes().partition(SECRET.encode())[0][-80:]
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    }


def test_two_other_people_agree_to_each_share_and_nothing_but_paths_is_kept(place, tmp_path, capfd):
    router_folder = tmp_path / "router"
    router_folder.mkdir()
    with (
        service("b1") as baseline,
        service("c1") as canary,
        haproxy_router(
            router_folder, {"b1": baseline.port, "c1": canary.port}, weights={"b1": 100, "c1": 0}, frontend=CAPTURES
        ) as router,
        receiving() as receiver,
        using(router),
    ):
        values = {"socket": router.stats_socket, "log": router.log, "port": receiver.port}
        (place / "evaluator.yaml").write_text(POLICY.format(stages=STAGES, **values))
        people = People(place / "evaluator.duckdb", "ben", "cem")
        router.wait_for_lines(20)
        people.start()
        code = run(["-v", "rollout", "start", "cart@1.5.0", "--reason", "it is Monday", "--yes"])
        said = capfd.readouterr()
        people.ended.set()
        words = ["--arm-server", "baseline=b*", "--arm-server", "canary=c*", "--from", "start", "--for", "1s"]
        assert run(["-v", "tail", "cart@1.5.1", str(router.log), *words, "--lateness", "1s"]) == 0
        tailed = capfd.readouterr()
        assert "is counted and not judged" in tailed.err
        assert "it is not shown, because the service is sensitive" in tailed.err
        assert SECRET not in tailed.out + tailed.err
        assert code == 0, said.err + str(set(people.problems))
    one_after_the_other = [("ben", IntentState.REQUESTED), ("cem", IntentState.APPROVED)]
    assert people.agreed == {0: one_after_the_other, 2: one_after_the_other}
    for command in (
        [
            "-v",
            "verdict",
            "cart@1.5.0",
            "--step",
            "half",
            "--format",
            "human",
            "--format",
            "html=v.html",
            "--format",
            "json=v.json",
        ],
        ["rollout", "status", "cart@1.5.0", "--json"],
        ["rollout", "report", "cart@1.5.0", "--format", "html=r.html"],
        ["audit", "show"],
        ["data", "sql", "SELECT endpoint, count(*) FROM requests GROUP BY ALL"],
    ):
        assert run(command) in (0, 1, 3)
    shown = capfd.readouterr()
    assert SECRET in router.log.read_text()
    assert "POST /pay" in shown.out
    assert SECRET not in said.out + said.err + shown.out + shown.err
    assert receiver.requests
    assert not any(SECRET.encode() in request.body for request in receiver.requests)
    copies = find_copies_folder(place / "evaluator.duckdb")
    assert find_secrets(place, tmp_path / "state", *([copies] if copies else [])) == {}


@pytest.mark.parametrize("agree", ["", ", agree: 1"])
def test_all_users_need_two_other_people_however_many_agreed_before(place, capfd, agree):
    stages = STAGES.replace("bake: 1s, agree: 2", f"bake: 1s{agree}")
    (place / "evaluator.yaml").write_text(POLICY.format(stages=stages, socket="/x", log="x.log", port=1))
    assert run(["rollout", "start", "cart@1.5.0", "--reason", "it is Monday", "--yes"]) == 3
    said = capfd.readouterr().err
    assert "2 other people have to agree before all users get the candidate" in said
    assert "write agree: 2 there" in said


ROLLING = """\
service: cart
sensitive: true
roles: {{approver: [ann]}}
rollout:
  strategy: rolling
  router: {{cart: {{haproxy: {{socket: /x, backend: cart, instances: [s1, s2, s3, s4]}}}}}}
  instances:
    least_serving: 2
    replace: [{{command: {{run: ["true"], undo: ["true"]}}}}]
  live: {{access_log: x.log}}
  stages:
    - {{name: first, replace: 1, needs: nothing, bake: 10m, agree: 2}}
    - {{name: middle, replace: 1, needs: nothing, bake: 10m}}
    - {{name: rest, replace: rest, needs: nothing, bake: 10m{agree}}}
"""


@pytest.mark.parametrize(
    ("agree", "sentence"), [("", "2 other people have to agree before all users get"), (", agree: 2", "")]
)
def test_also_the_last_batch_of_a_rolling_release_needs_them_before_its_first_instance(place, agree, sentence):
    policy = parse_policy(yaml.safe_load(ROLLING.format(agree=agree)))
    store = Store.open(place / "evaluator.duckdb", create=True)
    said = explain_obstacle_to_start(store, policy, Person("ann", ("ann",)), "cart@1.5.0", ["cart"])
    assert sentence in said
    assert bool(said) == bool(sentence)
    plan = make_plan(policy, "cart@1.5.0")
    of_all = [step for step in plan.steps if isinstance(step, Act) and step.share == 1.0]
    assert [step.work for step in of_all] == [InstanceWork.DRAIN, InstanceWork.UNDRAIN]
    assert {count_agreements(plan, step) for step in of_all} == {2 if agree else 0}


def test_a_load_of_a_rollout_is_sensitive_as_the_policy_of_its_start(place):
    load = {"locustfile": "l.py", "baseline": ["http://b"], "canary": ["http://c"], "users": 1, "spawn_rate": 1}
    step = Observe("test", "test", "test", ("cart",), StepNeeds.GO, 9, 9, load=load | {"run_time": 9, "replicates": 1})
    store = Store.open(place / "evaluator.duckdb", create=True)
    for policy, ends in (({"sensitive": True}, ["test", "--sensitive"]), ({}, ["--step", "test"])):
        rollout = replace(start_rollout(), policy=policy)
        command = StepLoad(store, rollout, step, 0.0, "edited.yaml")._make_command()
        assert command[-2:] == ends


LOGGED_BY_NGINX = (
    '$msec $status $request_time $body_bytes_sent "$request" "$upstream_addr" "$upstream_status" '
    '"$upstream_response_time" "$http_authorization" "$http_cookie" "$http_referer"'
)


@pytest.mark.parametrize("lines", ["read", "of no known format", "mixed"])
def test_logs_of_nginx_are_imported_by_their_paths_alone(place, tmp_path, capfd, lines):
    with (
        service("b1") as baseline,
        service("c1") as canary,
        nginx_router(tmp_path, {"b1": baseline.port, "c1": canary.port}, log_format=LOGGED_BY_NGINX) as router,
        using(router),
    ):
        router.wait_for_lines(60)
    (place / "evaluator.yaml").write_text("service: cart\nsensitive: true\n")
    logged = [line for line in router.lines() if "4111" not in line]
    others = {"read": logged[3:4], "of no known format": [UNREADABLE] * 60, "mixed": [f"x {SECRET} y"] * 40}[lines]
    log = place / "access.log"
    log.write_text("\n".join([*(logged if lines != "of no known format" else []), *others]) + "\n")
    servers = [f"{arm}=*:{each.port}" for arm, each in (("baseline", baseline), ("canary", canary))]
    words = ["--access-log", str(log), "--arm-server", servers[0], "--arm-server", servers[1], "--skip-bad-rows"]
    code = run(["-v", "import", "cart@1.5.0", *words, "--log-format", LOGGED_BY_NGINX])
    said = capfd.readouterr()
    assert SECRET in log.read_text()
    log.unlink()
    assert code == (0 if lines == "read" else 2), said
    assert SECRET not in said.out + said.err
    assert find_secrets(place, tmp_path / "state") == {}
    if lines != "read":
        assert "it is not shown, because the service is sensitive" in said.err
