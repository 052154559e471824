"""Asking the guard to return the traffic of a rollout to the baseline, before anything else goes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from evaluator.errors import EvaluatorError, NotReached
from evaluator.guard.client import connect
from evaluator.guard.returning import go_back_without_guard

Say = Callable[[str], None]


def return_traffic(store: Path, release: str, rollouts: Sequence[str], why: str, person: str, say: Say) -> None:
    """Let the guard return the traffic of rollouts (`r1`) of a release, and say what came of it. Raises nothing.

    `store`: path of the store. Where no guard answers, its files say which routers are given to the baseline. It needs
    no database. What could not be returned is undone by the hooks of the rollback all the same.
    """
    if not rollouts:
        return
    try:
        client = connect(store, start=False, say=say)
        for rollout in rollouts:
            status = client.back(rollout, why, person)
            done = "all is at the baseline" if status.is_returned else "it goes on until the router says so"
            say(f"the guard returns the traffic of {rollout}: {done}")
    except NotReached:
        _return_by_files(store, release, why, say)
    except Exception as error:  # noqa: BLE001 - nothing in the guard may keep a rollback from its hooks
        say(f"the guard has not returned the traffic: {_describe(error)}")


def _return_by_files(store: Path, release: str, why: str, say: Say) -> None:
    """Return the traffic by the files of the guard, which does not answer."""
    try:
        go_back_without_guard(store, release, why, say)
    except Exception as error:  # noqa: BLE001 - as above
        say(f"the traffic was not returned by the files of the guard: {_describe(error)}")


def _describe(error: Exception) -> str:
    """Describe an error; without the text of errors of other packages, which may hold secrets."""
    return error.message if isinstance(error, EvaluatorError) else type(error).__name__
