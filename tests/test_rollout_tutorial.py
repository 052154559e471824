"""The tutorial of rollouts, executed as written: real HAProxy, etcd, Knot, mail, Locust and instances of the shop."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shlex
import signal
import threading
from pathlib import Path

import pytest
import yaml
from guard_world import users
from hooks_world import receiving_mail
from knot import SECRET, knot_server, look_up

from evaluator.__main__ import run
from evaluator.errors import EvaluatorError, NotReached
from evaluator.guard.client import GuardClient
from evaluator.hooks import make_hook, make_router
from evaluator.intents import approve
from evaluator.policy import load_policy
from evaluator.records.intents import IntentState, Person
from evaluator.sources.sample import find_loadtests
from evaluator.sources.sample_environments import LOG_FORMAT, prepare_environments, start_production_router
from evaluator.sources.sample_etcd import start_etcd
from evaluator.store import Store

PAGE = (Path(__file__).parent.parent / "docs" / "rollout-tutorial.md").read_text(encoding="utf-8")
(POLICY,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"```bash\n(.*?)\n```", PAGE, re.DOTALL)
STEPS = 14
VERSIONS = {"baseline": "1.4.1", "canary": "1.5.0"}
TIMES = {
    "after: 4h": "after: 30s",
    "run_time: 5m": "run_time: 8s",
    "bake: 10m": "bake: 12s",
    "bake: 1h": "bake: 4s",
    "lateness: 65s": "lateness: 2s",
}
"""What takes minutes and hours there takes seconds here."""


def test_each_step_is_a_line_and_is_explained():
    numbers = {int(number) for number in re.findall(r"# (\d+)$", POLICY, re.MULTILINE)}
    rows = [int(number) for number in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)]
    assert numbers == set(rows) == set(range(1, STEPS + 1))
    assert rows == sorted(rows)
    with_actions = [line for line in POLICY.splitlines() if re.search(r"hooks:|load:|share:|guard:|live:|after:", line)]
    assert all(re.search(r"# \d+$", line) for line in with_actions if not line.endswith(":"))


@contextlib.contextmanager
def answering(store_path):
    """Another person agrees to all that is asked, until the block ends; yields what was asked."""
    asked, ended = [], threading.Event()

    def answer():
        while not ended.wait(0.2):
            with contextlib.suppress(EvaluatorError):  # the store is just being made
                store = Store.open(store_path, decisions_only=True)
                for intent in store.control.intents():
                    if intent.state is IntentState.REQUESTED:
                        approve(store, load_policy(Path("evaluator.yaml")), Person("ben", ("ben",)), intent.id)
                        asked.append(intent.reason)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        ended.set()
        thread.join(10)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of the tutorial; its guard is ended afterwards."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("DNS_KEY", SECRET)
    yield folder
    with contextlib.suppress(NotReached):
        os.kill(GuardClient(folder / "evaluator.duckdb").ping()["pid"], signal.SIGTERM)


def call(command):
    """A command of the tutorial."""
    program, *words = shlex.split(command)
    assert program == "evaluator"
    return run(words)


def list_calls(world):
    """What the program of the sample was asked to do."""
    return [line.split(" ", 1)[1] for line in (world.folder / "acts.log").read_text().splitlines()]


def read_key(url):
    """The value of the key of the candidate; None: there is no such key."""
    return make_hook(
        "etcd", {"url": url, "key": "/shop/production/canary", "value": "x", "allow_hosts": ["127.0.0.1"]}
    ).read()["value"]


def test_the_tutorial_does_what_its_lines_say(place, tmp_path, capfd):
    target = find_loadtests() / "target.py"
    (place / "target.py").write_bytes(target.read_bytes())
    with contextlib.ExitStack() as stack:
        etcd = stack.enter_context(start_etcd(place))
        world = stack.enter_context(prepare_environments(place, VERSIONS, "none", instances=1, etcd=etcd))
        dns_port = stack.enter_context(knot_server(tmp_path))
        mail = stack.enter_context(contextlib.ExitStack())
        mailbox = mail.enter_context(receiving_mail())
        world.run("deploy", "production", "baseline")
        stack.enter_context(start_production_router(world))
        stack.enter_context(users(world.router_port, 20))
        [baseline], [candidate] = (world.list_addresses("test", arm) for arm in VERSIONS)
        addresses = {
            "127.0.0.1:8101": baseline,
            "127.0.0.1:8102": candidate,
            "127.0.0.1:8025": f"127.0.0.1:{mailbox.port}",
            "127.0.0.1:5353": f"127.0.0.1:{dns_port}",
            "http://127.0.0.1:2379": etcd,
            "/run/haproxy/admin.sock": str(world.socket),
            "/var/log/haproxy/shop.log": str(world.router.log),
            "[ann, ben]": f"[{getpass.getuser()}, ben]",
            "locustfile: locustfile.py": f"locustfile: {find_loadtests() / 'locustfile.py'}",
        }
        policy = POLICY
        for written, here in (addresses | TIMES).items():
            assert written in policy, written
            policy = policy.replace(written, here)
        settings = yaml.safe_load(policy)
        log = {"sources": {"access_log": {"format": "haproxy", "log_format": LOG_FORMAT}}}  # of the sample's router
        (place / "evaluator.yaml").write_text(policy + yaml.safe_dump(log))
        router = make_router("haproxy", settings["rollout"]["router"]["shop"]["haproxy"])
        plan, start, back = COMMANDS
        assert call(plan) == 0
        planned = capfd.readouterr().out
        with answering(place / "evaluator.duckdb") as asked:
            code = call(start)
        said = capfd.readouterr().err
        assert code == 0, said
        # 1, 2, 4, 13: programs. 5, 6 and 7 are steps that would not have passed.
        assert list_calls(world)[1:] == [
            "deploy test baseline",
            "deploy test canary",
            "deploy production canary",
            "teardown test",
        ]
        assert (place / "__pycache__").exists()
        for step in ("build", "health", "observe test", "shop to 50 %", "observe half", "observe full", "tear down"):
            assert f"{step}: done" in said, said
            assert step in planned
        assert read_key(etcd) == '{"page": 20}'  # 3
        assert any(reason.startswith("shop to 50 %") for reason in asked)  # 8, 9
        mails = [(each["subject"], each["to"]) for each in mailbox.mails]
        assert ("shop@1.5.0: step waiting", "team@example.org") in mails  # 8
        assert mails[-1] == ("shop 1.5.0 is here", "users@example.org")  # 10
        assert look_up(dns_port, "current.shop.test", "TXT") == ['"1.5.0"']  # 11
        assert router.read_shares() == {"baseline": 0.0, "canary": 1.0}  # 12
        assert "at 5 % failures or a p95 of 2,000 ms over 10 s" in planned  # 14
        assert "is guarded" in said or "the guard" in said.lower()

        mail.close()
        assert call(back) == 4
        said = "".join(capfd.readouterr())
        assert router.read_shares() == {"baseline": 1.0, "canary": 0.0}
        assert look_up(dns_port, "current.shop.test", "TXT") == []
        assert read_key(etcd) is None
        assert list_calls(world)[-1] == "teardown production canary"
        assert "a message cannot be taken back" in said
        assert "people were not notified" in said
        # Once there is a mail server again, people get the mail.
        mailbox = mail.enter_context(receiving_mail(mailbox.port))
        request = re.search(r"^(i\d+) rollback", said, re.MULTILINE)[1]
        assert run(["hooks", "retry", request]) == 4
        assert [each["subject"] for each in mailbox.mails] == ["shop@1.5.0: rollback failed"]
