"""Stored releases looked at again: replay, calibration, and the history that planning reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from evaluator.calibration import CalibrationReport, Stored, calibrate
from evaluator.errors import UsageError
from evaluator.pipeline.base import Say, say_nothing
from evaluator.pipeline.judging import choose_runs, judge_release, service_of
from evaluator.pipeline.landing import land_release
from evaluator.planning import History, assume_history, learn_precisions
from evaluator.policy import Policy
from evaluator.records import (
    EvidenceKind,
    Release,
    Run,
    VerdictWord,
)
from evaluator.store import Store

__all__ = [
    "Replayed",
    "calibrate_releases",
    "find_history",
    "is_one_version",
    "read_history",
    "related_releases",
    "replay_releases",
    "runs_behind",
]

TIME_OF_ID = 16


@dataclass(frozen=True, slots=True)
class Replayed:
    """A stored release under another policy. `old` is `None` where it was never judged, `new` where it cannot be."""

    release: str
    old: VerdictWord | None
    new: VerdictWord | None
    why: str
    """The first reason of the new verdict, or why there is none."""
    old_why: str = ""
    same_data: bool = True
    """False where the data that the old verdict judged is not there as it was."""

    @property
    def changed(self) -> bool:
        """Is the new verdict another one?"""
        return self.old is not self.new


def replay_releases(
    store: Store, release_ids: Sequence[str], load: Callable[[str], Policy], *, now: datetime, say: Say = say_nothing
) -> tuple[Replayed, ...]:
    """Judge stored releases again, on the runs that their latest verdict judged; nothing is kept.

    `load` reads the policy of a release by its name. No names: every release that was ever judged. Raises UnknownName
    for a release that is not there.
    """
    wanted = release_ids or [summary.release.id for summary in store.releases() if summary.verdict]
    out = []
    for release_id in wanted:
        say(f"judging {release_id}")
        out.append(_replay(store, release_id, load, now))
    return tuple(out)


def _replay(store: Store, release_id: str, load: Callable[[str], Policy], now: datetime) -> Replayed:
    verdicts = store.verdicts(release_id)
    old = json.loads(verdicts[-1].json) if verdicts else None
    word = VerdictWord(old["verdict"]) if old else None
    old_why = old["reasons"][0]["text"] if old and old["reasons"] else ""
    runs = runs_behind(store, release_id, old["data_hash"]) if old else "latest"
    try:
        policy = load(release_id)
        verdict = judge_release(store, release_id, policy, runs=runs or "latest", judged_at=now, save=False)
    except UsageError as error:
        return Replayed(release_id, word, None, error.message, old_why, runs is not None)
    return Replayed(release_id, word, verdict.word, verdict.reasons[0].text, old_why, runs is not None)


def runs_behind(store: Store, release_id: str, data_hash: str) -> str | None:
    """Find what a verdict judged by the hash of its data: `latest`, `all`, a group or a run; `None`: not there."""
    runs = store.runs(release_id)
    candidates = ["latest", "all", *dict.fromkeys(name for run in runs for name in (run.group, run.id))]
    for name in candidates:
        if store.data_hash([run.id for run in choose_runs(runs, name)]) == data_hash:
            return name
    return None


def read_history(store: Store, release_ids: Sequence[str], *, most: int = 20, land: bool = True) -> tuple[Stored, ...]:
    """Read the newest run groups of requests of these releases, the oldest first; `land` what waits before."""
    groups: dict[str, tuple[str, list[Run]]] = {}
    for release_id in release_ids:
        if land:
            land_release(store, release_id)
        for run in store.runs(release_id):
            if run.kind is EvidenceKind.REQUESTS and run.landed:
                groups.setdefault(run.group, (release_id, []))[1].append(run)
    # Ids of groups begin with the second in which they were made.
    newest = sorted(groups, key=lambda group: group[:TIME_OF_ID])[-most:]
    return tuple(
        Stored(name, store.read_cells([run.id for run in runs]), tuple(runs), is_one_version(store.release(name)))
        for name, runs in (groups[group] for group in newest)
    )


def find_history(
    store: Store | None, policy: Policy, release_id: str | None, *, rate_per_s: float, instances: int, land: bool = True
) -> History:
    """What a plan rests on: what is stored of a release and its service, or without one an assumed service.

    Raises UsageError where nothing that is stored can be compared.
    """
    if store is None or release_id is None:
        return assume_history(policy.rulebook, rate_per_s=rate_per_s, instances=instances)
    stored = [s for s in read_history(store, related_releases(store, release_id), land=land) if len(s.cells.arms) > 1]
    history = learn_precisions([(s.cells, s.runs) for s in stored], policy.rulebook)
    if not history.precisions:
        raise UsageError(
            f"nothing stored of '{release_id}' or its service can be compared under this policy",
            hint="load or import both arms first, or plan from a rate: `evaluator plan --rate 30`",
        )
    return history


def is_one_version(release: Release) -> bool:
    """Did both arms of a release run the same versions?"""
    return bool(release.services) and all(one.baseline and one.baseline == one.canary for one in release.services)


def related_releases(store: Store, release_id: str) -> tuple[str, ...]:
    """This release and all others of its service."""
    service = service_of(store.release(release_id))
    others = [s.release.id for s in store.releases() if service and service_of(s.release) == service]
    return tuple(dict.fromkeys((*others, release_id)))


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
    """Calibrate `policy` on the baselines of stored releases (no names: all); with `save` keep what was learnt."""
    wanted = tuple(release_ids) or tuple(summary.release.id for summary in store.releases())
    services = {service_of(store.release(release_id)) for release_id in wanted}
    if save and len(services) > 1:
        named = ", ".join(sorted(service or "none" for service in services))
        raise UsageError(
            f"--save keeps what one service's instances do, and these releases are of several: {named}",
            hint="name the releases of one service",
        )
    report = calibrate(read_history(store, wanted, land=land), policy.rulebook, splits=splits, step=say)
    if save and services:
        store.save_learnt(services.pop(), report.learnt)
    return report
