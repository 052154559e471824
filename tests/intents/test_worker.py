"""The worker's loop: when it reads the store, what it reports, and that no error ends it."""

from types import SimpleNamespace

import pytest

from evaluator.errors import StoreBusy, UsageError
from evaluator.intents import executing
from evaluator.intents import worker as worker_module
from evaluator.intents.executing import execute_waiting, name_worker
from evaluator.intents.worker import run_worker
from evaluator.records.intents import Action, IntentState


def intent(name="i1", state=IntentState.ACKNOWLEDGED):
    return SimpleNamespace(id=name, action=Action.PROMOTE, release="cart@2", state=state)


class Turns:
    """Stops a worker after some turns, and keeps how long it waited in each."""

    def __init__(self, turns):
        self.left, self.waited = turns, []

    def is_set(self):
        return self.left == 0

    def wait(self, seconds):
        self.left -= 1
        self.waited.append(seconds)


@pytest.fixture
def work(monkeypatch, tmp_path):
    """Run a worker for some turns over a store whose stamps and whose work are given; returns what it did and said."""

    def run(stamps, answers=(), *, poll_s=1.0):
        stamps_read, messages, workers = [], [], []
        stop, answers = Turns(len(stamps)), iter(answers)

        def stamp_of(_path):
            stamps_read.append(stamps[len(stamps_read)])
            return stamps_read[-1]

        def execute_all(_store, _load, worker, *, stop, failed, load_to_go_back):
            workers.append(worker)
            turns.append(len(stamps_read))
            answer = next(answers, ())
            if isinstance(answer, Exception):
                raise answer
            for entry in answer:
                if isinstance(entry, tuple):
                    failed(*entry)
            return tuple(entry for entry in answer if not isinstance(entry, tuple))

        turns = []
        monkeypatch.setattr(worker_module, "stamp_of", stamp_of)
        monkeypatch.setattr(worker_module, "execute_waiting", execute_all)
        quiet = SimpleNamespace(start=lambda: None, wait=lambda: None)
        monkeypatch.setattr(worker_module, "Notifier", lambda *_: quiet)
        run_worker(SimpleNamespace(path=tmp_path / "x.duckdb"), None, stop, say=messages.append, poll_s=poll_s)
        assert set(workers) <= {name_worker()}
        assert set(stop.waited) == {poll_s}
        return turns, messages

    return run


def test_an_unchanged_store_is_not_opened_again(work):
    assert work([1, 1, 1, 2, 2]) == ([1, 4], [])


def test_what_expires_is_seen_without_a_write(work):
    """After 15 s: in turns of 5 s, the fourth."""
    assert work([1] * 8, poll_s=5.0)[0] == [1, 4, 7]
    assert work([1] * 18)[0] == [1, 16]


def test_what_was_executed_is_reported(work):
    done = [intent(), intent("i2", IntentState.FAILED)]
    assert work([1], [done])[1] == ["i1 (promote cart@2) is acknowledged", "i2 (promote cart@2) is failed"]


def test_a_failure_is_reported_and_tried_again_at_the_next_turn(work):
    turns, messages = work([1, 1, 1], [[(intent(), UsageError("the policy is broken", hint="correct it"))], [intent()]])
    assert turns == [1, 2]
    assert messages == [
        "i1 (promote cart@2) could not be executed: the policy is broken (correct it)",
        "i1 (promote cart@2) is acknowledged",
    ]


def test_neither_a_busy_store_nor_a_defect_ends_it(work):
    turns, messages = work([1, 1, 1, 1], [StoreBusy("the store is in use"), RuntimeError("key=secret"), []])
    assert turns == [1, 2, 3]
    assert messages[0].startswith("requests cannot be executed now: the store is in use; `evaluator rollback RELEASE`")
    assert messages[1:] == ["it ended with an unexpected RuntimeError"]


def test_without_anybody_to_say_it_to_what_went_wrong_is_raised(monkeypatch):
    control = SimpleNamespace(expire=lambda _now: None, waiting=lambda: [intent(), intent("i2"), intent("i3")])
    answers = {"i1": StoreBusy("somebody else is at it"), "i2": ZeroDivisionError(), "i3": None}
    executed, failures = [], []

    def execute(_store, _load, name, _worker, *, load_to_go_back):
        executed.append(name)
        if answers[name]:
            raise answers[name]
        return name

    monkeypatch.setattr(executing, "execute", execute)
    with pytest.raises(ZeroDivisionError):
        execute_waiting(SimpleNamespace(control=control), None, "w")
    assert executed == ["i1", "i2"]
    done = execute_waiting(
        SimpleNamespace(control=control), None, "w", failed=lambda intent, error: failures.append((intent.id, error))
    )
    assert done == ("i3",)
    assert [name for name, _ in failures] == ["i2"]
