"""Files that cannot be read: what the error says they look like, and what it does not show."""

import json
import time

import pytest

from evaluator.errors import InputError
from evaluator.sources.access_logs import find_layout
from evaluator.sources.access_logs.refusals import show_line

COMBINED = (
    '10.0.0.9 - ann [29/Nov/2026:21:00:00 +0000] "GET /cart?token=hush HTTP/1.1" 200 120 "https://a/?k=hush" "curl/8"'
)
COMMON = COMBINED.partition(' "https')[0]
TIMED = f"{COMBINED} 0.012 10.1.0.2:80 200 0.010"
HTTP = (
    '10.0.0.9:3 [29/Nov/2026:21:00:00.123] shop cart/c1 0/0/30/69/109 200 2750 - - ---- 1/1/1/1/0 0/0 "GET / HTTP/1.1"'
)

REFUSED = {
    "combined": (COMBINED, "no response time and no server", "$request_time"),
    "common": (COMMON, "the common log format", "%D"),
    "combined and a number": (f"{COMBINED} 0.012", "the combined format with fields of its own", "--log-format"),
    "TCP": (
        "10.0.0.9:3 [29/Nov/2026:21:00:00.123] db db/d1 0/0/5007 212 -- 0/0/0/0/3 0/0",
        "a TCP log",
        "option httplog",
    ),
    "error log of nginx": (
        "2026/11/29 21:00:00 [error] 7#7: *1 connect() failed",
        "the error log of nginx",
        "access_log",
    ),
    "error log of Apache": (
        "[Sun Nov 29 21:00:00.1 2026] [core:error] [pid 7] AH00126: x",
        "the error log of Apache",
        "CustomLog",
    ),
    "notices": ("Nov 29 21:00:00 lb1 haproxy[7]: Proxy cart started.", "notices of HAProxy", "option httplog"),
    "another program": (
        "Nov 29 21:00:00 lb1 sshd[7]: Accepted publickey",
        "syslog of another program",
        "router's lines",
    ),
    "JSON": ('{"a": {"b": 1}}', "JSON whose keys are not known", "/a/b"),
    "AWS": ("https 2026-11-29T21:00:00.1Z app/lb/1 10.0.0.9:3 10.1.0.2:80 0.1", "a load balancer of AWS", "CSV"),
    "IIS": ("#Fields: date time s-ip", "W3C", "another format"),
    "a program": ("2026-11-29 21:00:00,123 INFO started", "the log of a program", "the router writes"),
    "nothing known": ("a,b,c", "no known format", "--log-format"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_file_looks_like(name):
    line, looks_like, hint = REFUSED[name]
    with pytest.raises(InputError) as caught:
        find_layout([line] * 3, "logs/access.log")
    assert looks_like in str(caught.value)
    assert str(caught.value).startswith("logs/access.log:2: ")
    assert hint in caught.value.hint
    assert "hush" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    ("odd", "looks_like"), [(COMBINED, "no response time"), (TIMED, "a line of nginx"), ('{"a":1}', "JSON")]
)
def test_mixed_formats_are_refused(odd, looks_like):
    with pytest.raises(InputError, match="formats are mixed: most lines are of haproxy") as caught:
        find_layout([HTTP, HTTP, odd, HTTP], "access.log")
    assert str(caught.value).startswith("access.log:3: ")
    assert looks_like in str(caught.value)
    assert "a file of its own" in caught.value.hint


def test_a_line_that_was_cut_does_not_mix_formats():
    for lines in ([HTTP[40:], HTTP, HTTP], [HTTP, HTTP, HTTP[:60]], ["", "# by hand", HTTP]):
        assert find_layout(lines, "access.log").format == "haproxy"
    with pytest.raises(InputError, match=r"access.log:2: formats are mixed.* no known format"):
        find_layout([HTTP, "what is", "this", "here", HTTP], "access.log")


def test_no_lines():
    for lines in ([], ["", " \n"]):
        with pytest.raises(InputError, match="has no lines yet"):
            find_layout(lines, "access.log")


def test_lines_of_another_format_than_the_one_that_was_named():
    with pytest.raises(InputError, match="is not of haproxy: it looks like the combined format with fields of its own"):
        find_layout([TIMED] * 3, "access.log", format="haproxy")
    with pytest.raises(InputError, match="is not of the format that --log-format gives"):
        find_layout([HTTP], "access.log", log_format="$msec $status $request_time $request_uri $upstream_addr")


@pytest.mark.parametrize(
    ("log_format", "missing"),
    [
        ("$msec $status $request_uri $upstream_addr", "its response time"),
        ("$status $request_time $request", "the time of a request and the server that answered"),
        ("%t %>s %D", "its path and the server that answered"),
        ("$connection", "the time of a request, its path, its status, its response time and the server that answered"),
    ],
)
def test_a_log_format_that_lacks_something(log_format, missing):
    with pytest.raises(InputError, match=f"do not say {missing},") as caught:
        find_layout([HTTP], "access.log", log_format=log_format)
    assert "log it from now on" in caught.value.hint


def test_a_log_format_that_the_shell_emptied():
    with pytest.raises(InputError, match="--log-format has no variable") as caught:
        find_layout([HTTP], "access.log", log_format='-  [] ""')
    assert "single quotes" in caught.value.hint
    with pytest.raises(InputError, match="--log-format is not UTF-8"):
        find_layout([HTTP], "access.log", log_format="$status \udcff")
    with pytest.raises(InputError, match="begins like JSON, but is none"):
        find_layout([HTTP], "access.log", log_format='{"a":"$status"')


def test_json_without_a_server():
    line = json.dumps({"ts": 1.0, "request": {"method": "GET", "uri": "/"}, "duration": 0.1, "status": 200})
    with pytest.raises(InputError, match="do not say the server that answered") as caught:
        find_layout([line], "access.log")
    assert "log_append upstream" in caught.value.hint


def test_secrets_and_control_characters_are_not_shown():
    line = json.dumps(
        {"headers": {"Authorization": ["Basic aHVzaA=="], "X-Api-Key": "hush"}, "u": "https://a:hush@b/?c=hush"}
    )
    shown = show_line(line + ' "Bearer hush" \x1b[31m\x00\ud800' + "x" * 500)
    assert "hush" not in shown
    assert "aHVzaA" not in shown
    assert shown.isprintable()
    assert len(shown) <= 201


def test_keys_of_a_file_are_shown_without_control_characters():
    for columns in ({}, {"status": "a", "time": "nope:ms"}):
        with pytest.raises(InputError) as caught:
            find_layout(['{"a": 1, "\\u001b[31m": 2}'], "access.log", columns=columns)
        assert "\\x1b[31m" in caught.value.hint


def test_long_and_deep_lines_take_no_time():
    began = time.process_time()
    spaced = "$http_a $http_b $http_c $http_d $msec $status $request_time $request_uri $upstream_addr"
    for line in ["1 " * 20_000, '"' * 20_000, "[" * 20_000, '{"a":' * 900 + "1" + "}" * 900]:
        for log_format in ("", spaced):
            with pytest.raises(InputError):
                find_layout([line] * 3, "access.log", log_format=log_format)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "line",
    [
        "cut Authorization: Basic hush== Cookie: sid=hush; lang=hush  GET /p?t=hush api_key=hush",
        '{"time": 1, "password": "hush", "headers": {"Cookie": "a=hush"}, "url": "https://u:hush@h/p?q=hush"}',
        "1.1.1.1 \"GET / HTTP/1.1\" 200 \"PHPSESSID=hush\" {'access_token': 'hush hush', X-Api-Key: hush|x}",
    ],
)
def test_values_of_secret_names_are_not_shown(line):
    assert "hush" not in show_line(line)


def test_paths_with_such_words_are_shown():
    line = 'x time=5 user=anna "GET /token/abc/sessions HTTP/1.1" 200'
    assert show_line(line) == line
