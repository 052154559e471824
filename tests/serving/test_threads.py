"""Threads that end with the server."""

from __future__ import annotations

import asyncio
import threading

import pytest
import uvicorn

from evaluator.serving import threads
from evaluator.serving.server import _Server


@pytest.mark.parametrize("terminal_is_closed", [False, True])
def test_a_thread_completes_what_it_has_begun(monkeypatch, terminal_is_closed):
    monkeypatch.setattr(threads, "_stop", threading.Event())
    monkeypatch.setattr(threads, "_threads", [])
    monkeypatch.setattr(threads, "_PATIENCE_S", 0.01)
    said, spoken, completed = [], threading.Event(), threading.Event()

    def work(stop: threading.Event) -> None:
        stop.wait()
        assert spoken.wait(30)
        completed.set()

    def say(text: str) -> None:
        said.append(text)
        spoken.set()
        if terminal_is_closed:
            raise OSError(5, "Input/output error")

    thread = threads.start_thread(work, "worker")
    threads.end_threads(say)
    assert completed.is_set()
    assert not thread.is_alive()
    assert said == ["the worker completes the hooks that it executes; Ctrl-C again does not wait for that"]


def test_an_idle_thread_ends_without_a_word(monkeypatch):
    monkeypatch.setattr(threads, "_stop", threading.Event())
    monkeypatch.setattr(threads, "_threads", [])
    threads.start_thread(threading.Event.wait, "worker")
    threads.end_threads(pytest.fail)


def test_nothing_is_begun_while_connections_are_being_closed(monkeypatch):
    stop, was_set = threading.Event(), []
    monkeypatch.setattr(threads, "_stop", stop)

    async def close(_server, _sockets):
        was_set.append(stop.is_set())

    monkeypatch.setattr(uvicorn.Server, "shutdown", close)
    asyncio.run(_Server(uvicorn.Config("x:y")).shutdown())
    assert was_set == [True]
