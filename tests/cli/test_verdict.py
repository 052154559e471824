"""The command from end to end: a real store with landed requests, judged and written, with the exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.resources import files

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from request_files import START_S, write_requests

from evaluator.__main__ import run
from evaluator.errors import UnknownName
from evaluator.store import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a store: `slow` is 60 % slower, `same` is not."""
    folder = tmp_path_factory.mktemp("verdict")
    store = ["--store", str(folder / "evaluator.duckdb"), "-q"]
    for release, slower in (("slow", 1.6), ("same", 1.0)):
        arms = []
        for arm, factor in (("baseline", 1.0), ("canary", slower)):
            for replicate in range(3):
                path = folder / f"{release}-{arm}-{replicate}.parquet"
                write_requests(path, slower=factor, seed=10 * replicate + (arm == "canary"), repeat=replicate)
                arms += [f"--{arm}", str(path)]
        code = run(
            [*store, "import", release, *arms, "--service", "cart", "--baseline-version", "1", "--canary-version", "2"]
        )
        assert code == 0
    return folder


@pytest.fixture
def judge(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)

    def call(*args):
        code = run(["verdict", *args])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_a_slow_release_is_no_go(judge):
    code, out, err = judge("slow")
    assert (code, err) == (1, "")
    assert out.startswith("NO-GO ✗  slow against 1")


def test_the_verdict_as_json_follows_its_schema_and_repeats_itself(judge):
    code, out, _ = judge("slow", "--format", "json")
    verdict = json.loads(out)
    schema = json.loads((files("evaluator") / "schemas" / "verdict.schema.json").read_text())
    jsonschema.validate(verdict, schema)
    assert (code, verdict["verdict"]) == (1, "no_go")
    again = json.loads(judge("slow", "--format", "json")[1])
    assert verdict.pop("judged_at") != again.pop("judged_at")
    assert json.dumps(verdict) == json.dumps(again)


def test_several_formats_at_once(judge, folder):
    code, out, _ = judge("slow", "--format", "human", "--format", "json=verdict.json", "--format", "human=verdict.txt")
    assert code == 1
    assert out.startswith("NO-GO")
    assert json.loads((folder / "verdict.json").read_text())["release"] == "slow"
    assert (folder / "verdict.txt").read_text(encoding="utf-8").startswith("NO-GO ✗")


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ((), 1),
        (("--exit-zero",), 0),
        (("--fail-on", "inconclusive"), 0),
        (("--fail-on", "no_go"), 1),
        (("--fail-on", ""), 0),
    ],
    ids=str,
)
def test_what_counts_as_failing_is_the_callers_choice(judge, args, code):
    assert judge("slow", *args)[0] == code


def test_shadow_mode_blocks_nothing(judge, tmp_path):
    policy = tmp_path / "evaluator.yaml"
    policy.write_text("mode: shadow\n")
    code, out, _ = judge("slow", "--policy", str(policy))
    assert code == 0
    assert out.startswith("NO-GO")
    assert "shadow mode" in out


def test_a_dry_run_keeps_no_verdict(folder, monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(folder)

    def judged_at():
        run(["releases", "--json"])
        return {r["release"]: r["judged_at"] for r in json.loads(capfd.readouterr().out)}["same"]

    before = judged_at()
    run(["verdict", "same", "--dry-run"])
    capfd.readouterr()
    assert judged_at() == before
    run(["verdict", "same"])
    capfd.readouterr()
    assert judged_at() != before


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("slw",), "did you mean 'slow'"),
        (("slow", "--format", "jsn"), "did you mean 'json'"),
        (("slow", "--format", "json", "--format", "human"), "two formats cannot both go to stdout"),
        (("slow", "--format", "json=nowhere/x.json"), "nowhere/x.json"),
        (("slow", "--format", "json="), "is not a file"),
        (("slow", "--fail-on", "nogo"), "did you mean 'no-go'"),
        (("slow", "--run", "lates"), "did you mean 'latest'"),
        (("slow", "--exit-zro"), "--exit-zero"),
        ((), "RELEASE"),
    ],
    ids=str,
)
def test_wrong_usage_is_2(judge, args, says):
    code, out, err = judge(*args)
    assert (code, out) == (2, "")
    assert says in err


def test_an_endpoint_that_does_not_exist_is_named(judge, tmp_path):
    policy = tmp_path / "evaluator.yaml"
    policy.write_text("metrics:\n  - {name: b, type: latency_mean, endpoint: POST /bb, margin: 5%}\n", encoding="utf-8")
    code, _, err = judge("slow", "--policy", str(policy))
    assert code == 2
    assert "did you mean 'POST /b'" in err


