"""The one HTTP client of hooks, and the one place that decides where they may connect to.

A host is reached only when the options list it. Its name is resolved once; every address it has must be public or be
listed as an address or a network; and the connection goes to an address that was checked, never to a second answer of
the resolver. The name stays in the Host header and in TLS. Redirects are not followed: they are answers like others.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from evaluator.errors import HookError
from evaluator.hooks.options import HookOptions, Seconds

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection
    from urllib3.response import BaseHTTPResponse

__all__ = ["Answer", "MaybeSent", "NetworkOptions", "Request", "TlsOptions", "resolve", "send", "split"]

LARGEST_BODY = 1 << 20
CHUNK_BYTES = 1 << 14

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_METADATA = {ipaddress.ip_address(a) for a in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16")}
_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NetworkOptions(HookOptions):
    """What every hook takes that connects to somewhere."""

    allow_hosts: list[str] = Field(
        default_factory=list,
        description="Where it may connect to: names, and addresses or networks where these are not public.",
    )
    timeout: Seconds = Field(10.0, description="Longest wait for one answer.")

    @field_validator("allow_hosts")
    @classmethod
    def _names_or_networks(cls, value: list[str]) -> list[str]:
        for entry in value:
            if not _NAME.fullmatch(entry) and not _network(entry):
                raise ValueError(
                    f"takes names, addresses and networks, without scheme, port or wildcard, not {entry[:80]}"
                )
        return value


class TlsOptions(NetworkOptions):
    """What every hook takes that speaks HTTP."""

    ca: str | None = Field(None, description="File of the certificates to trust, instead of the system's.")


class MaybeSent(Exception):
    """The request may or may not have arrived: nobody answered it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, where to, and within which limits."""

    method: str
    url: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    allow_hosts: Sequence[str] = ()
    timeout_s: float = 10.0
    """For everything: resolving apart, from connecting to the last byte."""
    ca: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def ok(self) -> bool:
        """Whether it was accepted; a redirect is not."""
        return 200 <= self.status < 300


# ------------------------------------------------------------------ where to


def resolve(host: str, port: int, allow: Sequence[str]) -> list[str]:
    """The addresses of a host that may be connected to. Raises HookError where it or one of them may not."""
    host = host.rstrip(".").lower()
    names, networks = _read_list(allow)
    literal = _address(host)
    if literal is None and host not in names:
        raise HookError(f"{host} is not among allow_hosts", hint=f"list it there if hooks may reach it: [{host}]")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise HookError(
            f"the name {host} cannot be resolved", hint="is it spelled like this, on this machine?"
        ) from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        _check(host, ipaddress.ip_address(address), networks, must_be_listed=literal is not None)
    return addresses


def _read_list(allow: Sequence[str]) -> tuple[set[str], list[Any]]:
    networks = [network for entry in allow if (network := _network(entry))]
    return {entry.rstrip(".").lower() for entry in allow if not _network(entry)}, networks


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_network(entry, strict=False)
    return None


def _address(host: str) -> _Address | None:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    return None


def _check(host: str, address: _Address, networks: list[Any], *, must_be_listed: bool) -> None:
    meant = _embedded(address)
    listed = [network for network in networks if meant in network]
    if meant in _METADATA:
        refused = not any(network.num_addresses == 1 for network in listed)
    else:
        refused = not listed and (must_be_listed or not _is_public(meant))
    if refused:
        what = "a metadata service" if meant in _METADATA else "that address" if _is_public(meant) else "not public"
        raise HookError(
            f"{host} is {meant}, which is {what} and not among allow_hosts",
            hint=f"list the address itself if hooks may reach it: [{meant}]",
        )


def _is_public(address: _Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: _Address) -> _Address:
    """The address that traffic ends at: IPv4 within IPv6 is IPv4."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)


# ------------------------------------------------------------------ sending


