"""plan, calibrate and replay from end to end, on a store with three landed releases of one service."""

import json
import re
from dataclasses import replace

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from evaluator.__main__ import run
from evaluator.records import Learnt
from evaluator.simulate import Change, Scenario, simulate, to_parquet
from evaluator.store import Store

QUARTER = replace(Scenario(), duration_s=600.0, rate_per_s=40.0)
LOOSE = """
metrics:
  - {name: failure_rate, type: failure_rate, role: gate, margin: 5pp}
  - {name: latency_p50, type: latency_quantile, quantile: 0.5, role: gate, margin: 60%}
endpoint_scan: {enabled: false}
"""


def land(folder, release, design, seed, service="cart", versions=()):
    to_parquet(simulate(design, seed), folder / release)
    table = pq.read_table(folder / release)
    arm = table["arm"].combine_chunks().cast("string")
    files = []
    for name in ("baseline", "canary"):
        path = folder / f"{release}-{name}.parquet"
        pq.write_table(table.filter(pc.equal(arm, name)), path)
        files += [f"--{name}", str(path)]
    assert run(["-q", "import", release, *files, "--service", service, *versions]) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`cart@1` and `cart@2` change nothing, `cart@3` is 30 % slower; all were judged by the built-in policy."""
    folder = tmp_path_factory.mktemp("hindsight")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, slower in ((1, 0.0), (2, 0.0), (3, 0.3)):
            land(folder, f"cart@{number}", replace(QUARTER, changes=(Change(latency=slower),)), number)
            run(["verdict", f"cart@{number}", "--exit-zero"])
        (folder / "loose.yaml").write_text(LOOSE, encoding="utf-8")
    return folder


@pytest.fixture
def call(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)

    def do(*args):
        capfd.readouterr()
        code = run(list(args))
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return do


# ------------------------------------------------------------------ replay


def test_replay_shows_what_would_change_and_why(call):
    code, out, err = call("replay", "--policy", "loose.yaml")
    assert code == 0
    assert "judging cart@3" in err
    row = next(line for line in out.splitlines() if line.startswith("  cart@3 "))
    assert "NO-GO ✗" in row
    assert "GO ✓" in row.replace("NO-GO ✗", "")
    assert "cart@3: both gates are shown to be within their margins" in out
    assert "before: p50 rose" in out


def test_replay_under_the_same_policy_changes_nothing(call):
    code, out, _ = call("replay", "cart@3", "cart@1", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["release"] for row in rows] == ["cart@3", "cart@1"]
    assert [row["changed"] for row in rows] == [False, False]
    assert all(row["same_data"] for row in rows)


def test_replay_keeps_nothing(call, folder):
    before = len(Store.open(folder / "evaluator.duckdb").control.verdicts("cart@3"))
    call("replay", "--policy", "loose.yaml")
    assert len(Store.open(folder / "evaluator.duckdb").control.verdicts("cart@3")) == before


def test_replay_judges_the_runs_that_were_judged(call, folder):
    """A newer load of the same release is not judged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        land(folder, "again@1", replace(QUARTER, changes=(Change(latency=0.3),)), 7, service="again")
        assert call("verdict", "again@1")[0] == 1
        land(folder, "again@1", QUARTER, 8, service="again")
    row = json.loads(call("replay", "again@1", "--json")[1])[0]
    assert (row["old"], row["new"], row["same_data"]) == ("no_go", "no_go", True)


def test_a_policy_that_cannot_judge_a_release_is_a_row_of_its_own(call, tmp_path):
    policy = tmp_path / "evaluator.yaml"
    policy.write_text("metrics:\n  - {name: x, type: latency_mean, endpoint: GET /nowhere, margin: 5%}\n")
    code, out, _ = call("replay", "cart@1", "--policy", str(policy), "--json")
    row = json.loads(out)[0]
    assert (code, row["new"]) == (0, None)
    assert "GET /nowhere" in row["why"]


# ------------------------------------------------------------------ calibrate


def test_calibrate_reports_too_little_history(call):
    code, out, _ = call("calibrate", "cart@1", "cart@2", "cart@3", "--splits", "2")
    assert code == 0
    assert out.startswith("Too little history to know whether false alarms stay within 5 %: 0 of 6 identical releases")
    assert "even without any alarm 73 are needed." in out
    assert "latency +20 %" in out
    assert "past runs, not together" in out


def test_calibrate_as_json(call):
    code, out, _ = call("calibrate", "cart@1", "--splits", "2", "--json")
    report = json.loads(out)
    assert (code, report["conclusion"], report["used"]) == (0, "unknown", ["cart@1"])
    assert report["overall"]["judged"] == 2
    assert report["learnt"]["comparisons"] == 2


