"""HTTP requests with limits, for every part of this package that asks another machine.

`requests` sends them. This module limits what `requests` does not: a server may send one byte at a time, send without
end, or send few bytes that unpack to very many, and the timeout of an HTTP client limits only one read of the socket.
So the connection is closed when the time for the whole answer is over, and no more is read than is allowed. Where the
addresses were checked, only these are connected to; the name stays in the Host header and in TLS.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
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

# It would print each retry, with what the server sent, and a traceback for a head that it can read only in part.
logging.getLogger("urllib3").setLevel(logging.ERROR)

CHUNK_BYTES = 1 << 16

PACKED = frozenset({"gzip", "x-gzip", "deflate"})
"""Content encodings that are unpacked."""

_ZLIB_OR_GZIP = 47
"""For zlib: recognise either header (32), with the largest window (15)."""


class ExchangeError(requests.ConnectionError):
    """No whole answer came. `reached` is false where certainly nothing was sent; `why` is a short cause for users."""

    def __init__(self, text: str, why: str, *, reached: bool) -> None:
        super().__init__(text)
        self.why, self.reached = why, reached


class _TooLateError(Exception):
    """The time for the whole answer is over. Not an OSError, which urllib3 would retry."""


class _Exchange:
    """One request and its answer. When their time is over, the connection that they use is ended."""

    def __init__(self, timeout_s: float, addresses: Sequence[str]) -> None:
        """Start the time. `timeout_s`: for the whole exchange; `addresses`: where to connect; empty: any address."""
        self.timeout_s, self.addresses = timeout_s, addresses
        self.deadline = time.monotonic() + timeout_s
        self.reached = False
        """Whether a connection was made, so that the request may have been sent."""
        self.first_error: Exception | None = None
        """The first error of the connection, before urllib3 and requests wrap it."""
        self._lock = threading.Lock()
        self._guarded_socket: socket.socket | None = None
        self._timer = threading.Timer(max(timeout_s, 0.0), self._shut_down)
        self._timer.daemon = True
        self._timer.start()

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Do a part of the exchange in the `with` block, and keep its error for `to_exchange_error`.

        Raises _TooLateError if the time is over, before the block or at its error; else the error.
        """
        if self.left_s <= 0:
            raise _TooLateError
        try:
            yield
        except Exception as error:
            if self.left_s <= 0:
                raise _TooLateError from None
            self.first_error = error
            raise

    def guard(self, connection_socket: Any) -> None:
        """Let the timer shut this socket down when the time is over, instead of the socket of the call before."""
        with self._lock:
            if self._guarded_socket is not None:
                self._guarded_socket.close()
            # A duplicate of the same connection: TLS wraps the original socket, which then cannot be used any more.
            self._guarded_socket = socket.socket(fileno=os.dup(connection_socket.fileno()))
        if self.left_s <= 0:
            self._shut_down()

    def close(self) -> None:
        """Stop the timer. The connection stays open for a next exchange."""
        self._timer.cancel()
        with self._lock:
            if self._guarded_socket is not None:
                self._guarded_socket.close()
                self._guarded_socket = None

    def _shut_down(self) -> None:
        """Shut the connection down, so that a thread that waits for it gets an error at once."""
        with self._lock, contextlib.suppress(OSError):
            if self._guarded_socket is not None:
                self._guarded_socket.shutdown(socket.SHUT_RDWR)

    def to_exchange_error(self, error: Exception) -> ExchangeError:
        """Make the ExchangeError of this exchange, which failed with `error`, with a short cause for users."""
        first_error = self.first_error or error
        if self.left_s <= 0:
            why = f"no whole answer within {self.timeout_s:g} s" if self.reached else "no time was left"
            return ExchangeError("timed out", why, reached=self.reached)
        if self.reached:
            return ExchangeError(str(error), type(first_error).__name__, reached=True)
        # The error below that of urllib3 says more: what is wrong with the certificate, or the system's message.
        cause = first_error.__cause__ or first_error.__context__ or first_error
        why = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None) or type(first_error).__name__
        return ExchangeError(str(error), str(why), reached=False)


_THREAD_STATE = threading.local()
"""`exchange`: the exchange of the current thread. requests and urllib3 have no way to pass it to a connection."""


class _Response(http.client.HTTPResponse):
    """An answer whose head is whole. The superclass takes the end of the connection for the end of the head."""

    def begin(self) -> None:
        """Read the head. Raises http.client.IncompleteRead if the connection ends in the middle of it."""
        fp: Any = self.fp
        self.fp = head = _HeadLines(fp)  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            self.fp = fp
        if head.last.strip():
            raise http.client.IncompleteRead(head.last)


class _HeadLines:
    """Lines of the head of an answer, and which was the last one: an empty one, if the head is whole."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.last = b""

    def readline(self, most: int) -> bytes:
        """Read a line of at most so many bytes."""
        line: bytes = self._stream.readline(most)
        self.last = line or self.last  # at the end of the connection, the last line decides
        return line

    def close(self) -> None:
        """Close the connection's stream."""
        self._stream.close()


