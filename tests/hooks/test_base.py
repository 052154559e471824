import json
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from hooks_world import make_context

from evaluator.errors import HookError, PolicyError, UnknownName
from evaluator.hooks import (
    HOOKS,
    BaseHook,
    Hook,
    HookOptions,
    Outcome,
    Step,
    base,
    find_obstacle,
    make_hook,
    make_step,
    run_hook,
    running,
    undo_hook,
)


@dataclass
class ForeignHook:
    """A hook of another package: the protocol, and nothing of ours."""

    kind: str = "told"
    does: Any = field(default_factory=lambda: lambda _context: Outcome("acknowledged", "told them"))
    idempotent: bool = True
    value: Any = None
    calls: list = field(default_factory=list)

    def describe(self, context=None):
        return f"tells them of {context.release}" if context else "tells them"

    def describe_undo(self, context=None):
        return "takes it back"

    def execute(self, context):
        self.calls.append(context)
        return self.does(context)

    def read(self, context=None):
        return self.value() if callable(self.value) else self.value

    def undo(self, context, earlier):
        return Outcome("acknowledged", f"undone to {earlier}")

    def test(self, action="promote"):
        return Outcome("acknowledged", "fine")

    def find_obstacle(self, action):
        return ""

    def can_undo(self):
        return True

    def describe_value(self, value):
        return str(value)


def fail(_context):
    raise HookError("they refused", hint="ask them")


def break_down(_context):
    raise RuntimeError("password=hunter2")


@pytest.fixture
def installed(monkeypatch):
    def install(*points):
        entry_points = [EntryPoint(name, value, base.GROUP) for name, value in points]
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entry_points)
        vars(base.HOOKS).pop("places", None)

    yield install
    monkeypatch.undo()
    vars(base.HOOKS).pop("places", None)


@pytest.mark.parametrize(("does", "state"), [(fail, "failed"), (break_down, "unknown")])
def test_what_a_hook_raises_is_an_outcome(does, state):
    assert run_hook(Step(ForeignHook(does=does)), make_context()).state == state


def test_one_that_hangs_is_abandoned_and_unknown(monkeypatch):
    monkeypatch.setattr(running, "GRACE_S", 0.1)
    ever = threading.Event()
    began = time.monotonic()
    outcome = run_hook(Step(ForeignHook(does=lambda _: ever.wait(5)), time_limit_s=0.2), make_context())
    assert time.monotonic() - began < 2
    ever.set()
    assert outcome.state == "unknown"


def test_what_another_package_raises_is_not_shown():
    assert (
        run_hook(Step(ForeignHook(does=break_down)), make_context()).did == "told ended with an unexpected RuntimeError"
    )


def test_the_value_to_change_is_passed_on_before_it_is_changed():
    hook = ForeignHook(value={"canary": 10})
    changes = []
    outcome = run_hook(Step(hook), make_context(), lambda earlier: changes.append((earlier, len(hook.calls))))
    assert changes == [({"canary": 10}, 0)]
    assert outcome.earlier == {"canary": 10}


def test_a_value_that_cannot_be_read_stops_all_but_a_rollback():
    def refuse():
        raise HookError("no answer")

    for action, state, calls in (("promote", "failed", 0), ("hold", "failed", 0), ("rollback", "acknowledged", 1)):
        hook = ForeignHook(value=refuse)
        outcome = run_hook(Step(hook), make_context(action=action))
        assert (outcome.state, len(hook.calls)) == (state, calls)


@pytest.mark.parametrize(("reads", "state"), [(True, "failed"), (False, "acknowledged")])
def test_where_there_was_nothing_before_a_hook_that_reads_undoes_nothing(reads, state):
    class Plain(BaseHook[HookOptions]):
        kind = "plain"

        def _undo(self, context, earlier):
            return Outcome("acknowledged", f"undone to {earlier}")

    class Reading(Plain):
        def _read(self):
            return None

    undone = (Reading if reads else Plain)(HookOptions()).undo(make_context(), None)
    assert undone.state == state
    assert ("there is nothing to restore" in undone.did) is reads


def test_nothing_is_changed_whose_earlier_value_cannot_be_read():
    hook = ForeignHook(value=lambda: fail(None))
    assert run_hook(Step(hook), make_context()).state == "failed"
    assert not hook.calls


def test_its_limit_is_part_of_a_hooks_context():
    hook = ForeignHook()
    run_hook(Step(hook, time_limit_s=2), make_context())
    assert hook.calls[0].left_s() < 2.1


def test_every_kind_of_ours_is_a_hook_with_options():
    for hook_class in HOOKS.values():
        assert issubclass(hook_class, BaseHook)
        assert issubclass(hook_class.Options, HookOptions)
        assert all(field.description for field in hook_class.Options.model_fields.values())
        assert HOOKS[hook_class.kind] is hook_class


