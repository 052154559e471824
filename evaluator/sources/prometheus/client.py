"""Ask a metrics server, window by window.

A query that is a series' name with labels is asked for with a range selector: what comes is the samples as they were
scraped, at their own times. A scrape that was missed is missing, and no value is repeated for the five minutes that a
range query looks back. Anything else (a function of gauges) is evaluated at each step by a range query; servers limit
those to 11,000 points a series, and windows are cut accordingly. Windows share no sample, and none falls between them.

The size of a window follows from the number of series: what is held in memory stays the same for one and for ten
thousand. Compression is declined, since servers take three to ten times as long with it.
"""

from __future__ import annotations

import re
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit, urlunsplit

from evaluator.errors import SourceError, UsageError
from evaluator.records import Answer, Part, Query, QueryKind, Series
from evaluator.sources.prometheus.faults import check_answer, unreachable
from evaluator.sources.prometheus.options import PrometheusOptions, reveal
from evaluator.sources.prometheus.queries import fill, is_plain, metric_name, parts_of
from evaluator.sources.prometheus.series import Collected

if TYPE_CHECKING:
    import requests
    from prometheus_api_client import PrometheusConnect

__all__ = ["Prometheus", "connect"]

MOST_POINTS = 11_000
"""Points a series that a range query may have."""

POINTS_AT_A_TIME = 150_000
"""Samples asked for at a time, over all series: less than 100 MB while they are read."""

FIRST_STEPS = 60
"""Steps of the first window, which tells how many series there are."""

CLOCK_STEP_S = 1.0
"""What two clocks may differ by and still be taken as the same: dates in answers have whole seconds."""

CHUNK_BYTES = 1 << 20

Progress = Callable[[str], None]
TENANT_HEADER = "X-Scope-OrgID"
_PROGRESS_FROM_WINDOWS = 3