def test_a_store_that_is_not_there(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run(["verdict", "slow"]) in (2, 4)
    assert "Error: " in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_releases_are_listed(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    run(["verdict", "slow"])
    capfd.readouterr()
    assert run(["releases"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["release", "versions", "verdict"]
    row = next(line for line in lines if line.startswith("slow"))
    assert "cart 1 → 2" in row
    assert "NO-GO ✗" in row
    assert "21,600" in row


def test_releases_as_json(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    run(["releases", "--json"])
    rows = {row["release"]: row for row in json.loads(capfd.readouterr().out)}
    assert rows["slow"]["requests"] == 21_600
    assert rows["slow"]["services"] == [{"name": "cart", "baseline": "1", "canary": "2"}]
    assert datetime.fromisoformat(rows["slow"]["last_run"]).tzinfo == UTC


@pytest.mark.parametrize(("encoding", "mark"), [("utf-8", "NO-GO ✗"), ("ascii", "NO-GO x")])
def test_a_stdout_that_takes_no_unicode_gets_ascii(folder, encoding, mark):
    done = subprocess.run(
        [sys.executable, "-m", "evaluator", "verdict", "slow", "--dry-run"],
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.decode(encoding).startswith(mark)


@pytest.mark.parametrize("after_s", [0.3, 0.5, 0.7, 0.9])
def test_ctrl_c_is_130_at_every_stage(folder, after_s):
    process = subprocess.Popen(
        [sys.executable, "-m", "evaluator", "verdict", "slow"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (130, 1), err
    assert "Traceback" not in err


def test_figures_are_computed_and_kept_only_on_request(judge, folder):
    store = Store.open(folder / "evaluator.duckdb")
    bare = json.loads(judge("same", "--format", "json")[1])
    assert "figures" not in bare
    assert store.control.figures("same") is None
    drawn = json.loads(judge("same", "--format", "json", "--figures")[1])
    jsonschema.validate(drawn, json.loads((files("evaluator") / "schemas" / "verdict.schema.json").read_text()))
    assert {row["name"] for row in drawn["figures"]["metrics"]} >= {"failure_rate", "latency_p95"}
    assert len(drawn["figures"]["runs"]) == 3
    assert drawn["figures"]["candidates"][0]["release"] == "slow"
    figures = store.control.figures("same")
    assert figures is not None
    assert len(figures) < 300_000
    assert json.loads(figures)["timeline"]["seconds"] == drawn["figures"]["timeline"]["seconds"]
    assert "figures" not in json.loads(store.control.verdicts("same")[-1].json)


def test_the_report_has_figures_and_the_json_next_to_it_does_not(judge, folder):
    code, out, _ = judge("slow", "--format", "html=report.html", "--format", "json")
    assert code == 1
    assert "figures" not in json.loads(out)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert 'id="timeline"' in page
    assert "NO-GO ✗" in page


def test_an_unknown_release_has_no_figures(folder):
    store = Store.open(folder / "evaluator.duckdb")
    with pytest.raises(UnknownName):
        store.control.figures("nowhere")


def write_csv(path, *, seed, until=1.0, seconds=600, rate=30):
    """Requests of three instances; the arm falls silent at a share of the time."""
    random = np.random.default_rng(seed)
    n = rate * seconds
    at = np.sort(random.uniform(0, seconds, n))
    rows = at <= until * seconds
    table = pa.table(
        {
            "ts": pa.array(((START_S + at) * 1e6).astype(np.int64)[rows], pa.timestamp("us", "UTC")),
            "endpoint": pa.array(np.where(random.random(n) < 0.7, "GET /a", "POST /b")[rows]),
            "instance": pa.array(np.char.add("i", random.integers(3, size=n).astype(str))[rows]),
            "response_time_ms": pa.array(random.lognormal(3.0, 0.3, n)[rows]),
            "failed": pa.array(np.zeros(n, bool)[rows]),
        }
    )
    pq.write_table(table, path)


def test_the_options_that_a_finding_prints_judge_the_part_that_was_meant(tmp_path, monkeypatch, capfd):
    """A canary that stops is no GO; the time before that is, and the verdict names what is left out."""
    monkeypatch.chdir(tmp_path)
    write_csv("old.parquet", seed=1)
    write_csv("new.parquet", seed=2, until=0.7)
    assert run(["-q", "import", "r", "--baseline", "old.parquet", "--canary", "new.parquet"]) == 0
    capfd.readouterr()
    assert run(["verdict", "r", "--format", "json"]) == 3
    verdict = json.loads(capfd.readouterr()[0])
    (silence,) = [finding for finding in verdict["health"] if finding["check"] == "silence"]
    assert silence["status"] == "fail"
    options = re.search(r"`evaluator verdict r (--from \S+ --to \S+)`", silence["remedy"])[1].split()
    assert run(["verdict", "r", *options, "--format", "json"]) == 0
    part = json.loads(capfd.readouterr()[0])
    jsonschema.validate(part, json.loads((files("evaluator") / "schemas" / "verdict.schema.json").read_text()))
    assert list(part["period"].values()) == options[1::2]
    outside = {
        arm["name"]: sum(p["rows"] for p in arm["left_out"] if p["kind"] == "outside_period") for arm in part["arms"]
    }
    assert outside["baseline"] > 0.25 * 18_000
    for arm in part["arms"]:
        assert arm["read"] == arm["requests"] + sum(p["rows"] for p in arm["left_out"])
    # The part is said in every report, and survives being read back.
    (tmp_path / "part.json").write_text(json.dumps(part))
    assert run(["render", "part.json", "--format", "human"]) == 0
    assert "only a part is judged: from 2026-05-28 20:26:40 UTC" in capfd.readouterr()[0]


def test_a_part_of_the_time_that_makes_no_sense_is_refused(judge):
    code, _, err = judge("slow", "--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z")
    assert (code, "swap them" in err) == (2, True)
    code, _, err = judge("slow", "--from", "2026-01-02T00:00:00Z", "--wait", "1s")
    assert (code, "--wait" in err) == (2, True)
    code, out, _ = judge("slow", "--to", "2020-01-01T00:00:00Z")
    assert code == 3  # nothing lies there: no data is never a pass
    assert "no requests" in out
