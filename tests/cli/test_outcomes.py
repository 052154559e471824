"""A/B tests from the file to the verdict, through the command line."""

import csv
import json
import shlex
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from evaluator.__main__ import run
from evaluator.store import Store

POLICY = """
metrics:
  - {name: conversion, type: outcome_proportion, outcome: converted, margin: 6pp}
  - {name: orders_per_session, type: outcome_ratio, outcome: orders, per: sessions, margin: 15%}
  - {name: revenue, type: outcome_mean, outcome: revenue, margin: 8%, covariates: [revenue_pre], winsorise: 99.9%}
  - {name: revenue_p90, type: outcome_quantile, quantile: 0.9, outcome: revenue, margin: 25%}
  - {name: sessions, type: outcome_mean, outcome: sessions, direction: lower_is_better, role: watch}
"""
SCHEMA = json.loads((files("evaluator") / "schemas" / "verdict.schema.json").read_text())


def write_test(path, *, arms=("control", "treatment"), units=4000, change=1.0, per_arm=None, seed=1):
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "variant", "converted", "sessions", "orders", "revenue", "revenue_pre"])
        for k in range(units):
            arm = rng.choice(arms, p=per_arm)
            before = rng.lognormal(2, 0.5)
            sessions = 1 + rng.poisson(2)
            orders = rng.binomial(sessions, 0.4 * (change if arm != arms[0] else 1.0))
            revenue = before + rng.gamma(2, 1) * (orders + 1) * (change if arm != arms[0] else 1.0)
            writer.writerow([k, arm, int(orders > 0), sessions, orders, round(revenue, 4), round(before, 4)])
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evaluator.yaml").write_text(POLICY)
    return tmp_path


def verdict(capfd, *options):
    capfd.readouterr()
    code = run(["verdict", "shop@2", "--format", "json", *options])
    plain = json.loads(capfd.readouterr().out)
    jsonschema.validate(plain, SCHEMA)
    return code, plain


def test_a_harmless_change_is_go(folder, capfd):
    assert run(["import", "shop@2", "--outcomes", str(write_test(folder / "o.csv"))]) == 0
    out, err = capfd.readouterr()
    assert "shop@2: outcomes of 4000 units (user_id) in 4000 rows, arms by variant: converted, sessions" in out
    assert "covariates revenue_pre" in out
    assert "no metric of outcomes" not in err
    assert "if more units will come, plan the looks first with `monitoring: {max_units: …}`" in err
    code, plain = verdict(capfd)
    assert (code, plain["verdict"], plain["time_to_decision_s"]) == (0, "go", None)
    assert [arm["units"] for arm in plain["arms"]] == [
        row["n"] for row in (plain["metrics"][0][a] for a in ("baseline", "canary"))
    ]
    revenue = plain["metrics"][2]
    assert "adjusted for revenue_pre (variance −" in revenue["method"]
    assert "winsorised at 99.9 % (cut to " in revenue["method"]
    assert "revenue (winsorised at 99.9 %) " in revenue["reason"]
    assert revenue["unit"] == "revenue/unit"
    assert 0 <= revenue["view"]["p_beyond"] < 0.01
    assert revenue["view"]["p_best"] is None
    assert {row["check"]: row["status"] for row in plain["health"]}["sample_ratio"] == "ok"
    assert run(["verdict", "shop@2"]) == 0
    assert "2,020 + 1,980 users" in capfd.readouterr().out


def test_a_harmful_change_is_no_go(folder, capfd):
    run(["import", "shop@2", "--outcomes", str(write_test(folder / "o.csv", change=0.7))])
    code, plain = verdict(capfd)
    assert (code, plain["verdict"]) == (1, "no_go")
    assert plain["reasons"][0]["text"].startswith(("conversion fell", "orders_per_session fell", "revenue"))


def test_the_same_data_give_the_same_bytes(folder, capfd):
    run(["import", "shop@2", "--outcomes", str(write_test(folder / "o.csv", units=500))])
    first, second = verdict(capfd)[1], verdict(capfd)[1]
    assert {**first, "judged_at": ""} == {**second, "judged_at": ""}
    assert first["data_hash"] != "sha256:"


