"""The candidate's load test as GitLab's load-performance report: the summary that k6 exports.

GitLab shows four of its numbers: the share of checks that passed (the metrics that can stop a GO, and the verdict
itself), the 90th and 95th percentile (of the whole response: time to first byte is not what is measured here), and
requests per second. What the verdict does not have is left out.
"""

from __future__ import annotations

import json
import math
from typing import Any

from evaluator.records import MetricStatus, Verdict, VerdictWord
from evaluator.reports.base import Page, is_watched, tame
from evaluator.reports.gitlab import write_number
from evaluator.wording import name_comparison

MAX_NAME = 120


def render(verdict: Verdict, page: Page) -> str:
    """Write the first candidate's numbers as a k6 summary in JSON."""
    del page
    rows = [row for row in verdict.evidence.comparisons if not row.scan]
    rows = [row for row in rows if row.arm == rows[0].arm]
    checks = {"verdict": verdict.word is VerdictWord.GO}
    checks |= {
        tame(name_comparison(row), MAX_NAME): row.status is MetricStatus.PASS for row in rows if not is_watched(row)
    }
    passes = sum(checks.values())
    metrics: dict[str, Any] = {
        "checks": {"fails": len(checks) - passes, "passes": passes, "value": _round(passes / len(checks))},
    }
    overall = [
        (row, value)
        for row in rows
        if (value := row.candidate.value) is not None and math.isfinite(value) and not row.rule.slice.endpoint
    ]
    rates = [value for row, value in overall if row.rule.metric.k6_name == "rate"]
    if rates:
        count = sum(summary.requests for summary in verdict.evidence.arms if summary.name == rows[0].arm)
        metrics["http_reqs"] = {"count": count, "rate": _round(rates[0])}
    times = {
        metric.k6_name: _round(value)
        for row, value in overall
        if (metric := row.rule.metric).k6_name and metric.is_response_time
    }
    if times:
        metrics |= {"http_req_duration": times, "http_req_waiting": times}
    plain_checks = {
        name: {"name": name, "path": f"::{name}", "passes": int(passed), "fails": int(not passed)}
        for name, passed in checks.items()
    }
    plain = {"metrics": metrics, "root_group": {"name": "", "path": "", "groups": {}, "checks": plain_checks}}
    return json.dumps(plain, indent=2, sort_keys=True, allow_nan=False)


def _round(value: float) -> float:
    return float(write_number(value))
