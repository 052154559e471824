"""How often the endpoint scan stops a GO: releases with a million requests on a hundred endpoints, drawn as cells.

python benchmarks/scan.py [RELEASES] [SEED]       (default: 300 1)

Harm of at most the tolerance must stop a GO in at most 1 % of releases, for any number of requests. An endpoint that is
clearly worse than the tolerance must stop the GO. An endpoint beyond the scan's margin must be NO-GO.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from evaluator.judges.multiplicity import adjust_plausible
from evaluator.metrics.base import Pair
from evaluator.metrics.scan import Measured, scan_endpoints
from evaluator.policy import parse_policy
from evaluator.records import BLOCK_BUCKETS, Bins, Cells, FailureKinds, InstanceBins, LoadLevels, Moments, Rulebook
from evaluator.stats.shaping.panel import Panel, build_panel
from evaluator.stats.variance.uncertainty import choose_design

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ENDPOINTS, BUCKETS, BUCKET_S, REQUESTS = 100, 240, 15, 1_000_000
SIGMA = 0.45
"""Standard deviation of the logarithm of response times within an endpoint."""
FAILING = 0.002
SLOWER_TOLERATED, FAILING_TOLERATED = 0.15, 0.001
"""What the built-in policy tolerates for one endpoint: relative change of times, difference of the failure rate."""
MOST_STOPPED, LEAST_STOPPED, LEAST_FOUND = 0.01, 0.7, 0.9
SURE = 3.0
"""Number of standard errors by which a share may miss its promise."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of release: the harm to its endpoints, its instances, and the promise."""

    promised: str
    """The answer that is counted: `stopped` (no GO) or `no_go`."""
    share: float
    """Promised share of releases with this answer: the largest if below a half, else the smallest."""
    slower: str = "none"
    """Which endpoints are slower: `none`, `all` (by the tolerance), `some` (half by the tolerance, the others less)."""
    one: float = 0.0
    """Additional relative change of the times of one endpoint, with a medium share of the traffic."""
    instances: int = 4
    instance_sd: float = 0.01
    tolerated: float = SLOWER_TOLERATED


KINDS: Mapping[str, Kind] = {
    "identical": Kind("stopped", MOST_STOPPED),
    "all at the tolerance": Kind("stopped", MOST_STOPPED, "all"),
    "half at the tolerance, half below": Kind("stopped", MOST_STOPPED, "some"),
    "the same, 2 + 2 instances of sd 3 %": Kind("stopped", MOST_STOPPED, "some", instances=2, instance_sd=0.03),
    "all at a tolerance of 5 %": Kind("stopped", MOST_STOPPED, "all", tolerated=0.05),
    "one +20 %, of which 5 % are tolerated": Kind("stopped", LEAST_STOPPED, one=0.20, tolerated=0.05),
    "one +40 %": Kind("no_go", LEAST_FOUND, one=0.40),
}


def drift(random: np.random.Generator, series: tuple[int, ...], sd: float, time_constant_s: float) -> FloatArray:
    """Draw AR(1) processes over the buckets, shape (*series, buckets)."""
    kept = math.exp(-BUCKET_S / time_constant_s)
    out = random.normal(0, sd, (*series, BUCKETS))
    for bucket in range(1, BUCKETS):
        out[..., bucket] = kept * out[..., bucket - 1] + math.sqrt(1 - kept**2) * out[..., bucket]
    return out


def draw_panel(kind: Kind, random: np.random.Generator) -> Panel:
    """Draw one release: counts, failures and sums of each arm × instance × endpoint × bucket, as a panel.

    Sums of many times are drawn as normal, with the mean and variance of lognormal times.
    """
    shape = (2, kind.instances, ENDPOINTS, BUCKETS)
    traffic = 1 / np.arange(1, ENDPOINTS + 1)
    load = np.exp(drift(random, (), 0.15, 120.0))
    mean_n = REQUESTS * (traffic / traffic.sum())[:, None] * load / load.sum() / 2 / kind.instances
    n = random.poisson(np.broadcast_to(mean_n, shape))
    slower, failing = _draw_harm(kind, random)
    failures = random.binomial(n, FAILING + failing[:, None, :, None])
    ok = n - failures
    level = np.log(np.geomspace(40, 250, ENDPOINTS))[:, None] + drift(random, (), 0.12, 330.0)
    level = level + random.normal(0, kind.instance_sd, (2, kind.instances, 1, 1))
    level = level + drift(random, (2, kind.instances, 1), 0.05, 100.0) + drift(random, (2, 1, 1), 0.01, 60.0)
    level = level + np.log1p(slower)[:, None, :, None]
    first, second = random.normal(size=shape), random.normal(size=shape)
    spread, root = math.sqrt(math.expm1(SIGMA**2)), np.sqrt(np.maximum(ok, 1))
    shared = SIGMA / spread
    noise = (shared * first + math.sqrt(1 - shared**2) * second) * spread / root
    sum_log = ok * level + SIGMA * np.sqrt(ok) * first
    sum_us = np.rint(1000 * ok * np.exp(level + SIGMA**2 / 2) * np.maximum(1 + noise, 0.1))
    return _build_panel(n, failures, sum_us, sum_log)


