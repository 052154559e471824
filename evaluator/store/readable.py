"""Files as the engine can read them: where it cannot, plain copies that are deleted again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evaluator.errors import InputError
from evaluator.store.temporary import temporary_folder
from evaluator.textfiles import copy_plain, is_plain


@contextmanager
def made_readable(paths: Sequence[str], rewrite: Callable[[Path, Path], None] | None) -> Iterator[tuple[str, ...]]:
    """Yield for each file the path of what the engine reads: the file itself, or a copy.

    The copy is what `rewrite` writes (from its first argument into its second), if the engine cannot read the format;
    without it, plain UTF-8 of a file that is packed or in another encoding. Copies are deleted when the `with`
    statement ends. Raises InputError if a file cannot be read.
    """
    to_copy = {path for path in paths if rewrite is not None or not is_plain(Path(path))}
    if not to_copy:
        yield tuple(paths)
        return
    with temporary_folder() as folder:
        readable = []
        for number, path in enumerate(paths):
            target = folder / str(number)
            try:
                if path in to_copy:
                    (rewrite or copy_plain)(Path(path), target)
            except OSError as error:
                raise InputError(
                    f"{path} cannot be unpacked or rewritten in {folder}: {error.strerror or error}",
                    hint="make room there, or set TMPDIR to a folder with more room",
                ) from error
            readable.append(str(target) if path in to_copy else path)
        yield tuple(readable)
