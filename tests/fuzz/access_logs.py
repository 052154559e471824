"""Changed access logs, imported and judged."""

from __future__ import annotations

import gzip
import random

from router_lines import write_haproxy, write_nginx

from fuzz.checking import Case
from fuzz.mutators import mutate_bytes, mutate_table

_POLICY = """
sources: {access_log: {arms: {baseline: ["b*"], canary: ["c*"]}}}
metrics:
  - {name: failures, type: failure_rate, role: gate, margin: 20pp}
  - {name: p50, type: latency_quantile, quantile: 0.5, role: gate, margin: 100%}
"""
_NGINX_FORMAT = (
    '$msec "$request" $status $body_bytes_sent $request_time "$upstream_addr" "$upstream_status" '
    '"$upstream_response_time"'
)
_ODD_VALUES = ("-1", "-", "", "9" * 30, "+3", "<NOSRV>", "1e400", "nan", "502, 200", "b:1 : c:1", "\\x16", "?a=b", "é")


def fuzz_access_logs(rng: random.Random, case: Case) -> None:
    """Change a log of nginx or HAProxy, import it, and judge what has landed."""
    is_nginx = rng.random() < 0.5
    lines = [_write_line(rng, number, is_nginx=is_nginx) for number in range(400)]
    content = b"".join(lines)
    match rng.randrange(4):
        case 0:
            content = mutate_bytes(rng, content)
        case 1:
            text = mutate_table(rng, content.decode("utf-8", "surrogateescape"), rng.choice((" ", '"', "/", ":")))
            content = text.encode("utf-8", "surrogateescape")
        case 2:  # lines are doubled, lost, and out of order
            content = b"".join(rng.choices(lines, k=rng.randrange(1, 500)))
    path = case.folder / "router.log"
    if rng.random() < 0.1:
        content = mutate_bytes(rng, gzip.compress(content, compresslevel=1))
    path.write_bytes(content)
    (case.folder / "evaluator.yaml").write_text(_POLICY)
    words = ["import", "fuzz", "--access-log", str(path)]
    if is_nginx:
        words += ["--log-format", _NGINX_FORMAT]
    if rng.random() < 0.4:
        words += ["--skip-bad-rows"]
    if rng.random() < 0.1:
        words += ["--arm-from", rng.choice(("backend", "server", "request"))]
    if rng.random() < 0.1:
        words += ["--from", "2025-11-29T10:00:20Z"]
    if case.run(words, {0, 2}).code == 0:
        case.judge("fuzz")


def _write_line(rng: random.Random, number: int, *, is_nginx: bool) -> bytes:
    """Write a line, rarely with a value that is odd."""
    arm = rng.choice("bc")
    if is_nginx:
        values = {"s": f"{0.02 + 0.001 * rng.random():.3f}", "servers": f"{arm}:{number % 3}"}
        odd = rng.choice(("s", "times", "statuses", "servers", "status", "request"))
        keywords = values | ({odd: rng.choice(_ODD_VALUES)} if rng.random() < 0.01 else {})
        return write_nginx(at=1764410400.0 + number * 0.15, **keywords)
    values = {"ms": str(20 + number % 3), "server": f"{arm}{number % 3}"}
    odd = rng.choice(("ms", "status", "retries", "server", "ended", "request", "backend"))
    keywords = values | ({odd: rng.choice(_ODD_VALUES)} if rng.random() < 0.01 else {})
    return write_haproxy(second=number * 60 // 400, **keywords)
