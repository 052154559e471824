"""YAML with line numbers: the values of a file, and the line of each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evaluator.errors import PolicyError

KeyPath = tuple[str | int, ...]
"""The path to a value: keys and positions in lists."""

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file; `lines` has the line of every key and list item, counted from 1."""

    name: str
    values: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    def line_of(self, key_path: KeyPath) -> int:
        """Find the line of a value. For a value that the file does not write: of the section around it, else 1."""
        while key_path and key_path not in self.lines:
            key_path = key_path[:-1]
        return self.lines.get(key_path, 1)


def read_document(path: Path) -> Document:
    """Read a YAML file whose top level is a mapping. Raises PolicyError with file:line."""
    text = _read_text(path)
    try:
        return _parse(str(path), text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise PolicyError(f"{path}:{mark.line + 1 if mark else 1}: {error.problem or 'not YAML'}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code_point = ord(text[error.position])
        raise PolicyError(f"{path}:{line}: the character U+{code_point:04X} is not allowed") from None
    except RecursionError:
        raise PolicyError(f"{path}:1: the values are nested too deeply") from None
    except ValueError as error:
        raise PolicyError(f"{path}:1: a value cannot be read: {error}", hint="put text in quotes") from None


def _read_text(path: Path) -> str:
    """Read a UTF-8 file. Raises PolicyError if it cannot be read, is too large, or is not UTF-8."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)  # one byte more shows that it is too large
    except OSError as error:
        raise PolicyError(
            f"{path}: the policy cannot be read: {(error.strerror or str(error)).lower()}",
            hint="`evaluator init` writes a policy to start from",
        ) from None
    if len(raw) > MAX_BYTES:
        raise PolicyError(f"{path}:1: larger than {MAX_BYTES:,} bytes, so not a policy")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"{path}:{line}: not UTF-8 text", hint="save the file as UTF-8") from None


def _parse(name: str, text: str) -> Document:
    """Parse YAML into values and their lines. `name`: of the file, for messages. Raises PolicyError, yaml errors."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(name, {}, {})
        if not isinstance(node, yaml.MappingNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
            raise PolicyError(f"{name}:{_line(node)}: a policy is a mapping of keys to values, not {kind}")
        lines: dict[KeyPath, int] = {}
        _add_lines(name, node, (), lines)
        return Document(name, loader.construct_document(node), lines)
    finally:
        loader.dispose()


def _add_lines(name: str, node: yaml.Node, key_path: KeyPath, lines: dict[KeyPath, int]) -> None:
    """Add to `lines` the line of every key and list item below `node`, which is at `key_path`.

    Raises PolicyError for keys that are not text or are repeated, and for too many values.
    """
    # An alias is visited at each use, so a small file could have an enormous number of values.
    if len(lines) > MAX_VALUES:
        raise PolicyError(f"{name}:{_line(node)}: more than {MAX_VALUES:,} values, so not a policy")
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            lines[*key_path, position] = _line(item)
            _add_lines(name, item, (*key_path, position), lines)
    if not isinstance(node, yaml.MappingNode):
        return
    first_lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line, key = _line(key_node), key_node.value
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *alias` is no key of its own
            continue
        if key_node.tag != "tag:yaml.org,2002:str":
            raise PolicyError(f"{name}:{line}: a key must be text, not {key!r}", hint="put it in quotes")
        if key in first_lines:
            raise PolicyError(f"{name}:{line}: the key '{key}' is given twice, first on line {first_lines[key]}")
        first_lines[key] = line
        lines[*key_path, key] = line
        _add_lines(name, value_node, (*key_path, key), lines)


def _line(node: yaml.Node) -> int:
    """Line where a node begins, counted from 1."""
    return int(node.start_mark.line) + 1
