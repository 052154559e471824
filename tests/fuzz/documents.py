"""Changed documents: policies, the JSON of verdicts, and verdicts in the store."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fuzz.checking import Case, run_command
from fuzz.files import write_requests
from fuzz.mutators import mutate_bytes, mutate_document, mutate_json

FORMATS = ("human", "json", "markdown", "junit", "github", "gitlab", "gitlab-load")

_WIDE = [
    {"name": "failures", "type": "failure_rate", "role": "gate", "margin": "20pp"},
    {"name": "p50", "type": "latency_quantile", "quantile": 0.5, "role": "gate", "margin": "100%"},
    {"name": "mean", "type": "latency_mean", "role": "watch"},
]
_POLICIES: tuple[dict[str, Any], ...] = (
    {"version": 1, "metrics": _WIDE},
    {
        "version": 1,
        "service": "cart",
        "mode": "block",
        "alpha": 0.05,
        "monitoring": {"mode": "auto", "max_duration": "60m", "burn_in": "auto", "early_go": False},
        "warm_up": "auto",
        "metrics": [
            *_WIDE,
            {
                "name": "p95",
                "type": "latency_quantile",
                "quantile": 0.95,
                "role": "hold",
                "margin": "20ms",
                "max": "2s",
            },
            {"name": "size", "type": "response_size", "endpoint": "GET /", "role": "watch", "margin": "5%"},
            {"name": "rate", "type": "throughput", "role": "watch", "min": 1},
        ],
        "endpoint_scan": {"enabled": True, "margin": "25%", "failure_margin": "1pp", "tolerance": "auto"},
        "instances": {"header": "X-Instance", "sd_latency": "5%", "sd_failures": "0.05pp", "baseline": 3, "canary": 3},
        "health": {"coverage": "99%", "silence": "20%", "max_clock_offset": "2s", "sample_ratio": "configured"},
    },
    {
        "metrics": [
            {"name": "conversion", "type": "outcome_proportion", "outcome": "converted", "margin": "1pp"},
            {"name": "revenue", "type": "outcome_mean", "outcome": "revenue", "margin": "2%", "winsorise": "99.9%"},
            {"name": "rate", "type": "counter_rate", "query": "a{$selector}", "role": "watch"},
            {"name": "memory", "type": "gauge_mean", "query": "memory_bytes{$selector}", "margin": "5%"},
            {
                "name": "ok",
                "type": "counter_ratio",
                "failures": 'a{$selector,code="5.."}',
                "requests": "a{$selector}",
                "margin": "1pp",
            },
            {"name": "fast", "type": "histogram_share", "query": "s{$selector}", "below": "250ms", "margin": "1pp"},
        ],
        "sources": {
            "prometheus": {
                "url": "http://127.0.0.1:9",
                "selectors": {"baseline": 'version="1"', "canary": 'version="2"'},
                "step": "15s",
                "auth": {"bearer": "${TOKEN}"},
                "queries": ["red-http"],
            }
        },
        "hooks": {
            "promote": [
                {
                    "haproxy": {
                        "socket": "/run/h.sock",
                        "backend": "shop",
                        "servers": {"baseline": "b1", "canary": ["c1", "c2"]},
                    }
                },
                {"command": {"run": ["true", "${release}"], "required": True, "time_limit": "10s"}},
            ],
            "announce": [{"webhook": {"url": "https://h.example/h", "secret": "${S}", "allow_hosts": ["h.example"]}}],
            "rollback": ["undo"],
        },
        "approvals": {"promote": 1, "break_glass": 2, "expires": "4h", "max_age": "8h"},
        "roles": {"analyst": "*", "approver": ["group:sre", "ann@example.org"]},
        "sensitive": True,
    },
)


def fuzz_policy(rng: random.Random, case: Case) -> None:
    """Change a policy and check it; if it is one, print it, and sometimes judge a release by it."""
    policy = rng.choice(_POLICIES)
    text = _write_policy(rng, policy)
    path = case.folder / "evaluator.yaml"
    path.write_bytes(text)
    if case.run(["policy", "check"], {0, 2}).code == 0:
        case.run(["policy", "show"], {0})
        if rng.random() < 0.2:
            case.judge("cart@1", _make_store())


def _write_policy(rng: random.Random, policy: dict[str, Any]) -> bytes:
    """Write a policy as YAML or JSON with a change of the document or of the text."""
    if rng.random() < 0.7:
        changed = mutate_document(rng, policy)
        if rng.random() < 0.5:
            return json.dumps(changed).encode()
        return yaml.safe_dump(changed, allow_unicode=rng.random() < 0.5, sort_keys=False).encode("utf-8", "replace")
    return mutate_bytes(rng, yaml.safe_dump(policy, sort_keys=False).encode())


# ------------------------------------------------------------------ verdicts


@cache
def _make_store() -> Path:
    """Make a store with a release (`cart@1`) that was judged by the first policy."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-store-"))
    (folder / "evaluator.yaml").write_text(json.dumps(_POLICIES[0]))
    store = folder / "evaluator.duckdb"
    options = ["--store", str(store), "--policy", str(folder / "evaluator.yaml")]
    files = write_requests(folder)
    for words in (
        ["import", "cart@1", "--baseline", str(files[0]), "--canary", str(files[1])],
        ["verdict", "cart@1", "--figures", "--format", f"json={folder / 'verdict.json'}"],
    ):
        ended = run_command([*options, *words])
        assert ended.code in (0, 3), ended
    return store


@cache
def _read_verdict() -> dict[str, Any]:
    verdict: dict[str, Any] = json.loads((_make_store().parent / "verdict.json").read_text())
    return verdict


def fuzz_verdict(rng: random.Random, case: Case) -> None:
    """Change the JSON of a verdict, and write it in another format."""
    verdict = _read_verdict()
    if rng.random() < 0.8:  # figures are the most of it
        verdict = {key: value for key, value in verdict.items() if key != "figures"}
    (case.folder / "verdict.json").write_bytes(mutate_json(rng, verdict))
    form = "html" if rng.random() < 0.02 else rng.choice(FORMATS)
    case.run(["render", "verdict.json", "--format", form], {0, 2})


def fuzz_stored_verdict(rng: random.Random, case: Case) -> None:
    """Change a verdict in a store, as a damaged disk or a person with a shell would, and use it."""
    folder = _make_store().parent
    for name in ("evaluator.duckdb", "evaluator.control.sqlite"):
        shutil.copyfile(folder / name, case.folder / name)
    verdict = {key: value for key, value in _read_verdict().items() if key != "figures"}
    text = json.dumps(mutate_document(rng, verdict)).encode("ascii", "replace").decode()
    with closing(sqlite3.connect(case.folder / "evaluator.control.sqlite")) as connection, connection:
        connection.execute("UPDATE verdicts SET verdict = ?", [text])
    shutil.copyfile(folder / "evaluator.yaml", case.folder / "evaluator.yaml")
    words = rng.choice(
        (
            ["releases"],
            ["replay", "cart@1"],
            ["promote", "cart@1", "--dry-run"],
            ["audit", "note", "cart@1", "seen"],
            ["calibrate", "cart@1"],
        )
    )
    case.run(words, {0, 2, 3, 4})
