"""Who may act in an app without a login: only the browser that opened the address that `evaluator app` printed.

That address has a token, which the server exchanges for a session: a cookie that scripts cannot read, and that other
sites do not get sent. All other connections may only read: those of other accounts of this machine, of pages that
another server of this machine shows, and through a proxy. A store that only its owner can read is not shown to them.

A browser sends a cookie to every port of a host, so a server of another account could receive it. On Linux the session
is therefore bound to the account whose browser has opened the address: other accounts cannot use it. The token works
for the first account only, too: a browser that a terminal starts has it in its arguments, which all accounts can list.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
import struct
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from evaluator.permissions import is_private
from evaluator.segments import data_folder

TOKEN_KEY = "token"  # noqa: S105 the name of a parameter of the address
_CONNECTIONS = Path("/proc/net")
"""Where Linux lists the connections of this machine, with the account of each end that is here."""
UNLISTED = -1
"""In the place of an account: the system lists connections, but not this one; who opened it is not known."""
_ESTABLISHED = "01"
"""State of a connection that both ends have open. Later states are listed under account 0 once its process is gone."""
_READS = 3
"""How often that list is read until a connection is found: while it is read, entries may move and be missed."""


class Refusal(StrEnum):
    """Why a connection may only read."""

    NO_SESSION = "no-session"
    """Its browser has not opened the address with the token, or the server was started again since."""
    NOT_DIRECT = "not-direct"
    """It came through a proxy, or the address has another host than this machine's own."""
    OTHER_PAGE = "other-page"
    """It was not opened by a page of this app: by one of another server, or by a program."""
    NOT_LISTED = "not-listed"
    """The system does not list whose connection it is: the program that opened it has closed it already, or runs
    elsewhere."""
    NOT_STARTED = "not-started"
    """The app was started by another command than `evaluator app`, so there is no token."""


EXPLANATIONS: Mapping[Refusal, tuple[str, str]] = {
    Refusal.NO_SESSION: (
        "This browser may only read.",
        "To act, open the address that `evaluator app` printed at its start, with `?token=`, or start the app again.",
    ),
    Refusal.NOT_DIRECT: (
        "The app was opened through a proxy or under another name, and has no login: it may only be read.",
        "To act, open the address that `evaluator app` printed, or configure a login (docs/app.md).",
    ),
    Refusal.OTHER_PAGE: (
        "This connection was not opened by a page of the app: it may only read.",
        "To act, open the address that `evaluator app` printed at its start, in a browser.",
    ),
    Refusal.NOT_LISTED: (
        "This connection may only read: the system does not say which account of this machine opened it.",
        "To act, open the address that `evaluator app` printed, in a browser of this machine or through `ssh -L`.",
    ),
    Refusal.NOT_STARTED: (
        "The app was not started by `evaluator app`: it may only be read.",
        "To act, start `evaluator app`, and open the address that it prints.",
    ),
}
"""What a page says about each refusal: the problem, and what to do."""


def explain_hidden_store(refusal: Refusal) -> tuple[str, str]:
    """Say why a page shows nothing of a store that only its owner can read, and what to do."""
    advice = EXPLANATIONS[refusal][1].replace("To act", "To read it", 1)
    return "This store is private: it is shown only to the account that started the app.", advice


def is_store_private(store: Path) -> bool:
    """Can only the owner read the store at this path, or what was recorded next to it?"""
    return is_private(store) or is_private(data_folder(store))


ACCESS_HEADER = "x-evaluator-access"
"""Header of a page's connection in which the server says that it may act, or why not (a `Refusal`)."""


