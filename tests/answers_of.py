"""What a metrics server answers, written as lists of numbers."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from evaluator.records import Answer, Query, QueryKind, Series

T0 = 1_767_571_200
STEP = 10
COUNTER = Query("requests_total{$selector}", QueryKind.COUNTER)
GAUGE = Query("memory_bytes{$selector}", QueryKind.GAUGE)
HISTOGRAM = Query("duration_seconds{$selector}", QueryKind.HISTOGRAM)
ARMS = ("baseline", "canary")
NAN = float("nan")


def at(second):
    return datetime.fromtimestamp(T0 + second, UTC)


def series(values, instance="a", part="value", le=NAN, first=0, **labels):
    """One value a step; `None` is a missing scrape."""
    seen = [k for k, value in enumerate(values) if value is not None]
    ts = np.array([(T0 + first + k * STEP) * 1000 for k in seen], dtype=np.int64)
    return Series(labels, instance, "", part, le, ts, np.array([values[k] for k in seen], float))


def answer(*found, query=COUNTER, start=0, end=None, arm="baseline", **facts):
    last = max((int(one.ts_ms[-1]) // 1000 - T0 for one in found), default=start)
    return Answer(query, arm, (query.text,), at(start), at(last if end is None else end), STEP, found, **facts)
