"""`evaluator import --access-log`: requests of production as a run."""

import contextlib
import gzip
import json
import random
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from router_lines import write_haproxy
from routers import ask, haproxy_router, nginx_router, service

from evaluator.__main__ import run
from evaluator.records import ACCESS_LOG_SOURCE, LeftOutKind
from evaluator.sources.access_logs.nginx import KNOWN_FORMATS
from evaluator.sources.load import free_port
from evaluator.store import Store

ARMS = ["--arm-server", "baseline=b*", "--arm-server", "canary=c*"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def import_logs(*words, arms=ARMS, name="cart@2"):
    return run(["import", name, *words, *arms, "-q"])


def read_run(name="cart@2"):
    return Store.open("evaluator.duckdb").data.runs(name)[-1]


def count_rows(name="cart@2"):
    rows = Store.open("evaluator.duckdb").data.query(
        "SELECT arm, count(*) AS n FROM requests JOIN runs ON runs.id = requests.run WHERE release = ? GROUP BY arm",
        [name],
    )
    return dict(zip(rows["arm"].to_pylist(), rows["n"].to_pylist(), strict=True))


def write_lines(path, seconds=range(10), each=4, **keywords):
    """Write lines of HAProxy, half of each arm."""
    lines = [
        write_haproxy(f"{arm}{number % 2}", second=second, ms=str(20 + number), **keywords)
        for second in seconds
        for number in range(each)
        for arm in "bc"
    ]
    content = b"".join(lines)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_a_log_becomes_a_run_of_production(place, capsys):
    write_lines(place / "a.log")
    code = import_logs("--access-log", "a.log", "--share", "canary=30%", "--step", "first", "--service", "cart")
    assert code == 0
    assert "cart@2: 80 requests from 1 file in 1 run" in capsys.readouterr().out
    landed = read_run()
    assert (landed.source, landed.step, landed.service) == (ACCESS_LOG_SOURCE, "first", "cart")
    assert landed.shares == {"canary": 0.3, "baseline": 0.7}
    assert landed.facts.read == {"baseline": 40, "canary": 40}
    assert landed.facts.router.answers == 80
    assert landed.ended - landed.started == timedelta(seconds=9)


def test_the_attempts_among_the_requests_are_named(place, capsys):
    write_lines(place / "a.log", retries="1")
    assert run(["import", "cart@2", "--access-log", "a.log", *ARMS]) == 0
    printed = capsys.readouterr()
    assert "cart@2: 160 requests" in printed.out
    assert "80 of the requests are attempts that failed before the router tried again" in printed.err
    router = read_run().facts.router
    assert (router.answers, router.failed_answers) == (80, 0)


def test_the_same_log_lands_once_and_another_name_or_packing_changes_nothing(place, capsys):
    write_lines(place / "a.log")
    assert import_logs("--access-log", "a.log") == 0
    (place / "b.log.gz").write_bytes(gzip.compress((place / "a.log").read_bytes()))
    assert import_logs("--access-log", "b.log.gz") == 0
    assert "landed already" in capsys.readouterr().out
    assert count_rows() == {"baseline": 40, "canary": 40}
    assert len(Store.open("evaluator.duckdb").data.runs("cart@2")) == 1


def test_rotated_files_are_one_run_in_any_order(place):
    write_lines(place / "a.log.2.gz", range(10))
    write_lines(place / "a.log.1", range(10, 20))
    write_lines(place / "a.log", range(20, 30))
    assert import_logs("--access-log", "a.log", "--access-log-glob", "a.log.*") == 0
    assert count_rows() == {"baseline": 120, "canary": 120}
    landed = read_run()
    assert landed.ended - landed.started == timedelta(seconds=29)
    assert import_logs("--access-log-glob", "a.log*") == 0
    assert count_rows() == {"baseline": 120, "canary": 120}
    assert import_logs("--access-log", "a.log") == 0, "a part that has landed adds nothing"


def test_files_with_the_same_requests_are_refused(place, capsys):
    write_lines(place / "a.log", range(10))
    (place / "same.log").write_bytes((place / "a.log").read_bytes())
    assert import_logs("--access-log", "a.log", "--access-log", "same.log") == 2
    assert "have the same content" in capsys.readouterr().err
    write_lines(place / "longer.log", range(20))
    assert import_logs("--access-log", "a.log", "--access-log", "longer.log") == 2
    assert "have the same requests" in capsys.readouterr().err
    assert import_logs("--access-log", "a.log", "--access-log", "a.log") == 2
    assert "given twice" in capsys.readouterr().err


def test_two_routers_of_one_time_are_parts_of_one_run(place):
    write_lines(place / "one.log")
    write_lines(place / "two.log", request="GET /other HTTP/1.1")
    assert import_logs("--access-log", "one.log", "--access-log", "two.log") == 0
    assert count_rows() == {"baseline": 80, "canary": 80}


# ------------------------------------------------------------------ bad lines


def test_a_line_of_another_format_is_refused_with_its_place(place, capsys):
    path = write_lines(place / "a.log", range(30), each=10)
    lines = path.read_bytes().splitlines(keepends=True)
    lines.insert(555, b'10.0.0.1 - - [29/Nov/2025:10:00:00 +0000] "GET /?password=hidden HTTP/1.1" 200 5\n')
    path.write_bytes(b"".join(lines))
    assert import_logs("--access-log", "a.log") == 2
    error = capsys.readouterr().err
    assert "a.log:556: the line does not have the format 'haproxy'" in error
    assert "it looks like the common log format" in error
    assert "hidden" not in error
    assert "--skip-bad-rows" in error
    assert not list(place.glob("evaluator.data/*/*/*.parquet"))
    assert import_logs("--access-log", "a.log", "--skip-bad-rows") == 0
    landed = read_run()
    assert landed.facts.read == {"baseline": 300, "canary": 300, "": 1}
    assert landed.facts.left_out == (), "a line of no known arm is counted once, not for each arm"
    assert landed.facts.router.unread == {"that could not be read": 1}


def test_a_line_that_is_cut_at_the_end_is_a_hole(place):
    path = write_lines(place / "a.log")
    path.write_bytes(path.read_bytes() + write_haproxy()[:60])
    assert import_logs("--access-log", "a.log") == 0
    router = read_run().facts.router
    assert (router.holes, router.unread_s) == (("a.log ends in the middle of a line",), 0)
    assert count_rows() == {"baseline": 40, "canary": 40}


def test_a_line_without_an_end_is_refused_if_it_is_too_long(place, capsys, monkeypatch):
    monkeypatch.setattr("evaluator.store.log_chunks.LONGEST_LINE", 1000)
    path = write_lines(place / "a.log", range(30))
    path.write_bytes(path.read_bytes() + b"x" * 5000)
    assert import_logs("--access-log", "a.log") == 2
    assert "a.log:241: the line is longer than" in capsys.readouterr().err


def test_bytes_of_all_kinds_do_no_harm(place):
    path = write_lines(place / "a.log", range(30))
    odd = write_haproxy(request="GET /caf\xe9 HTTP/1.1").decode().encode("latin-1")
    content = b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\n\r\n" + b"\0" * 5000 + odd
    path.write_bytes(content)
    assert import_logs("--access-log", "a.log") == 0
    assert count_rows() == {"baseline": 121, "canary": 120}


def test_damaged_files_are_named(place, capsys):
    packed = gzip.compress(write_lines(place / "a.log", range(30), each=200).read_bytes())
    (place / "b.log.gz").write_bytes(packed[: len(packed) // 2])
    assert import_logs("--access-log", "b.log.gz") == 2
    assert "cut short or damaged" in capsys.readouterr().err


def test_times_far_away_are_refused(place, capsys):
    path = write_lines(place / "a.log")
    path.write_bytes(path.read_bytes() + write_haproxy().replace(b"/2025:", b"/2023:"))
    assert import_logs("--access-log", "a.log") == 2
    assert "1 request a year or more from the other times of the log, around 2025-11-29" in capsys.readouterr().err
    assert import_logs("--access-log", "a.log", "--skip-bad-rows") == 0
    assert count_rows() == {"baseline": 40, "canary": 40}
    assert read_run().started.year == 2025


def test_a_log_that_goes_backwards_is_read(place):
    path = write_lines(place / "a.log")
    lines = path.read_bytes().splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    path.write_bytes(b"".join(lines))
    assert import_logs("--access-log", "a.log") == 0
    assert count_rows() == {"baseline": 40, "canary": 40}


def test_no_secret_of_a_query_or_path_is_stored(place):
    secret = "Zx9Yw8Vu7Ts6Rq5P"
    requests = [
        f"GET /reset/{secret}?token={secret} HTTP/1.1",
        f"GET /a;session={secret} HTTP/1.1",
        f"GET https://user:{secret}@shop/a HTTP/2.0",
        f"GET /a#{secret} HTTP/1.1",
        f"GET /a?{secret} HTTP/1.1",
        f"GET /reset/x.{secret}.y HTTP/1.1",
    ]
    for number, request in enumerate(requests):
        write_lines(place / f"{number}.log", range(number * 10, number * 10 + 10), request=request)
    assert import_logs("--access-log-glob", "?.log") == 0
    for path in place.glob("*.log"):
        path.unlink()
    stored = Store.open("evaluator.duckdb").data.query("SELECT DISTINCT endpoint FROM requests")
    assert set(stored["endpoint"].to_pylist()) == {"GET /reset/{id}", "GET /a"}
    assert subprocess.run(["grep", "-rl", secret, str(place)], check=False).returncode == 1


# ------------------------------------------------------------------ arms


def test_an_hour_without_a_request_of_the_canary_lands_and_is_no_go(place, capsys):
    (place / "a.log").write_bytes(b"".join(write_haproxy("b1", second=second) for second in range(30)))
    assert run(["import", "cart@2", "--access-log", "a.log", *ARMS]) == 0
    assert "no request is of canary, so a verdict cannot be GO" in capsys.readouterr().err
    assert run(["verdict", "cart@2"]) == 3


def test_servers_of_no_arm_are_named(place, capsys):
    write_lines(place / "a.log")
    words = ["import", "cart@2", "--access-log", "a.log", "--arm-server", "baseline=web*"]
    assert run(words) == 2
    assert "the servers of baseline are named, and nothing to compare with" in capsys.readouterr().err
    assert run([*words, "--arm-server", "canary=new*"]) == 2
    error = capsys.readouterr().err
    assert "no request of a.log belongs to an arm: the requests are of b0, b1, c0, c1" in error
    assert (
        run(["import", "cart@2", "--access-log", "a.log", "--arm-server", "baseline=b0", "--arm-server", "canary=c*"])
        == 0
    )
    assert "requests of servers that belong to no arm are not judged: b1 (20)" in capsys.readouterr().err


def test_a_log_without_servers_is_refused(place, capsys):
    (place / "a.log").write_bytes(
        b"".join(write_haproxy("<NOSRV>", second=n, status="503", ended="SC") for n in range(9))
    )
    assert import_logs("--access-log", "a.log") == 2
    assert "no server answered any of 9 lines" in capsys.readouterr().err


def test_a_period_leaves_out_what_is_outside(place, capsys):
    write_lines(place / "a.log", range(30))
    period = ["--from", "2025-11-29T10:00:10Z", "--to", "2025-11-29T10:00:20Z"]
    assert import_logs("--access-log", "a.log", *period) == 0
    assert count_rows() == {"baseline": 40, "canary": 40}
    landed = read_run()
    assert landed.facts.read == {"baseline": 120, "canary": 120}
    assert {(part.arm, part.kind, part.rows) for part in landed.facts.left_out} == {
        ("baseline", LeftOutKind.OUTSIDE_PERIOD, 80), ("canary", LeftOutKind.OUTSIDE_PERIOD, 80)
    }  # fmt: skip
    assert landed.facts.router.answers == 80
    assert import_logs("--access-log", "a.log", "--from", "2025-11-29T11:00:00Z", name="other") == 2
    assert "in the period of --from and --to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--share", "canary=120%"], "not from 0 % to 100 %"),
        (["--share", "canary=30%", "--share", "baseline=30%"], "60 % together, not 100 %"),
        (["--share", "x=30%"], "no arm"),
        (["--share", "canary"], "is not ARM=SHARE"),
        (["--share", "canary=1", "--share", "canary=1"], "names canary twice"),
        (["--step", " x"], "cannot be seen"),
        (["--column", "status=x", "--format", "json"], "a.log"),
        (["--column", "nothing=x"], "column of access logs"),
        (["--arm-server", "x"], "is not ARM=PATTERN"),
        (["--arm-server", "x=c1"], "of arm 'canary' match the same names"),
        (["--format", "iis"], "format of access logs"),
        (["--baseline", "a.log"], "excludes --baseline"),
    ],
)
def test_options_that_make_no_sense_are_refused(place, capsys, words, reason):
    write_lines(place / "a.log")
    assert import_logs("--access-log", "a.log", *words) == 2
    assert reason in capsys.readouterr().err
    assert not (place / "evaluator.duckdb").exists()


