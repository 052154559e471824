"""Send one question over HTTP and take its whole answer, within a time and a size.

A server may send a byte now and then, or without end, or packed a thousandfold. The limits of the HTTP client hold for
one read of the socket only, so the connection itself is ended when the time for the whole answer is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from evaluator.errors import SourceError

__all__ = ["LARGEST_ANSWER", "Reply", "Transport", "make_session", "mount"]

LARGEST_ANSWER = 1 << 28
"""Bytes of one answer, unpacked."""

CHUNK_BYTES = 1 << 16

_POST_REFUSED = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.NOT_IMPLEMENTED,
}
"""What proxies answer that let only GET through."""

_PACKED = {"gzip", "x-gzip", "deflate"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, unpacked."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class TooLateError(Exception):
    """The time for the whole answer is over. No OSError: the HTTP client would try again."""


class _Watch:
    """Ends the connection that a thread uses when its time is over."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.lock = threading.Lock()
        self.guard: socket.socket | None = None
        self.timer = threading.Timer(max(deadline - time.monotonic(), 0.0), self._end)
        self.timer.daemon = True
        self.timer.start()

    def take(self, sock: Any) -> None:
        """Watch this socket from now on."""
        with self.lock:
            if self.guard is not None:
                self.guard.close()
            self.guard = socket.socket(fileno=os.dup(sock.fileno()))  # TLS takes the other one over
        if self.is_over():
            self._end()

    def is_over(self) -> bool:
        """Is there no time left?"""
        return time.monotonic() >= self.deadline

    def close(self) -> None:
        """Stop watching."""
        self.timer.cancel()
        with self.lock:
            if self.guard is not None:
                self.guard.close()
                self.guard = None

    def _end(self) -> None:
        with self.lock, contextlib.suppress(OSError):
            if self.guard is not None:
                self.guard.shutdown(socket.SHUT_RDWR)


_OF_THREAD = threading.local()


@contextlib.contextmanager
def _watched() -> Iterator[Callable[[Any], None]]:
    """What takes the socket that is used within. Raises TooLateError for whatever fails once the time is over."""
    watch: _Watch | None = getattr(_OF_THREAD, "watch", None)
    if watch is None:
        yield lambda _: None
        return
    if watch.is_over():
        raise TooLateError
    try:
        yield watch.take
    except Exception:
        if watch.is_over():
            raise TooLateError from None
        raise


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        with _watched() as take:
            sock = super()._new_conn()
            take(sock)
        return sock

    def getresponse(self) -> Any:
        with _watched() as take:
            take(self.sock)
            return super().getresponse()


class _SecureConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        with _watched() as take:
            sock = super()._new_conn()
            take(sock)
        return sock

    def getresponse(self) -> Any:
        with _watched() as take:
            take(self.sock)
            return super().getresponse()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS = {"http": _Pool, "https": _SecurePool}


class _Adapter(HTTPAdapter):
    """Uses connections that can be ended."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager


def make_session() -> requests.Session:
    """A session whose connections can be ended; a server that is restarting is asked up to three times."""
    session = requests.Session()
    mount(session, "http://")
    mount(session, "https://")
    return session


def mount(session: requests.Session, prefix: str) -> None:
    """Let addresses that begin like this be asked over connections that can be ended."""
    retry = Retry(total=2, backoff_factor=0.2, allowed_methods=None, status_forcelist=(502, 503, 504), redirect=0)
    session.mount(prefix, _Adapter(max_retries=retry))


class Transport:
    """Asks one server, by POST; by GET once that is all that gets through to it."""

    def __init__(self, session: requests.Session, timeout_s: float) -> None:
        self.session, self.timeout_s = session, timeout_s
        self.method = "POST"

    def ask(self, url: str, form: Mapping[str, str], **options: Any) -> Reply:
        """Send a form and read the answer.

        Raises requests.RequestException where no whole answer came in time, and SourceError for one that is too large.
        """
        reply = self._send(self.method, url, form, options)
        if self.method == "POST" and reply.status in _POST_REFUSED and not _is_of_the_api(reply.body):
            again = self._send("GET", url, form, options)
            if _is_of_the_api(again.body):
                self.method = "GET"
                return again
        return reply

    def _send(self, method: str, url: str, form: Mapping[str, str], options: Mapping[str, Any]) -> Reply:
        watch = _Watch(time.monotonic() + self.timeout_s)
        _OF_THREAD.watch = watch
        try:
            with self.session.request(
                method,
                url,
                data=dict(form) if method == "POST" else None,
                params=dict(form) if method == "GET" else None,
                timeout=self.timeout_s,
                allow_redirects=False,
                stream=True,
                **options,
            ) as response:
                body = b"".join(self._read(response, watch))
        except TooLateError:
            raise requests.Timeout("timed out") from None
        except (requests.RequestException, HTTPError, OSError) as error:
            if watch.is_over():
                raise requests.Timeout("timed out") from None
            if isinstance(error, requests.RequestException):
                raise
            raise requests.ConnectionError(str(error)) from None
        finally:
            _OF_THREAD.watch = None
            watch.close()
        return Reply(response.status_code, response.headers, body)

    def _read(self, response: requests.Response, watch: _Watch) -> Iterator[bytes]:
        """The body piece by piece, unpacked, up to the largest size."""
        packing = response.headers.get("Content-Encoding", "identity").strip().lower() or "identity"
        if packing != "identity" and packing not in _PACKED:
            raise SourceError(
                f"the metrics server packs its answers as {packing[:40]}, which was not asked for",
                hint="let the proxy before it honour Accept-Encoding: identity",
            )
        unpack = zlib.decompressobj(wbits=47) if packing in _PACKED else None
        size = 0
        for piece in response.raw.stream(CHUNK_BYTES, decode_content=False):
            if watch.is_over():
                raise TooLateError
            plain = _unpack(unpack, piece, LARGEST_ANSWER - size + 1) if unpack else piece
            size += len(plain)
            if size > LARGEST_ANSWER:
                raise SourceError(
                    f"the metrics server sent more than {LARGEST_ANSWER >> 20} MiB in one answer",
                    hint="narrow sources.prometheus.selectors, or lower sources.prometheus.max_series",
                )
            yield plain
        if watch.is_over():  # a body without a length looks whole
            raise TooLateError


def _unpack(unpack: Any, piece: bytes, most: int) -> bytes:
    try:
        plain: bytes = unpack.decompress(piece, most)
    except zlib.error as error:
        raise SourceError(
            f"the metrics server says that its answer is packed, and it cannot be unpacked: {error}",
            hint="let the proxy before it honour Accept-Encoding: identity",
        ) from None
    return plain


def _is_of_the_api(body: bytes) -> bool:
    """Did the API itself answer, be it with an error?"""
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and answer.get("status") in {"success", "error"}
