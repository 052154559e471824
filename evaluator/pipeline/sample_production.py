"""Production traffic of `evaluator demo --live`: users of a router, whose access log is followed meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from evaluator.pipeline.tailing import StopRequest, TailEnd, TailPlan, tail_release
from evaluator.policy import Policy
from evaluator.records import Release
from evaluator.sources.access_logs.options import combine_settings
from evaluator.sources.sample_router import RouterUsers, SampleRouter, start_users

LATENESS_S = 3.0
"""How long a request of the sample service takes at most: nine medians of its slowest endpoint, and retries."""

_EXTRA_S = 600.0
"""Users go on for so long (s) after the time that is judged, unless they are ended: the newest lines show its end."""


@contextmanager
def production_traffic(
    store_path: Path,
    release: Release,
    policy: Policy,
    router: SampleRouter,
    *,
    users: int,
    spawn_rate: float,
    seconds: float,
    shares: Mapping[str, float],
) -> Iterator[Callable[[], int]]:
    """While the block runs, users send requests to a router, and its log is followed into a run of the release.

    Following ends after `seconds`, or with the block. Yields a function that waits for its end, and returns how many
    requests were read; it raises the errors of `tail_release`, and LoadError if the users have ended before.
    `shares`: what the router gives to each arm.
    """
    settings = combine_settings(
        policy.access_log, format="haproxy", arm_servers=router.server_patterns, arm_from="server", service="shop"
    )
    plan = TailPlan(
        store_path.absolute(),
        release,
        (router.log,),
        settings,
        seconds=seconds,
        shares=shares,
        lateness_s=LATENESS_S,
        stats_address=router.stats_address,
        fresh=True,
    )
    stop = StopRequest()
    with start_users(router, users, spawn_rate, seconds + _EXTRA_S) as running, ThreadPoolExecutor(1) as pool:
        following = pool.submit(tail_release, plan, stop)
        try:
            yield lambda: _count_requests(following.result(), running)
        finally:
            stop.add("the end of the demo")  # without effect if following is over


def _count_requests(end: TailEnd, running: RouterUsers) -> int:
    """Count the requests that were read. Raises LoadError if the users ended before following did."""
    running.check()
    return sum(run.rows for run in end.state.runs)
