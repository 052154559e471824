"""Wait for a verdict, and show the progress."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TextIO

from evaluator.cli import Session
from evaluator.cli.judging import JudgeOptions
from evaluator.errors import EvaluatorError, UnknownName
from evaluator.pipeline.adopting import is_store_there
from evaluator.pipeline.base import lower_priority
from evaluator.pipeline.judging import add_figures, keep_verdict
from evaluator.pipeline.runs import is_stored
from evaluator.pipeline.watching import POLL_S, StoredSubject, Watch
from evaluator.policy import Policy, load_policy
from evaluator.records import Verdict
from evaluator.reports import plain_text
from evaluator.store import Store
from evaluator.wording import quote_command

PLAIN_EVERY_S = 30.0
"""Where there is no terminal, a line at most this often."""


def await_verdict(session: Session, release: str, options: JudgeOptions, wait_s: float | None) -> Verdict:
    """Wait until the verdict of a release is decided, at most `wait_s` seconds (`None`: forever), and return it.

    The status is shown meanwhile. The verdict is stored if `options` ask for that and the release exists by then.
    """
    line = StatusLine(say=session.say if session.verbosity >= 0 else None)
    started = time.monotonic()
    own_policy = _await_policy(session, release, wait_s, line)
    policy = own_policy or load_policy(None)  # without data the verdict is INCONCLUSIVE under any policy
    waited_s = time.monotonic() - started
    opened_store: Store | None = None

    def open_store() -> Store | None:
        """Open the store at the first call at which it exists; `None` before."""
        nonlocal opened_store
        if opened_store is None and is_store_there(session.store_path):
            opened_store = session.open_store()
        return opened_store

    # Judgements run in a thread of low priority: the load generator, perhaps on the same machine, goes first.
    with ThreadPoolExecutor(max_workers=1, initializer=lower_priority) as pool:
        subject = StoredSubject(
            open_store,
            session.store_path.absolute(),
            release,
            policy,
            options.runs,
            options.step,
            judge_with=lambda judge: pool.submit(judge).result(),
        )
        watch = Watch(subject, policy, time.monotonic, time.sleep, wait_s, waited_s, report=line.show)
        try:
            verdict = watch.run()
        except KeyboardInterrupt:
            line.close(f"stopped waiting for {release}: {watch.status}")
            raise
        line.close()
    if verdict is None:  # the wait was ended from outside: only Ctrl-C does that here
        raise KeyboardInterrupt
    store = open_store()
    if store is not None and is_stored(store, release):
        if own_policy is None:
            raise EvaluatorError(
                f"{release} was recorded when the wait ended, and was not judged by its policy",
                hint=f"judge it: {quote_command('verdict', release)}",
            )
        if options.draws:
            verdict = add_figures(store, verdict, policy, options.runs, options.step)
        if options.keep:
            keep_verdict(store, verdict)
    return verdict


def _await_policy(session: Session, release: str, wait_s: float | None, line: StatusLine) -> Policy | None:
    """Load the policy of a release, and wait for the release if its policy depends on its service.

    A folder has a policy for each service, so the release must be there first. Returns `None` if it is not after
    `wait_s` seconds (`None`: wait forever). Raises PolicyError.
    """
    path = session.find_policy()
    if path is None or not path.is_dir():
        return session.load_policy(release)
    deadline = math.inf if wait_s is None else time.monotonic() + wait_s
    while True:
        if is_store_there(session.store_path):
            try:
                return session.load_policy(release)
            except UnknownName as error:
                if error.kind != "release":
                    raise
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            return None
        line.show("waiting for the release")
        time.sleep(min(POLL_S, remaining_s))


class StatusLine:
    """Shows the progress on stderr: on a terminal one line that is updated, elsewhere a new line at intervals."""

    def __init__(
        self,
        say: Callable[[str], None] | None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`say` shows a message; `None`: nothing is ever shown. `stream`: where the live line is; by default stderr."""
        self._say = say
        self._clock = clock
        self._stream = stream or sys.stderr
        only_plain = os.environ.get("NO_COLOR") or os.environ.get("CI") or os.environ.get("TERM") == "dumb"
        # A live line is one that is updated. Elsewhere than on a terminal, each status is a line of its own.
        self._is_live = say is not None and self._stream.isatty() and not only_plain
        self._shown_width = 0
        """Length of the text that is on the line now."""
        self._last_shown_at: float | None = None
        """`clock` at the last message, if there is no live line."""

    def show(self, text: str) -> None:
        """Show the current status: on the live line at once, without one as a message every PLAIN_EVERY_S seconds."""
        if self._say is None:
            return
        if self._is_live:
            columns = shutil.get_terminal_size((80, 24)).columns
            self._write_line(plain_text(text)[: columns - 1])  # a text that wraps could not be replaced
        elif self._last_shown_at is None or self._clock() - self._last_shown_at >= PLAIN_EVERY_S:
            self._last_shown_at = self._clock()
            self._say(plain_text(text))

    def close(self, last: str | None = None) -> None:
        """Remove the live line, if one is shown, and show the message `last`, if it is given."""
        if self._shown_width:
            self._write_line("")
        if last is not None and self._say is not None:
            self._say(plain_text(last))

    def _write_line(self, text: str) -> None:
        """Replace the text of the live line; an empty text leaves the cursor at its start."""
        # Spaces overwrite the rest of a longer text that was shown before.
        self._stream.write("\r" + text.ljust(self._shown_width) + ("\r" if not text else ""))
        self._stream.flush()
        self._shown_width = len(text)
