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
SIMILAR_NAMES = (FILE_NAME, "evaluator.yml", FOLDER_NAME)
"""Where no policy is found, names that differ from these only in case are taken for mistakes."""
SUFFIXES = (".yaml", ".yml")
IGNORED_NAMES = re.compile(r"\..*|.*~|#.*#")
"""Names of files that are not policies: hidden files, and the temporary and backup files of editors."""
YAML_IN_NAME = re.compile(r"\.ya?ml", re.IGNORECASE)
SERVICE_KEYS = ("service", "services")
"""Keys that name the services of a policy."""

ServiceSet = frozenset[str]
"""Names of services that are released together; the empty set: those without a policy of their own."""


def find_policy(start: Path) -> Path | None:
    """Find the policy that EVALUATOR_POLICY names, else the nearest one in `start` or a folder above it.

    Returns the path of an evaluator.yaml or of a folder evaluator.policies; None if there is none. Raises PolicyError
    if one folder has both, or if a nearer file looks like a policy but has a name that is not read (evaluator.yml).
    """
    if path_of_environment := os.environ.get("EVALUATOR_POLICY"):
        return Path(path_of_environment)
    nearest = _list_nearest(start)
    _refuse_similar_names(start.absolute(), nearest)
    if len(nearest) > 1:
        raise PolicyError(
            f"{nearest[0].parent}: there are both {FILE_NAME} and {FOLDER_NAME}, but only one of them can apply",
            hint=f"move {FILE_NAME} to {FOLDER_NAME}/{DEFAULT}.yaml, or name one with --policy",
        )
    return nearest[0] if nearest else None


def _list_nearest(start: Path) -> list[Path]:
    """List the policies in `start`, else in the nearest folder above that has any: evaluator.yaml, evaluator.policies.

    Empty if no folder has any. A broken link is listed, too: loading it then fails, so that no other policy applies.
    """
    folder = start.absolute()
    for parent in (folder, *folder.parents):
        candidates = (parent / FILE_NAME, parent / FOLDER_NAME)
        if policies := [path for path in candidates if os.path.lexists(path)]:
            return policies
    return []


def _refuse_similar_names(start: Path, nearest: Sequence[Path]) -> None:
    """Raise PolicyError for a name such as evaluator.yml in `start` or above it, up to the folder of `nearest`.

    `nearest`: the policies of one folder; empty: there is none, and all folders above are searched.
    """
    for folder in (start, *start.parents):
        if nearest and folder == nearest[0].parent:
            return
        with suppress(OSError):  # a folder above that may not be listed
            for path in folder.iterdir():
                if path.name.lower() in SIMILAR_NAMES:  # not in proper case, else `nearest` would have it
                    proper_name = FOLDER_NAME if path.name.lower() == FOLDER_NAME else FILE_NAME
                    raise PolicyError(
                        f"{path} is not read as a policy", hint=f"call it {proper_name}, or name it with --policy"
                    )


def path_to_name(path: Path | None) -> str:
    """Return the path that a command must name with --policy, from the current folder, to use the policy at `path`.

    Empty if no command must: they find this policy themselves, or it is the built-in one (None).
    """
    if path is None or _list_nearest(Path.cwd()) == [path.absolute()]:
        return ""
    return str(path.absolute())


def _load(path: Path | None) -> Policy:
    """Load a policy file (None: the built-in policy), with the path by which commands name it. Raises PolicyError."""
    return replace(load_policy(path), path=path_to_name(path))


