"""The HTML that a browser loads first."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, JSONResponse, RedirectResponse
from starlette.routing import Route

from evaluator.serving.entry import SCRIPT, EntryMiddleware

BROWSER = {"Accept": "text/html,application/xhtml+xml", "Accept-Encoding": "gzip"}


@pytest.fixture
def ask(tmp_path):
    """Send a request to a server that packs its answers, as Streamlit's does."""
    (tmp_path / "index.html").write_text(f"<html><head><title>a</title></head><body>{'b' * 2000}</body></html>")
    routes = [
        Route("/release", lambda _: FileResponse(tmp_path / "index.html")),
        Route("/gone", lambda _: RedirectResponse("/release")),
        Route("/json", lambda _: JSONResponse({"a": "</head>"})),
    ]
    middleware = [Middleware(EntryMiddleware, folder="/judge/"), Middleware(GZipMiddleware)]
    transport = httpx.ASGITransport(Starlette(routes=routes, middleware=middleware))

    async def send(path: str, method: str, headers: dict[str, str]) -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, headers=headers)

    return lambda path, headers=BROWSER, method="GET": asyncio.run(send(path, method, headers))


def test_a_page_names_its_server_and_has_the_script(ask):
    answer = ask("/release")
    head, body = answer.text.split("</head>")
    assert 'BACKEND_BASE_URL: location.origin + "/judge"' in head
    assert SCRIPT.read_text() in head
    assert body == f"<body>{'b' * 2000}</body></html>"
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_a_page_is_never_answered_by_what_the_browser_has_of_an_older_version(ask):
    answer = ask("/release")
    assert "etag" not in answer.headers
    assert "last-modified" not in answer.headers
    etag = ask("/release", {}).headers["etag"]
    assert ask("/release", {**BROWSER, "If-None-Match": etag}).status_code == 200


def test_other_answers_are_passed_on_as_they_are(ask):
    assert SCRIPT.read_text() not in ask("/release", {}).text  # a program asks for no page
    assert ask("/json").json() == {"a": "</head>"}
    assert ask("/gone").headers["location"] == "/release"
    assert ask("/release", method="HEAD").status_code == 200


def test_the_script_ends_where_it_should():
    assert "</script" not in SCRIPT.read_text().lower()