def test_the_policy_may_say_how_logs_are_read(place):
    write_lines(place / "a.log", status="429", request="GET /shops/anna/7 HTTP/1.1")
    source = {
        "arms": {"baseline": "b*", "canary": ["c0", "c1"]},
        "failures": ["429"],
        "endpoints": [{"pattern": "^/shops/[^/]+", "replacement": "/shops/{shop}"}],
        "time_zone": "Europe/Berlin",
    }
    (place / "evaluator.yaml").write_text(json.dumps({"sources": {"access_log": source}}))
    assert import_logs("--access-log", "a.log", arms=[]) == 0
    rows = Store.open("evaluator.duckdb").data.query("SELECT DISTINCT endpoint, failed FROM requests").to_pylist()
    assert rows == [{"endpoint": "GET /shops/{shop}/{id}", "failed": True}]
    assert read_run().started.astimezone(UTC) == datetime(2025, 11, 29, 9, 0, 0, 250_000, UTC)


@pytest.mark.parametrize(
    ("source", "mistake"),
    [
        ("{failures: [99]}", "failures"),
        ("{failures: [abc]}", "must be statuses such as 5xx"),
        ("{time_zone: Mars/Olympus}", "must be the name of a time zone"),
        ("{endpoints: [{pattern: '(', replacement: x}]}", "no rule of RE2"),
        ("{endpoints: [{pattern: '(?=x)', replacement: x}]}", "no rule of RE2"),
        ("{endpoints: [{pattern: 'x', replacement: '\\2'}]}", "no rule of RE2"),
        ("{arms: {baseline: []}}", "at least one"),
        ("{colums: {}}", "columns"),
    ],
)
def test_mistakes_of_the_policy_have_their_line(place, capsys, source, mistake):
    (place / "evaluator.yaml").write_text(f"sources:\n  access_log: {source}\n")
    assert run(["policy", "check"]) == 2
    error = capsys.readouterr().err
    assert "evaluator.yaml:2: sources.access_log." in error
    assert mistake in error


