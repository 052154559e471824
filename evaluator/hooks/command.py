"""Run programs: an argument list and never a shell, an environment of what is listed, a time limit, output kept.

One program does what an action needs; or two share requests between arms: one sets the shares, one prints them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from evaluator.errors import HookError
from evaluator.hooks.base import LONGEST_RESPONSE, BaseHook, HookContext, Outcome, State
from evaluator.hooks.network import MaybeSent
from evaluator.hooks.options import HookOptions, Seconds, Text
from evaluator.hooks.router import (
    ARMS,
    SHARES,
    Applied,
    ArmName,
    Router,
    Shares,
    add_shares,
    check_arms,
    parse_shares,
    show_shares,
)
from evaluator.hooks.templates import OPTIONAL, SET_WORDS, check_template, fill_words, list_words, show_words
from evaluator.secrecy import list_spellings

_TIME_TO_END_S = 2.0
"""How long a program may take to end after a signal."""
_SHORTEST_SECRET = 4
_LONGEST_ANSWER = 1 << 20
"""Bytes of printed shares that are read."""
_PLAIN = re.compile(r"[\w@%+=:,./${}-]+")
"""An argument that people can read without quotes."""
Argument = Annotated[str, Field(max_length=100_000, pattern=r"^[^\x00]*$")]


class CommandOptions(HookOptions):
    """What is run, and with what."""

    run: list[Argument] = Field(
        default_factory=list,
        description="Program and arguments; words such as ${release} are filled in within an argument.",
    )
    undo: list[Argument] = Field(default_factory=list, description="Program and arguments that take it back.")
    set: list[Argument] = Field(
        default_factory=list,
        description="Or, for a router, the program that sets the shares ${shares}; it may be run again.",
    )
    get: list[Argument] = Field(
        default_factory=list, description='With set: the program that prints the shares, {"baseline": 0.95, …}.'
    )
    arms: list[ArmName] = ARMS
    shares: Shares | None = SHARES
    environment: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = Field(
        default_factory=list, description="Variables passed to it, in addition to PATH and EVALUATOR_*."
    )
    folder: Text | None = Field(None, description="Where it is run.")
    timeout: Seconds = Field(25.0, description="When it is ended, with all that it started.")
    idempotent: bool = Field(False, description="On: it may be run again when its outcome is unknown.")  # noqa: FBT003

    @field_validator("run", "undo", "set", "get")
    @classmethod
    def _check_arguments(cls, value: list[str], info: ValidationInfo) -> list[str]:
        """Check that arguments name only known words, and that the program itself names none."""
        for argument in value:
            check_template(argument, SET_WORDS if info.field_name == "set" else ())
        if value and (not value[0] or "${" in value[0]):
            raise ValueError("must begin with a program that is written out")
        return value

    @model_validator(mode="after")
    def _check_programs(self) -> Self:
        """Check that there is one program, or two for a router."""
        if bool(self.set) != bool(self.get) or bool(self.run) == bool(self.set):
            raise ValueError("needs run; or, for a router, set and get")
        if self.undo and self.set:
            raise ValueError("cannot have undo with set: what was there before is set again")
        check_arms(self.arms, self.shares)
        return self


class ProgramHook(BaseHook[CommandOptions]):
    """A hook that runs programs."""

    kind = "command"
    Options = CommandOptions

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
            raise HookError(f"there is no folder {folder} to run {(self.options.run or self.options.set)[0]} in")
        return folder

    def _start(
        self, template: Sequence[str], words: Mapping[str, str], limit_s: float, output: IO[bytes], errors: IO[bytes]
    ) -> int | None:
        """Run a program with words filled into its arguments; returns its exit code as `_run_for`.

        `template`: the program and its arguments. Raises HookError if it cannot be started.
        """
        names = ["PATH", *self.options.environment]
        variables = {name: self.environment[name] for name in names if name in self.environment}
        variables |= _name_variables(words)
        command = [self._find_program(template[0]), *(_fill_argument(argument, words) for argument in template[1:])]
        return _run_for(command, limit_s, output, errors, variables, self._check_folder())

    def _write_run_by_hand(self, template: Sequence[str], words: Mapping[str, str]) -> list[str]:
        """Write the line that runs a program as the hook does. Raises HookError for a word that has no value."""
        variables = [f"{name}={value}" for name, value in _name_variables(words).items()]
        command = [template[0], *(_fill_argument(argument, words) for argument in template[1:])]
        folder = f"cd {shlex.quote(self.options.folder)} && " if self.options.folder else ""
        names = ", ".join(self.options.environment)
        note = [f"# it needs these variables in its environment: {names}"] if names else []
        return [*note, folder + shlex.join(["env", *variables, *command])]

    def _read_end(self, output: IO[bytes]) -> str:
        """Read the end of a program's output, where programs write errors, without secrets."""
        longest_secret = max((len(spelling) for spelling in list_spellings(self.list_secrets())), default=0)
        size = output.seek(0, os.SEEK_END)
        start = max(size - 4 * (LONGEST_RESPONSE + longest_secret), 0)  # a character has up to 4 bytes
        output.seek(start)
        text = self._remove_secrets(output.read().decode("utf-8", "replace"))
        if start:
            # What was read may begin with half of a secret, which is not recognised: this much may belong to it.
            text = text[longest_secret:]
        return text[-LONGEST_RESPONSE:].strip()

    def list_secrets(self) -> list[str]:
        """List the secrets of the options, and the values of all variables that are passed to the program."""
        passed_values = [self.environment.get(name, "") for name in self.options.environment]
        # A flag such as CI=1 is not a secret, and its value occurs in many lines.
        secrets = [value for value in passed_values if len(value) >= _SHORTEST_SECRET]
        return [*super().list_secrets(), *secrets]


