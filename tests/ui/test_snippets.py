"""What a page gives to a notebook makes the same again."""

import re

import pytest


def snippets(test) -> dict[str, str]:
    """One of each kind, by what it calls last."""
    found = [one.value for one in test.code if one.value.startswith(("from ", "import "))]
    return {re.findall(r"\b(\w+)\(", code)[-1] + code.splitlines()[-1][:20]: code for code in found}


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("releases", {}),
        ("release", {"release": "cart@1.6.0", "endpoint": "GET /endpoint/001"}),
        ("compare", {"a": "cart@1.5.0", "b": "cart@1.6.0"}),
        ("plan", {"release": "cart@1.9.0"}),
        ("audit", {}),
    ],
)
def test_snippets_run(page, made, capsys, name, query):
    found = snippets(page(name, made, **query))
    assert found
    for code in found.values():
        exec(compile(code, "snippet", "exec"), {})
    assert capsys.readouterr().out or name == "release"
