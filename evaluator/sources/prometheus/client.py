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
from evaluator.sources.prometheus.faults import explain_odd_answer
from evaluator.sources.prometheus.options import PrometheusSource
from evaluator.sources.prometheus.queries import fill_query, list_matchers, list_parts
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

MOST_CLOCK_OFFSET_S = 86_400.0
"""A server whose clock differs by more has no usable clock."""

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
    """Connect to the server and learn its clock. Raises SourceError, or UsageError for a secret that is not set."""
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
        """Prepare the session without a query. Raises UsageError for a secret that is not set."""
        self.options = options
        self.clock_offset_s = 0.0
        """How far the server's clock is ahead of ours."""
        self.hidden_s = 0.0
        """For how long it hides new samples (VictoriaMetrics: half a minute)."""
        with explain_missing_package("asking Prometheus needs", "prometheus", SourceError):
            from prometheus_api_client import PrometheusConnect

            from evaluator.sources.prometheus.transport import QuerySession

        def reveal(text: str | None) -> str:
            """Replace ${VARIABLE} by the secret in the environment."""
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
        self._why_impossible: dict[tuple[str, str], str] = {}
        """(query, arm) → why it can match nothing, as the search far back in time has shown."""

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
        sent_s = datetime.now(UTC).timestamp()
        result = self._client.custom_query("time()")
        our_clock_s = (sent_s + datetime.now(UTC).timestamp()) / 2
        try:  # a scalar, or the one sample of a vector: [time of the evaluation, value]
            sample = result[0]["value"] if isinstance(result[0], dict) else result
            evaluated_s = float(sample[1])
        except (KeyError, IndexError, TypeError, ValueError):
            evaluated_s = math.nan
        if not math.isfinite(evaluated_s):
            raise explain_odd_answer(self.options.shown_url, "time()", "it has no time")
        # The latest time that the server evaluates may be behind its clock, which the header Date shows.
        try:
            header_s = parsedate_to_datetime(self._session.reply.date).timestamp()
        except (TypeError, ValueError, OverflowError):
            header_s = None
        # The header is cut to whole seconds, half a second on average.
        server_clock_s = evaluated_s if header_s is None else header_s + 0.5
        offset_s = server_clock_s - our_clock_s
        if abs(offset_s) > MOST_CLOCK_OFFSET_S:
            direction = "ahead of" if offset_s > 0 else "behind"
            raise SourceError(
                f"the clock of {self.options.shown_url} is {abs(offset_s) / 3600:,.0f} h {direction} ours",
                hint="set both clocks, for example by NTP, or check that this is the server itself",
            )
        self.clock_offset_s = round(offset_s, 1) if abs(offset_s) > CLOCK_STEP_S else 0.0
        self.hidden_s = round(max(server_clock_s - evaluated_s - CLOCK_STEP_S, 0.0), 1)
        if self.hidden_s > MOST_CLOCK_OFFSET_S:
            problem = f"its time is {self.hidden_s / 3600:,.0f} h before the date in its head"
            raise explain_odd_answer(self.options.shown_url, "time()", problem)

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
        """Fetch all samples of a query for one arm from `start` to `end`, both included, by as many queries as needed.

        `on_progress` is called with a sentence after each window of a long fetch. An answer without samples has no
        series. Raises SourceError if the server does not answer, and UsageError for times without a zone.
        """
        window = self._to_range(start, end)
        selector = self.options.selectors[arm]
        step_s, window_s = float(self.options.step_s), (window.end_ms - window.start_ms) / 1000
        answer = Answer(query, arm, sent=(), start=window.start, end=window.end, step_s=step_s, series=())
        for part, text in list_parts(query):
            filled = fill_query(text, selector, step_s=step_s, window_s=window_s)
            answer = self._fetch_part(answer, part, filled, window, on_progress)
        if query.kind is QueryKind.HISTOGRAM and not answer.series:  # a native histogram has only its own series
            filled = fill_query(query.text, selector, step_s=step_s, window_s=window_s)
            answer = self._fetch_part(answer, "value", filled, window, on_progress)
        answer = replace(answer, step_s=_find_real_step(answer, step_s))
        if query.kind is QueryKind.HISTOGRAM:
            own_name = fill_query(query.text, selector, step_s=self.options.step_s, window_s=0)  # without `_bucket`
            return replace(answer, form=find_form(answer, lambda: self.labels_of(own_name, window.start, window.end)))
        return replace(answer, impossible=self._explain_unmatchable(answer, window))

    def _explain_unmatchable(self, answer: Answer, window: _Range) -> str:
        """Explain which condition on a label in an answer's query nothing on its arm can meet; empty if there is none.

        With series in the answer, it is a condition on a label that none of them has (`code!="500"` without a label
        `code`). Without series, the server is asked, once for each query and arm, which labels and values the series of
        the metric had in the window and in the seven days before.
        """
        query, arm = answer.query, answer.arm
        if not metric_name(query.text) or not list_matchers(query.text):
            return ""  # an expression, or a query without conditions on labels: it matches whatever there is
        if answer.series:  # they meet all conditions, so only the label of a condition may be missing
            return find_impossible(query.text, arm, [series.labels for series in answer.series])
        key = (query.text, arm)
        if key not in self._why_impossible:
            self._why_impossible[key] = self._look_back(query, arm, window)
        return self._why_impossible[key]

    def _look_back(self, query: Query, arm: str, window: _Range) -> str:
        """Explain why a query that found nothing in `window` can match nothing on an arm.

        It asks for the series of the window, and of the days before it (LOOK_BACK). Returns a sentence, or an empty
        text if the query can match something. If the server does not answer, the sentence says that this is not known.
        """

        def list_series_of(arm_name: str, period: _Range) -> list[Labels]:
            metric = f"{metric_name(query.text)}{{$selector}}"
            filled = fill_query(metric, self.options.selectors[arm_name], step_s=0, window_s=0)
            return self.labels_of(filled, period.start, period.end)

        query_on_all_arms = fill_query(query.text, "", step_s=0, window_s=0)
        long_period = _Range(window.start_ms - round(LOOK_BACK.total_seconds() * 1000), window.end_ms)
        other_arms = [name for name in self.options.selectors if name != arm]
        try:
            return find_impossible(
                query.text,
                arm,
                list_series_of(arm, window),
                # Only fetched if they are needed:
                lambda: self.labels_of(query_on_all_arms, long_period.start, long_period.end),
                lambda: [labels for name in other_arms for labels in list_series_of(name, long_period)],
            )
        except SourceError as error:
            return f"whether it could find anything on {arm} is not known: {error.message}"

    def _fetch_part(self, answer: Answer, part: Part, query_text: str, window: _Range, on_progress: Progress) -> Answer:
        """Fetch one part of an answer by a query that is ready to send.

        Returns the answer with the series added, and with the numbers of samples that were read or left out.
        """
        collected = Collected(part, self.options)
        replies = list(self._query_windows(query_text, window, collected, on_progress))
        collected_series = collected.series((window.start_ms, window.end_ms))
        warnings = [warning for reply in replies for warning in reply.warnings]
        notes = [note for reply in replies for note in reply.notes]
        return replace(
            answer,
            sent=(*answer.sent, query_text),
            series=(*answer.series, *collected_series.series),
            warnings=tuple(dict.fromkeys((*answer.warnings, *warnings))),  # each once
            notes=tuple(dict.fromkeys((*answer.notes, *notes))),
            read=(answer.read or 0) + collected.read,  # None before the first part
            nan=answer.nan + collected.nan,
            infinite=answer.infinite + collected.infinite,
            repeated=answer.repeated + collected_series.repeated,
            outside=answer.outside + collected_series.outside,
            duplicates=answer.duplicates + collected_series.duplicates,
        )

    def explain_nothing(self, query: Query, arm: str, start: datetime, end: datetime) -> str:
        """Explain a query without series for an arm: what was sent, and which labels exist. Raises SourceError."""
        selector = self.options.selectors[arm]
        _, first_text = list_parts(query)[0]
        sent_text = fill_query(first_text, selector, step_s=self.options.step_s, window_s=0)
        metric = metric_name(sent_text)
        message = f"the server has no series for {sent_text}"
        if not metric:  # an expression
            return f"{message}; does {selector} select anything in that time?"
        return f"{message}; {explain_labels(metric, sent_text, self.labels_of(metric, start, end))}"

    def metric_names(self, start: datetime, end: datetime) -> frozenset[str]:
        """The names of all metrics that had series in a window. Raises SourceError."""
        window = self._to_range(start, end)
        bounds = {"start": window.start.timestamp(), "end": window.end.timestamp()}
        return frozenset(map(str, self._client.all_metrics(bounds)))

    def labels_of(self, name: str, start: datetime, end: datetime) -> list[Labels]:
        """The labels of each series that a metric had in a window; none if there is no such metric.

        `name`: of the metric, also with label matchers. Raises SourceError.
        """
        window = self._to_range(start, end)
        series = self._client.get_series(window.start, window.end, {"match[]": name})
        if not isinstance(series, list) or not all(isinstance(labels, dict) for labels in series):
            raise explain_odd_answer(self.options.shown_url, name, "it is not a list of series")
        return series

    # -------------------------------------------------------------- windows

    def _to_range(self, start: datetime, end: datetime) -> _Range:
        """Two times, rounded to whole seconds, as a range. Raises UsageError for a time without a zone."""
        if start.tzinfo is None or end.tzinfo is None:
            raise UsageError("a time has no time zone", hint="give times in UTC")
        return _Range(round(start.timestamp()) * 1000, round(end.timestamp()) * 1000)

    def _query_windows(
        self, query_text: str, span: _Range, collected: Collected, on_progress: Progress
    ) -> Iterator[Reply]:
        """Send a query for one window of `span` after another, and add the samples to `collected`.

        A first short window shows how many series there are and how long an answer is, from which the length of the
        others follows. Yields of each answer what is not samples: its warnings, notes and size.
        """
        step_ms = self.options.step_s * 1000
        if metric_name(query_text):  # empty for an expression
            # Samples at their own times: the next window begins right after the last millisecond of the one before.
            start_ms, gap_ms = span.start_ms, 1
        else:
            # An expression is evaluated at whole steps: the first at or after the start.
            start_ms, gap_ms = math.ceil(span.start_ms / step_ms) * step_ms, step_ms
        series, answer_bytes = 1, 1  # at least 1, as the limits below are divided by them
        first_windows = _cut_into_windows(start_ms, span.end_ms, FIRST_STEPS * step_ms, step_ms, gap_ms)[:1]
        for window in first_windows:  # one window, or none if no step is in `span`
            result, reply = self._ask(query_text, window)
            series, answer_bytes = max(self._collect(collected, result, query_text), 1), max(reply.size, 1)
            yield reply
            start_ms = window.end_ms + gap_ms
        # Limits of a window, in steps: our memory, the server's points a series, the size of one answer (by the bytes
        # that each step of the first window took).
        steps = min(POINTS_AT_A_TIME // series, MOST_POINTS, FIRST_STEPS * BYTES_AT_A_TIME // answer_bytes)
        remaining = _cut_into_windows(start_ms, span.end_ms, max(1, steps) * step_ms, step_ms, gap_ms)
        for number, (result, reply) in enumerate(_prefetch(self._ask, query_text, remaining), start=1):
            self._collect(collected, result, query_text)
            yield reply
            if len(remaining) >= _PROGRESS_FROM_WINDOWS:
                on_progress(f"{query_text}: {number} of {len(remaining)} windows, {series:,} series")

    def _collect(self, collected: Collected, result: list[Any], query_text: str) -> int:
        """Add the series of one window to `collected`; returns how many there were. Raises SourceError.

        `result`: the series as the server sent them. `query_text`: for errors.
        """
        try:
            series = collected.add(result)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problem = "it has something other than series with samples"
            raise explain_odd_answer(self.options.shown_url, query_text, problem) from error
        if series > self.options.max_series:
            raise SourceError(
                f"{query_text} has {series:,} series, more than the {self.options.max_series:,} allowed",
                hint="narrow sources.prometheus.selectors, or raise sources.prometheus.max_series",
            )
        return series

    def _ask(self, query_text: str, window: _Range) -> _Answered:
        """Send a query for one window; returns its series, and the rest of the answer. Raises SourceError.

        If the query is the name of a metric, the series have the samples as they were scraped; else a value at each
        step. Some servers send a sample between two windows twice; it counts once.
        """
        sent_text, result = query_text, None
        if metric_name(query_text):
            # One ms more than the window: newer servers leave out the sample at the start of a range.
            sent_text = f"{query_text}[{window.end_ms - window.start_ms + 1}ms]"
            result = self._client.custom_query(sent_text, {"time": f"{window.end_ms / 1000:.3f}"})
        else:
            result = self._client.custom_query_range(query_text, window.start, window.end, str(self.options.step_s))
        reply = self._session.reply  # of the last answer: what the client does not return
        if reply.kind != "matrix":
            raise SourceError(
                f"{sent_text} gives a {reply.kind}, not series over time", hint="write a query that gives series"
            )
        if not isinstance(result, list):
            raise explain_odd_answer(self.options.shown_url, sent_text, "it has no list of series")
        return result, reply


def _find_real_step(answer: Answer, step_s: float) -> float:
    """The real interval of samples (s): the median of the series' medians, but at least the step of the policy."""
    series_times = [series.ts_ms for series in answer.series if series.ts_ms.size > 2]
    medians_s = [float(statistics.median(ts_ms[1:] - ts_ms[:-1])) / 1000 for ts_ms in series_times]
    # Rounded to whole seconds, as times of samples vary by milliseconds; the given step if no series has three samples.
    return max(step_s, round(statistics.median(medians_s) if medians_s else step_s))


def _cut_into_windows(start_ms: int, end_ms: int, length_ms: int, step_ms: int, gap_ms: int) -> list[_Range]:
    """Cut an interval, both ends included, into windows of a length; `gap_ms` is between the end and the next start.

    A window ends one step before its length is full, as its first and last point both belong to it.
    """
    windows = []
    while start_ms <= end_ms:
        window = _Range(start_ms, min(start_ms + length_ms - step_ms, end_ms))
        windows.append(window)
        start_ms = window.end_ms + gap_ms
    return windows


def _prefetch(
    ask: Callable[[str, _Range], _Answered], query_text: str, windows: Sequence[_Range]
) -> Iterator[_Answered]:
    """Yield the answer of each window in order; while the caller reads an answer, the next one is requested already."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending: deque[Future[_Answered]] = deque()  # at most two
        for window in windows:
            pending.append(pool.submit(ask, query_text, window))
            if len(pending) > 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
