"""The candidate's load test as GitLab's load-performance report: the summary that k6 exports.

GitLab shows four of its numbers: the share of checks that passed (the metrics that can stop a GO, and the verdict
itself), the 90th and 95th percentile (of the whole response: time to first byte is not what is measured here), and
requests per second. What the verdict does not have is left out.
"""

from __future__ import annotations

import json
import math
from typing import Any

from evaluator.records import EvidenceKind, MetricStatus, Verdict, VerdictWord
from evaluator.reports.base import Page, clean_and_cut, is_watched
from evaluator.reports.gitlab import write_number
from evaluator.wording import name_comparison

MAX_NAME = 120


def render(verdict: Verdict, page: Page) -> str:
    """Write the numbers of the first candidate as JSON, in the form of the summary that k6 exports.

    A check is a metric that can stop a GO, or the verdict itself.
    `page` is part of the interface of all formats and is not used here.
    """
    del page
    # Without those of the endpoint scan.
    policy_comparisons = [comparison for comparison in verdict.evidence.comparisons if not comparison.scan]
    candidate = policy_comparisons[0].arm if policy_comparisons else ""
    comparisons = [comparison for comparison in policy_comparisons if comparison.arm == candidate]
    passed_by_check = {"verdict": verdict.word is VerdictWord.GO}
    passed_by_check |= {
        clean_and_cut(name_comparison(comparison), MAX_NAME): comparison.status is MetricStatus.PASS
        for comparison in comparisons
        if not is_watched(comparison)
    }
    total, passes = len(passed_by_check), sum(passed_by_check.values())
    metrics: dict[str, Any] = {
        "checks": {"fails": total - passes, "passes": passes, "value": _round(passes / total)},
    }
    if any(comparison.kind is EvidenceKind.REQUESTS for comparison in comparisons):
        comparisons = [comparison for comparison in comparisons if comparison.kind is not EvidenceKind.LIVE]
    # Metric and value of the candidate, of comparisons over all endpoints; with a load, not those of production.
    overall = [
        (comparison.rule.metric, value)
        for comparison in comparisons
        if (value := comparison.candidate.value) is not None
        and math.isfinite(value)
        and not comparison.rule.slice.endpoint
    ]
    # `k6_name`: under which name k6 reports the metric; empty: it does not.
    rates = [value for metric, value in overall if metric.k6_name == "rate"]
    if rates:
        count = sum(arm.requests for arm in verdict.evidence.arms if arm.name == candidate)
        metrics["http_reqs"] = {"count": count, "rate": _round(rates[0])}
    times_ms = {
        metric.k6_name: _round(value) for metric, value in overall if metric.k6_name and metric.is_response_time
    }
    if times_ms:
        # GitLab shows the waiting time as time to first byte, which is not measured: it gets the whole duration.
        metrics |= {"http_req_duration": times_ms, "http_req_waiting": times_ms}
    plain_checks = {
        name: {"name": name, "path": f"::{name}", "passes": int(passed), "fails": int(not passed)}
        for name, passed in passed_by_check.items()
    }
    plain = {"metrics": metrics, "root_group": {"name": "", "path": "", "groups": {}, "checks": plain_checks}}
    return json.dumps(plain, indent=2, sort_keys=True, allow_nan=False)


def _round(value: float) -> float:
    """Round to three significant digits, as in the metrics report."""
    return float(write_number(value))
