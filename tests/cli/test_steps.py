"""Steps of a rollout on the command line: recorded, judged alone, judged as the newest, and never promoted alone."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from judging import LIVE
from request_files import write_requests

from evaluator.__main__ import run
from evaluator.cli.steps import parse_shares
from evaluator.errors import UsageError
from evaluator.intents.conditions import list_conditions
from evaluator.pipeline.runs import find_judged
from evaluator.policy import load_policy
from evaluator.records import Release, Run, RunFacts, RunState, Service
from evaluator.reports import read_stored
from evaluator.simulate import AR1, Change, simulate, to_parquet
from evaluator.simulate.requests import EPOCH_US
from evaluator.store import Store

START = datetime.fromtimestamp(EPOCH_US / 1e6, UTC)


def land_step(store, step, *, canary, hour, latency=0.0, state=RunState.COMPLETE, group="live"):
    """Land production requests as one step of a rollout, an hour after the one before."""
    scenario = replace(
        LIVE,
        split=(canary,),
        instances=(4, 4) if canary == 0.5 else (16, 4),  # as many requests for each instance of both arms
        changes=(Change(latency=latency),),
        instance_drift=AR1(0.002, 100.0),
        failure_rate=0.0,
    )
    requests = simulate(scenario, 7 + hour)
    started = START + timedelta(hours=hour)
    requests = replace(requests, runs=(f"live-{hour}",), ts_us=requests.ts_us + hour * 3_600_000_000)
    of_step = Run(
        f"live-{hour}", "cart@2", group, "access_log", started=started,
        planned_end=started + timedelta(seconds=600), step=step, service="cart",
        shares={"baseline": 1 - canary, "canary": canary}, fingerprint={"pid": 1},
    )  # fmt: skip
    store.data.register_run(Release("cart@2", (Service("cart", "1", "2"),)), of_step)
    to_parquet(requests, store.data.segment_folder(of_step).parent, rows=200_000)
    store.data.land_segments(of_step.id)
    if state is not RunState.RUNNING:
        ended = started + timedelta(seconds=600)
        store.data.finish_run(of_step.id, state=state, ended=ended, facts=RunFacts())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A rollout: step 20 % is in order and complete, step 50 % is slow and still followed."""
    folder = tmp_path_factory.mktemp("steps")
    store = Store.open(folder / "evaluator.duckdb", create=True)
    land_step(store, "20%", canary=0.2, hour=0)
    land_step(store, "50%", canary=0.5, hour=1, latency=0.4, state=RunState.RUNNING)
    return folder


@pytest.fixture
def call(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)

    def call(*args):
        code = run([*args])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_a_step_that_has_ended_is_judged_as_complete_while_the_next_one_is_followed(call):
    code, out, err = call("verdict", "cart@2", "--step", "20%", "--format", "json")
    plain = json.loads(out)
    assert (code, plain["verdict"], err) == (0, "go", "")
    assert (plain["step"], plain["only_step"], plain["other_steps"]) == ("20%", True, ["50%"])
    assert plain["incomplete"] is False
    assert plain["next_action"].startswith("step 20% is GO: begin the next step")
    assert {row["evidence"] for row in plain["metrics"]} == {"live"}


def test_without_a_step_the_newest_one_is_judged_and_named(call):
    code, out, _ = call("verdict", "cart@2")
    assert code == 1
    assert out.startswith("NO-GO ✗  cart@2 against 1")
    assert "judged: step 50%, the newest; other steps: 20% (--step)" in " ".join(out.split())
    assert "(production) rose" in out


def test_all_runs_together_are_void(call):
    code, out, _ = call("verdict", "cart@2", "--run", "all")
    assert code == 3
    assert "the router's shares changed between the runs judged together" in " ".join(out.split())


def test_an_unknown_step_is_wrong_usage_and_lists_the_steps(call):
    code, out, err = call("verdict", "cart@2", "--step", "75%")
    assert (code, out) == (2, "")
    assert "no step '75%'" in err
    assert "20%, 50%" in err


def test_watching_a_step_ends_with_its_verdict(call):
    code, out, _ = call("watch", "cart@2", "--step", "20%", "--wait", "60s", "--dry-run")
    assert code == 0
    assert "only step 20% is judged" in out


def test_the_report_of_a_step_names_the_command_of_the_step(call, folder):
    code, _, _ = call("verdict", "cart@2", "--step", "20%", "--dry-run", "--format", f"html={folder / 'step.html'}")
    assert code == 0
    html = (folder / "step.html").read_text(encoding="utf-8")
    assert "Only step 20% is judged" in html
    assert "--step 20%" in html


