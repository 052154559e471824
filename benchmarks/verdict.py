"""How long a verdict takes, computed from cells and as a whole process, and how long `--help` takes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from evaluator.assess import assess
from evaluator.judges import judge_evidence
from evaluator.policy import load_policy
from evaluator.records import Monitoring, Rulebook, Run, RunState
from evaluator.simulate import Scenario, simulate, to_cells, to_parquet

DESIGN = Scenario(duration_s=3600.0, endpoints=20, instances=(4, 4), users=30)
POLICY = """
metrics:
  - {name: failure_rate, type: failure_rate, margin: 0.1pp, max: 1%}
  - {name: latency_p50, type: latency_quantile, quantile: 0.50, margin: 5%}
  - {name: latency_p95, type: latency_quantile, quantile: 0.95, margin: 10%}
  - {name: latency_p99, type: latency_quantile, quantile: 0.99, margin: 15%}
  - {name: latency_mean, type: latency_mean, margin: 5%}
"""


def main() -> None:
    """Print a table: job, seconds (median and range), promise."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "evaluator.yaml").write_text(POLICY, encoding="utf-8")
        requests = simulate(DESIGN, seed=1)
        cells, policy = to_cells(requests), load_policy(folder / "evaluator.yaml")

        watched = replace(policy.rulebook, monitoring=Monitoring("group_sequential"))
        run_of_cells = Run("r", "bench", "g", "import", state=RunState.COMPLETE)

        def judge(rulebook: Rulebook) -> int:
            evidence = assess(cells, (run_of_cells,), rulebook)
            judge_evidence(evidence, rulebook, "bench")
            return 1 + max(len(comparison.looks) for comparison in evidence.comparisons)

        looks = judge(watched)
        every = [seconds / looks for seconds in time_all(lambda: judge(watched), 7)]
        report(f"verdict from cells, per look ({looks} looks)", every, 0.020)
        report("  the last look alone, with all intervals", time_all(lambda: judge(policy.rulebook), 15), 0.020)
        files = split_arms(to_parquet(requests, folder / "requests"), folder)
        run(folder, "import", "bench", *files, "-q")
        report("evaluator verdict, whole process", time_all(lambda: run(folder, "verdict", "bench"), 7), 1.0)
        report("evaluator --help, whole process", time_all(lambda: run(folder, "--help"), 7), 0.3)


def split_arms(paths: tuple[Path, ...], folder: Path) -> list[str]:
    """Write one file per arm, as `import` takes them."""
    table = pq.ParquetDataset([str(path) for path in paths]).read()
    words = []
    for arm in ("baseline", "canary"):
        path = folder / f"{arm}.parquet"
        pq.write_table(table.filter(pc.equal(table["arm"].cast("string"), arm)), path)
        words += [f"--{arm}", str(path)]
    return words


def run(folder: Path, *words: str) -> None:
    """Run a command in its own process. It must end with a verdict, whichever it is."""
    done = subprocess.run([sys.executable, "-m", "evaluator", *words], cwd=folder, capture_output=True, check=False)
    if done.returncode not in (0, 1, 3):
        sys.exit(done.stderr.decode())


def time_all(job: Callable[[], object], times: int) -> list[float]:
    """Return the seconds of each of `times` executions, after one more that is not counted."""
    job()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - start)
    return seconds


def report(what: str, seconds: list[float], promised: float) -> None:
    """Print one row."""
    low, high = min(seconds), max(seconds)
    print(f"{what:60} {statistics.median(seconds):6.3f} s ({low:.3f} … {high:.3f})  ≤ {promised}")


if __name__ == "__main__":
    main()
