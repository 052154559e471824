"""What the stations of the corridor share."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Say", "say_nothing"]

Say = Callable[[str], None]


def say_nothing(_: str) -> None:
    """Tell nobody."""
