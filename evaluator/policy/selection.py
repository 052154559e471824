"""Which policy applies to a release: the one file, or the file for its service in a folder of policies.

A folder has a `SERVICE.yaml` for each service, and `default.yaml` for those that have none. The services that a file
names (`service`, `services`) count; where it names none, its own name does. An ambiguous choice is
an error, and so is a slip that would leave a service to the default: a release is never judged by the policy of another
service.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evaluator.errors import PolicyError, UnknownName
from evaluator.policy import Policy, load_policy, parse_policy
from evaluator.policy.document import read_document
from evaluator.policy.models import PolicyFile

if TYPE_CHECKING:
    from evaluator.store import Store


FILE_NAME, FOLDER_NAME = "evaluator.yaml", "evaluator.policies"
DEFAULT = "default"
"""Name of the file for all services that have none of their own."""
SLIPS = (FILE_NAME, "evaluator.yml", FOLDER_NAME)
"""Where no policy is found, names that differ from these only in case are taken for slips."""
SUFFIXES = (".yaml", ".yml")
OF_EDITORS = re.compile(r"\..*|.*~|#.*#")
"""Names of files that are not policies: hidden files, and the temporary and backup files of editors."""
LIKE_A_POLICY = re.compile(r"\.ya?ml", re.IGNORECASE)
SERVICE_KEYS = ("service", "services")
"""Keys that name the services of a policy."""

Services = frozenset[str]


def find_policy(start: Path) -> Path | None:
    """Find what EVALUATOR_POLICY names, else the nearest evaluator.yaml or evaluator.policies in `start` or above it.

    Raises PolicyError where a folder has both, or a policy on the way has a name that is not read.
    """
    if named := os.environ.get("EVALUATOR_POLICY"):
        return Path(named)
    nearest = _list_nearest(start)
    _refuse_slips(start.absolute(), nearest)
    if len(nearest) > 1:
        raise PolicyError(
            f"{nearest[0].parent}: there are both {FILE_NAME} and {FOLDER_NAME}, but only one of them can apply",
            hint=f"move {FILE_NAME} to {FOLDER_NAME}/{DEFAULT}.yaml, or name one with --policy",
        )
    return nearest[0] if nearest else None


def _list_nearest(start: Path) -> list[Path]:
    """The policies of the nearest folder that has any; a broken link counts as one, which cannot be read."""
    folder = start.absolute()
    for parent in (folder, *folder.parents):
        if policies := [path for name in (FILE_NAME, FOLDER_NAME) if os.path.lexists(path := parent / name)]:
            return policies
    return []


def _refuse_slips(start: Path, nearest: Sequence[Path]) -> None:
    """Refuse a name such as evaluator.yml next to `start`, or above it and below the policies `nearest`."""
    for folder in (start, *start.parents):
        if nearest and folder == nearest[0].parent:
            return
        with suppress(OSError):  # a folder above that may not be listed
            for path in folder.iterdir():
                if path.name.lower() in SLIPS:
                    right = FOLDER_NAME if path.name.lower() == FOLDER_NAME else FILE_NAME
                    raise PolicyError(
                        f"{path} is not read as a policy", hint=f"call it {right}, or name it with --policy"
                    )


def path_to_name(path: Path | None) -> str:
    """The path of a policy as commands have to name it; empty where they find it themselves, or it is built in."""
    return "" if path is None or _list_nearest(Path.cwd()) == [path.absolute()] else str(path.absolute())


def _load(path: Path | None) -> Policy:
    return replace(load_policy(path), path=path_to_name(path))


def choose_policy(path: Path | None, services: Callable[[], Iterable[str]] = tuple) -> Policy:
    """Load the policy of these services: the file at `path`, or the one for them in the folder at `path`.

    `services` is called for a folder only; `None` as `path` is the built-in policy. Services that are released
    together need one policy that names them all, unless the same applies to each of them. Raises PolicyError, and
    UnknownName for a service that has no policy where there is no default.
    """
    if path is None or not path.is_dir():
        return _load(path)
    files = _read_folder(path)
    requested = Services(filter(None, services()))
    if not requested and requested not in files:
        with_policy = ", ".join(sorted({name for names in files for name in names}))
        raise PolicyError(
            f"{path}: the service is not known, and each service has its own policy ({with_policy})",
            hint=f"choose a policy with --policy {path}/NAME.yaml, or name the service: with --service where data are "
            "recorded, with `evaluator data service RELEASE NAME` for a stored release",
        )
    own = {files[requested]} if requested in files else {_find_own(path, files, name) for name in requested}
    if len(own) > 1:
        together = json.dumps(sorted(requested), ensure_ascii=False)
        raise PolicyError(
            f"{path}: {' and '.join(sorted(requested))} are released together, but have separate policies: "
            + ", ".join(sorted(file.name for file in own)),
            hint=f"write one policy with services: {together}, or choose one with --policy; if the release is of one "
            "service only, set it with `evaluator data service RELEASE NAME`",
        )
    return _load(own.pop())


def _find_own(folder: Path, files: Mapping[Services, Path], name: str) -> Path:
    """Find the policy of a service: its own, else the one that names it among others, else the default."""
    if (own_file := files.get(Services([name]))) is not None:
        return own_file
    named = [file for names, file in files.items() if name in names]
    if len(named) > 1:
        raise PolicyError(
            f"{folder}: {name} is named by several policies: {', '.join(file.name for file in named)}",
            hint=f"write {name}.yaml for releases of {name} alone",
        )
    if named:
        return named[0]
    by_service = {service: file for names, file in files.items() for service in names}
    for service, file in by_service.items():
        if _fold(service) == _fold(name):
            raise PolicyError(
                f"{file}: this is the policy of service '{service}', and '{name}' has none: they differ only in case, "
                "spaces or Unicode form",
                hint="give both the same name: `evaluator data service RELEASE NAME` sets that of a stored release",
            )
    if Services() not in files:
        own = f"{folder}/{file_of(name)}" if file_of(name) else f"a file in {folder} with `service: {name}`"
        hint = f"write {own}, or {DEFAULT}.yaml for all others; or correct it: `evaluator data service RELEASE NAME`"
        raise UnknownName("policy of service", name, by_service, hint=hint)
    return files[Services()]


def _fold(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def file_of(service: str) -> str:
    """Name the file of a service's policy; empty where no file has that name."""
    return "" if Path(service).name != service or OF_EDITORS.fullmatch(service) else f"{service}.yaml"


