"""The thread of the app that executes approved requests, whether or not a page is open."""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from pathlib import Path

from evaluator.errors import StoreError
from evaluator.intents import WITHOUT_STORE, run_worker
from evaluator.pipeline.adopting import open_store
from evaluator.policy import Policy
from evaluator.policy.going_back import choose_policy_to_go_back
from evaluator.policy.selection import find_policy, policy_of
from evaluator.serving.threads import start_thread
from evaluator.store import Store
from evaluator.store.control_file import control_path

NO_WORKER = "EVALUATOR_APP_WORKER"
"""`off` in the environment: the app records intents, and another process executes them."""
_POLL_S = 1.0
"""How often a store that is not there yet is looked for, in seconds."""
_log = logging.getLogger("evaluator")
_starting = threading.Lock()
_started: set[Path] = set()
"""Stores that have a worker in this process."""


def start_worker(path: Path) -> None:
    """Start a worker for the store at `path`, unless there is one, or the environment turns it off."""
    if os.environ.get(NO_WORKER) == "off":
        return
    with _starting:
        if path in _started:
            return
        _started.add(path)
    start_thread(partial(_execute_requests, path), "worker")


def _execute_requests(path: Path, stop: threading.Event) -> None:
    """Execute the approved requests of the store at `path`, as soon as it is there, until `stop` is set."""
    store = _wait_for_store(path, stop)
    if store is not None:
        load, load_to_go_back = partial(_load_policy, store), partial(_load_policy_to_go_back, store)
        run_worker(store, load, stop, say=_log.warning, load_to_go_back=load_to_go_back)


def _wait_for_store(path: Path, stop: threading.Event) -> Store | None:
    """Open the store at `path` once there is one that can be opened; None if `stop` is set before."""
    reported = ""
    while not stop.is_set():
        if path.exists() or control_path(path).exists():
            try:
                # Holds and rollbacks need no data, and must not wait for what uses them.
                return open_store(path, decisions_only=True)
            except StoreError as error:
                if error.message != reported:
                    reported = error.message
                    text = "approved requests are not executed: %s; %s; %s"
                    _log.warning(text, error.message, error.hint, WITHOUT_STORE)
        stop.wait(_POLL_S)
    return None


def _load_policy(store: Store, release: str) -> Policy:
    """Load the policy of a release as pages do: that of the environment, or of the folder. Raises PolicyError."""
    return policy_of(find_policy(Path.cwd()), store, [release])


def _load_policy_to_go_back(store: Store, release: str) -> Policy:
    """Load the policy of a release for a hold or a rollback, which no mistake in a policy may stop."""
    services = [service.name for service in store.control.release(release).services]
    return choose_policy_to_go_back(lambda: find_policy(Path.cwd()), lambda: services or [""], _log.warning)
