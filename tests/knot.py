"""A real Knot DNS on loopback, which has the zone shop.test and lets the key `upd` change it."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.message
import dns.query
from metrics_servers import program

from evaluator.sources.load import free_port

SECRET = base64.b64encode(b"a secret of thirty-two bytes, so").decode()
CONFIG = """
server:
    rundir: {folder}
    listen: 127.0.0.1@{port}
database:
    storage: {folder}
key:
  - id: upd
    algorithm: hmac-sha256
    secret: {secret}
  - id: reader
    algorithm: hmac-sha256
    secret: {secret}
acl:
  - id: updates
    address: 127.0.0.1
    key: upd
    action: update
  - id: transfers
    address: 127.0.0.1
    key: reader
    action: transfer
template:
  - id: default
    storage: {folder}
zone:
  - domain: shop.test
    file: shop.zone
    acl: [updates, transfers]
"""
ZONE = """$ORIGIN shop.test.
@ 3600 SOA ns.shop.test. admin.shop.test. 1 3600 600 86400 60
@ 3600 NS ns.shop.test.
ns 3600 A 127.0.0.1
cart 2 A 10.0.0.1
cart 2 A 10.0.0.2
alias 300 CNAME cart.shop.test.
gateway 1 A 127.0.0.1
"""


@contextlib.contextmanager
def knot_server(folder: Path) -> Iterator[int]:
    """Knot with its files in a folder; yields its port."""
    port = free_port()
    (folder / "knot.conf").write_text(CONFIG.format(folder=folder, port=port, secret=SECRET))
    (folder / "shop.zone").write_text(ZONE)
    command = [program("knotd"), "-c", str(folder / "knot.conf")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while look_up(port, "cart.shop.test", "A") is None:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def look_up(port: int, name: str, kind: str) -> list[str] | None:
    """Records of a name as the server has them; None: it does not answer."""
    try:
        answer = dns.query.tcp(dns.message.make_query(name, kind), "127.0.0.1", 2, port)
    except (OSError, EOFError, dns.exception.DNSException):
        return None
    if answer.rcode() not in (0, 3):
        return None
    return sorted(record.to_text() for rrset in answer.answer for record in rrset)
