"""Failed attempts of unknown servers are those that HAProxy's statistics count and no line explains."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from router_lines import ARMS, HAPROXY, OPTIONS, write_haproxy

from evaluator.errors import SourceError
from evaluator.pipeline.tail_retries import RetryFinder
from evaluator.records import LogCounts, LogOptions
from evaluator.sources.access_logs.tail_state import TailedRun, TailState
from evaluator.store.access_logs import LogReader


class Stats:
    """Statistics that a test sets."""

    def __init__(self):
        self.failed = Counter()
        self.problem = ""

    def read(self):
        if self.problem:
            raise SourceError(self.problem)


class World:
    """Lines of HAProxy, its statistics, and what becomes of them."""

    def __init__(self):
        self.stats, self.said, self.now = Stats(), [], 0.0
        self.finder = RetryFinder(self.stats, LogOptions(arms=ARMS), self.said.append, lambda: self.now)
        self.state = TailState("g", 0.0, runs=(TailedRun("g", 0.0),))
        self.rows = []

    def read(self, *lines):
        with LogReader(HAPROXY, OPTIONS, "g") as reader:
            batch = reader.read_lines(list(lines))
        self.finder.add("g", batch.rows, batch.unassigned)
        self.state = replace(self.state, runs=(replace(self.state.runs[0], counts=batch.counts),))

    def assign(self):
        self.now += 1
        self.state, tables = self.finder.assign(self.state)
        for table in tables.values():
            self.rows += table.to_pylist()
        return [(row["arm"], row["instance"]) for row in self.rows]

    @property
    def counts(self) -> LogCounts:
        return self.state.runs[0].counts


@pytest.fixture
def world():
    return World()


def test_an_attempt_is_that_of_the_server_that_was_counted(world):
    world.read(write_haproxy("b2", retries="+1", request="GET /users/7 HTTP/1.1"))
    assert (world.counts.router.retried_by_unknown, world.counts.read) == (1, {"baseline": 1})
    world.stats.failed.update(c1=1)
    assert world.assign() == [("canary", "c1")]
    assert world.counts.router.retried == {"canary": 1}
    assert world.counts.router.retried_by_unknown == 0
    assert world.counts.read == {"baseline": 1, "canary": 1}
    [row] = world.rows
    assert (row["failed"], row["endpoint"], row["run"]) == (True, "GET /users/{id}", "g")
    assert row["ts"] == datetime(2025, 11, 29, 10, 0, 0, 250_000, UTC)


def test_attempts_that_lines_explain_are_not_assigned_again(world):
    # Two attempts at b1, which the line names, and one of an unknown server.
    world.read(write_haproxy("b1", retries="2"), write_haproxy("b2", retries="+1"))
    world.stats.failed.update(b1=2, c2=1)
    assert world.assign() == [("canary", "c2")]


def test_attempts_that_were_not_counted_stay_unknown(world):
    world.read(write_haproxy("b2", retries="+2"))
    world.stats.failed.update(c1=1, other=7)
    assert world.assign() == [("canary", "c1")]
    world.stats.failed.update(c1=1)  # of a request whose line has not come yet
    assert world.assign() == [("canary", "c1")]
    assert world.counts.router.retried_by_unknown == 1


def test_without_statistics_attempts_stay_unknown_and_it_is_said_once(world):
    world.stats.problem = "the socket is gone"
    world.read(write_haproxy("b2", retries="+1"))
    assert world.assign() == world.assign() == []
    world.stats.problem = ""
    world.stats.failed.update(c1=1)
    assert world.assign() == []
    assert world.counts.router.retried_by_unknown == 1
    assert world.said == [
        "the socket is gone; failed attempts stay unknown, which may forbid a GO",
        "HAProxy's statistics can be read again",
    ]


def test_statistics_are_read_once_a_second(world):
    world.read(write_haproxy("b2", retries="+1"))
    world.stats.failed.update(c1=1)
    assert world.finder.assign(world.state) == (world.state, {})
    assert world.assign() == [("canary", "c1")]
