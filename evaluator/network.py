"""HTTP requests with limits, for every part of this package that asks another machine.

`requests` sends them. This module limits what `requests` does not: a server may send one byte at a time, send without
end, or send few bytes that unpack to very many, and the timeout of an HTTP client limits only one read of the socket.
So the connection is closed when the time for the whole answer is over, and no more is read than is allowed. Where the
addresses were checked, only these are connected to; the name stays in the Host header and in TLS.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

CHUNK_BYTES = 1 << 16

PACKED = frozenset({"gzip", "x-gzip", "deflate"})
"""Content encodings that are unpacked."""


class ExchangeError(requests.ConnectionError):
    """No whole answer came. `reached` is false if certainly nothing was sent; `why` is a short cause for users."""

    def __init__(self, text: str, why: str, *, reached: bool) -> None:
        super().__init__(text)
        self.why, self.reached = why, reached


class _TooLateError(Exception):
    """The time for the whole answer is over. Not an OSError, which urllib3 would retry."""


class _Exchange:
    """One request and its answer, and the connection they use, which is ended when their time is over."""

    def __init__(self, timeout_s: float, addresses: Sequence[str]) -> None:
        """Start the time of an exchange. Only `addresses` are connected to; if empty, the name is resolved."""
        self.timeout_s, self.addresses = timeout_s, addresses
        self.deadline_s = time.monotonic() + timeout_s
        self.reached = False
        """May the server have received the request?"""
        self.first_error: Exception | None = None
        """The first error of the connection, before urllib3 and requests wrap it."""
        self._lock = threading.Lock()
        self._socket_copy: socket.socket | None = None
        """A second handle of the socket in use, by which the timer's thread can end it."""
        self._timer = threading.Timer(max(timeout_s, 0.0), self._end_connection)
        self._timer.daemon = True
        self._timer.start()

    @property
    def left_s(self) -> float:
        return self.deadline_s - time.monotonic()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Do a part of the exchange in a `with` block. Raises _TooLateError for any failure after the deadline."""
        if self.left_s <= 0:
            raise _TooLateError
        try:
            yield
        except Exception as error:
            if self.left_s <= 0:
                raise _TooLateError from None
            self.first_error = error
            raise

    def use(self, used_socket: Any) -> None:
        """Use a socket, in the place of any before: it is ended when the time is over, or now if it is over already."""
        with self._lock:
            if self._socket_copy is not None:
                self._socket_copy.close()
            # TLS takes the handle of the socket over, so a copy of the handle is kept.
            self._socket_copy = socket.socket(fileno=os.dup(used_socket.fileno()))
        if self.left_s <= 0:
            self._end_connection()

    def close(self) -> None:
        """Stop the timer: from now on the connection is not ended any more."""
        self._timer.cancel()
        with self._lock:
            if self._socket_copy is not None:
                self._socket_copy.close()
                self._socket_copy = None

    def _end_connection(self) -> None:
        """Shut the connection down, which also ends a read that waits in another thread."""
        with self._lock, contextlib.suppress(OSError):
            if self._socket_copy is not None:
                self._socket_copy.shutdown(socket.SHUT_RDWR)

    def make_error(self, error: Exception) -> ExchangeError:
        """Make the error of this exchange, which failed with `error`."""
        first_error = self.first_error or error
        if self.left_s <= 0:
            why = f"no whole answer within {self.timeout_s:g} s" if self.reached else "no time was left"
            return ExchangeError("timed out", why, reached=self.reached)
        if self.reached:
            return ExchangeError(str(error), type(first_error).__name__, reached=True)
        # The system's own words are in the error below that of urllib3: of the certificate, or of the socket.
        cause = first_error.__cause__ or first_error.__context__ or first_error
        why = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None) or type(first_error).__name__
        return ExchangeError(str(error), str(why), reached=False)


_THREAD_DATA = threading.local()
"""Its `exchange` is the exchange of each thread; connections of urllib3 cannot be given it otherwise."""


class _Limited:
    """The methods of a connection, within the limits of its thread's exchange."""

    def _new_conn(self: Any) -> socket.socket:
        """Open a socket: to the first address of the exchange that accepts one."""
        exchange: _Exchange = _THREAD_DATA.exchange
        host_name = self._dns_host
        addresses = exchange.addresses or [host_name]
        with exchange.step():
            for address in addresses:
                # urllib3 connects to `_dns_host`; afterwards the name is needed for the Host header and TLS.
                self._dns_host, self.timeout = address, max(exchange.left_s, 0.001)
                try:
                    new_socket: socket.socket = super()._new_conn()  # type: ignore[misc]
                    break
                except HTTPError:
                    if address == addresses[-1]:
                        raise
                finally:
                    self._dns_host = host_name
            exchange.use(new_socket)
        return new_socket

    def connect(self) -> None:
        """Connect, with TLS; from then on the server may receive the request."""
        exchange: _Exchange = _THREAD_DATA.exchange
        with exchange.step():
            super().connect()  # type: ignore[misc]
        exchange.reached, exchange.first_error = True, None

    def request(self: Any, *args: Any, **options: Any) -> None:
        """Send a request; on a connection that an earlier exchange has opened, the server may receive it."""
        if self.sock is not None:
            _THREAD_DATA.exchange.reached = True
        super().request(*args, **options)  # type: ignore[misc]

    def getresponse(self: Any) -> Any:
        """Read the start of the answer, within the time of the exchange."""
        exchange: _Exchange = _THREAD_DATA.exchange
        with exchange.step():
            exchange.use(self.sock)  # which an earlier exchange may have opened
            return super().getresponse()  # type: ignore[misc]


