"""`evaluator import` of several files per arm, and of a period, up to the verdict."""

import json
import shlex
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from request_files import RESTART_S, START_S, write_requests

from evaluator.__main__ import run

ARMS = (("baseline", 1.0), ("canary", 1.6))
POLICY = """
metrics:
  - {name: failures, type: failure_rate, margin: 1pp}
  - {name: p50, type: latency_quantile, quantile: 0.5, margin: 10%}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A project of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evaluator.yaml").write_text(POLICY)
    return tmp_path


@pytest.fixture
def call(capfd):
    """Run a command and return its exit code and what it wrote."""

    def run_command(*words):
        code = run(list(words))
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run_command


@pytest.fixture
def judge(call):
    """Import files given as options, and return the verdict and the messages of the import."""

    def import_and_judge(release, *options):
        code, output, _ = call("import", release, *options)
        assert code == 0
        return json.loads(call("verdict", release, "--exit-zero", "--format", "json")[1]), output

    return import_and_judge


def write_runs(folder, *, runs=1, instances=0, slower=ARMS):
    """Write the requests of runs with a restart between them, one file per run and arm; returns options by arm."""
    options = []
    for arm, factor in slower:
        for k in range(runs):
            path = folder / f"{arm}-{k}.parquet"
            write_requests(path, slower=factor, seed=10 * k + (arm == "canary"), repeat=k)
            if instances:
                table = pq.read_table(path)
                pods = [f"{arm}-pod-{i % instances}" for i in range(table.num_rows)]
                pq.write_table(table.append_column("instance", pa.array(pods)), path)
            options += [f"--{arm}", str(path)]
    return options


def split(options, *, workers=3):
    """Write each file again as the files of load generators that took turns."""
    words = []
    for option, path in zip(options[::2], options[1::2], strict=True):
        table = pq.read_table(path)
        turn = pa.array(np.random.default_rng(1).integers(0, workers, table.num_rows))
        for worker in range(workers):
            part = path.replace(".parquet", f"-worker-{worker}.parquet")
            pq.write_table(table.filter(pc.equal(turn, worker)), part)
            words += [option, part]
    return words


def without_names(verdict):
    """A verdict without the names of its files and its time."""
    unsaid = {"judged_at", "data_hash"}
    return {key: value for key, value in verdict.items() if key not in unsaid}


@pytest.mark.parametrize(
    ("runs", "instances", "word"),
    [
        pytest.param(1, 0, "inconclusive", id="one-run-one-instance"),
        pytest.param(1, 3, "no_go", id="one-run-three-instances"),
        pytest.param(3, 0, "no_go", id="three-runs"),
    ],
)
def test_files_of_load_generators_give_the_verdict_of_the_whole_run(folder, judge, runs, instances, word):
    slower = (("baseline", 1.0), ("canary", 1.0)) if word == "inconclusive" else ARMS
    whole_options = write_runs(folder, runs=runs, instances=instances, slower=slower)
    whole_verdict, said_whole = judge("shop@1", *whole_options)
    parts, said_parts = judge("shop@2", *split(whole_options))
    assert said_whole.startswith(f"shop@1: {7200 * runs:,} requests from {2 * runs} files in {runs} run")
    assert f"shop@2: {7200 * runs:,} requests from {6 * runs} files in {runs} run" in said_parts
    assert "of 3 files an arm (their times overlap" in said_parts
    assert whole_verdict["verdict"] == parts["verdict"] == word
    assert [arm["runs"] for arm in parts["arms"]] == [runs, runs]
    assert json.dumps(without_names(parts)).replace("shop@2", "shop@1") == json.dumps(without_names(whole_verdict))


def test_parts_of_one_run_are_not_counted_as_replicates(folder, judge):
    """Three files of one run are not three runs: release and machine cannot be distinguished."""
    options = write_runs(folder, slower=(("baseline", 1.0), ("canary", 1.0)))
    verdict, _ = judge("shop@1", *split(options))
    assert verdict["verdict"] == "inconclusive"
    assert [finding["check"] for finding in verdict["health"] if finding["status"] == "fail"] == ["single_instance"]


def test_runs_are_matched_by_time_whatever_the_order_of_their_files(folder, judge):
    options = write_runs(folder, runs=3)
    baseline, canary = options[:6], options[6:]
    straight, _ = judge("shop@1", *options)
    turned, _ = judge("shop@2", *canary[4:], *canary[:4], *baseline)
    assert straight["verdict"] == "no_go"
    assert json.dumps(without_names(turned)).replace("shop@2", "shop@1") == json.dumps(without_names(straight))
    assert turned["data_hash"] == straight["data_hash"]


def test_an_ambiguous_import_asks_for_a_choice(folder, call):
    write_requests(folder / "a.parquet", seconds=97)
    write_requests(folder / "b.parquet", seed=1, repeat=1)
    files = shlex.split("--baseline a.parquet --baseline b.parquet --canary b.parquet --canary a.parquet")
    code, out, err = call("import", "shop@1", *files)
    assert (code, out) == (2, "")
    assert "b.parquet begins 3" in err
    assert "a.parquet 2026-05-28T20:26:40.0" in err
    assert "--files-are parts" in err
    assert call("releases")[1] == ""
    assert "in 2 runs (as --files-are says)" in call("import", "shop@1", *files, "--files-are", "replicates")[1]
    code, out, _ = call("import", "shop@2", *files, "--files-are", "parts")
    assert "in 1 run of 2 files an arm (as --files-are says)" in out
    assert call("import", "shop@2", *files, "--files-are", "perhaps")[0] == 2


def test_overlapping_files_that_are_declared_replicates(folder, call):
    files = split(write_runs(folder))
    code, out, err = call("import", "shop@1", *files, "--files-are", "replicates")
    assert (code, "in 3 runs (as --files-are says)" in out) == (0, True)
    assert "warning: the files of baseline overlap in time, like parts of one run" in err
    code, out, err = call("import", "shop@1", *files, "--files-are", "parts")
    assert (code, "these 6 files have landed already" in out) == (0, True)
    assert "warning: the files have landed before, not as parts; import them under another release id" in err


def test_arms_with_different_numbers_of_runs_give_a_warning(folder, call):
    files = write_runs(folder, runs=2)
    code, out, err = call("import", "shop@1", *files[:-2])
    assert (code, "from 3 files in 2 runs" in out) == (0, True)
    assert "warning: the arms have different numbers of runs (baseline 2, canary 1)" in err


def at(second):
    return datetime.fromtimestamp(START_S + second, UTC).isoformat()


def test_a_period_gives_the_verdict_of_files_that_were_cut(folder, judge, call):
    options = write_runs(folder, runs=3)
    first, last = 90 + RESTART_S, 3 * 90 + 2 * RESTART_S - 30
    cut = []
    for option, path in zip(options[::2], options[1::2], strict=True):
        table = pq.read_table(path)
        micros = pc.cast(table["ts"], pa.int64())
        inside = pc.and_(
            pc.greater_equal(micros, (START_S + first) * 1_000_000), pc.less(micros, (START_S + last) * 1_000_000)
        )
        if (rows := table.filter(inside)).num_rows:
            pq.write_table(rows, path.replace(".parquet", "-cut.parquet"))
            cut += [option, path.replace(".parquet", "-cut.parquet")]
    by_hand, _ = judge("shop@1", *cut)
    by_option, output = judge("shop@2", *options, "--from", at(first), "--to", at(last))
    left_out = 6 * 3600 - sum(pq.read_metadata(path).num_rows for path in cut[1::2])
    assert f"{left_out:,} requests outside of the requested time" in output
    assert "in 2 runs (their times lie apart)" in output
    assert by_option["verdict"] == by_hand["verdict"]
    assert by_option["metrics"] == by_hand["metrics"]
    assert [(arm["runs"], arm["requests"]) for arm in by_option["arms"]] == [
        (arm["runs"], arm["requests"]) for arm in by_hand["arms"]
    ]
    code, _, err = call("import", "shop@3", *options, "--to", at(0))
    assert (code, "no request of baseline is in the period" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(("--from", at(10), "--to", at(5)), "is not before --to", id="turned"),
        pytest.param(("--from", at(10), "--to", at(10)), "is not before --to", id="nothing"),
        pytest.param(("--from", "2026-05-28T10:00:00"), "has no time zone", id="no-zone"),
        pytest.param(("--to", "noon"), "'noon' is not a time", id="no-time"),
        pytest.param(("--from", "now"), "no request of baseline is in the period", id="now"),
    ],
)
def test_a_period_that_is_none(folder, call, words, says):
    code, out, err = call("import", "shop@1", *write_runs(folder), *words)
    assert (code, out) == (2, "")
    assert says in err


def test_options_of_request_files_without_any(call):
    code, _, err = call("import", "shop@1", "--outcomes", "x.csv", "--to", "now")
    assert code == 2
    assert "--files-are, --from and --to need request files" in err
