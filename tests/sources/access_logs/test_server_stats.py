"""HAProxy's statistics: counts of failed attempts, also over a restart of HAProxy."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from evaluator.errors import SourceError, UsageError
from evaluator.sources.access_logs.server_stats import ServerStats, check_stats_address, parse_stats


def write_stats(**failed):
    rows = [f"shop,{server},0,{retries},{redispatches},2," for server, (retries, redispatches) in failed.items()]
    return "\n".join(
        ["# pxname,svname,qcur,wretr,wredis,type,", "shop,BACKEND,0,99,99,1,", "front,FRONTEND,,,,0,", *rows, "", ""]
    )


@contextlib.contextmanager
def answering(path, answers):
    """A socket that gives these answers, one a connection."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve():
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(answer.encode())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(5)


def test_only_servers_count_with_retries_and_redispatches():
    assert parse_stats(write_stats(b1=(0, 0), c1=(3, 2))) == {("shop", "b1"): 0, ("shop", "c1"): 5}


def test_counts_are_since_the_first_reading_and_go_on_after_a_restart(tmp_path):
    stats = ServerStats(str(tmp_path / "stats"))
    answers = [
        write_stats(c1=(7, 1)),
        write_stats(c1=(8, 3)),
        write_stats(c1=(2, 0)),
        write_stats(c1=(2, 1), c2=(1, 0)),
    ]
    failed = []
    with answering(tmp_path / "stats", answers):
        for _ in answers:
            stats.read()
            failed.append(dict(stats.failed))
    assert failed == [{}, {"c1": 3}, {"c1": 5}, {"c1": 6, "c2": 1}]


@pytest.mark.parametrize("answer", ["", "Unknown command.\n", "# pxname,svname,\nshop,c1,\n"])
def test_another_answer_is_named(answer):
    with pytest.raises(SourceError, match="no answer of HAProxy's statistics"):
        parse_stats(answer)


def test_a_socket_that_does_not_answer_is_named(tmp_path):
    with pytest.raises(SourceError, match="cannot be read: No such file") as caught:
        ServerStats(str(tmp_path / "none")).read()
    assert "stats socket" in caught.value.hint


@pytest.mark.parametrize("text", ["admin.sock", "localhost", "localhost:http", ":9", "host:99999"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError, match="no socket"):
        check_stats_address(text)


@pytest.mark.parametrize("text", ["/run/haproxy/admin.sock", "./admin.sock", "127.0.0.1:9999", "[::1]:9999"])
def test_paths_and_addresses_are_accepted(text):
    assert check_stats_address(text) == text
