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
    """No whole answer came. `reached` is false where certainly nothing was sent; `why` is a short cause for users."""

    def __init__(self, text: str, why: str, *, reached: bool) -> None:
        super().__init__(text)
        self.why, self.reached = why, reached


class _TooLateError(Exception):
    """The time for the whole answer is over. Not an OSError, which urllib3 would retry."""


class _Exchange:
    """One request and its answer, and the connection they use, which is ended when their time is over."""

    def __init__(self, timeout_s: float, addresses: Sequence[str]) -> None:
        self.timeout_s, self.addresses = timeout_s, addresses
        self.deadline = time.monotonic() + timeout_s
        self.reached = False
        self.trouble: Exception | None = None
        """The first error of the connection, before urllib3 and requests wrap it."""
        self._lock = threading.Lock()
        self._guard: socket.socket | None = None
        self._timer = threading.Timer(max(timeout_s, 0.0), self._end)
        self._timer.daemon = True
        self._timer.start()

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Do a part of the exchange. Raises _TooLateError for any failure after the deadline."""
        if self.left_s <= 0:
            raise _TooLateError
        try:
            yield
        except Exception as error:
            if self.left_s <= 0:
                raise _TooLateError from None
            self.trouble = error
            raise

    def use(self, sock: Any) -> None:
        """End this socket when the time is over."""
        with self._lock:
            if self._guard is not None:
                self._guard.close()
            self._guard = socket.socket(fileno=os.dup(sock.fileno()))  # TLS takes the other one over
        if self.left_s <= 0:
            self._end()

    def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            if self._guard is not None:
                self._guard.close()
                self._guard = None

    def _end(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._guard is not None:
                self._guard.shutdown(socket.SHUT_RDWR)

    def fail(self, error: Exception) -> ExchangeError:
        """The error of an exchange that failed with `error`."""
        trouble = self.trouble or error
        if self.left_s <= 0:
            why = f"no whole answer within {self.timeout_s:g} s" if self.reached else "no time was left"
            return ExchangeError("timed out", why, reached=self.reached)
        if self.reached:
            return ExchangeError(str(error), type(trouble).__name__, reached=True)
        cause = trouble.__cause__ or trouble.__context__ or trouble
        why = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None) or type(trouble).__name__
        return ExchangeError(str(error), str(why), reached=False)


_OF_THREAD = threading.local()


class _Limited:
    """The methods of a connection, within the limits of its thread's exchange."""

    def _new_conn(self: Any) -> socket.socket:
        exchange: _Exchange = _OF_THREAD.exchange
        name, addresses = self._dns_host, exchange.addresses or [self._dns_host]
        with exchange.step():
            for address in addresses:
                self._dns_host, self.timeout = address, max(exchange.left_s, 0.001)
                try:
                    sock: socket.socket = super()._new_conn()  # type: ignore[misc]
                    break
                except HTTPError:
                    if address == addresses[-1]:
                        raise
                finally:
                    self._dns_host = name
            exchange.use(sock)
        return sock

    def connect(self) -> None:
        exchange: _Exchange = _OF_THREAD.exchange
        with exchange.step():
            super().connect()  # type: ignore[misc]
        exchange.reached, exchange.trouble = True, None

    def request(self: Any, *args: Any, **options: Any) -> None:
        if self.sock is not None:  # an earlier exchange has opened it
            _OF_THREAD.exchange.reached = True
        super().request(*args, **options)  # type: ignore[misc]

    def getresponse(self: Any) -> Any:
        exchange: _Exchange = _OF_THREAD.exchange
        with exchange.step():
            exchange.use(self.sock)
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
        """Make connections that can be ended."""
        if self.trust is not None:
            options["ssl_context"] = self.trust
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Make connections to a proxy that can be ended."""
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Name the certificates to trust, unless they were given."""
        if self.trust is None:
            super().cert_verify(conn, url, verify, cert)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send it and read the answer. Raises ExchangeError; a zlib.error is its cause if it cannot be unpacked."""
        exchange = _OF_THREAD.exchange = _Exchange(options["timeout"], self.addresses)
        try:
            response = super().send(request, **options | {"stream": True})
            with exchange.step():
                response._content = self._read(response, exchange)  # noqa: SLF001 - where requests keeps what was read
            response._content_consumed = True  # noqa: SLF001
        except Exception as error:
            raise exchange.fail(error) from error
        finally:
            _OF_THREAD.exchange = None
            exchange.close()
        return response

    def _read(self, response: requests.Response, exchange: _Exchange) -> bytes:
        """The body, unpacked, up to the largest size and one byte more."""
        packed = response.headers.get("Content-Encoding", "").strip().lower() in PACKED
        unpack = zlib.decompressobj(wbits=47) if packed else None
        pieces: list[bytes] = []
        remaining = self.largest + 1
        with contextlib.closing(response.raw):
            for piece in response.raw.stream(CHUNK_BYTES, decode_content=False):
                if exchange.left_s <= 0:
                    break
                plain = unpack.decompress(piece, remaining) if unpack else piece[:remaining]
                pieces.append(plain)
                remaining -= len(plain)
                if remaining <= 0:
                    break
        if exchange.left_s <= 0:  # a body without a length looks whole
            raise _TooLateError
        return b"".join(pieces)