def test_several_candidates(folder, capfd):
    path = write_test(folder / "o.csv", arms=("A", "B", "C"), units=3000)
    run(["import", "shop@2", "--outcomes", str(path)])
    _, plain = verdict(capfd)
    assert [arm["name"] for arm in plain["arms"]] == ["baseline", "B", "C"]
    rows = [row for row in plain["metrics"] if row["name"] == "revenue"]
    assert [row["arm"] for row in rows] == ["B", "C"]
    assert all(0 < row["view"]["p_best"] < 1 and row["view"]["p_dunnett"] > 0.01 for row in rows)


def test_a_sample_ratio_that_is_off_forbids_go(folder, capfd):
    path = write_test(folder / "o.csv", per_arm=(0.55, 0.45))
    run(["import", "shop@2", "--outcomes", str(path)])
    code, plain = verdict(capfd)
    assert (code, plain["verdict"]) == (3, "inconclusive")
    assert any("sample ratio: users: baseline" in reason["text"] for reason in plain["reasons"])
    policy = POLICY + "health: {sample_ratio: {baseline: 55, treatment: 45}}\n"
    (folder / "evaluator.yaml").write_text(policy)
    assert verdict(capfd)[1]["verdict"] == "go"
    (folder / "evaluator.yaml").write_text(POLICY + "health: {sample_ratio: {baseline: 1, canary: 1}}\n")
    assert "names no share for treatment" in json.dumps(verdict(capfd)[1]["reasons"])


def test_units_in_two_arms_forbid_go_above_one_percent(folder, capfd):
    path = write_test(folder / "o.csv", units=3000)
    lines = path.read_text().splitlines()
    for share, word in ((0.005, "warn"), (0.03, "fail")):
        swapped = [line.replace(",control,", ",treatment,") for line in lines[1 : 1 + int(6000 * share)]]
        path.write_text("\n".join([*lines, *swapped]))
        run(["import", f"shop@{word}", "--outcomes", str(path)])
        capfd.readouterr()
        run(["verdict", f"shop@{word}", "--format", "json"])
        plain = json.loads(capfd.readouterr().out)
        finding = {row["check"]: row for row in plain["health"]}["assignment"]
        assert finding["status"] == word
        assert "were seen in several arms; left out" in finding["text"]


def test_values_that_are_missing_in_one_arm_forbid_go(folder, capfd):
    path = write_test(folder / "o.csv")
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(
            ",".join([*line.split(",")[:5], "", line.split(",")[6]]) if k % 20 == 1 and ",control," in line else line
            for k, line in enumerate(lines)
        )
    )
    run(["import", "shop@2", "--outcomes", str(path)])
    code, plain = verdict(capfd)
    finding = {row["check"]: row for row in plain["health"]}["missing_outcomes"]
    assert (code, finding["status"]) == (3, "fail")
    revenue = next(row for row in plain["metrics"] if row["name"] == "revenue")
    assert revenue["baseline"]["n"] < plain["arms"][0]["units"]


def test_outcomes_are_judged_with_requests(folder, capfd):
    (folder / "evaluator.yaml").write_text(
        POLICY + "  - {name: p50, type: latency_quantile, quantile: 0.5, margin: 90%}\n"
    )
    rng = np.random.default_rng(3)
    for name in ("b", "c"):
        rows = [f"{1777968000 + k * 0.05},GET /,{rng.lognormal(3, 0.3)},false" for k in range(4000)]
        (folder / f"{name}.csv").write_text("ts,endpoint,response_time_ms,failed\n" + "\n".join(rows))
    path = write_test(folder / "o.csv")
    both = ["--baseline", "b.csv", "--canary", "c.csv", "--outcomes", str(path)]
    assert run(["import", "shop@2", *both]) == 0
    _, plain = verdict(capfd)
    assert {row["name"]: row["status"] for row in plain["metrics"]}["p50"] == "pass"
    assert {row["name"]: row["status"] for row in plain["metrics"]}["revenue"] == "pass"
    assert {arm["name"]: (arm["requests"] > 0, arm.get("units", 0) > 0) for arm in plain["arms"]} == {
        "baseline": (True, True),
        "canary": (True, False),
        "treatment": (False, True),
    }


