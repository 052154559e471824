"""Inputs as Locust's recorder leaves them: requests in flight, stopped users, saturated load generators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from golden.inputs import CHANGES, RELEASE, REPORTS, TESTS, VERDICT, WIDE, Input, Policy, _name_arm
from golden.traffic import START_S, Arm, Test, draw, write_recording

TEST = replace(TESTS["three"], seconds=360.0)


def recorded(
    name: str,
    arm: Arm,
    *,
    policy: Policy = WIDE,
    test: Test = TEST,
    runs: int = 1,
    planned_s: float | None = 360.0,
    **facts: Any,
) -> Input:
    def write(folder: Path) -> None:
        for number in range(runs):
            at = replace(test, start_s=START_S + number * 600)
            drawn = draw(f"{name}/{number}", at, Arm(), _name_arm(arm, 0))
            run = f"20260302T1{number}0000Z-00000{number}"
            write_recording(folder, RELEASE, run, drawn, planned_s=planned_s, **facts)

    calls = [VERDICT, REPORTS] if runs == 1 else [("verdict", RELEASE, "--run", "all", *VERDICT[2:])]
    # The store is made by an import of another release.
    made = ("import", "other@1", "--outcomes", "nobody.csv")

    def write_all(folder: Path) -> None:
        write(folder)
        (folder / "nobody.csv").write_text("user_id,arm,x\n1,baseline,1\n2,canary,2\n")

    return Input(name, (made, *calls), write_all, policy)


def make() -> Iterator[Input]:
    for change in ("same", "slower15", "slower50", "fails5", "endpoint"):
        yield recorded(f"recorded/{change}", CHANGES[change])
        yield recorded(f"recorded/short/{change}", CHANGES[change], test=replace(TEST, seconds=120.0), planned_s=120.0)
    end = START_S + 360.0
    waits = [_wait("canary", k, end, 2.0 + k) for k in range(30)]
    both = [*waits, *(_wait("baseline", k, end, 2.0 + k) for k in range(30))]
    facts: dict[str, dict[str, Any]] = {
        "in-flight": {"in_flight": waits},
        "in-flight-both": {"in_flight": both},
        "in-flight-young": {
            "in_flight": [_wait(arm, k, end, 0.05) for arm in ("baseline", "canary") for k in range(8)]
        },
        "saturated": {"cpu_percent": 99.0, "loop_lag_ms": 150.0},
        "busy": {"cpu_percent": 88.0, "loop_lag_ms": 30.0},
        "clock": {"clock_offset_s": 5.0},
        "closed-loop": {"pacing": "closed"},
        "lost": {"counted": 12000},
        "users": {"users": {"baseline": 10, "canary": 6}},
        "killed": {"closed": False},
        "stopped": {"stopped_by": "the disk is full"},
        "stopped-users": {"users_stopped": START_S + 200.0},
        "workers": {"workers_expected": 3, "workers_seen": 1},
        "left-out": {
            "left_out": [{"arm": "canary", "kind": "bad_row", "rows": 40, "failures": 0, "detail": "no time"}]
        },
        "left-out-failures": {
            "left_out": [
                {
                    "arm": "canary",
                    "kind": "other_kind",
                    "rows": 60,
                    "failures": 60,
                    "detail": "ended without a request event",
                }
            ]
        },
        "plateau": {"plateau_start": START_S + 90.0},
        "unknown": {
            "cpu_percent": None,
            "loop_lag_ms": None,
            "clock_offset_s": None,
            "pacing": None,
            "counted": None,
            "users": {},
        },
    }
    for name, fact in facts.items():
        yield recorded(f"recorded/{name}", Arm(), **fact)
    yield recorded("recorded/early", Arm(), planned_s=900.0)
    yield recorded("recorded/no-plan", Arm(), planned_s=None)
    yield recorded("recorded/hangs", Arm(silent=((0.6, 1.0),)), in_flight=waits)
    yield recorded("recorded/runs", Arm(), runs=4, test=replace(TEST, seconds=120.0, instances=1), planned_s=120.0)
    early = {**WIDE, "monitoring": {"mode": "group_sequential", "early_go": True, "burn_in": "60s"}}
    long = replace(TEST, seconds=900.0, rate=8.0)
    for change in ("same", "slower50"):
        yield recorded(f"recorded/looks/{change}", CHANGES[change], policy=early, test=long, planned_s=900.0)


def _wait(arm: str, number: int, end: float, waited_s: float) -> dict[str, Any]:
    place = {"arm": arm, "instance": f"{arm}-{number % 3 + 1}", "endpoint": "POST /cart"}
    return {**place, "started_s": end - waited_s, "age_s": waited_s}
