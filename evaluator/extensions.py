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


def load_object(target: str) -> Any:
    """Import the object that a place names: `module:name`, or `module:name.attribute`."""
    module, _, name = target.partition(":")
    return attrgetter(name)(import_module(module))


@contextmanager
def needs(what: str, extra: str, error: type[EvaluatorError] = UsageError) -> Iterator[None]:
    """Raise `error` where the block cannot import a package.

    Its message begins with `what` ("plots need"), and its hint names `extra`, which installs the package. The
    ImportError of a module of our own is a bug, and is not caught.
    """
    try:
        yield
    except ImportError as missing:
        if (missing.name or "").partition(".")[0] == "evaluator":
            raise
        hint = f"pip install 'release-evaluator[{extra}]'" if extra else None
        raise error(f"{what} the package '{missing.name}'", hint=hint) from missing


class Lazy(Mapping[str, T], Generic[T]):
    """Name → the object at its place `module:name`, imported on first use.

    `noun` is what has the names ("hook"). Where a package is missing, `error` is raised and names `extra`.
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
        target = self.places[name]
        with needs(f"the {self.noun} {name} needs", self.extra, self.error):
            loaded: T = load_object(target)
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
        super().__init__(own or {}, noun, extra=extra, error=error)
        self.group = group

    @cached_property
    def places(self) -> Mapping[str, str]:
        """Name → place; installed packages are searched once."""
        from importlib.metadata import entry_points

        targets = dict(self.own)
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            existing = targets.setdefault(point.name, point.value)
            if existing != point.value:
                raise self.error(
                    f"two packages have a {self.noun} {point.name}: {existing} and {point.value}",
                    hint="uninstall one of them",
                )
        return targets

    def __getitem__(self, name: str) -> Any:
        target = self.places[name]
        try:
            return load_object(target)
        except Exception as error:
            also = (
                f", or the packages that it needs: pip install 'release-evaluator[{self.extra}]'" if self.extra else ""
            )
            raise self.error(
                f"the {self.noun} {name} ({target}) cannot be loaded: {error}", hint=f"install it again{also}"
            ) from error
