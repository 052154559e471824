"""The policy of what holds or goes back, which no mistake in a policy may stop: what has none is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from evaluator.errors import EvaluatorError, PolicyError
from evaluator.policy import Policy, load_policy, parse_policy
from evaluator.policy.document import read_document
from evaluator.policy.models import PROMOTION_SECTIONS
from evaluator.policy.selection import DEFAULT, SUFFIXES, choose_policy, file_of

_HOOKS = "hooks"


def choose_policy_to_go_back(
    find: Callable[[], Path | None], list_services: Callable[[], Iterable[str]], say: Callable[[str], object]
) -> Policy:
    """Load the policy for services that are released together, as `choose_policy`, even if policies have mistakes.

    `find`: finds the file or the folder of policies. If the policy cannot be used as a whole, those of its sections on
    promotion are used that have no mistake; if none can be read, the built-in ones, by which a rollback undoes what
    promotions changed. `say` gets the cause.
    """
    try:
        path = find()
    except (EvaluatorError, OSError) as error:
        return _use_built_in(_explain(error), say)
    try:
        return choose_policy(path, list_services)
    except (EvaluatorError, OSError) as error:
        cause = _explain(error)
    file = _find_file(path, list(filter(None, list_services()))) if path and path.is_dir() else path
    if file is None:
        return _use_built_in(cause, say)
    try:
        policy, is_whole = _read_promotion(file)
    except (EvaluatorError, OSError):
        return _use_built_in(cause, say)
    if not is_whole:
        say(f"the policy has mistakes, so only what has none is used of {file}: {cause}")
    return policy


def list_journal_paths(path: Path | None) -> list[str]:
    """List the journals that the policy at `path` names, or those of a folder, whatever else is wrong with them."""
    try:
        files = [path] if path and path.is_file() else sorted(path.iterdir()) if path else []
    except OSError:
        return []
    paths = []
    for file in files:
        try:
            named = read_document(file).values.get("journal") if file.suffix in SUFFIXES else None
        except PolicyError:
            continue
        if isinstance(named, str) and named:
            paths.append(named)
    return list(dict.fromkeys(paths))


def _use_built_in(cause: str, say: Callable[[str], object]) -> Policy:
    """Return the built-in policy, after saying why that of the user cannot be used."""
    say(f"the policy cannot be used, so only what promotions changed is undone: {cause}")
    return load_policy(None)


def _explain(error: EvaluatorError | OSError) -> str:
    """Say why a policy cannot be used."""
    return error.message if isinstance(error, EvaluatorError) else error.strerror or str(error)


def _find_file(folder: Path, services: list[str]) -> Path | None:
    """Find the policy file of a release of one service by its name, else the default; None: there is none.

    Files of other services are not read: a mistake in them does not matter.
    """
    names = [file_of(services[0])] if len(services) == 1 else []
    for name in [*filter(None, names), f"{DEFAULT}.yaml"]:
        for suffix in SUFFIXES:
            file = (folder / name).with_suffix(suffix)
            if file.is_file():
                return file
    return None


def _read_promotion(file: Path) -> tuple[Policy, bool]:
    """Read the sections on promotion of a policy file; returns a policy with those that have no mistake, and if all.

    Raises PolicyError if the file is not YAML.
    """
    document = read_document(file)
    try:
        return load_policy(file), True
    except PolicyError:
        pass
    usable: dict[str, Any] = {}
    for key in PROMOTION_SECTIONS:
        if key not in document.values:
            continue
        value = document.values[key]
        if key == _HOOKS and isinstance(value, dict):
            # A mistake in the hooks of one event must not take away those of the others.
            events = {event: hooks for event, hooks in value.items() if _is_valid({key: {event: hooks}})}
            usable[key] = events
        elif _is_valid({key: value}):
            usable[key] = value
    return parse_policy(usable, origin=str(file)), False


def _is_valid(values: dict[str, Any]) -> bool:
    """Whether a policy with these values alone has no mistake."""
    try:
        parse_policy(values)
    except EvaluatorError:
        return False
    return True
