"""A server that shows a certificate of its own authority and requires ours."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from evaluator.errors import SourceError
from evaluator.sources.prometheus import PrometheusSource, connect
from evaluator.sources.prometheus.options import Tls

ARMS = {"baseline": 'version="1"', "canary": 'version="2"'}


class Clock(BaseHTTPRequestHandler):
    """Answers with the time, as the query API does."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        now = time.time()
        body = json.dumps({"status": "success", "data": {"resultType": "scalar", "result": [now, str(now)]}}).encode()
        self.send_response_only(200)
        self.send_header("Date", formatdate(now, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def sign(folder: Path, name: str, extension: str) -> None:
    """A key and a certificate of the authority in `folder`."""
    request_options = ("-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    openssl(folder, "req", *request_options, "-subj", "/CN=x")
    (folder / f"{name}.ext").write_text(extension)
    by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *by)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    ca_options = ("-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2")
    openssl(directory, "req", *ca_options, "-subj", "/CN=ca")
    sign(directory, "server", "subjectAltName=IP:127.0.0.1")
    sign(directory, "client", "extendedKeyUsage=clientAuth")
    return directory


@pytest.fixture(scope="module")
def url(folder) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server = ThreadingHTTPServer(("127.0.0.1", 0), Clock)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # refused handshakes are what is tested
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(5)


def options(url: str, folder: Path, *, ca: bool = True, cert: bool = True, **keys: object) -> PrometheusSource:
    own = {"cert": str(folder / "client.pem"), "key": str(folder / "client.key")} if cert else {}
    tls = Tls(ca=str(folder / "ca.pem") if ca else None, **own)
    return PrometheusSource(url=url, selectors=ARMS, tls=tls, timeout=5, **keys)


def test_both_sides_show_a_certificate(url, folder):
    with connect(options(url, folder)) as source:
        assert source.clock_offset_s == 0
        assert source.describe()["url"] == url


def test_a_certificate_without_a_known_authority_is_not_trusted(url, folder):
    with pytest.raises(SourceError, match="its certificate is not trusted"):
        connect(options(url, folder, ca=False))


def test_without_our_own_certificate_we_are_not_let_in(url, folder):
    with pytest.raises(SourceError, match="cannot be reached") as raised:
        connect(options(url, folder, cert=False))
    assert "not trusted" not in raised.value.message


def test_a_file_that_is_not_there_is_named(url, folder):
    with pytest.raises(SourceError, match=r"nowhere\.pem of sources\.prometheus\.tls does not exist"):
        connect(PrometheusSource(url=url, selectors=ARMS, tls=Tls(ca=str(folder / "nowhere.pem"))))