def test_no_outcomes_is_no_data(folder, capfd):
    rows = [f"{1777968000 + k},GET /,{k % 7 + 1},false" for k in range(200)]
    for name in ("b", "c"):
        (folder / f"{name}.csv").write_text("ts,endpoint,response_time_ms,failed\n" + "\n".join(rows))
    run(["import", "shop@2", "--baseline", "b.csv", "--canary", "c.csv"])
    code, plain = verdict(capfd)
    assert code == 3
    assert all(row["status"] == "no_data" for row in plain["metrics"] if row["type"].startswith("outcome_"))
    assert "no outcomes were imported" in json.dumps(plain["reasons"])


def test_outcomes_without_a_metric_in_the_policy(folder, capfd):
    (folder / "evaluator.yaml").write_text("version: 1\n")
    run(["import", "shop@2", "--outcomes", str(write_test(folder / "o.csv", units=100))])
    code, plain = verdict(capfd)
    assert code == 3
    assert "the policy has no metric of them" in json.dumps(plain["health"])


def test_a_column_that_was_not_imported(folder, capfd):
    run(["import", "shop@2", "--outcomes", str(write_test(folder / "o.csv", units=100)), "--outcome", "revenue"])
    assert run(["verdict", "shop@2"]) == 2
    assert "there is no outcome 'converted'" in capfd.readouterr().err


def test_purged_outcomes_are_no_data_only_where_values_are_needed(folder, capfd):
    run(["import", "shop@2", "--outcomes", str(write_test(folder / "o.csv"))])
    assert run(["data", "purge", "shop@2", "--yes"]) == 0
    _, plain = verdict(capfd)
    status = {row["name"]: row["status"] for row in plain["metrics"]}
    assert (status["conversion"], status["orders_per_session"]) == ("pass", "pass")
    assert (status["revenue"], status["revenue_p90"]) == ("no_data", "no_data")


def test_options_about_outcomes_need_outcomes(folder, capfd):
    assert run(["import", "shop@2", "--unit", "user"]) == 2
    assert "need --outcomes" in capfd.readouterr().err


def grow(path, units, **how):
    """The first units of one test, as available at a checkpoint."""
    lines = write_test(path, **how).read_text().splitlines()
    path.write_text("\n".join(lines[: units + 1]))
    return path


def find_check(plain, name):
    return next(row for row in plain["health"] if row["check"] == name)


def import_part(folder, units, **how):
    assert run(["import", "shop@2", "--outcomes", str(grow(folder / f"{units}.csv", units, **how))]) == 0


def test_outcomes_that_were_judged_before_are_counted_and_spend_alpha(folder, capfd):
    import_part(folder, 2000)
    first = verdict(capfd)[1]
    assert "first look at outcomes of this release, at 2,000 users" in find_check(first, "outcome_looks")["text"]
    # The same data judged again, and data that nobody judged, are no looks.
    assert {**verdict(capfd)[1], "judged_at": ""} == {**first, "judged_at": ""}
    import_part(folder, 2500)
    import_part(folder, 3000)
    second = verdict(capfd)[1]
    finding = find_check(second, "outcome_looks")
    assert finding["status"] == "warn"
    assert "were judged 1 time before (at 2,000 users; now 3,000)" in finding["text"]
    assert "max_units: 6000" in finding["remedy"]
    assert second["monitoring"] == "anytime"
    assert {**verdict(capfd)[1], "judged_at": ""} == {**second, "judged_at": ""}
    import_part(folder, 4000)
    text = find_check(verdict(capfd)[1], "outcome_looks")["text"]
    assert "were judged 2 times before (at 2,000, 3,000 users; now 4,000)" in text
    # The outcomes of the second look are what they were, whatever came after them.
    runs = [
        row["id"]
        for row in Store.open(folder / "evaluator.duckdb").data.query("SELECT id FROM runs ORDER BY code").to_pylist()
    ]
    once_more = verdict(capfd, "--run", runs[2])[1]
    assert {**once_more, "judged_at": ""} == {**second, "judged_at": ""}