class Command(ProgramHook):
    """Runs a program; 0 is success. With the options `set` and `get`, a CommandRouter is made instead."""

    @classmethod
    def choose_class(cls, options: CommandOptions) -> type[BaseHook[CommandOptions]]:
        """Return the class for one program, or for a router."""
        return CommandRouter if options.set else cls

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
        return self._write_run_by_hand(self.options.run, context.words())

    def write_undo_by_hand(self, context: HookContext, earlier: Any) -> list[str]:  # noqa: ARG002 - it needs none
        """Write lines for a shell that undo what the hook did."""
        return self._write_run_by_hand(self.options.undo, context.words()) if self.options.undo else []

    def _run(self, template: Sequence[str], context: HookContext) -> Outcome:
        """Run a program and return its outcome with the end of its output. Raises HookError if it cannot be started.

        `template`: the program and its arguments, into which words of the context are filled.
        """
        program, limit_s = template[0], min(self.options.timeout, context.left_s())
        with tempfile.TemporaryFile() as output:
            exit_code = self._start(template, context.words(), limit_s, output, output)
            response = self._read_end(output)
        if exit_code is None or exit_code < 0:
            # Unknown means that a person checks what was done. A program that may be run again needs no such check.
            state: State = "failed" if self.options.idempotent else "unknown"
            return Outcome(state, f"{program} {_describe_end(exit_code, limit_s)}", response=response)
        state = "acknowledged" if exit_code == 0 else "failed"
        return Outcome(state, f"{program} {_describe_end(exit_code, limit_s)}", response=response)


