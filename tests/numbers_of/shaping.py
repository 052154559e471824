"""Cases of `evaluator.stats.shaping` for requests: panels, windows, accounts, silence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from judging import RUN

from evaluator.records import (
    Cells,
    InFlight,
    InstancePrior,
    LeftOut,
    LeftOutKind,
    LoadLevels,
    Moments,
    Period,
    Run,
    RunFacts,
)
from evaluator.stats.shaping.account import account_for_rows, find_cut_rows, find_lost_rows
from evaluator.stats.shaping.bins import bin_limits_ms, mean_logs
from evaluator.stats.shaping.blocks import choose_widths
from evaluator.stats.shaping.cells import add_up, coarsen, join, recode, where
from evaluator.stats.shaping.groups import group_by
from evaluator.stats.shaping.in_flight import cut_in_flight, settle_in_flight
from evaluator.stats.shaping.index import Index, distinct, group_rows, number_groups, rows_of_each
from evaluator.stats.shaping.narrow import cut_each_run, narrow
from evaluator.stats.shaping.panel import Panel, build_panel
from evaluator.stats.shaping.rare import pool_rare_endpoints
from evaluator.stats.shaping.silence import Silence, find_absent, find_silence, measure_clusters
from evaluator.stats.shaping.steps import find_steps
from evaluator.stats.shaping.window import WarmUp, find_warm_up
from evaluator.stats.variance.replication import merge_unreplicated
from evaluator.stats.variance.uncertainty import choose_design
from numbers_of.releases import cells_of, panel_of

T0 = 1_767_571_200


def _shape(panel: Panel | None) -> Any:
    """A panel without its histograms' caches."""
    if panel is None:
        return "nothing"
    parts = {
        field.name: getattr(panel, field.name) for field in fields(panel) if field.name not in {"bins", "row_bins"}
    }
    histograms = {
        name: [bins.cell, bins.n, bins.starts, bins.last]
        for name, bins in (("bins", panel.bins), ("rows", panel.row_bins))
    }
    return {"panel": parts, "histograms": histograms, "design": choose_design(panel)}


def _columns(cells: Cells) -> Any:
    tables = ("moments", "bins", "instance_bins", "loads", "failure_kinds")
    return {table: getattr(cells, table) for table in tables} | {
        "names": [len(cells.endpoints), len(cells.instances), len(cells.runs), cells.bucket_s, cells.grid]
    }


