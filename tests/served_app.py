"""The app as its user starts it."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class ServedApp:
    """A running app."""

    process: subprocess.Popen[str]
    entry: str
    """The address that it printed, with the token, if it has one."""
    log: Path
    """What it wrote to stderr."""

    @property
    def address(self) -> str:
        return self.entry.partition("/?")[0]

    def get(self, path: str, **headers: str) -> http.client.HTTPResponse:
        """Send a request as it is written, and read its whole answer; redirects are not followed."""
        with contextlib.closing(http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=60)) as connection:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            response.read()
            return response

    def get_session(self) -> str:
        """Exchange the token for a session; returns the cookie."""
        return self.get(self.entry.removeprefix(self.address)).headers["Set-Cookie"].partition(";")[0]


@contextlib.contextmanager
def run_app(folder: Path, *words: str, options: Sequence[str] = ()) -> Iterator[ServedApp]:
    """Run `evaluator OPTIONS app WORDS` in a folder until it serves; it is ended if it still runs at the end."""
    log = folder / "app.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "evaluator", *options, "app", *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        entry = process.stdout.readline().strip()
        assert entry, log.read_text()
        app = ServedApp(process, entry, log)
        assert app.get("/_stcore/health").status == 200
        yield app
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        process.stdout.close()
