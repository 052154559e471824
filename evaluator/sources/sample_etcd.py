"""An etcd on loopback that has the configuration of the sample service."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from evaluator.errors import SourceError
from evaluator.sources.load import free_port
from evaluator.sources.sample import READY_S, start_process

FOLDER = "etcd"
"""Of its data, in the folder of the demo."""
PAGE, LARGE_PAGE = 20, 60
"""Products on a page as the candidate is meant to have it, and by mistake."""


def has_etcd() -> bool:
    """Is etcd installed?"""
    return shutil.which("etcd") is not None


def find_key(environment: str, arm: str) -> str:
    """The key from which the instances of an arm of an environment read their configuration."""
    return f"/shop/{environment}/{arm}"


@contextlib.contextmanager
def start_etcd(folder: Path) -> Iterator[str]:
    """Start etcd with its data in a folder; yields its URL, and ends it with the block. Raises SourceError."""
    program = shutil.which("etcd")
    if program is None:
        raise SourceError("etcd is not installed", hint="on Debian, as root: apt-get install etcd-server")
    address, peers = (f"127.0.0.1:{free_port()}" for _ in range(2))
    url, peer_url = f"http://{address}", f"http://{peers}"
    command = [
        program, "--data-dir", str(folder.resolve() / FOLDER), "--listen-client-urls", url, "--advertise-client-urls",
        url, "--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url, "--initial-cluster",
        f"default={peer_url}", "--log-level", "error",
    ]  # fmt: skip
    with start_process(command) as process:
        deadline = time.monotonic() + READY_S
        while not _is_healthy(address):
            if time.monotonic() > deadline or process.poll() is not None:
                raise SourceError(f"etcd did not become ready within {READY_S:g} s", hint="start it by hand to see why")
            time.sleep(0.05)
        yield url


def _is_healthy(address: str) -> bool:
    """Does etcd say that it serves?"""
    with (
        contextlib.suppress(OSError, http.client.HTTPException, ValueError),
        contextlib.closing(http.client.HTTPConnection(address, timeout=1)) as connection,
    ):
        connection.request("GET", "/health")
        return bool(json.load(connection.getresponse()) == {"health": "true"})
    return False
