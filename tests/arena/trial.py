"""One simulated release: the answers of the judge and of its peers."""

from __future__ import annotations

import math
import time
import traceback
import zlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from arena.grid import ALPHA, GATES_ALONE, PEERED, SCAN_ALONE, Mode, Trial, own_rulebooks
from arena.peers import ask_peers
from evaluator.assess import assess
from evaluator.judges import judge_evidence
from evaluator.records import (
    Cells,
    Comparison,
    Evidence,
    Rulebook,
    Run,
    RunFacts,
    RunState,
    VerdictWord,
    choose_bucket_s,
)
from evaluator.simulate import SCENARIOS, Requests, Scenario, simulate, to_cells

__all__ = ["run_trial"]

Record = dict[str, Any]


def choose_seed(trial: Trial) -> int:
    """Return a seed that no other design has, so that one unlucky draw is in one row only."""
    return zlib.crc32(trial.design.encode()) << 16 | trial.seed


def run_trial(trial: Trial) -> Record:
    """Simulate and judge. An error becomes part of the record, so that one crash does not end a long run."""
    started = time.process_time()
    record: Record = {"design": trial.design, "seed": trial.seed}
    try:
        record |= _judge_release(trial)
    except Exception:  # noqa: BLE001 counted and shown in the table
        record["error"] = traceback.format_exc()
    return record | {"cpu_s": round(time.process_time() - started, 3)}


def _judge_release(trial: Trial) -> Record:
    design = SCENARIOS[trial.design]
    requests = simulate(design, choose_seed(trial))
    peered = trial.design in PEERED
    peers = {name: [flags.horizon, flags.first_minute] for name, flags in ask_peers(requests).items()} if peered else {}
    cells = to_cells(requests, design.bucket_s or choose_bucket_s(design.duration_s))
    return {"peers": peers, "ours": {mode: _ask(design, requests, cells, mode) for mode in trial.modes}}


def describe_runs(design: Scenario, requests: Requests, *, planned: bool) -> tuple[Run, ...]:
    """Return the runs as the load generator would describe them: complete, with their planned end."""
    users = dict.fromkeys(design.arms, design.users or 10)
    facts = RunFacts(users=users, pacing="open" if design.wait_s is None else "closed")
    out = []
    for number, name in enumerate(requests.runs):
        first_us = int(requests.ts_us[requests.run == number].min())
        start = datetime.fromtimestamp(first_us // 1_000_000, UTC)
        end = start + timedelta(seconds=design.duration_s)
        out.append(
            Run(
                id=name,
                release="arena",
                group="arena",
                source="locust",
                replicate=number,
                started=start,
                planned_end=end if planned else None,
                ended=end,
                state=RunState.COMPLETE,
                facts=facts,
            )
        )
    return tuple(out)


def _ask(design: Scenario, requests: Requests, cells: Cells, mode: Mode) -> Record:
    runs = describe_runs(design, requests, planned=mode != "anytime")
    books = own_rulebooks(design, mode)
    policy = assess(cells, runs, books["policy"])
    zero = assess(cells, runs, books["zero"])
    gates = tuple(c for c in zero.comparisons if not c.scan and c.rule.slice.endpoint is None)
    scan = tuple(c for c in zero.comparisons if c.scan)
    return {
        "policy": _judge(policy, books["policy"], runs),
        "gates": _judge(replace(zero, comparisons=gates), replace(books["zero"], scan=GATES_ALONE), runs),
        "scan": _judge(replace(zero, comparisons=scan), replace(books["zero"], rules=(), scan=SCAN_ALONE), runs),
        "alone": _sum_up_alone(zero, cells.arms[1], runs),
    }


def _judge(evidence: Evidence, rulebook: Rulebook, runs: tuple[Run, ...]) -> Record:
    """The verdict, the minute of the run at which a NO-GO was shown, the reason, and the status of each metric."""
    judgement = judge_evidence(evidence, rulebook, "arena")
    decided_s = judgement.decided_at_s if judgement.word is VerdictWord.NO_GO else None
    return {
        "word": str(judgement.word),
        "minute": None if decided_s is None else _to_minute(decided_s, evidence, runs),
        "why": judgement.reasons[0].code,
        "metric": judgement.reasons[0].metric,
        "status": {c.rule.name: str(c.status) for c in judgement.comparisons if not c.scan},
    }


def _sum_up_alone(evidence: Evidence, arm: str, runs: tuple[Run, ...]) -> Record:
    """Each metric as if it were the only one: is it shown to be worse at level alpha, when, and its interval."""
    mine = [c for c in evidence.comparisons if c.arm == arm and not c.scan]
    return {c.rule.name: _sum_up(c, evidence, runs) for c in mine}


def _sum_up(comparison: Comparison, evidence: Evidence, runs: tuple[Run, ...]) -> Record:
    if comparison.no_data or comparison.effect is None:
        return {"no_data": comparison.no_data or "no effect"}
    # A look with too little data has no p-value.
    crossed = [look.at_s for look in comparison.looks if look.p_worse and look.p_worse[0] < ALPHA]
    last = next(test.p_worse for test in comparison.questions if test.kind == "margin")
    times = [*crossed, *([evidence.window.seconds] if last < ALPHA else [])]
    effect = comparison.effect
    return {
        "worse": bool(times),
        "minute": _to_minute(min(times), evidence, runs) if times else None,
        "low": _finite(effect.lower),
        "high": _finite(effect.upper),
        "estimate": _finite(effect.estimate),
    }


def _to_minute(judged_s: float, evidence: Evidence, runs: Iterable[Run]) -> float:
    """Minutes since the start of the run, including the warm-up that was cut."""
    starts = [run.started for run in runs if run.started is not None]
    before = (evidence.window.start - min(starts)).total_seconds() if evidence.window.start else 0.0
    return (max(before, 0.0) + judged_s) / 60.0


def _finite(value: float) -> float | None:
    """JSON has no infinity; an end that is missing covers everything on its side."""
    return float(value) if math.isfinite(value) else None