class _LimitedConnection:
    """Mixin for a connection of urllib3 that keeps it within the time and the addresses of the thread's exchange."""

    def _new_conn(self: Any) -> socket.socket:
        """Connect to the first address of the exchange that can be reached; without addresses, to the host's name."""
        exchange: _Exchange = _THREAD_STATE.exchange
        # urllib3 connects to `_dns_host`; the name is set again, because TLS checks it.
        host_name = self._dns_host
        addresses = exchange.addresses or [host_name]
        with exchange.step():
            for address in addresses:
                # urllib3 refuses a time of 0 or less.
                self._dns_host, self.timeout = address, max(exchange.left_s, 0.001)
                try:
                    new_socket: socket.socket = super()._new_conn()  # type: ignore[misc]
                    break
                except HTTPError:
                    if address == addresses[-1]:
                        raise
                finally:
                    self._dns_host = host_name
            exchange.guard(new_socket)  # it is shut down when the time is over
        return new_socket

    def connect(self) -> None:
        """Connect, with TLS for https, and note that the server was reached."""
        exchange: _Exchange = _THREAD_STATE.exchange
        with exchange.step():
            super().connect()  # type: ignore[misc]
        exchange.reached, exchange.first_error = True, None

    def request(self: Any, *args: Any, **options: Any) -> None:
        """Send the request, over a new connection or over one that is still open from an earlier exchange."""
        if self.sock is not None:  # it is open, so `connect` is not called
            _THREAD_STATE.exchange.reached = True
        super().request(*args, **options)  # type: ignore[misc]

    def getresponse(self: Any) -> Any:
        """Read the head of the answer. When the time of the exchange is over, the connection is shut down."""
        exchange: _Exchange = _THREAD_STATE.exchange
        with exchange.step(), contextlib.ExitStack() as refused:
            # From now on the timer of the exchange shuts this socket down. A new connection may have replaced its
            # socket by one with TLS, and the timer does not know a connection from an earlier exchange yet.
            exchange.guard(self.sock)
            # urllib3 does not close an answer that it refuses for its head, such as two lengths of one body.
            self.response_class = lambda *args, **options: refused.enter_context(
                contextlib.closing(_Response(*args, **options))
            )
            response = super().getresponse()  # type: ignore[misc]
            refused.pop_all()  # whoever reads the body closes it
            return response


_POOLS = {
    scheme: type("Pool", (pool,), {"ConnectionCls": type("Connection", (_LimitedConnection, connection), {})})
    for scheme, pool, connection in (
        ("http", HTTPConnectionPool, HTTPConnection),
        ("https", HTTPSConnectionPool, HTTPSConnection),
    )
}
"""Scheme → class of connection pools whose connections are limited."""


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
        """Set the limits.

        `largest`: bytes of an answer. `addresses`: the only ones to connect to (empty: any). `trust`: certificates to
        trust (None: those of the session). `retry`: what to do about requests that fail, as for `HTTPAdapter`.
        """
        # First: the method of the superclass calls `init_poolmanager`, which needs `trust`.
        self.largest, self.addresses, self.trust = largest, addresses, trust
        super().__init__(max_retries=retry)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pools of connections as the library `requests` does, but with connections that have our limits."""
        if self.trust is not None:
            options["ssl_context"] = self.trust
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Let connections to a proxy have our limits, too, except through SOCKS, which needs a class of its own."""
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Set the certificates of the session for a connection, unless the adapter was given `trust`."""
        if self.trust is None:
            super().cert_verify(conn, url, verify, cert)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send a request and read the whole answer, cut to the limit, within options["timeout"] seconds.

        Raises ExchangeError; its cause is a zlib.error if the answer cannot be unpacked.
        """
        exchange = _Exchange(options["timeout"], self.addresses)
        _THREAD_STATE.exchange = exchange
        try:
            # Streamed: the body is read here, within the limits, instead of by requests.
            response = super().send(request, **options | {"stream": True})
            # Closed also if the time was over before the body was read.
            with contextlib.closing(response.raw), exchange.step():
                response._content = self._read_body(response, exchange)  # noqa: SLF001 - where requests keeps a body
            response._content_consumed = True  # noqa: SLF001
        except Exception as error:
            raise exchange.to_exchange_error(error) from error
        finally:
            _THREAD_STATE.exchange = None
            exchange.close()
        return response

    def _read_body(self, response: requests.Response, exchange: _Exchange) -> bytes:
        """Read and unpack the body, up to `largest` + 1 bytes: the last one shows that there was more than allowed.

        Raises _TooLateError, zlib.error.
        """
        is_packed = response.headers.get("Content-Encoding", "").strip().lower() in PACKED
        unpacker = zlib.decompressobj(wbits=_ZLIB_OR_GZIP) if is_packed else None
        pieces: list[bytes] = []
        remaining = self.largest + 1
        for received in response.raw.stream(CHUNK_BYTES, decode_content=False):
            if exchange.left_s <= 0:
                break
            # `remaining` limits what is unpacked: few bytes may become very many.
            piece = unpacker.decompress(received, remaining) if unpacker else received[:remaining]
            pieces.append(piece)
            remaining -= len(piece)
            if remaining <= 0:
                break
        # If the timer has shut the connection down, this looks like the end of a body whose length was not announced.
        if exchange.left_s <= 0:
            raise _TooLateError
        return b"".join(pieces)
