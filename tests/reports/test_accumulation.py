"""Changes of releases that followed each other are added up, and only those."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from evaluator.metrics.failure_rate import FailureRate
from evaluator.metrics.latency import LatencyMean, LatencyQuantile
from evaluator.records import (
    ArmValue,
    Comparison,
    Effect,
    Evidence,
    Margin,
    MetricStatus,
    Release,
    Rule,
    Service,
    Verdict,
    VerdictWord,
)
from evaluator.reports.accumulation import accumulate
from evaluator.stats.inference.differences import Interval, add

P95 = Rule("latency_p95", LatencyQuantile(quantile=0.95), margin=Margin(0.10))
FAILURES = Rule("failure_rate", FailureRate(), margin=Margin(0.001, relative=False))


def verdict(before, after, *rows, service="shop"):
    evidence = replace(Evidence((), ()), comparisons=rows)
    release = Release(f"shop@{after}", (Service(service, before, after),))
    return Verdict(release, VerdictWord.GO, (), "", evidence, "native", "fixed", 0.05)


def row(change, half=0.02, rule=P95):
    kind = "absolute" if rule is FAILURES else "relative"
    value = ArmValue(1.0, 10)
    return Comparison(
        rule, "canary", "ms", value, value, "m", effect=Effect(kind, change, change - half, change + half),
        status=MetricStatus.PASS,
    )  # fmt: skip


def effects(accumulated, metric=0):
    return [found.comparisons[metric] and found.comparisons[metric].effect for found in accumulated.heat.rows]


def test_relative_changes_multiply_and_absolute_ones_add():
    chain = [verdict(str(n), str(n + 1), row(0.02), row(0.0003, 0.0001, FAILURES)) for n in (3, 2, 1)]
    accumulated = accumulate(chain, "shop")
    assert accumulated.since == "1"
    assert [effect.estimate for effect in effects(accumulated)] == pytest.approx([1.02**3 - 1, 1.02**2 - 1, 0.02])
    newest = effects(accumulated, 1)[0]
    assert newest.estimate == pytest.approx(0.0009)
    assert newest.upper - newest.estimate == pytest.approx(0.0001 * math.sqrt(3))
    assert effects(accumulated)[-1] == pytest.approx(chain[-1].evidence.comparisons[0].effect)


@pytest.mark.parametrize(
    ("chain", "since", "count"),
    [
        ([("3", "4"), ("2", "3"), ("1", "2")], "1", 3),
        ([("3", "4"), ("2", "3"), ("0", "1")], "2", 2),  # nobody knows what 2 did
        ([("3", "4"), ("2", "3"), ("", "2")], None, 0),
    ],
)
def test_a_chain_ends_where_a_version_is_missing(chain, since, count):
    accumulated = accumulate([verdict(*versions, row(0.01)) for versions in chain], "shop")
    if since is None:
        assert "is not known" in accumulated
    else:
        assert (accumulated.since, len(accumulated.heat.rows)) == (since, count)


@pytest.mark.parametrize(
    ("verdicts", "why"),
    [
        ([], "no release of it was promoted"),
        ([verdict("1", "2", row(0.1))], "shop@2 follows 1, which was not promoted here"),
        ([verdict("", "2", row(0.1))], "the version that shop@2 was compared with is not known (--baseline-version)"),
        (
            [verdict("1", "2", row(0.1), service="other")],
            "the version that shop@2 was compared with is not known (--baseline-version)",
        ),
    ],
)
def test_what_cannot_be_added_up_says_why(verdicts, why):
    assert accumulate(verdicts, "shop") == why


def test_a_metric_that_was_measured_in_another_way_or_not_at_all_has_no_sum():
    other = Rule("latency_p95", LatencyMean(), margin=Margin(0.10))
    named = replace(P95, name="speed"), replace(other, name="speed")
    accumulated = accumulate(
        [verdict("2", "3", row(0.1, rule=named[0])), verdict("1", "2", row(0.1, rule=named[1]))], "shop"
    )
    assert set(effects(accumulated)) == {None}
    assert set(effects(accumulate([verdict("2", "3", row(0.1)), verdict("1", "2")], "shop"))) == {None}


def test_the_interval_of_a_sum_holds_its_level():
    """Of 20,000 sums of four estimates with 90 % intervals, 90 % hold the truth."""
    rng = np.random.default_rng(7)
    half, held, count = 1.6448536, 0, 20_000
    for estimates in rng.normal(0.0, 1.0, (count, 4)):
        total = Interval(estimates[0], estimates[0] - half, estimates[0] + half)
        for estimate in estimates[1:]:
            total = add(total, Interval(estimate, estimate - half, estimate + half))
        held += total.lower <= 0 <= total.upper
    assert held / count == pytest.approx(0.90, abs=4 * math.sqrt(0.09 / count))
