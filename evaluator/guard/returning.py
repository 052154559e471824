"""Traffic returns to the baseline although no guard answers: by the files that it has left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from evaluator.errors import EvaluatorError, HookError
from evaluator.guard.instances import get_instances, return_to_old
from evaluator.guard.places import GuardLock, find_copies_folder, find_folder
from evaluator.guard.routers import ReturnAttempt, ServiceRouter
from evaluator.guard.setup import GuardSetup, GuardStatus, read_setup
from evaluator.guard.state_file import StateFile, find_state_files
from evaluator.records.words import BASELINE

Say = Callable[[str], None]

_TRY_S = 20.0
_AGAIN_S = 1.0


def go_back_without_guard(store: Path, release: str, why: str, say: Say) -> tuple[GuardStatus, ...]:
    """Return the traffic of a release's rollouts, by the guard's files: no guard answers.

    First each file says that the rollout goes back, so a guard that starts later does not go on with it. Then all
    routers are given their shares at the same time, and read back. Returns the status of each rollout; an empty tuple
    if there are no files of the release. Raises nothing: what could not be done is in `notes`.
    """
    statuses = []
    for name, file in _find_files(store).items():
        stored = file.read()
        if stored is None:
            say(f"The guard's file of the rollout {name} cannot be read: return its traffic yourself.")
            continue
        if stored.state.get("is_closed"):
            continue
        if stored.state.get("setup", {}).get("release") == release:
            statuses.append(_return_rollout(file, dict(stored.state), why, say))
        file.close()
    return tuple(statuses)


def is_guarded(store: Path, release: str) -> bool:
    """Does a guard watch a rollout of a release, or will the next one that starts? As its files say."""
    is_found = False
    for file in _find_files(store).values():
        with contextlib.closing(file):
            stored = file.read()
        if stored is not None and not stored.state.get("is_closed"):
            is_found = is_found or stored.state.get("setup", {}).get("release") == release
    return is_found


def has_state_file(store: Path, name: str) -> bool:
    """Is there a file of a rollout, by which a guard that starts goes on? `name`: as in its setup."""
    return name in _find_files(store)


def _find_files(store: Path) -> dict[str, StateFile]:
    """Find the files of all rollouts of a store, with their copies: name of a rollout → its file."""
    copies = find_copies_folder(store)
    return find_state_files([find_folder(store), *([copies] if copies else [])])


def close_without_guard(store: Path, name: str) -> None:
    """Write that the guarding of a rollout has ended because the candidate has all traffic: no guard answers.

    `name`: as in its setup. A guard that starts later does not return its traffic. Raises HookError if a guard runs all
    the same, if the rollout went back, or if that cannot be written.
    """
    lock = GuardLock(store)
    try:
        file = _find_files(store).get(name)
        if file is None:
            return
        with contextlib.closing(file):
            stored = file.read()
            if stored is None:
                raise HookError(f"the guard's file of {name} cannot be read", hint="remove it: the rollout has ended")
            if stored.state.get("is_back"):
                raise HookError(f"the rollout went back to the baseline: {stored.state.get('why_back')}")
            file.write({**stored.state, "is_closed": True}, twice=True)
            file.forget(stored.state)
    finally:
        lock.release()


def _return_rollout(file: StateFile, state: dict[str, Any], why: str, say: Say) -> GuardStatus:
    """Return the traffic of one rollout."""
    notes = []
    why = str(state.get("why_back") or why) if state.get("is_back") else why
    by = str(state.get("by") or "") if state.get("is_back") else "driver"
    try:
        file.write({**state, "is_back": True, "why_back": why, "by": by}, twice=True)
    except EvaluatorError as error:
        notes.append(error.message)
    try:
        setup = read_setup(state["setup"])  # checked there
    except EvaluatorError as error:
        say(error.message)
        return GuardStatus("", is_back=True, why_back=why, by=by, notes=(*notes, error.message))
    with ThreadPoolExecutor(max(len(setup.services), 1)) as pool:
        attempts = list(pool.map(lambda position: _return_service(setup, position, state), range(len(setup.services))))
    by_service = {service.service: attempt for service, attempt in zip(setup.services, attempts, strict=True)}
    if any(service.least_serving for service in setup.services):  # what is restored must not be drained again
        kept = {name: attempt.kept for name, attempt in by_service.items()}
        returned = {name: attempt.is_returned for name, attempt in by_service.items()}
        back = {**state, "is_back": True, "why_back": why, "by": by, "kept": kept, "returned": returned}
        with contextlib.suppress(EvaluatorError):
            file.write(back, twice=True)
    for service, attempt in zip(setup.services, attempts, strict=True):
        text = "is at the baseline" if attempt.is_returned else "could not be returned"
        say(f"{setup.rollout}: the traffic of {service.service} {text}{f' ({attempt.text})' if attempt.text else ''}")
        notes += [f"{service.service}: {attempt.text}"] if attempt.text else []
    names = [service.service for service in setup.services]
    return GuardStatus(
        rollout=setup.rollout,
        release=setup.release,
        key=setup.key,
        is_exposed=not all(attempt.is_returned for attempt in attempts),
        wanted={name: {BASELINE: 1.0} for name in names},
        realised={name: attempt.shares for name, attempt in zip(names, attempts, strict=True)},
        is_back=True,
        why_back=why,
        by=by,
        is_returned=all(attempt.is_returned for attempt in attempts),
        kept="; ".join(attempt.kept for attempt in attempts if attempt.kept),
        looked_at=time.time(),
        notes=tuple(notes),
    )


def _return_service(setup: GuardSetup, position: int, state: Mapping[str, Any]) -> ReturnAttempt:
    """Try to return the traffic of the service at a position, for some time. `state`: of the guard's file."""
    service = setup.services[position]
    try:
        router = ServiceRouter(service, setup.rollout, setup.release)
        if service.least_serving:
            is_returned, kept = (state[name][service.service] for name in ("returned", "kept"))
            if is_returned or kept:  # then the instances may be restored already
                return ReturnAttempt(is_returned=bool(is_returned), shares={}, text=str(kept), kept=str(kept))
            get_instances(router).assign(state["servers"][service.service])
    except KeyError:
        return ReturnAttempt(is_returned=False, shares={}, text="the guard's file does not say which instances are new")
    except EvaluatorError as error:
        return ReturnAttempt(is_returned=False, shares={}, text=error.message)
    deadline = time.monotonic() + _TRY_S
    while True:
        attempt = return_to_old(router, service.least_serving) if service.least_serving else router.return_traffic()
        if attempt.is_returned or attempt.kept or time.monotonic() > deadline:
            return attempt
        time.sleep(_AGAIN_S)
