"""The guard with a real nginx, which has no counters: the log alone shows what happens."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from guard_world import QUICK, users, version
from metrics_servers import program, wait_for
from routers import nginx_router, service

from evaluator.errors import NotReached
from evaluator.guard.client import GuardClient
from evaluator.guard.setup import GuardedService, GuardSetup
from evaluator.sources.access_logs.nginx import KNOWN_FORMATS


@pytest.mark.parametrize("mode", ["half", "hanging"])
def test_what_breaks_is_off_the_traffic(mode, tmp_path):
    with service("b1") as baseline, version() as canary:
        ports = {"b1": baseline.port, "c1": canary.port}
        servers = {"baseline": f"127.0.0.1:{baseline.port}", "canary": f"127.0.0.1:{canary.port}"}
        # nginx gives an answer up after a second, and asks no other server.
        options = {"log_format": KNOWN_FORMATS[-1], "server_options": "max_fails=0"}
        location = "proxy_next_upstream off;"
        with nginx_router(tmp_path, ports, weights={"b1": 9, "c1": 1}, location=location, **options) as router:
            config = tmp_path / "nginx.conf"
            own = {
                "file": str(config),
                "upstream": "shop",
                "servers": servers,
                "nginx": [program("nginx"), "-e", str(tmp_path / "error.log"), "-c", str(config)],
            }
            store = tmp_path / "evaluator.duckdb"
            guard = subprocess.Popen(
                [sys.executable, "-m", "evaluator.guard", "--store", str(store)], stdout=subprocess.DEVNULL
            )
            client = GuardClient(store)
            try:
                wait_for(lambda: _answers(client), "the guard")
                setup = GuardSetup(
                    "r1", "cart@1", (GuardedService("cart", "nginx", own, access_log=router.log),), QUICK
                )
                status = client.open(setup)
                assert status.is_exposed, "the canary has a share already"
                assert "open connections are not known" in status.notes[0]
                client.set_shares("r1", "cart", {"baseline": 0.5, "canary": 0.5}, {})
                with users(router.port, 40):
                    wait_for(lambda: client.renew("r1").readings[1].requests > 10, "requests of the canary")
                    assert not client.renew("r1").is_back
                    canary.mode = mode
                    began = time.monotonic()
                    wait_for(lambda: client.renew("r1").is_returned, "the traffic is back")
                    assert time.monotonic() - began < 10
                status = client.look("r1")
                assert "failed" in status.why_back
                assert status.realised == {"cart": {"baseline": 1, "canary": 0}}
                assert f"server 127.0.0.1:{canary.port} down" in " ".join(config.read_text().split())
            finally:
                guard.kill()
                guard.wait(5)


def _answers(client):
    try:
        return bool(client.ping())
    except NotReached:
        return False
