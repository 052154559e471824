"""A service that accepts every connection and, from some moment on, answers nothing any more.

    python silent.py PORT SILENT_AFTER_S [half]

The moment counts from the first request. With `half` it sends the head of an answer then, and never the body. A request
for /late is answered a second later, and one for /never is not answered.
"""

from __future__ import annotations

import asyncio
import sys
import time

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nX-Instance: quiet-1\r\n\r\n"

LATE_S = 1.0


class Quiet(asyncio.Protocol):
    """Answers at once, until it does not."""

    first: float | None = None
    silent_after_s = 0.0
    half = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection to answer on."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer, or keep silent."""
        now = time.monotonic()
        if Quiet.first is None:
            Quiet.first = now
        if data.startswith(b"GET /never"):
            return
        if now - Quiet.first < self.silent_after_s:
            delay_s = LATE_S if data.startswith(b"GET /late") else 0.0
            asyncio.get_running_loop().call_later(delay_s, self.transport.write, HEAD + b"ok")
        elif self.half:
            self.transport.write(HEAD)


async def serve(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Quiet, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    Quiet.silent_after_s, Quiet.half = float(sys.argv[2]), sys.argv[3:] == ["half"]
    asyncio.run(serve(int(sys.argv[1])))
