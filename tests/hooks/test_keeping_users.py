"""A user keeps an arm: with the configurations of docs/ab-test.md, through real HAProxy and nginx."""

import contextlib
import http.client
import re
import subprocess
import time
import uuid
from pathlib import Path

import pytest
import yaml
from hooks_world import make_context, serving
from metrics_servers import program, running, wait_for

from evaluator.errors import HookError
from evaluator.guard.log_lines import LogRequestReader
from evaluator.guard.recognise import find_settings
from evaluator.guard.routers import ServiceRouter
from evaluator.guard.setup import GuardedService
from evaluator.guard.watch import ServiceWatch
from evaluator.hooks import make_router
from evaluator.hooks.hash_values import ALL, count_values, move_values
from evaluator.hooks.nginx_config import read_split, set_split
from evaluator.records.rollouts import GuardLimits
from evaluator.sources.access_logs import find_layout
from evaluator.sources.access_logs.planning import find_layout_of_file
from evaluator.sources.load import free_port

DOCUMENT = (Path(__file__).parents[2] / "docs" / "ab-test.md").read_text(encoding="utf-8")
USERS = [str(uuid.UUID(int=1_000_003**5 * n)) for n in range(1, 81)]
MAP = {"socket": "/run/no.sock", "map": "/etc/shop.map", "servers": {"baseline": "a", "b": "b"}}
RISING = ({"b": 0.1, "c": 0.1}, {"b": 0.25, "c": 0.25}, {"b": 0.3, "c": 0.45})


def block(language):
    return re.search(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)[1]


def options_of(kind):
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    return next(yaml.safe_load(text)[kind] for text in blocks if text.startswith(f"{kind}:"))