def test_endpoints_beyond_the_most_frequent_are_pooled(place, capsys, monkeypatch):
    monkeypatch.setattr("evaluator.store.log_importing.MOST_ENDPOINTS", 3)
    paths = ["a"] * 9 + ["b"] * 7 + ["c"] + ["d"] * 5 + ["e"] * 2
    lines = [write_haproxy("bc"[number % 2], request=f"GET /{path} HTTP/1.1") for number, path in enumerate(paths)]
    (place / "a.log").write_bytes(b"".join(lines))
    assert run(["import", "cart@2", "--access-log", "a.log", *ARMS]) == 0
    assert "3 requests of endpoints beyond the 3 most frequent" in capsys.readouterr().err
    stored = Store.open("evaluator.duckdb").data.query(
        "SELECT endpoint, count(*) AS n FROM requests GROUP BY 1 ORDER BY 2"
    )
    assert stored["endpoint"].to_pylist() == ["other endpoints", "GET /d", "GET /b", "GET /a"]
    assert read_run().facts.router.pooled_example == "GET /e"


def test_chunks_of_a_file_are_read_like_the_whole(place, monkeypatch):
    monkeypatch.setattr("evaluator.store.log_chunks.CHUNK_BYTES", 3000)
    path = write_lines(place / "a.log", range(30))
    lines = path.read_bytes().splitlines(keepends=True)
    assert import_logs("--access-log", "a.log") == 0
    assert count_rows() == {"baseline": 120, "canary": 120}
    path.write_bytes(b"".join([*lines[:201], b"garbage\n", *lines[201:]]))
    assert import_logs("--access-log", "a.log", name="bad") == 2


