"""The inputs: files, a policy and commands each, named by what they are of."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from golden.server import Metrics
from golden.traffic import FORMATS, START_S, Arm, Rows, Test, cut, draw, iso, write_plain, write_users

RELEASE = "cart@2"
VERDICT = ("verdict", RELEASE, "--format", "json=out/verdict.json", "--format", "human")
REPORTS = (
    *("verdict", RELEASE, "--dry-run", "--figures", "--format", "json=out/verdict.json"),
    *itertools.chain.from_iterable(
        ("--format", f"{name}=out/{name}.txt")
        for name in ("human", "markdown", "junit", "github", "gitlab", "gitlab-load")
    ),
)
PAGE = ("verdict", RELEASE, "--dry-run", "--format", "html=out/report.html")

Policy = dict[str, Any] | str | None


@dataclass(frozen=True)
class Input:
    """What is judged. `write` leaves the files in a folder, in which the commands run then."""

    name: str
    calls: tuple[tuple[str, ...], ...]
    write: Callable[[Path], None] = lambda _: None
    policy: Policy = None
    metrics: Callable[[], Metrics] | None = None
    """What the metrics server has."""

    def prepare(self, folder: Path) -> None:
        """Write files and policy."""
        (folder / "out").mkdir()
        if self.policy is not None:
            text = self.policy if isinstance(self.policy, str) else json.dumps(self.policy, indent=1)
            (folder / "evaluator.yaml").write_text(text, encoding="utf-8")
        self.write(folder)


@cache
def list_inputs() -> tuple[Input, ...]:
    """All inputs, in an order that does not change; names are unique."""
    from golden import errors, outcomes, readings, recordings

    made = [*make_requests(), *outcomes.make(), *readings.make(), *recordings.make(), *errors.make()]
    names = [one.name for one in made]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, twice
    return tuple(made)


# ------------------------------------------------------------------ requests

LATENCY = {"name": "p95", "type": "latency_quantile", "quantile": 0.95}
GATES = [
    {"name": "failures", "type": "failure_rate", "margin": "1pp"},
    {**LATENCY, "name": "p50", "quantile": 0.5, "margin": "10%"},
    {**LATENCY, "margin": "20%"},
]
"""Margins that five minutes of a small service can show."""
WIDE = {"metrics": GATES}
CHANGES: dict[str, Arm] = {
    "same": Arm(),
    "faster": Arm(latency=0.9),
    "slower3": Arm(latency=1.03),
    "slower9": Arm(latency=1.09),
    "slower15": Arm(latency=1.15),
    "slower50": Arm(latency=1.5),
    "tail": Arm(tail=2.0),
    "endpoint": Arm(endpoint_latency={"POST /checkout": 1.6}),
    "fails1": Arm(failures=0.006),
    "fails5": Arm(failures=0.05),
    "endpoint-fails": Arm(endpoint_failures={"GET /search": 0.1}),
    "larger": Arm(size=1.4),
    "fewer": Arm(rate=0.8),
    "leak": Arm(leak=0.4),
}
TESTS: dict[str, Test] = {
    "three": Test(),
    "one": Test(instances=1),
    "two": Test(instances=2, seconds=240.0),
    "unlabelled": Test(labelled=False),
    "runs": Test(runs=5, seconds=60.0, instances=1, run_sd=0.01),
    "six": Test(instances=6, instance_sd=0.03, rate=20.0),
}


def judged(
    name: str,
    test: Test,
    *candidates: Arm,
    baseline: Arm | None = None,
    form: str = "csv",
    policy: Policy = WIDE,
    options: Sequence[str] = (),
    verdict: Sequence[tuple[str, ...]] = (VERDICT,),
    change: Callable[[dict[str, list[Rows]]], Any] = lambda drawn: None,
    lost: int = 0,
) -> Input:
    """Files of every arm, imported and judged. `change` edits what was drawn before it is written.

    `lost`: how many files of canary `change` removes. Each file has an option of its own, which every version knows.
    """
    arms = [baseline or Arm(), *(_name_arm(one, k) for k, one in enumerate(candidates))]
    kind = FORMATS[form]

    def write(folder: Path) -> None:
        drawn = draw(name, test, *arms)
        change(drawn)
        for arm, runs in drawn.items():
            for number, rows in enumerate(runs):
                kind.write(folder / f"{arm}-{number}.{kind.ending}", rows)

    words = ["import", RELEASE]
    for arm in arms:
        for number in range(test.runs - (lost if arm.name == "canary" else 0)):
            file = f"{arm.name}-{number}.{kind.ending}"
            words += [f"--{arm.name}", file] if arm.name in ("baseline", "canary") else ["--arm", f"{arm.name}={file}"]
    return Input(name, ((*words, *kind.options, *options), *verdict), write, policy)


def _name_arm(arm: Arm, place: int) -> Arm:
    return arm if arm.name != "baseline" else replace(arm, name="canary" if place == 0 else f"canary_{chr(97 + place)}")


def make_requests() -> Iterator[Input]:
    for make in (of_formats, of_changes, of_metrics, of_rules, of_looks, of_arms, of_health, of_times, of_commands):
        yield from make()


def of_formats() -> Iterator[Input]:
    """Every format, with a candidate that passes, one that is slower and one that fails more."""
    for form, change in itertools.product(FORMATS, ("same", "slower50", "fails5")):
        runs = TESTS["runs"] if form == "csv-relative" else replace(TESTS["three"], seconds=180.0)
        yield judged(f"format/{form}/{change}", runs, CHANGES[change], form=form)
    yield judged("format/jtl/parts-of-runs", replace(TESTS["runs"], pause_s=0.4), Arm(), form="jtl")
    yield judged("format/csv/replicates-said", TESTS["runs"], Arm(), options=("--files-are", "replicates"))
    yield judged("format/csv/parts-said", TESTS["runs"], Arm(), options=("--files-are", "parts"))
    yield judged("format/csv/asked-for", replace(TESTS["runs"], pause_s=2.0), Arm())


def of_changes() -> Iterator[Input]:
    """Changes of every kind, under each design; the built-in policy for some."""
    every_other = [pair for k, pair in enumerate(itertools.product(TESTS, CHANGES)) if pair[0] == "three" or k % 15 % 2]
    for number, (kind, change) in enumerate(every_other):
        policy = None if number % 4 == 3 else WIDE
        calls = (VERDICT, REPORTS) if number % 7 == 2 else (VERDICT, PAGE) if number % 6 == 5 else (VERDICT,)
        yield judged(f"change/{kind}/{change}", TESTS[kind], CHANGES[change], policy=policy, verdict=calls)


def of_metrics() -> Iterator[Input]:
    """Every metric of requests with its options, roles and limits."""
    more = {"size": {"type": "response_size"}, "rate": {"type": "throughput"}, "mean": {"type": "latency_mean"}}
    absolute = {
        "failures": "0.5pp",
        "p50": "8ms",
        "p95": "40ms",
        "p999": "0.3s",
        "size": "100abs",
        "rate": "1/s",
        "mean": "10ms",
    }
    kinds = {"failures": {"type": "failure_rate"}, **more}
    kinds |= {f"p{q}": {"type": "latency_quantile", "quantile": q / 10 ** len(str(q))} for q in (50, 95, 999)}
    for name, kind in kinds.items():
        for change in ("same", "slower15", "fails1" if name == "failures" else "larger" if name == "size" else "fewer"):
            relative = {"name": name, **kind, "margin": "12%"}
            if change in ("same", "slower15"):
                yield _of_metric(f"metric/{name}/relative/{change}", change, relative)
            yield _of_metric(f"metric/{name}/absolute/{change}", change, {**relative, "margin": absolute[name]})
    endpoint = {"endpoint": "POST /checkout"}
    for number, metric in enumerate(
        (
            {**LATENCY, **endpoint, "margin": "10%", "max": "500ms"},
            {"name": "failures", "type": "failure_rate", **endpoint, "margin": "1pp", "role": "hold"},
            {"name": "failures", "type": "failure_rate", "max": "1%"},
            {**LATENCY, "max": "350ms"},
            {**LATENCY, "max": "150ms", "margin": "30%"},
            {"name": "rate", "type": "throughput", "min": "5/s"},
            {"name": "rate", "type": "throughput", "min": "50/s", "margin": "10%"},
            {**LATENCY, "margin": "1%", "role": "hold"},
            {**LATENCY, "margin": "0%"},
            {**LATENCY, "role": "watch"},
            {**LATENCY, "endpoint": "GET /nowhere", "margin": "10%"},
            {"name": "mean", "type": "latency_mean", **endpoint, "margin": "25ms", "max": "1s"},
            {"name": "size", "type": "response_size", "margin": "5%", "max": "1200abs"},
        )
    ):
        for change in ("same", "endpoint" if "endpoint" in metric else "slower15"):
            yield _of_metric(f"metric/rule-{number}/{change}", change, metric)


def _of_metric(name: str, change: str, metric: dict[str, Any]) -> Input:
    gate = {**LATENCY, "name": "median", "quantile": 0.5, "margin": "30%"}
    policy = {"metrics": [metric, gate] if "role" in metric else [metric]}
    return judged(name, replace(TESTS["three"], seconds=240.0), CHANGES[change], policy=policy)


def of_rules() -> Iterator[Input]:
    """Keys of the policy beside metrics."""
    keys: dict[str, dict[str, Any]] = {
        "alpha-1": {"alpha": "1%"},
        "alpha-20": {"alpha": "20%"},
        "shadow": {"mode": "shadow"},
        "scan-off": {"endpoint_scan": {"enabled": False}},
        "scan-narrow": {"endpoint_scan": {"margin": "5%", "failure_margin": "0.2pp", "alpha_share": "50%"}},
        "scan-tolerance": {"endpoint_scan": {"tolerance": "3%", "failure_tolerance": "0.1pp"}},
        "scan-wide": {"endpoint_scan": {"margin": "200%", "failure_margin": "20pp", "tolerance": "100%"}},
        "instances-differ": {"instances": {"sd_latency": "20%", "sd_failures": "1pp"}},
        "instances-alike": {"instances": {"sd_latency": "0.1%", "sd_failures": "0.001pp"}},
        "instances-said": {"instances": {"baseline": 4, "canary": 3}},
        "history": {"instances": {"history": {"comparisons": 12}, "sd_latency": "2%"}},
        "history-between-arms": {
            "instances": {
                "history": {
                    "between_arms_latency": "3%",
                    "between_arms_failures": "0.1pp",
                    "between_arms_comparisons": 9,
                }
            }
        },
        "warm-up-30": {"warm_up": "30s"},
        "warm-up-too-long": {"warm_up": "10m"},
        "silence-1": {"health": {"silence": "1%"}},
        "ratio": {"health": {"sample_ratio": {"baseline": 9, "canary": 1}}},
        "sensitive": {"sensitive": True},
        "services": {"services": [{"name": "cart"}, {"name": "search"}]},
    }
    for number, (name, key) in enumerate(keys.items()):
        for kind, change in (("three", "same"), (("one", "slower9"), ("six", "endpoint"))[number % 2]):
            yield judged(f"rule/{name}/{kind}", TESTS[kind], CHANGES[change], policy={**WIDE, **key})


def of_looks() -> Iterator[Input]:
    """When the verdict may fall."""
    modes: dict[str, dict[str, Any]] = {
        "fixed": {"mode": "fixed"},
        "sequential": {"mode": "group_sequential"},
        "sequential-early": {"mode": "group_sequential", "early_go": True},
        "anytime": {"mode": "anytime"},
        "anytime-early": {"mode": "anytime", "early_go": True, "burn_in": "60s"},
        "burn-in": {"mode": "group_sequential", "burn_in": "4m"},
    }
    for (name, mode), change in itertools.product(modes.items(), ("same", "slower15", "slower50", "fails5")):
        policy = {**WIDE, "monitoring": mode}
        test = Test(seconds=900.0, rate=8.0, instances=4)
        yield judged(f"looks/{name}/{change}", test, CHANGES[change], policy=policy)
    for name in ("fixed", "anytime"):
        for change in ("same", "slower15"):
            yield _of_growing(f"looks/growing/{name}/{change}", CHANGES[change], {**WIDE, "monitoring": modes[name]})


def _of_growing(name: str, change: Arm, policy: Policy) -> Input:
    """Data until the fourth minute are imported and judged, then those until the tenth."""

    def write(folder: Path) -> None:
        drawn = draw(name, Test(seconds=600.0, rate=8.0), Arm(), _name_arm(change, 0))
        for part, last in enumerate((240.0, 600.0)):
            for arm, runs in drawn.items():
                write_plain(folder / f"{arm}-{part}.csv", cut(runs[0], 0, last))

    calls: list[tuple[str, ...]] = []
    for part in (0, 1):
        files = ("--baseline", f"baseline-{part}.csv", "--canary", f"canary-{part}.csv")
        calls += [("import", RELEASE, *files), VERDICT]
    return Input(name, (*calls, VERDICT, ("verdict", RELEASE, "--run", "all", *VERDICT[2:])), write, policy)


def of_arms() -> Iterator[Input]:
    """Several candidates, or too few."""
    pairs = (("same", "same"), ("same", "slower50"), ("slower15", "faster"), ("fails5", "endpoint"))
    for number, changes in enumerate((*pairs, ("same", "same", "tail"))):
        for kind in ("three", "runs"):
            candidates = [CHANGES[one] for one in changes]
            yield judged(f"arms/{number}/{kind}", TESTS[kind], *candidates, verdict=(VERDICT, REPORTS))
    yield judged("arms/unequal", TESTS["three"], Arm(rate=0.2), Arm(rate=0.5, instances=2), baseline=Arm(rate=2.0))
    yield judged("arms/empty", TESTS["three"], Arm(), Arm(silent=((0, 1),)))
    yield judged("arms/nearly-empty", TESTS["three"], Arm(), Arm(silent=((0.01, 1),)))
    yield judged("arms/empty-baseline", TESTS["three"], Arm(), baseline=Arm(silent=((0, 1),)))
    yield judged("arms/only-baseline", TESTS["three"])


def of_health() -> Iterator[Input]:
    """What is wrong with a comparison."""
    three, six = TESTS["three"], TESTS["six"]
    unfair: dict[str, tuple[Test, Arm]] = {
        "silent-end": (three, Arm(silent=((0.7, 1.0),))),
        "silent-last": (three, Arm(silent=((0.97, 1.0),))),
        "silent-middle": (three, Arm(silent=((0.4, 0.45),))),
        "silent-long": (three, Arm(silent=((0.2, 0.6),))),
        "silent-start": (three, Arm(silent=((0.0, 0.2),))),
        "silent-often": (three, Arm(silent=((0.2, 0.3), (0.5, 0.6), (0.8, 0.9)))),
        "endpoint-silent-end": (three, Arm(silent_endpoint=("POST /cart", 0.5, 1.0))),
        "endpoint-silent-hole": (three, Arm(silent_endpoint=("GET /", 0.4, 0.5))),
        "endpoint-absent": (three, Arm(silent_endpoint=("GET /search", 0.0, 1.0))),
        "instance-silent": (three, Arm(silent_instance=(1, 0.5, 1.0))),
        "instance-hole": (six, Arm(silent_instance=(1, 0.4, 0.6))),
        "instance-replaced": (three, Arm(replaced_instance=(1, 0.5))),
        "instance-replaced-of-six": (six, Arm(replaced_instance=(1, 0.5))),
        "mix": (three, Arm(endpoint_rate={"POST /checkout": 3.0})),
        "few": (Test(seconds=30.0, rate=2.0), Arm()),
        "few-slow": (Test(seconds=60.0, rate=3.0), Arm(latency=2.0)),
        "very-few": (Test(seconds=10.0, rate=0.5), Arm()),
        "all-fail": (three, Arm(failures=1.0)),
        "whole-ms": (replace(three, step_ms=1.0), Arm()),
        "steps-10-ms": (replace(three, step_ms=10.0), Arm()),
        "steps-100-ms": (replace(three, step_ms=100.0), Arm(latency=1.1)),
        "ties": (replace(three, constant_ms=50.0), Arm()),
        "ties-slower": (replace(three, constant_ms=50.0), Arm(latency=1.5)),
        "heavy": (replace(three, heavy=0.05), Arm()),
        "heavy-slower": (replace(three, heavy=0.1), Arm(latency=1.3)),
        "warm": (replace(three, warm_s=40.0), Arm()),
        "one-endpoint": (replace(three, endpoints=("GET /",)), Arm(latency=1.1)),
        "only-health": (replace(three, endpoints=("GET /healthz",)), Arm()),
        "health-too": (replace(three, endpoints=("GET /", "GET /healthz", "GET /x")), Arm()),
        "health-goes-on": (
            replace(three, endpoints=("GET /", "GET /healthz")),
            Arm(silent_endpoint=("GET /", 0.5, 1.0)),
        ),
        "many-endpoints": (replace(three, endpoints=tuple(f"GET /user/{k}" for k in range(1200)), rate=30.0), Arm()),
        "in-turns": (replace(three, seconds=120.0), Arm(shift_s=150.0)),
        "half-overlap": (three, Arm(shift_s=100.0)),
        "short-overlap": (three, Arm(shift_s=270.0)),
        "instances-uneven": (three, Arm(instances=1)),
        "rare-failures": (replace(three, rate=30.0), Arm(failures=0.004)),
        "pile-up": (replace(three, rate=20.0), Arm(failures=0.0035, endpoint_failures={"POST /cart": 0.012})),
        "no-failures": (three, Arm(failures=0.0)),
    }
    for number, (name, (test, arm)) in enumerate(unfair.items()):
        calls = (VERDICT, REPORTS) if number % 4 == 0 else (VERDICT,)
        baseline = Arm(failures=0.0) if name in ("no-failures", "pile-up") else None
        yield judged(f"health/{name}", test, arm, baseline=baseline, verdict=calls)
    yield judged("health/baseline-silent", three, Arm(), baseline=Arm(silent=((0.6, 1.0),)))
    yield judged("health/baseline-endpoint-absent", three, Arm(), baseline=Arm(silent_endpoint=("GET /", 0, 1)))
    asked = {"metrics": [*GATES, {**LATENCY, "name": "search", "endpoint": "GET /search", "margin": "30%"}]}
    yield judged("health/endpoint-asked-for", three, Arm(silent_endpoint=("GET /search", 0, 1)), policy=asked)
    yield judged("health/all-fail-both", three, Arm(failures=1.0), baseline=Arm(failures=1.0))
    yield judged("health/fast-failures", three, Arm(failures=0.3), change=_answer_failures_at_once)
    ramp = replace(three, ramp_s=60.0)
    yield judged("health/ramp", ramp, Arm(), form="csv-users")
    yield judged("health/ramp-warm", replace(ramp, warm_s=80.0), Arm(latency=1.1), form="csv-users")
    yield judged("health/users-differ", three, Arm(users=7), form="csv-users")
    turned = {**WIDE, "instances": {"turnover": "expected"}}
    yield judged("health/instances-young", replace(three, seconds=900.0), Arm(replaced_every_s=40.0), policy=turned)
    yield judged("health/turnover-expected", three, Arm(replaced_instance=(1, 0.5)), policy=turned)
    yield judged("health/replicate-lost", TESTS["runs"], Arm(), change=lambda drawn: drawn["canary"].pop(), lost=1)
    yield judged("health/replicates-lost", TESTS["runs"], Arm(), change=_lose_three, lost=3)
    yield judged("health/replicates-three", replace(TESTS["runs"], runs=3), Arm())
    yield judged("health/replicates-in-turns", replace(TESTS["runs"], pause_s=80.0), Arm(shift_s=70.0))
    for name, bad in {"bad-rows": (20, 20), "bad-rows-uneven": (3, 60), "bad-rows-many": (300, 300)}.items():
        yield _of_bad_rows(f"health/{name}", dict(zip(("baseline", "canary"), bad, strict=True)))
    yield _of_hidden_failures("health/left-out-failures", 0.5)
    yield _of_hidden_failures("health/left-out-few", 0.01)


def _lose_three(drawn: dict[str, list[Rows]]) -> None:
    del drawn["canary"][2:]


def _answer_failures_at_once(drawn: dict[str, list[Rows]]) -> None:
    for runs in drawn.values():
        for rows in runs:
            rows.ms[rows.failed] = 1.0


def _of_bad_rows(name: str, bad: dict[str, int]) -> Input:
    def write(folder: Path) -> None:
        for arm, runs in draw(name, TESTS["three"], Arm(), Arm("canary")).items():
            path = folder / f"{arm}.csv"
            write_users(path, runs[0])
            lines = path.read_text().splitlines()
            step = len(lines) // (bad[arm] + 1)
            for number in range(1, bad[arm] + 1):
                ts, endpoint, _, rest = lines[number * step].split(",", 3)
                lines[number * step] = f"{ts},{endpoint},soon,{rest}"
            path.write_text("\n".join([*lines, ""]))

    words = ("import", RELEASE, "--baseline", "baseline.csv", "--canary", "canary.csv")
    return Input(name, (words, VERDICT, (*words, "--skip-bad-rows"), VERDICT), write, WIDE)


def _of_hidden_failures(name: str, share: float) -> Input:
    """Points of k6 that are no requests over HTTP, of which those of the candidate fail."""

    def write(folder: Path) -> None:
        for arm, runs in draw(name, TESTS["three"], Arm(), Arm("canary")).items():
            path = folder / f"{arm}.csv"
            FORMATS["k6-csv"].write(path, runs[0])
            lines = path.read_text().splitlines()
            for number, row in enumerate(lines[1:400:2]):
                status = 13 if arm == "canary" and number < 200 * share else 0
                lines.append(f"grpc_req_duration,{row.split(',')[1]},12.5,,,Call,{status},")
            path.write_text("\n".join([*lines, ""]))

    words = ("import", RELEASE, "--baseline", "baseline.csv", "--canary", "canary.csv")
    return Input(name, (words, VERDICT), write, WIDE)


def of_times() -> Iterator[Input]:
    """A part of the time: of the import, or of the verdict."""
    parts = {"from": (100, None), "to": (None, 200), "middle": (80, 220), "nothing": (1000, 2000), "little": (100, 103)}
    for name, (first, last) in parts.items():
        words = ["--from", iso(START_S + first)] if first is not None else []
        words += ["--to", iso(START_S + last)] if last is not None else []
        for change in ("same", "slower50"):
            yield judged(f"time/import/{name}/{change}", TESTS["three"], CHANGES[change], options=words)
            call = (*VERDICT, *words)
            yield judged(f"time/verdict/{name}/{change}", TESTS["three"], CHANGES[change], verdict=(VERDICT, call))
    options = ("--baseline-version", "1.4", "--canary-version", "1.5", "--service", "cart", "--label", "team=shop")
    yield judged("time/versions", TESTS["three"], Arm(), options=options)
    failing = [(*VERDICT, "--fail-on", "no-go"), (*VERDICT, "--exit-zero")]
    yield judged("time/fail-on", TESTS["one"], CHANGES["slower50"], verdict=failing)
    yield judged("time/fail-on-inconclusive", TESTS["one"], Arm(), verdict=failing)


def of_commands() -> Iterator[Input]:
    """Plans, calibration, and verdicts that are given again under another policy."""
    for kind in ("three", "one", "runs", "six"):
        plan = (
            ("plan", RELEASE, "--json"),
            ("plan", RELEASE, "--json", "--duration", "20m", "--instances", "6", "--regression", "20%"),
            ("plan", RELEASE, "--json", "--power", "90%"),
            ("plan", RELEASE),
        )
        yield judged(f"plan/{kind}", TESTS[kind], Arm(), verdict=plan)
    for name, words in {
        "rate": ("--rate", "30"),
        "short": ("--rate", "5", "--duration", "5m", "--instances", "2"),
        "failures": ("--rate", "100", "--failures", "0.1pp", "--regression", "5%"),
    }.items():
        yield Input(f"plan/alone/{name}", (("plan", *words, "--json"), ("plan", *words)), policy=WIDE)
        yield Input(f"plan/built-in/{name}", (("plan", *words, "--json"),))
    for kind in ("three", "runs", "six"):
        calls = (("calibrate", "--json", "--splits", "4"), ("calibrate", "--save", "--splits", "2"), VERDICT)
        named = {"service": "cart", **WIDE}
        options = ("--service", "cart")
        yield judged(f"calibrate/{kind}", TESTS[kind], Arm(), verdict=calls, policy=named, options=options)
    yield _of_history("calibrate/history")
    for change in ("same", "slower15"):
        calls = (VERDICT, ("replay", "--json", "--policy", "other.yaml"), ("replay", "--policy", "other.yaml"))
        made = judged(f"replay/{change}", TESTS["three"], CHANGES[change], verdict=calls)
        other = {"metrics": [{**LATENCY, "margin": "2%"}, {**LATENCY, "name": "p50", "quantile": 0.5, "margin": "40%"}]}

        def write(folder: Path, write: Callable[[Path], None] = made.write, other: Policy = other) -> None:
            write(folder)
            (folder / "other.yaml").write_text(json.dumps(other))

        yield replace(made, write=write)


def _of_history(name: str) -> Input:
    """Five releases that changed nothing, from which it is learnt how much instances and arms differ."""
    test = Test(seconds=120.0, rate=15.0, instances=4, instance_sd=0.05)

    def write(folder: Path) -> None:
        for number in range(6):
            instances = 1 if number == 5 else 4
            at = replace(test, start_s=START_S + 3600 * number, instances=instances)
            for arm, runs in draw(f"{name}/{number}", at, Arm(), Arm("canary")).items():
                write_plain(folder / f"{arm}-{number}.csv", runs[0])

    calls: list[tuple[str, ...]] = []
    for number in range(6):
        files = ("--baseline", f"baseline-{number}.csv", "--canary", f"canary-{number}.csv")
        versions = ("--service", "cart", "--baseline-version", "1.4", "--canary-version", "1.4")
        calls.append(("import", "cart@2" if number == 5 else f"cart@1.{number}", *files, *versions))
    calls += [("calibrate", "--save", "--splits", "2"), ("calibrate", "--json", "--splits", "2"), VERDICT]
    calls += [("verdict", "cart@1.2", *VERDICT[2:]), ("plan", RELEASE, "--json")]
    return Input(name, tuple(calls), write, {"service": "cart", **WIDE})