class Access:
    """The token and the sessions of one server, and the rules by which a connection may act."""

    def __init__(self, port: int, store: Path) -> None:
        """Make a new token, which no earlier session belongs to.

        `port`: of the server; two servers may run. `store`: path of the store that the pages show.
        """
        self.store = store
        self.token = secrets.token_urlsafe(32)
        self.cookie_name = f"evaluator-session-{port}"
        self.pass_value = secrets.token_urlsafe(32)
        """Value of ACCESS_HEADER of a connection that may act. No other program can know it."""
        self._key = secrets.token_bytes(32)
        self._token_account: int | None = None
        """The first account that used the token; None: none did, or the system does not say which account it was."""

    def exchange(self, token: str, headers: Mapping[str, str], account: int | None) -> str | None:
        """Return the session for a token; None if it is wrong, or of another account, or did not come directly.

        `headers`: of the request, in lower case. `account`: see `find_peer_account`.
        """
        if not hmac.compare_digest(token.encode(), self.token.encode()) or not _is_direct(headers):
            return None
        if account == UNLISTED:
            return None
        if self._token_account is None:
            self._token_account = account
        return self._make_session(account) if account == self._token_account else None

    def find_refusal(
        self, headers: Mapping[str, str], cookies: Mapping[str, str], account: int | None
    ) -> Refusal | None:
        """Say why a connection may only read; None: it may act. `headers`, `account`: as for `exchange`."""
        if not _is_direct(headers):
            return Refusal.NOT_DIRECT
        # A browser states which page opens a connection, and a page of another server cannot change that.
        if headers.get("origin", "").lower() not in {f"{scheme}://{headers['host'].lower()}" for scheme in _SCHEMES}:
            return Refusal.OTHER_PAGE
        return self._check_session(cookies, account)

    def find_file_refusal(
        self, headers: Mapping[str, str], cookies: Mapping[str, str], account: int | None
    ) -> Refusal | None:
        """Say why a request may not have a file of a page, such as a picture or a table; None: it may.

        Of a store that everyone can read, all may. A browser does not state which page asks for a file, but a page of
        another server cannot read it. `headers`, `account`: as for `exchange`.
        """
        if not is_store_private(self.store):
            return None
        return self._check_session(cookies, account) if _is_direct(headers) else Refusal.NOT_DIRECT

    def _check_session(self, cookies: Mapping[str, str], account: int | None) -> Refusal | None:
        """Say why the cookies of a connection are not the session of its account; None: they are."""
        if account == UNLISTED:
            return Refusal.NOT_LISTED
        session = cookies.get(self.cookie_name, "")
        if not hmac.compare_digest(session.encode(), self._make_session(account).encode()):
            return Refusal.NO_SESSION
        return None

    def read_decision(self, header: str) -> Refusal | None:
        """Read the value of ACCESS_HEADER: why the connection may only read; None: it may act."""
        if hmac.compare_digest(header.encode(), self.pass_value.encode()):
            return None
        return Refusal(header) if header in set(Refusal) else Refusal.NO_SESSION

    def _make_session(self, account: int | None) -> str:
        """Make the session of an account: always the same, so that the server does not have to store it."""
        return hmac.new(self._key, f"session of {account}".encode(), "sha256").hexdigest()


_SCHEMES = ("http", "https")

_accesses: list[Access] = []
"""The rules of the server in this process; empty: no server of ours runs, or people sign in."""


def use_access(access: Access | None) -> None:
    """Let the pages that this process shows obey these rules; None: without a login they may only be read."""
    _accesses[:] = [] if access is None else [access]


def find_page_refusal(headers: Mapping[str, str]) -> Refusal | None:
    """Say why a page without a login may only be read; None: it may act. `headers`: of its connection."""
    return _accesses[0].read_decision(headers.get(ACCESS_HEADER, "")) if _accesses else Refusal.NOT_STARTED


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Was this connection opened by a page of another machine?

    Streamlit would ask a server on the internet for the address of this machine, to compare.
    """
    origin_host = headers.get("origin", "").partition("://")[2]
    return "origin" in headers and origin_host != headers.get("host") and not _is_loopback(origin_host)


def _is_direct(headers: Mapping[str, str]) -> bool:
    """Did a browser of this machine send this request itself, and to an address of this machine?

    Proxies add headers. A Host of another name is that of a proxy, or of a page that directs its own name to this
    machine.
    """
    is_forwarded = any(name.startswith("x-forwarded") or name in {"forwarded", "via", "x-real-ip"} for name in headers)
    return not is_forwarded and _is_loopback(headers.get("host", ""))


def _is_loopback(host: str) -> bool:
    """Is the value of a Host header, with or without a port, an address of this machine for itself?"""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def find_peer_account(client: tuple[str, int] | None, server: tuple[str, int] | None) -> int | None:
    """Find the number of the account whose process opened a connection from this machine to this server.

    `client`, `server`: address and port of both ends. None: the system does not say it (only Linux does). UNLISTED: it
    does, but not of this connection, which one end has closed, or which does not come from this machine.
    """
    if not client or not server:
        return None
    try:
        ends = [_write_end(*client), _write_end(*server)]
        table = _CONNECTIONS / ("tcp6" if ":" in client[0] else "tcp")
        for _ in range(_READS):
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                # Columns: number, own end, other end, state, queues, timer, retransmissions, account …
                if fields[1:3] == ends and fields[3] == _ESTABLISHED:
                    return int(fields[7])
    except (OSError, ValueError, IndexError):
        return None
    return UNLISTED


def _write_end(address: str, port: int) -> str:
    """Write address and port as Linux lists them: hexadecimal, in 32-bit words of the machine's byte order."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return f"{''.join(f'{word:08X}' for word in words)}:{port:04X}"
