"""Weights move real traffic of a real nginx; a configuration that it refuses is never left behind."""

import socket
import subprocess
import time
import urllib.request
from collections import Counter

import pytest

from evaluator.errors import HookError
from evaluator.hooks.nginx import Nginx


def free_ports(count):
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def is_listening(port):
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nginx")
    front, baseline, canary = free_ports(3)
    arms = {"baseline": f"127.0.0.1:{baseline}", "canary": f"127.0.0.1:{canary}"}
    temp = "".join(
        f"  {name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    backends = "".join(
        f"  server {{ listen {address}; location / {{ return 200 {name}; }} }}\n" for name, address in arms.items()
    )
    (folder / "up.conf").write_text("".join(f"server {address} weight=1;\n" for address in arms.values()))
    (folder / "n.conf").write_text(
        f"daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\n  access_log off;\n{temp}  upstream b {{ include {folder}/up.conf; }}\n{backends}"
        f"  server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://b; }} }}\n}}\n"
    )
    process = subprocess.Popen(["nginx", "-c", str(folder / "n.conf")], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not is_listening(front):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        yield Nginx(folder / "n.conf", folder / "up.conf"), arms, f"http://127.0.0.1:{front}/"
    finally:
        process.terminate()
        process.wait(10)


def split(url, n=100):
    time.sleep(0.5)  # the old worker finishes
    answers = Counter()
    for _ in range(n):
        with urllib.request.urlopen(url, timeout=5) as response:
            answers[response.read().decode()] += 1
    return answers


def test_traffic_moves_and_moves_back(place):
    hook, arms, url = place
    assert 45 <= split(url)["canary"] <= 55
    earlier = hook.set({arms["baseline"]: 9, arms["canary"]: 1})
    assert 5 <= split(url)["canary"] <= 15
    hook.set({arms["baseline"]: 0, arms["canary"]: 1})
    assert split(url) == {"canary": 100}
    hook.write(earlier)
    assert 45 <= split(url)["canary"] <= 55


def test_what_nginx_refuses_is_not_left_behind(place):
    hook, _, url = place
    before = hook.upstream_file.read_text()
    with pytest.raises(HookError, match="nginx -t failed"):
        hook.write("server nonsense weight=x;\n")
    assert hook.upstream_file.read_text() == before
    assert sum(split(url, 10).values()) == 10


def test_an_address_cannot_bring_in_a_directive(place):
    with pytest.raises(HookError, match="is not a server"):
        place[0].set({"127.0.0.1:1; } evil {": 1})


def test_a_program_that_is_not_there_leaves_the_file_as_it_was(tmp_path):
    (tmp_path / "up.conf").write_text("server 127.0.0.1:1 weight=1;\n")
    with pytest.raises(HookError, match="cannot be run"):
        Nginx(tmp_path / "n.conf", tmp_path / "up.conf", program=str(tmp_path / "none")).set({"127.0.0.1:1": 2})
    assert (tmp_path / "up.conf").read_text() == "server 127.0.0.1:1 weight=1;\n"
