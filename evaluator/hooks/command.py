"""Run a program: an argument list and never a shell, an environment of what is listed, a time limit, output kept."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import Field, field_validator

from evaluator.errors import HookError
from evaluator.hooks.base import LONGEST_RESPONSE, BaseHook, HookContext, Outcome, State
from evaluator.hooks.options import HookOptions, Seconds, Text
from evaluator.hooks.templates import check_template, fill_words, show_words
from evaluator.secrecy import list_spellings

_TIME_TO_END_S = 2.0
"""How long a program may take to end after a signal."""
_SHORTEST_SECRET = 4
_PLAIN = re.compile(r"[\w@%+=:,./${}-]+")
"""An argument that people can read without quotes."""
Argument = Annotated[str, Field(max_length=100_000, pattern=r"^[^\x00]*$")]


class CommandOptions(HookOptions):
    """What is run, and with what."""

    run: Annotated[list[Argument], Field(min_length=1)] = Field(
        description="Program and arguments; words such as ${release} are filled in within an argument."
    )
    undo: list[Argument] = Field(default_factory=list, description="Program and arguments that take it back.")
    environment: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = Field(
        default_factory=list, description="Variables passed to it, in addition to PATH and EVALUATOR_*."
    )
    folder: Text | None = Field(None, description="Where it is run.")
    timeout: Seconds = Field(25.0, description="When it is ended, with all that it started.")
    idempotent: bool = Field(False, description="On: it may be run again when its outcome is unknown.")  # noqa: FBT003

    @field_validator("run", "undo")
    @classmethod
    def _check_arguments(cls, value: list[str]) -> list[str]:
        """Check that arguments name only known words, and that the program itself names none."""
        for argument in value:
            check_template(argument)
        if value and (not value[0] or "${" in value[0]):
            raise ValueError("must begin with a program that is written out")
        return value


class Command(BaseHook[CommandOptions]):
    """Runs a program; 0 is success."""

    kind = "command"
    Options = CommandOptions

    def __init__(self, options: CommandOptions, environment: Any = None) -> None:
        super().__init__(options, environment)
        self.idempotent = options.idempotent

    def _describe(self, words: Mapping[str, str]) -> str:
        return f"runs {_show_command(self.options.run, words)}"

    def _describe_undo(self, words: Mapping[str, str]) -> str:
        undo, run = (_show_command(command, words) for command in (self.options.undo, self.options.run))
        return f"runs {undo}, to take back what {run} did"

    def _test(self) -> Outcome:
        """Check that the programs and the folder exist; runs nothing."""
        programs = [self._find_program(command[0]) for command in (self.options.run, self.options.undo) if command]
        self._check_folder()
        return Outcome("acknowledged", f"{' and '.join(programs)} can be run; nothing was")

    def _execute(self, context: HookContext) -> Outcome:
        return self._run(self.options.run, context)

    def can_undo(self) -> bool:
        """Whether `undo` names a program."""
        return bool(self.options.undo)

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:
        """Run the program of the option `undo`; it needs no earlier value. Raises HookError if there is none."""
        if not self.options.undo:
            return super()._undo(context, earlier)  # raises HookError
        return self._run(self.options.undo, context)

    def write_by_hand(self, context: HookContext) -> list[str]:
        """Write lines for a shell that do the same."""
        return self._write_run_by_hand(self.options.run, context)

    def write_undo_by_hand(self, context: HookContext, earlier: Any) -> list[str]:  # noqa: ARG002 - it needs none
        """Write lines for a shell that undo what the hook did."""
        return self._write_run_by_hand(self.options.undo, context) if self.options.undo else []

    def _write_run_by_hand(self, template: list[str], context: HookContext) -> list[str]:
        """Write the line that runs a program as the hook does. Raises HookError for a version that is not known."""
        variables = [f"EVALUATOR_{word.upper()}={value}" for word, value in context.known_words().items()]
        words = context.words()
        command = [template[0], *(_fill_argument(argument, words) for argument in template[1:])]
        folder = f"cd {shlex.quote(self.options.folder)} && " if self.options.folder else ""
        names = ", ".join(self.options.environment)
        note = [f"# it needs these variables in its environment: {names}"] if names else []
        return [*note, folder + shlex.join(["env", *variables, *command])]

    def _find_program(self, program: str) -> str:
        """Return the path of a program, searched for in the hook's PATH. Raises HookError."""
        executable = shutil.which(program, path=self.environment.get("PATH", os.defpath))
        if not executable:
            raise HookError(f"there is no program {program} that can be run", hint="name it with its whole path")
        return executable

    def _check_folder(self) -> str | None:
        """Return the folder to run the program in; None: the current one. Raises HookError if it does not exist."""
        folder = self.options.folder
        if folder and not Path(folder).is_dir():
            raise HookError(f"there is no folder {folder} to run {self.options.run[0]} in")
        return folder

    def _run(self, template: list[str], context: HookContext) -> Outcome:
        """Run a program and return its outcome with the end of its output. Raises HookError if it cannot be started.

        `template`: the program and its arguments, into which words of the context are filled.
        """
        program, words = template[0], context.words()
        names = ["PATH", *self.options.environment]
        variables = {name: self.environment[name] for name in names if name in self.environment}
        variables |= {f"EVALUATOR_{word.upper()}": value for word, value in context.known_words().items()}
        command = [self._find_program(program), *(_fill_argument(argument, words) for argument in template[1:])]
        limit_s = min(self.options.timeout, context.left_s())
        with tempfile.TemporaryFile() as output:
            exit_code = _run_for(command, limit_s, output, variables, self._check_folder())
            response = self._read_end(output)
        if exit_code is None or exit_code < 0:
            how = f"after {limit_s:.1f} s" if exit_code is None else f"by signal {-exit_code}"
            # Unknown means that a person checks what was done. A program that may be run again needs no such check.
            state: State = "failed" if self.options.idempotent else "unknown"
            return Outcome(state, f"{program} was ended {how}", response=response)
        state = "acknowledged" if exit_code == 0 else "failed"
        return Outcome(state, f"{program} ended with {exit_code}", response=response)

    def _read_end(self, output: IO[bytes]) -> str:
        """Read the end of a program's output, where programs write errors, without secrets."""
        longest_secret = max((len(spelling) for spelling in list_spellings(self._list_secrets())), default=0)
        size = output.seek(0, os.SEEK_END)
        start = max(size - 4 * (LONGEST_RESPONSE + longest_secret), 0)  # a character has up to 4 bytes
        output.seek(start)
        text = self._remove_secrets(output.read().decode("utf-8", "replace"))
        if start:
            # What was read may begin with half of a secret, which is not recognised: this much may belong to it.
            text = text[longest_secret:]
        return text[-LONGEST_RESPONSE:].strip()

    def _list_secrets(self) -> list[str]:
        """List the secrets of the options, and the values of all variables that are passed to the program."""
        passed_values = [self.environment.get(name, "") for name in self.options.environment]
        # A flag such as CI=1 is not a secret, and its value occurs in many lines.
        secrets = [value for value in passed_values if len(value) >= _SHORTEST_SECRET]
        return [*super()._list_secrets(), *secrets]


