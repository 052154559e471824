"""What must be known of a type of metric before anything is compared: where it is, and what a policy may ask of it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, cast

from evaluator.records import Direction, QueryKind

if TYPE_CHECKING:
    from evaluator.metrics.base import CompareTogether

__all__ = ["Loaded", "MetricType"]

Area = Literal["requests", "outcomes", "readings"]


@dataclass(frozen=True, slots=True)
class MetricType:
    """A line of the table `METRICS`."""

    of: Area
    """What it reads."""
    place: str
    """`module:name` of what compares, in the room `metrics`."""
    unit: Literal["share", "ms", "/s", "abs"]
    """Unit of amounts in the policy. `abs` is the unit of an outcome or a reading, whatever it is."""
    direction: Direction
    takes_quantile: bool = False
    asks: QueryKind | None = None
    """What a metric of readings asks its source for."""
    any_direction: bool = False
    """`direction` is a default that the policy may turn round."""
    shown: str = ""
    """Unit of its values in a verdict, where that is not `unit`."""
    together: str = ""
    """`module:name` of what answers several rules in one go, as `place` would answer each."""

    @property
    def of_outcomes(self) -> bool:
        """Does it read outcomes of units?"""
        return self.of == "outcomes"

    def load(self) -> object:
        """Import what compares."""
        return _load(self.place)

    def load_together(self) -> CompareTogether:
        """Import what answers several rules in one go."""
        return cast("CompareTogether", _load(self.together))


def _load(place: str) -> object:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"evaluator.metrics.{module}"), name)


T = TypeVar("T")


class Loaded(Mapping[str, T], Generic[T]):
    """Type → what compares, of the types that read one thing; imported when it is asked for."""

    def __init__(self, types: Mapping[str, MetricType], of: Area) -> None:
        self._types = {name: kind for name, kind in types.items() if kind.of == of}

    def __getitem__(self, name: str) -> T:
        return cast("T", self._types[name].load())

    def __contains__(self, name: object) -> bool:
        return name in self._types

    def __iter__(self) -> Iterator[str]:
        return iter(self._types)

    def __len__(self) -> int:
        return len(self._types)
