"""Collect readings of a metrics server: of a past window, or as they come."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from evaluator.errors import SourceError, UnknownName, UsageError
from evaluator.pipeline.base import Say, say_nothing
from evaluator.policy import Policy
from evaluator.records import (
    BASELINE,
    READING_SOURCE,
    UP,
    WINDOWS,
    Answer,
    EvidenceKind,
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

LONGEST_SLEEP_S = 5.0
"""Between two polls; shorter if the step of the queries is."""

MOST_UNANSWERED_S = 600.0
"""Following ends after a server has not answered for this many seconds."""


@dataclass(frozen=True, slots=True)
class CollectionInterval:
    """From when to when readings are collected (UTC)."""

    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """Length of the interval (s)."""
        return (self.end - self.start).total_seconds()


def find_load_interval(store: Store, release_id: str, step: str = "") -> CollectionInterval | None:
    """Find from when to when the newest load of a release ran, with all its replicates.

    `step`: the newest load, or the newest production requests, of this step of a rollout. Returns `None` if there are
    none, or the release is unknown. A run that goes on ends now.
    """
    try:
        runs = store.data.runs(release_id)  # the oldest first
    except UnknownName:
        return None
    loads = [run for run in runs if run.source == "locust" and step in ("", run.step)]
    if step and not loads:
        loads = [run for run in runs if run.kind is EvidenceKind.LIVE and run.step == step]
    replicates = [run for run in loads if run.group == loads[-1].group]
    starts = [run.started for run in replicates if run.started]
    if not starts:
        return None
    ends = [run.ended or datetime.now(UTC) for run in replicates]
    return CollectionInterval(min(starts), max(ends))


def collect_release(
    store: Store,
    release: Release,
    policy: Policy,
    interval: CollectionInterval,
    *,
    step: str = "",
    say: Say = say_nothing,
) -> tuple[Run, int]:
    """Collect the readings of `interval` as a new run. Returns the run and the number of readings stored.

    `step`: the step of a rollout that they belong to, or empty.

    Waits until the server shows the last scrape of the interval. An arm without readings is stored without them, and
    `say` receives the cause. Raises UsageError for an interval that is too short or ends too late, and SourceError if
    the server does not answer all queries: then nothing is stored.
    """
    check_names(release)
    with connect(_require_server(policy)) as source:
        queries = _list_queries(policy)
        step_s = source.options.step_s
        _wait_for_end(source, interval, say)
        run = _new_run(release, source, interval, step)
        answers = _fetch_answers(source, queries, interval, say)
        answers = _explain_silent_arms(source, answers, say)
        store.data.register_run(release, run, bucket_s=choose_reading_bucket_s(interval.seconds, step_s))
        landed = store.data.keep_answers(run, answers, source.describe())
    store.data.finish_run(run.id, state=RunState.COMPLETE, ended=interval.end, facts=RunFacts())
    return run, landed.rows


def _wait_for_end(source: Prometheus, interval: CollectionInterval, say: Say) -> None:
    """Wait until the server shows the last scrape of an interval. Raises UsageError if it is too short or too late."""
    step_s = source.options.step_s
    if interval.seconds < step_s:
        raise UsageError(
            f"a window of {interval.seconds:g} s is shorter than the step of {step_s:g} s",
            hint="give a longer window",
        )
    wait_s = (interval.end - source.latest()).total_seconds() + SETTLE_STEPS * step_s
    if wait_s > LONGEST_WAIT_S:
        raise UsageError(
            f"the window ends {wait_s:.0f} s from now",
            hint="collect when it has ended; or, if all arms run at the same time, as readings come, with --follow",
        )
    if wait_s > 0:
        say(f"waiting {wait_s:.0f} s for the last scrapes")
        time.sleep(wait_s)


def collect_windows(
    store: Store,
    release: Release,
    policy: Policy,
    windows: Mapping[str, Sequence[CollectionInterval]],
    *,
    step: str = "",
    say: Say = say_nothing,
) -> tuple[Run, int]:
    """Collect the readings of arms that ran one after the other, as a new run: each arm's from windows of its own.

    `windows`: arm → its windows; in the order of time, the first of all arms are compared with each other, then the
    second … Returns the run and the number of readings stored. Raises the errors of `collect_release`, UnknownName for
    an arm without selector, and UsageError for windows that cannot be compared so.
    """
    check_names(release)
    with connect(_require_server(policy, arms_run_together=False)) as source:
        queries = _list_queries(policy)
        sorted_windows = {arm: sorted(of_arm, key=lambda window: window.start) for arm, of_arm in windows.items()}
        _check_windows(sorted_windows, tuple(source.options.selectors))
        all_windows = [window for of_arm in sorted_windows.values() for window in of_arm]
        for window in sorted(all_windows, key=lambda window: window.end):
            _wait_for_end(source, window, say)
        interval = CollectionInterval(
            min(window.start for window in all_windows), max(window.end for window in all_windows)
        )
        answers = []
        for arm, of_arm in sorted_windows.items():
            for window in of_arm:
                say(f"{arm}: {window.start:%Y-%m-%dT%H:%M:%SZ} to {window.end:%Y-%m-%dT%H:%M:%SZ}")
                answers_of_window = _fetch_answers(source, queries, window, say, arms=(arm,))
                answers += _explain_silent_arms(source, answers_of_window, say)
        sources = {**source.describe(), WINDOWS: {arm: _to_spans(of_arm) for arm, of_arm in sorted_windows.items()}}
        run = _new_run(release, source, interval, step)
        longest_s = max(window.seconds for window in all_windows)
        store.data.register_run(release, run, bucket_s=choose_reading_bucket_s(longest_s, source.options.step_s))
        landed = store.data.keep_answers(run, answers, sources)
    store.data.finish_run(run.id, state=RunState.COMPLETE, ended=interval.end, facts=RunFacts())
    return run, landed.rows


def _to_spans(windows: Iterable[CollectionInterval]) -> list[list[int]]:
    """Write windows as pairs of start and end, ms since the epoch."""
    return [[round(window.start.timestamp() * 1000), round(window.end.timestamp() * 1000)] for window in windows]


def _check_windows(windows: Mapping[str, Sequence[CollectionInterval]], arms: Sequence[str]) -> None:
    """Check that each of `arms` has windows, equally many, and that no two overlap which must not.

    `windows`: arm → its windows in the order of time. Raises UnknownName and UsageError.
    """
    for arm in windows:
        if arm not in arms:
            raise UnknownName("arm", arm, arms, hint="sources.prometheus.selectors of the policy names the arms")
    counts = {arm: len(windows.get(arm, ())) for arm in arms}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of {arm}" for arm, count in counts.items())
        raise UsageError(
            f"each arm needs equally many windows: {listed}",
            hint="each window of the baseline is compared with one of the candidate: give both",
        )
    baseline = windows[BASELINE]
    for arm, of_arm in windows.items():
        for number, window in enumerate(of_arm):
            # Candidates may have run together: only windows of one arm, and of the baseline and a candidate, must not.
            others = [*of_arm[:number], *(baseline if arm != BASELINE else ())]
            for other in others:
                if window.start < other.end and other.start < window.end:
                    raise UsageError(
                        f"two windows overlap: {arm} from {window.start:%Y-%m-%dT%H:%M:%SZ}, and another from "
                        f"{other.start:%Y-%m-%dT%H:%M:%SZ}",
                        hint="if the arms ran at the same time, give --from and --to; else end the first window when "
                        "the version was replaced",
                    )


def _explain_silent_arms(source: Prometheus, answers: Sequence[Answer], say: Say) -> list[Answer]:
    """Explain why an arm has no series: its targets were never scraped, or its selector is wrong.

    Returns all answers; for each such arm, one of its answers has the explanation in `impossible`. An arm with any
    series, except those of `up`, is not explained.
    """
    explained_answers = list(answers)
    for arm in dict.fromkeys(answer.arm for answer in answers):
        indices_of_arm = [index for index, answer in enumerate(answers) if answer.arm == arm and answer.query != UP]
        if any(answers[index].series for index in indices_of_arm):
            continue
        # An explanation lists the labels that exist under a query's name of series. Gauges come last, because their
        # queries are often expressions without such a name.
        indices_of_arm.sort(key=lambda index: answers[index].query.kind is QueryKind.GAUGE)
        explained_index = indices_of_arm[0]
        explained = answers[explained_index]
        why = source.explain_nothing(explained.query, arm, explained.start, explained.end)
        explained_answers[explained_index] = replace(explained, impossible=why)
        say(f"{arm} has no readings: {why}")
    return explained_answers


def check_source(policy: Policy) -> None:
    """Check that the policy has queries and that its metrics server answers.

    Raises the same errors as a collection: UsageError, SourceError.
    """
    _list_queries(policy)
    connect(_require_server(policy)).close()


def collect_load(
    store: Store, release: Release, policy: Policy, *, step: str = "", say: Say = say_nothing
) -> tuple[Run, int]:
    """Collect the readings of the newest load of a release, from one scrape before it to one scrape after it.

    `step`: those of this step of a rollout, of its load or else of its production requests. Returns the run and the
    number of readings stored. Raises UsageError for a release without a load, and the errors of `collect_release`.
    """
    check_names(release)
    interval = find_load_interval(store, release.id, step)
    if interval is None:
        of_step = f" in step {step}" if step else ""
        raise UsageError(
            f"there is no window to collect: {release.id} has no load{of_step}",
            hint="give a window with --from and --to, such as --from -1h, or load the release first",
        )
    one_scrape = timedelta(seconds=_require_server(policy).step_s)
    widened = CollectionInterval(interval.start - one_scrape, interval.end + one_scrape)
    return collect_release(store, release, policy, widened, step=step, say=say)


def follow_release(
    store: Store,
    release: Release,
    policy: Policy,
    *,
    start: datetime | None = None,
    seconds: float | None = None,
    step: str = "",
    say: Say = say_nothing,
) -> tuple[Run, int]:
    """Collect readings as they come, from `start` on (default: now) for `seconds`.

    Without `seconds`, it lasts as long as the policy's longest duration. Returns the run and the number of readings
    stored. Each poll begins where the last one ended, so a server that does not answer for a while causes neither gaps
    nor duplicates. Readings stay stored whatever ends the collection: KeyboardInterrupt, a server that does not come
    back (SourceError), SIGKILL.
    """
    check_names(release)
    with connect(_require_server(policy)) as source:
        step_s = source.options.step_s
        first_scrape = _round_down(start or datetime.now(UTC), step_s)
        duration_s = seconds if seconds is not None else policy.rulebook.monitoring.max_duration_s
        interval = CollectionInterval(first_scrape, first_scrape + timedelta(seconds=duration_s))
        run = _new_run(release, source, interval, step)
        store.data.register_run(release, run, bucket_s=choose_reading_bucket_s(duration_s, step_s))
        follower = _Follower(store, run, source, _list_queries(policy), say)
        stopped_by = "the collection was interrupted"  # stays if an exception ends follow()
        try:
            stopped_by = follower.follow()
        finally:
            state = RunState.INCOMPLETE if stopped_by else RunState.COMPLETE
            store.data.finish_run(
                run.id, state=state, ended=follower.stored_until, facts=RunFacts(stopped_by=stopped_by)
            )
    if stopped_by:
        raise SourceError(stopped_by, hint="what was collected until then is in the store")
    return run, follower.stored_rows


class _Follower:
    """Polls a metrics server until the run's planned end."""

    def __init__(self, store: Store, run: Run, source: Prometheus, queries: Sequence[Query], say: Say) -> None:
        self.store = store
        self.run = run
        self.source = source
        self.queries = queries
        self.say = say
        self.step_s = source.options.step_s
        self.stored_rows = 0
        """Number of readings stored."""
        self.stored_until = run.started or datetime.now(UTC)
        """Readings up to this time are stored; at first the start of the run."""
        self.failed_since: float | None = None
        """Monotonic time (s) of the first of the latest failed polls; `None` after an answer."""

    def follow(self) -> str:
        """Poll to the planned end of the run. Returns why polling ended early; empty if it did not."""
        end = self.run.planned_end
        settle = timedelta(seconds=SETTLE_STEPS * self.step_s)  # the newest scrapes may not be visible to queries yet
        while end and self.stored_until < end:
            try:
                self._poll(min(end, _round_down(self.source.latest() - settle, self.step_s)))
            except SourceError as error:
                now = time.monotonic()
                if self.failed_since is None:
                    self.failed_since = now
                    self.say(f"no answer, trying again: {error.message}")
                if now - self.failed_since > MOST_UNANSWERED_S:
                    return f"no answer for {MOST_UNANSWERED_S:g} s: {error.message}"
            time.sleep(min(self.step_s, LONGEST_SLEEP_S))
        return ""

    def _poll(self, end: datetime) -> None:
        """Fetch and store the readings from the end of the last poll to `end`. Raises SourceError."""
        if end <= self.stored_until:
            return
        answers = _fetch_answers(self.source, self.queries, CollectionInterval(self.stored_until, end), say_nothing)
        if self.failed_since is not None:
            self.say("the server answers again; continuing where the last answer ended")
        self.failed_since = None
        if self.stored_rows:
            # Both ends of an interval are included, so samples at its start were stored by the poll before.
            answers = [_drop_samples_until(answer, self.stored_until) for answer in answers]
        landed = self.store.data.keep_answers(self.run, answers, self.source.describe())
        self.stored_rows += landed.rows
        self.stored_until = end
        self.say(f"{landed.rows} readings until {end:%H:%M:%S} UTC")


