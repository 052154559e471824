import contextlib
import socket
import subprocess
import threading
import time

import pytest
from hooks_world import receiving, reply
from metrics_servers import program

from evaluator.errors import HookError
from evaluator.hooks import network
from evaluator.hooks.network import MaybeSent, NetworkOptions, TlsOptions, resolve_allowed, send

LOOPBACK = TlsOptions(allow_hosts=["127.0.0.1"])


def resolver(monkeypatch, *answers):
    """A name server that gives another answer every time it is asked."""
    hosts = []

    def getaddrinfo(host, port, *_, **__):
        hosts.append(host)
        addresses = answers[min(len(hosts), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return hosts


PRIVATE = [
    "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.5.5", "169.254.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "::1", "fe80::1", "fd00:ec2::254", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1",
    "2002:7f00:1::", "168.63.129.16",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_names_that_lead_inside_are_refused(address, monkeypatch):
    resolver(monkeypatch, [address])
    with pytest.raises(HookError, match="not among allow_hosts"):
        resolve_allowed("hooks.example.org", 443, ["hooks.example.org"])


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_lead_inside_are_refused(address):
    with pytest.raises(HookError, match="not among allow_hosts"):
        resolve_allowed(address, 443, ["hooks.example.org"])


def test_one_address_inside_is_one_too_many(monkeypatch):
    resolver(monkeypatch, ["93.184.215.14", "10.0.0.1"])
    with pytest.raises(HookError, match=r"10\.0\.0\.1"):
        resolve_allowed("hooks.example.org", 443, ["hooks.example.org"])


@pytest.mark.parametrize(
    "host", ["other.example.org", "hooks.example.org.evil.net", "2130706433", "0x7f.1", "localhost"]
)
def test_names_that_are_not_listed_are_refused_before_they_are_resolved(host, monkeypatch):
    hosts = resolver(monkeypatch, ["93.184.215.14"])
    with pytest.raises(HookError, match="is not among allow_hosts"):
        resolve_allowed(host, 443, ["hooks.example.org"])
    assert not hosts


def test_what_is_listed_is_reached(monkeypatch):
    resolver(monkeypatch, ["10.0.0.9"])
    assert resolve_allowed("Hooks.Example.org.", 443, ["hooks.example.org", "10.0.0.0/8"]) == ["10.0.0.9"]


def test_a_wide_network_does_not_list_the_metadata_service(monkeypatch):
    resolver(monkeypatch, ["169.254.169.254"])
    with pytest.raises(HookError, match="metadata"):
        resolve_allowed("m", 80, ["m", "0.0.0.0/0"])
    assert resolve_allowed("m", 80, ["m", "169.254.169.254"])


def test_the_address_that_was_checked_is_the_one_connected_to(receiver, monkeypatch):
    hosts = []

    def getaddrinfo(host, port, *_, **__):
        hosts.append(host)
        changing = "127.0.0.1" if hosts.count("hooks.example.org") == 1 else "127.0.0.99"
        address = changing if host == "hooks.example.org" else host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    url = f"http://hooks.example.org:{receiver.port}/in"
    answer = send("POST", url, TlsOptions(allow_hosts=["hooks.example.org", "127.0.0.1"]), b"x")
    assert answer.ok
    assert hosts.count("hooks.example.org") == 1
    assert receiver.requests[0].headers["host"] == f"hooks.example.org:{receiver.port}"
    with pytest.raises(HookError, match=r"127\.0\.0\.99"):
        send("POST", url, TlsOptions(allow_hosts=["hooks.example.org", "127.0.0.1"]), b"x")


def test_redirects_are_answers(receiver):
    receiver.answers = [reply(302, Location="http://169.254.169.254/latest/meta-data")]
    answer = send("POST", receiver.url, LOOPBACK)
    assert (answer.status, answer.ok) == (302, False)
    assert len(receiver.requests) == 1


def drip(handler, _received):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b".")
        time.sleep(0.05)


def drip_headers(handler, _received):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(200):
        handler.wfile.write(b".")
        time.sleep(0.05)


@pytest.mark.parametrize("slow", [drip, drip_headers, lambda *_: time.sleep(3)], ids=["body", "headers", "silence"])
def test_a_slow_answer_is_cut_off(slow, receiver):
    receiver.answers = [slow]
    began = time.monotonic()
    with pytest.raises(MaybeSent, match=r"within 0\.4 s"):
        send("GET", receiver.url, LOOPBACK, timeout_s=0.4)
    assert time.monotonic() - began < 1.5


def test_an_endless_answer_is_cut(receiver):
    def endless(handler, _received):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 65536)

    receiver.answers = [endless]
    answer = send("GET", receiver.url, LOOPBACK)
    assert answer.ok
    assert len(answer.text) == network.LARGEST_BODY


@pytest.mark.parametrize("url", ["ftp://a/", "http://u:p@a/", "http:///x", "http://a/\r\nX: 1", "http://a:99999/"])
def test_addresses_that_cannot_be_meant_are_refused(url):
    with pytest.raises(HookError):
        send("GET", url, TlsOptions(allow_hosts=["a"]))


def test_no_server_there(receiver):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(HookError, match="refused"):
            send("GET", f"http://127.0.0.1:{free.getsockname()[1]}/", LOOPBACK)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Of hooks.example.org, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    command = [
        program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-subj", "/CN=hooks.example.org", "-addext", "subjectAltName=DNS:hooks.example.org",
        "-keyout", "key.pem", "-out", "cert.pem",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return folder


@pytest.mark.parametrize(
    ("name", "trusted", "reached"),
    [("hooks.example.org", True, True), ("other.example.org", True, False), ("hooks.example.org", False, False)],
)
def test_the_name_stays_in_tls(name, trusted, reached, certificate, monkeypatch):
    with receiving(certificate) as receiver:
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1" if host == name else host, *a, **k)
        )
        ca = str(certificate / "cert.pem") if trusted else None
        url, options = f"https://{name}:{receiver.port}/", TlsOptions(allow_hosts=[name, "127.0.0.1"], ca=ca)
        if reached:
            assert send("GET", url, options).ok
            assert receiver.requests[0].headers["host"] == f"{name}:{receiver.port}"
        else:
            with pytest.raises(HookError, match=r"certificate|mismatch"):
                send("GET", url, options)
            assert not receiver.requests


def test_a_handshake_that_never_ends_is_cut_off():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def drip_bytes():
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"\x16\x03\x03\x40\x00")
                while not ended.wait(0.05):
                    connection.sendall(b"\x00")

        thread = threading.Thread(target=drip_bytes, daemon=True)
        thread.start()
        began = time.monotonic()
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(HookError, match="no time was left"):
            send("GET", url, LOOPBACK, timeout_s=0.4)
        assert time.monotonic() - began < 1.5
        ended.set()
        thread.join(5)


@pytest.mark.parametrize("entry", ["*", "*.example.org", "https://a", "a:80", "a/b", "", "10.0.0.0/33/1", "a b"])
def test_what_cannot_be_a_host_is_not_listed(entry):
    with pytest.raises(ValueError, match="names, addresses and networks"):
        NetworkOptions(allow_hosts=[entry])


def test_hosts_as_people_list_them():
    assert NetworkOptions(allow_hosts=["a", "a-b.example.org.", "10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8", "_x.y"])
