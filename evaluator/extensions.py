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
    """Import an object by its place, written `module:name` or `module:name.attribute`."""
    module, _, name = place.partition(":")
    return attrgetter(name)(import_module(module))


@contextmanager
def explain_missing_package(what_needs: str, extra: str, error: type[EvaluatorError] = UsageError) -> Iterator[None]:
    """Raise `error`, with a command that installs it, if the `with` block imports a package that is not installed.

    The message is `what_needs`, such as "plots need", and the name of the package; `extra` is the extra of this package
    that installs it (empty: none). The ImportError of a module of this package is a bug, and is raised as it is.
    """
    try:
        yield
    except ImportError as import_error:
        package = import_error.name or ""
        if package.partition(".")[0] == "evaluator":
            raise
        hint = f"pip install 'release-evaluator[{extra}]'" if extra else None
        raise error(f"{what_needs} the package '{import_error.name}'", hint=hint) from import_error


class Lazy(Mapping[str, T], Generic[T]):
    """Name → the object at its place `module:name`, imported on first use.

    `noun` is what has the names ("hook"). Where a package is missing, `error` is raised and names `extra`.
    """

    def __init__(
        self, own: Mapping[str, str], noun: str, *, extra: str = "", error: type[EvaluatorError] = UsageError
    ) -> None:
        """Set the objects of this package (`own`: name → place, `module:name`); nothing is imported yet.

        `noun`: what the objects are, for messages. `extra`: the extra of this package that installs what they need
        (empty: none). `error`: what is raised if that is not installed.
        """
        self.own, self.noun, self.extra, self.error = own, noun, extra, error

    @cached_property
    def places(self) -> Mapping[str, str]:
        """Name → place, `module:name`."""
        return self.own

    def __getitem__(self, name: str) -> T:
        """Load the object of a name. Raises KeyError, and `error` if a package that it needs is not installed."""
        place = self.places[name]
        with explain_missing_package(f"the {self.noun} {name} needs", self.extra, self.error):
            loaded: T = load_object(place)
        return loaded

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


class Extensions(Lazy[Any]):
    """Our own objects, then the entry points of `group` in other packages.

    Raises `error` where two have one name, and where one cannot be loaded.
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
        """Set the objects of this package, and where those of other packages are declared.

        `own`: name → place, `module:name`, of our objects. `group`: entry points of this group in other packages.
        `noun`: what the objects are, for messages. `error`: what is raised if one cannot be loaded. `extra`: the extra
        of this package that installs what the objects need; empty: none.
        """
        super().__init__(own or {}, noun, extra=extra, error=error)
        self.group = group

    @cached_property
    def places(self) -> Mapping[str, str]:
        """Name → place (`module:name`) of our objects and of those of installed packages, which are searched once.

        Raises `error` if two packages have an object of the same name.
        """
        from importlib.metadata import entry_points

        places = dict(self.own)
        for entry_point in sorted(entry_points(group=self.group), key=lambda entry_point: entry_point.name):
            place = places.setdefault(entry_point.name, entry_point.value)
            if place != entry_point.value:  # the name has another place already
                raise self.error(
                    f"two packages have a {self.noun} {entry_point.name}: {place} and {entry_point.value}",
                    hint="uninstall one of them",
                )
        return places

    def __getitem__(self, name: str) -> Any:
        """Load the object of a name. Raises KeyError, and `error` for any failure to import it."""
        place = self.places[name]
        try:
            return load_object(place)
        except Exception as error:  # the code of another package may raise anything
            hint = "install it again"
            if self.extra:
                hint += f", or the packages that it needs: pip install 'release-evaluator[{self.extra}]'"
            raise self.error(f"the {self.noun} {name} ({place}) cannot be loaded: {error}", hint=hint) from error