def _show_command(template: Sequence[str], words: Mapping[str, str]) -> str:
    """Write a program and its arguments for people, with the words that have a value."""
    return " ".join(
        argument if _PLAIN.fullmatch(argument) else shlex.quote(argument)
        for argument in (show_words(part, words) for part in template)
    )


def _fill_argument(template: str, words: Mapping[str, str]) -> str:
    """Fill words into an argument. Raises HookError if a word makes it an option of the program."""
    argument = fill_words(template, words)
    if argument.startswith("-") and not template.startswith("-"):
        raise HookError(
            f"the argument {template} would be {argument}, which the program takes for an option",
            hint="write the word behind the name of an option: --reason=${reason}",
        )
    return argument


def _run_for(
    command: list[str], limit_s: float, output: IO[bytes], variables: dict[str, str], folder: str | None
) -> int | None:
    """Run a program for `limit_s` seconds at most, and write all its output to `output`.

    Returns the exit code: negative for the number of a signal that ended it, None if it was ended at the time limit.
    `variables`: its whole environment. Raises HookError if it cannot be started.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=variables,
            cwd=folder,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise HookError(
            f"{command[0]} cannot be started: {getattr(error, 'strerror', None) or 'bad argument'}"
        ) from None
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        # The session is ended, so also all that the program started: first by the signal that lets it clean up.
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_TIME_TO_END_S)
        return None
