import subprocess
import sys

PLAIN = "ts,endpoint,response_time_ms,failed\n1790000000,GET /,3.5,false\n1790000001,GET /,4.5,true\n"


def run(folder, *arguments):
    command = [sys.executable, "-m", "evaluator", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_import_query_export_purge(tmp_path):
    (tmp_path / "b.csv").write_text(PLAIN)
    (tmp_path / "c.csv").write_text(PLAIN.replace("4.5", "5.5"))
    arms = ("--baseline", "b.csv", "--canary", "c.csv", "--service", "cart", "--label", "pr=7")
    assert run(tmp_path, "import", "cart@2", *arms)[:2] == (0, "cart@2: 4 requests from 2 files in 1 run\n")
    code, out, _ = run(tmp_path, "import", "cart@2", *arms)
    assert code == 0
    assert "these 2 files have landed already" in out
    assert run(tmp_path, "data", "sql", "--format", "csv", "SELECT count(*) AS n FROM requests")[:2] == (0, '"n"\n4\n')
    code, _, err = run(tmp_path, "data", "sql", "SELEC 1")
    assert code == 2
    assert "the query cannot be run" in err
    assert run(tmp_path, "data", "export", "cart@2", "--to", "out")[0] == 0
    assert (tmp_path / "out" / "requests.parquet").exists()
    assert run(tmp_path, "data", "export", "cart@2", "--to", "out")[0] == 2
    assert run(tmp_path, "data", "purge", "cart@2")[0] == 2
    code, out, _ = run(tmp_path, "data", "purge", "--yes", "cart@2")
    assert (code, out) == (0, "cart@2: 4 request rows deleted; cells and verdicts stay\n")
    assert run(tmp_path, "data", "purge", "--yes", "cart@3")[0] == 2
    trail = run(tmp_path, "audit", "show")[1].splitlines()
    assert [line.split("  ")[3] for line in trail] == ["purged"]


def test_bad_import_is_one_sentence(tmp_path):
    (tmp_path / "b.csv").write_text(PLAIN.replace("4.5", "nan"))
    code, out, err = run(tmp_path, "import", "cart@2", "--baseline", "b.csv")
    assert (code, out) == (2, "")
    assert "b.csv:3: column 'response_time_ms' has the value 'nan'" in err


def test_one_file_for_both_arms_gives_a_warning(tmp_path):
    (tmp_path / "b.csv").write_text(PLAIN)
    code, _, err = run(tmp_path, "import", "cart@2", "--baseline", "b.csv", "--canary", "./b.csv")
    assert code == 0
    assert f"warning: {tmp_path / 'b.csv'} is given for several arms" in err


def test_a_name_that_cannot_be_shown_leaves_nothing_behind(tmp_path):
    (tmp_path / "b.csv").write_text(PLAIN)
    code, out, err = run(tmp_path, "import", "cart\x1b[31m", "--baseline", "b.csv")
    assert (code, out) == (2, "")
    assert "the name of the release 'cart\\x1b[31m' has characters that cannot be seen" in err
    assert run(tmp_path, "releases")[1] == ""


def test_an_arm_may_be_named_like_a_branch(tmp_path):
    (tmp_path / "b.csv").write_text(PLAIN)
    (tmp_path / "c.csv").write_text(PLAIN.replace("4.5", "5.5"))
    code, _, err = run(tmp_path, "import", "cart@2", "--baseline", "b.csv", "--arm", "feature/x=c.csv")
    assert code == 0, err
    sql = "SELECT arm, count(*) AS n FROM requests GROUP BY arm ORDER BY arm"
    assert run(tmp_path, "data", "sql", "--format", "csv", sql)[1] == '"arm","n"\n"baseline",2\n"feature/x",2\n'
    code, _, err = run(tmp_path, "import", "cart@2", "--baseline", "b.csv", "--arm=-x=c.csv")
    assert (code, "the name of the arm -x begins with a dash" in err) == (2, True)


def test_an_import_that_cannot_be_judged_gives_a_warning(tmp_path):
    for name, time in (("b", "3.5"), ("c", "6.5"), ("d", "7.5")):
        (tmp_path / f"{name}.csv").write_text(PLAIN.replace("3.5", time))
    _, _, err = run(tmp_path, "import", "cart@1", "--baseline", "b.csv")
    assert "warning: nothing to compare without canary; give all arms in one import" in err
    _, _, err = run(tmp_path, "import", "cart@2", "--canary", "b.csv")
    assert "warning: nothing to compare without baseline" in err
    (tmp_path / "d.csv").write_text(PLAIN.replace("17900000", "17900001"))
    _, _, err = run(tmp_path, "import", "cart@3", "--baseline", "b.csv,d.csv", "--canary", "c.csv")
    assert "warning: the arms have different numbers of runs (baseline 2, canary 1)" in err


def test_a_sensitive_import_keeps_paths_only(tmp_path):
    (tmp_path / "evaluator.yaml").write_text("sensitive: true\n")
    rows = "ts,endpoint,response_time_ms,failed,exception\n1790000000,GET /a?user=quetzal#x,3.5,true,no user quetzal\n"
    for name in ("b", "c"):
        (tmp_path / f"{name}.csv").write_text(rows)
    assert run(tmp_path, "import", "cart@2", "--baseline", "b.csv", "--canary", "c.csv")[0] == 0
    query = "SELECT DISTINCT endpoint, exception FROM requests"
    assert run(tmp_path, "data", "sql", "--format", "csv", query)[1] == '"endpoint","exception"\n"GET /a","failure"\n'
    paths = [path for path in tmp_path.rglob("*") if path.suffix not in {".csv", ".yaml"} and path.is_file()]
    stored = b"".join(path.read_bytes() for path in paths)
    assert b"quetzal" not in stored
