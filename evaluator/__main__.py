"""The one place where errors become a message, a hint and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence

import click

from evaluator.cli import Session, evaluator, flush
from evaluator.errors import EvaluatorError

__all__ = ["main", "run"]

COULD_NOT_EVALUATE = 4
INTERRUPTED = 130
WRONG_USAGE = 2
COMPLETION = "_EVALUATOR_COMPLETE"


def run(args: Sequence[str]) -> int:
    """Run a command line and return its exit code. Raises nothing."""
    session = Session()
    try:
        code = _invoke(args, session)
        flush()
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted; what was recorded stays")
        return INTERRUPTED
    except EvaluatorError as error:
        _complain(error.message, error.hint)
        code = error.exit_code
    except click.exceptions.Exit as leaving:
        code = leaving.exit_code
    except click.UsageError as error:
        error.show()
        code = WRONG_USAGE
    except click.ClickException as error:
        _complain(error.format_message())
        code = WRONG_USAGE
    except Exception as error:  # noqa: BLE001 - the last resort: whatever it was, never a traceback and never exit 1
        _explain(error, session)
        code = COULD_NOT_EVALUATE
    return code


def main() -> None:
    """Console script."""
    if instruction := os.environ.get(COMPLETION):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(evaluator, {}, "evaluator", COMPLETION, instruction))
    sys.exit(run(sys.argv[1:]))


def _invoke(args: Sequence[str], session: Session) -> int:
    logging.basicConfig(format="evaluator: %(message)s", stream=sys.stderr)
    with evaluator.make_context("evaluator", list(args), obj=session) as ctx:
        code = evaluator.invoke(ctx)
    return code if isinstance(code, int) else 0


def _complain(message: str, hint: str | None = None) -> None:
    click.echo(f"{click.style('Error:', fg='red')} {message}", err=True)
    if hint:
        click.echo(f"Hint: {hint}", err=True)


def _explain(error: Exception, session: Session) -> None:
    if session.verbosity > 1:
        click.echo("".join(traceback.format_exception(error)), err=True)
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        _complain(f"{error.strerror}{where}")
        return
    text = " ".join(str(error).split()) or "no message"
    _complain(f"unexpected {type(error).__name__}: {text}", "this is a fault of evaluator; -vv shows where it happened")


if __name__ == "__main__":
    main()
