"""The candidate's load test as GitLab's load-performance report: the summary that k6 exports.

GitLab shows four of its numbers: the share of checks that passed (the metrics that can stop a GO, and the verdict
itself), the 90th and 95th percentile (of the whole response: time to first byte is not what is measured here), and
requests per second. What the verdict does not have is left out.
"""

from __future__ import annotations

import json
import math
from typing import Any

from evaluator.records import Comparison, MetricStatus, Verdict, VerdictWord
from evaluator.reports.base import Page, is_watched, tame
from evaluator.reports.gitlab import write_number
from evaluator.wording import name_comparison

__all__ = ["render"]

MAX_NAME = 120


def render(verdict: Verdict, page: Page) -> str:
    """Write the first candidate's numbers as a k6 summary in JSON."""
    del page
    rows = [row for row in verdict.evidence.comparisons if not row.scan]
    rows = [row for row in rows if row.arm == rows[0].arm]
    checks = {"verdict": verdict.word is VerdictWord.GO}
    checks |= {_name(row): row.status is MetricStatus.PASS for row in rows if not is_watched(row)}
    passes = sum(checks.values())
    metrics: dict[str, Any] = {
        "checks": {"fails": len(checks) - passes, "passes": passes, "value": _round(passes / len(checks))},
        **_requests(verdict, rows),
        **_times(rows),
    }
    plain = {"metrics": metrics, "root_group": _group(checks)}
    return json.dumps(plain, indent=2, sort_keys=True, allow_nan=False)


def _requests(verdict: Verdict, rows: list[Comparison]) -> dict[str, Any]:
    """Requests of the candidate, and how many a second where a metric says so."""
    arm = rows[0].arm if rows else None
    count = sum(summary.requests for summary in verdict.evidence.arms if summary.name == arm)
    rates = [row.candidate.value for row in rows if row.rule.metric.k6_name == "rate" and not row.rule.slice.endpoint]
    known = [rate for rate in rates if rate is not None and math.isfinite(rate)]
    return {"http_reqs": {"count": count, "rate": _round(known[0])}} if known else {}


def _times(rows: list[Comparison]) -> dict[str, Any]:
    found = {}
    for row in rows:
        metric, value = row.rule.metric, row.candidate.value
        asked = metric.k6_name and metric.is_response_time and not row.rule.slice.endpoint
        if asked and value is not None and math.isfinite(value):
            found[metric.k6_name] = _round(value)
    return {"http_req_duration": found, "http_req_waiting": found} if found else {}


def _group(checks: dict[str, bool]) -> dict[str, Any]:
    plain = {
        name: {"name": name, "path": f"::{name}", "passes": int(passed), "fails": int(not passed)}
        for name, passed in checks.items()
    }
    return {"name": "", "path": "", "groups": {}, "checks": plain}


def _name(row: Comparison) -> str:
    return tame(name_comparison(row), MAX_NAME)


def _round(value: float) -> float:
    return float(write_number(value))
