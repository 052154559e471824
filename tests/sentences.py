"""All sentences of the program that a person may read, one on a line: `python tests/sentences.py [PREFIX …]`.

PREFIX is a path below `evaluator/`, such as `health` or `cli/plan.py`. Docstrings are among them: the help of commands
and the reference are made of them. What is filled in at run time is shown as `{expression}`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "evaluator"
FEWEST_WORDS = 3


def list_sentences(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string of some words, in the order of the file."""
    inner, texts = set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner.update(id(part) for part in ast.walk(node) if part is not node)
            parts = [
                str(part.value) if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
                for part in node.values
            ]
            texts.append((node.lineno, node, "".join(parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append((node.lineno, node, node.value))
    for line, node, text in sorted(texts, key=lambda entry: entry[0]):
        if id(node) not in inner and len(text.split()) >= FEWEST_WORDS:
            yield line, " ".join(text.split())


def read_sentences(*prefixes: str) -> Iterator[tuple[str, int, str]]:
    """Module, line and text of the sentences of all modules, or of those below the prefixes."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not prefixes or name.startswith(prefixes):
            for line, text in list_sentences(ast.parse(path.read_text(encoding="utf-8"))):
                yield name, line, text


if __name__ == "__main__":
    for name, line, text in read_sentences(*sys.argv[1:]):
        sys.stdout.write(f"{name}:{line}: {text}\n")
