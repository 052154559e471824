"""What a page gives to a notebook makes the same again."""

import html
import re
from typing import Any

import pytest


def snippets(test) -> dict[str, str]:
    """One of each kind, by what it calls last."""
    codes = [element.value for element in test.code if element.value.startswith(("from ", "import "))]
    return {re.findall(r"\b(\w+)\(", code)[-1] + code.splitlines()[-1][:20]: code for code in codes}


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
def test_snippets_run(page, store_path, capsys, name, query):
    by_name = snippets(page(name, store_path, **query))
    assert by_name
    for code in by_name.values():
        exec(compile(code, "snippet", "exec"), {})
    assert capsys.readouterr().out or name == "release"


def test_a_figure_is_made_again_as_it_is_shown(page, store_path):
    shown = page("release", store_path, release="cart@1.8.0", metric="latency_p95", arm="canary_b")
    page_html = "".join(element.proto.body for element in shown.get("html")).replace("\N{NO-BREAK SPACE}", " ")
    titles = re.findall(r'ev-figure">([^<]*)<', page_html)
    drawn = [element.value.replace("release.judgement", "chart = release.judgement") for element in shown.code]
    drawn = [code for code in drawn if ".plot." in code]
    assert len(drawn) == len(titles) > 5
    for code, title in zip(drawn, titles, strict=True):
        namespace: dict[str, Any] = {}
        exec(compile(code, "snippet", "exec"), namespace)
        assert title in written(namespace["chart"].to_dict())


def written(spec: dict) -> set[str]:
    """The findings above a chart's parts."""
    return {html.unescape(" ".join(part["title"]["text"])) for part in spec.get("vconcat", [spec]) if "title" in part}
