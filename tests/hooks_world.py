"""What hooks meet: receivers on loopback, contexts, servers."""

from __future__ import annotations

import contextlib
import email
import email.policy
import http.client
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from aiosmtpd.controller import Controller
from metrics_servers import program, running

from evaluator.hooks import HookContext, Step, write_by_hand
from evaluator.reports import plain_text
from evaluator.sources.load import free_port


def make_context(**changed) -> HookContext:
    fields = {
        "release": "cart@1.5.0",
        "action": "promote",
        "verdict": "go",
        "verdict_hash": "sha256:5a",
        "baseline": "1.4.1",
        "canary": "1.5.0",
        "requester": "ann@example.org",
        "reason": 'it is "better"\nthan before',
        "idempotency_key": "intent-7",
        "expires_at": datetime.now(UTC) + timedelta(seconds=20),
    }
    return HookContext(**(fields | changed))


@dataclass
class ReceivedRequest:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answering = Callable[[BaseHTTPRequestHandler, ReceivedRequest], None]


def reply(status: int = 200, body: bytes = b"{}", **headers: str) -> Answering:
    def answer(handler: BaseHTTPRequestHandler, _received: ReceivedRequest) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@dataclass
class Receiver:
    """An HTTP receiver: what it saw, and what it will answer (the last answer is repeated)."""

    url: str
    port: int
    answers: list[Answering] = field(default_factory=lambda: [reply()])
    requests: list[ReceivedRequest] = field(default_factory=list)


@contextlib.contextmanager
def receiving(certificate: Path | None = None) -> Iterator[Receiver]:
    """A receiver, with TLS where a folder with cert.pem and key.pem is given."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = ReceivedRequest(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            receiver.requests.append(request)
            answer = receiver.answers.pop(0) if len(receiver.answers) > 1 else receiver.answers[0]
            with contextlib.suppress(OSError):
                answer(self, request)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None
    port = server.server_address[1]
    receiver = Receiver(f"http://127.0.0.1:{port}", port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass
class Mailbox:
    """A mail server and what it got."""

    port: int
    mails: list[EmailMessage] = field(default_factory=list)

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802 - aiosmtpd calls it
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"


@contextlib.contextmanager
def receiving_mail(port: int = 0) -> Iterator[Mailbox]:
    """A real SMTP server, until the block ends."""
    box = Mailbox(port or free_port())
    controller = Controller(box, hostname="127.0.0.1", port=box.port)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


@contextlib.contextmanager
def serving(name: str) -> Iterator[Receiver]:
    """A version of a service: it answers with its name."""
    with receiving() as receiver:
        receiver.answers = [reply(200, name.encode(), Connection="close")]
        yield receiver


def split_of(port: int, n: int = 100) -> dict[str, int]:
    """Who answers real requests, each on a connection of its own."""
    counted: dict[str, int] = {}
    for _ in range(n):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/")
            name = connection.getresponse().read().decode()
        counted[name] = counted.get(name, 0) + 1
    return counted


def paste(
    hook, *, undoes: bool = False, earlier: object = None, environment: Mapping[str, str] | None = None, **changed
):
    """Do by hand what a hook would do: paste its lines into a shell. Returns the lines and what they write."""
    lines = write_by_hand(Step(hook), make_context(**changed), undoes=undoes, earlier=earlier)
    text = "\n".join("\t".join(map(plain_text, line.split("\t"))) for line in lines)  # as they are shown
    variables = {"PATH": os.environ["PATH"] + ":/usr/sbin", **(environment or {})}
    pasted = subprocess.run(
        ["bash", "-eu"], check=False, input=text, env=variables, capture_output=True, text=True, timeout=20
    )
    assert pasted.returncode == 0, (text, pasted)
    return text, pasted.stdout


HAPROXY = """
global
  stats socket {socket} mode 600 level admin
  stats socket {socket}.operator mode 600 level operator
  stats socket ipv4@127.0.0.1:{api} level admin
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend f
  bind 127.0.0.1:{port}
  default_backend shop
backend shop
  balance roundrobin
  server baseline 127.0.0.1:{baseline} weight 90
  server canary 127.0.0.1:{canary} weight 10
backend static
  balance static-rr
  server baseline 127.0.0.1:{baseline} weight 90
  server canary 127.0.0.1:{canary} weight 10
backend hashed
  balance source
  server baseline 127.0.0.1:{baseline} weight 90
  server canary 127.0.0.1:{canary} weight 10
backend first
  balance first
  server baseline 127.0.0.1:{baseline}
  server canary 127.0.0.1:{canary}
backend standby
  balance roundrobin
  server baseline 127.0.0.1:{baseline}
  server canary 127.0.0.1:{canary} backup
backend checked
  balance roundrobin
  server baseline 127.0.0.1:{baseline} weight 90 check inter 50ms
  server canary 127.0.0.1:1 weight 10 check inter 50ms fall 1
  server spare 127.0.0.1:{canary} weight 5
"""


@contextlib.contextmanager
def balancing(folder: Path) -> Iterator[dict[str, object]]:
    """HAProxy in front of two versions, 90 of 100 requests to the baseline; yields its socket and its ports."""
    port, api = free_port(), free_port()
    with serving("baseline") as baseline, serving("canary") as canary:
        path = folder / "haproxy.cfg"
        names = {
            "socket": folder / "s",
            "folder": folder,
            "api": api,
            "port": port,
            "baseline": baseline.port,
            "canary": canary.port,
        }
        path.write_text(HAPROXY.format(**names))
        with running([program("haproxy"), "-db", "-f", str(path)], port, "/"):
            yield names
