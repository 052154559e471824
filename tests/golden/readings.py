"""Inputs with readings of a metrics server."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from golden.inputs import RELEASE, REPORTS, TESTS, VERDICT, WIDE, Input, Policy
from golden.outcomes import HEADER, SEVERAL, Users, draw_users
from golden.server import URL, Metrics, Series
from golden.traffic import START_S, Arm, draw, iso, make_random, write_csv, write_plain

STEP_S = 15
BOUNDS = (0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True)
class Server:
    """What the instances of one arm count."""

    instances: int = 3
    rate: float = 20.0
    failures: float = 0.004
    latency: float = 1.0
    memory: float = 2e8
    leak: float = 0.0
    """What the memory gains in an hour, as a share."""
    seen: tuple[float, float] = (0.0, 1.0)
    """The part of the time in which there are samples at all."""
    hole: tuple[float, float] = (0.0, 0.0)
    down: tuple[float, float] = (0.0, 0.0)
    """Scrapes fail: `up` is 0."""
    idle: tuple[float, float] = (0.0, 0.0)
    """Requests stand still."""
    idle_instance: int | None = None
    gone_instance: tuple[int, float] | None = None
    """The instance with this number ends at this share of the time."""
    restarts: int = 0
    drops: int = 0
    nan: int = 0
    infinite: int = 0
    bounds: tuple[float, ...] = BOUNDS
    endpoints: tuple[str, ...] = ("/", "/cart")
    endpoint_idle: tuple[str, float, float] | None = None
    failure_code: str = "500"
    native: bool = False
    instance_sd: float = 0.02
    prefix: str = ""
    """Of the names of instances; default the arm."""
    labels: dict[str, str] = field(default_factory=dict)


def serve(name: str, minutes: float, **arms: Server) -> Metrics:
    """Series of all arms from START on, scraped each STEP_S."""
    metrics, random = Metrics(), make_random(name)
    for arm, server in arms.items():
        for number in range(server.instances):
            _add_instance(metrics, random, arm, server, number, minutes * 60)
    return metrics


def _add_instance(metrics: Metrics, random: Any, arm: str, server: Server, number: int, seconds: float) -> None:
    ts = START_S - 60 + np.arange(0, seconds + 120, STEP_S) + 0.1 * number
    share = (ts - START_S) / seconds
    end = server.gone_instance[1] if server.gone_instance and server.gone_instance[0] == number else 2.0
    first, last = server.seen
    there = (share >= (first or -1)) & (share <= (last if last < 1 else 2)) & (share <= end)
    there &= ~((share >= server.hole[0]) & (share < server.hole[1]))
    up = ~((share >= server.down[0]) & (share < server.down[1]))
    labels = {"version": arm, "instance": f"{server.prefix or arm}:{number + 1}", **server.labels}
    metrics.add("up", labels, ts[there], up[there].astype(float))
    there &= up
    counts = _Counts(metrics, random, server, ts, there)
    total = np.zeros(len(ts))
    for place, endpoint in enumerate(server.endpoints):
        moves = _find_moves(server, number, endpoint, share)
        added = random.poisson(server.rate * STEP_S / (place + 1) / server.instances, len(ts)) * moves
        failed = random.binomial(added, server.failures)
        handler = {**labels, "handler": endpoint}
        counts.add("http_requests_total", {**handler, "code": "200"}, added - failed)
        counts.add("http_requests_total", {**handler, "code": server.failure_code}, failed)
        total = total + added
    level = np.exp(server.instance_sd * random.normal(0, 1))
    _add_times(counts, random, server, labels, total, level)
    memory = server.memory * (1 + server.leak * (ts - START_S) / 3600) * level
    memory *= np.exp(0.01 * random.normal(0, 1, len(ts)))
    memory[: server.nan * 3 : 3] = np.nan
    memory[1 : server.infinite * 3 : 3] = np.inf
    for gauge, values in {"process_resident_memory_bytes": memory, "memory_limit_bytes": np.full(len(ts), 1e9)}.items():
        metrics.add(gauge, labels, ts[there], values[there])
    counts.add("process_cpu_seconds_total", labels, 0.002 * server.latency * total)


def _find_moves(server: Server, number: int, endpoint: str, share: np.ndarray) -> np.ndarray:
    moves = np.ones(len(share), int)
    if server.idle_instance in (None, number):
        moves[(share >= server.idle[0]) & (share < server.idle[1])] = 0
    if server.endpoint_idle and server.endpoint_idle[0] == endpoint:
        moves[(share >= server.endpoint_idle[1]) & (share < server.endpoint_idle[2])] = 0
    return moves


@dataclass
class _Counts:
    metrics: Metrics
    random: Any
    server: Server
    ts: np.ndarray
    there: np.ndarray

    def add(self, name: str, labels: dict[str, str], added: np.ndarray) -> None:
        """A counter that begins again where the instance restarts, and is told lower where a twin answers."""
        values = 1000.0 + np.cumsum(added).astype(float)
        for k in range(self.server.restarts):
            place = len(values) * (k + 1) // (self.server.restarts + 1)
            values[place:] -= values[place - 1]
        for k in range(self.server.drops):
            values[len(values) * (k + 1) // (self.server.drops + 1)] *= 0.9
        self.metrics.add(name, labels, self.ts[self.there], values[self.there])


def _add_times(counts: _Counts, random: Any, server: Server, labels: dict[str, str], total: Any, level: float) -> None:
    edges = (0.0, *server.bounds, np.inf)
    middle = 0.08 * server.latency * level
    shares = np.diff([_share_below(edge, middle) for edge in edges])
    drawn = np.array([random.multinomial(int(n), shares / shares.sum()) for n in total])
    below = np.cumsum(drawn, axis=1)
    name = "http_request_duration_seconds"
    middles = [*((first + last) / 2 for first, last in itertools.pairwise(edges[:-1])), 2 * edges[-2]]
    if server.native:
        ends = [*edges[:-1], 10.0]
        told = [_to_native(ends, row, np.array(middles)) for row in np.cumsum(drawn, axis=0)]
        told = [one for one, kept in zip(told, counts.there, strict=True) if kept]
        ts = counts.ts[counts.there]
        counts.metrics.series.append(Series({"__name__": name, **labels}, ts, np.zeros(len(ts)), told))
        return
    for k, edge in enumerate(edges[1:]):
        counts.add(f"{name}_bucket", {**labels, "le": "+Inf" if np.isinf(edge) else f"{edge:g}"}, below[:, k])
    counts.add(f"{name}_sum", labels, (drawn * np.array(middles)).sum(axis=1))
    counts.add(f"{name}_count", labels, total)


def _to_native(ends: Sequence[float], row: np.ndarray, middles: np.ndarray) -> dict[str, Any]:
    """As a server tells a native histogram: buckets with observations, with both of their bounds."""
    parts = [(first, last, n) for (first, last), n in zip(itertools.pairwise(ends), row.tolist(), strict=True) if n]
    buckets = [[0, f"{first:g}", f"{last:g}", str(n)] for first, last, n in parts]
    return {"count": str(row.sum()), "sum": repr(float((row * middles).sum())), "buckets": buckets}


def _share_below(edge: float, middle: float) -> float:
    """Of a log-logistic distribution, which needs no special function."""
    return 1.0 if np.isinf(edge) else 0.0 if edge == 0 else 1 / (1 + (edge / middle) ** -3.5)


SOURCE: dict[str, Any] = {
    "url": URL,
    "step": f"{STEP_S}s",
    "selectors": {"baseline": 'version="baseline"', "canary": 'version="canary"'},
}
SECONDS = "http_request_duration_seconds{$selector}"
MEMORY = "process_resident_memory_bytes{$selector}"
FAILURES = {
    "type": "counter_ratio",
    "failures": 'http_requests_total{$selector,code=~"5.."}',
    "requests": "http_requests_total{$selector}",
}
METRICS: dict[str, dict[str, Any]] = {
    "ratio": {**FAILURES, "margin": "0.5pp"},
    "ratio-limit": {**FAILURES, "max": "1%"},
    "rate": {
        "type": "counter_rate",
        "query": "http_requests_total{$selector}",
        "direction": "higher_is_better",
        "margin": "8%",
    },
    "cpu": {"type": "counter_rate", "query": "process_cpu_seconds_total{$selector}", "unit": "s", "margin": "10%"},
    "quantile": {"type": "histogram_quantile", "quantile": 0.9, "query": SECONDS, "margin": "20%"},
    "quantile-narrow": {"type": "histogram_quantile", "quantile": 0.95, "query": SECONDS, "margin": "2%"},
    "quantile-wide": {"type": "histogram_quantile", "quantile": 0.5, "query": SECONDS, "margin": "120%"},
    "mean": {"type": "histogram_mean", "query": SECONDS, "margin": "8%"},
    "mean-absolute": {"type": "histogram_mean", "query": SECONDS, "margin": "10ms", "max": "300ms"},
    "share": {"type": "histogram_share", "query": SECONDS, "below": "250ms", "margin": "1pp"},
    "share-between": {"type": "histogram_share", "query": SECONDS, "below": "200ms", "margin": "1pp"},
    "gauge-mean": {"type": "gauge_mean", "query": MEMORY, "unit": "bytes", "margin": "10%"},
    "gauge-ratio": {
        "type": "gauge_mean",
        "query": f"{MEMORY} / memory_limit_bytes{{$selector}}",
        "unit": "ratio",
        "margin": "5pp",
    },
    "gauge-max": {"type": "gauge_max", "query": MEMORY, "unit": "bytes", "margin": "12%"},
    "gauge-slope": {"type": "gauge_slope", "query": MEMORY, "unit": "bytes", "margin": "20000000abs"},
    "gauge-higher": {
        "type": "gauge_mean",
        "query": "memory_limit_bytes{$selector}",
        "direction": "higher_is_better",
        "margin": "5%",
    },
    "unknown": {"type": "gauge_mean", "query": "no_such_gauge{$selector}", "margin": "5%"},
}
SERVERS = {
    "same": Server(),
    "worse": Server(failures=0.02, latency=1.4, memory=2.6e8, leak=0.5, rate=15.0),
    "better": Server(failures=0.001, latency=0.8, memory=1.6e8),
}


def collected(
    name: str,
    policy: Policy,
    *,
    minutes: float = 30.0,
    calls: Sequence[tuple[str, ...]] = (VERDICT,),
    change: Callable[[Metrics], None] = lambda metrics: None,
    **arms: Server,
) -> Input:
    def metrics() -> Metrics:
        found = serve(name, minutes, **arms)
        change(found)
        return found

    window = ("--from", iso(START_S), "--to", iso(START_S + minutes * 60))
    return Input(name, (("collect", RELEASE, *window), *calls), policy=policy, metrics=metrics)


def with_source(metrics: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    keys = {key: more.pop(key) for key in list(more) if key in ("instances", "health", "alpha", "monitoring")}
    return {"metrics": metrics, "sources": {"prometheus": {**SOURCE, **more}}, **keys}


def make() -> Iterator[Input]:
    for (name, metric), (change, server) in itertools.product(METRICS.items(), SERVERS.items()):
        policy = with_source([{"name": name, **metric}])
        yield collected(f"readings/{name}/{change}", policy, baseline=Server(), canary=server)
    for queries, (change, server) in itertools.product(("red-http", "node", "red-http-status"), SERVERS.items()):
        policy = with_source(BASIC if queries == "node" else [], queries=[queries])
        calls = (VERDICT, REPORTS)
        yield collected(f"readings/set/{queries}/{change}", policy, baseline=Server(), canary=server, calls=calls)
    yield from of_health()
    yield from of_designs()
    yield from of_mixes()


BASIC = [{"name": "server_failures", **METRICS["ratio"]}, {"name": "server_mean", **METRICS["mean"]}]
BASIC += [{"name": "memory", **METRICS["gauge-mean"], "role": "hold"}]


def of_health() -> Iterator[Input]:
    """What goes wrong with readings."""
    half, few = (0.5, 1.0), (0.3, 0.36)
    unfair: dict[str, Server | dict[str, Server]] = {
        "ends": Server(seen=(0.0, 0.6)),
        "begins-late": Server(seen=(0.4, 1.0)),
        "absent": Server(instances=0),
        "hole": Server(hole=few),
        "hole-long": Server(hole=(0.3, 0.6)),
        "down": Server(down=few),
        "down-long": Server(down=(0.3, 0.7)),
        "down-end": Server(down=(0.8, 1.1)),
        "idle-end": Server(idle=half),
        "idle-hole": Server(idle=few),
        "idle-instance": Server(idle=half, idle_instance=1),
        "gone-instance": Server(gone_instance=(1, 0.5)),
        "gone-of-eight": {"baseline": Server(instances=8), "canary": Server(instances=8, gone_instance=(1, 0.5))},
        "restarts": Server(restarts=3),
        "drops": Server(drops=2),
        "drops-many": Server(drops=12),
        "nan": Server(nan=2),
        "nan-many": Server(nan=30),
        "infinite": Server(infinite=3),
        "nan-both": {"baseline": Server(nan=8), "canary": Server(nan=8)},
        "bounds-differ": Server(bounds=BOUNDS[::2]),
        "code-renamed": Server(failure_code="error"),
        "no-failures": {"baseline": Server(failures=0.0), "canary": Server(failures=0.0)},
        "one-instance": {"baseline": Server(instances=1), "canary": Server(instances=1)},
        "shared-instances": {"baseline": Server(prefix="proxy"), "canary": Server(prefix="proxy")},
        "baseline-ends": {"baseline": Server(seen=(0.0, 0.6)), "canary": Server()},
        "baseline-late": {"baseline": Server(seen=(0.4, 1.0)), "canary": Server()},
        "few": {"baseline": Server(rate=0.05), "canary": Server(rate=0.05)},
    }
    for number, (name, found) in enumerate(unfair.items()):
        arms = found if isinstance(found, dict) else {"baseline": Server(), "canary": found}
        calls = (VERDICT, REPORTS) if number % 5 == 0 else (VERDICT,)
        yield collected(f"readings/health/{name}", with_source(BASIC), calls=calls, **arms)
    both = {"baseline": Server(), "canary": Server()}
    silent = replace(Server(), endpoint_idle=("/cart", 0.4, 1.1))
    policy = with_source(BASIC, endpoint_label="handler")
    yield collected("readings/health/endpoint-idle", policy, baseline=Server(), canary=silent)
    yield collected("readings/health/endpoint-never", policy, baseline=Server(), canary=Server(endpoints=("/",)))
    wrong = {"baseline": 'version="baseline"', "canary": 'version="canray"'}
    yield collected("readings/health/selector-wrong", with_source(BASIC, selectors=wrong), **both)
    wrong = {"baseline": 'version="a"', "canary": 'version="b"'}
    yield collected("readings/health/selectors-wrong", with_source(BASIC, selectors=wrong), **both)
    alike = {"baseline": 'version="baseline"', "canary": 'version=~"base.*"'}
    yield collected("readings/health/selectors-alike", with_source(BASIC, selectors=alike), **both)
    for name, change in {
        "warning": lambda metrics: setattr(metrics, "warnings", ("a block could not be read",)),
        "partial": lambda metrics: setattr(metrics, "partial", True),
        "notes": lambda metrics: setattr(metrics, "notes", ("metric might not be a counter",)),
        "clock-ahead": lambda metrics: setattr(metrics, "ahead_s", 5000.0),
        "refuses": lambda metrics: setattr(metrics, "refuses", 500),
        "sloppy": lambda metrics: setattr(metrics, "sloppy", True),
        "replicas": _add_replicas,
    }.items():
        calls = (VERDICT,)
        more = {"replica_labels": ["replica"]} if name == "replicas" else {}
        made = collected(f"readings/health/{name}", with_source(BASIC, **more), change=change, calls=calls, **both)
        yield made
    part = (*VERDICT, "--from", iso(START_S + 300), "--to", iso(START_S + 1200))
    yield collected("readings/health/part", with_source(BASIC), calls=(("policy", "show"), part), **both)
    native, no_bounds = Server(native=True), Server(bounds=(0.1,))
    times = [{"name": name, **METRICS[name]} for name in ("mean", "quantile", "share")]
    for name, arms in {
        "native": {"baseline": native, "canary": native},
        "native-slower": {"baseline": native, "canary": replace(native, latency=1.4)},
        "native-one": {"baseline": Server(), "canary": native},
        "one-bound": {"baseline": Server(), "canary": no_bounds},
    }.items():
        yield collected(f"readings/form/{name}", with_source(times), **arms)


def _add_replicas(metrics: Metrics) -> None:
    twins = [replace(one, labels={**one.labels, "replica": "b"}) for one in metrics.series]
    metrics.series = [replace(one, labels={**one.labels, "replica": "a"}) for one in metrics.series] + twins


def of_designs() -> Iterator[Input]:
    """Lengths, instances, monitoring, several candidates."""
    for name, (minutes, instances) in {"short": (6, 3), "long": (90, 4), "two": (30, 2), "eight": (15, 8)}.items():
        for change, server in SERVERS.items():
            arms = {"baseline": Server(instances=instances), "canary": replace(server, instances=instances)}
            yield collected(f"readings/design/{name}/{change}", with_source(BASIC), minutes=minutes, **arms)
    for mode in ("fixed", "anytime", "group_sequential"):
        policy = with_source(BASIC, monitoring={"mode": mode})
        yield collected(f"readings/looks/{mode}", policy, baseline=Server(), canary=SERVERS["worse"])
    selectors = {arm: f'version="{arm}"' for arm in ("baseline", "canary", "other")}
    arms = {"baseline": Server(), "canary": SERVERS["worse"], "other": SERVERS["better"]}
    yield collected("readings/arms/three", with_source(BASIC, selectors=selectors), calls=(VERDICT, REPORTS), **arms)
    said = with_source(BASIC, instances={"baseline": 3, "canary": 3})
    one = {"baseline": Server(instances=1), "canary": Server(instances=1)}
    yield collected("readings/design/instances-said", said, **one)


def of_mixes() -> Iterator[Input]:
    """Requests with the readings of the same time, and outcomes beside both."""
    policy = with_source([*WIDE["metrics"], *BASIC])
    changes = {"same": 1.0, "slower": 1.5}
    for (load, factor), (change, server) in itertools.product(changes.items(), SERVERS.items()):
        name = f"mix/requests-readings/{load}/{change}"
        yield _of_mix(name, policy, Arm("canary", latency=factor), server, ())
    everything = {**policy, "metrics": [*policy["metrics"], *SEVERAL[:2]]}
    for change, server in SERVERS.items():
        calls = (("import", RELEASE, "--outcomes", "users.csv"), VERDICT, REPORTS)
        yield _of_mix(f"mix/all/{change}", everything, Arm("canary"), server, calls)
    yield _of_mix("mix/silent-server", policy, Arm("canary"), Server(seen=(0.0, 0.5)), ())
    asked = ("verdict", RELEASE, "--policy", "requests.yaml", *VERDICT[2:])
    yield _of_mix("mix/readings-not-asked-for", policy, Arm("canary"), Server(), (asked,))
    yield _of_mix("mix/clock-ahead", policy, Arm("canary"), Server(), (), ahead_s=5000.0)
    elsewhere = ("collect", RELEASE, "--from", iso(START_S + 4000), "--to", iso(START_S + 5000))
    yield _of_mix("mix/readings-elsewhere", policy, Arm("canary"), Server(), (elsewhere, VERDICT), minutes=90.0)
    part = ("collect", RELEASE, "--from", iso(START_S + 120), "--to", iso(START_S + 300))
    yield _of_mix("mix/readings-part", policy, Arm("canary"), Server(), (part, VERDICT))


def _of_mix(
    name: str,
    policy: Policy,
    arm: Arm,
    server: Server,
    more: Sequence[tuple[str, ...]],
    *,
    minutes: float = 5.0,
    ahead_s: float = 0.0,
) -> Input:
    def write(folder: Path) -> None:
        for one, runs in draw(name, TESTS["three"], Arm(), arm).items():
            write_plain(folder / f"{one}.csv", runs[0])
        write_csv(folder / "users.csv", HEADER, draw_users(name, {"baseline": Users(), "canary": Users(count=2950)}))
        (folder / "requests.yaml").write_text(json.dumps(WIDE))

    window = ("--from", iso(START_S), "--to", iso(START_S + 300))
    calls = (
        ("import", RELEASE, "--baseline", "baseline.csv", "--canary", "canary.csv"),
        ("collect", RELEASE, *window),
        VERDICT,
        *more,
    )

    def metrics() -> Metrics:
        found = serve(name, minutes, baseline=Server(), canary=server)
        found.ahead_s = ahead_s
        return found

    return Input(name, calls, write, policy, metrics)
