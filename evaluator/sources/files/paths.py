"""From options to files: a path names one file, whatever characters it has; a pattern has an option of its own."""

from __future__ import annotations

import glob
import os
import re
import shlex
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluator.errors import InputError, UsageError
from evaluator.records import BASELINE, CANDIDATE


@dataclass(frozen=True, slots=True)
class FileOption:
    """The pair of options that gives files: `--baseline FILE` and `--baseline-glob PATTERN`."""

    name: str
    """`--baseline`, `--canary`, `--arm`, `--outcomes` or `--arm-outcomes`."""
    prefix: str = ""
    """What comes before the path: `b=` in `--arm b=FILE`."""

    def write(self, path: str) -> str:
        """Write the option with a path, as it is typed in a shell."""
        return f"{self.name} {shlex.quote(self.prefix + path)}"

    def write_glob(self, pattern: str) -> str:
        """Write the option with a pattern, as it is typed in a shell: quoted, so that the shell does not expand it."""
        quoted = "'" + (self.prefix + pattern).replace("'", "'\"'\"'") + "'"
        return f"{self.name}-glob {quoted}"


ACCESS_LOG = FileOption("--access-log")
OUTCOMES = FileOption("--outcomes")
OUTCOMES_OF_ARM = "--arm-outcomes"
"""The option that gives the outcome files of one arm, NAME=FILE."""


def option_of_arm(arm: str) -> FileOption:
    """Return the option that gives the request files of an arm."""
    if arm in (BASELINE, CANDIDATE):
        return FileOption(f"--{arm}")
    return FileOption("--arm", f"{arm}=")


def option_of_arm_outcomes(arm: str) -> FileOption:
    """Return the option that gives the outcome files of an arm."""
    return FileOption(OUTCOMES_OF_ARM, f"{arm}=")


def find_files_of_arms(
    paths: Mapping[str, Sequence[str]],
    patterns: Mapping[str, Sequence[str]],
    option_of: Callable[[str], FileOption] = option_of_arm,
) -> dict[str, tuple[Path, ...]]:
    """Find the files of each arm: those of its paths in the order given, then those that its patterns match.

    `paths`, `patterns`: arm → values of its options, which `option_of` returns. Raises InputError as `find_files` does,
    and for a file that belongs to several arms because a pattern is too wide. (As a path, one file may be given for
    several arms: this compares it with itself.)
    """
    files_by_arm = {
        arm: find_files(paths.get(arm, ()), patterns.get(arm, ()), option_of(arm))
        for arm in dict.fromkeys([*paths, *patterns])
    }
    first_use: dict[tuple[int, int], tuple[str, Path]] = {}  # identity of a file → its first arm, and its path there
    for arm, files in files_by_arm.items():
        for path in files:
            first_arm, first_path = first_use.setdefault(_identify(path), (arm, path))
            if first_arm == arm:
                continue
            for of_arm, path_of_arm in ((first_arm, first_path), (arm, path)):
                if path_of_arm not in map(Path, paths.get(of_arm, ())):  # then it is from a pattern
                    other_arm = arm if of_arm == first_arm else first_arm
                    raise InputError(
                        f"{path_of_arm} is matched by a pattern of arm '{of_arm}', and is also a file of arm "
                        f"'{other_arm}'",
                        hint=f"give {option_of(of_arm).name}-glob a pattern that matches only files of '{of_arm}'",
                    )
    return files_by_arm


def find_files(paths: Sequence[str], patterns: Sequence[str], option: FileOption) -> tuple[Path, ...]:
    """Find the files that one option gives: `paths` in the order given, then the files that `patterns` match.

    The files of a pattern are in the order of their names, with numbers in the order of their size (run-2, run-10);
    folders and hidden files are not among them. `**` matches folders of any depth.

    Raises InputError for a path without a file, a pattern without a match, a file that is given twice (also by two
    spellings or links), that is empty, or that cannot be read.
    """
    files = [_check_path(path, option) for path in paths]
    files += [path for pattern in patterns for path in _match(pattern, option)]
    first_path_by_identity: dict[tuple[int, int], Path] = {}
    for path in files:
        _check_content(path, option)
        first_path = first_path_by_identity.setdefault(_identify(path), path)
        if first_path is not path:
            what = f"{path} is" if str(path) == str(first_path) else f"{first_path} and {path} are one file, which is"
            of_arm = f" for arm '{_name_arm(option)}'" if option not in (OUTCOMES, ACCESS_LOG) else ""
            raise InputError(
                f"{what} given twice{of_arm}", hint="its rows would count twice: give each file once, also by patterns"
            )
    return tuple(files)


def _name_arm(option: FileOption) -> str:
    """Name of the arm whose files an option gives."""
    return option.prefix.removesuffix("=") or option.name.removeprefix("--")


def _identify(path: Path) -> tuple[int, int]:
    """Return what identifies a file under all of its names: the numbers of its device and of its inode."""
    status = path.stat()
    return status.st_dev, status.st_ino