def send(request: Request) -> Answer:
    """Send a request once and read its answer.

    Raises HookError where it was certainly not sent, MaybeSent where it may have been.
    """
    scheme, host, port, target = split(request.url)
    deadline = time.monotonic() + request.timeout_s
    sock = _dial(host, port, request, deadline)
    with (
        _cut_off(sock, deadline) as was_cut,
        contextlib.closing(_adopt(sock, scheme, host, port, request)) as connection,
    ):
        try:
            connection.connect()
        except Exception as error:  # noqa: BLE001 - urllib3, http.client and socket each have their own tree
            why = "no time was left" if was_cut() else _why(error)
            raise HookError(f"{host}:{port} cannot be reached: {why}") from None
        try:
            answer = _exchange(connection, request, target, _host_header(scheme, host, port))
        except Exception as error:  # noqa: BLE001 - as above
            told = type(error).__name__
        else:
            told = ""
        if was_cut():  # a body without a length looks whole
            told = f"no whole answer within {request.timeout_s:g} s"
    if told:
        raise MaybeSent(f"{host} did not answer: {told}")
    return answer


def _exchange(connection: HTTPConnection, request: Request, target: str, host_header: str) -> Answer:
    connection.request(
        request.method,
        target,
        body=request.body or None,
        headers={
            "Host": host_header,
            "User-Agent": "release-evaluator",
            "Accept-Encoding": "identity",
            **request.headers,
        },
        preload_content=False,
        decode_content=False,
    )
    response = connection.getresponse()
    return Answer(response.status, _headers(response), _read(response))


def split(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port, and path with query. Raises HookError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise HookError("the address of a hook cannot be read", hint="it looks like https://example.org/path") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise HookError("the address of a hook must be http:// or https://, with a host and without a password")
    if any(ord(char) <= 32 or ord(char) >= 127 for char in url):
        raise HookError("the address of a hook has spaces, line breaks or letters that must be %-escaped")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), target


def _host_header(scheme: str, host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port == {"http": 80, "https": 443}[scheme] else f"{shown}:{port}"


def _dial(host: str, port: int, request: Request, deadline: float) -> socket.socket:
    """A connection to an address that was checked."""
    reason = "no time was left"
    for address in resolve(host, port, request.allow_hosts):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            break
        try:
            return socket.create_connection((address, port), left_s)
        except OSError as error:
            reason = _why(error)
    raise HookError(f"{host}:{port} cannot be reached: {reason}")


def _adopt(sock: socket.socket, scheme: str, host: str, port: int, request: Request) -> HTTPConnection:
    """HTTP over a connection that is there; the name is what certificates are held against."""
    from urllib3.connection import HTTPConnection, HTTPSConnection

    connection = HTTPConnection(host, port, timeout=request.timeout_s)
    if scheme == "https":
        try:
            trust = ssl.create_default_context(cafile=request.ca)
        except OSError:
            sock.close()
            raise HookError(f"the certificates to trust cannot be read from {request.ca}") from None
        connection = HTTPSConnection(host, port, timeout=request.timeout_s, ssl_context=trust)
    connection._new_conn = lambda: sock  # type: ignore[method-assign]  # noqa: SLF001 - its place for other sockets
    return connection


def _why(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__ or error
    text = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None)
    return str(text or type(error).__name__)


@contextlib.contextmanager
def _cut_off(sock: socket.socket, deadline: float) -> Iterator[Callable[[], bool]]:
    """End a connection at a time: a server that sends a byte now and then keeps every other limit from being met."""
    cut = threading.Event()
    guard = sock.dup()  # TLS takes the other one over

    def end() -> None:
        cut.set()
        with contextlib.suppress(OSError):
            guard.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(deadline - time.monotonic(), 0.0), end)
    timer.daemon = True
    timer.start()
    try:
        yield lambda: cut.is_set() or time.monotonic() >= deadline
    finally:
        timer.cancel()
        guard.close()
        sock.close()


def _headers(response: BaseHTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _read(response: BaseHTTPResponse) -> str:
    """The body, cut where it gets too long: whether it was accepted is said by the status."""
    parts: list[bytes] = []
    size = 0
    while size < LARGEST_BODY and (part := response.read(CHUNK_BYTES)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)[:LARGEST_BODY].decode("utf-8", "replace")
