"""What is loaded when it is asked for: our own modules, what an extra installs, and what other packages add."""

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
    """Import what a place names: `module:name`, or `module:name.attribute`."""
    module, _, name = target.partition(":")
    return attrgetter(name)(import_module(module))


@contextmanager
def needs(what: str, extra: str, error: type[EvaluatorError] = UsageError) -> Iterator[None]:
    """Raise `error` where a package is missing within the block: `what` ("plots need") it, and which extra has it.

    A module of our own that cannot be imported is a fault, and is raised as it is.
    """
    try:
        yield
    except ImportError as missing:
        if (missing.name or "").partition(".")[0] == "evaluator":
            raise
        hint = f"pip install 'release-evaluator[{extra}]'" if extra else None
        raise error(f"{what} the package '{missing.name}'", hint=hint) from missing


class Lazy(Mapping[str, T], Generic[T]):
    """Name → what its place `module:name` leads to, imported when it is asked for.

    `noun` says what a name is of, `extra` which extra has the packages that may be missing: then `error` is raised.
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
    """Our own, then what other packages name as entry points of `group`.

    Raises `error` for two of one name, and for one that cannot be loaded.
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
        """Name → place; what is installed is looked up once."""
        from importlib.metadata import entry_points

        targets = dict(self.own)
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            existing = targets.setdefault(point.name, point.value)
            if existing != point.value:
                raise self.error(
                    f"two packages have a {self.noun} {point.name}: {existing} and {point.value}",
                    hint="uninstall one of them: which one is meant cannot be known",
                )
        return targets

    def __getitem__(self, name: str) -> Any:
        target = self.places[name]
        try:
            return load_object(target)
        except Exception as error:
            also = f", or what it needs: pip install 'release-evaluator[{self.extra}]'" if self.extra else ""
            raise self.error(
                f"the {self.noun} {name} ({target}) cannot be loaded: {error}", hint=f"install it again{also}"
            ) from error