def _drop_samples_until(answer: Answer, stored_until: datetime) -> Answer:
    """Leave out the samples that an earlier poll has stored: those at `stored_until` and before.

    Their number is added to `repeated` of the answer.
    """
    stored_until_ms = round(stored_until.timestamp() * 1000)
    series_with_new_samples = []
    repeated = 0
    for series in answer.series:
        is_new = series.ts_ms > stored_until_ms
        repeated += int((~is_new).sum())
        if is_new.any():
            new_samples = replace(series, ts_ms=series.ts_ms[is_new], values=series.values[is_new])
            series_with_new_samples.append(new_samples)
    return replace(answer, series=tuple(series_with_new_samples), repeated=answer.repeated + repeated)


def _require_server(policy: Policy, *, arms_run_together: bool = True) -> PrometheusSource:
    """Return the metrics server that the policy names.

    Raises UsageError if it names none, or if the arms run together and two of them have one selector.
    """
    if policy.prometheus is None:
        raise UsageError(
            "the policy names no metrics server",
            hint="add `sources: {prometheus: {url: …, selectors: {baseline: …, canary: …}}}` to the policy",
        )
    selectors = policy.prometheus.selectors
    if arms_run_together and len(set(selectors.values())) < len(selectors):
        raise UsageError(
            "sources.prometheus.selectors has one selector for two arms, which are then the same series",
            hint="write selectors that differ; or, if the arms ran one after the other on one server, collect with "
            "`--baseline-window START/END --canary-window START/END`",
        )
    return policy.prometheus