def test_looking_without_recording_is_no_look(folder, capfd):
    import_part(folder, 2000)
    verdict(capfd, "--dry-run")
    import_part(folder, 3000)
    assert "first look" in find_check(verdict(capfd)[1], "outcome_looks")["text"]


def test_a_look_without_an_answer_does_not_count(folder, capfd):
    """Too few units to be judged, or a look that was refused."""
    import_part(folder, 40)
    assert {row["status"] for row in verdict(capfd)[1]["metrics"]} == {"no_data"}
    import_part(folder, 3000)
    assert "first look" in find_check(verdict(capfd)[1], "outcome_looks")["text"]
    (folder / "evaluator.yaml").write_text(POLICY + "monitoring: {mode: fixed}\n")
    for units in (3500, 4000):
        import_part(folder, units)
        assert "judged 1 time before (at 3,000 users" in find_check(verdict(capfd)[1], "outcome_looks")["text"]


def test_large_harm_is_still_detected_at_a_later_look(folder, capfd):
    import_part(folder, 300, change=0.95)
    assert verdict(capfd)[1]["verdict"] == "inconclusive"
    import_part(folder, 4000, change=0.6, seed=2)
    code, plain = verdict(capfd)
    assert (code, plain["verdict"], plain["monitoring"]) == (1, "no_go", "anytime")


def test_planned_looks_are_group_sequential(folder, capfd):
    (folder / "evaluator.yaml").write_text(POLICY + "monitoring: {max_units: 4000}\n")
    import_part(folder, 1000)
    first = verdict(capfd)[1]
    assert first["monitoring"] == "group_sequential"
    assert "at 1,000 of 4,000 planned users" in find_check(first, "outcome_looks")["text"]
    import_part(folder, 4000)
    last = verdict(capfd)[1]
    assert last["verdict"] == "go"
    assert find_check(last, "outcome_looks")["status"] == "ok"


def test_a_second_look_breaks_the_promise_of_one(folder, capfd):
    (folder / "evaluator.yaml").write_text(POLICY + "monitoring: {mode: fixed}\n")
    import_part(folder, 2000)
    assert verdict(capfd)[1]["verdict"] == "go"
    import_part(folder, 4000)
    code, plain = verdict(capfd)
    assert (code, plain["verdict"]) == (3, "inconclusive")
    assert find_check(plain, "outcome_looks")["status"] == "fail"
    assert {row["status"] for row in plain["metrics"]} == {"no_data"}


def test_the_import_accounts_for_the_rows(folder, capfd):
    path = write_test(folder / "o.csv", units=1000)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[5], "9999,treatment,maybe,1,1,1,1", "", "9998,,1,1,1,1,1"]))
    assert run(["import", "shop@2", "--outcomes", str(path), "--skip-bad-rows", "--outcome", "converted:binary",
                "--outcome", "sessions", "--outcome", "orders", "--outcome", "revenue"]) == 0  # fmt: skip
    out = capfd.readouterr().out
    assert "in 1000 rows" in out
    assert "1003 rows read, not judged: 2 bad rows (no arm known 1, treatment 1), 1 duplicate (" in out
    text = find_check(verdict(capfd)[1], "coverage")["text"]
    assert text.startswith("1,000 of 1,003 rows of outcomes are judged; not: 2 bad rows (")