def choose_policy(path: Path | None, list_services: Callable[[], Iterable[str]] | None = None) -> Policy:
    """Load the policy for services that are released together.

    `path`: a policy file, which applies to all services; a folder of policies, from which the one for these services is
    chosen; None: the built-in policy. `list_services` returns the names of the services, also empty names, which do not
    count; it is called for a folder only. None: they are not known. In a folder, a single policy must name all of them
    together, or the same policy must apply to each of them alone. Raises PolicyError, and UnknownName for a service
    without a policy if there is no default.
    """
    if path is None or not path.is_dir():
        return _load(path)
    file_by_services = _read_folder(path)
    requested = ServiceSet(filter(None, list_services() if list_services else ()))
    # Without services, only the default can apply; its key in `file_by_services` is the empty set, too.
    if not requested and requested not in file_by_services:
        services_with_policy = ", ".join(sorted({name for names in file_by_services for name in names}))
        raise PolicyError(
            f"{path}: the service is not known, and each service has its own policy ({services_with_policy})",
            hint=f"choose a policy with --policy {path}/NAME.yaml, or name the service: with --service where data are "
            "recorded, with `evaluator data service RELEASE NAME` for a stored release",
        )
    if requested in file_by_services:
        applicable = {file_by_services[requested]}
    else:
        applicable = {_find_file(path, file_by_services, service) for service in requested}
    if len(applicable) > 1:
        together = json.dumps(sorted(requested), ensure_ascii=False)
        raise PolicyError(
            f"{path}: {' and '.join(sorted(requested))} are released together, but have separate policies: "
            + ", ".join(sorted(file.name for file in applicable)),
            hint=f"write one policy with services: {together}, or choose one with --policy; if the release is of one "
            "service only, set it with `evaluator data service RELEASE NAME`",
        )
    return _load(applicable.pop())


def _find_file(folder: Path, file_by_services: Mapping[ServiceSet, Path], service: str) -> Path:
    """Find the policy file of a service: its own, else a file that names it among others, else the default.

    `file_by_services`: set of services → the file for releases of them together, in `folder`; the key of the default
    is the empty set. Raises PolicyError for an ambiguous choice, and UnknownName if there is neither a policy for the
    service nor a default.
    """
    if (own_file := file_by_services.get(ServiceSet([service]))) is not None:
        return own_file
    shared_files = [file for names, file in file_by_services.items() if service in names]
    if len(shared_files) > 1:
        raise PolicyError(
            f"{folder}: {service} is named by several policies: {', '.join(file.name for file in shared_files)}",
            hint=f"write {service}.yaml for releases of {service} alone",
        )
    if shared_files:
        return shared_files[0]
    file_by_name = {name: file for names, file in file_by_services.items() for name in names}
    # A name that is only written differently must not silently get the default.
    for other_service, file in file_by_name.items():
        if _fold(other_service) == _fold(service):
            raise PolicyError(
                f"{file}: this is the policy of service '{other_service}', and '{service}' has none: they differ only "
                "in case, spaces or Unicode form",
                hint="give both the same name: `evaluator data service RELEASE NAME` sets that of a stored release",
            )
    if ServiceSet() not in file_by_services:
        file_name = file_of(service)
        to_write = f"{folder}/{file_name}" if file_name else f"a file in {folder} with `service: {service}`"
        raise UnknownName(
            "policy of service",
            service,
            file_by_name,
            hint=f"write {to_write}, or {DEFAULT}.yaml for all others; or correct it: "
            "`evaluator data service RELEASE NAME`",
        )
    return file_by_services[ServiceSet()]


def _fold(name: str) -> str:
    """Return a form of a name that is equal for names that differ only in case, outer spaces or Unicode form."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def file_of(service: str) -> str:
    """Return the file name of a service's policy; empty if no such file can exist, as for `a/b`, or is ignored."""
    if Path(service).name != service or IGNORED_NAMES.fullmatch(service):
        return ""
    return f"{service}.yaml"


def policy_of(path: Path | None, store: Store, releases: Sequence[str]) -> Policy:
    """Load the policy that applies to all of these stored releases, by their services.

    `path`: as in `choose_policy`. `releases`: their names; empty: all stored releases. Raises PolicyError if different
    policies apply to them, and the errors of `choose_policy`.
    """
    if path is None or not path.is_dir():
        return _load(path)
    names = releases or [summary.release.id for summary in store.control.releases()]
    services_of_releases = {
        ServiceSet(service.name for service in store.control.release(name).services) for name in names
    }
    if not services_of_releases:
        services_of_releases = {ServiceSet()}
    policies: dict[str, Policy] = {}  # by the path of the file
    for services in services_of_releases:
        policy = choose_policy(path, partial(ServiceSet, services))  # a function that returns these services
        policies[policy.origin] = policy
    if len(policies) > 1:
        raise PolicyError(
            f"{path}: these releases have different policies: {', '.join(sorted(policies))}",
            hint="name the releases of one service, or the policy with --policy",
        )
    return next(iter(policies.values()))


