"""Did a router send each arm the share of the requests that it should, and was that share the same all the time?

Users are not known behind a router, so requests are counted. There, a slow arm does not lose any: others send them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from evaluator.health.base import RequestContext, fail, ok, warn
from evaluator.records import Finding, Run
from evaluator.stats.inference.student import t_quantile
from evaluator.stats.variance.longrun import MIN_BUCKETS, time_variance
from evaluator.wording import format_number, write_command

SHARES = "sample_ratio"
PHASES = "phases"
ALPHA = 0.001
"""Probability of a finding in a run although the router sent the configured shares."""
GROSS = 1.5
"""Ratio of the odds (share / rest) seen and configured, either way, from which the router does not do as asked."""
NOTABLE = 1.1
"""The same, from which a difference is worth knowing. Routers with few weights or sticky clients are no closer."""

MOST_RETRIED = 0.02
"""Attempts that were tried again, as a share of all requests, above which attempts do not show the shares."""


@dataclass(frozen=True, slots=True)
class _ShareSeen:
    """The share of the requests of a run that an arm got."""

    arm: str
    configured: float
    seen: float
    error: float
    """Half the width of its interval, wide enough for what differs from bucket to bucket."""

    @property
    def odds_ratio(self) -> float:
        """Odds seen for each of the configured odds; 0 or infinite if the arm had no requests, or all of them.

        So it is, too, if it should have none or all, and had not.
        """
        if self.configured in (0.0, 1.0):
            return 1.0 if self.seen == self.configured else math.inf if self.seen > self.configured else 0.0
        odds = self.seen / (1 - self.seen) if self.seen < 1 else math.inf
        return odds * (1 - self.configured) / self.configured

    @property
    def is_shown(self) -> bool:
        """Is the difference more than chance?"""
        return abs(self.seen - self.configured) > self.error

    def is_beyond(self, ratio: float) -> bool:
        """Does the share differ by more than chance, and by more than this ratio of the odds, either way?"""
        return self.is_shown and not 1 / ratio <= self.odds_ratio <= ratio


def check_phases(context: RequestContext) -> Iterable[Finding]:
    """Fail if runs with different shares are judged together: then an arm has more of the requests of some hours.

    What those hours do to response times would look like the release, so the comparison is void.
    """
    distinct_shares = {tuple(sorted(run.shares.items())) for run in context.runs if run.shares}
    is_partly_known = any(run.shares for run in context.runs) and any(not run.shares for run in context.runs)
    if len(distinct_shares) > 1 or is_partly_known:
        phases = dict.fromkeys(_describe_phase(run) for run in context.runs)
        yield fail(
            PHASES,
            f"the router's shares changed between the runs judged together ({'; '.join(phases)}), so the time of day "
            "cannot be distinguished from the release",
            f"judge one of them: {_suggest(context)}",
            void=True,
        )
    services = sorted({run.service for run in context.runs if run.service})
    if len(services) > 1:
        yield fail(
            PHASES,
            f"the runs judged together are of different services: {', '.join(services)}",
            f"judge one of them: {_suggest(context)}",
            void=True,
        )


def _describe_phase(run: Run) -> str:
    """Name the step of a run, or else the run, with its shares."""
    name = f"step {run.step}" if run.step else run.id
    return f"{name}: {describe_shares(run.shares) if run.shares else 'shares not known'}"


def _suggest(context: RequestContext) -> str:
    """Write the command that judges a single step, or else a single run: that of the newest run."""
    newest = context.runs[-1]
    has_own_step = newest.step and len({run.step for run in context.runs}) > 1
    options = ("--step", newest.step) if has_own_step else ("--run", newest.id)
    return f"`{write_command(context.release, *options)}`"


def describe_shares(shares: Mapping[str, float]) -> str:
    """Write shares for people: `baseline 95 %, canary 5 %`."""
    return ", ".join(f"{arm} {format_number(round(100 * share, 3))} %" for arm, share in shares.items())


def check_router_shares(context: RequestContext) -> Iterable[Finding]:
    """Compare, in each run, the share of the requests of each arm with the share that the router was set to."""
    known = [run for run in context.runs if run.shares]
    if not known:
        yield warn(
            SHARES,
            "not checked: it is not known which share of the requests the router should send to each arm",
            "name it when the requests are recorded: `--share canary=5%`",
        )
        return
    unnamed = [arm for arm in context.cells.arms if any(arm not in run.shares for run in known)]
    if unnamed:
        yield fail(SHARES, f"the router's shares do not name {', '.join(unnamed)}", "name the share of every arm")
        return
    retried = [run for run in known if _has_many_retries(run)]
    if retried:
        yield warn(
            SHARES,
            "not checked: the router tried many requests again, and each attempt counts for the arm that was tried",
        )
        return
    seen = [share for run in known for share in _measure_shares(context, run)]
    gross = [share for share in seen if share.is_beyond(GROSS)]
    notable = [share for share in seen if share.is_beyond(NOTABLE)]
    if gross:
        worst = max(gross, key=lambda share: abs(share.seen - share.configured))
        remedy = f"check how the router chooses the arm, and whether the servers of {worst.arm} are up"
        yield fail(SHARES, f"the router does not send what was asked: {_describe(worst)}", remedy)
    elif notable:
        worst = max(notable, key=lambda share: abs(share.seen - share.configured))
        yield warn(SHARES, f"the router sends a little other than what was asked: {_describe(worst)}")
    elif seen:
        yield ok(SHARES, "; ".join(dict.fromkeys(_describe(share) for share in seen)))


def _has_many_retries(run: Run) -> bool:
    """Did the router try so many requests of a run again that its attempts do not show the shares?"""
    router = run.facts.router
    if router is None:
        return False
    attempts = sum(router.retried.values()) + router.retried_by_unknown
    return attempts > MOST_RETRIED * router.answers


def _describe(share: _ShareSeen) -> str:
    """Write the share of an arm that was seen and the one configured."""
    seen, configured = (format_number(100 * value) for value in (share.seen, share.configured))
    return f"{share.arm} got {seen} % of the requests, {configured} % configured"


def _measure_shares(context: RequestContext, run: Run) -> list[_ShareSeen]:
    """Measure the share of each candidate in a run; none if the run has no requests of arms.

    Requests come in bursts and clients may stay with an arm, so the error is that of sums over time, not of single
    requests: the residuals of each bucket, with dependence between buckets.
    """
    cells, moments = context.cells, context.cells.moments
    if run.id not in cells.runs:
        return []
    of_run = moments.run == cells.runs.index(run.id)
    if not of_run.any():
        return [_ShareSeen(arm, run.shares[arm], 0.0, 0.0) for arm in cells.arms[1:]] if run.landed else []
    first = int(moments.bucket[of_run].min())
    buckets = int(moments.bucket[of_run].max()) + 1 - first
    position = moments.arm[of_run] * buckets + moments.bucket[of_run] - first
    # Requests of each arm in each bucket, shape (arms, buckets).
    counts = np.bincount(position, weights=moments.n[of_run], minlength=len(cells.arms) * buckets).reshape(-1, buckets)
    total = counts.sum(axis=0)
    shares = []
    for arm_code, arm in enumerate(cells.arms[1:], start=1):
        seen = float(counts[arm_code].sum() / total.sum())
        # Effect of each bucket on the share, the ratio of two sums.
        influence = (counts[arm_code] - seen * total) / total.mean()
        independent = math.sqrt(run.shares[arm] * (1 - run.shares[arm]) / total.sum())
        error, df = independent, math.inf
        if buckets >= MIN_BUCKETS:
            variance = time_variance(influence)
            error, df = max(independent, math.sqrt(float(variance.variance))), variance.df
        critical = float(t_quantile(1 - ALPHA / 2, df))
        shares.append(_ShareSeen(arm, run.shares[arm], seen, critical * error))
    return shares