def test_bad_rows_of_one_arm_forbid_go(folder, capfd):
    path = write_test(folder / "o.csv")
    lines = path.read_text().splitlines()
    for k in range(1, 60):
        if ",treatment," in lines[k]:
            lines[k] = lines[k].replace(",treatment,1,", ",treatment,x,").replace(",treatment,0,", ",treatment,x,")
    path.write_text("\n".join(lines))
    options = [
        "--skip-bad-rows",
        *(word for name in ("converted:binary", "sessions", "orders", "revenue") for word in ("--outcome", name)),
    ]
    run(["import", "shop@2", "--outcomes", str(path), *options, "--covariate", "revenue_pre"])
    code, plain = verdict(capfd)
    assert (code, find_check(plain, "coverage")["status"]) == (3, "fail")
    assert "bad rows are more frequent in one arm" in find_check(plain, "coverage")["text"]


def test_a_stray_arm_is_left_out_by_the_command_that_is_shown(folder, capfd):
    path = write_test(folder / "o.csv")
    path.write_text(path.read_text() + "7777,undefined,1,1,1,9,9\n")
    run(["import", "shop@2", "--outcomes", str(path)])
    remedy = find_check(verdict(capfd)[1], "sample_ratio")["remedy"]
    option = remedy.split("`")[1]
    assert run(["import", "shop@2", "--outcomes", str(path), *shlex.split(option)]) == 0
    code, plain = verdict(capfd)
    assert [arm["name"] for arm in plain["arms"]] == ["baseline", "treatment"]
    # The two arms are the same data as before, so this is the same look at them.
    assert (code, plain["verdict"], plain["monitoring"]) == (0, "go", "fixed")


