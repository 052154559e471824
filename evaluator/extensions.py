"""Objects that are loaded when they are first used: our own, those that need an extra, and those of other packages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from operator import attrgetter
from typing import Any, Generic, TypeVar

from evaluator.errors import EvaluatorError, UsageError

T = TypeVar("T")


def load_object(place: str) -> Any:
    """Import the object that a place names: `module:name`, or `module:name.attribute`."""
    module, _, name = place.partition(":")
    return attrgetter(name)(import_module(module))


@contextmanager
def needs(what: str, extra: str, error: type[EvaluatorError] = UsageError) -> Iterator[None]:
    """Raise `error` if the `with` block cannot import a package of another project.

    Its message begins with `what` ("plots need"), and its hint names `extra`, the extra of this package that installs
    what is missing. The ImportError of a module of our own is a bug, and is not caught.
    """
    try:
        yield
    except ImportError as import_error:
        missing = import_error.name or ""
        if missing.partition(".")[0] == "evaluator":
            raise
        hint = f"pip install 'release-evaluator[{extra}]'" if extra else None
        raise error(f"{what} the package '{import_error.name}'", hint=hint) from import_error


class Lazy(Mapping[str, T], Generic[T]):
    """Name → the object at its place `module:name`, imported on first use.

    `own`: name → place of our objects. `noun` is what has the names ("hook"). If a package is missing, `error` is
    raised and names `extra`, which installs it.
    """

    def __init__(
        self, own: Mapping[str, str], noun: str, *, extra: str = "", error: type[EvaluatorError] = UsageError
    ) -> None:
        self.own, self.noun, self.extra, self.error = own, noun, extra, error

    @cached_property
    def places(self) -> Mapping[str, str]:
        """Name → place."""
        return self.own

    def __getitem__(self, name: str) -> T:
        place = self.places[name]
        with needs(f"the {self.noun} {name} needs", self.extra, self.error):
            loaded: T = load_object(place)
        return loaded

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


class Extensions(Lazy[Any]):
    """Name → object: our own objects (`own`: name → place), then the entry points of `group` in other packages.

    Raises `error` if two objects have the same name, or if an object cannot be loaded.
    """

    def __init__(
        self,
        group: str,
        noun: str,
        error: type[EvaluatorError],
        *,
        extra: str = "",
        own: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(own or {}, noun, extra=extra, error=error)
        self.group = group

    @cached_property
    def places(self) -> Mapping[str, str]:
        """Name → place; installed packages are searched once. Raises `error` if two have the same name."""
        from importlib.metadata import entry_points

        places = dict(self.own)
        for entry_point in sorted(entry_points(group=self.group), key=lambda entry_point: entry_point.name):
            # A package that is installed in two places declares the same place twice, which is no conflict.
            existing_place = places.setdefault(entry_point.name, entry_point.value)
            if existing_place != entry_point.value:
                raise self.error(
                    f"two packages have a {self.noun} {entry_point.name}: {existing_place} and {entry_point.value}",
                    hint="uninstall one of them",
                )
        return places

    def __getitem__(self, name: str) -> Any:
        """Import the object with this name. Raises `error` with a hint, whatever its module raises."""
        place = self.places[name]
        try:
            return load_object(place)
        except Exception as error:
            hint = "install it again"
            if self.extra:
                hint += f", or the packages that it needs: pip install 'release-evaluator[{self.extra}]'"
            raise self.error(f"the {self.noun} {name} ({place}) cannot be loaded: {error}", hint=hint) from error
