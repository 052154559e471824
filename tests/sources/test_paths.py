"""Paths and patterns of the files of an import: a path is never a pattern."""

import gzip
import os
import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluator.errors import InputError, UsageError
from evaluator.pipeline.importing import import_outcomes, import_release
from evaluator.records import OutcomeOptions, Release
from evaluator.sources.files import plan_landing
from evaluator.sources.files.paths import OUTCOMES, FileOption, find_files, option_of_arm, refuse_left_over
from evaluator.store import Store

HEADER = "ts,endpoint,response_time_ms,failed"
BASELINE = option_of_arm("baseline")


def write(path, ms):
    """Write a file with one request, which took `ms` milliseconds."""
    path.parent.mkdir(exist_ok=True)
    text = f"{HEADER}\n1790000000,GET /,{ms},false\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".parquet":
        row = {"ts": 1790000000, "endpoint": "GET /", "response_time_ms": float(ms), "failed": False}
        pq.write_table(pa.Table.from_pylist([row]), path)
    elif path.suffix == ".json":
        path.write_text(
            '{"metric":"http_req_duration","type":"Point","data":{"time":"2026-09-21T13:33:20Z","value":' + f"{ms},"
            '"tags":{"name":"/","method":"GET","status":"200","expected_response":"true"}}}\n'
        )
    else:
        path.write_text(text)


# A name → a name that it would match as a pattern, or that is near it.
NEIGHBOURS = {
    "new[1]": "new1",
    "a?": "ab",
    "a*": "abc",
    "**": "x",
    "a,b": "a",
    "sp ace'\"$(x);": "sp",
    "-x": "xx",
    "~": "y",
    "s3:": "s3",
    "a\\b": "ab2",
    "a]b[": "ab3",
    "line\nend": "line",
    "response_time_ms=7/x": "z",  # not a value of a column, as in partitioned tables
    "ümlaut": "umlaut",
}


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet", "json"])
def test_the_files_that_are_named_are_read(tmp_path, monkeypatch, ending):
    monkeypatch.chdir(tmp_path)
    for number, (name, neighbour) in enumerate(NEIGHBOURS.items()):
        write(tmp_path / f"{neighbour}.{ending}", 100 + number)
        write(tmp_path / f"{name}.{ending}", 1 + number)
    store = Store.open(tmp_path / "s.duckdb", create=True)
    plan = plan_landing({"canary": [f"{name}.{ending}" for name in NEIGHBOURS]}, files_are="parts")
    import_release(store, Release("r"), plan)
    rows = store.data.query("SELECT response_time_ms AS ms FROM requests ORDER BY ALL").to_pylist()
    assert [row["ms"] for row in rows] == [1 + number for number in range(len(NEIGHBOURS))]


def test_the_outcomes_that_are_named_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, (name, neighbour) in enumerate(NEIGHBOURS.items()):
        for stem, outcome in ((neighbour, 100), (name, number)):
            path = tmp_path / f"{stem}.csv.gz"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gzip.compress(f"user,arm,paid\n{stem.encode().hex()},A,{outcome}\n".encode()))
    store = Store.open(tmp_path / "s.duckdb", create=True)
    import_outcomes(store, Release("r"), [f"{name}.csv.gz" for name in NEIGHBOURS], OutcomeOptions())
    outcomes = store.data.read_outcomes(store.data.runs("r")[0])
    of_arm = outcomes.moments[0]
    total = of_arm.n * of_arm.mean[outcomes.variables.index("paid")]
    assert (of_arm.n, total) == (len(NEIGHBOURS), pytest.approx(sum(range(len(NEIGHBOURS)))))


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("none.csv", "check the path"),
        ("a*.csv", "--baseline-glob 'a*.csv'"),
        ("a1.csv,b*.csv", "--baseline a1.csv --baseline-glob 'b*.csv'"),
        ("a 1.csv,c.csv", "--baseline 'a 1.csv' --baseline c.csv"),
        ("~/a1.csv", "write the whole path"),
        ("--canary", "takes the next word as its file"),
        ("", "a variable of the shell"),
    ],
)
def test_a_path_without_a_file_says_what_may_be_meant(tmp_path, monkeypatch, path, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a1.csv").write_text("x")
    with pytest.raises(InputError) as raised:
        find_files([path], [], BASELINE)
    assert hint in raised.value.hint


def test_paths_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.csv").symlink_to("nowhere.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "a\\[b.csv").write_text("x")
    (tmp_path / "\udcff").mkdir()
    (tmp_path / "\udcff" / "x.csv").write_text("x")
    problems = {
        "link.csv": "is a link to nowhere.csv, and there is no such file",
        "pipe.csv": "is not a regular file",
        "empty.csv": "is empty",
        "folder": "is a directory",
        "a\\[b.csv": "has a backslash and one of",
        "\udcff/x.csv": "the path \\xff/x.csv is not UTF-8",
    }
    for path, problem in problems.items():
        with pytest.raises(InputError) as raised:
            find_files([path], [], BASELINE)
        assert problem in raised.value.message
        assert raised.value.hint


