"""The HTML that a browser loads first: Streamlit's, and the script by which links keep the connection of the page."""

from __future__ import annotations

import json
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SCRIPT = Path(__file__).with_name("navigation.js")
_ASKED_FOR_LESS = (b"accept-encoding", b"if-none-match", b"if-modified-since", b"range")
"""Headers by which an answer is packed, a part, or only says that nothing has changed."""
_HEAD_ENDS = b"</head>"


class EntryMiddleware:
    """Adds to each HTML page of Streamlit where its server is, and `navigation.js`.

    Streamlit would look for its server below the address of the page first, which fails twice for every page that is
    loaded. `folder`: that of the app in the address (`server.baseUrlPath`).
    """

    is_used = False
    """Do the pages of this process have the script already? Those of `streamlit run app.py` do not."""

    def __init__(self, app: ASGIApp, folder: str = "") -> None:
        EntryMiddleware.is_used = True
        self.app = app
        place = json.dumps(f"/{folder.strip('/')}")
        head = (
            f"<script>window.__streamlit = {{BACKEND_BASE_URL: location.origin + {place}, "
            f"MAIN_PAGE_BASE_URL: location.origin + {place}}};</script>\n"
            f"<script>\n{SCRIPT.read_text(encoding='utf-8')}</script>\n"
        )
        self._head = head.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; only what a browser asks for as a page is changed."""
        is_page = scope["type"] == "http" and scope["method"] == "GET"
        if not is_page or "text/html" not in Headers(scope=scope).get("accept", ""):
            await self.app(scope, receive, send)
            return
        start: Message = {}
        body = b""

        async def send_with_head(message: Message) -> None:
            """Wait for the whole page, and add the scripts to its head; anything else is passed on as it is."""
            nonlocal start, body
            if message["type"] == "http.response.start":
                headers = Headers(raw=message["headers"])
                if message["status"] == 200 and headers.get("content-type", "").startswith("text/html"):
                    start = message
                    return
            if not start or message["type"] != "http.response.body":
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            body = body.replace(_HEAD_ENDS, self._head + _HEAD_ENDS, 1)
            changed = MutableHeaders(raw=list(start["headers"]))
            changed["content-length"] = str(len(body))
            for name in ("etag", "last-modified"):  # of Streamlit's file, which changes less often than the whole
                if name in changed:
                    del changed[name]
            await send({**start, "headers": changed.raw})
            await send({"type": "http.response.body", "body": body})

        asked = [pair for pair in scope["headers"] if pair[0] not in _ASKED_FOR_LESS]
        await self.app({**scope, "headers": asked}, receive, send_with_head)
