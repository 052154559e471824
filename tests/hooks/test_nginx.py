import socket
import time

import pytest
from hooks_world import make_context, paste, serving, split_of
from metrics_servers import free_port, program, running

from evaluator.errors import PolicyError
from evaluator.hooks import make_hook
from evaluator.hooks.nginx import MARK

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
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://shop; }} }}
}}
"""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    with serving("baseline") as baseline, serving("canary") as canary:
        config = folder / "nginx.conf"
        config.write_text(CONFIG.format(folder=folder, port=port))
        command = [program("nginx"), "-e", str(folder / "error.log"), "-c", str(config)]
        options = {
            "file": str(folder / "shop.conf"),
            "upstream": "shop",
            "servers": {"baseline": f"127.0.0.1:{baseline.port}", "canary": f"127.0.0.1:{canary.port}"},
            "nginx": command,
        }
        first = make_hook(
            "nginx",
            options | {"weights": {"baseline": 9, "canary": 1}, "nginx": ["sh", "-c", f"cat {folder}/shop.conf"]},
        )
        assert first.execute(make_context()).state == "acknowledged"
        with running(command, port, "/"):
            yield port, options, folder / "shop.conf"


def hook_for(options, **extra):
    return make_hook("nginx", options | {"weights": {"baseline": 0, "canary": 1}} | extra)


def split_becomes(port, expected):
    """Old workers answer for a moment after a reload."""
    deadline = time.monotonic() + 5
    while (split := split_of(port)) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    return split == expected


def test_traffic_moves_and_comes_back(proxy):
    port, options, file = proxy
    before = file.read_text()
    assert split_becomes(port, {"baseline": 90, "canary": 10})
    hook = hook_for(options)
    outcome = hook.execute(make_context())
    assert (outcome.state, outcome.earlier) == ("acknowledged", before)
    assert split_becomes(port, {"canary": 100})
    assert hook.undo(make_context(), outcome.earlier).state == "acknowledged"
    assert file.read_text() == before
    assert split_becomes(port, {"baseline": 90, "canary": 10})


def test_what_nginx_refuses_is_taken_back(proxy):
    port, options, file = proxy
    before = file.read_text()
    outcome = hook_for(options, settings=["no_such_setting 1"]).execute(make_context())
    assert outcome.state == "failed"
    assert "no_such_setting" in outcome.did
    assert file.read_text() == before
    assert set(split_of(port, 20)) == {"baseline", "canary"}


def test_what_cannot_be_reloaded_is_taken_back(proxy, tmp_path):
    _, options, file = proxy
    before = file.read_text()
    wrapper = tmp_path / "nginx"
    wrapper.write_text(f'#!/bin/sh\ncase "$*" in *reload*) echo no master >&2; exit 1;; esac\ncat {file}\n')
    wrapper.chmod(0o755)
    outcome = hook_for(options, nginx=[str(wrapper)]).execute(make_context())
    assert outcome.state == "failed"
    assert "no master" in outcome.did
    assert file.read_text() == before


def test_a_reload_that_nginx_cannot_do_is_not_acknowledged(proxy):
    """Its master writes the cause to the error log, and keeps the old workers: `nginx -s reload` ends with 0."""
    port, options, file = proxy
    assert hook_for(options).execute(make_context()).did == f"nginx has reloaded {file}"
    assert hook_for(options, weights={"baseline": 9, "canary": 1}).execute(make_context()).state == "acknowledged"
    config, before = file.parent / "nginx.conf", file.read_text()
    text = config.read_text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config.write_text(text.replace("server {", f"server {{ listen 127.0.0.1:{taken.getsockname()[1]};", 1))
        outcome = hook_for(options, timeout="300ms").execute(make_context())
    config.write_text(text)
    assert (outcome.state, "nginx did not start to use" in outcome.did) == ("failed", True), outcome
    assert file.read_text() == before
    assert split_becomes(port, {"baseline": 90, "canary": 10})


def test_an_upstream_of_another_name_is_found_by_the_test(proxy):
    _, options, _ = proxy
    outcome = hook_for(options, upstream="shap").test()
    assert (outcome.state, "has no upstream shap now" in outcome.did) == ("failed", True)


def test_a_reload_of_which_nothing_can_be_seen_is_acknowledged_as_such(proxy):
    _, options, file = proxy
    before = file.read_text()
    outcome = hook_for(options, nginx=["sh", "-c", f"cat {file}"]).execute(make_context())
    assert (outcome.state, "its processes cannot be seen" in outcome.did) == ("acknowledged", True)
    file.write_text(before)


def test_a_file_of_others_is_left_alone(proxy, tmp_path):
    _, options, _ = proxy
    foreign_file = tmp_path / "mine.conf"
    foreign_file.write_text("upstream shop { server 10.0.0.1; }\n")
    hook = hook_for(options, file=str(foreign_file))
    assert hook.execute(make_context()).state == hook.test().state == "failed"
    assert foreign_file.read_text().startswith("upstream")


def test_test_and_dry_run_touch_nothing(proxy):
    _, options, file = proxy
    before = file.stat()
    hook = hook_for(options)
    assert hook.test().state == "acknowledged"
    assert hook.execute(make_context(dry_run=True)).state == "acknowledged"
    assert file.stat() == before
    assert hook.read().startswith(MARK)


def test_no_file_before_is_none_after_a_failure(proxy, tmp_path):
    _, options, _ = proxy
    hook = hook_for(options, file=str(tmp_path / "new.conf"), nginx=["false"])
    assert hook.read() is None
    assert hook.execute(make_context()).state == "failed"
    assert not list(tmp_path.iterdir())
    assert hook.undo(make_context(), None).state == "failed"


def test_a_program_that_hangs_is_ended(proxy, tmp_path):
    _, options, file = proxy
    before = file.read_text()
    hook = hook_for(options, nginx=["sh", "-c", "sleep 30"], timeout="200ms")
    assert "did not end within" in hook.execute(make_context()).did
    assert file.read_text() == before


def test_a_server_that_accepts_no_connection_gets_nothing_and_going_back_is_not_refused(proxy):
    _, options, file = proxy
    before = file.read_text()
    dead = {"servers": options["servers"] | {"canary": "127.0.0.1:1"}}
    outcome = hook_for(options, **dead).execute(make_context())
    assert (outcome.state, "canary accepts no connection at 127.0.0.1:1: Connection refused" in outcome.did) == (
        "failed",
        True,
    )
    assert hook_for(options, **dead).test() == outcome, "the same words"
    assert file.read_text() == before
    assert hook_for(options, **dead, check_servers=False).test().state == "acknowledged"
    assert hook_for(options, **dead, weights={"baseline": 1, "canary": 0}).test().state == "acknowledged"
    back = hook_for(options, **dead).undo(make_context(), before.replace("weight=9", "weight=8"))
    assert (back.state, "canary accepts no connection" in back.did) == ("failed", True)
    assert "weight=8" in file.read_text()
    assert hook_for(options).undo(make_context(), before).state == "acknowledged"


def test_a_file_that_nginx_does_not_read_is_not_left_there(proxy, tmp_path):
    _, options, _ = proxy
    hook = hook_for(options, file=str(tmp_path / "elsewhere.conf"))
    outcome = hook.execute(make_context())
    assert (outcome.state, "nginx does not read" in outcome.did) == ("failed", True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "elsewhere.conf").write_text(f"{MARK}\nupstream shop {{}}\n")
    assert "nginx does not read" in hook.test().did


@pytest.mark.parametrize("text", [None, "", "\n"])
def test_a_test_does_not_accept_a_file_of_which_nothing_is_known(proxy, tmp_path, text):
    _, options, _ = proxy
    file = tmp_path / "later.conf"
    if text is not None:
        file.write_text(text)
    outcome = hook_for(options, file=str(file)).test()
    why = "does not exist yet" if text is None else "is empty"
    says = f"it is not known whether nginx reads {file}: it {why}"
    assert (outcome.state, says in outcome.did) == ("failed", True)


@pytest.mark.parametrize("action", ["undo", "rollback", "hold", "promote"])
def test_going_back_is_not_refused_where_nginx_does_not_read_the_file_any_more(proxy, tmp_path, action):
    _, options, _ = proxy
    file = tmp_path / "elsewhere.conf"
    now = f"{MARK}\nupstream shop {{\n    server a down;  # baseline\n    server b weight=1;  # canary\n}}\n"
    earlier = now.replace("weight=1", "weight=2")
    file.write_text(now)
    hook = hook_for(options, file=str(file), weights={"baseline": 1, "canary": 0})
    outcome = hook.undo(make_context(), earlier) if action == "undo" else hook.execute(make_context(action=action))
    assert (outcome.state, "nginx does not read" in outcome.did) == ("failed", True)
    assert ("the file is written" in outcome.did) == (file.read_text() != now) == (action != "promote")
    if action == "undo":
        assert file.read_text() == earlier


@pytest.mark.parametrize(
    "wrong",
    [
        {"servers": {"baseline": "10.0.0.1; }", "canary": "a"}},
        {"settings": ["keepalive 1; } evil {"]},
        {"upstream": "a b"},
        {"weights": {"baseline": 1}},
        {"servers": {"base\nline": "a", "canary": "b"}},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong):
    options = {"file": "f", "upstream": "u", "servers": {"baseline": "a", "canary": "b"}}
    with pytest.raises(PolicyError):
        hook_for(options | wrong) if "weights" not in wrong else make_hook("nginx", options | wrong)


def test_the_earlier_file_can_be_written_by_hand(proxy):
    port, options, file = proxy
    hook, before = hook_for(options), file.read_text()
    assert hook.execute(make_context()).state == "acknowledged"
    assert split_becomes(port, {"canary": 100})
    paste(hook, undoes=True, earlier=before)
    assert file.read_text() == before
    assert split_becomes(port, {"baseline": 90, "canary": 10})
    paste(hook)
    assert split_becomes(port, {"canary": 100})
    assert hook.undo(make_context(), before).state == "acknowledged"
