"""The failures of a place over time, and how likely each onset is, given them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, logsumexp

from evaluator.faults.failing import FailureModel
from evaluator.faults.onset import Onset, find_onset
from evaluator.faults.scanning import Scope
from evaluator.records.arrays import FloatArray

BURST_SHARE = 0.01
"""Share of buckets whose failures are a burst: of any number, with or without a fault."""
USUAL_RATES = (0.4, 1.0, 2.5)
"""Possible ratios of the usual failures at a place to those that the baseline lets expect."""
RISES = tuple(np.geomspace(0.003, 1.0, 10).tolist())
"""Possible rises of the share of requests that fail."""
CHANCE_OF_GROWTH = 0.03
"""Probability that failures grow slowly, before the data are seen: they begin suddenly most often."""
SHAPES = (math.inf, 2.0)
"""Possible shapes of the gamma distribution of a fault's strength in a bucket: infinite if it is steady."""


@dataclass(frozen=True, slots=True)
class FailureSeries:
    """The requests of a scope over time; arrays of shape (buckets,)."""

    n: FloatArray
    failures: FloatArray
    expected: FloatArray
    """Failures that the baseline lets expect."""
    bucket_s: int

    def since(self, onset: Onset) -> slice:
        """Return the buckets since an onset; all if it is no step."""
        return slice(int((onset.elapsed_s or 0.0) // self.bucket_s), None)


def follow(
    model: FailureModel, scope: Scope, n: FloatArray, failures: FloatArray, slot_s: int, bucket_s: int
) -> FailureSeries:
    """Expect the failures of a scope in each bucket: those of a slot are spread over its buckets as the requests are.

    `n` and `failures`: what was counted in each bucket, shape (buckets,).
    """
    expected_of_slot = scope.pick(model.expected).sum(axis=(0, 1))
    n_of_slot = scope.pick(model.n).sum(axis=(0, 1))
    mean_rate = expected_of_slot.sum() / max(n_of_slot.sum(), 1.0)
    rate = np.divide(expected_of_slot, n_of_slot, out=np.full_like(n_of_slot, mean_rate), where=n_of_slot > 0)
    slot = np.minimum(np.arange(n.size) * bucket_s // slot_s, rate.size - 1)
    return FailureSeries(n, failures, np.maximum(n * rate[slot], 1e-12), bucket_s)


def find_failure_onset(course: FailureSeries) -> Onset:
    """Find since when more requests of a course fail."""
    steps, growth = weigh_onsets(course)
    return find_onset(steps, growth, course.bucket_s, CHANCE_OF_GROWTH)


def weigh_onsets(course: FailureSeries) -> tuple[FloatArray, float]:
    """Return the log likelihood of an onset in each bucket, shape (buckets,), and that of failures that grow evenly.

    Each is a mean over what is not known: the usual rate at the place, how many fail since the onset, and how steadily
    (Poisson counts, or negative binomial ones if the strength of the fault varies). A bucket counts for little if it
    has many more failures than all of these explain: it is a burst, which says nothing about the onset (bounded
    influence; Fearnhead and Rigaill 2019).
    """
    count, logs_of_count = course.failures, gammaln(course.failures + 1)
    burst = math.log(BURST_SHARE) - np.log((count + 1) * (count + 2))

    def weigh(mean: FloatArray, shape: float) -> FloatArray:
        """Return the log likelihood of the counts of buckets, given their means."""
        if math.isinf(shape):
            log = count * np.log(mean) - mean - logs_of_count
        else:
            log = gammaln(count + shape) - math.lgamma(shape) - logs_of_count
            log = log - shape * np.log1p(mean / shape) + count * np.log(mean / (shape + mean))
        return np.asarray(burst + np.log1p((1 - BURST_SHARE) * np.exp(log - burst)))

    usual = np.maximum(course.expected * np.array(USUAL_RATES)[:, None, None], 1e-9)
    added = course.n * np.array(RISES)[:, None]
    grown = (np.arange(count.size) + 0.5) / count.size
    before = weigh(usual, math.inf)
    earlier = np.cumsum(before, axis=-1) - before
    steps, growths = [], []
    for shape in SHAPES:
        since = weigh(usual + added, shape)
        later = np.cumsum(since[..., ::-1], axis=-1)[..., ::-1] - since
        # In its bucket the fault is there for half of the time.
        steps.append(logsumexp(earlier + weigh(usual + added / 2, shape) + later, axis=(0, 1)))
        growths.append(logsumexp(weigh(usual + added * grown, shape).sum(axis=-1)))
    return np.asarray(logsumexp(steps, axis=0)), float(logsumexp(growths))
