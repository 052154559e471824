"""Real routers on loopback, HAProxy and nginx, in front of small services, with the access logs they write."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from metrics_servers import program, wait_for

from evaluator.sources.load import free_port

READY_S = 20.0


# ------------------------------------------------------------------ services


@dataclass
class Service:
    """A small HTTP service, whose answers its paths decide."""

    name: str
    port: int
    paths: list[str] = field(default_factory=list)
    """Targets of the requests that it got, in order."""


@contextlib.contextmanager
def service(name: str, address: tuple[str, int] = ("127.0.0.1", 0)) -> Iterator[Service]:
    """A service that answers by path, with `X-Version: NAME`; path elements may be combined (`/status/503/delay/20`).

    | element | answer |
    | --- | --- |
    | `status/404` | that status; `301` with a Location |
    | `delay/20` | after 20 ms |
    | `size/1000` | a body of 1000 bytes; else the name |
    | `close` | the connection is closed without an answer |
    | `cut` | the connection is closed in the middle of the body |
    | `upgrade` | 101, then the connection is open until the client closes it |
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            made.paths.append(self.path)
            elements = self.path.partition("?")[0].split("/")
            values = dict(itertools.pairwise(elements))
            time.sleep(float(values.get("delay", 0)) / 1000)
            if "close" in elements:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if "upgrade" in elements:
                self.upgrade()
                return
            body = b"x" * int(values["size"]) if "size" in values else made.name.encode()
            status = int(values.get("status", 200))
            self.send_response(status)
            self.send_header("X-Version", made.name)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if "cut" in elements else body)
            if "cut" in elements:
                self.close_connection = True

        def upgrade(self):
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "websocket")
            self.send_header("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
            self.end_headers()
            self.close_connection = True
            while self.connection.recv(100):
                pass

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 200

        def handle_error(self, *_):
            pass  # clients that leave are part of the tests

    server = Server(address, Handler)
    made = Service(name, server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


# ------------------------------------------------------------------ routers


@dataclass
class Router:
    """A router that runs, and what it logs."""

    port: int
    log: Path
    process: subprocess.Popen[bytes]
    stats_socket: Path | None = None
    """HAProxy's, with level admin."""

    def lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="surrogateescape").splitlines()

    def wait_for_lines(self, n: int) -> list[str]:
        """A router writes a line a moment after the client has the answer."""
        wait_for(lambda: len(self.lines()) >= n, f"{n} lines of {self.log}, which has {len(self.lines())}")
        return self.lines()


HAPROXY = """
global
  # With several threads, lines of requests one after the other may change places.
  nbthread 1
  log {target} format {form} local0
  stats socket {socket} mode 600 level admin
defaults
  mode http
  log global
  {log_option}
  option dontlognull
  option abortonclose
  retries 2
  timeout connect 200ms
  timeout client 2s
  timeout server 1s
  timeout queue 200ms
  {defaults}
frontend front
  bind 127.0.0.1:{port}
  {frontend}
  default_backend shop
backend shop
  balance roundrobin
  {backend}
  {servers}
"""


@contextlib.contextmanager
def haproxy_router(
    folder: Path,
    servers: Mapping[str, int],
    *,
    weights: Mapping[str, int] | None = None,
    log_option: str = "option httplog",
    syslog: str = "",
    defaults: str = "",
    frontend: str = "",
    backend: str = "",
    server_options: str = "",
) -> Iterator[Router]:
    """HAProxy in front of `servers` (name → port on loopback); its log is `haproxy.log` in `folder`.

    `log_option`: `option httplog`, `log-format …`. `syslog`: empty for lines without a prefix, or `rfc3164`, `rfc5424`,
    as they arrive at a syslog server. The other texts are lines of the configuration.
    """
    port, log, config = free_port(), folder / "haproxy.log", folder / "haproxy.cfg"
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(log.open("ab"))
        target = f"127.0.0.1:{stack.enter_context(receiving_syslog(log))}" if syslog else "stdout"
        lines = [
            f"server {name} 127.0.0.1:{its_port} weight {(weights or {}).get(name, 1)} {server_options}"
            for name, its_port in servers.items()
        ]
        config.write_text(
            HAPROXY.format(
                target=target,
                form=syslog or "raw",
                socket=folder / "stats",
                log_option=log_option,
                defaults=defaults,
                port=port,
                frontend=frontend,
                backend=backend,
                servers="\n  ".join(lines),
            )
        )
        command = [program("haproxy"), "-db", "-f", str(config)]
        process = stack.enter_context(running_router(command, port, opened, folder / "haproxy.errors"))
        yield Router(port, log, process, folder / "stats")


NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{}}
http {{
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {log_format}
  access_log {log} {name};
  upstream shop {{ {servers} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://shop;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $http_connection;
      proxy_connect_timeout 200ms;
      proxy_read_timeout 1s;
      {location}
    }}
    {server}
  }}
}}
"""


@contextlib.contextmanager
def nginx_router(
    folder: Path,
    servers: Mapping[str, int],
    *,
    log_format: str,
    weights: Mapping[str, int] | None = None,
    server_options: str = "",
    location: str = "",
    server: str = "",
) -> Iterator[Router]:
    """nginx in front of `servers` (name → port on loopback); its log is `access.log` in `folder`.

    `log_format`: the text in the quotes of the directive, with `escape=json ` before it if wanted; `combined` for the
    format of that name. The other texts are lines of the configuration.
    """
    port, log, config = free_port(), folder / "access.log", folder / "nginx.conf"
    log.touch()
    own = log_format != "combined"
    escape, _, text = log_format.partition(" ") if log_format.startswith("escape=") else ("", "", log_format)
    config.write_text(
        NGINX.format(
            folder=folder,
            log_format=f"log_format own {escape} '{text}';" if own else "",
            log=log,
            name="own" if own else "combined",
            servers=" ".join(
                f"server 127.0.0.1:{its_port} weight={(weights or {}).get(name, 1)} {server_options};"
                for name, its_port in servers.items()
            ),
            port=port,
            location=location,
            server=server,
        )
    )
    command = [program("nginx"), "-e", str(folder / "error.log"), "-c", str(config)]
    with (
        (folder / "nginx.out").open("ab") as opened,
        running_router(command, port, opened, folder / "nginx.errors") as process,
    ):
        yield Router(port, log, process)


@contextlib.contextmanager
def running_router(command: list[str], port: int, output, errors: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A router until the block ends; it is ready when it accepts connections, which it does not log."""
    with errors.open("ab") as error_output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=error_output)
    try:
        deadline = time.monotonic() + READY_S
        while not _accepts(port):
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}: {errors.read_text()}"
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=10)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def ask_haproxy(stats_socket: Path, line: str) -> str:
    """Send lines to HAProxy's socket, and return its answer."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.connect(str(stats_socket))
        connection.sendall(line.encode() + b"\n")
        received = b""
        while part := connection.recv(1 << 16):
            received += part
    return received.decode().strip()


@contextlib.contextmanager
def receiving_syslog(log: Path) -> Iterator[int]:
    """A syslog server that writes what it gets, a line a message; yields its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver, log.open("ab", buffering=0) as opened:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.05)
        ended = threading.Event()

        def receive():
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    opened.write(receiver.recv(65536).rstrip(b"\n") + b"\n")

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        try:
            yield receiver.getsockname()[1]
        finally:
            ended.set()
            thread.join(5)