# ------------------------------------------------------------------ retries do not hide a dead server

NGINX_FORMAT = KNOWN_FORMATS[2]


@pytest.fixture(scope="module")
def dead_canary(tmp_path_factory):
    """Logs of routers whose canary was dead for nine seconds: name → the log, options of the import, statuses."""
    logs = {}
    with contextlib.ExitStack() as stack:
        threads = []
        for name, servers_of_arm in (("nginx", 2), ("haproxy", 1), ("haproxy-of-four", 2)):
            folder = tmp_path_factory.mktemp(name)
            numbers = range(1, servers_of_arm + 1)
            living = {f"b{number}": stack.enter_context(service("1")).port for number in numbers}
            dead = {f"c{number}": free_port() for number in numbers}
            if name == "nginx":
                router = nginx_router(folder, living | dead, log_format=NGINX_FORMAT, server_options="max_fails=0")
                words = [f"baseline=*:{port}" for port in living.values()]
                words += [f"canary=*:{port}" for port in dead.values()]
            else:
                router = haproxy_router(folder, living | dead, backend="retries 3\n  option redispatch 1")
                words = [f"baseline={name}" for name in living] + [f"canary={name}" for name in dead]
            made, statuses = stack.enter_context(router), []
            logs[name] = (made.log, [text for word in words for text in ("--arm-server", word)], statuses)

            def use(router=made, statuses=statuses):
                for number in range(200):
                    statuses.append(ask(router.port, f"/orders/{number}/delay/2").status)
                    time.sleep(0.04)
                router.wait_for_lines(len(statuses))

            threads.append(threading.Thread(target=use))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return logs


