"""Counts of several parts of an access log are summed up."""

from __future__ import annotations

from evaluator.records import LeftOut, LeftOutKind, LogCounts, RouterFacts, sum_counts


def test_counts_are_summed_up_by_name():
    aborts = LeftOut("canary", LeftOutKind.CLIENT_ABORT, 2)
    first = LogCounts(10, {"baseline": 5, "canary": 3}, (aborts,), RouterFacts(answers=9, retried={"canary": 1}))
    second = LogCounts(4, {"canary": 4}, (aborts,), RouterFacts(answers=4, retried={"baseline": 2}, holes=("a hole",)))
    total = sum_counts([first, second])
    assert (total.lines, total.read) == (14, {"baseline": 5, "canary": 7})
    assert total.left_out == (LeftOut("canary", LeftOutKind.CLIENT_ABORT, 4),)
    assert (total.router.answers, total.router.retried) == (13, {"canary": 1, "baseline": 2})
    assert total.router.holes == ("a hole",)
    assert sum_counts([]) == LogCounts()


def test_the_names_of_many_servers_are_pooled_without_losing_requests():
    parts = [LogCounts(router=RouterFacts(other_servers={f"x{number}": 3, "x0": 1})) for number in range(100)]
    servers = sum_counts(parts).router.other_servers
    assert len(servers) == 21
    assert sum(servers.values()) == sum(sum(part.router.other_servers.values()) for part in parts)
    assert sum_counts([LogCounts(router=RouterFacts(other_servers=servers))]).router.other_servers == servers


def test_seconds_of_holes_are_known_only_if_those_of_all_are():
    def add(*facts):
        return sum_counts([LogCounts(router=each) for each in facts]).router.unread_s

    assert add(RouterFacts(), RouterFacts()) is None
    assert add(RouterFacts(holes=("a",), unread_s=2.0), RouterFacts()) == 2
    assert add(RouterFacts(holes=("a",), unread_s=2.0), RouterFacts(holes=("b",), unread_s=3.0)) == 5
    assert add(RouterFacts(holes=("a",), unread_s=2.0), RouterFacts(holes=("b",))) is None
    assert add(RouterFacts(holes=("b",)), RouterFacts(), RouterFacts(holes=("a",), unread_s=2.0)) is None
