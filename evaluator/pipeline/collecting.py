"""Collect readings of a metrics server: of a past window, or as they come."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from evaluator.errors import SourceError, UnknownName, UsageError
from evaluator.pipeline.base import Say, say_nothing
from evaluator.policy import Policy
from evaluator.records import (
    READING_SOURCE,
    UP,
    Answer,
    Query,
    QueryKind,
    Release,
    Run,
    RunFacts,
    RunState,
    check_names,
)
from evaluator.sources.prometheus import Prometheus, connect
from evaluator.sources.prometheus.options import PrometheusSource
from evaluator.sources.recording import new_run_id
from evaluator.stats.shaping.readings import choose_reading_bucket_s
from evaluator.store import Store

SETTLE_STEPS = 1
"""Steps left out at the end of the available time: a new scrape is visible to queries only after that."""

LONGEST_WAIT_S = 300.0
"""A window that ends later than this many seconds from now is refused."""

MOST_UNANSWERED_S = 600.0
"""Following ends after a server has not answered for this many seconds."""


@dataclass(frozen=True, slots=True)
class CollectionInterval:
    """From when to when readings are collected (UTC)."""

    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return (self.end - self.start).total_seconds()


def find_load_interval(store: Store, release_id: str) -> CollectionInterval | None:
    """Find when the newest load of a release ran; `None` where it has none."""
    try:
        runs = [run for run in store.data.runs(release_id) if run.source == "locust"]
    except UnknownName:
        return None
    newest = [run for run in runs if run.group == runs[-1].group]
    starts = [run.started for run in newest if run.started]
    if not starts:
        return None
    ends = [run.ended or datetime.now(UTC) for run in newest]
    return CollectionInterval(min(starts), max(ends))


def collect_release(
    store: Store, release: Release, policy: Policy, interval: CollectionInterval, *, say: Say = say_nothing
) -> tuple[Run, int]:
    """Collect a window of readings as a run of its own; returns the run and how many readings landed.

    Waits until the server shows its last scrape. An arm without readings is stored as silent, and the cause is shown.
    Raises UsageError for a window that is too short or ends too late, and SourceError if the server does not answer all
    queries: then nothing lands.
    """
    check_names(release)
    with connect(_server(policy)) as source:
        queries = _queries(policy)
        step_s = source.options.step_s
        if interval.seconds < step_s:
            raise UsageError(
                f"a window of {interval.seconds:g} s is shorter than the step of {step_s:g} s",
                hint="give a longer window with --from and --to",
            )
        wait_s = (interval.end - source.latest()).total_seconds() + SETTLE_STEPS * step_s
        if wait_s > LONGEST_WAIT_S:
            raise UsageError(
                f"the window ends {wait_s:.0f} s from now", hint="collect readings as they come with --follow"
            )
        if wait_s > 0:
            say(f"waiting {wait_s:.0f} s for the last scrapes")
            time.sleep(wait_s)
        run = _new_run(release, source, interval)
        answers = _explain_silent_arms(source, _fetch(source, queries, interval, say), interval, say)
        store.data.register_run(release, run, bucket_s=choose_reading_bucket_s(interval.seconds, step_s))
        landed = store.data.keep_answers(run, answers, source.describe())
    store.data.finish_run(run.id, state=RunState.COMPLETE, ended=interval.end, facts=RunFacts())
    return run, landed.rows


def _explain_silent_arms(
    source: Prometheus, answers: Sequence[Answer], interval: CollectionInterval, say: Say
) -> list[Answer]:
    """Explain each arm without series (it never answered, or its selector is wrong) by what the server has instead."""
    out = list(answers)
    for arm in source.options.selectors:
        positions = [position for position, answer in enumerate(out) if answer.arm == arm and answer.query != UP]
        if any(out[position].series for position in positions):
            continue
        # The server can list the labels of a series' name, but not those of an expression.
        explained = min(positions, key=lambda position: out[position].query.kind is QueryKind.GAUGE)
        why = source.explain_nothing(out[explained].query, arm, interval.start, interval.end)
        out[explained] = replace(out[explained], impossible=why)
        say(f"{arm} has no readings: {why}")
    return out


def check_source(policy: Policy) -> None:
    """Check that the policy's server answers and that the policy has queries. Raises what collecting would raise."""
    _queries(policy)
    connect(_server(policy)).close()


def collect_load(store: Store, release: Release, policy: Policy, *, say: Say = say_nothing) -> tuple[Run, int]:
    """Collect the window of the newest load of a release, with a scrape before and after it.

    Raises UsageError for a release without a load, and what `collect_release` raises.
    """
    check_names(release)
    interval = find_load_interval(store, release.id)
    if interval is None:
        raise UsageError(
            f"there is no window to collect: {release.id} has no load",
            hint="give a window with --from and --to, such as --from -1h, or load the release first",
        )
    step = timedelta(seconds=_server(policy).step_s)
    return collect_release(
        store, release, policy, CollectionInterval(interval.start - step, interval.end + step), say=say
    )