def connect(options: PrometheusOptions) -> Prometheus:
    """Reach the server and learn its clock. Raises SourceError, or UsageError for a secret that is not set."""
    source = Prometheus(options)
    try:
        source.learn_clock()
    except BaseException:
        source.close()
        raise
    return source


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch of time, both ends included, in ms since the epoch."""

    start_ms: int
    end_ms: int


class Prometheus:
    """A metrics server that is asked for readings."""

    def __init__(self, options: PrometheusOptions) -> None:
        self.options = options
        self.clock_offset_s = 0.0
        """How far the server's clock is ahead of ours."""
        self.hidden_s = 0.0
        """For how long it hides new samples (VictoriaMetrics: half a minute)."""
        self._session = _make_session(options)
        self._client = _make_client(options, self._session)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._session.close()

    def latest(self) -> datetime:
        """Until when the server can be asked, by its own clock; some hide what is younger than half a minute."""
        return datetime.now(UTC) + timedelta(seconds=self.clock_offset_s - self.hidden_s)

    def learn_clock(self) -> None:
        """Compare the server's clock with ours, and learn for how long it hides new samples. Raises SourceError."""
        before = datetime.now(UTC).timestamp()
        data, told = self._send("query", {"query": "time()"})
        middle = (before + datetime.now(UTC).timestamp()) / 2
        result = data["data"]["result"]
        evaluated = float(result[1] if data["data"].get("resultType") == "scalar" else result[0]["value"][1])
        # The header has whole seconds: it was up to one second ago when it was written.
        clock = parsedate_to_datetime(told).timestamp() + 0.5 if told else evaluated
        offset = clock - middle
        self.clock_offset_s = round(offset, 1) if abs(offset) > CLOCK_STEP_S else 0.0
        self.hidden_s = round(max(clock - evaluated - CLOCK_STEP_S, 0.0), 1)

    def describe(self) -> Mapping[str, Any]:
        """What makes two collections comparable, and where they came from. No secrets."""
        options = self.options
        return {
            "url": _without_secrets(options.url),
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

        No sample is an answer too, without series. Raises SourceError where the server does not answer, and UsageError
        for times without a zone.
        """
        window = self._window(start, end)
        selector = self.options.selectors[arm]
        step_s, seconds = float(self.options.step_s), (window.end_ms - window.start_ms) / 1000
        answer = Answer(
            query,
            arm,
            (),
            datetime.fromtimestamp(window.start_ms / 1000, UTC),
            datetime.fromtimestamp(window.end_ms / 1000, UTC),
            step_s,
            (),
        )
        for part, text in parts_of(query):
            filled = fill(text, selector, step_s=step_s, window_s=seconds)
            answer = self._add(answer, part, filled, window, on_progress)
        if query.kind is QueryKind.HISTOGRAM and not answer.series:  # a native one has no series but its own
            filled = fill(query.text, selector, step_s=step_s, window_s=seconds)
            answer = self._add(answer, "value", filled, window, on_progress)
        return replace(answer, step_s=_find_step(answer.series, step_s))

    def _add(self, answer: Answer, part: Part, text: str, window: _Window, on_progress: Progress) -> Answer:
        """Ask one more query of the same answer."""
        collected = Collected(part, self.options)
        warnings = [told for window in self._windows(text, window, collected, on_progress) for told in window]
        series, doubles = collected.series()
        return replace(
            answer,
            sent=(*answer.sent, text),
            series=(*answer.series, *series),
            warnings=tuple(dict.fromkeys((*answer.warnings, *warnings))),
            nan=answer.nan + collected.nan,
            duplicates=answer.duplicates + doubles,
        )

    def explain_nothing(self, query: Query, arm: str, start: datetime, end: datetime) -> SourceError:
        """The error of a query that has no series for an arm: what was asked, and which labels do exist."""
        window = self._window(start, end)
        selector = self.options.selectors[arm]
        _, text = parts_of(query)[0]
        filled = fill(text, selector, step_s=self.options.step_s, window_s=0)
        name = metric_name(filled)
        message = f"{arm}: the server has no series for {filled}"
        if not name:
            return SourceError(message, hint=f"does {selector} select anything in that window?")
        return SourceError(message, hint=self._known_labels(name, filled, window))

    def labels_of(self, name: str, start: datetime, end: datetime) -> list[Mapping[str, str]]:
        """The labels of each series that a metric had in a window; none where there is no such metric."""
        return self._labels_of(name, self._window(start, end))

    def _labels_of(self, name: str, window: _Window) -> list[Mapping[str, str]]:
        bounds = {"match[]": name, "start": str(window.start_ms / 1000), "end": str(window.end_ms / 1000)}
        found: list[Mapping[str, str]] = self._post("series", bounds)["data"]
        return found

    def _known_labels(self, name: str, asked_for: str, window: _Window) -> str:
        series = self._labels_of(name, window)
        if not series:
            return f"there is no metric {name} in that window: is it scraped, and does its name end like this?"
        known: dict[str, set[str]] = {}
        for one in series:
            for label, value in one.items():
                known.setdefault(label, set()).add(value)
        known.pop("__name__", None)
        asked = [label for label in sorted(known) if re.search(rf"\b{label}\s*[=!]", asked_for)] or sorted(known)
        shown = "; ".join(f"{label} is {_list_some(sorted(known[label]))}" for label in asked)
        return f"{name} is there, but with other labels: {shown}"

    # -------------------------------------------------------------- windows

    def _window(self, start: datetime, end: datetime) -> _Window:
        if start.tzinfo is None or end.tzinfo is None:
            raise UsageError("a time without a zone is not a moment", hint="give times in UTC")
        return _Window(round(start.timestamp()) * 1000, round(end.timestamp()) * 1000)

    def _windows(
        self, text: str, whole: _Window, collected: Collected, on_progress: Progress
    ) -> Iterator[tuple[str, ...]]:
        """Ask window by window; yields what the server warns of."""
        raw, step_ms = is_plain(text), self.options.step_s * 1000
        ask, gap = (self._ask_samples, 1) if raw else (self._ask_steps, step_ms)
        start = whole.start_ms if raw else -(-whole.start_ms // step_ms) * step_ms
        first = _cut(start, whole.end_ms, FIRST_STEPS * step_ms, step_ms, gap)[:1]
        series = 1
        for window in first:
            data, warnings = ask(text, window)
            series = max(collected.add(data), 1)
            self._check_number(series, text)
            yield warnings
            start = window.end_ms + gap
        length = max(1, min(POINTS_AT_A_TIME // series, MOST_POINTS)) * step_ms
        rest = _cut(start, whole.end_ms, length, step_ms, gap)
        for number, (data, warnings) in enumerate(_one_ahead(ask, text, rest), start=1):
            self._check_number(collected.add(data), text)
            yield warnings
            if len(rest) >= _PROGRESS_FROM_WINDOWS:
                on_progress(f"{text}: {number} of {len(rest)} windows, {series:,} series")

    def _check_number(self, series: int, text: str) -> None:
        if series > self.options.max_series:
            raise SourceError(
                f"{text} has {series:,} series, more than the {self.options.max_series:,} allowed",
                hint="narrow the selectors, or raise sources.prometheus.max_series",
            )

    def _ask_samples(self, text: str, window: _Window) -> tuple[list[Any], tuple[str, ...]]:
        """Samples as they were scraped. One that lies on the seam comes twice from some servers, and counts once."""
        # One ms more than the window: newer servers leave out the sample at the start of a range.
        lasts = window.end_ms - window.start_ms + 1
        return self._matrix("query", {"query": f"{text}[{lasts}ms]", "time": _seconds(window.end_ms)})

    def _ask_steps(self, text: str, window: _Window) -> tuple[list[Any], tuple[str, ...]]:
        """Values at each step."""
        bounds = {"start": _seconds(window.start_ms), "end": _seconds(window.end_ms)}
        return self._matrix("query_range", {"query": text, **bounds, "step": str(self.options.step_s)})

    def _matrix(self, path: str, form: Mapping[str, str]) -> tuple[list[Any], tuple[str, ...]]:
        answer = self._post(path, form)
        data = answer["data"]
        if data.get("resultType") != "matrix":
            raise SourceError(
                f"{form['query']} gives a {data.get('resultType')}, not series over time",
                hint="a metric of readings asks for series",
            )
        said = [*answer.get("warnings", ()), *answer.get("infos", ())]
        said += ["the answer is partial: a part of the storage did not answer"] if answer.get("isPartial") else []
        return data["result"], tuple(str(text) for text in said)

    def _post(self, path: str, form: Mapping[str, str]) -> dict[str, Any]:
        answer, _ = self._send(path, form)
        return answer

    def _send(self, path: str, form: Mapping[str, str]) -> tuple[dict[str, Any], str]:
        """Ask; gives the answer and the server's date."""
        import requests

        client, url = self._client, _without_secrets(self.options.url)
        try:
            with self._session.post(
                f"{client.url}/api/v1/{path}",
                data=dict(form),
                headers=client.headers,
                auth=client.auth,
                timeout=self.options.timeout_s,
                # Said again: bundles that the environment names would take the place of the session's.
                verify=self._session.verify if self.options.ca or not self.options.verify else None,
                allow_redirects=False,
                stream=True,
            ) as response:
                content = self._read(response)
        except requests.RequestException as error:
            raise unreachable(url, error, self.options.timeout_s) from None
        asked = form.get("query", path)
        answer = check_answer(url, response.status_code, response.headers, content, asked)
        return answer, response.headers.get("Date", "")

    def _read(self, response: requests.Response) -> bytes:
        """Read an answer that may come drop by drop: in all it must not take longer than one may take."""
        import requests

        deadline, chunks = time.monotonic() + self.options.timeout_s, []
        for chunk in response.iter_content(CHUNK_BYTES):
            chunks.append(chunk)
            if time.monotonic() > deadline:
                raise requests.Timeout("timed out")
        return b"".join(chunks)


def _cut(start_ms: int, end_ms: int, length_ms: int, step_ms: int, gap_ms: int) -> list[_Window]:
    """Cut a stretch into windows; `gap_ms` lies between the end of one and the start of the next."""
    out = []
    while start_ms <= end_ms:
        end = min(start_ms + length_ms - step_ms, end_ms)
        out.append(_Window(start_ms, end))
        start_ms = end + gap_ms
    return out


Told = tuple[list[Any], tuple[str, ...]]


def _one_ahead(ask: Callable[[str, _Window], Told], text: str, windows: Sequence[_Window]) -> Iterator[Told]:
    """Ask for the next window while the last one is read."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        asked: deque[Future[Told]] = deque()
        for window in windows:
            asked.append(pool.submit(ask, text, window))
            if len(asked) > 1:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()


def _make_session(options: PrometheusOptions) -> requests.Session:
    try:
        import requests
    except ModuleNotFoundError as error:
        raise SourceError(
            f"what asks Prometheus is not installed ({error.name})", hint="pip install 'release-evaluator[prometheus]'"
        ) from None
    for path in (options.ca, options.cert, options.key):
        if path and not Path(path).exists():
            raise SourceError(f"{path} of sources.prometheus.tls is not there", hint="check its path")
    session = requests.Session()
    session.verify = options.ca or options.verify
    if options.cert:
        session.cert = (options.cert, options.key) if options.key else options.cert
    return session


def _make_client(options: PrometheusOptions, session: requests.Session) -> PrometheusConnect:
    """What knows the address, who asks, and when to try again."""
    from prometheus_api_client import PrometheusConnect
    from urllib3 import Retry

    headers = {name: reveal(value) for name, value in options.headers.items()}
    if options.tenant:
        headers[TENANT_HEADER] = reveal(options.tenant)
    if options.bearer:
        headers["Authorization"] = f"Bearer {reveal(options.bearer)}"
    auth = (reveal(options.username), reveal(options.password or "")) if options.username else None
    return PrometheusConnect(
        url=options.url.rstrip("/"),
        headers={"Accept-Encoding": "identity", **headers},
        auth=auth,
        session=session,
        retry=Retry(total=2, backoff_factor=0.2, allowed_methods=None, status_forcelist=(502, 503, 504), redirect=0),
        timeout=int(options.timeout_s),
        method="POST",
    )


def _find_step(found: Sequence[Series], step_s: float) -> float:
    """Distance of samples as it is: that of most, where it is longer than the policy says."""
    steps = [float(statistics.median(one.ts_ms[1:] - one.ts_ms[:-1])) / 1000 for one in found if one.ts_ms.size > 2]
    usual = statistics.median(steps) if steps else step_s
    return max(step_s, round(usual))


def _seconds(ms: int) -> str:
    return f"{ms / 1000:.3f}"


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))


def _list_some(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
