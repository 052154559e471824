"""Options that several commands share, or that belong together: a command receives their values as one record."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Command = TypeVar("Command", bound=Callable[..., Any])


def with_options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command these options, in the order of its help."""

    def decorate(command: Command) -> Command:
        """Add the options to a command."""
        # As with a stack of decorators, the last option is applied first.
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def gathered(name: str, record: Callable[..., Any], *options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command these options, and passes their values as one record.

    The command receives `record(…)` as the argument `name`. A parameter of `record` takes the value of the option of
    the same name, from these options or those of a decorator above; a parameter without an option keeps its default.
    """

    def decorate(command: Command) -> Command:
        """Add the options to a function that takes their values as one record, its argument `name`."""

        @functools.wraps(command)
        def call(*args: Any, **keywords: Any) -> Any:
            """Call the function with one record in place of the values of the options.

            `keywords`: the values of all options, by name. Those that `record` has a parameter for become the argument
            `name`, the others are passed on.
            """
            parameters = inspect.signature(record).parameters
            values = {parameter: keywords.pop(parameter) for parameter in parameters if parameter in keywords}
            return command(*args, **{name: record(**values)}, **keywords)

        return with_options(*options)(call)  # type: ignore[return-value]

    return decorate