def test_a_strangers_hook_is_found_as_ours_are(installed, tmp_path, monkeypatch):
    (tmp_path / "stranger_hook.py").write_text(
        "from evaluator.hooks import BaseHook, HookOptions, Outcome\n"
        "class Options(HookOptions):\n    room: str\n"
        "class Bell(BaseHook):\n    kind = 'bell'\n    Options = Options\n"
        "    def _describe(self, words): return f'rings in {self.options.room}'\n"
        "    def _test(self): return Outcome('acknowledged', 'there is a bell')\n"
        "    def _execute(self, context): return Outcome('acknowledged', f'rang for {context.release}')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    installed(("bell", "stranger_hook:Bell"))
    assert list(HOOKS) == ["bell"]
    hook = make_hook("bell", {"room": "4"})
    assert hook.describe() == "rings in 4"
    assert hook.execute(make_context()).did == "rang for cart@1.5.0"
    assert hook.undo(make_context(), None).state == "failed"


def test_two_of_one_name_are_none(installed):
    installed(("told", "a:A"), ("told", "b:B"))
    with pytest.raises(HookError, match="two packages"):
        list(HOOKS)


def test_one_that_cannot_be_loaded_is_an_error(installed):
    installed(("told", "no.such.module:A"))
    with pytest.raises(HookError, match="cannot be loaded"):
        make_hook("told", {})


def test_unknown_kinds_and_options_are_errors():
    with pytest.raises(UnknownName, match="webhook"):
        make_hook("webhok", {})
    with pytest.raises(PolicyError, match=r"webhook\.urll"):
        make_hook("webhook", {"url": "http://a", "secret": "${A}", "urll": 1})
    with pytest.raises(PolicyError, match="environment variable") as refused:
        make_hook("webhook", {"url": "http://a", "secret": "whsec_written_here"})
    assert "written_here" not in str(refused.value)


def test_options_of_time_read_as_people_write_them():
    assert HookOptions(time_limit="2m").time_limit == 120
    assert isinstance(ForeignHook(), Hook)
    with pytest.raises(ValueError, match="duration"):
        HookOptions(time_limit="soon")


def test_a_step_is_what_its_options_say():
    step = make_step("command", {"run": ["true"], "required": True, "time_limit": "2m"})
    assert (step.hook.kind, step.required, step.time_limit_s) == ("command", True, 120)


def test_undo_has_the_same_limit(monkeypatch):
    monkeypatch.setattr(running, "GRACE_S", 0.1)
    hook = ForeignHook()
    assert undo_hook(Step(hook), make_context(), 7).did == "undone to 7"
    monkeypatch.setattr(hook, "undo", lambda *_: time.sleep(2))
    assert undo_hook(Step(hook, time_limit_s=0.2), make_context(), 7).state == "unknown"


def test_what_is_not_installed_is_named(receiver, monkeypatch):
    hook = make_hook("http", {"url": receiver.url, "allow_hosts": ["127.0.0.1"]})
    monkeypatch.setitem(sys.modules, "requests", None)
    outcome = hook.execute(make_context())
    assert outcome.state == "failed"
    assert "release-evaluator[hooks]" in outcome.did


def test_nothing_is_executed_that_cannot_be_kept():
    def full(_earlier):
        raise OSError("disk full")

    hook = ForeignHook()
    with pytest.raises(OSError, match="disk full"):
        run_hook(Step(hook), make_context(), full)
    assert not hook.calls


def test_an_answer_of_another_form_is_an_obstacle_and_no_surprise(monkeypatch):
    step = make_step("haproxy", {"socket": "s", "backend": "shop", "servers": {"baseline": "b", "canary": "c"}})
    monkeypatch.setattr(type(step.hook), "_check_target", lambda _hook, _action: {}["spec"])
    assert find_obstacle(step, make_context()) == (
        "the answer to haproxy is not one of its API (KeyError): does the address lead to it?"
    )


def test_an_earlier_value_in_a_damaged_store_is_shown_as_it_is():
    hook = make_hook("etcd", {"url": "http://etcd.test", "key": "k", "value": "v"})
    for value in ("x", [1], {}):
        assert hook.describe_value(value) == f"not a value of etcd: {json.dumps(value)}"
    assert hook.describe_value({"value": 7}) == "7"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("etcd", {"url": "http://h:1", "key": "/shop/${release}", "value": "x"}),
        ("webhook", {"url": "http://h/${release}", "secret": "${S}"}),
        ("haproxy", {"socket": "/run/${release", "backend": "b", "servers": {"baseline": "a", "canary": "c"}}),
        ("command", {"run": ["x"], "folder": "/srv/${release}"}),
        ("http", {"url": "http://h/", "contains": "${canary}"}),
        ("http", {"url": "http://h/", "ca": "${CA}"}),
    ],
)
def test_words_are_refused_where_they_would_not_be_filled_in(kind, options):
    with pytest.raises(PolicyError, match="words and variables are not filled in here"):
        make_hook(kind, options)