def policy_of(path: Path | None, store: Store, releases: Sequence[str]) -> Policy:
    """Load the one policy of these stored releases, by their services; without names, of all stored releases.

    Raises PolicyError where there are several, and as `choose_policy` does.
    """
    if path is None or not path.is_dir():
        return _load(path)
    names = releases or [summary.release.id for summary in store.releases()]
    services = {Services(s.name for s in store.control.release(name).services) for name in names} or {Services()}
    policies = {
        policy.origin: policy for policy in (choose_policy(path, partial(Services, names)) for names in services)
    }
    if len(policies) > 1:
        raise PolicyError(
            f"{path}: these releases have different policies: {', '.join(sorted(policies))}",
            hint="name the releases of one service, or the policy with --policy",
        )
    return next(iter(policies.values()))


def list_policies(path: Path | None) -> Mapping[str, Policy]:
    """Load every policy of a folder, by the names of its services, or the one at `path`, by "". Raises PolicyError."""
    if path is None or not path.is_dir():
        return {"": _load(path)}
    return {_name_services(services): _load(file) for services, file in _read_folder(path).items()}


def _name_services(services: Services) -> str:
    return " and ".join(sorted(services)) or "all other services"


def _read_folder(folder: Path) -> Mapping[Services, Path]:
    """Map the services of each policy to its file; no services: the default. Raises PolicyError."""
    files: dict[Services, Path] = {}
    for path in filter(_is_policy, sorted(folder.iterdir())):
        try:
            services = _services_of(path)
        except PolicyError as error:
            hint = (
                f"correct it: until then its services are unknown, and no policy in {folder} applies; or choose one "
                f"with --policy {folder}/NAME.yaml"
            )
            raise PolicyError(error.message, hint=hint) from None
        if services in files:
            raise PolicyError(f"{path}:1: the policy of {_name_services(services)} is already {files[services]}")
        files[services] = path
    if not files:
        raise PolicyError(
            f"{folder}: there is no policy in this folder",
            hint=f"write a SERVICE.yaml for each service, and {DEFAULT}.yaml for those that have none",
        )
    return files


def _is_policy(path: Path) -> bool:
    """Whether an entry of a folder is one of its policies. Raises PolicyError where it only looks like one."""
    if OF_EDITORS.fullmatch(path.name):
        return False
    if path.suffix in SUFFIXES and not path.is_dir():
        return True
    within = (entry.name for entry in path.rglob("*") if not OF_EDITORS.fullmatch(entry.name)) if path.is_dir() else ()
    if any(map(LIKE_A_POLICY.search, (path.name, *within))):
        what = "policies in a subfolder are" if path.is_dir() else "it looks like a policy, but a file of this name is"
        hint = f"policies are {path.parent}/NAME.yaml or NAME.yml: rename it, or move it away"
        raise PolicyError(f"{path}: {what} not read", hint=hint)
    return False


def _services_of(path: Path) -> Services:
    """Names of the services whose policy a file is; none for the default. Its other values are not checked."""
    document = read_document(path)
    naming = {
        key: value
        for key, value in document.values.items()
        if key in SERVICE_KEYS
        or (key not in PolicyFile.model_fields and get_close_matches(key.casefold(), SERVICE_KEYS))
    }
    named = Services(parse_policy(naming, origin=document.name, lines=document.lines).services)
    if path.stem != DEFAULT:
        return named or Services([path.stem])
    if named:
        line = document.line_of(tuple(naming)[:1])
        raise PolicyError(f"{path}:{line}: {DEFAULT} is for services that have no policy, so it must not name any")
    return Services()