def test_what_was_learnt_is_kept_and_feeds_the_judge(folder, call):
    before = json.loads(call("verdict", "cart@1", "--exit-zero", "--dry-run", "--format", "json")[1])
    code, out, _ = call("calibrate", "cart@1", "cart@2", "cart@3", "--splits", "2", "--save")
    assert code == 0
    assert "saved: the judge uses this" in out
    learnt = Store.open(folder / "evaluator.duckdb").control.learnt("cart")
    assert learnt is not None
    assert (learnt.comparisons, learnt.runs) == (6, 3)
    after = json.loads(call("verdict", "cart@1", "--exit-zero", "--dry-run", "--format", "json")[1])
    finding = next(check for check in after["health"] if check["check"] == "history")
    assert "learnt from 6 comparisons in 3 runs" in finding["text"]
    assert finding["status"] == "ok"
    assert after["policy_hash"] != before["policy_hash"]
    assert float(after["policy"]["instances"]["sd_latency"].rstrip("%")) / 100 >= learnt.sd_latency - 1e-4
    assert not [check for check in before["health"] if check["check"] == "history"]


def test_several_services_are_not_saved_as_one(call, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        land(folder, "shop@1", replace(QUARTER, duration_s=120.0), 9, service="shop")
    code, out, err = call("calibrate", "cart@1", "shop@1", "--splits", "2", "--save")
    assert (code, out) == (2, "")
    assert "cart, shop" in err


def test_what_was_learnt_is_kept_by_service(tmp_path):
    store = Store.open(tmp_path / "s.duckdb", create=True)
    learnt = Learnt(0.01, None, 7, 4, 21.0, 0.02, 0.0001, 6, 3)
    store.control.save_learnt("cart", learnt)
    store.control.save_learnt("cart", replace(learnt, runs=5))
    assert store.control.learnt("cart") == replace(learnt, runs=5)
    assert store.control.learnt("shop") is None


def test_one_version_on_both_arms_is_known_by_its_versions(call, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        versions = ["--baseline-version", "1.4", "--canary-version", "1.4"]
        for k in range(5):
            land(folder, f"self@{k}", replace(QUARTER, duration_s=300.0), 20 + k, "self", versions)
    releases = [f"self@{k}" for k in range(5)]
    code, out, _ = call("calibrate", *releases, "--splits", "2", "--save")
    assert code == 0
    assert "nothing: one version" in out
    assert "beyond what a single run shows (standard deviation; from 5 comparisons in 5 runs)" in out
    learnt = Store.open(folder / "evaluator.duckdb").control.learnt("self")
    assert (learnt.between_arms_comparisons, learnt.between_arms_runs) == (5, 5)
    verdict = json.loads(call("verdict", "self@0", "--exit-zero", "--dry-run", "--format", "json")[1])
    text = next(check["text"] for check in verdict["health"] if check["check"] == "history")
    assert "whole arms are assumed to drift by " in text
    assert " from run to run, learnt" in text
    assert text.endswith("from 5 comparisons in 5 runs")


# ------------------------------------------------------------------ plan


def test_plan_from_what_is_stored(call):
    code, out, _ = call("plan", "cart@1", "--duration", "30m", "--instances", "6")
    assert code == 0
    assert re.match(r"With [\d.]+ requests a second and 6 \+ 6 instances ", out)
    assert "\nplan for cart@1: 30 min, 6 + 6 instances" in out
    assert "from 3 stored comparisons" in out
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  p") and "%" in line][:3] == [
        "p50",
        "p95",
        "p99",
    ]
    assert "blue-green" in out


def test_plan_from_a_rate_says_that_it_assumes(call):
    code, out, _ = call("plan", "--rate", "20", "--instances", "3")
    assert code == 0
    assert "assumed, not measured" in out
    assert "3 + 3 instances, 20 requests/s" in out
    assert "with +30 % latency" in out  # twice the widest margin, as on the page Plan


def test_plan_as_json_has_no_infinity(call):
    code, out, _ = call("plan", "--rate", "5", "--instances", "1", "--duration", "5m", "--json")
    plan = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert plan["assumed"]
    assert {gate["name"] for gate in plan["gates"]} == {"failure_rate", "latency_p50", "latency_p95", "latency_p99"}
    assert all(gate["go_after_s"] is None for gate in plan["gates"])
    # Keys are a promise, whatever the fields behind them are called.
    assert {"half_width", "finds", "found_chance", "go_chance", "persistent", "found_after_s"} <= plan["gates"][
        0
    ].keys()
    assert {row["strategy"] for row in plan["strategies"]} == {"big_bang", "blue_green", "canary", "ab_test"}
    assert len(plan["grids"][0]["half_widths"]) == len(plan["grids"][0]["seconds"])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("plan",), "a plan needs a release with stored runs, or a rate"),
        (("plan", "cart@9"), "did you mean"),
        (("plan", "--rate", "0"), "--rate"),
        (("plan", "--rate", "5", "--regression", "ten"), "must be an amount"),
        (("plan", "--rate", "5", "--power", "100%"), "--power must be below 100%"),
        (("calibrate", "cart@9"), "did you mean"),
        (("replay", "cart@9"), "did you mean"),
    ],
    ids=str,
)
def test_wrong_usage_is_2(call, args, says):
    code, out, err = call(*args)
    assert (code, out) == (2, "")
    assert says in err
