"""Inputs with outcomes of users: A/B tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golden.inputs import RELEASE, REPORTS, TESTS, VERDICT, WIDE, Input, Policy
from golden.traffic import Arm, draw, make_random, write_csv, write_plain


@dataclass(frozen=True)
class Users:
    """How the users of an arm behave."""

    count: int = 3000
    bought: float = 0.27
    spent: float = 1.0
    sessions: float = 1.0
    missing: float = 0.0
    skew: float = 0.6


def draw_users(name: str, arms: dict[str, Users], *, rows_a_user: int = 1) -> list[list[Any]]:
    """Rows of users: id, arm, bought, amount, amount_pre, orders, sessions, calls."""
    random, out = make_random(name), []
    for arm, users in arms.items():
        n = users.count
        before = np.exp(3 + 0.8 * random.normal(0, 1, n))
        bought = random.uniform(0, 1, n) < users.bought
        amount = users.spent * np.sqrt(before) * np.exp(1.4 + users.skew * random.normal(0, 1, n)) * bought
        sessions = 1 + random.poisson(3, n)
        orders = random.binomial(sessions, np.minimum(0.3 * users.sessions, 1.0))
        calls = random.poisson(0.2, n)
        gone = random.uniform(0, 1, n) < users.missing
        for k in range(n):
            for row in range(rows_a_user if k % 3 == 0 else 1):
                value = "" if gone[k] else round(float(amount[k]) / (row + 1), 4)
                money = [int(bought[k]), value, round(float(before[k]), 4)]
                out.append([f"{arm[:1]}{k}", arm, *money, int(orders[k]), int(sessions[k]), int(calls[k])])
    return out


HEADER = ["user_id", "variant", "bought", "amount", "amount_pre", "orders", "sessions", "calls"]

METRICS: dict[str, dict[str, Any]] = {
    "proportion": {"type": "outcome_proportion", "outcome": "bought", "margin": "2pp"},
    "proportion-relative": {"type": "outcome_proportion", "outcome": "bought", "margin": "8%"},
    "proportion-rows": {"type": "outcome_proportion", "outcome": "bought", "per": "rows", "margin": "2pp"},
    "mean": {"type": "outcome_mean", "outcome": "amount", "margin": "8%"},
    "mean-absolute": {"type": "outcome_mean", "outcome": "amount", "margin": "1abs"},
    "mean-covariates": {"type": "outcome_mean", "outcome": "amount", "margin": "5%", "covariates": ["amount_pre"]},
    "mean-winsorised": {"type": "outcome_mean", "outcome": "amount", "margin": "5%", "winsorise": "99%"},
    "mean-superior": {"type": "outcome_mean", "outcome": "amount", "margin": "0%"},
    "mean-lower": {"type": "outcome_mean", "outcome": "calls", "direction": "lower_is_better", "margin": "0.05abs"},
    "mean-shown": {"type": "outcome_mean", "outcome": "amount", "role": "watch"},
    "ratio": {"type": "outcome_ratio", "outcome": "orders", "per": "sessions", "margin": "5%"},
    "ratio-covariates": {
        "type": "outcome_ratio",
        "outcome": "amount",
        "per": "sessions",
        "margin": "6%",
        "covariates": ["amount_pre"],
    },
    "ratio-rows": {
        "type": "outcome_ratio",
        "outcome": "amount",
        "per": "rows",
        "margin": "0.5abs",
        "winsorise": "99.5%",
    },
    "quantile": {"type": "outcome_quantile", "quantile": 0.9, "outcome": "amount", "margin": "6%"},
    "quantile-rows": {"type": "outcome_quantile", "quantile": 0.8, "outcome": "amount", "per": "rows", "margin": "10%"},
    "quantile-absolute": {"type": "outcome_quantile", "quantile": 0.5, "outcome": "sessions", "margin": "1abs"},
    "limit": {"type": "outcome_proportion", "outcome": "bought", "min": "30%", "margin": "5pp"},
    "unknown": {"type": "outcome_mean", "outcome": "profit", "margin": "5%"},
}
SEVERAL = [
    {"name": "conversion", **METRICS["proportion"]},
    {"name": "revenue", **METRICS["mean-covariates"]},
    {"name": "orders", **METRICS["ratio"], "role": "hold"},
    {"name": "spenders", **METRICS["quantile"], "role": "watch"},
]
BETTER, WORSE = Users(bought=0.29, spent=1.04, sessions=1.03), Users(bought=0.22, spent=0.9, sessions=0.88)
CHANGES = {"same": Users(), "better": BETTER, "worse": WORSE}


def compared(
    name: str,
    arms: dict[str, Users],
    policy: Policy,
    *,
    options: Sequence[str] = (),
    rows_a_user: int = 1,
    calls: Sequence[tuple[str, ...]] = (VERDICT,),
    ending: str = "csv",
) -> Input:
    def write(folder: Path) -> None:
        write_csv(folder / f"users.{ending}", HEADER, draw_users(name, arms, rows_a_user=rows_a_user))

    return Input(name, (("import", RELEASE, "--outcomes", f"users.{ending}", *options), *calls), write, policy)


def make() -> Iterator[Input]:
    for (metric, rule), (change, users) in itertools.product(METRICS.items(), CHANGES.items()):
        policy = {"metrics": [{"name": metric, **rule}, *([SEVERAL[0]] if "role" in rule else [])]}
        several = 2 if "rows" in metric else 1
        arms = {"control": Users(), "treatment": users}
        yield compared(f"outcomes/{metric}/{change}", arms, policy, rows_a_user=several)
    yield from of_arms()
    yield from of_looks()
    yield from of_health()
    yield from of_mixes()


def of_arms() -> Iterator[Input]:
    policy = {"metrics": SEVERAL}
    for name, others in {
        "same": ("same", "same"), "one-better": ("same", "better"), "one-worse": ("better", "worse"),
        "three": ("same", "better", "better"),
    }.items():  # fmt: skip
        arms = {"control": Users(), **{f"{chr(98 + k)}-{one}": CHANGES[one] for k, one in enumerate(others)}}
        yield compared(f"outcomes/arms/{name}", arms, policy, calls=(VERDICT, REPORTS))


def of_looks() -> Iterator[Input]:
    """Outcomes are imported and judged three times, with more users each time."""
    modes: dict[str, dict[str, Any]] = {
        "auto": {}, "planned": {"max_units": 6000}, "anytime": {"mode": "anytime"}, "fixed": {"mode": "fixed"},
        "planned-few": {"max_units": 3000, "early_go": True},
    }  # fmt: skip
    for (name, mode), (change, users) in itertools.product(modes.items(), CHANGES.items()):
        yield _of_growing(f"outcomes/looks/{name}/{change}", users, {"metrics": SEVERAL, "monitoring": mode})


def _of_growing(name: str, users: Users, policy: Policy) -> Input:
    def write(folder: Path) -> None:
        rows = draw_users(name, {"control": Users(), "treatment": users})
        for part in (1, 2, 3):
            write_csv(folder / f"users-{part}.csv", HEADER, [row for row in rows if int(row[0][1:]) < part * 1000])

    parts = [(("import", RELEASE, "--outcomes", f"users-{part}.csv"), VERDICT) for part in (1, 2, 3)]
    return Input(name, (*itertools.chain.from_iterable(parts), VERDICT), write, policy)


def of_health() -> Iterator[Input]:
    policy = {"metrics": SEVERAL}
    unfair: dict[str, dict[str, Users]] = {
        "ratio": {"control": Users(), "treatment": Users(count=2600)},
        "ratio-stray": {"control": Users(), "treatment": Users(), "undefined": Users(count=40)},
        "missing": {"control": Users(missing=0.02), "treatment": Users(missing=0.08)},
        "missing-alike": {"control": Users(missing=0.05), "treatment": Users(missing=0.05)},
        "few": {"control": Users(count=40), "treatment": Users(count=40)},
        "very-few": {"control": Users(count=3), "treatment": Users(count=2)},
        "skewed": {"control": Users(skew=2.2), "treatment": Users(skew=2.2)},
        "nobody": {"control": Users(bought=0.0), "treatment": Users(bought=0.0)},
        "one-arm": {"control": Users()},
    }
    for name, arms in unfair.items():
        yield compared(f"outcomes/health/{name}", arms, policy, calls=(VERDICT, REPORTS))
    said = {**policy, "health": {"sample_ratio": {"baseline": 30, "treatment": 26}}}
    yield compared("outcomes/health/ratio-said", unfair["ratio"], said)
    both = {"control": Users(), "treatment": Users()}
    yield compared("outcomes/health/log", both, policy, rows_a_user=3)
    yield compared("outcomes/import/gz", both, policy, ending="csv.gz")
    query = "SELECT user_id, variant, bought, amount, amount_pre, orders, sessions FROM outcomes WHERE sessions < 6"
    yield compared("outcomes/import/query", both, policy, options=("--outcomes-query", query))
    yield compared("outcomes/import/rows", both, policy, options=("--unit", "rows"))
    words = ("--unit", "user_id", "--arm-column", "variant", "--baseline-arm", "treatment")
    words += ("--outcome", "bought:binary")
    yield compared("outcomes/import/said", both, {"metrics": SEVERAL[:1]}, options=words)
    yield compared("outcomes/import/not-asked-for", both, WIDE)
    for name, edit in {
        "crossed": lambda rows: [[*row[:1], "control", *row[2:]] for row in rows[-60:]],
        "crossed-few": lambda rows: [[*row[:1], "control", *row[2:]] for row in rows[-9:]],
        "duplicates": lambda rows: rows[:25],
        "bad-rows": lambda rows: [[f"x{k}", row[1], row[2], "much", *row[4:]] for k, row in enumerate(rows[-40:])],
        "bad-rows-many": lambda rows: [[f"x{k}", row[1], row[2], "much", *row[4:]] for k, row in enumerate(rows[::40])],
    }.items():
        yield _of_added(f"outcomes/health/{name}", edit, policy)


def _of_added(name: str, edit: Any, policy: Policy) -> Input:
    def write(folder: Path) -> None:
        rows = draw_users(name, {"control": Users(), "treatment": Users()})
        write_csv(folder / "users.csv", HEADER, [*rows, *edit(rows)])

    words = ["import", RELEASE, "--outcomes", "users.csv", "--covariate", "amount_pre"]
    words += [word for outcome in ("bought", "amount", "orders", "sessions") for word in ("--outcome", outcome)]
    return Input(name, (tuple(words), (*words, "--skip-bad-rows"), VERDICT), write, policy)


def of_mixes() -> Iterator[Input]:
    """Requests and outcomes of one release."""
    policy = {"metrics": [*WIDE["metrics"], *SEVERAL[:2]]}
    for (change, users), (load, arm) in itertools.product(
        CHANGES.items(), {"fast": Arm("canary"), "slow": Arm("canary", latency=1.5)}.items()
    ):
        name = f"mix/requests-outcomes/{change}/{load}"

        def write(folder: Path, name: str = name, users: Users = users, arm: Arm = arm) -> None:
            for one, runs in draw(name, TESTS["three"], Arm(), arm).items():
                write_plain(folder / f"{one}.csv", runs[0])
            write_csv(folder / "users.csv", HEADER, draw_users(name, {"baseline": Users(), "canary": users}))

        calls = (
            ("import", RELEASE, "--baseline", "baseline.csv", "--canary", "canary.csv"),
            VERDICT,
            ("import", RELEASE, "--outcomes", "users.csv"),
            VERDICT,
        )
        yield Input(name, calls, write, policy)
