"""The rules of the guard, on simulated requests and counters."""

from __future__ import annotations

import random

import pytest
from scipy.stats import binom

from evaluator.guard.counters import CounterWatch
from evaluator.guard.limits import (
    ArmCounters,
    CounterWindow,
    RequestWindow,
    estimate_reaction_s,
    exceeds,
    find_tail,
)
from evaluator.records.rollouts import GuardLimits

LIMITS = GuardLimits()


@pytest.mark.parametrize("n", [1, 20, 50, 2000, 50_000])
@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.999])
def test_the_tail_is_that_of_the_binomial_distribution(n, share):
    for k in {0, 1, n // 20, n // 10, n // 2, n}:
        expected = 1.0 if k <= n * share else binom.sf(k - 1, n, share)
        assert find_tail(n, k, share) == pytest.approx(expected, rel=1e-6, abs=1e-300)


def test_limits_at_their_ends():
    assert exceeds(20, 1, 0.0, 20), "with a limit of 0, a failure is one too many"
    assert not exceeds(20, 20, 1.0, 20), "a limit of 100 % is none"
    assert not exceeds(19, 19, 0.05, 20)


def feed(window, seconds, per_s, failing, seed=1, time_ms=20.0):
    """Requests at random times; returns the second of the first reason, or None."""
    chance = random.Random(seed)
    for second in range(seconds):
        # The number of a Poisson process, by its gaps.
        n, at = 0, chance.expovariate(per_s)
        while at < 1:
            n, at = n + 1, at + chance.expovariate(per_s)
        window.add(second, [(chance.random() < failing, time_ms) for _ in range(n)])
        if window.find_reason(second):
            return second
    return None


@pytest.mark.parametrize("per_s", [5, 50])
def test_half_failing_is_seen_and_a_percent_is_not(per_s):
    assert feed(RequestWindow(LIMITS), 60, per_s, 0.5) <= 11
    assert feed(RequestWindow(LIMITS), 600, per_s, 0.01) is None


def test_a_low_rate_is_seen_later_as_estimated():
    assert feed(RequestWindow(LIMITS), 200, 0.5, 0.5) <= estimate_reaction_s(LIMITS, 0.5) * 1.5
    assert estimate_reaction_s(LIMITS, 5) < 15
    assert estimate_reaction_s(LIMITS, 0.1) is None
    assert estimate_reaction_s(GuardLimits(failures=0.5), 5) is None, "half is no more than the limit"


def test_a_slow_tail_is_seen():
    window = RequestWindow(GuardLimits(p95_ms=100))
    window.add(1.0, [(False, 200.0 if position % 4 == 0 else 20.0) for position in range(100)])
    assert "took longer than 100 ms" in window.find_reason(1.0)
    assert not RequestWindow(LIMITS).find_reason(1.0)


def test_clients_that_leave_more_often_than_those_of_the_baseline_are_a_reason():
    window = RequestWindow(LIMITS)
    window.add(1, [(False, 20.0)] * 60, left=40)
    assert "left before they had an answer (2 % of the baseline's do)" in window.find_reason(1, 0.02)
    assert window.find_left_share(1) == 0.4
    assert not window.find_reason(1, 0.3), "they leave the baseline, too"
    assert RequestWindow(LIMITS).find_left_share(1) is None


# ------------------------------------------------------------------ counters


def simulate_sessions(per_s, seconds, choose_duration, seed=1):
    """A server at each second: requests started so far, and those in progress."""
    chance = random.Random(seed)
    at, ends, looks, started = 0.0, [], [], 0
    for second in range(1, seconds + 1):
        while (at := at + chance.expovariate(per_s)) < second:
            started += 1
            ends.append(at + choose_duration(chance))
        ends = [end for end in ends if end > second]
        looks.append(ArmCounters(started, 0, len(ends), 0))
    return looks


def watch_sessions(canary, baseline, limits=LIMITS):
    window = CounterWindow(limits)
    for second, (new, old) in enumerate(zip(canary, baseline, strict=True)):
        window.add(second, new, old)
        if reason := window.find_reason(second):
            return second, reason
    return None


def usual(chance):
    return chance.lognormvariate(-2, 1)


def test_a_candidate_that_never_answers_is_seen_by_what_is_in_progress():
    second, reason = watch_sessions(
        simulate_sessions(5, 60, lambda _: 1000.0), simulate_sessions(95, 60, usual, seed=2)
    )
    assert second <= 12
    assert "have had no answer" in reason


def test_one_that_begins_to_hang_later_is_seen_too():
    def choose(chance):
        return usual(chance)

    healthy = simulate_sessions(5, 30, choose)
    hanging = [
        ArmCounters(healthy[-1].started + look.started, 0, healthy[-1].sessions + look.sessions, 0)
        for look in simulate_sessions(5, 30, lambda _: 1000.0, seed=3)
    ]
    second, _ = watch_sessions([*healthy, *hanging], simulate_sessions(95, 60, usual, seed=2))
    assert 30 < second <= 42


@pytest.mark.parametrize(
    "choose",
    [
        usual,
        lambda chance: 1 + 2 * chance.random(),  # starts slowly
        lambda chance: chance.lognormvariate(0, 1),  # much slower
    ],
)
def test_a_healthy_or_slow_candidate_is_not_hanging(choose):
    assert watch_sessions(simulate_sessions(50, 300, choose), simulate_sessions(950, 300, usual, seed=2)) is None


@pytest.mark.parametrize("before_s", [0, 60])
def test_long_connections_of_both_are_usual(before_s):
    def stream(chance):
        return 600 * chance.random()

    baseline = simulate_sessions(20, 120 + before_s, stream, seed=2)[before_s:]
    assert watch_sessions(simulate_sessions(5, 120, stream), baseline) is None


def test_connections_that_were_there_before_are_not_stuck():
    canary = [ArmCounters(40 + 5 * second, 0, 40, 0) for second in range(60)]
    baseline = [ArmCounters(95 * second, 0, 1, 0) for second in range(60)]
    assert watch_sessions(canary, baseline) is None


def test_a_baseline_that_stalled_once_hides_nothing_for_long():
    stall = [ArmCounters(20 * second, 0, 20 * min(second, 10), 0) for second in range(20)]
    healthy = [ArmCounters(400 + 20 * second, 0, 1, 0) for second in range(120)]
    canary = [ArmCounters(5 * second, 0, max(0, 5 * (second - 100)), 0) for second in range(140)]
    second, _ = watch_sessions(canary, [*stall, *healthy])
    assert 100 < second < 115


def test_waiting_requests_count_as_in_progress():
    """A server with a limit of connections gets no further requests while it hangs: they wait."""
    queued = [ArmCounters(5 * second, 0, min(5 * second, 10), max(5 * second - 10, 0)) for second in range(30)]
    second, reason = watch_sessions(queued, simulate_sessions(95, 30, usual))
    assert second <= 14
    assert "wait)" in reason


def test_what_was_in_progress_before_a_reload_hides_nothing():
    """HAProxy's new process counts from 0; requests that hang in the old one are not among its sessions."""
    answers = iter(range(1, 100))

    def stat(started, sessions):
        rows = [("b1", 19 * started, 1), ("c1", started, sessions)]
        lines = [f"shop,{name},2,{total},{current},0,0,0,UP" for name, total, current in rows]
        return "\n".join(["# pxname,svname,type,stot,scur,qcur,econ,eresp,status", *lines])

    def ask(_command):
        second = next(answers)
        # 60 connections stay open all the time; after the reload at 30 s, requests get no answer.
        return stat(10 * second, 60) if second < 30 else stat(10 * (second - 29), 10 * (second - 29))

    watch = CounterWatch(
        ask, "shop", {"b1": "baseline", "c1": "canary"}.get, ("baseline", "canary"), LIMITS, by_status=False
    )
    for second in range(1, 60):
        watch.look(float(second))
        if watch.find_reason(float(second)):
            break
    assert 30 < second <= 39


def test_failed_connections_are_a_reason():
    window = CounterWindow(LIMITS)
    window.add(0, ArmCounters(), ArmCounters())
    window.add(1, ArmCounters(started=40, failures=20), ArmCounters(started=400))
    assert "20 failed connections or answers" in window.find_reason(1)
