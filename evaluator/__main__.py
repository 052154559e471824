"""The one place where errors become a message, a hint and an exit code."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" or sys.argv[0].endswith("evaluator"):
    # Only as the program, not where another one imports this module: Ctrl-C during the imports needs no cleanup.
    # `signal` wraps `_signal` in enumerations; its import takes longer than everything before this line.
    import _signal  # type: ignore[import-not-found]  # missing in the stubs

    _signal.signal(_signal.SIGINT, lambda _number, _frame: os._exit(130))

import logging
import signal
import traceback
import warnings
from collections.abc import Sequence
from types import FrameType

import click

from evaluator.cli import Session, evaluator, flush, mask_control_characters, wants_color
from evaluator.errors import EvaluatorError

COULD_NOT_EVALUATE = 4
INTERRUPTED = 130
WRONG_USAGE = 2
COMPLETION = "_EVALUATOR_COMPLETE"


class _Interrupts:
    """Records Ctrl-C: an extension module that it interrupts may raise another error than KeyboardInterrupt."""

    def __init__(self) -> None:
        self.pressed = False
        """Was Ctrl-C pressed since `listen`?"""

    def listen(self) -> None:
        """Record Ctrl-C from now on, in place of what has handled it before."""
        signal.signal(signal.SIGINT, self._record)

    def _record(self, number: int, frame: FrameType | None) -> None:
        """Record the signal, then raise KeyboardInterrupt as Python does."""
        self.pressed = True
        signal.default_int_handler(number, frame)


def run(args: Sequence[str], *, listen: bool = False) -> int:
    """Run a command line and return its exit code. Raises nothing. `listen`: handle Ctrl-C, in the main thread only."""
    session, interrupts = Session(typed=tuple(args)), _Interrupts()
    try:
        if listen:
            interrupts.listen()
        logging.basicConfig(format="evaluator: %(message)s", stream=sys.stderr)
        with evaluator.make_context("evaluator", list(args), obj=session) as ctx:
            result = evaluator.invoke(ctx)
        exit_code = result if isinstance(result, int) else 0
        flush()
    except click.exceptions.Exit as leaving:  # --help and --version end by it
        exit_code = leaving.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - no error shows a traceback or exits with 1
        interrupted = interrupts.pressed or isinstance(error, KeyboardInterrupt | click.Abort)
        exit_code = _show_error(KeyboardInterrupt() if interrupted else error, session)
    return exit_code


def main() -> None:
    """Run the command line of this process, and end the process with the exit code."""
    _open_closed_streams()
    # Numbers that are too large or missing become NaN, which is "no data"; numpy's warning would only name our source.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"evaluator\.")
    instruction = os.environ.get(COMPLETION)
    if instruction:  # a shell asks how to complete a command line
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(evaluator, {}, "evaluator", COMPLETION, instruction))
    exit_code = run(sys.argv[1:], listen=True)
    # All output is written: Ctrl-C during Python's shutdown must not change the exit code.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if exit_code == INTERRUPTED:
        # After Ctrl-C in code that was run from a string, `sys.exit` would end the process by the signal instead. This
        # end calls no exit functions; if the command has used the store, it has temporary files.
        if temporary := sys.modules.get("evaluator.store.temporary"):
            temporary.remove_process_folder()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


def _open_closed_streams() -> None:
    """Open the null device for each of stdin, stdout and stderr that is closed (`>&-`).

    Otherwise the next file that is opened, such as the store, would get its number and receive output.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:  # Python has no stream for a descriptor that was closed at its start
            mode = "w" if descriptor else "r"
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))


def _print_error(message: str, hint: str | None = None) -> None:
    """Print an error and its hint to stderr. If that fails, send all further output to stderr nowhere."""
    try:
        label = click.style("Error:", fg="red")
        click.echo(f"{label} {mask_control_characters(message)}", err=True, color=wants_color(sys.stderr))
        if hint:
            click.echo(f"Hint: {mask_control_characters(hint)}", err=True)
    except OSError:  # stderr on a full disk, for example: the exit code still shows the error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _show_error(error: BaseException, session: Session) -> int:
    """Print an error in one sentence, with a hint, and return its exit code."""
    if session.verbosity > 1:  # -vv
        click.echo("".join(traceback.format_exception(error)), err=True)
    match error:
        case KeyboardInterrupt():
            _print_error("interrupted; what was recorded stays")
            return INTERRUPTED
        case EvaluatorError():
            _print_error(session.complete_commands(error.message), session.complete_commands(error.hint or ""))
            return error.exit_code
        case click.UsageError():
            error.show()
            return WRONG_USAGE
        case click.ClickException():
            _print_error(error.format_message())
            return WRONG_USAGE
        case OSError(strerror=str(reason)):
            _print_error(f"{reason}: {error.filename}" if error.filename else reason)
        case _:
            text = " ".join(str(error).split()) or "no message"
            hint = "this is a bug in evaluator; -vv shows the traceback"
            _print_error(f"unexpected {type(error).__name__}: {text}", hint)
    return COULD_NOT_EVALUATE


if __name__ == "__main__":
    main()
