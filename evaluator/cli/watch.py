"""`evaluator watch`: judge again as data land, and stop when it is decided."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

import click

from evaluator.cli import Session
from evaluator.cli.amounts import Duration
from evaluator.cli.verdict import Asked, judging_options
from evaluator.pipeline.base import lower_priority
from evaluator.policy import Policy
from evaluator.records import Verdict
from evaluator.reports import plain_text

if TYPE_CHECKING:
    from evaluator.store import Store

__all__ = ["StatusLine", "await_verdict", "command"]

PLAIN_EVERY_S = 30.0
"""Where there is no terminal, a line at most this often."""


@click.command("watch")
@click.argument("release", metavar="RELEASE")
@judging_options
@click.option(
    "--wait", "wait_s", type=Duration(), metavar="DURATION", help="Wait so long.  [default: until it is decided]"
)
@click.pass_obj
def command(
    session: Session,
    release: str,
    runs: str,
    formats: tuple[str, ...],
    figures: bool,
    fail_on: str,
    exit_zero: bool,
    dry_run: bool,
    wait_s: float | None,
) -> int:
    """Judge RELEASE again as data land, until it is decided.

    Ends with the verdict, as `evaluator verdict` gives it: NO-GO as soon as it is shown, GO at the planned end (or
    earlier where the policy sets early_go), INCONCLUSIVE when the load has ended undecided or the time is up. A release
    that does not exist yet is waited for. Only the last verdict is kept.

    Exit codes: 0 GO, 1 NO-GO, 3 INCONCLUSIVE or too late, 130 interrupted; 2 and 4 when there is no verdict.
    """
    asked = Asked.parse(runs, formats, fail_on, figures=figures, exit_zero=exit_zero, dry_run=dry_run)
    return asked.answer(await_verdict(session, release, session.load_policy(release), asked, wait_s))


def await_verdict(session: Session, release: str, policy: Policy, asked: Asked, wait_s: float | None) -> Verdict:
    """Wait for the verdict of a release and keep it, where it is to be kept and there is such a release by now."""
    from evaluator.pipeline.judging import keep_verdict
    from evaluator.pipeline.watching import StoredSubject, Watch

    open_store = _open_when_there(session)
    line = StatusLine(say=session.say if session.verbosity >= 0 else None)
    with _in_background() as judge_with:
        path = session.store_path.absolute()
        subject = StoredSubject(open_store, path, release, policy, asked.runs, judge_with)
        watch = Watch(subject, policy, time.monotonic, time.sleep, wait_s, tell=line.show)
        try:
            verdict = watch.run()
        except KeyboardInterrupt:
            line.close(f"stopped waiting for {release}: {watch.status}")
            raise
        line.close()
    if verdict is None:  # nobody asked it to stop
        raise KeyboardInterrupt
    store = open_store()
    if asked.draws and store is not None and subject.is_known(store):
        from evaluator.pipeline.drawing import add_figures

        verdict = add_figures(store, verdict, policy, asked.runs)
    if asked.keep and store is not None and subject.is_known(store):
        keep_verdict(store, verdict)
    return verdict


def _open_when_there(session: Session) -> Callable[[], Store | None]:
    """Open the store once it is there, and only once."""
    opened: list[Store] = []

    def open_store() -> Store | None:
        if not opened and session.store_path.exists():
            opened.append(session.open_store())
        return opened[0] if opened else None

    return open_store


@contextmanager
def _in_background() -> Iterator[Callable[[Callable[[], Verdict]], Verdict]]:
    """Judge in a thread that leaves the load generator the first choice of the machine."""
    with ThreadPoolExecutor(max_workers=1, initializer=lower_priority) as pool:
        yield lambda judge: pool.submit(judge).result()


class StatusLine:
    """Says where things stand on stderr: in one line that changes on a terminal, elsewhere in a line now and then."""

    def __init__(
        self,
        say: Callable[[str], None] | None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._clock = say, clock
        self._stream = stream or sys.stderr
        self._live = say is not None and _takes_live_line(self._stream)
        self._shown = 0
        self._said_at: float | None = None

    def show(self, text: str) -> None:
        """Show where things stand now."""
        if self._say is None:
            return
        if self._live:
            self._write(plain_text(text)[: shutil.get_terminal_size((80, 24)).columns - 1])
        elif self._said_at is None or self._clock() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = self._clock()
            self._say(plain_text(text))

    def close(self, last: str | None = None) -> None:
        """Take the live line away, and leave a last word."""
        if self._shown:
            self._write("")
            self._shown = 0
        if last is not None and self._say is not None:
            self._say(plain_text(last))

    def _write(self, text: str) -> None:
        self._stream.write("\r" + text.ljust(self._shown) + ("\r" if not text else ""))
        self._stream.flush()
        self._shown = len(text)


def _takes_live_line(stream: TextIO) -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("CI") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain
