"""Options that several commands share, or that belong together: a command is passed one record of their values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Command", "gathered"]

Command = TypeVar("Command", bound=Callable[..., Any])


def gathered(name: str, record: type[Any], *options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Give a command these options, in the order of its help; it is passed a `record` of their values as `name`.

    `record` is a dataclass whose fields are named as the parameters of options, which are these or stand above them; a
    field without an option keeps its default.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(*args: Any, **given: Any) -> Any:
            values = {field: given.pop(field) for field in record.__dataclass_fields__ if field in given}
            return command(*args, **{name: record(**values)}, **given)

        for option in reversed(options):
            call = option(call)
        return call  # type: ignore[return-value]

    return decorate
