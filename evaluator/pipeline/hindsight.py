"""Calibrate a policy on stored releases, and read the history that plans are based on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evaluator.calibration import CalibrationReport, Stored, calibrate
from evaluator.errors import UsageError
from evaluator.pipeline.base import Say, say_nothing
from evaluator.pipeline.landing import land_release
from evaluator.pipeline.runs import service_of
from evaluator.planning import History, assume_history, learn_precisions
from evaluator.policy import Policy
from evaluator.records import Cells, EvidenceKind, Run
from evaluator.store import Store

TIME_OF_ID = 16
"""Length of the time at the start of a group's id, to the second."""
NEWEST_GROUPS = 20
"""Number of run groups that are read at most."""


def read_history(store: Store, release_ids: Sequence[str], *, land: bool) -> tuple[Stored, ...]:
    """Read the newest run groups (at most NEWEST_GROUPS) of some releases that have requests, the oldest group first.

    `release_ids`: the newest release first, as the store lists them. `land`: land waiting segments before.
    """
    release_of_group: dict[str, str] = {}
    runs_of_group: dict[str, list[Run]] = {}
    for release_id in reversed(release_ids):
        if land:
            land_release(store, release_id)
        for run in store.data.runs(release_id):
            if run.kind is EvidenceKind.REQUESTS and run.landed:
                release_of_group.setdefault(run.group, release_id)
                runs_of_group.setdefault(run.group, []).append(run)
    # By the time at the start of each id. The sort is stable: groups of one second stay in the order of their releases.
    newest_groups = sorted(runs_of_group, key=lambda group: group[:TIME_OF_ID])[-NEWEST_GROUPS:]
    history = []
    for group in newest_groups:
        release_id, runs = release_of_group[group], runs_of_group[group]
        # If both arms ran one version, their difference shows what identical releases differ by.
        services = store.control.release(release_id).services
        same_version = bool(services) and all(
            service.baseline and service.baseline == service.canary for service in services
        )
        cells = store.data.read_cells([run.id for run in runs])
        history.append(Stored(release_id, cells, tuple(runs), same_version=same_version))
    return tuple(history)


def find_history(
    store: Store | None, policy: Policy, release_id: str | None, *, rate_per_s: float, instances: int, land: bool = True
) -> History:
    """Find how precise earlier comparisons were, from which a plan derives how long to test.

    This is measured on the stored runs of the release and, from the same source, of others of its service. Without a
    store or a release it is assumed, for `rate_per_s` requests a second and `instances`, both of each arm. `land`: land
    waiting segments before.
    Raises UsageError if no stored runs can be compared.
    """
    if store is None or release_id is None:
        return assume_history(policy.rulebook, rate_per_s=rate_per_s, instances=instances)
    run_groups = read_history(store, related_releases(store, release_id), land=land)
    comparable = [group for group in run_groups if len(group.cells.arms) > 1]
    # Imported data may be simulated, or from another test than the loads of the service: they are not mixed.
    newest = next((group for group in reversed(comparable) if group.name == release_id), None)
    used = [group for group in comparable if newest is None or _list_sources(group) == _list_sources(newest)]
    history = learn_precisions([(group.cells, group.runs) for group in used], policy.rulebook)
    if not history.precisions:
        raise UsageError(
            f"no stored runs of '{release_id}' or its service can be compared under this policy",
            hint="load or import both arms first, or plan from a rate: `evaluator plan --rate 30`",
        )
    return replace(history, of_another_source=len(comparable) - len(used))


def _list_sources(group: Stored) -> set[str]:
    """List what the data of a run group are from: a load, or an import."""
    return {run.source for run in group.runs}


@dataclass(frozen=True, slots=True)
class ProductionHistory:
    """What earlier releases of a service show for the next one."""

    rate_per_s: float | None
    """Requests of its users per second, of all arms together; None: not known."""
    history: History | None
    """How precise comparisons are; None: there are none."""


def find_service_history(store: Store | None, policy: Policy, release_id: str, service: str) -> ProductionHistory:
    """Find how much traffic a service has and how precise comparisons of it are, by its newest stored runs.

    Requests of production count where there are some with at least a quarter of the traffic on each arm, else those of
    loads. `release_id`: it need not be stored.
    """
    if store is None:
        return ProductionHistory(None, None)
    ids = [
        summary.release.id
        for summary in store.releases()
        if summary.release.id == release_id or service in {known.name for known in summary.release.services}
    ]
    live = [
        run
        for other in ids
        for run in store.data.runs(other)
        if run.kind is EvidenceKind.LIVE and run.landed and run.service in ("", service)
    ][-NEWEST_GROUPS:]
    requests, seconds = 0, 0.0
    even: list[tuple[Cells, tuple[Run, ...]]] = []
    for run in live:
        cells = store.data.read_cells([run.id])
        moments = cells.moments
        if not moments.n.size:
            continue
        requests += int(moments.n.sum())
        seconds += float((moments.bucket.max() - moments.bucket.min() + 1) * cells.bucket_s)
        if len(cells.arms) > 1 and 0.25 <= moments.n[moments.arm == 1].sum() / moments.n.sum() <= 0.75:
            even.append((cells, (run,)))
    rate = requests / seconds if seconds else None
    groups = even
    if not groups:
        groups = [
            (group.cells, group.runs) for group in read_history(store, ids, land=False) if len(group.cells.arms) > 1
        ]
    history = learn_precisions(groups, policy.rulebook)
    return ProductionHistory(rate, history if history.precisions else None)


def related_releases(store: Store, release_id: str) -> tuple[str, ...]:
    """List the releases of the same service as this release, which is among them.

    A release without a service, or with several, is listed alone.
    """
    service = service_of(store.control.release(release_id))
    related = [summary.release.id for summary in store.releases() if service and service_of(summary.release) == service]
    return tuple(dict.fromkeys((*related, release_id)))


def calibrate_releases(
    store: Store,
    release_ids: Sequence[str],
    policy: Policy,
    *,
    splits: int,
    save: bool = False,
    land: bool = True,
    say: Say = say_nothing,
) -> CalibrationReport:
    """Calibrate `policy` on the stored runs of some releases: baselines are split and compared with themselves.

    `release_ids`: empty for all releases. `splits`: comparisons made from each run group at most. `save`: store how
    much instances and arms differ, for later verdicts on the same service. `land`: land waiting segments before.
    Raises UsageError if `save` is set and the releases belong to several services.
    """
    releases = tuple(release_ids) or tuple(summary.release.id for summary in store.releases())
    services = {service_of(store.control.release(release_id)) for release_id in releases}
    if save and len(services) > 1:
        service_names = ", ".join(sorted(service or "none" for service in services))
        raise UsageError(
            f"--save stores what was learnt for one service, and these releases belong to several: {service_names}",
            hint="name the releases of one service",
        )
    report = calibrate(read_history(store, releases, land=land), policy.rulebook, splits=splits, step=say)
    if save and services:
        (service,) = services
        store.control.save_learnt(service, report.learnt)
    return report
