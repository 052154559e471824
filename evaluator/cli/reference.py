"""Every command and option as Markdown, from `--help`: `python -m evaluator.cli.reference > docs/reference.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from evaluator.cli import COMMANDS, emit, evaluator

__all__ = ["write_reference"]

HEAD = """\
# Commands

Taken from `--help` by `python -m evaluator.cli.reference > docs/reference.md`; do not edit.
"""


def write_reference() -> str:
    """Write the reference of the whole command line."""
    with click.Context(evaluator, info_name="evaluator", terminal_width=100, max_content_width=100) as context:
        parts = [HEAD, *_describe(evaluator, context)]
        for name in COMMANDS:
            parts += _describe_below(name, evaluator.get_command(context, name), context)
    return "\n".join(parts).rstrip()


def _describe_below(name: str, command: click.Command | None, parent: click.Context) -> Iterator[str]:
    if command is None:
        return
    with click.Context(command, parent=parent, info_name=name, terminal_width=100, max_content_width=100) as context:
        yield from _describe(command, context)
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                yield from _describe_below(child, command.get_command(context, child), context)


def _describe(command: click.Command, context: click.Context) -> Iterator[str]:
    formatter = context.make_formatter()
    command.format_help(context, formatter)
    yield f"## {context.command_path}\n\n```\n{formatter.getvalue().rstrip()}\n```\n"


if __name__ == "__main__":
    emit(write_reference())
