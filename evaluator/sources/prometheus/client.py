"""Ask a metrics server, window by window.

A query that is the name of a metric with labels is sent with a range selector: the answer has the samples as they were
scraped, at their own times. A missed scrape is missing: no value is repeated for five minutes, as in a range query. Any
other query (an expression of gauges) is evaluated at each step by a range query. Servers limit range queries to 11,000
points a series, so windows are cut to that. No sample is in two windows, and none is lost between them.

The size of a window follows from the number of series, so memory stays the same for one and for ten thousand.
Compression is declined, since servers take three to ten times as long with it.

PrometheusConnect sends the queries; its session (`transport`) checks and reads each answer, and explains why.
"""

from __future__ import annotations

import math
import os
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from evaluator.errors import SourceError, UsageError
from evaluator.extensions import explain_missing_package
from evaluator.records import Answer, Part, Query, QueryKind, metric_name
from evaluator.secrecy import OF_SOURCES
from evaluator.sources.prometheus.absence import Labels, explain_labels, find_form, find_impossible
from evaluator.sources.prometheus.faults import odd_answer
from evaluator.sources.prometheus.options import PrometheusSource
from evaluator.sources.prometheus.queries import fill, matchers_of, parts_of
from evaluator.sources.prometheus.series import Collected

if TYPE_CHECKING:
    from evaluator.sources.prometheus.transport import Reply


MOST_POINTS = 11_000
"""Most points a series in the answer to a range query."""

POINTS_AT_A_TIME = 150_000
"""Samples requested at a time, over all series: less than 100 MB while they are read."""

FIRST_STEPS = 60
"""Steps of the first window, which shows how many series there are."""

CLOCK_STEP_S = 1.0
"""Clocks that differ by at most this count as equal: dates in answers have whole seconds."""

BYTES_AT_A_TIME = 1 << 25
"""Target size of one answer: samples of native histograms are long."""

LOOK_BACK = timedelta(days=7)
"""How far before the window a value of a label is searched for."""

Progress = Callable[[str], None]
_Answered: TypeAlias = "tuple[list[Any], Reply]"
"""Series, and the rest of the answer."""

TENANT_HEADER = "X-Scope-OrgID"
_PROGRESS_FROM_WINDOWS = 3


def connect(options: PrometheusSource) -> Prometheus:
    """Reach the server and learn its clock. Raises SourceError, or UsageError for a secret that is not set."""
    source = Prometheus(options)
    try:
        source.learn_clock()
    except BaseException:
        source.close()
        raise
    return source


@dataclass(frozen=True, slots=True)
class _Range:
    """An interval, both ends included, in ms since the epoch."""

    start_ms: int
    end_ms: int

    @property
    def start(self) -> datetime:
        return datetime.fromtimestamp(self.start_ms / 1000, UTC)

    @property
    def end(self) -> datetime:
        return datetime.fromtimestamp(self.end_ms / 1000, UTC)


