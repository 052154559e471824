"""Options that several commands share, or that belong together: a command receives their values as one record."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Command = TypeVar("Command", bound=Callable[..., Any])


def with_options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Give a command these options, in the order of its help."""
    return lambda command: functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


def gathered(name: str, record: Callable[..., Any], *options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Give a command these options, in the order of its help; it receives a `record` of their values as `name`.

    A parameter of `record` takes the value of the option of its name, which is one of these or was declared above them;
    a parameter without an option keeps its default.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(*args: Any, **keywords: Any) -> Any:
            values = {name: keywords.pop(name) for name in inspect.signature(record).parameters if name in keywords}
            return command(*args, **{name: record(**values)}, **keywords)

        return with_options(*options)(call)  # type: ignore[return-value]

    return decorate
