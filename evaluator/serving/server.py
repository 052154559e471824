"""Streamlit's server in this process, and before it the exchange of the token.

It runs in the process of `evaluator app` itself: whatever ends that process ends the server and its worker, too.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from urllib.parse import parse_qs, unquote_plus

import streamlit as st
import uvicorn
from starlette.middleware import Middleware
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config
from streamlit.starlette import App

from evaluator.errors import EvaluatorError
from evaluator.serving.access import (
    ACCESS_HEADER,
    TOKEN_KEY,
    Access,
    Refusal,
    explain_hidden_store,
    find_peer_account,
    is_foreign,
    use_access,
)
from evaluator.serving.entry import EntryMiddleware
from evaluator.serving.threads import end_threads, stop_threads

OPTIONS: Mapping[str, str | bool] = {
    "server.headless": True,
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.toolbarMode": "minimal",
    "theme.light.primaryColor": "#0b5cad",
    "theme.light.linkColor": "#0b5cad",
    "theme.dark.primaryColor": "#7db7f0",
    "theme.dark.linkColor": "#7db7f0",
}
"""Streamlit's options besides address and port; `.streamlit/config.toml` sets the same for `streamlit run app.py`."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends the server: Ctrl-C, `kill` or a service manager, and a terminal that is closed."""
_CLOSE_S = 3
"""How long connections may take to close, in seconds."""
_FILES = "media"
"""Folder in the address of pictures and downloads, which Streamlit makes of what a page shows."""
_NO_FRAMES = ((b"x-frame-options", b"SAMEORIGIN"), (b"content-security-policy", b"frame-ancestors 'self'"))
"""Headers that keep a page of another server from showing a page of the app in a frame, with its buttons covered."""


def listen(address: str, port: int) -> socket.socket:
    """Open the port of the server; 0 takes a free one. Raises EvaluatorError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "give --address an address of this machine, such as 127.0.0.1, the default; 0.0.0.0 stands for all"
        if getattr(error, "errno", None) in {errno.EADDRINUSE, errno.EACCES}:
            hint = "if the port is in use, give another --port; --port 0 takes a free one"
        raise EvaluatorError(f"the app cannot listen on {address}, port {port}: {reason}", hint=hint) from error


def configure(address: str, port: int) -> None:
    """Set Streamlit's options, also those of `.streamlit/config.toml` in this folder. `port`: the real one, not 0."""
    options = {**OPTIONS, "server.address": address, "server.port": port}
    config.get_config_options(force_reparse=True, options_from_flags=options)


def write_url(address: str, port: int, access: Access | None) -> str:
    """Write the address of the app, with the token if there is one."""
    scheme = "https" if st.get_option("server.sslCertFile") else "http"
    host = f"[{address}]" if ":" in address else address
    folder = str(st.get_option("server.baseUrlPath") or "").strip("/")
    url = f"{scheme}://{host}:{port}/{folder}"
    if access is None:
        return url.rstrip("/")
    return f"{url.rstrip('/')}/?{TOKEN_KEY}={access.token}"


def serve(
    listener: socket.socket,
    script: Path,
    access: Access | None,
    say: Callable[[str], None],
    start_worker: Callable[[], None] | None = None,
) -> int:
    """Serve the pages of `script` until a signal ends the server, then its worker; returns the signal's number.

    `access`: None if people sign in. `start_worker` is called once, before the first page is opened, so that approved
    requests do not wait for a reader; None: requests are only recorded. `say` is called if the worker still executes
    something: a second signal does not wait for that. Raises EvaluatorError if the server does not start.
    """
    use_access(access)
    folder = str(st.get_option("server.baseUrlPath") or "")
    middleware = [Middleware(_AccessMiddleware, access=access), Middleware(EntryMiddleware, folder=folder)]
    server = _Server(
        uvicorn.Config(
            App(script, middleware=middleware),
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            ssl_certfile=st.get_option("server.sslCertFile"),
            ssl_keyfile=st.get_option("server.sslKeyFile"),
            timeout_graceful_shutdown=_CLOSE_S,
            proxy_headers=access is None,  # the rules look at the connection itself, not at what a header says of it
            server_header=False,
            log_config=None,
            log_level="warning",
            access_log=False,
        )
    )
    received: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        """End the server. Uvicorn handles Ctrl-C and `kill` in the same way, and repeats them at its end."""
        received.append(number)
        server.should_exit = True

    # A signal that is ignored stays ignored: `nohup` lets the app live on after its terminal.
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, end)
    try:
        server.config.load()  # reads the certificate; without one that is asked for, nothing is begun
        if start_worker is not None:
            start_worker()
        server.run(sockets=[listener])
    except OSError as error:  # without a certificate nothing is opened any more that can be missing
        raise EvaluatorError(
            f"the app did not start: {error.strerror or error}",
            hint="check server.sslCertFile and server.sslKeyFile in .streamlit/config.toml",
        ) from error
    finally:
        for number in heard:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        end_threads(say)
    if not server.started and not received:
        raise EvaluatorError("the app did not start", hint="its own message is above")
    return received[0] if received else signal.SIGTERM


