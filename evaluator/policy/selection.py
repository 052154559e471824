"""Which policy applies to a release: the one file there is, or that of its service among a folder of them.

A folder has a `SERVICE.yaml` for each service, and `default.yaml` for those that have none. The services that a file
names (`service`, `services`) count; where it names none, its own name does. Whatever leaves a choice is an error: a
release is never judged by the policy of another service.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evaluator.errors import PolicyError, UnknownName
from evaluator.policy import Policy, load_policy
from evaluator.policy.document import Document, read_document

if TYPE_CHECKING:
    from evaluator.store import Store


FILE_NAME, FOLDER_NAME = "evaluator.yaml", "evaluator.policies"
DEFAULT = "default"
"""Name of the file of all services that have none."""

Services = frozenset[str]


def find_policy(start: Path) -> Path | None:
    """Find what EVALUATOR_POLICY names, else the nearest evaluator.yaml or evaluator.policies in `start` or above it.

    Raises PolicyError where a folder has both.
    """
    if named := os.environ.get("EVALUATOR_POLICY"):
        return Path(named)
    folder = start.absolute()
    for parent in (folder, *folder.parents):
        here = [path for name in (FILE_NAME, FOLDER_NAME) if (path := parent / name).exists()]
        if len(here) > 1:
            raise PolicyError(
                f"{parent}: there are {FILE_NAME} and {FOLDER_NAME}, and only one of them can apply",
                hint=f"move {FILE_NAME} to {FOLDER_NAME}/{DEFAULT}.yaml, or name one with --policy",
            )
        if here:
            return here[0]
    return None


def choose_policy(path: Path | None, services: Callable[[], Iterable[str]] = tuple) -> Policy:
    """Load the policy of these services: the file at `path` whatever they are, or the one of a folder that is theirs.

    `services` is called for a folder only; `None` as `path` is the built-in policy. Services that are released
    together need one policy that names them all, unless the same applies to each of them. Raises PolicyError, and
    UnknownName for a service that has no policy where there is no default.
    """
    if path is None or not path.is_dir():
        return load_policy(path)
    files = _read_folder(path)
    wanted = Services(filter(None, services()))
    if not wanted and wanted not in files:
        known = ", ".join(sorted({name for names in files for name in names}))
        raise PolicyError(
            f"{path}: there is a policy for each service ({known}), and the service is not known",
            hint=f"name it with --service where data are recorded, or name its policy: --policy {path}/NAME.yaml",
        )
    own = {files[wanted]} if wanted in files else {_find_own(path, files, name) for name in wanted}
    if len(own) > 1:
        together = ", ".join(f"{{name: {name}}}" for name in sorted(wanted))
        raise PolicyError(
            f"{path}: {' and '.join(sorted(wanted))} are released together and have policies of their own: "
            + ", ".join(sorted(file.name for file in own)),
            hint=f"write one that names them all, services: [{together}], or name the one that judges with --policy",
        )
    return replace(load_policy(own.pop()), of_folder=True)


def _find_own(folder: Path, files: Mapping[Services, Path], name: str) -> Path:
    """Find the policy of a service: its own, else the one that names it among others, else the default."""
    if (alone := files.get(Services([name]))) is not None:
        return alone
    named = [file for names, file in files.items() if name in names]
    if len(named) > 1:
        raise PolicyError(
            f"{folder}: {name} is named by several policies: {', '.join(file.name for file in named)}",
            hint=f"write {name}.yaml for releases of {name} alone",
        )
    found = named[0] if named else files.get(Services())
    if found is None:
        known = {one for names in files for one in names}
        raise UnknownName(
            "policy of service", name, known, hint=f"write {folder}/{name}.yaml, or {DEFAULT}.yaml for all others"
        )
    return found


def policy_of(path: Path | None, store: Store, releases: Sequence[str]) -> Policy:
    """Load the one policy that these stored releases have by their services; no names: all that are stored.

    Raises PolicyError where they have several, and as `choose_policy` does.
    """
    if path is None or not path.is_dir():
        return load_policy(path)
    names = releases or [summary.release.id for summary in store.releases()]
    services = {Services(one.name for one in store.control.release(name).services) for name in names} or {Services()}
    found = {policy.origin: policy for policy in (choose_policy(path, partial(Services, some)) for some in services)}
    if len(found) > 1:
        raise PolicyError(
            f"{path}: these releases have policies of their own: {', '.join(sorted(found))}",
            hint="name the releases of one service, or the policy with --policy",
        )
    return next(iter(found.values()))


def list_policies(path: Path | None) -> tuple[Policy, ...]:
    """Load every policy of a folder, or the one at `path`. Raises PolicyError."""
    if path is None or not path.is_dir():
        return (load_policy(path),)
    return tuple(replace(load_policy(file), of_folder=True) for file in _read_folder(path).values())


def _read_folder(folder: Path) -> Mapping[Services, Path]:
    """Map the services of each policy to its file; no services: the default. Raises PolicyError."""
    files: dict[Services, Path] = {}
    for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        services = _services_of(path, read_document(path))
        if services in files:
            whose = " and ".join(sorted(services)) or "all other services"
            raise PolicyError(f"{path}:1: the policy of {whose} is {files[services]} already")
        files[services] = path
    if not files:
        raise PolicyError(
            f"{folder}: there is no policy in this folder",
            hint=f"write a SERVICE.yaml for each service, and {DEFAULT}.yaml for those that have none",
        )
    return files


def _services_of(path: Path, document: Document) -> Services:
    """Names of the services whose policy a file is; none for the default. Its values were not checked yet."""
    service, services = document.values.get("service"), document.values.get("services")
    entries = services if isinstance(services, list) else []
    named = Services(str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry)
    named |= {str(service)} if service else set()
    if path.stem != DEFAULT:
        return named or Services([path.stem])
    if named:
        line = document.line_of(("service" if service else "services",))
        raise PolicyError(f"{path}:{line}: {DEFAULT} is for services that have no policy, so it names none")
    return Services()