def _draw_harm(kind: Kind, random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Draw how much slower each arm's endpoints are, and how many more of their requests fail: (2, endpoints)."""
    share = {"none": np.zeros(ENDPOINTS), "all": np.ones(ENDPOINTS)}.get(kind.slower)
    if share is None:
        share = np.where(np.arange(ENDPOINTS) % 2, 1.0, random.random(ENDPOINTS))
    slower, failing = np.stack([0 * share, share * kind.tolerated]), np.stack([0 * share, share * FAILING_TOLERATED])
    slower[1, ENDPOINTS // 4] += kind.one
    return slower, failing


def _build_panel(n: IntArray, failures: IntArray, sum_us: FloatArray, sum_log: FloatArray) -> Panel:
    """Build a panel from these sums. Histograms are not drawn: the sums of logarithms are set directly."""
    arm, instance, endpoint, bucket = (part.ravel() for part in np.indices(n.shape))
    none, odd = np.zeros(n.size), np.where(bucket % 2, 3001.0, 5001.0)
    code = arm * n.shape[1] + instance
    zero = np.zeros(n.size, dtype=np.int64)
    columns = (zero, arm, endpoint, code, bucket, n.ravel(), failures.ravel())
    moments = Moments(*columns, sum_us.ravel(), none, odd, odd, none, none, zero, zero, zero)
    empty = np.zeros(0, dtype=np.int64)
    cells = Cells(
        runs=("r1",),
        arms=("baseline", "canary"),
        endpoints=tuple(f"GET /{number}" for number in range(ENDPOINTS)),
        instances=tuple(f"i{number}" for number in range(2 * n.shape[1])),
        bucket_s=BUCKET_S,
        units_per_ms=1000,
        grid=1,
        moments=moments,
        bins=Bins(*(empty for _ in range(6))),
        instance_bins=InstanceBins(*(empty for _ in range(7))),
        loads=LoadLevels(empty, empty, empty, empty),
        failure_kinds=FailureKinds(empty, empty, empty, empty, empty, (), empty),
    )
    panel = build_panel(cells, "canary")
    if panel is None:
        raise RuntimeError("the simulated release has no data")
    blocks = sum_log.reshape(2 * n.shape[1], ENDPOINTS, BUCKETS // BLOCK_BUCKETS, BLOCK_BUCKETS).sum(axis=3)
    logs = blocks[panel.rows.instance, panel.rows.endpoint, panel.rows.slot]
    rows = replace(panel.rows, totals={**panel.rows.totals, "log_time_ms": logs})
    return replace(panel, totals={**panel.totals, "log_time_ms": sum_log.sum(axis=1)}, rows=rows)


def scan_release(panel: Panel, rulebook: Rulebook) -> Measured:
    """Return what the scan finds in one release."""
    pair = Pair(panel, choose_design(panel, rulebook.prior), "canary", rulebook.alpha, rulebook.prior)
    return scan_endpoints(pair, rulebook.scan, rulebook.rules)


def read_answer(found: Measured, rulebook: Rulebook) -> str:
    """Return `no_go`, `stopped` or `go`, as the judge decides from the scan alone."""
    level = rulebook.alpha * rulebook.scan.alpha_share
    beyond = {}
    for kind in ("margin", "tolerance"):
        p_values = [next(q.p_worse for q in row.questions if q.kind == kind) for row in found.comparisons]
        beyond[kind] = min(adjust_plausible(p_values)) < level
    return "no_go" if beyond["margin"] else "stopped" if beyond["tolerance"] else "go"


def main(releases: int, seed: int) -> int:
    """Print the shares; return 1 if one of them breaks its promise, else 0."""
    broken = 0
    print(f"{releases} releases of about {REQUESTS:,} requests on {ENDPOINTS} endpoints")
    for number, (name, kind) in enumerate(KINDS.items()):
        random = np.random.default_rng((seed, number))
        tolerance = "auto" if kind.tolerated == SLOWER_TOLERATED else kind.tolerated
        rulebook = parse_policy({"endpoint_scan": {"tolerance": tolerance}}).rulebook
        answers = [read_answer(scan_release(draw_panel(kind, random), rulebook), rulebook) for _ in range(releases)]
        share = answers.count(kind.promised) / releases
        error = math.sqrt(max(kind.share * (1 - kind.share), share * (1 - share)) / releases)
        kept = share <= kind.share + SURE * error if kind.share < 0.5 else share >= kind.share - SURE * error
        broken += not kept
        shares = ", ".join(f"{word} {answers.count(word) / releases:.1%}" for word in ("go", "stopped", "no_go"))
        print(f"{'ok' if kept else 'BROKEN':7}{name:40}{shares}, ± {error:.1%}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:3]]
    sys.exit(main(*given, *(300, 1)[len(given) :]))