class _Server(uvicorn.Server):
    """A server whose threads begin nothing else once it ends, also while connections are being closed."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the threads, then close the connections."""
        stop_threads()
        await super().shutdown(sockets)


class _AccessMiddleware:
    """What every request passes before Streamlit: the exchange of the token, and the decision who may act.

    Streamlit shows a page the headers of its connection. One of them, which only this class can write, says whether the
    connection may act, or why not.
    """

    def __init__(self, app: ASGIApp, access: Access | None) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that has a token; pass on all others, with the decision for those of pages."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        # Nobody else may write the header of the decision.
        pairs = [pair for pair in scope["headers"] if pair[0] != ACCESS_HEADER.encode()]
        if self.access is None:
            await self.app({**scope, "headers": pairs}, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
        if scope["type"] == "websocket" and is_foreign(headers):
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "websocket":
            decision = await self._decide(scope, headers, self.access.find_refusal) or self.access.pass_value
            pairs.append((ACCESS_HEADER.encode(), decision.encode()))
            await self.app({**scope, "headers": pairs}, receive, send)
        elif scope["method"] == "GET" and TOKEN_KEY in parse_qs(scope["query_string"].decode("latin-1")):
            await (await self._exchange(scope, headers))(scope, receive, send)
        elif _FILES in scope["path"].split("/") and (
            refusal := await self._decide(scope, headers, self.access.find_file_refusal)
        ):
            text = "\n".join(explain_hidden_store(refusal))
            await PlainTextResponse(text, status_code=403)(scope, receive, send)
        else:
            await self.app({**scope, "headers": pairs}, receive, _forbid_frames(send))

    @staticmethod
    async def _decide(
        scope: Scope,
        headers: Mapping[str, str],
        find_refusal: Callable[[Mapping[str, str], Mapping[str, str], int | None], Refusal | None],
    ) -> Refusal | None:
        """Call a rule of `Access` with headers, cookies and account of a connection; returns its answer."""
        account = await asyncio.to_thread(find_peer_account, scope.get("client"), scope.get("server"))
        return find_refusal(headers, cookie_parser(headers.get("cookie", "")), account)

    async def _exchange(self, scope: Scope, headers: Mapping[str, str]) -> RedirectResponse:
        """Answer an address with a token: the same address without it, and a session if the token is right."""
        access, query = self.access, scope["query_string"].decode("latin-1")
        assert access is not None  # noqa: S101 for the type checker: without it nothing is exchanged
        account = await asyncio.to_thread(find_peer_account, scope.get("client"), scope.get("server"))
        session = access.exchange(parse_qs(query)[TOKEN_KEY][-1], headers, account)
        rest = "&".join(part for part in query.split("&") if unquote_plus(part.partition("=")[0]) != TOKEN_KEY)
        # One slash at the start: with two, the address would be that of another host.
        path = "/" + scope.get("raw_path", scope["path"].encode()).decode("latin-1").lstrip("/")
        response = RedirectResponse(
            f"{path}?{rest}" if rest else path,
            status_code=303,
            headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"},
        )
        if session is not None:
            response.set_cookie(
                access.cookie_name, session, httponly=True, samesite="strict", secure=scope["scheme"] == "https"
            )
        return response


def _forbid_frames(send: Send) -> Send:
    """Add headers to an answer by which browsers do not show it in a frame of another server's page."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_NO_FRAMES]}
        await send(message)

    return send_with_headers