_POOLS = {
    scheme: type("Pool", (pool,), {"ConnectionCls": type("Connection", (_Limited, connection), {})})
    for scheme, pool, connection in (
        ("http", HTTPConnectionPool, HTTPConnection),
        ("https", HTTPSConnectionPool, HTTPSConnection),
    )
}


class Adapter(HTTPAdapter):
    """Sends one request after another for a `requests` session, or by itself.

    The `timeout` of a request (s) is for everything, from connecting to the last byte. The answer is read whole,
    unpacked, and cut after `largest` + 1 bytes: the extra byte shows that there was more. Only `addresses` are
    connected to; without any, the name is resolved. `trust` are the certificates to trust instead of the session's.
    """

    def __init__(
        self,
        largest: int,
        *,
        addresses: Sequence[str] = (),
        trust: ssl.SSLContext | None = None,
        retry: Retry | int = 0,
    ) -> None:
        self.largest, self.addresses, self.trust = largest, addresses, trust
        super().__init__(max_retries=retry)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make a pool whose connections can be ended; called by `requests`."""
        if self.trust is not None:
            options["ssl_context"] = self.trust
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Make connections to a proxy that can be ended; not to a SOCKS proxy, which has classes of its own."""
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Let `requests` set the certificates to trust, unless this adapter was given `trust`."""
        if self.trust is None:
            super().cert_verify(conn, url, verify, cert)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send a request and read the whole answer, whose `content` is unpacked and at most `largest` + 1 bytes.

        Raises ExchangeError; its cause is a zlib.error if the answer cannot be unpacked.
        """
        exchange = _Exchange(options["timeout"], self.addresses)
        _THREAD_DATA.exchange = exchange
        try:
            response = super().send(request, **options | {"stream": True})
            with exchange.step():
                # `requests` keeps the body that it has read in these attributes.
                response._content = self._read_body(response, exchange)  # noqa: SLF001
            response._content_consumed = True  # noqa: SLF001
        except Exception as error:
            raise exchange.make_error(error) from error
        finally:
            _THREAD_DATA.exchange = None
            exchange.close()
        return response

    def _read_body(self, response: requests.Response, exchange: _Exchange) -> bytes:
        """Read the body of an answer, unpacked, up to the largest size and one byte more. Raises _TooLateError."""
        is_packed = response.headers.get("Content-Encoding", "").strip().lower() in PACKED
        # 32 + 15: both gzip and zlib are recognised by their headers.
        unpacker = zlib.decompressobj(wbits=47) if is_packed else None
        pieces: list[bytes] = []
        remaining = self.largest + 1
        with contextlib.closing(response.raw):
            for piece in response.raw.stream(CHUNK_BYTES, decode_content=False):
                if exchange.left_s <= 0:
                    break
                plain = unpacker.decompress(piece, remaining) if unpacker else piece[:remaining]
                pieces.append(plain)
                remaining -= len(plain)
                if remaining <= 0:
                    break
        # A body without a length ends where the connection ends, so a body that was cut off here looks whole.
        if exchange.left_s <= 0:
            raise _TooLateError
        return b"".join(pieces)