def _parts_of_panels() -> Any:
    cells = cells_of("unlike arms")
    first = int(cells.moments.bucket.min())
    panel = panel_of("rare")
    three = cells_of("several candidates")
    return {
        "endpoint": _shape(build_panel(cells, "canary", endpoint=cells.endpoints[1])),
        "warm-up": _shape(build_panel(cells, "canary", first_bucket={0: first + 9})),
        "all of it warm-up": _shape(build_panel(cells, "canary", first_bucket={0: first + 10_000})),
        "third arm": _shape(build_panel(three, "canary_b", endpoint=three.endpoints[0])),
        "earlier": _shape(panel.before(panel.origin + int(panel.offset[0]) // 4 * 4 + 40)),
        "blocks": panel.block_sum(panel.n),
        "blocks of runs": panel_of("replicates apart").block_sum(panel_of("replicates apart").n),
        "declared": choose_design(panel, InstancePrior(baseline=3, canary=7)).replicate_counts,
    }


def _widths() -> Any:
    rates = np.array([20.0, 5.0, 4.9, 2.5, 2.4, 1.0, 0.3, 0.05, 0.001, 0.0])
    n = np.stack([np.repeat(rates[:, None], 10, axis=1), np.repeat(3 * rates[:, None], 10, axis=1)])
    return {str(bucket_s): choose_widths(n, bucket_s) for bucket_s in (1, 5, 15, 60, 149, 150, 151, 300, 600)}


def _cells() -> Any:
    cells = cells_of("replicates")
    start = cells.moments.bucket.min() * cells.bucket_s
    from_s, to_s = (datetime.fromtimestamp(int(start) + after, UTC) for after in (21, 58))
    return {
        "all": _columns(cells),
        "from": _columns(narrow(cells, start=from_s)),
        "between": _columns(narrow(cells, start=from_s, end=to_s, endpoints=cells.endpoints[:1])),
        "instances": _columns(narrow(cells, instances=cells.instances[:3])),
        "of each run": _columns(cut_each_run(cells, 20.0, 41.0)),
        "where": _columns(where(cells, run=[0, 2], arm=[1])),
        "recoded": recode(cells, arm=1 - np.arange(2)).loads,
        "added up": add_up(coarsen(cells).moments),
        "bins added up": add_up(coarsen(cells).bins),
        "joined": _columns(join([cells_of("instances"), cells_of("steps of 10 ms")])),
    }


def _warm_up() -> Any:
    cells = cells_of("three runs of instances")
    first = [int(cells.moments.bucket[cells.moments.run == run].min()) for run in range(3)]

    def loads(users: Mapping[int, tuple[int, ...]], arms: int = 2) -> Cells:
        rows = [
            (run, arm, first[run] + position, count)
            for run, counts in users.items()
            for arm in range(arms)
            for position, count in enumerate(counts)
            if not (arm == 1 and position == 3)
        ]
        return replace(cells, loads=LoadLevels(*np.array(rows, dtype=np.int64).T))

    level = (10,) * 12
    return {
        "fixed": [find_warm_up(cells, seconds) for seconds in (0.0, 1.0, 5.0, 17.0, 20.0, 21.0)],
        "unknown": find_warm_up(cells, None),
        "level": find_warm_up(loads({0: level, 1: (2, *level[1:]), 2: (2, 5, 8, 9, 10, 10, 10)}), None),
        "late": find_warm_up(
            loads({0: (1, 2, 10, *level), 1: (1, 2, 3, 10, *level), 2: (1, 2, 3, 4, 10, *level)}), None
        ),
        "nearly": find_warm_up(loads({0: (18, 19, 20, 20), 1: (19, 19, 20), 2: (1, 95, 100)}), None),
    }


def _accounts() -> Any:
    facts = RunFacts(
        read={"baseline": 9000, "canary": 100},
        left_out=(LeftOut("baseline", LeftOutKind.BAD_ROW, 7, 2), LeftOut("", LeftOutKind.SUMMARY, 3)),
    )
    run = replace(RUN, facts=facts)
    others = (LeftOut("canary", LeftOutKind.CUT_OFF, 4), LeftOut("baseline", LeftOutKind.BAD_ROW, 5))
    out: dict[str, Any] = {}
    for name in ("instances", "replicates", "apart", "endpoints of one arm", "several candidates", "rare"):
        cells = cells_of(name)
        first = {run: int(cells.moments.bucket[cells.moments.run == run].min()) for run in range(len(cells.runs))}
        alone = where(cells, run=[0]) if name == "replicates" else cells
        for by, warm_up in (
            ("", WarmUp({}, {})),
            (", warm-up", WarmUp({code: at + 6 for code, at in first.items()}, {})),
        ):
            panels = {arm: build_panel(cells, arm, first_bucket=warm_up.first_bucket) for arm in cells.arms[1:]}
            out[f"{name}{by}"] = account_for_rows(cells, [run], warm_up, panels, others)
            out[f"{name}{by}, nothing compared"] = account_for_rows(cells, [], warm_up, {}, ())
        if name == "replicates":
            lone = replace(cells, moments=_without(cells.moments, (cells.moments.run == 1) & (cells.moments.arm == 1)))
            panels = {"canary": build_panel(lone, "canary")}
            out["a lone replicate"] = account_for_rows(lone, [], WarmUp({}, {}), panels, ())
        out[f"{name}, lost"] = find_lost_rows(cells, [run])
        out[f"{name}, cut"] = find_cut_rows(cells, alone)
    cells = cells_of("instances")
    exact = {arm: int(cells.moments.n[cells.moments.arm == code].sum()) for code, arm in enumerate(cells.arms)}
    complete = replace(run, facts=replace(facts, read=exact, left_out=()))
    out["nothing lost"] = find_lost_rows(cells, [complete])
    out["nothing counted"] = find_lost_rows(cells, [complete, replace(run, facts=RunFacts())])
    out["no arm"] = account_for_rows(where(replace(cells, arms=cells.arms[:1]), arm=[0]), [], WarmUp({}, {}), {}, ())
    return out


def _without(moments: Moments, rows: np.ndarray) -> Moments:
    return Moments(**{field.name: getattr(moments, field.name)[~rows] for field in fields(moments)})


def _waiting() -> tuple[Cells, Run]:
    cells = cells_of("instances")
    end = float((cells.moments.bucket.max() + 1) * cells.bucket_s)
    ages = (0.2, 2.0, 9.9, 10.0, 10.1, 30.0, 30.0, 100.0)
    requests = tuple(
        InFlight(arm, instance, cells.endpoints[0], end - age, age)
        for age in ages
        for arm, instance in (("baseline", cells.instances[0]), ("canary", "new"), ("canary", cells.instances[-1]))
    )
    stopped = datetime.fromtimestamp(end, UTC)
    return cells, replace(RUN, id=cells.runs[0], facts=RunFacts(in_flight=requests, users_stopped=stopped))


def _in_flight() -> Any:
    cells, run = _waiting()
    end = float((cells.moments.bucket.max() + 1) * cells.bucket_s)
    slow = replace(cells, bins=replace(cells.bins, bin=cells.bins.bin + 150))
    periods = {
        "from": Period(start=datetime.fromtimestamp(end - 30.0, UTC)),
        "to": Period(end=datetime.fromtimestamp(end - 5.0, UTC)),
        "to the end": Period(end=datetime.fromtimestamp(end, UTC)),
        "all": Period(),
    }
    out: dict[str, Any] = {}
    for name, cells_of_case in (("usual", cells), ("slow", slow)):
        settled = settle_in_flight(cells_of_case, [run, replace(run, id="unknown")])
        out[name] = {
            "patience": settled.patience_s,
            "usual": settled.usual_s,
            "failed": len(settled.failed),
            "cut off": settled.cut_off,
            "late": dict(sorted(settled.late.items())),
            "moments": settled.cells.moments,
            "kinds": settled.cells.failure_kinds.n,
            "status": settled.cells.failure_kinds.status,
        }
        for by, period in periods.items():
            runs, left_out = cut_in_flight(cells_of_case, [run], period)
            out[f"{name}, {by}"] = [len(runs[0].facts.in_flight), str(runs[0].facts.users_stopped), left_out]
    empty = replace(cells, bins=type(cells.bins)(*(np.zeros(0, dtype=np.int64) for _ in range(6))))
    return out | {"no success": settle_in_flight(empty, [run]).patience_s}


def _gaps(silences: list[Silence]) -> Any:
    return [
        {
            "series": silence.series,
            "gaps": silence.gaps,
            "buckets": silence.buckets,
            "end": silence.end,
            "longest": silence.longest,
        }
        for silence in silences
    ]


def _series() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(11)
    rows = [random.poisson(rate, 60).astype(float) for rate in (0.3, 1.0, 4.0, 20.0, 20.0)]
    groups = np.zeros((2, 60))
    for row in groups:
        np.add.at(row, random.integers(0, 60, 9), random.poisson(30, 9))
    paced = np.where(np.arange(60) % 6 < 2, 40.0, 0.0)
    own = np.vstack([*rows, groups, paced, np.where(np.arange(60) % 4 == 0, 5.0, 0.0)])
    reference = np.vstack([*rows[1:], rows[0], groups[::-1], paced, own[-1]]) + 0.0
    own[:7, 25:41] = 0
    own[3, 52:] = own[4, :9] = own[7, 30:54] = own[8, 40:] = 0
    return own, reference


def _silence() -> Any:
    own, reference = _series()
    out: dict[str, Any] = {"default": _gaps(find_silence(own, reference))}
    for alike in (True, False):
        for hole in (True, False):
            silences = find_silence(own, reference, paced_alike=alike, one_hole=hole)
            out[f"{alike} {hole}"] = _gaps(silences)
            out[f"{alike} {hole} turned"] = _gaps(find_silence(reference, own, paced_alike=alike, one_hole=hole))
    for hole in (True, False):
        out[f"clusters {hole}"] = measure_clusters(own, one_hole=hole)
    out["clusters"] = measure_clusters(own)
    out["clusters of few buckets"] = measure_clusters(own[:, :13])
    out["clusters of many buckets"] = measure_clusters(np.tile(own, 4))
    out["absent"] = [find_absent(reference, share) for share in (0.01, 0.1, 0.5, 1.0, 9.0)]
    return out


def _steps() -> Any:
    out: dict[str, Any] = {}
    random = np.random.default_rng(4)
    for name, times in {
        "ticks": np.rint(np.rint(random.normal(100_000, 9000, (30, 2)) / 15_625) * 15_625 / 1000) * 1000,
        "ticks from 0 on": np.rint(np.rint(np.abs(random.normal(0, 30_000, (30, 2))) / 15_625) * 15_625 / 1000) * 1000,
        "steps of 3 ms": np.rint(random.normal(30_000, 5000, (30, 2)) / 3000) * 3000,
        "one in three finer": np.where(np.arange(30)[:, None] % 3 > 0, 1.0, 0.1)
        * np.rint(random.normal(30, 5, (30, 2)))
        * 7000,
        "six others": np.where(np.arange(30)[:, None] < 6, np.arange(30)[:, None] + 1.0, 50.0) * 3000 * np.ones(2),
        "seven others": np.where(np.arange(30)[:, None] < 7, np.arange(30)[:, None] + 1.0, 50.0) * 3000 * np.ones(2),
        "two times": np.where(np.arange(30)[:, None] % 2, 20_000.0, 40_000.0) * np.ones(2),
        "fractions": random.normal(30_000, 5000, (30, 2)),
        "zeros": np.zeros((30, 2)),
        "unknown": np.full((30, 2), np.nan),
    }.items():
        low, high = times.min(axis=1), times.max(axis=1)
        ten, ones = np.arange(30), np.ones(30, dtype=np.int64)
        moments = Moments(
            *(ten for _ in range(5)),
            2 * ones,
            0 * ones,
            times.sum(axis=1),
            0.0 * ten,
            low,
            high,
            0.0 * ten,
            0.0 * ten,
            *(0 * ones,) * 3,
        )
        for size in (30, 21, 8, 7, 0):
            part = Moments(**{field.name: getattr(moments, field.name)[:size] for field in fields(moments)})
            out[f"{name} {size}"] = [
                find_steps(part, np.where(ten[:size] % 3 == 0, 2, ten[:size] % 2), (2, 2), grid) for grid in (1, 1000)
            ]
    return out


def _small() -> Any:
    columns = np.array([[3, 1, 3, 2, 1], [5, 5, 5, -9, 4]])
    large = columns * 2**40
    groups = group_by(np.array([1, -1, 0, 1, 2]))
    values = np.arange(20.0).reshape(5, 4)
    wide, narrow_index = Index(np.array([7, 3, 7]), 10), Index(np.array([7, 3, 7]), 30_000_000)
    wanted_keys = np.array([3, 4, 7, -1, 9])
    none = group_by(np.array([-1, -1]))
    return {
        "limits": [
            bin_limits_ms(last, grid, 1000) for last, grid in ((60, 0.001), (500, 0.001), (480, 1.0), (480, 10.0))
        ],
        "logs": [mean_logs(last, grid, 1000) for last, grid in ((60, 0.001), (480, 1.0))],
        "groups": [
            groups.of,
            groups.count,
            groups.order,
            groups.starts,
            groups.sum(values),
            groups.sum_totals(values[:, 0]),
        ],
        "picked": groups.pick(np.array([True, False, True])).of,
        "no group": [none.count, none.sum(values[:2]).shape],
        "order": [group_rows(columns), group_rows(large), group_rows(columns[:, :0])],
        "numbers": number_groups(*group_rows(columns)),
        "distinct": distinct(np.array([4, 0, 4])),
        "rows of each": [code for code, _ in rows_of_each(np.array([2, 0, 2]))],
        "index": [
            wide.keys,
            wide.find(wanted_keys),
            narrow_index.keys,
            narrow_index.find(wanted_keys),
            wide.size,
            narrow_index.size,
        ],
    }


def _rare() -> Any:
    cells = cells_of("rare")
    many = replace(cells, endpoints=(*cells.endpoints, *(f"GET /{k}" for k in range(1998))))
    counts = {
        name: int(
            min(cells.moments.n[(cells.moments.endpoint == k) & (cells.moments.arm == arm)].sum() for arm in (0, 1))
        )
        for k, name in enumerate(cells.endpoints)
    }
    middle = sorted(counts.values())[1]
    out = {
        str(index): _columns(pool_rare_endpoints(many, least, keep))
        for index, (least, keep) in enumerate(((middle, ()), (middle + 1, ()), (10**9, cells.endpoints[:1])))
    }
    few = replace(many, endpoints=many.endpoints[:2000])
    return out | {"few": len(pool_rare_endpoints(few, 10**9).endpoints), "counts": list(counts.values())}


def _unreplicated() -> Any:
    cells = cells_of("unlike arms")
    names = tuple(f"{k}" for k in range(cells.moments.n.size))
    spread = replace(
        cells,
        instances=names,
        moments=replace(cells.moments, instance=np.where(cells.moments.arm == 1, np.arange(len(names)), 0)),
        instance_bins=replace(
            cells.instance_bins, instance=np.where(cells.instance_bins.arm == 1, cells.instance_bins.bin, 0)
        ),
    )
    cells_merged, merged = merge_unreplicated(spread)
    return {
        "merged": merged,
        "cells": _columns(cells_merged),
        "names": len(cells_merged.instances),
        "not": merge_unreplicated(cells)[1],
    }


PANELS = (
    *("instances", "unlike arms", "one against three", "short lives", "replicates", "three runs of instances"),
    *("apart", "replicates apart", "two blocks", "rare", "endpoints of one arm", "several candidates"),
)
CASES: Mapping[str, Callable[[], Any]] = {
    **{f"panel: {name}": lambda name=name: _shape(panel_of(name)) for name in PANELS},
    "panel: parts": _parts_of_panels,
    "panel: widths": _widths,
    "cells": _cells,
    "warm-up": _warm_up,
    "accounts": _accounts,
    "in flight": _in_flight,
    "silence": _silence,
    "steps": _steps,
    "bins, groups, keys": _small,
    "rare endpoints": _rare,
    "names that replicate nothing": _unreplicated,
}