# ------------------------------------------------------------------ paths


def _check_path(text: str, option: FileOption) -> Path:
    """Return the path that `text` is, without any interpretation. Raises InputError if nothing is there."""
    if not text:
        raise InputError(f"{option.name} has an empty value", hint="name a file; is a variable of the shell not set?")
    if os.path.lexists(text):
        return Path(text)
    raise InputError(f"there is no file {text}", hint=_explain_missing(text, option))


def _explain_missing(text: str, option: FileOption) -> str:
    """Say what the user may have meant by a path to which there is no file: a list, a pattern, or an option."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > 1:
        options = " ".join(
            option.write_glob(part) if _looks_like_pattern(part) else option.write(part) for part in parts
        )
        return f"commas do not separate files; repeat the option: {options}"
    if _looks_like_pattern(text):
        return f"if it is a pattern, give it with {option.write_glob(text)}"
    if option == OUTCOMES and os.path.lexists(text.partition("=")[2]):
        return f"if it is a file of one arm, give it with {OUTCOMES_OF_ARM} {shlex.quote(text)}"
    if text.startswith("~"):
        return "the shell expands ~ only at the start of a word without quotes: write the whole path"
    if text.startswith("-"):
        return f"{option.name} takes the next word as its file: is the file missing?"
    return "check the path"


def _looks_like_pattern(text: str) -> bool:
    """Whether a path without a file has a character that means something in patterns."""
    return glob.has_magic(text)


def _check_content(path: Path, option: FileOption) -> None:
    """Raise InputError for a path that cannot be read as a file with content."""
    _check_name(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            example = "*.log" if option == ACCESS_LOG else "*.csv"
            raise InputError(
                f"{path} is a directory", hint=f"give its files, for example {option.write_glob(f'{path}/{example}')}"
            )
        # A pipe can be read only once, and an import reads a file several times.
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a regular file", hint="write its content to a file, and give that")
        with path.open("rb") as file:
            first_byte = file.read(1)
    except FileNotFoundError as error:  # it was there before, so it is a link
        raise InputError(
            f"{path} is a link to {path.readlink()}, and there is no such file", hint="give the file itself"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    if not first_byte:
        raise InputError(
            f"{path} is empty",
            hint="the tool that wrote it has probably recorded nothing; leave it out if there was nothing to record",
        )


def _check_name(path: Path) -> None:
    """Raise InputError for a name with which a file could not be read, or not be named in reports."""
    try:
        os.path.abspath(path).encode()  # noqa: PTH100 - the folders above count, but links need not be followed
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise InputError(f"the path {shown} is not UTF-8", hint="rename it, or give a link to it") from error
    # The engine can read a file with one of these characters in its name, but not with both.
    if "\\" in str(path) and glob.has_magic(str(path)):
        raise InputError(f"the name of {path} has a backslash and one of * ? [", hint="rename it, or give a link to it")


# ------------------------------------------------------------------ patterns


def _match(pattern: str, option: FileOption) -> list[Path]:
    """Find the files that a pattern matches, in a stable order. Raises InputError if there is none."""
    if not pattern:
        raise InputError(
            f"{option.name}-glob has an empty value", hint="name a pattern; is a variable of the shell not set?"
        )
    paths = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - a pattern, not a folder
    files = sorted({path for path in paths if not path.is_dir()}, key=_sort_key)
    if files:
        return files
    if paths:
        message = f"no file matches '{pattern}', only folders do"
        hint = f"match their files: {option.write_glob(pattern.rstrip('/') + '/*')}"
    elif os.path.lexists(pattern):
        message = f"no file matches '{pattern}', but there is a file of that name"
        hint = f"give it with {option.write(pattern)}"
    else:
        message = f"no file matches '{pattern}'"
        hint = "check the pattern, and quote it, so that the shell does not expand it"
        if "," in pattern:
            hint = f"repeat {option.name}-glob for each pattern: commas do not separate them"
    raise InputError(message, hint=hint)


def _sort_key(path: Path) -> tuple[list[str | int], str]:
    """Key by which numbers in names are sorted by their size: run-2 before run-10; of run-1 and run-01, by the text."""
    texts_and_numbers = re.split(r"([0-9]+)", str(path))  # in turn, so a text is never compared with a number
    parts = [int(part) if position % 2 else part for position, part in enumerate(texts_and_numbers)]
    return parts, str(path)


def refuse_left_over(words: Sequence[str], option: FileOption) -> None:
    """Refuse words of a command line that no option takes: mostly the shell has expanded a pattern.

    `option`: an option for files of the command. Raises UsageError.
    """
    if words:
        others = f" and {len(words) - 1} more" if len(words) > 1 else ""
        raise UsageError(
            f"'{words[0]}'{others} belongs to no option: each option takes one file",
            hint=f"repeat the option for each file, or quote a pattern: {option.write_glob('run-*.csv')}",
        )