# ------------------------------------------------------------------ clients


@dataclass
class Answer:
    """What a client got."""

    method: str
    path: str
    status: int
    """0 if the router closed the connection without an answer."""
    version: str
    """Of the service, empty if the router itself answered."""
    body: bytes
    time_ms: float


def ask(
    port: int, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, timeout: float = 10
) -> Answer:
    """One request on a connection of its own."""
    began = time.monotonic()
    status, version, body = 0, "", b""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request(method, path, headers=dict(headers or {}))
        with contextlib.suppress(http.client.RemoteDisconnected):
            answer = connection.getresponse()
            status, version = answer.status, answer.headers.get("X-Version", "")
            try:
                body = answer.read()
            except http.client.IncompleteRead as cut:
                body = cut.partial
    return Answer(method, path, status, version, body, 1000 * (time.monotonic() - began))


def leave(port: int, path: str, after_ms: float) -> None:
    """Send a request, and close the connection before the answer is complete."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n".encode())
        time.sleep(after_ms / 1000)


def upgrade(port: int, path: str = "/upgrade") -> bytes:
    """Open a WebSocket, as far as routers see it, and close it; returns the first line of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        return connection.recv(1000).partition(b"\r\n")[0]


def send_raw(port: int, sent: bytes) -> bytes:
    """Send some bytes, and return what comes back until the router closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(sent)
        received = b""
        with contextlib.suppress(OSError):
            while part := connection.recv(65536):
                received += part
        return received
