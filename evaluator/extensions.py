"""What other packages add, found through the entry points that they declare; loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from evaluator.errors import EvaluatorError

__all__ = ["Extensions"]


class Extensions(Mapping[str, Any]):
    """Name → what its entry point leads to. Raises `error` for two of one name, and for one that cannot be loaded.

    `own` are ours that stand in a table instead of our own entry points: name → `module:attribute`, in their order.
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
        self.group, self.noun, self.error, self.extra = group, noun, error, extra
        self.own = {name: EntryPoint(name, value, group) for name, value in (own or {}).items()}

    @cached_property
    def points(self) -> Mapping[str, EntryPoint]:
        """Ours, then those that are installed."""
        found = dict(self.own)
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            other = found.setdefault(point.name, point)
            if other.value != point.value:
                raise self.error(
                    f"two packages have a {self.noun} {point.name}: {other.value} and {point.value}",
                    hint="uninstall one of them: which one is meant cannot be known",
                )
        return found

    def __getitem__(self, name: str) -> Any:
        point = self.points[name]
        try:
            return point.load()
        except Exception as error:
            needs = f", or what it needs: pip install 'release-evaluator[{self.extra}]'" if self.extra else ""
            raise self.error(
                f"the {self.noun} {name} ({point.value}) cannot be loaded: {error}", hint=f"install it anew{needs}"
            ) from error

    def __contains__(self, name: object) -> bool:
        return name in self.points

    def __iter__(self) -> Iterator[str]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)
