"""Sentences for people have no private vocabulary. An alarm: whether a sentence is plain, its reader judges."""

import ast
import re
from pathlib import Path

import pytest
from sentences import list_sentences, read_sentences

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PRIVATE = {
    r"anew": "again",
    r"beside": "next to, in addition to",
    r"cries wolf|cry wolf": "false alarms",
    r"lasting": "persistent",
    r"mend(s|ed|ing)?": "fix",
    r"nobody|somebody|whoever|whosoever": "no user, a user, the requester, another person",
    r"somewhere": "name the place",
    r"thence|whence|hence|hitherto|thereof|wherein|therein": "plain words",
    r"told": "given, reported, known, distinguished",
    r"wander(s|ed|ing)?": "drift",
    r"so long as|so far as": "as long as, while",
    r"(what|that) (is|has to be|was) so\b": "the current value, the condition",
}
"""Pattern of a word → what to write instead."""
OTHERWISE = re.compile(r"`[^`]*`|\"[^\"]*\"|https?://\S+")
"""Code, quoted words and links: they are what they are."""


def find_private(text: str) -> list[str]:
    plain = OTHERWISE.sub(" ", text)
    return [
        f"'{found[0]}' (write: {instead})"
        for pattern, instead in PRIVATE.items()
        for found in re.finditer(rf"\b(?:{pattern})\b", plain, re.IGNORECASE)
    ]


def test_the_program_has_no_private_vocabulary():
    wrong = [f"{name}:{line}: {word}" for name, line, text in read_sentences() for word in find_private(text)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_documentation_has_no_private_vocabulary(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not find_private(text)


def test_sentences_are_found_wherever_they_are():
    tree = ast.parse('"""A short docstring."""\nhint = f"give {name} a file"\nx = ("two words", "three of them")\n')
    assert list(list_sentences(tree)) == [(1, "A short docstring."), (2, "give {name} a file"), (3, "three of them")]
    assert find_private("mend what was told anew") == [
        "'anew' (write: again)", "'mend' (write: fix)", "'told' (write: given, reported, known, distinguished)"
    ]  # fmt: skip
    assert find_private('`told` "anew"') == []