def import_of_dead_canary(log, words, statuses):
    """Import a log in which the router hid a dead canary from its users, and return what is known of it."""
    assert statuses == [200] * 200
    assert import_logs("--access-log", str(log), arms=words) == 0
    facts = read_run().facts
    assert facts.router.answers == len(statuses)
    assert facts.read["baseline"] == len(statuses)
    return facts


def test_a_dead_canary_behind_nginx_is_no_go_although_all_users_got_an_answer(dead_canary, capsys):
    facts = import_of_dead_canary(*dead_canary["nginx"])
    assert facts.router.retried == {"canary": facts.read["canary"]}
    assert facts.read["canary"] >= 100
    code = run(["verdict", "cart@2"])
    assert (code, "failures (production) rose 100 pp" in capsys.readouterr().out) == (1, True)


def test_failures_that_haproxy_hides_are_those_of_the_only_other_arm(dead_canary):
    facts = import_of_dead_canary(*dead_canary["haproxy"])
    assert facts.router.retried == {"canary": facts.read["canary"]}
    assert facts.read["canary"] >= 100
    assert run(["verdict", "cart@2"]) != 0


def test_failures_that_haproxy_hides_are_of_an_unknown_arm_where_several_servers_could_have_failed(dead_canary):
    facts = import_of_dead_canary(*dead_canary["haproxy-of-four"])
    assert facts.router.retried_by_unknown >= 100
    assert facts.router.retried == {}