def test_patterns_are_expanded_in_the_order_of_their_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run-10.csv", "run-2.csv", "run-02.csv", "run-x.csv", "deep/er/run-1.csv", ".run-0.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "run-3.csv").mkdir()
    found = find_files(["run-x.csv"], ["run-[0-9]*.csv", "deep/**/*.csv"], BASELINE)
    assert [str(path) for path in found] == ["run-x.csv", "run-02.csv", "run-2.csv", "run-10.csv", "deep/er/run-1.csv"]


@pytest.mark.parametrize(
    ("pattern", "problem", "hint"),
    [
        ("z*.csv", "no file matches 'z*.csv'", "check the pattern"),
        ("z*.csv,a*.csv", "no file matches", "repeat --baseline-glob for each pattern"),
        ("fold*", "only folders do", "--baseline-glob 'fold*/*'"),
        ("x[1].csv", "but there is a file of that name", "--baseline 'x[1].csv'"),
        ("", "--baseline-glob has an empty value", "a variable of the shell"),
    ],
)
def test_a_pattern_without_a_match(tmp_path, monkeypatch, pattern, problem, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "x[1].csv").write_text("x")
    with pytest.raises(InputError) as raised:
        find_files([], [pattern], BASELINE)
    assert problem in raised.value.message
    assert hint in raised.value.hint


def test_a_file_under_two_names_is_given_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "link.csv").symlink_to("a.csv")
    (tmp_path / "hard.csv").hardlink_to("a.csv")
    for other in ("a.csv", "./a.csv", str(tmp_path / "a.csv"), "link.csv", "hard.csv"):
        with pytest.raises(InputError, match=r"given twice for arm 'b'"):
            find_files(["a.csv", other], [], FileOption("--arm", "b="))
    with pytest.raises(InputError, match=r"a\.csv is given twice"):
        find_files(["a.csv"], ["a*"], OUTCOMES)


def test_a_pattern_that_is_too_wide_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("old.csv", "new.csv"):
        write(tmp_path / name, 1)
    with pytest.raises(InputError, match=r"new\.csv is matched by a pattern of arm 'baseline', and is also a file of"):
        plan_landing({"canary": ["./new.csv"]}, patterns={"baseline": ["*.csv"]})
    with pytest.raises(InputError, match=r"is matched by a pattern of arm 'b'") as raised:
        plan_landing({"baseline": ["./old.csv"]}, patterns={"b": ["*.csv"]})
    assert "--arm-glob a pattern" in raised.value.hint
    plan = plan_landing({"baseline": ["old.csv"], "canary": ["./old.csv"]})  # both as paths: it was meant
    assert [file.path for file in plan.files] == ["old.csv", "old.csv"]


def test_no_files():
    with pytest.raises(InputError, match="no files were given"):
        plan_landing({})


def test_options_are_written_as_a_shell_reads_them():
    for value in ("a b*.csv", "it's*.csv", "$(x)*"):
        assert shlex.split(BASELINE.write_glob(value)) == ["--baseline-glob", value]
        assert shlex.split(option_of_arm("b").write(value)) == ["--arm", f"b={value}"]


def test_words_that_the_shell_has_made_of_a_pattern():
    refuse_left_over([], BASELINE)
    with pytest.raises(UsageError, match=r"'old-2\.csv' and 1 more belongs to no option") as raised:
        refuse_left_over(["old-2.csv", "old-3.csv"], BASELINE)
    assert "quote a pattern: --baseline-glob" in raised.value.hint
