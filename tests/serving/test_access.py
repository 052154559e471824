"""Which connections may act."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from evaluator.permissions import make_private
from evaluator.serving import access as rules
from evaluator.serving.access import (
    ACCESS_HEADER,
    UNLISTED,
    Access,
    Refusal,
    explain_hidden_store,
    find_page_refusal,
    find_peer_account,
    is_foreign,
)

HOST = "127.0.0.1:8501"
DIRECT = {"host": HOST}
NO_STORE = Path("/nonexistent/evaluator.duckdb")
PAGE = {"host": HOST, "origin": f"http://{HOST}"}


@pytest.fixture
def access() -> Access:
    return Access(8501, NO_STORE)


@pytest.fixture
def cookies(access) -> dict[str, str]:
    """What the browser of account 1000 has, after it has opened the printed address."""
    return {access.cookie_name: access.exchange(access.token, DIRECT, 1000)}


def test_a_page_of_the_app_in_the_browser_with_the_session_may_act(access, cookies):
    assert access.find_refusal(PAGE, cookies, 1000) is None
    for host in ("localhost:8501", "[::1]:8501", "LOCALHOST:9000", "127.0.0.1"):  # also through a tunnel of ssh
        assert access.find_refusal({"host": host, "origin": f"http://{host}"}, cookies, 1000) is None


def test_the_token_is_exchanged_as_often_as_it_is_given(access):
    sessions = {access.exchange(access.token, DIRECT, 1000) for _ in range(2)}
    assert len(sessions) == 1
    assert access.token not in sessions


def test_the_token_works_for_the_first_account_that_uses_it(access):
    assert access.exchange("x", DIRECT, 1001) is None  # a wrong one makes nobody the first
    session = access.exchange(access.token, DIRECT, 1000)
    for account in (1001, 0, None):
        assert access.exchange(access.token, DIRECT, account) is None
    assert access.exchange(access.token, DIRECT, 1000) == session


def test_where_accounts_are_not_known_the_token_is_enough(access):
    session = access.exchange(access.token, DIRECT, None)
    assert access.exchange(access.token, DIRECT, None) == session
    assert access.find_refusal(PAGE, {access.cookie_name: session}, None) is None


@pytest.mark.parametrize("token", ["", "x", "é", "\udcff".encode(errors="replace").decode()])
def test_a_wrong_token_gives_no_session(access, token):
    assert access.exchange(token, DIRECT, 1000) is None
    assert access.exchange(access.token[:-1], DIRECT, 1000) is None


def test_a_token_and_a_session_end_with_their_server(access, cookies):
    again = Access(8501, NO_STORE)
    assert again.exchange(access.token, DIRECT, 1000) is None
    assert again.find_refusal(PAGE, cookies, 1000) is Refusal.NO_SESSION


def test_another_account_cannot_use_the_session(access, cookies):
    for account in (1001, 0, None):
        assert access.find_refusal(PAGE, cookies, account) is Refusal.NO_SESSION


@pytest.mark.parametrize("session", ["", "é", "0" * 64])
def test_without_the_session_a_page_may_only_read(access, session):
    assert access.find_refusal(PAGE, {}, 1000) is Refusal.NO_SESSION
    assert access.find_refusal(PAGE, {access.cookie_name: session}, 1000) is Refusal.NO_SESSION
    assert access.find_refusal(PAGE, {access.cookie_name: access.token}, 1000) is Refusal.NO_SESSION


@pytest.mark.parametrize(
    "origin",
    [None, "", "null", "http://localhost:9999", "http://127.0.0.1:9999", "http://127.0.0.1", "http://evil", "file://"],
)
def test_a_page_of_another_server_may_only_read(access, cookies, origin):
    headers = DIRECT if origin is None else {**DIRECT, "origin": origin}
    assert access.find_refusal(headers, cookies, 1000) is Refusal.OTHER_PAGE


@pytest.mark.parametrize(
    "added",
    [
        {"x-forwarded-for": "192.0.2.1"},
        {"x-forwarded-host": ""},
        {"forwarded": "for=192.0.2.1"},
        {"via": "1.1 proxy"},
        {"x-real-ip": "127.0.0.1"},
    ],
)
def test_a_proxy_may_only_read_and_gets_no_session(access, cookies, added):
    assert access.find_refusal({**PAGE, **added}, cookies, 1000) is Refusal.NOT_DIRECT
    assert access.exchange(access.token, {**DIRECT, **added}, 1000) is None


@pytest.mark.parametrize("host", [None, "", "evil.example:8501", "10.0.0.1", "localhost.evil.example", "x@[", "::1"])
def test_another_name_of_this_machine_may_only_read(access, cookies, host):
    headers = {} if host is None else {"host": host, "origin": f"http://{host}"}
    assert access.find_refusal(headers, cookies, 1000) is Refusal.NOT_DIRECT
    assert access.exchange(access.token, headers, 1000) is None


def test_a_page_knows_from_its_connection_whether_it_may_act(access, monkeypatch):
    monkeypatch.setattr(rules, "_accesses", [])
    assert find_page_refusal({ACCESS_HEADER: access.pass_value}) is Refusal.NOT_STARTED
    rules.use_access(access)
    assert find_page_refusal({ACCESS_HEADER: access.pass_value}) is None
    assert find_page_refusal({}) is Refusal.NO_SESSION
    assert find_page_refusal({ACCESS_HEADER: "é"}) is Refusal.NO_SESSION
    assert find_page_refusal({ACCESS_HEADER: Refusal.NOT_DIRECT}) is Refusal.NOT_DIRECT
    rules.use_access(None)
    assert find_page_refusal({ACCESS_HEADER: access.pass_value}) is Refusal.NOT_STARTED


@pytest.mark.parametrize("private", ["shop.duckdb", "shop.data"])
def test_files_of_a_private_store_need_the_session(tmp_path, private):
    store = tmp_path / "shop.duckdb"
    store.touch(0o644)
    (tmp_path / "shop.data").mkdir(0o755)
    access = Access(8501, store)
    cookies = {access.cookie_name: access.exchange(access.token, DIRECT, 1000)}
    assert access.find_file_refusal(DIRECT, {}, 1001) is None
    make_private(tmp_path / private)
    assert access.find_file_refusal(DIRECT, cookies, 1000) is None
    assert access.find_file_refusal(DIRECT, {}, 1000) is Refusal.NO_SESSION
    assert access.find_file_refusal(DIRECT, cookies, 1001) is Refusal.NO_SESSION
    assert access.find_file_refusal(DIRECT, cookies, UNLISTED) is Refusal.NOT_LISTED
    assert access.find_file_refusal({**DIRECT, "via": "1.1 proxy"}, cookies, 1000) is Refusal.NOT_DIRECT


@pytest.mark.parametrize("refusal", Refusal)
def test_each_reason_to_hide_a_store_says_what_to_do(refusal):
    problem, advice = explain_hidden_store(refusal)
    assert "private" in problem
    assert advice.startswith("To read it, ")


@pytest.mark.parametrize(
    ("origin", "foreign"),
    [
        (None, False),
        (f"http://{HOST}", False),
        ("http://localhost:9999", False),
        ("http://evil.example", True),
        ("http://[", True),
        ("null", True),
    ],
)
def test_pages_of_other_machines_are_foreign(origin, foreign):
    assert is_foreign(DIRECT if origin is None else {**DIRECT, "origin": origin}) is foreign
    assert not is_foreign({"host": "proxy.example", "origin": "https://proxy.example"})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whose connection it is")
@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_account_of_a_connection_is_found(family, address):
    with socket.create_server((address, 0), family=family) as listener:
        server = listener.getsockname()[:2]
        with socket.create_connection(server) as connection:
            assert find_peer_account(connection.getsockname()[:2], server) == os.getuid()
        assert find_peer_account((address, 1), server) == UNLISTED


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whose connection it is")
def test_a_connection_that_its_program_has_closed_is_nobodys():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = listener.getsockname()
        connection = socket.create_connection(server)
        client = connection.getsockname()
        connection.close()  # Linux lists it under account 0 from now on
        assert find_peer_account(client, server) == UNLISTED


def test_a_connection_that_is_not_listed_may_only_read(access, cookies):
    assert access.exchange(access.token, DIRECT, UNLISTED) is None
    forged = {access.cookie_name: access._make_session(UNLISTED)}
    for sent in (cookies, forged):
        assert access.find_refusal(PAGE, sent, UNLISTED) is Refusal.NOT_LISTED


@pytest.mark.parametrize("client", [None, ("", 1), ("nobody", 1), ("127.0.0.1", 1)])
def test_an_account_that_is_not_known_is_none(client, monkeypatch, tmp_path):
    monkeypatch.setattr(rules, "_CONNECTIONS", tmp_path)  # as on other systems
    assert find_peer_account(client, ("127.0.0.1", 8501)) is None
    assert find_peer_account(("127.0.0.1", 8501), None) is None
