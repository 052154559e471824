"""The worker's loop: it executes approved requests as they come, and no error ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from evaluator.errors import EvaluatorError, StoreError
from evaluator.intents.executing import LoadPolicy, execute_waiting, name_worker
from evaluator.intents.journal_trail import record_actions
from evaluator.intents.notifying import Notifier
from evaluator.records.intents import Intent
from evaluator.store import Store, stamp_of
from evaluator.store.journal import find_journal

WITHOUT_STORE = "`evaluator rollback RELEASE` and `evaluator hold RELEASE` work all the same, on this machine"
"""What people can do where the decisions cannot be used."""
POLL_S = 1.0
SLOWEST_POLL_S = 15.0
"""An unchanged store is read again after this time: requests expire without a write."""


def run_worker(
    store: Store,
    load: LoadPolicy,
    stop: threading.Event,
    *,
    say: Callable[[str], None],
    poll_s: float = POLL_S,
    load_to_go_back: LoadPolicy | None = None,
) -> None:
    """Execute approved intents until `stop` is set: the one that is being executed then is the last.

    Every `poll_s` seconds, it tests whether the store has changed, and only then reads it. `say` is called with a
    sentence for each executed intent and each error. Errors do not end the worker. `load_to_go_back`: as in `execute`.
    """
    worker = name_worker()
    notifier = Notifier(store, load, say)
    last_stamp = None  # of the store when it was last read; None: read it at the next poll
    idle_s = 0.0  # since the store was last read
    failures: list[str] = []

    def describe(error: Exception) -> str:
        """Describe an error; without the text of errors of other packages, which may hold secrets."""
        if not isinstance(error, EvaluatorError):
            return f"it ended with an unexpected {type(error).__name__}"
        return f"{error.message} ({error.hint})" if error.hint else error.message

    def add_failure(intent: Intent, error: Exception) -> None:
        """Note that the execution of an intent raised an error; it is reported below."""
        failures.append(f"{intent.id} ({intent.action} {intent.release}) could not be executed: {describe(error)}")

    while not stop.is_set():
        stamp = stamp_of(store.path)  # changes with each write to the store
        if stamp != last_stamp or idle_s >= SLOWEST_POLL_S:  # intents also expire without a change
            last_stamp = stamp
            idle_s = 0.0
            failures.clear()
            try:
                record_actions(store, find_journal(store.path))
                for intent in execute_waiting(
                    store, load, worker, stop=stop, failed=add_failure, load_to_go_back=load_to_go_back
                ):
                    say(f"{intent.id} ({intent.action} {intent.release}) is {intent.state}")
            except StoreError as error:
                failures.append(f"requests cannot be executed now: {describe(error)}; {WITHOUT_STORE}")
            except Exception as error:  # noqa: BLE001 - a worker that ends leaves everything waiting
                failures.append(describe(error))
            for failure in failures:
                say(failure)
            if failures:
                last_stamp = None  # try again at the next poll, even if the store has not changed
            notifier.start()  # no action waits for a message
        idle_s += poll_s
        stop.wait(poll_s)
    notifier.wait()