def follow_release(
    store: Store,
    release: Release,
    policy: Policy,
    *,
    start: datetime | None = None,
    seconds: float | None = None,
    say: Say = say_nothing,
) -> tuple[Run, int]:
    """Collect readings as they come for `seconds` (default: the policy's longest duration).

    Each poll begins where the last one ended, so a server that does not answer for a while causes neither gaps nor
    duplicates. Readings stay stored whatever ends the collection: KeyboardInterrupt, a server that does not come back
    (SourceError), SIGKILL. Returns the run and how many readings landed.
    """
    check_names(release)
    with connect(_server(policy)) as source:
        step_s = source.options.step_s
        begin = _floor(start or datetime.now(UTC), step_s)
        lasts = seconds if seconds is not None else policy.rulebook.monitoring.max_duration_s
        run = _new_run(release, source, CollectionInterval(begin, begin + timedelta(seconds=lasts)))
        store.data.register_run(release, run, bucket_s=choose_reading_bucket_s(lasts, step_s))
        follower = _Follower(store, run, source, _queries(policy), say)
        stopped_by = "the collection was interrupted"
        try:
            stopped_by = follower.follow()
        finally:
            state = RunState.INCOMPLETE if stopped_by else RunState.COMPLETE
            store.data.finish_run(run.id, state=state, ended=follower.until, facts=RunFacts(stopped_by=stopped_by))
    if stopped_by:
        raise SourceError(stopped_by, hint="what was collected until then is in the store")
    return run, follower.rows


class _Follower:
    """Polls until the run's planned end."""

    def __init__(self, store: Store, run: Run, source: Prometheus, queries: Sequence[Query], say: Say) -> None:
        self.store, self.run, self.source, self.queries, self.say = store, run, source, queries, say
        self.step_s = source.options.step_s
        self.rows = 0
        self.until = run.started or datetime.now(UTC)
        self.failed_since: float | None = None

    def follow(self) -> str:
        """Poll to the end. Returns why it ended early; empty when it did not."""
        end, settle = self.run.planned_end, timedelta(seconds=SETTLE_STEPS * self.step_s)
        while end and self.until < end:
            try:
                # The newest scrapes may not be visible to queries yet.
                self._poll(min(end, _floor(self.source.latest() - settle, self.step_s)))
            except SourceError as error:
                now = time.monotonic()
                if self.failed_since is None:
                    self.failed_since = now
                    self.say(f"no answer, trying again: {error.message}")
                if now - self.failed_since > MOST_UNANSWERED_S:
                    return f"no answer for {MOST_UNANSWERED_S:g} s: {error.message}"
            time.sleep(min(self.step_s, 5.0))
        return ""

    def _poll(self, end: datetime) -> None:
        if end <= self.until:
            return
        answers = _fetch(self.source, self.queries, CollectionInterval(self.until, end), say_nothing)
        if self.failed_since is not None:
            self.say("the server answers again; continuing where the last answer ended")
        self.failed_since = None
        if self.rows:
            answers = [_after(answer, self.until) for answer in answers]
        landed = self.store.data.keep_answers(self.run, answers, self.source.describe())
        self.rows += landed.rows
        self.until = end
        self.say(f"{landed.rows} readings until {end:%H:%M:%S} UTC")


def _after(answer: Answer, moment: datetime) -> Answer:
    """Leave out samples that an earlier poll has returned already."""
    moment_ms = round(moment.timestamp() * 1000)
    trimmed, repeated = [], 0
    for series in answer.series:
        is_new = series.ts_ms > moment_ms
        trimmed.append(replace(series, ts_ms=series.ts_ms[is_new], values=series.values[is_new]))
        repeated += int((~is_new).sum())
    remaining = tuple(series for series in trimmed if series.ts_ms.size)
    return replace(answer, series=remaining, repeated=answer.repeated + repeated)


def _server(policy: Policy) -> PrometheusSource:
    """Return the policy's metrics server. Raises UsageError where it names none."""
    if policy.prometheus is None:
        raise UsageError(
            "the policy names no metrics server",
            hint="add `sources: {prometheus: {url: …, selectors: {baseline: …, canary: …}}}` to the policy",
        )
    return policy.prometheus


def _queries(policy: Policy) -> tuple[Query, ...]:
    """Return each query of the policy's metrics once, and the query for which targets answered their scrapes."""
    queries = dict.fromkeys(query for rule in policy.rulebook.rules for query in rule.metric.queries)
    if not queries:
        raise UsageError(
            "the policy has no metric of readings",
            hint="add one, or a ready-made set: sources: {prometheus: {queries: [red-http]}}",
        )
    return tuple(dict.fromkeys((*queries, UP)))


def _fetch(source: Prometheus, queries: Iterable[Query], interval: CollectionInterval, say: Say) -> list[Answer]:
    out = []
    pairs = [(query, arm) for query in queries for arm in source.options.selectors]
    for number, (query, arm) in enumerate(pairs, start=1):
        say(f"{number} of {len(pairs)}: {arm}: {query.text}")
        out.append(source.fetch(query, arm, interval.start, interval.end, on_progress=say))
    return out


def _new_run(release: Release, source: Prometheus, interval: CollectionInterval) -> Run:
    run_id = new_run_id()
    return Run(
        id=run_id,
        release=release.id,
        group=run_id,
        source=READING_SOURCE,
        started=interval.start,
        planned_end=interval.end,
        fingerprint={**source.describe(), "host": platform.node(), "pid": os.getpid()},
    )


def _floor(moment: datetime, step_s: float) -> datetime:
    return datetime.fromtimestamp(moment.timestamp() // step_s * step_s, UTC)
