"""Names say what they hold. These are alarms: a name is judged by who reads the function, not by a count."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
VAGUE = frozenset(
    [
        "asked",
        "found",
        "given",
        "here",
        "kept",
        "known",
        "left",
        "made",
        "mine",
        "more",
        "one",
        "other",
        "place",
        "rest",
        "said",
        "seen",
        "side",
        "taken",
        "there",
        "told",
        "wanted",
        "way",
        "whole",
        "whose",
    ]
)
"""Words that say nothing of what is held: of code with good names, less than 2 in 100 bindings are called so."""
MOST_VAGUE = 0.01
SEVERAL_MEANINGS: dict[str, str] = {}
"""Class names that stand for two things, with the reason."""


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / "evaluator").rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def bindings(tree: ast.Module) -> Iterator[str]:
    """Names of variables, parameters, functions and classes, each as often as it is bound."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def test_few_names_are_vague():
    bound, vague = 0, Counter()
    for path, tree in trees():
        for name in bindings(tree):
            bound += 1
            vague.update([f"{path.parts[1]}: {name}"] if name.strip("_").lower() in VAGUE else [])
    assert vague.total() <= MOST_VAGUE * bound, vague.most_common(20)


def test_a_class_name_has_one_meaning():
    places = defaultdict(list)
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(f"{path}:{node.lineno}")
    several = {name: where for name, where in places.items() if len(where) > 1}
    assert several.keys() <= SEVERAL_MEANINGS.keys(), several
    assert SEVERAL_MEANINGS.keys() <= several.keys(), "no longer needed"
