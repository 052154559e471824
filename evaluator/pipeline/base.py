"""What the stations of the corridor share."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["READING_SOURCE", "Say", "say_nothing"]

READING_SOURCE = "prometheus"
"""Source of runs that were collected from a metrics server."""

Say = Callable[[str], None]


def say_nothing(_: str) -> None:
    """Tell nobody."""