class World:
    """A router in front of three arms."""

    def __init__(self, port, options, kind, start):
        self.port, self.options, self.kind, self.start = port, options, kind, start

    def router(self):
        """A new one each time: a driver that was restarted."""
        return make_router(self.kind, self.options)

    def give(self, **shares):
        before = self.arms()
        realised = self.router().set_shares({"baseline": 1 - sum(shares.values()), **shares})
        self.settle(before)
        return realised

    def ask(self, cookie=None):
        """Ask as a user; returns status, arm, and the cookie that was set."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
            headers = {} if cookie is None else {"Cookie": f"other=1; shop_user={cookie}"}
            connection.request("GET", "/", headers=headers)
            answer = connection.getresponse()
            set_cookie = answer.headers.get("Set-Cookie", "")
            return answer.status, answer.read().decode(), set_cookie.partition(";")[0].partition("=")[2]

    def arms(self):
        return {user: self.ask(user)[1] for user in USERS}

    def settle(self, before):
        """The arms of users after shares changed; earlier workers of nginx answer for a moment."""
        seen = []

        def is_settled():
            seen.append(self.arms())
            return seen[-1] != before and seen[-1] == self.arms()

        wait_for(is_settled, "other arms")
        return seen[-1]


@contextlib.contextmanager
def haproxy_world(folder, ports):
    port = free_port()
    text = block("haproxy").replace("bind :80", f"bind 127.0.0.1:{port}")
    text = text.replace("/etc/haproxy/shop.map", str(folder / "shop.map")).replace(" check", "")
    for address, its_port in ports.items():
        text = text.replace(address, f"127.0.0.1:{its_port}")
    socket = folder / "socket"
    (folder / "shop.map").touch()
    (folder / "haproxy.cfg").write_text(
        f"global\n  stats socket {socket} mode 600 level admin\n"
        f"defaults\n  mode http\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n{text}"
    )
    options = options_of("haproxy") | {"socket": str(socket), "map": str(folder / "shop.map")}
    command = [program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]
    yield World(port, options, "haproxy", lambda: running(command, port, "/"))


@contextlib.contextmanager
def nginx_world(folder, ports):
    port = free_port()
    text = block("nginx").replace("listen 80", f"listen 127.0.0.1:{port}")
    text = text.replace("/var/log/nginx/shop.log", str(folder / "shop.log"))
    for address, its_port in ports.items():
        text = text.replace(address, f"127.0.0.1:{its_port}")
    (folder / "shop.conf").write_text(text)
    paths = " ".join(f"{name}_temp_path {folder}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; {paths} include {folder}/shop.conf; }}"
    )
    command = [program("nginx"), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    options = options_of("nginx") | {"file": str(folder / "shop.conf"), "nginx": command}
    yield World(port, options, "nginx", lambda: running(command, port, "/"))


WORLDS = {"haproxy": haproxy_world, "nginx": nginx_world}


@pytest.fixture(scope="module", params=WORLDS)
def world(request, tmp_path_factory):
    """A router that runs; each test begins with all users at the baseline."""
    with contextlib.ExitStack() as stack:
        services = {arm: stack.enter_context(serving(arm)) for arm in ("baseline", "b", "c")}
        addresses = {f"10.0.{n}.1:8000": service.port for n, service in enumerate(services.values())}
        made = stack.enter_context(WORLDS[request.param](tmp_path_factory.mktemp(request.param), addresses))
        with made.start():
            yield made


@pytest.fixture(autouse=True)
def at_baseline(request):
    if "world" in request.fixturenames:
        world = request.getfixturevalue("world")
        world.router().set_shares({"baseline": 1}, back=True)
        wait_for(lambda: set(world.arms().values()) == {"baseline"}, "all users at the baseline")


def test_users_keep_their_arm_while_shares_rise(world):
    assert world.router().explain_moving_users() == ""
    before = world.arms()
    for shares in RISING:
        realised = world.give(**shares)
        assert realised.shares == pytest.approx({"baseline": 1 - sum(shares.values()), **shares})
        after = world.arms()
        moved = {(before[user], after[user]) for user in USERS if before[user] != after[user]}
        assert moved == {("baseline", "b"), ("baseline", "c")}, "no user leaves a candidate"
        before = after


def test_users_keep_their_arm_after_a_restart_of_the_router(world, tmp_path_factory):
    world.give(b=0.25, c=0.25)
    before = world.arms()
    if world.kind == "haproxy":  # its map is a file, which a new process reads
        text = Path(world.options["map"]).read_text()
        assert text == "0:2499 shop_b\n7500:9999 shop_c\n"
        port = free_port()
        folder = tmp_path_factory.mktemp("again")
        config = Path(world.options["map"]).with_name("haproxy.cfg").read_text()
        config = config.replace(f":{world.port}", f":{port}").replace(world.options["socket"], str(folder / "socket"))
        (folder / "haproxy.cfg").write_text(config)
        with running([program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")], port, "/"):
            assert World(port, world.options, world.kind, None).arms() == before
    else:
        subprocess.run([*world.options["nginx"], "-s", "reload"], check=True, capture_output=True)
        assert world.arms() == before
    world.give(b=0.3, c=0.3)
    after = world.arms()
    assert all(after[user] == arm for user, arm in before.items() if arm != "baseline")


def test_a_new_user_gets_a_cookie_and_keeps_the_arm_of_the_first_request(world):
    world.give(b=0.45, c=0.45)
    for _ in range(10):
        status, arm, cookie = world.ask()
        assert (status, len(cookie) >= 32) == (200, True), cookie
        assert world.ask(cookie) == (200, arm, ""), "no other cookie"
    _, _, cookie = world.ask("")
    assert cookie, "an empty cookie is none"


@pytest.mark.parametrize("cookie", ["x" * 4096, "%00%0a", "b;", '"quoted"', "shop_b", "0:9999"])
def test_odd_cookies_have_an_arm_and_keep_it(world, cookie):
    world.give(b=0.3, c=0.3)
    status, arm, _ = world.ask(cookie)
    assert (status, arm in ("baseline", "b", "c")) == (200, True)
    assert world.ask(cookie)[1] == arm


def test_the_winner_gets_all_and_undo_restores_the_split(world):
    world.give(b=0.1, c=0.1)
    hook = make_router(world.kind, world.options | {"shares": {"c": "100%"}})
    before = hook.read()
    outcome = hook.execute(make_context(action="step"))
    assert outcome.state == "acknowledged", outcome
    wait_for(lambda: set(world.arms().values()) == {"c"}, "all users at c")
    assert hook.undo(make_context(), before).state == "acknowledged"
    assert hook.read() == before


def test_shares_that_are_too_small_and_unknown_arms_change_nothing(world):
    world.give(b=0.1, c=0.1)
    before = world.router().read()
    for shares in ({"baseline": 0.999999, "b": 0.000001}, {"baseline": 0.5, "d": 0.5}):
        with pytest.raises(HookError):
            world.router().set_shares(shares)
    assert world.router().read() == before


@pytest.mark.parametrize("world", ["nginx"], indirect=True)
def test_the_log_of_nginx_says_the_arm_of_each_request(world):
    """That of HAProxy has the backends."""
    world.give(b=0.3, c=0.3)
    log = Path(world.options["file"]).with_name("shop.log")

    def count_lines() -> int:
        return len(log.read_text().splitlines())

    def is_settled() -> bool:
        before = count_lines()
        time.sleep(0.5)
        return count_lines() == before

    wait_for(is_settled, "the lines of earlier requests")  # nginx writes a line after it has answered
    read = count_lines()
    expected = list(world.arms().values())
    wait_for(lambda: count_lines() >= read + len(USERS), "a line for each request")
    source = next(
        yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL) if "sources:" in text
    )
    settings = find_settings(source["sources"]["access_log"], world.options["servers"])
    layout = find_layout_of_file(log, settings)
    reader = LogRequestReader(layout, settings.options)
    lines = log.read_bytes().splitlines()[read:]
    assert [reader.read(line).requests[0].arm for line in lines] == expected


# ------------------------------------------------------------------ the guard

STATS = """# pxname,svname,type,stot,scur,qcur,econ,eresp,hrsp_5xx,status
shop_a,s1,2,{a},0,0,0,0,0,UP
shop_b,s1,2,{b},0,0,{failed},0,0,UP
shop_b,BACKEND,1,{b},0,0,{failed},0,{failed},UP
"""


def test_the_guard_knows_arms_by_their_backends_and_counts_their_failures():
    options = MAP | {"servers": {"baseline": "shop_a", "b": "shop_b"}}
    router = ServiceRouter(GuardedService("shop", "haproxy", options), "r1", "shop@2")
    assert router.complete_log() == {"arms": {"baseline": ["shop_a"], "b": ["shop_b"]}, "arm_from": "backend"}
    own = {"arms": {"baseline": ["x"]}}
    assert ServiceRouter(GuardedService("shop", "haproxy", options, log=own), "r1", "shop@2").complete_log() == own
    limits = GuardLimits()
    watch = ServiceWatch(GuardedService("shop", "haproxy", options), "r1", "shop@2", limits, lambda: 0.0)
    answers = iter([STATS.format(a=0, b=0, failed=0), STATS.format(a=900, b=100, failed=100)])
    watch.counters._ask = lambda _command: next(answers)
    for at in (0.0, 5.0):
        watch.counters.look(at)
    assert watch.counters.counters["baseline"].started == 900
    assert watch.counters.find_reason(5.0).startswith("b: the router counted 100 failed connections")


def test_answers_of_an_arm_without_a_server_are_failures_of_that_arm():
    settings = find_settings({"arms": {"baseline": ["shop_a"], "b": ["shop_b"]}, "arm_from": "backend"}, {})
    line = (
        b"127.0.0.1:1 [30/Nov/2026:10:33:34.619] front shop_b/<NOSRV> 0/-1/-1/-1/0 503 217 - - SC-- 1/1/0/0/0 0/0 "
        b'"GET / HTTP/1.1"'
    )
    layout = find_layout([line.decode()] * 3, "log")
    (request,) = LogRequestReader(layout, settings.options).read(line).requests
    assert (request.arm, request.failed) == ("b", True)


# ------------------------------------------------------------------ hash values


@pytest.mark.parametrize("order", [["a", "b", "c", "d"], ["b", "a", "c", "d"], ["d", "c", "b", "a"]])
def test_values_leave_only_arms_that_shrink(order):
    ranges = [(ALL if arm == "a" else 0, arm) for arm in order]
    way = [{"b": 0.05, "c": 0.1, "d": 0.01}, {"b": 0.05, "c": 0.2, "d": 0.2}, {"b": 0.25, "c": 0.25, "d": 0.25}]
    seen = []
    for shares in way:
        all_shares = {"a": 1 - sum(shares.values()), **shares}
        before = [arm for count, arm in ranges for _ in range(count)]
        ranges = move_values(ranges, count_values(all_shares))
        after = [arm for count, arm in ranges for _ in range(count)]
        assert {arm: after.count(arm) / ALL for arm in all_shares} == pytest.approx(all_shares)
        assert all(old in (new, "a") for old, new in zip(before, after, strict=True))
        seen.append(ranges)
    for shares, expected in zip(way[-2::-1], seen[-2::-1], strict=True):
        ranges = move_values(ranges, count_values({"a": 1 - sum(shares.values()), **shares}))
        assert ranges == expected, "the way back has the same steps"


def test_a_value_of_nginx_may_have_several_lines():
    text = "split_clients $u $arm {\n    10% b;  # old\n    10% c;\n    10% d;\n    * a;\n}\n"
    shares = {"a": 4000, "b": 2000, "c": 2000, "d": 2000}
    changed = set_split(text, "$arm", shares)
    assert read_split(changed, "$arm") == shares
    before, after = ([*map(str.split, each.splitlines()[1:-1])] for each in (text, changed))
    assert after[:3] == [["10%", "b;"], ["10%", "c;"], ["10%", "d;"]]
    assert len(after) == 7, before
    assert set_split(changed, "$arm", {"a": 7000, "b": 1000, "c": 1000, "d": 1000}).count("%") == 3
    assert set_split(changed, "$arm", {"c": ALL, "a": 0, "b": 0, "d": 0}).count("# 0%") == 3


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"backend": "shop"}, "backend or map"),
        ({"map": None}, "backend or map"),
        ({"servers": {"baseline": "a", "b": ["b1", "b2"]}}, "one backend"),
        ({"servers": {"baseline": "a", "b": "b; drop"}}, "servers.b"),
        ({"map": "/etc/a b.map"}, "map"),
    ],
)
def test_options_that_contradict_are_refused(changed, says):
    with pytest.raises(Exception, match=says):
        make_router("haproxy", MAP | changed)


def test_routers_that_do_not_keep_users_say_so(tmp_path):
    weights = {"socket": "/run/no.sock", "backend": "shop", "servers": {"baseline": "a", "b": "b"}}
    assert "each request" in make_router("haproxy", weights).explain_moving_users()
    file = tmp_path / "shop.conf"
    file.write_text("split_clients ${request_id}x $arm { 10% b; * a; }\nupstream shop { server x:1; }")
    servers = {"baseline": "a", "b": "b"}
    nginx = {"file": str(file), "servers": servers}
    assert "$request_id" in make_router("nginx", nginx | {"split": "$arm"}).explain_moving_users()
    assert "split_clients" in make_router("nginx", nginx | {"upstream": "shop"}).explain_moving_users()
    assert "no block" in make_router("nginx", nginx | {"split": "$other"}).explain_moving_users()