def test_a_go_of_a_step_alone_promotes_nothing(call, folder):
    assert call("verdict", "cart@2", "--step", "20%")[0] == 0
    store = Store.open(folder / "evaluator.duckdb")
    verdict = read_stored(store.control.verdicts("cart@2")[-1])
    assert find_judged(store, "cart@2", verdict.data_hash) is not None
    unmet = {
        condition.otherwise for condition in list_conditions(store, load_policy(None), verdict) if not condition.met
    }
    assert "the verdict is on step 20% alone (--step)" in unmet


def test_a_go_of_the_newest_step_is_on_the_release(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    land_step(store, "20%", canary=0.2, hour=0, latency=0.4)
    land_step(store, "50%", canary=0.5, hour=1)
    assert run(["verdict", "cart@2"]) == 0
    capfd.readouterr()
    store = Store.open(tmp_path / "evaluator.duckdb")
    verdict = read_stored(store.control.verdicts("cart@2")[-1])
    unmet = {
        condition.otherwise for condition in list_conditions(store, load_policy(None), verdict) if not condition.met
    }
    land_step(store, "100%", canary=0.5, hour=2)
    later = {
        condition.otherwise for condition in list_conditions(store, load_policy(None), verdict) if not condition.met
    }
    assert (verdict.step, verdict.only_step) == ("50%", False)
    assert unmet == {"the policy names no hooks that promote"}
    assert "its data have changed, or there are newer data" in later


def test_files_are_imported_as_a_step_with_its_shares(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for arm in ("baseline", "canary"):
        write_requests(tmp_path / f"{arm}.parquet", slower=1.0, seed=arm == "canary")
    files = ["--baseline", "baseline.parquet", "--canary", "canary.parquet"]
    assert run(["-q", "import", "cart@2", *files, "--step", "half", "--share", "canary=50%", "--service", "cart"]) == 0
    store = Store.open(tmp_path / "evaluator.duckdb")
    (landed,) = store.data.runs("cart@2")
    assert (landed.step, landed.service, landed.shares) == ("half", "cart", {"baseline": 0.5, "canary": 0.5})
    capfd.readouterr()
    run(["verdict", "cart@2", "--format", "json"])
    plain = json.loads(capfd.readouterr().out)
    ratio = next(row for row in plain["health"] if row["check"] == "sample_ratio")
    assert ratio["text"].startswith("canary got 50 % of the requests")


@pytest.mark.parametrize(
    ("texts", "shares"),
    [
        ((), {}),
        (("canary=5%",), {"baseline": 0.95, "canary": 0.05}),
        (("canary=0.05",), {"baseline": 0.95, "canary": 0.05}),
        (("canary=5 %",), {"baseline": 0.95, "canary": 0.05}),
        (("canary=0%",), {"baseline": 1.0, "canary": 0.0}),
        (("canary=100%",), {"baseline": 0.0, "canary": 1.0}),
        (("baseline=60%", "canary=40%"), {"baseline": 0.6, "canary": 0.4}),
        (("a=10%", "b=20%"), {"baseline": 0.7, "a": 0.1, "b": 0.2}),
        (("baseline=33.3%", "a=33.3%", "b=33.3%"), {"baseline": 1 / 3, "a": 1 / 3, "b": 1 / 3}),
    ],
)
def test_shares_are_completed(texts, shares):
    assert parse_shares(texts) == pytest.approx(shares)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (("canary",), "is not ARM=SHARE"),
        (("=5%",), "is not ARM=SHARE"),
        (("canary=",), "--share canary="),
        (("canary=5",), "is not from 0 % to 100 %"),
        (("canary=-5%",), "is not from 0 % to 100 %"),
        (("canary=nan",), "--share canary=nan"),
        (("canary=nan%",), "--share canary=nan%"),
        (("canary=inf",), "--share canary=inf"),
        (("canary=five",), "--share canary=five"),
        (("canary=5%", "canary=6%"), "twice"),
        (("a=60%", "b=50%"), "110 % together, more than 100 %"),
        (("baseline=95%",), "the baseline alone"),
        (("baseline=90%", "canary=5%"), "not 100 %"),
    ],
)
def test_other_shares_are_refused(texts, says):
    with pytest.raises(UsageError, match=says):
        parse_shares(texts)


def test_a_step_needs_a_name_that_can_be_typed(call):
    for command in (["collect", "cart@2"], ["load", "cart@2", "--baseline", "http://a", "--canary", "http://b"]):
        code, _, err = call(*command, "--step", "--x")
        assert code == 2, err
        assert "begins with a dash" in err
