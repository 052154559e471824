"""What a guard has seen, for one that is started after a kill."""

from __future__ import annotations

import json
import stat

import pytest

from evaluator.guard.counters import CounterWatch
from evaluator.guard.memory import LONGEST_GAP_S, Memory
from evaluator.records.rollouts import GuardLimits

HANGS_FROM, KILLED_AT, BACK_AT = 30, 36, 38


class Router:
    """HAProxy's counters at each second: from `HANGS_FROM` on, the candidate answers nothing."""

    def __init__(self):
        self.second = 0

    def ask(self, _command):
        started, hanging = 5 * self.second, 5 * max(0, self.second - HANGS_FROM)
        rows = [("b1", 19 * started, 3, 7 * self.second), ("c1", started, hanging, 0)]
        lines = [f"shop,{name},2,{total},{current},0,{errors},0,UP" for name, total, current, errors in rows]
        return "\n".join(["# pxname,svname,type,stot,scur,qcur,econ,eresp,status", *lines])


def make_watch(router):
    arms = ("baseline", "canary")
    return CounterWatch(
        router.ask, "shop", {"b1": "baseline", "c1": "canary"}.get, arms, GuardLimits(), by_status=False
    )


def find_second(memory, *, is_killed, boundary=None):
    """The second at which the candidate is a reason to go back."""
    router = Router()
    watch = make_watch(router)
    for second in range(1, 80):
        router.second = second
        if is_killed and KILLED_AT <= second < BACK_AT:
            continue
        if is_killed and second == BACK_AT:
            watch = make_watch(router)
            for seen in memory.read(float(second)).values():
                watch.take(seen if boundary is None else boundary(seen))
        watch.look(float(second))
        if watch.find_reason(float(second)):
            return second
        memory.keep(float(second), {"shop": watch.to_plain()})
    return None


@pytest.fixture
def memory(tmp_path):
    return Memory(tmp_path / "r1.guard", "key")


def test_a_candidate_that_hangs_is_seen_as_soon_as_without_a_kill(memory):
    undisturbed = find_second(memory, is_killed=False)
    assert undisturbed - HANGS_FROM <= 12
    assert find_second(memory, is_killed=True) == undisturbed
    assert find_second(memory, is_killed=True, boundary=lambda _: {}) > undisturbed + 5, "without the file, later"


@pytest.mark.parametrize(
    "damage",
    [
        lambda seen: {**seen, "counters": {}},
        lambda seen: {**seen, "servers": [["shop", "c1"]]},
        lambda seen: {**seen, "windows": {"canary": {"looks": [[1, 2, 3]], "usual": 0}}},
        lambda seen: {**seen, "windows": {"canary": {"looks": [[1, *["x"] * 8]], "usual": 0}}},
        lambda _: {},
        lambda _: {"servers": None},
    ],
)
def test_what_does_not_fit_is_not_used_at_all(memory, damage):
    assert find_second(memory, is_killed=True, boundary=damage) == find_second(
        memory, is_killed=True, boundary=lambda _: {}
    )


def test_what_is_of_another_rollout_boot_or_time_is_not_read(memory, tmp_path):
    memory.keep(100.0, {"shop": {"a": 1}})
    assert memory.read(100.0 + LONGEST_GAP_S) == {"shop": {"a": 1}}
    assert memory.read(101.0 + LONGEST_GAP_S) == {}
    assert memory.read(99.0) == {}, "the clock of another start of the system"
    assert Memory(tmp_path / "r1.guard", "another").read(100.0) == {}
    path = tmp_path / "r1.seen"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    path.write_text(json.dumps({**json.loads(text), "boot": "another"}))
    assert memory.read(100.0) == {}
    for broken in (text[:30], "[]", "{}", '{"key": "key"}', ""):
        path.write_text(broken)
        assert memory.read(100.0) == {}
    memory.forget()
    assert not path.exists()
    memory.forget()


def test_a_disk_that_fails_does_not_stop_the_watch(tmp_path):
    memory = Memory(tmp_path / "gone" / "r1.guard", "key")
    memory.keep(1.0, {})
    assert memory.read(1.0) == {}
