"""The verdict as GitLab's metrics report: OpenMetrics text, which the merge request compares with the target branch.

GitLab compares values as texts and knows a metric by its name and labels. So labels name no release or version, values
have three significant digits, the order is always the same, and only metrics of the policy are listed. GitLab reads
each line as a shell would, after cutting it at the first `#`: no label contains one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal

from evaluator.records import Comparison, MetricStatus, Verdict, VerdictWord
from evaluator.reports.base import Page, clean_and_cut

MAX_LABEL = 120

METRICS: tuple[tuple[str, str, Callable[[Comparison], float | None]], ...] = (
    ("evaluator_baseline_value", "value of the baseline", lambda comparison: comparison.baseline.value),
    ("evaluator_candidate_value", "value of the candidate", lambda comparison: comparison.candidate.value),
    (
        "evaluator_change",
        "candidate against baseline",
        lambda comparison: comparison.effect.estimate if comparison.effect else None,
    ),
)
"""Name, description and value of each OpenMetrics metric that has a sample for every comparison of the policy."""


def render(verdict: Verdict, page: Page) -> str:
    """Write a verdict as OpenMetrics (GitLab's metrics report reads it), ending in `# EOF`.

    The verdict is a state (1 for its word, 0 for the others); then come the count of endpoints that are shown to be
    worse, and the values and change of each metric.
    `page` is part of the interface of all formats and is not used here.
    """
    del page
    # Comparisons of the endpoint scan are only counted, if they failed; they have no samples of their own.
    scan_comparisons = [comparison for comparison in verdict.evidence.comparisons if comparison.scan]
    policy_comparisons = [comparison for comparison in verdict.evidence.comparisons if not comparison.scan]
    state = "evaluator_verdict"
    lines = [f"# TYPE {state} stateset", f"# HELP {state} the answer"]
    lines += [f'{state}{{{state}="{word.value}"}} {int(word is verdict.word)}' for word in VerdictWord]
    # An endpoint of an arm may have failed in its time and in its failures: it counts once.
    worse_endpoints = {
        (comparison.arm, comparison.rule.slice.endpoint)
        for comparison in scan_comparisons
        if comparison.status is MetricStatus.FAIL
    }
    count = "evaluator_failing_endpoints"
    lines += [f"# TYPE {count} gauge", f"# HELP {count} endpoints shown to be worse", f"{count} {len(worse_endpoints)}"]
    for name, description, read_value in METRICS:
        samples = {_write_labels(comparison): write_number(read_value(comparison)) for comparison in policy_comparisons}
        lines += [f"# TYPE {name} gauge", f"# HELP {name} {description}"]
        lines += [f"{name}{{{labels}}} {value}" for labels, value in sorted(samples.items())]
    return "\n".join([*lines, "# EOF"])


def write_number(value: float | None) -> str:
    """Write a number as OpenMetrics: three significant digits, no exponent; `NaN` for `None` and NaN.

    >>> write_number(1234.5), write_number(0.00012345), write_number(-0.0), write_number(None)
    ('1230', '0.000123', '0', 'NaN')
    """
    if value is None or math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    rounded = f"{value + 0.0:.3g}"  # + 0.0 makes -0.0 a plain 0
    return f"{Decimal(rounded):f}"


def _write_labels(comparison: Comparison) -> str:
    """Write the labels of a comparison's samples: `arm="canary",metric="p95",unit="ms"`; empty ones are left out."""
    labels = {
        "arm": comparison.arm,
        "endpoint": comparison.rule.slice.endpoint,
        "metric": comparison.rule.name,
        "unit": comparison.unit,
        "evidence": comparison.evidence.value if comparison.evidence else "",
    }
    # GitLab takes what follows `#` for a comment.
    safe_labels = {name: clean_and_cut(text, MAX_LABEL).replace("#", r"\x23") for name, text in labels.items() if text}
    escapes = str.maketrans({"\\": r"\\", '"': r"\""})
    return ",".join(f'{name}="{text.translate(escapes)}"' for name, text in safe_labels.items())