class CommandRouter(ProgramHook, Router[CommandOptions]):
    """Shares requests by two programs: one sets the shares, one prints those that the router has."""

    def arms(self) -> tuple[str, ...]:
        """Return the arms of the options."""
        return tuple(self.options.arms)

    def _list_requested(self) -> Mapping[str, float] | None:
        return self.options.shares

    def _describe_router(self, words: Mapping[str, str]) -> str:
        return f"the router of {_show_command(self.options.set, words)}"

    def _test_router(self) -> list[str]:
        """Check that the programs and the folder exist, and run the one that prints the shares. Raises HookError."""
        for command in (self.options.set, self.options.get):
            self._find_program(command[0])
        self._check_folder()
        if list_words(" ".join(self.options.get)):
            return ["both programs can be run; none was, because `get` has words that only a request fills in"]
        return [f"the shares are {show_shares(self._read_state({}))}; no share was set"]

    def _read_state(self, words: Mapping[str, str]) -> dict[str, float]:
        """Run the program that prints the shares. Raises HookError."""
        program = self.options.get[0]
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            exit_code = self._start(self.options.get, words, self.options.timeout, output, errors)
            if exit_code != 0:
                end = _describe_end(exit_code, self.options.timeout)
                raise HookError(f"{program} {end}, instead of printing the shares: {self._read_end(errors)[-300:]}")
            output.seek(0)
            text = output.read(_LONGEST_ANSWER).decode("utf-8", "replace")
        try:
            return parse_shares(self._remove_secrets(text), self.arms())
        except HookError as error:
            raise HookError(f"{program}: {error.message}", hint=error.hint) from None

    def _write_state_by_hand(self, state: Mapping[str, float], words: Mapping[str, str]) -> list[str]:
        """Write the line that runs the program which sets the shares."""
        return self._write_run_by_hand(self.options.set, add_shares(words, state))

    def _apply(self, state: Mapping[str, float], words: Mapping[str, str], *, back: bool) -> Applied:
        """Run the program that sets the shares. Raises HookError, MaybeSent."""
        program = self.options.set[0]
        earlier = self._read_state(words) if not back else None
        with tempfile.TemporaryFile() as output:
            exit_code = self._start(self.options.set, add_shares(words, state), self.options.timeout, output, output)
            response = self._read_end(output)[-300:]
        if exit_code == 0:
            return Applied(notes=(f"{program} ended with 0",))
        problem = f"{program} {_describe_end(exit_code, self.options.timeout)}: {response or 'it wrote nothing'}"
        if back:
            return Applied(missing=(problem,))
        # A program that was ended may have left others behind, which still act.
        if exit_code is not None and exit_code > 0 and self._read_state(words) == earlier:
            raise HookError(f"{problem}; the shares are as before")
        raise MaybeSent(problem)


def _name_variables(words: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a program gets for words that have a value, such as EVALUATOR_RELEASE."""
    return {f"EVALUATOR_{word.upper()}": value for word, value in words.items() if value or word not in OPTIONAL}


def _describe_end(exit_code: int | None, limit_s: float) -> str:
    """Say how a program ended: its exit code, negative for the number of a signal; None: at the time limit."""
    if exit_code is None:
        return f"was ended after {limit_s:.1f} s"
    return f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with {exit_code}"


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
    command: list[str],
    limit_s: float,
    output: IO[bytes],
    errors: IO[bytes],
    variables: dict[str, str],
    folder: str | None,
) -> int | None:
    """Run a program for `limit_s` seconds at most, and write what it prints to `output` and `errors`.

    Returns the exit code: negative for the number of a signal that ended it, None if it was ended at the time limit.
    `variables`: its whole environment. Raises HookError if it cannot be started.
    """
    with _left_over_is_ended() as watch:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=variables,
                cwd=folder,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise HookError(
                f"{command[0]} cannot be started: {getattr(error, 'strerror', None) or 'bad argument'}"
            ) from None
        watch(process.pid)
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


_END_SESSION = """
read -r session && [ "$session" ] || exit
read -r ended || { kill -s TERM -- "-$session"; sleep "$1"; kill -s KILL -- "-$session"; }
"""
"""Reads the id of a session, and ends it if nothing more can be read after that."""


@contextlib.contextmanager
def _left_over_is_ended() -> Iterator[Callable[[int], None]]:
    """Yield a function that is given the session of a program, which is ended if this process is killed meanwhile.

    What it did later would come after others have taken it back. Raises HookError.
    """
    reading, writing = os.pipe()  # no program inherits it, so its end is that of this process
    try:
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", _END_SESSION, "sh", f"{_TIME_TO_END_S:g}"],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        os.close(writing)
        raise HookError(f"/bin/sh, which ends programs that are left over, cannot be started: {error}") from None
    finally:
        os.close(reading)

    def write(line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody else has ended it
            os.write(writing, f"{line}\n".encode())

    try:
        yield lambda session: write(f"{session}")
    finally:
        write("")
        os.close(writing)
        watcher.wait()
