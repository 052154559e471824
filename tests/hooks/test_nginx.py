import os
import socket
import subprocess
import time
from contextlib import closing

import pytest
from hooks_world import make_context, paste, serving, split_of
from metrics_servers import program, running

from evaluator.errors import HookError, PolicyError
from evaluator.hooks import make_hook
from evaluator.hooks.by_hand import write_edit
from evaluator.hooks.nginx_config import read_split, read_upstream, set_split, set_weights
from evaluator.sources.load import free_port

CONFIG = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  include {folder}/shop.conf;
  upstream of_baseline {{ server 127.0.0.1:{baseline}; }}
  upstream of_canary {{ server 127.0.0.1:{canary}; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://shop; }}
    location /split {{ proxy_pass http://$shop; }}
  }}
}}
"""

SHOP = """# upstream shop {{ server 127.0.0.1:1 weight=5; }}\r
split_clients "${{arg_user}}" $shop {{
    10%   of_canary;
    *     of_baseline;
}}
split_clients "${{arg_user}}" $other {{ 10% of_canary; * of_baseline; }}
upstream shop {{
    # server 127.0.0.1:{canary} weight=7;
    server 127.0.0.1:{baseline}  max_fails=0 weight=9;   # was weight=8
    server 127.0.0.1:{canary};keepalive 4;
}}
"""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    with serving("baseline") as baseline, serving("canary") as canary:
        ports = {"baseline": baseline.port, "canary": canary.port}
        config = folder / "nginx.conf"
        config.write_text(CONFIG.format(folder=folder, port=port, **ports))
        file = folder / "shop.conf"
        file.write_bytes(SHOP.format(**ports).encode())
        command = [program("nginx"), "-e", str(folder / "error.log"), "-c", str(config)]
        options = {
            "file": str(file),
            "upstream": "shop",
            "servers": {arm: f"127.0.0.1:{its_port}" for arm, its_port in ports.items()},
            "nginx": command,
        }
        with running(command, port, "/"):
            yield port, options, file


@pytest.fixture
def unchanged(proxy):
    """The file as it was in the beginning, before and after a test."""
    _, options, file = proxy
    before = file.read_bytes()
    yield before
    if file.read_bytes() != before:
        file.write_bytes(before)
        assert hook_for(options, shares={"baseline": "90%", "canary": "10%"}).execute(make_context()).state
        file.write_bytes(before)


def hook_for(options, **extra):
    return make_hook("nginx", options | extra)


def split_becomes(port, expected):
    """Old workers answer for a moment after a reload."""
    deadline = time.monotonic() + 5
    while (split := split_of(port)) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    return split == expected


@pytest.mark.usefixtures("unchanged")
def test_traffic_moves_and_comes_back_and_the_rest_of_the_file_stays(proxy):
    port, options, file = proxy
    before = file.read_bytes().decode()
    assert split_becomes(port, {"baseline": 90, "canary": 10})
    hook = hook_for(options)
    baseline, canary = (options["servers"][arm] for arm in ("baseline", "canary"))
    assert hook.read() == {baseline: 9, canary: 1}
    outcome = hook.execute(make_context())
    assert (outcome.state, outcome.earlier) == ("acknowledged", {baseline: 9, canary: 1}), outcome
    assert f"the shares are baseline 0 %, canary 100 %; nginx has reloaded {file}" in outcome.did
    assert file.read_bytes().decode() == before.replace(f"server {baseline} ", f"server {baseline} down ", 1)
    assert split_becomes(port, {"canary": 100})
    assert hook.undo(make_context(), outcome.earlier).state == "acknowledged"
    assert file.read_bytes().decode() == before
    assert split_becomes(port, {"baseline": 90, "canary": 10})


@pytest.mark.usefixtures("unchanged")
def test_shares_are_realised(proxy):
    port, options, _ = proxy
    hook = hook_for(options)
    for share in (0.05, 1 / 3, 0.5):
        realised = hook.set_shares({"baseline": 1 - share, "canary": share})
        assert realised.shares["canary"] == pytest.approx(share, abs=0.001)
        assert hook.read_shares() == realised.shares
        counted = split_of(port, 300)
        assert counted["canary"] / 300 == pytest.approx(share, abs=0.01)


def ask_users(port, n=150):
    """Who answers each of n users, who ask twice."""
    import http.client

    seen = []
    for user in list(range(n)) * 2:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", f"/split?user={user}")
            seen.append(connection.getresponse().read().decode())
    assert seen[:n] == seen[n:], "a user stays at the same arm"
    return {user for user in range(n) if seen[user] == "canary"}


@pytest.mark.usefixtures("unchanged")
def test_users_are_split_and_stay_when_the_share_grows(proxy):
    port, options, file = proxy
    before = file.read_bytes()
    split = {name: value for name, value in options.items() if name != "upstream"} | {
        "split": "$shop", "servers": {"baseline": "of_baseline", "canary": "of_canary"}
    }  # fmt: skip
    hook = hook_for(split)
    assert hook.read_shares() == {"baseline": 0.9, "canary": 0.1}
    few = ask_users(port)
    realised = hook.set_shares({"baseline": 0.7, "canary": 0.3})
    assert realised.shares == pytest.approx({"baseline": 0.7, "canary": 0.3})
    many = ask_users(port)
    assert few < many
    assert len(many) / 150 == pytest.approx(0.3, abs=0.13)  # 3.5 standard errors
    outcome = hook.execute(make_context())
    assert (outcome.state, len(ask_users(port))) == ("acknowledged", 150), outcome
    assert b"    *   of_canary;\n    # 0%     of_baseline;\n" in file.read_bytes()
    assert b"$other { 10% of_canary; * of_baseline; }" in file.read_bytes(), "the other block stays as it is"
    assert hook.undo(make_context(), {"of_baseline": 9000, "of_canary": 1000}).state == "acknowledged"
    assert file.read_bytes() == before
    assert ask_users(port) == few


def test_the_earlier_shares_can_be_written_by_hand(proxy, unchanged):
    port, options, file = proxy
    file.write_bytes(unchanged.replace(b"\r", b""))
    before = file.read_bytes()
    hook = hook_for(options)
    earlier = hook.read()
    assert hook.execute(make_context()).state == "acknowledged"
    assert split_becomes(port, {"canary": 100})
    paste(hook, undoes=True, earlier=earlier)
    assert file.read_bytes() == before
    assert split_becomes(port, {"baseline": 90, "canary": 10})
    paste(hook)
    assert split_becomes(port, {"canary": 100})
    paste(hook, action="rollback")
    assert split_becomes(port, {"baseline": 100})


def edit(file, text, new):
    """Paste the lines that change a file from one text into another, as a terminal takes them."""
    lines = write_edit(str(file), text, new)
    subprocess.run(["bash", "-eu"], input="\n".join(lines), text=True, check=True)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("a;\n\tserver $a/[x]*\tweight=5;\r\nb;\n", "a;\n\tserver $a/[x]*\tweight=7 'é&\\';\r\nb;\n"),
        ("u { s a; }\nv {\n  s a;\n}\nw {\n  s a;\n}\n", "u { s a; }\nv {\n  s a;\n}\nw {\n  s a down;\n}\n"),
        ("x {\n 5% c;\n * b;\n}", "x {\n * c;\n # 0% b;\n}"),
        ("x { 5% c; * b; }\nend;\n", "x { * c; # 0% b;\n }\nend;\n"),
        ("s a\n  down;\n", "s a;\n"),
        ("same\n", "same\n"),
    ],
)
def test_lines_that_edit_a_file_change_only_what_differs(tmp_path, text, new):
    """Tabs, quotes, line ends of Windows, equal lines; lines that become several, and several that become one."""
    file = tmp_path / "it's.conf"
    file.write_bytes(text.encode())
    link = tmp_path / "link"
    link.symlink_to(file)
    assert "\t" not in edit(link, text, new)
    if text.count("\n") > new.count("\n"):
        assert file.read_text().split() == new.split(), "an empty line is left"
    else:
        assert file.read_bytes().decode() == new
    assert link.is_symlink()


def test_lines_by_hand_of_two_hooks_on_one_file_do_not_take_each_other_back(tmp_path):
    """A rollback that fails prints the lines of all its hooks, and then a person pastes them."""
    file = tmp_path / "shop.conf"
    split_block = "split_clients $a $shop {\n  * new;\n  # 0% old;\n}\n"
    file.write_text(f"secret;\n{split_block}upstream shop {{\n  server a down;\n  server b;\n}}\n")
    split = {"file": str(file), "split": "$shop", "servers": {"baseline": "old", "canary": "new"}, "nginx": ["true"]}
    upstream = {"file": str(file), "upstream": "shop", "servers": {"baseline": "a", "canary": "b"}, "nginx": ["true"]}
    lines = [
        *make_hook("nginx", split).write_undo_by_hand(make_context(), {"new": 1000, "old": 9000}),
        *make_hook("nginx", upstream).write_undo_by_hand(make_context(), {"a": 1, "b": 0}),
    ]
    subprocess.run(["bash", "-eu"], input="\n".join(lines), text=True, check=True)
    assert read_split(file.read_text(), "$shop") == {"new": 1000, "old": 9000}
    servers = read_upstream(file.read_text(), "shop").servers
    assert {name: server.is_down for name, server in servers.items()} == {"a": False, "b": True}
    assert "secret" not in "\n".join(lines)


def test_users_do_not_go_to_an_upstream_that_no_server_of_serves(proxy, unchanged):
    _, options, file = proxy
    split = {name: value for name, value in options.items() if name != "upstream"} | {
        "split": "$shop", "servers": {"baseline": "of_baseline", "canary": "of_canary"}
    }  # fmt: skip
    config = file.parent / "nginx.conf"
    text = config.read_text()
    config.write_text(text.replace(f"server {options['servers']['canary']}; }}", "server 127.0.0.1:1; }"))
    outcome = hook_for(split).execute(make_context())
    tested, elsewhere = hook_for(split).test(), hook_for(split, check_servers=False).test()
    assert (hook_for(split).explain_down("baseline"), "127.0.0.1:1" in hook_for(split).explain_down("canary")) == (
        "", True
    )  # fmt: skip
    assert hook_for(split, servers={"baseline": "unknown", "canary": "of_canary"}).explain_down("baseline") is None
    config.write_text(text)
    says = "no server of the upstream of_canary accepts a connection: 127.0.0.1:1 accepts no connection"
    assert (outcome.state, says in outcome.did) == ("failed", True), outcome
    assert (tested, elsewhere.state) == (outcome, "acknowledged")
    assert file.read_bytes() == unchanged


@pytest.mark.parametrize(
    ("method", "keeps"), [("", False), ("least_conn;", False), ("ip_hash;", True), ("hash $request_uri;", True)]
)
def test_some_ways_to_balance_keep_each_client_at_its_server(tmp_path, method, keeps):
    file = tmp_path / "shop.conf"
    file.write_text(f"upstream shop {{ {method} server a:1; server b:1; }}")
    options = {
        "file": str(file),
        "upstream": "shop",
        "servers": {"baseline": "a:1", "canary": "b:1"},
        "nginx": ["true"],
    }
    assert hook_for(options).keeps_clients() is keeps
    file.unlink()
    assert hook_for(options).keeps_clients()


def test_a_server_may_be_a_socket_of_this_machine(tmp_path):
    file, path = tmp_path / "shop.conf", tmp_path / "a.sock"
    file.write_text(f"upstream shop {{ server unix:{path}; server unix:{path}2; }}")
    servers = {"baseline": f"unix:{path}", "canary": f"unix:{path}2"}
    hook = hook_for({"file": str(file), "upstream": "shop", "servers": servers, "nginx": ["cat", str(file)]})
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(path))
        server.listen()
        assert hook.find_obstacle("promote") == (
            f"unix:{path}2 accepts no connection: No such file or directory (start it, or write `check_servers: false` "
            "if nginx runs elsewhere)"
        )
        assert (
            make_hook("nginx", hook.options.model_dump() | {"shares": {"baseline": 1}}).find_obstacle("promote") == ""
        )


def test_what_nginx_refuses_is_taken_back(proxy, unchanged):
    port, options, file = proxy
    config = file.parent / "nginx.conf"
    text = config.read_text()
    config.write_text(text.replace("access_log off;", "no_such_setting 1;"))
    outcome = hook_for(options).execute(make_context())
    config.write_text(text)
    assert (outcome.state, "no_such_setting" in outcome.did) == ("failed", True)
    assert file.read_bytes() == unchanged
    assert set(split_of(port, 20)) == {"baseline", "canary"}


def test_what_cannot_be_reloaded_is_taken_back(proxy, unchanged, tmp_path):
    _, options, file = proxy
    wrapper = tmp_path / "nginx"
    wrapper.write_text(f'#!/bin/sh\ncase "$*" in *reload*) echo no master >&2; exit 1;; esac\ncat {file}\n')
    wrapper.chmod(0o755)
    outcome = hook_for(options, nginx=[str(wrapper)]).execute(make_context())
    assert (outcome.state, "no master" in outcome.did) == ("failed", True)
    assert file.read_bytes() == unchanged


def test_a_reload_that_nginx_cannot_do_is_not_acknowledged(proxy, unchanged):
    """Its master writes the cause to the error log, and keeps the old workers: `nginx -s reload` ends with 0."""
    port, options, file = proxy
    config = file.parent / "nginx.conf"
    text = config.read_text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config.write_text(text.replace("server {", f"server {{ listen 127.0.0.1:{taken.getsockname()[1]};", 1))
        outcome = hook_for(options, timeout="300ms").execute(make_context())
    config.write_text(text)
    assert (outcome.state, "nginx did not start to use" in outcome.did) == ("failed", True), outcome
    assert file.read_bytes() == unchanged
    assert split_becomes(port, {"baseline": 90, "canary": 10})


@pytest.mark.usefixtures("unchanged")
def test_earlier_workers_with_open_connections_are_named(proxy):
    port, options, _ = proxy
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Wait:")  # a request that does not end
        time.sleep(0.1)
        outcome = hook_for(options).execute(make_context())
    assert outcome.state == "acknowledged"
    assert "1 earlier workers serve open connections by the earlier shares until these end" in outcome.did


@pytest.mark.usefixtures("unchanged")
def test_a_reload_of_which_nothing_can_be_seen_is_acknowledged_as_such(proxy):
    _, options, file = proxy
    outcome = hook_for(options, nginx=["sh", "-c", f"cat {file}"]).execute(make_context())
    assert (outcome.state, "its processes cannot be seen" in outcome.did) == ("acknowledged", True), outcome


def test_test_and_dry_run_touch_nothing(proxy):
    _, options, file = proxy
    before = file.stat().st_ino, file.stat().st_mtime_ns
    hook = hook_for(options)
    tested = hook.test()
    assert (tested.state, "127.0.0.1" in tested.did, "nothing was written" in tested.did) == (
        "acknowledged",
        True,
        True,
    )
    assert hook.execute(make_context(dry_run=True)).state == "acknowledged"
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == before


def test_a_program_that_hangs_is_ended(proxy, unchanged):
    _, options, file = proxy
    hook = hook_for(options, nginx=["sh", "-c", "sleep 30"], timeout="200ms")
    assert "did not end within" in hook.execute(make_context()).did
    assert file.read_bytes() == unchanged


def test_a_server_that_accepts_no_connection_gets_nothing_and_going_back_is_not_refused(proxy, unchanged):
    _, options, file = proxy
    canary = options["servers"]["canary"]
    file.write_bytes(unchanged.replace(f"server {canary};".encode(), b"server 127.0.0.1:1;"))
    dead = {"servers": options["servers"] | {"canary": "127.0.0.1:1"}}
    before = file.read_bytes()
    outcome = hook_for(options, **dead).execute(make_context())
    says = "127.0.0.1:1 accepts no connection: Connection refused"
    assert (outcome.state, says in outcome.did) == ("failed", True), outcome
    assert hook_for(options, **dead).test() == outcome, "the same words"
    assert file.read_bytes() == before
    with pytest.raises(HookError, match="accepts no connection"):
        hook_for(options, **dead).set_shares({"baseline": 0.5, "canary": 0.5})
    assert (hook_for(options, **dead).explain_down("baseline"), hook_for(options, **dead).explain_down("canary")) == (
        "", says
    )  # fmt: skip
    assert hook_for(options, **dead, check_servers=False).explain_down("baseline") is None
    assert hook_for(options, **dead, check_servers=False).test().state == "acknowledged"
    assert hook_for(options, **dead, shares={"baseline": 1}).test().state == "acknowledged"
    back = hook_for(options, **dead).undo(make_context(), {options["servers"]["baseline"]: 8, "127.0.0.1:1": 2})
    assert (back.state, says in back.did) == ("failed", True)
    assert b"weight=8" in file.read_bytes()


def test_a_file_that_nginx_does_not_read_is_not_changed(proxy, tmp_path):
    _, options, file = proxy
    elsewhere = tmp_path / "elsewhere.conf"
    elsewhere.write_bytes(file.read_bytes().replace(b"keepalive 4", b"keepalive 5"))
    hook = hook_for(options, file=str(elsewhere))
    before = elsewhere.read_bytes()
    assert "nginx does not read" in hook.test().did
    outcome = hook.execute(make_context())
    assert (outcome.state, "nginx does not read" in outcome.did) == ("failed", True)
    assert elsewhere.read_bytes() == before
    back = hook.execute(make_context(action="rollback"))
    assert (back.state, "nginx does not read" in back.did, b"down" in elsewhere.read_bytes()) == ("failed", True, True)


def test_a_reload_that_was_not_seen_is_followed_by_one_with_the_earlier_file(proxy, unchanged, tmp_path):
    """nginx may still be trying to load what was written when it is given up."""
    _, options, file = proxy
    wrapper, calls = tmp_path / "nginx", tmp_path / "calls"
    command = " ".join(options["nginx"])
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *reload*) cksum {file} >> {calls}; exit 0;; esac\nexec {command} "$@"\n'
    )
    wrapper.chmod(0o755)
    outcome = hook_for(options, nginx=[str(wrapper)], timeout="300ms").execute(make_context())
    assert (outcome.state, "nginx did not start to use" in outcome.did) == ("failed", True), outcome
    assert file.read_bytes() == unchanged
    first, second = calls.read_text().splitlines()
    assert first != second


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.usefixtures("unchanged")
def test_a_file_keeps_its_owner_and_its_permissions(proxy):
    _, options, file = proxy
    os.chown(file, 65534, 65534)
    file.chmod(0o640)
    assert hook_for(options).execute(make_context()).state == "acknowledged"
    assert (file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o777) == (65534, 65534, 0o640)


def test_a_link_stays_a_link(proxy, unchanged, tmp_path):
    _, options, file = proxy
    link = tmp_path / "link.conf"
    link.symlink_to(file)
    assert hook_for(options, file=str(link)).execute(make_context()).state == "acknowledged"
    assert link.is_symlink()
    assert file.read_bytes() != unchanged


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no file"),
        ("", "no block `upstream shop`"),
        ("upstream shap { server a; }", "no block `upstream shop`"),
        ("# upstream shop { server a; }", "no block `upstream shop`"),
        ("http { upstream shop { server a; } } stream { upstream shop { server a; } }", "2 blocks `upstream shop`"),
        ("upstream shop { include servers.conf; }", "has no servers in this file"),
        ("upstream shop { server a; server a; }", "has the server a twice"),
        ("upstream shop { server a weight=x; server b; }", "is no number"),
        ("upstream shop { server a; ", "is no configuration of nginx"),
        ("upstream shop { server a; } }", "is no configuration of nginx"),
        ('upstream shop { server "a; }', "is no configuration of nginx"),
        ("upstream shop { server a; }", "has no b in its block"),
    ],
)
def test_a_file_in_which_the_servers_are_not_clear_is_left_alone(text, says, tmp_path):
    file = tmp_path / "shop.conf"
    if text is not None:
        file.write_text(text)
    options = {"file": str(file), "upstream": "shop", "servers": {"baseline": "a", "canary": "b"}, "nginx": ["true"]}
    for outcome in (hook_for(options).test(), hook_for(options).execute(make_context())):
        assert (outcome.state, says in outcome.did) == ("failed", True), outcome
    assert text is None or file.read_text() == text


UPSTREAM = """upstream shop {
  server unix:/run/a.sock max_fails=3 weight=2  down;server 'b:80' backup weight=3;  # weight=9 down
  server [::1]:80 # down
     weight=4 ; hash $arg_a;
  content_by_lua_block { x = "}" { } }
}
"""


def test_words_in_any_order_and_place_are_read_and_nothing_else_is_changed():
    upstream = read_upstream(UPSTREAM, "shop")
    assert {name: (server.weight, server.is_down) for name, server in upstream.servers.items()} == {
        "unix:/run/a.sock": (2, True), "b:80": (3, False), "[::1]:80": (4, False)
    }  # fmt: skip
    assert upstream.find_effective_weights() == {"unix:/run/a.sock": 0, "b:80": 0, "[::1]:80": 4}
    assert upstream.methods == ("hash",)
    changed = set_weights(UPSTREAM, "shop", {"unix:/run/a.sock": 5, "b:80": 0, "[::1]:80": 1})
    assert changed == (
        UPSTREAM.replace("weight=2  down", "weight=5").replace("'b:80'", "'b:80' down").replace("weight=4", "weight=1")
    )
    assert set_weights(changed, "shop", {"unix:/run/a.sock": 2, "b:80": 3, "[::1]:80": 4}) == UPSTREAM.replace(
        "weight=2  down", "weight=2"
    )


@pytest.mark.parametrize(
    ("before", "shares", "after"),
    [
        ("5% a; * b;", {"a": 1000, "b": 9000}, "10% a; * b;"),
        ("5% a; * b;", {"a": 1, "b": 9999}, "0.01% a; * b;"),
        ("5% a; * b;", {"a": 0, "b": 10000}, "# 0% a;\n * b;"),
        ("# 0% a;\n * b;", {"a": 500, "b": 9500}, "5% a;\n * b;"),
        ("5% a; * b;", {"a": 10000, "b": 0}, "* a; # 0% b;\n"),
        ("* a; # 0% b;\n", {"a": 9500, "b": 500}, "95% a; * b;\n"),
        ('1.5%  a ;\n 20% "c";\n * "";', {"a": 0, "c": 2500, "": 7500}, '# 0%  a;\n 25% "c";\n * "";'),
        ("50% a; 50% b;", {"a": 4000, "b": 6000}, "40% a; * b;"),
    ],
)
def test_parts_of_a_split(before, shares, after):
    text, expected = (f'x; split_clients "$a{{" $v {{ {parts} }}' for parts in (before, after))
    changed = set_split(text, "$v", shares)
    assert changed.rstrip(" }") == expected.rstrip(" }")
    assert read_split(changed, "$v") == shares


@pytest.mark.parametrize(
    "wrong",
    [
        {"servers": {"baseline": "10.0.0.1; }", "canary": "a"}},
        {"servers": {"baseline": "a"}},
        {"upstream": "a b"},
        {"upstream": None},
        {"split": "$a"},
        {"upstream": None, "split": "a"},
        {"servers": {"base\nline": "a", "canary": "b"}},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong):
    options = {"file": "f", "upstream": "u", "servers": {"baseline": "a", "canary": "b"}}
    with pytest.raises(PolicyError):
        hook_for(options | wrong)
