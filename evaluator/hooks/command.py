"""Run a program: an argument list and never a shell, an environment of what is listed, a time limit, output kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import Field, field_validator

from evaluator.errors import HookError
from evaluator.hooks.base import LONGEST_RESPONSE, BaseHook, HookContext, Outcome, State
from evaluator.hooks.options import HookOptions, Seconds
from evaluator.hooks.templates import check_template, fill_words
from evaluator.secrecy import redact

_TO_END_S = 2.0
_SHORTEST_SECRET = 4
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
    folder: str | None = Field(None, description="Where it is run.")
    timeout: Seconds = Field(25.0, description="When it is ended, with all that it started.")
    idempotent: bool = Field(False, description="On: it may be run again when its outcome is unknown.")  # noqa: FBT003

    @field_validator("run", "undo")
    @classmethod
    def _known_words(cls, value: list[str]) -> list[str]:
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

    def _describe(self) -> str:
        return f"runs {' '.join(self.options.run)}"

    def _test(self) -> Outcome:
        programs = [self._find(argv[0]) for argv in (self.options.run, self.options.undo) if argv]
        self._folder()
        return Outcome("acknowledged", f"{' and '.join(programs)} can be run; nothing was")

    def _execute(self, context: HookContext) -> Outcome:
        return self._run(self.options.run, context)

    def can_undo(self) -> bool:
        """Whether `undo` names a program."""
        return bool(self.options.undo)

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:
        if not self.options.undo:
            return super()._undo(context, earlier)
        return self._run(self.options.undo, context)

    def _find(self, program: str) -> str:
        executable = shutil.which(program, path=self.environment.get("PATH", os.defpath))
        if not executable:
            raise HookError(f"there is no program {program} that can be run", hint="name it with its whole path")
        return executable

    def _folder(self) -> str | None:
        folder = self.options.folder
        if folder and not Path(folder).is_dir():
            raise HookError(f"there is no folder {folder} to run {self.options.run[0]} in")
        return folder

    def _run(self, argv: list[str], context: HookContext) -> Outcome:
        words = context.words()
        names = ["PATH", *self.options.environment]
        variables = {name: self.environment[name] for name in names if name in self.environment}
        variables |= {f"EVALUATOR_{word.upper()}": value for word, value in words.items()}
        command = [self._find(argv[0]), *(fill_words(argument, words) for argument in argv[1:])]
        limit_s = min(self.options.timeout, context.left_s())
        with tempfile.TemporaryFile() as output:
            code = _run_for(command, limit_s, output, variables, self._folder())
            # Secrets are removed first: half of one, at the edge of the kept part, would not be recognised.
            # The end is kept: programs write errors last.
            output.seek(max(output.seek(0, os.SEEK_END) - 4 * LONGEST_RESPONSE, 0))
            response = self._clean(output.read().decode("utf-8", "replace"))[-LONGEST_RESPONSE:].strip()
        if code is None or code < 0:
            how = f"after {limit_s:.1f} s" if code is None else f"by signal {-code}"
            state: State = "failed" if self.options.idempotent else "unknown"
            return Outcome(state, f"{argv[0]} was ended {how}", response=response)
        return Outcome("acknowledged" if code == 0 else "failed", f"{argv[0]} ended with {code}", response=response)

    def _clean(self, text: str) -> str:
        """Any variable that was passed to it may be a secret."""
        values_passed = [self.environment.get(name, "") for name in self.options.environment]
        # A flag such as CI=1 is not a secret, and its value occurs in many lines.
        return redact(super()._clean(text), [value for value in values_passed if len(value) >= _SHORTEST_SECRET])


def _run_for(
    command: list[str], limit_s: float, output: IO[bytes], variables: dict[str, str], folder: str | None
) -> int | None:
    """The exit code, or None where it was cut off. Raises HookError where it could not be started."""
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
        # It is ended with all that it started, by SIGTERM first. What is left of one that ended by itself may run on.
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_TO_END_S)
        return None