class Prometheus:
    """A metrics server that is queried for readings."""

    def __init__(self, options: PrometheusSource) -> None:
        self.options = options
        self.clock_offset_s = 0.0
        """How far the server's clock is ahead of ours."""
        self.hidden_s = 0.0
        """For how long it hides new samples (VictoriaMetrics: half a minute)."""
        with explain_missing_package("asking Prometheus needs", "prometheus", SourceError):
            from prometheus_api_client import PrometheusConnect

            from evaluator.sources.prometheus.transport import QuerySession

        def reveal(text: str | None) -> str:
            return OF_SOURCES.reveal(text or "", os.environ)

        headers = {name: reveal(value) for name, value in options.headers.items()}
        if options.tenant:
            headers[TENANT_HEADER] = reveal(options.tenant)
        if options.auth.bearer:
            headers["Authorization"] = f"Bearer {reveal(options.auth.bearer)}"
        basic = options.auth.basic
        self._session = QuerySession(options)
        self._client = PrometheusConnect(
            url=options.url.rstrip("/"),
            headers={"Accept-Encoding": "identity", **headers},
            auth=(reveal(basic.username), reveal(basic.password)) if basic else None,
            session=self._session,
            timeout=options.timeout,
            method="POST",
        )
        self._seen: dict[tuple[str, str], str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def latest(self) -> datetime:
        """The latest time that can be queried, by the server's clock; some servers hide samples of the last 30 s."""
        return datetime.now(UTC) + timedelta(seconds=self.clock_offset_s - self.hidden_s)

    def learn_clock(self) -> None:
        """Compare the server's clock with ours, and learn for how long it hides new samples. Raises SourceError."""
        before = datetime.now(UTC).timestamp()
        result = self._client.custom_query("time()")
        middle = (before + datetime.now(UTC).timestamp()) / 2
        try:  # a scalar, or the one sample of a vector
            evaluated = float((result[0]["value"] if isinstance(result[0], dict) else result)[1])
        except (KeyError, IndexError, TypeError, ValueError):
            evaluated = math.nan
        if not math.isfinite(evaluated):
            raise odd_answer(self.options.shown_url, "time()", "it has no time")
        try:
            written = parsedate_to_datetime(self._session.reply.date).timestamp()
        except (TypeError, ValueError, OverflowError):
            written = None
        # The header has whole seconds: it was up to one second ago when it was written.
        clock = evaluated if written is None else written + 0.5
        offset = clock - middle
        self.clock_offset_s = round(offset, 1) if abs(offset) > CLOCK_STEP_S else 0.0
        self.hidden_s = round(max(clock - evaluated - CLOCK_STEP_S, 0.0), 1)

    def describe(self) -> Mapping[str, Any]:
        """What makes two collections comparable, and where they came from. No secrets."""
        options = self.options
        return {
            "url": options.shown_url,
            "selectors": dict(options.selectors),
            "step_s": options.step_s,
            "instance_label": options.instance_label,
            "endpoint_label": options.endpoint_label,
            "clock_offset_s": self.clock_offset_s,
        }

    def fetch(
        self, query: Query, arm: str, start: datetime, end: datetime, *, on_progress: Progress = lambda _: None
    ) -> Answer:
        """Fetch all samples of a query for one arm from `start` to `end`, both included.

        An answer without samples has no series. Raises SourceError where the server does not answer, and UsageError for
        times without a zone.
        """
        window = self._window(start, end)
        selector = self.options.selectors[arm]
        step_s, seconds = float(self.options.step_s), (window.end_ms - window.start_ms) / 1000
        answer = Answer(query, arm, (), window.start, window.end, step_s, ())
        for part, text in parts_of(query):
            filled = fill(text, selector, step_s=step_s, window_s=seconds)
            answer = self._add(answer, part, filled, window, on_progress)
        if query.kind is QueryKind.HISTOGRAM and not answer.series:  # a native one has only its own series
            filled = fill(query.text, selector, step_s=step_s, window_s=seconds)
            answer = self._add(answer, "value", filled, window, on_progress)
        # The real interval of samples: the median, where it is longer than the step of the policy.
        series_times = [series.ts_ms for series in answer.series if series.ts_ms.size > 2]
        steps = [float(statistics.median(ts_ms[1:] - ts_ms[:-1])) / 1000 for ts_ms in series_times]
        answer = replace(answer, step_s=max(step_s, round(statistics.median(steps) if steps else step_s)))
        # The form of a histogram, and whether a query that found nothing could have found something.
        if query.kind is QueryKind.HISTOGRAM:
            plain = fill(query.text, selector, step_s=self.options.step_s, window_s=0)
            return replace(answer, form=find_form(answer, lambda: self.labels_of(plain, window.start, window.end)))
        if not metric_name(query.text) or not matchers_of(query.text):
            return answer
        if answer.series:
            return replace(answer, impossible=find_impossible(query.text, arm, [s.labels for s in answer.series]))
        key = (query.text, arm)
        if key not in self._seen:  # once a collection: it looks far back
            self._seen[key] = self._look_back(query, arm, window)
        return replace(answer, impossible=self._seen[key])

    def _look_back(self, query: Query, arm: str, window: _Range) -> str:
        """Why a query could match nothing on an arm; that the server does not answer this is a reason, too."""
        selectors, metric = self.options.selectors, f"{metric_name(query.text)}{{$selector}}"
        own, *others = (
            fill(metric, selectors[name], step_s=0, window_s=0)
            for name in sorted(selectors, key=lambda name: name != arm)
        )
        anywhere = fill(query.text, "", step_s=0, window_s=0)
        longer = _Range(window.start_ms - round(LOOK_BACK.total_seconds() * 1000), window.end_ms)
        try:
            return find_impossible(
                query.text,
                arm,
                self.labels_of(own, window.start, window.end),
                lambda: self.labels_of(anywhere, longer.start, longer.end),
                lambda: [labels for text in others for labels in self.labels_of(text, longer.start, longer.end)],
            )
        except SourceError as error:
            return f"whether it could find anything on {arm} is not known: {error.message}"

    def _add(self, answer: Answer, part: Part, text: str, window: _Range, on_progress: Progress) -> Answer:
        """Ask one more query of the same answer."""
        collected = Collected(part, self.options)
        replies = list(self._windows(text, window, collected, on_progress))
        collected_series = collected.series((window.start_ms, window.end_ms))
        return replace(
            answer,
            sent=(*answer.sent, text),
            series=(*answer.series, *collected_series.series),
            warnings=tuple(dict.fromkeys((*answer.warnings, *(text for reply in replies for text in reply.warnings)))),
            notes=tuple(dict.fromkeys((*answer.notes, *(text for reply in replies for text in reply.notes)))),
            read=(answer.read or 0) + collected.read,
            nan=answer.nan + collected.nan,
            infinite=answer.infinite + collected.infinite,
            repeated=answer.repeated + collected_series.repeated,
            outside=answer.outside + collected_series.outside,
            duplicates=answer.duplicates + collected_series.duplicates,
        )

    def explain_nothing(self, query: Query, arm: str, start: datetime, end: datetime) -> str:
        """Explain a query without series for an arm: what was sent, and which labels exist. Raises SourceError."""
        selector = self.options.selectors[arm]
        _, text = parts_of(query)[0]
        filled = fill(text, selector, step_s=self.options.step_s, window_s=0)
        name = metric_name(filled)
        message = f"the server has no series for {filled}"
        if not name:
            return f"{message}; does {selector} select anything in that time?"
        return f"{message}; {explain_labels(name, filled, self.labels_of(name, start, end))}"

    def metric_names(self, start: datetime, end: datetime) -> frozenset[str]:
        """The names of all metrics that had series in a window. Raises SourceError."""
        window = self._window(start, end)
        bounds = {"start": window.start.timestamp(), "end": window.end.timestamp()}
        return frozenset(map(str, self._client.all_metrics(bounds)))

    def labels_of(self, name: str, start: datetime, end: datetime) -> list[Labels]:
        """The labels of each series that a metric had in a window; none where there is no such metric."""
        window = self._window(start, end)
        series = self._client.get_series(window.start, window.end, {"match[]": name})
        if not isinstance(series, list) or not all(isinstance(labels, dict) for labels in series):
            raise odd_answer(self.options.shown_url, name, "it is not a list of series")
        return series

    # -------------------------------------------------------------- windows

    def _window(self, start: datetime, end: datetime) -> _Range:
        if start.tzinfo is None or end.tzinfo is None:
            raise UsageError("a time has no time zone", hint="give times in UTC")
        return _Range(round(start.timestamp()) * 1000, round(end.timestamp()) * 1000)

    def _windows(self, text: str, span: _Range, collected: Collected, on_progress: Progress) -> Iterator[Reply]:
        """Query window by window; yields the rest of each answer."""
        raw, step_ms = bool(metric_name(text)), self.options.step_s * 1000
        gap = 1 if raw else step_ms
        start = span.start_ms if raw else -(-span.start_ms // step_ms) * step_ms
        first = _cut(start, span.end_ms, FIRST_STEPS * step_ms, step_ms, gap)[:1]
        series, size = 1, 1
        for window in first:
            result, reply = self._ask(text, window)
            series, size = max(self._take(collected, result, text), 1), max(reply.size, 1)
            yield reply
            start = window.end_ms + gap
        points = min(POINTS_AT_A_TIME // series, MOST_POINTS, FIRST_STEPS * BYTES_AT_A_TIME // size)
        remaining = _cut(start, span.end_ms, max(1, points) * step_ms, step_ms, gap)
        for number, (result, reply) in enumerate(_prefetch(self._ask, text, remaining), start=1):
            self._take(collected, result, text)
            yield reply
            if len(remaining) >= _PROGRESS_FROM_WINDOWS:
                on_progress(f"{text}: {number} of {len(remaining)} windows, {series:,} series")

    def _take(self, collected: Collected, result: list[Any], text: str) -> int:
        """Add the series of one window; returns how many there were."""
        try:
            series = collected.add(result)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            why = "it has something other than series with samples"
            raise odd_answer(self.options.shown_url, text, why) from error
        if series > self.options.max_series:
            raise SourceError(
                f"{text} has {series:,} series, more than the {self.options.max_series:,} allowed",
                hint="narrow sources.prometheus.selectors, or raise sources.prometheus.max_series",
            )
        return series

    def _ask(self, text: str, window: _Range) -> _Answered:
        """Samples as they were scraped where the query is the name of a metric, else values at each step.

        Some servers send a sample between two windows twice; it counts once.
        """
        query, result = text, None
        if metric_name(text):
            # One ms more than the window: newer servers leave out the sample at the start of a range.
            query = f"{text}[{window.end_ms - window.start_ms + 1}ms]"
            result = self._client.custom_query(query, {"time": f"{window.end_ms / 1000:.3f}"})
        else:
            result = self._client.custom_query_range(text, window.start, window.end, str(self.options.step_s))
        reply = self._session.reply
        if reply.kind != "matrix":
            raise SourceError(
                f"{query} gives a {reply.kind}, not series over time", hint="write a query that gives series"
            )
        if not isinstance(result, list):
            raise odd_answer(self.options.shown_url, query, "it has no list of series")
        return result, reply


def _cut(start_ms: int, end_ms: int, length_ms: int, step_ms: int, gap_ms: int) -> list[_Range]:
    """Cut an interval into windows; `gap_ms` is between the end of one and the start of the next."""
    out = []
    while start_ms <= end_ms:
        end = min(start_ms + length_ms - step_ms, end_ms)
        out.append(_Range(start_ms, end))
        start_ms = end + gap_ms
    return out


def _prefetch(ask: Callable[[str, _Range], _Answered], text: str, windows: Sequence[_Range]) -> Iterator[_Answered]:
    """Request the next window while the last one is read."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending: deque[Future[_Answered]] = deque()
        for window in windows:
            pending.append(pool.submit(ask, text, window))
            if len(pending) > 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