def split_by_arm(path):
    """Write the rows of each arm into a file of its own, without the column of the arm; returns their paths by arm."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    paths = {}
    for arm in sorted({row["variant"] for row in rows}):
        paths[arm] = path.with_name(f"{arm}.csv")
        with paths[arm].open("w", newline="") as file:
            writer = csv.DictWriter(file, [name for name in rows[0] if name != "variant"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in rows if row["variant"] == arm)
    return paths


def test_a_file_for_each_arm_is_judged_as_one_file_with_a_column(folder, capfd):
    together = write_test(folder / "o.csv", units=600)
    files_by_arm = split_by_arm(together)
    assert run(["import", "shop@1", "--outcomes", str(together)]) == 0
    options = [word for arm, path in files_by_arm.items() for word in ("--arm-outcomes", f"{arm}={path}")]
    assert run(["import", "shop@2", *options]) == 0
    assert "outcomes of 600 units (user_id) in 600 rows, arms by file: converted" in capfd.readouterr().out
    verdicts = []
    for release in ("shop@1", "shop@2"):
        run(["verdict", release, "--format", "json"])
        plain = json.loads(capfd.readouterr().out)
        verdicts.append((plain["verdict"], plain["arms"], plain["metrics"]))
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize("options", [(), ("--outcomes-query", "SELECT user_id, variant, revenue FROM outcomes")])
def test_the_index_of_pandas_and_empty_columns_are_no_outcomes(folder, capfd, options):
    lines = write_test(folder / "o.csv", units=60).read_text().splitlines()
    rows = "".join(f"{number},{line},,\n" for number, line in enumerate(lines[1:]))
    (folder / "o.csv").write_text(f",{lines[0]},,\n{rows}")
    assert run(["import", "shop@2", "--outcomes", "o.csv", *options]) == 0
    out = capfd.readouterr().out
    assert "outcomes of 60 units (user_id) in 60 rows" in out
    assert "revenue" in out
    assert "nnamed" not in out
    assert "column" not in out


def test_a_pattern_gives_the_files_of_an_arm_and_a_query_leaves_one_out(folder, capfd):
    for arm in ("baseline", "b", "c"):
        for part in (1, 2):
            (folder / f"{arm}-{part}.csv").write_text(f"user,bought\n{arm}{part},1\n{arm}{part}x,0\n")
    options = [
        word for arm in ("baseline", "b", "c") for word in ("--arm-outcomes-glob", f"{arm}={folder}/{arm}-?.csv")
    ]
    query = "SELECT * FROM outcomes WHERE arm_of_file <> 'c'"
    assert run(["import", "shop@2", *options, "--outcomes-query", query]) == 0
    assert "outcomes of 8 units (user) in 8 rows" in capfd.readouterr().out
    query = "SELECT user, bought FROM outcomes"
    assert run(["import", "shop@2", *options, "--outcomes-query", query]) == 2
    assert "has no column arm_of_file" in capfd.readouterr().err


ONE, TWO = "user,bought\nu1,1\nu2,0\n", "user,bought\nu3,1\nu4,0\n"


@pytest.mark.parametrize(
    ("old", "new", "options", "message"),
    [
        (ONE, ONE, [], "new.csv of arm 'canary' have the same content"),
        (ONE, "user,bought\n", [], "arm 'canary' has no row that can be used in new.csv"),
        (ONE, "user,amount\nu3,1\n", [], "it lacks bought and also has amount"),
        (ONE, "bought,user\n1,u3\n", [], "it has them in another order"),
        (ONE, TWO, ["--arm-column", "user"], "--arm-column cannot be used with --arm-outcomes"),
        (ONE, TWO, ["--outcomes", "old.csv"], "--outcomes and --arm-outcomes exclude each other"),
        ("user,variant,x\nu1,A,1\n", "user,variant,x\nu2,A,1\n", [], "arm 'canary' has 'A' there, as arm 'baseline'"),
        (
            "user,arm,x\nu1,canary,1\n",
            "user,arm,x\nu2,n,1\n",
            [],
            "arm 'baseline' has 'canary' there, which is",
        ),
        ("user,arm,x\nu1,A,1\nu2,B,1\n", "user,arm,x\nu3,C,1\n", [], "arm 'baseline' has 'A' and 'B' there"),
        (
            "user,treatment,x\nu1,1,1\n",
            "user,treatment,x\nu2,0,1\n",
            [],
            "arm 'canary' has '0' there, which is",
        ),
    ],
)
def test_files_of_arms_that_are_refused(folder, capfd, old, new, options, message):
    (folder / "old.csv").write_text(old)
    (folder / "new.csv").write_text(new)
    arms = ["--arm-outcomes", "baseline=old.csv", "--arm-outcomes", "canary=new.csv"]
    assert run(["import", "shop@2", *arms, *options]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arm-outcomes", "baseline=old.csv"], "there are only files of arm 'baseline'"),
        (["--arm-outcomes", "old.csv"], "--arm-outcomes old.csv has no arm before its file"),
        (
            ["--arm-outcomes", "baseline=old.csv", "--arm-outcomes", "canary=old.csv"],
            "old.csv is given for the arms 'baseline' and 'canary'",
        ),
        (["--outcomes", "baseline=old.csv"], "give it with --arm-outcomes baseline=old.csv"),
    ],
)
def test_arms_without_files_of_their_own_are_refused(folder, capfd, options, message):
    (folder / "old.csv").write_text(ONE)
    assert run(["import", "shop@2", *options]) == 2
    assert message in capfd.readouterr().err


def test_units_in_the_files_of_both_arms_are_left_out_and_forbid_a_go(folder, capfd):
    """Both files number their rows from 0."""
    (folder / "evaluator.yaml").write_text(
        "metrics: [{name: conversion, type: outcome_proportion, outcome: converted, margin: 6pp}]"
    )
    rows = "\n".join(f"{number},{number % 2}" for number in range(200))
    (folder / "old.csv").write_text(f"id,converted\n{rows}\n")
    (folder / "new.csv").write_text(f"id,converted\n{rows}\n200,1\n")
    arms = ["--arm-outcomes", "baseline=old.csv", "--arm-outcomes", "canary=new.csv"]
    assert run(["import", "shop@2", *arms]) == 0
    assert "200 units in several arms left out; 401 rows read" in capfd.readouterr().out
    code, plain = verdict(capfd)
    assignment = next(row for row in plain["health"] if row["check"] == "assignment")
    assert (code, assignment["status"]) == (3, "fail")
    assert "import with `--unit rows`" in assignment["remedy"]
    assert run(["import", "shop@2", *arms, "--unit", "rows"]) == 0
    assert "outcomes of 401 units (rows) in 401 rows" in capfd.readouterr().out