def is_any_sensitive(path: Path | None) -> bool:
    """Does the policy at `path`, or any of a folder of policies, say `sensitive: true`? The services share a store.

    Only this key is read, so that mistakes in others do not hide it. Raises PolicyError if no readable file says so and
    there is one that is not YAML.
    """
    if path is None:
        return False
    unreadable: PolicyError | None = None
    for file in filter(_is_policy, sorted(path.iterdir())) if path.is_dir() else [path]:
        try:
            if read_document(file).values.get("sensitive") is True:
                return True
        except PolicyError as error:
            unreadable = error
    if unreadable is not None:
        raise unreadable
    return False


def list_policies(path: Path | None) -> Mapping[str, Policy]:
    """Load every policy of the folder at `path`; the keys name their services, such as "cart and shop".

    A file, or None for the built-in policy, gives one policy with the key "". Raises PolicyError.
    """
    return {services: _load(file) for services, file in list_files(path).items()}


def list_files(path: Path | None) -> Mapping[str, Path | None]:
    """List the files of the policies at `path`, by the names of their services as in `list_policies`; None: built-in.

    Raises PolicyError if the services of a file cannot be read.
    """
    if path is None or not path.is_dir():
        return {"": path}
    return {_name_services(services): file for services, file in _read_folder(path).items()}


def _name_services(services: ServiceSet) -> str:
    """Name the services of a policy for people; no services: it is the default."""
    return " and ".join(sorted(services)) or "all other services"


def _read_folder(folder: Path) -> Mapping[ServiceSet, Path]:
    """Map the services of each policy in a folder to its file; the empty set is the key of the default.

    Raises PolicyError if a file cannot be read, if two are for the same services, or if there is none.
    """
    file_by_services: dict[ServiceSet, Path] = {}
    for path in filter(_is_policy, sorted(folder.iterdir())):
        try:
            services = _read_services(path)
        except PolicyError as error:
            hint = (
                f"correct it: until then its services are unknown, and no policy in {folder} applies; or choose one "
                f"with --policy {folder}/NAME.yaml"
            )
            raise PolicyError(error.message, hint=hint) from None
        if services in file_by_services:
            earlier = file_by_services[services]
            raise PolicyError(f"{path}:1: the policy of {_name_services(services)} is already {earlier}")
        file_by_services[services] = path
    if not file_by_services:
        raise PolicyError(
            f"{folder}: there is no policy in this folder",
            hint=f"write a SERVICE.yaml for each service, and {DEFAULT}.yaml for those that have none",
        )
    return file_by_services


def _is_policy(path: Path) -> bool:
    """Whether a file of a policy folder is a policy.

    Raises PolicyError for a file that only looks like one (cart.yaml.txt), and for a subfolder with such files: what a
    person takes for a policy must not be left out silently.
    """
    if IGNORED_NAMES.fullmatch(path.name):
        return False
    if path.suffix in SUFFIXES and not path.is_dir():
        return True
    names = [path.name]
    if path.is_dir():
        names += [entry.name for entry in path.rglob("*") if not IGNORED_NAMES.fullmatch(entry.name)]
    if any(YAML_IN_NAME.search(name) for name in names):
        what = "policies in a subfolder are" if path.is_dir() else "it looks like a policy, but a file of this name is"
        hint = f"policies are {path.parent}/NAME.yaml or NAME.yml: rename it, or move it away"
        raise PolicyError(f"{path}: {what} not read", hint=hint)
    return False


def _read_services(path: Path) -> ServiceSet:
    """Read for which services a policy file is: those that it names, else the file's own name; none for the default.

    Only these keys of the file are checked. Raises PolicyError if the default names services.
    """
    document = read_document(path)
    # A misspelled key (`servce`) is kept, so that parsing refuses it: else the file's name would count as the service.
    service_settings = {
        key: value
        for key, value in document.values.items()
        if key in SERVICE_KEYS
        or (key not in PolicyFile.model_fields and get_close_matches(key.casefold(), SERVICE_KEYS))
    }
    services = ServiceSet(parse_policy(service_settings, origin=document.name, lines=document.lines).services)
    if path.stem != DEFAULT:
        return services or ServiceSet([path.stem])
    if services:
        line = document.line_of(tuple(service_settings)[:1])
        raise PolicyError(f"{path}:{line}: {DEFAULT} is for services that have no policy, so it must not name any")
    return ServiceSet()
