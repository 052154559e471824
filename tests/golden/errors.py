"""Inputs that cannot be judged: what is said of them, and with which exit code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from golden.inputs import RELEASE, VERDICT, Input, Policy
from golden.traffic import Arm, Test, draw, write_plain

IMPORT = ("import", RELEASE, "--baseline", "baseline.csv", "--canary", "canary.csv")
HEADER = "ts,endpoint,response_time_ms,failed\n"


def failing(name: str, canary: str | bytes | None, *, options: tuple[str, ...] = ()) -> Input:
    """The candidate's file has this text; `None`: it is not there."""

    def write(folder: Path) -> None:
        write_plain(folder / "baseline.csv", draw(name, Test(seconds=30.0), Arm())["baseline"][0])
        if isinstance(canary, bytes):
            (folder / "canary.csv").write_bytes(canary)
        elif canary is not None:
            (folder / "canary.csv").write_text(canary)

    return Input(f"error/file/{name}", ((*IMPORT, *options), VERDICT), write)


def wrong(name: str, policy: Policy) -> Input:
    """A policy that cannot be used."""

    def write(folder: Path) -> None:
        for arm, runs in draw(name, Test(seconds=30.0), Arm(), Arm("canary")).items():
            write_plain(folder / f"{arm}.csv", runs[0])

    return Input(f"error/policy/{name}", (IMPORT, ("policy", "check"), VERDICT), write, policy)


def make() -> Iterator[Input]:
    row = "2026-03-02T10:00:00Z,GET /,{},{}\n"
    for name, text in {
        "absent": None,
        "empty": "",
        "only-header": HEADER,
        "no-time": HEADER + row.format("", "false"),
        "negative": HEADER + row.format("-5", "false"),
        "word": HEADER + row.format("soon", "false"),
        "failed-unknown": HEADER + row.format("12", "maybe"),
        "too-many": HEADER + row.format("12", "false,1,2"),
        "no-column": "ts,endpoint,response_time_ms\n2026-03-02T10:00:00Z,GET /,12\n",
        "locust-stats": "Type,Name,Request Count,Failure Count,Median Response Time\nGET,/,10,0,12\n",
        "html": "<html><body>502 Bad Gateway</body></html>\n",
        "json": '{"a": 1}\n',
        "future": HEADER + "2096-03-02T10:00:00Z,GET /,12,false\n",
        "quote": HEADER + '2026-03-02T10:00:00Z,"GET /,12,false\n',
        "binary": bytes(range(256)),
    }.items():
        yield failing(name, text)
    yield failing("column-unknown", HEADER + row.format("12", "false"), options=("--column", "endpoint=path"))
    yield failing("unit-unknown", HEADER + row.format("12", "false"), options=("--column", "ts=ts:parsecs"))
    yield failing("format-unknown", HEADER + row.format("12", "false"), options=("--format", "tsung"))
    quantile = {"name": "p95", "type": "latency_quantile", "quantile": 0.95, "margin": "10%"}
    for name, policy in {
        "unknown-key": {"metrcs": []},
        "unknown-type": {"metrics": [{"name": "a", "type": "latency_qantile"}]},
        "no-quantile": {"metrics": [{"name": "a", "type": "latency_quantile", "margin": "5%"}]},
        "bad-margin": {"metrics": [{**quantile, "margin": "much"}]},
        "bad-unit": {"metrics": [{**quantile, "margin": "1pp"}]},
        "twice": {"metrics": [quantile, quantile]},
        "no-source": {"metrics": [{"name": "g", "type": "gauge_mean", "query": "x{$selector}", "margin": "5%"}]},
        "alpha": {"alpha": 2},
        "yaml": "metrics: [\n",
        "empty": "",
        "text": "just words\n",
    }.items():
        yield wrong(name, policy)
    for name, call in {
        "unknown-release": VERDICT,
        "no-store": ("releases",),
        "unknown-command": ("judge", RELEASE),
        "unknown-option": ("verdict", RELEASE, "--fromat", "json"),
        "unknown-format": ("verdict", RELEASE, "--format", "pdf"),
        "plan-nothing": ("plan",),
        "calibrate-nothing": ("calibrate",),
        "collect-nothing": ("collect", RELEASE),
        "render-nothing": ("render", "verdict.json"),
        "help": ("verdict", "--help"),
    }.items():
        yield Input(f"error/call/{name}", (call,))
