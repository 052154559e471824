"""`evaluator render`: write a verdict from its JSON in any other format. Needs no store and judges nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from evaluator.cli import Session
from evaluator.cli.outputs import FORMAT_HELP, parse_formats, write_outputs
from evaluator.errors import InputError
from evaluator.records import Verdict
from evaluator.reports import from_json


@click.command("render")
@click.argument("file", metavar="VERDICT.json")
@click.option("--format", "formats", multiple=True, metavar="F[=PATH]", help=FORMAT_HELP)
@click.pass_obj
def command(session: Session, file: str, formats: tuple[str, ...]) -> None:
    """Write a verdict in other formats; VERDICT.json is the output of `verdict --format json`, - reads stdin.

    Exit code 0 for every verdict, since nothing is judged; 2 if the file is not a verdict.
    """
    outputs = parse_formats(formats)
    verdict = _read_verdict(file)
    write_outputs(verdict, outputs, private=session.has_sensitive_policy(), command_options=session.given_options)


def _read_verdict(file: str) -> Verdict:
    """Read a verdict from a file of JSON, or from stdin if `file` is `-`. Raises InputError."""
    origin = "stdin" if file == "-" else file
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{origin} cannot be read: {reason}", hint="give a file, or - for stdin") from None
    try:
        return from_json(content.decode("utf-8-sig"), origin)
    except UnicodeDecodeError:
        raise InputError(
            f"{origin} is not JSON: it is not UTF-8 text",
            hint="write it as UTF-8: a shell may have changed the encoding",
        ) from None
