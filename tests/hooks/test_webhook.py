"""A webhook is signed as published, goes only where it is allowed to, and to the address that was checked."""

import base64
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from standardwebhooks import Webhook

from evaluator.errors import HookError
from evaluator.hooks.hosts import resolve
from evaluator.hooks.webhook import send, sign

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()


@pytest.fixture(scope="module")
def receiver():
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.path, dict(self.headers), body))
            self.send_response(302 if self.path == "/moved" else 204)
            if self.path == "/moved":
                self.send_header("Location", "/other")
                self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.seen = seen
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def post(receiver, path="/hook", *, host="127.0.0.1", allowed=("127.0.0.1",), **more):
    url = f"http://{host}:{receiver.server_port}{path}"
    return send(url, {"release": "cart@2"}, key="evt_1", secret=SECRET, allowed=allowed, timeout_s=5, **more)


def test_the_published_library_accepts_the_signature(receiver):
    assert post(receiver).status == 204
    _, headers, body = receiver.seen[-1]
    assert Webhook(SECRET).verify(body, {name.lower(): value for name, value in headers.items()}) == {
        "release": "cart@2"
    }


def test_a_redirect_is_a_failure_and_not_followed(receiver):
    with pytest.raises(HookError, match="answered 302"):
        post(receiver, "/moved")
    assert receiver.seen[-1][0] == "/moved"


def test_what_is_checked_is_what_is_connected_to(receiver):
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])
    post(receiver, host="deploy.example", allowed=["deploy.example", "127.0.0.0/8"], resolver=lambda *_: next(answers))
    assert receiver.seen[-1][1]["Host"] == f"deploy.example:{receiver.server_port}"
    assert next(answers) == ["169.254.169.254"]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "169.254.169.254", "10.1.2.3", "192.168.0.1", "::1", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0"],
)
def test_a_listed_name_does_not_lead_inside(address):
    with pytest.raises(HookError, match="is not allowed"):
        resolve("https://hooks.example/", ["hooks.example"], lambda *_: ["93.184.216.34", address])


def test_a_host_that_is_not_listed_is_refused():
    with pytest.raises(HookError, match=r"other\.example .* is not allowed"):
        resolve("https://other.example/", ["hooks.example"], lambda *_: ["93.184.216.34"])
    assert resolve("https://hooks.example/", ["hooks.example"], lambda *_: ["93.184.216.34"])[1] == "93.184.216.34"


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "http://", "http://user:word@hooks.example/", "http://hooks.example:99999/", "http://[::1/"],
)
def test_other_urls_are_refused(url):
    with pytest.raises(HookError, match="must be http"):
        resolve(url, ["hooks.example"], lambda *_: ["93.184.216.34"])


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!", "abc", "whsec_" + base64.b64encode(b"short").decode()])
def test_a_bad_secret_is_refused_without_being_said(secret):
    with pytest.raises(HookError) as caught:
        sign(secret, "evt_1", 0, b"")
    assert "must be whsec_" in caught.value.message
    assert not secret.removeprefix("whsec_") or secret not in caught.value.message
