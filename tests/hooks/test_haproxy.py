"""Weights move real traffic of a real HAProxy, and move it back."""

import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evaluator.errors import HookError
from evaluator.hooks.haproxy import HAProxy


def serve(name):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    return server


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def balancer(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("haproxy"), free_port()
    servers = {name: serve(name) for name in ("baseline", "canary")}
    lines = "\n".join(f"  server {name} 127.0.0.1:{s.server_port} weight 50" for name, s in servers.items())
    (folder / "h.cfg").write_text(
        f"global\n  stats socket {folder}/s mode 600 level admin\ndefaults\n  mode http\n  timeout connect 2s\n"
        f"  timeout client 5s\n  timeout server 5s\nfrontend f\n  bind 127.0.0.1:{port}\n  default_backend b\n"
        f"backend b\n  balance roundrobin\n{lines}\n"
    )
    process = subprocess.Popen(["haproxy", "-db", "-f", str(folder / "h.cfg")], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not (folder / "s").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        yield HAProxy(str(folder / "s"), "b"), f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(10)
        for server in servers.values():
            server.shutdown()
            server.server_close()


def split(url, n=100):
    answers = Counter()
    for _ in range(n):
        with urllib.request.urlopen(url, timeout=5) as response:
            answers[response.read().decode()] += 1
    return answers


def test_traffic_moves_and_moves_back(balancer):
    hook, url = balancer
    assert split(url) == {"baseline": 50, "canary": 50}
    earlier = hook.set({"baseline": 90, "canary": 10})
    assert earlier == {"baseline": 50, "canary": 50}
    assert 5 <= split(url)["canary"] <= 15
    hook.set({"baseline": 0, "canary": 100})
    assert split(url) == {"canary": 100}
    hook.set(earlier)
    assert 45 <= split(url)["canary"] <= 55


def test_an_unknown_server_changes_nothing(balancer):
    hook, _ = balancer
    before = hook.read(("baseline", "canary"))
    with pytest.raises(HookError, match="does not tell the weight of b/nobody: No such server"):
        hook.set({"baseline": 1, "nobody": 2})
    assert hook.read(("baseline", "canary")) == before


@pytest.mark.parametrize("weights", [{"baseline": 257}, {"baseline": -1}, {"baseline; shutdown": 1}, {"a\nb": 1}])
def test_what_cannot_be_is_refused_before_anything_is_sent(balancer, weights):
    with pytest.raises(HookError):
        balancer[0].set(weights)


def test_a_socket_that_is_not_there_is_named(tmp_path):
    with pytest.raises(HookError, match="cannot be asked at"):
        HAProxy(str(tmp_path / "none"), "b").read(("baseline",))