def _list_queries(policy: Policy) -> tuple[Query, ...]:
    """List each query of the policy's metrics once, and `up`, which shows which targets answered their scrapes.

    Raises UsageError if no metric of the policy has a query.
    """
    queries = dict.fromkeys(query for rule in policy.rulebook.rules for query in rule.metric.queries)
    if not queries:
        raise UsageError(
            "the policy has no metric of readings",
            hint="add one, or a ready-made set: sources: {prometheus: {queries: [red-http]}}",
        )
    return tuple(dict.fromkeys((*queries, UP)))


def _fetch_answers(
    source: Prometheus,
    queries: Iterable[Query],
    interval: CollectionInterval,
    say: Say,
    arms: Sequence[str] = (),
) -> list[Answer]:
    """Send each query for each of `arms` (default: all); `say` receives the progress. Raises SourceError."""
    answers = []
    pairs = [(query, arm) for query in queries for arm in arms or source.options.selectors]
    for number, (query, arm) in enumerate(pairs, start=1):
        say(f"{number} of {len(pairs)}: {arm}: {query.text}")
        answers.append(source.fetch(query, arm, interval.start, interval.end, on_progress=say))
    return answers


def _new_run(release: Release, source: Prometheus, interval: CollectionInterval, step: str) -> Run:
    """Describe a new run of readings, not yet stored; host and process show later whether it is still collected."""
    run_id = new_run_id()
    return Run(
        id=run_id,
        release=release.id,
        group=run_id,
        source=READING_SOURCE,
        started=interval.start,
        planned_end=interval.end,
        fingerprint={**source.describe(), "host": platform.node(), "pid": os.getpid()},
        step=step,
    )


def _round_down(moment: datetime, step_s: float) -> datetime:
    """Return the last multiple of `step_s` seconds since the epoch that is not after `moment`."""
    return datetime.fromtimestamp(moment.timestamp() // step_s * step_s, UTC)
