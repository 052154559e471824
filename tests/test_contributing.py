"""What CONTRIBUTING.md says is true: one file and one line add each kind of thing, and the code follows the rules."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from additions import ACCESS_LOG, ADDITIONS, source
from request_files import START_S, write_requests

from evaluator.cli import COMMANDS
from evaluator.health import CHECKS
from evaluator.hooks import HOOKS
from evaluator.metrics import METRICS
from evaluator.reports import FORMATS
from evaluator.segments import READING_SCHEMA, REQUEST_SCHEMA
from evaluator.sources.files import SOURCES
from evaluator.store.migrations import MIGRATIONS, VIEWS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TSUNG = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
BELL = re.search(
    r"## Your own.*?```python\n(.*?)```", (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8"), re.DOTALL
)[1]
ENTRY_POINTS = tomllib.loads(re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)[1])["project"]["entry-points"]
POLICY = """
metrics:
  - {name: latency_mean, type: latency_mean, margin: 10%}
  - {name: goodput, type: goodput, seconds: 60, role: watch}
  - {name: slow_of_all, type: slow, beyond_ms: 25, role: watch}
  - {name: slow_of_ok, type: slow, beyond_ms: 25, of: ok, role: watch}
"""
OF_TREE = re.compile(r".*type: (?:goodput|slow),.*\n")
"""Lines of the policy with metrics that only the changed project has."""
HOOK_SAYS = "from evaluator.hooks import make_hook; print(make_hook('bell', {'room': 'room 4'}).describe())"


class Place:
    """A folder to work in, and where the packages are that Python finds before those of this environment."""

    def __init__(self, folder: Path, site: Path) -> None:
        self.folder, self.env = folder, {**os.environ, "PYTHONPATH": str(site)}

    def python(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    def evaluator(self, *words: str, code: int = 0) -> str:
        return self.python("-m", "evaluator", *words, code=code)

    def write_tsung(self) -> None:
        """Write two files as the source in CONTRIBUTING.md reads them."""
        for name in ("old", "new"):
            rows = [f"{START_S * 1000 + 25 * k},home,{20 + k % 9},{k % 50 > 0}".lower() for k in range(3600)]
            (self.folder / f"{name}.log").write_text("\n".join(["started,request,took_ms,outcome", *rows]) + "\n")

    def import_tsung(self) -> None:
        """Import them without saying what they are, and look what has landed."""
        self.write_tsung()
        store = ("--store", "tsung.duckdb")
        self.evaluator("import", "shop@2", "--baseline", "old.log", "--canary", "new.log", *store)
        query = "SELECT count(*) AS n, count_if(failed) AS bad, max(response_time_ms) AS worst FROM requests"
        said = self.evaluator("data", "sql", query, "--format", "csv", *store)
        assert said.splitlines()[1:] == ["7200,144,28"]


# ------------------------------------------------------------------ as a stranger, through entry points


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A machine where another package is installed beside the evaluator."""
    site = tmp_path_factory.mktemp("site")
    package, info = site / "our_evaluator", site / "our_evaluator-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").touch()
    (package / "bell.py").write_text(BELL)
    (package / "tsung.py").write_text(TSUNG)
    (package / "access.py").write_text(ACCESS_LOG)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: our-evaluator\nVersion: 1.0\n")
    groups = [
        f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in points.items()) for group, points in ENTRY_POINTS.items()
    ]
    groups[-1] += "\naccess-log = our_evaluator.access:ACCESS"
    (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    return Place(tmp_path_factory.mktemp("stranger"), site)


def test_a_hook_of_another_package_is_one_of_the_hooks(stranger):
    assert stranger.python("-c", HOOK_SAYS) == "rings the bell in room 4\n"
    kinds = stranger.python("-c", "from evaluator.hooks import HOOKS; print(*HOOKS)").split()
    assert set(kinds) == {*HOOKS, "bell"}


def test_a_source_of_another_package_is_recognised_and_landed(stranger):
    stranger.import_tsung()
    done = stranger.evaluator("import", "shop@3", "--baseline", "old.log", "--canary", "new.log", "--format", "tsung")
    assert "shop@3" in done


def test_a_source_may_read_files_that_ours_refuse(stranger):
    lines = [
        f'10.0.0.1 - - [28/May/2026:20:{s // 60:02}:{s % 60:02} +0000] "GET /a HTTP/1.1" '
        f"{200 if s % 50 else 500} 9 0.0{20 + s % 9}\n"
        for s in range(600)
    ]
    for name in ("old.access", "new.access"):
        (stranger.folder / name).write_text("".join([*lines, "what is no line of a log\n"]))
    words = ("import", "shop@4", "--baseline", "old.access", "--canary", "new.access", "--store", "access.duckdb")
    assert "access-log" in stranger.evaluator(*words, "--format", "acces-log", code=2)
    assert "old.access:601: column 'ended' has no value" in stranger.evaluator(*words, code=2)
    done = stranger.evaluator(*words, "--skip-bad-rows")
    assert "1,200 requests" in done
    assert "2 bad rows" in done
    named = stranger.evaluator(*words[:-1], "named.duckdb", "--skip-bad-rows", "--format", "access-log")
    assert "1,200 requests" in named
    assert "old.access is an access log, which cannot be imported" in stranger.evaluator(
        *words, "--format", "csv", code=2
    )
    alone = Place(stranger.folder, ROOT)
    assert "old.access is an access log, which cannot be imported" in alone.evaluator(*words, code=2)


# ------------------------------------------------------------------ in the tree: one file, one line


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A copy of the project with an addition of each kind, installed."""
    tree, site = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("installed")
    for name in ("evaluator", "loadtests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "app.py"):
        shutil.copy(ROOT / name, tree)
    for addition in (*ADDITIONS, source(TSUNG)):
        addition.make(tree)
    uv = (Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--python", sys.executable)
    subprocess.run([*uv, "--no-deps", "--no-build-isolation", "--target", site, tree], check=True, timeout=120)
    place = Place(tmp_path_factory.mktemp("changed"), site)
    (place.folder / "evaluator.yaml").write_text(POLICY)
    return place


@pytest.fixture(scope="module")
def judged(changed: Place) -> dict[str, object]:
    """A verdict of the changed project, as JSON."""
    changed.evaluator("import", "shop@1", *write_arms(changed.folder))
    return json.loads(changed.evaluator("verdict", "shop@1", "--exit-zero", "--format", "json"))


def write_arms(folder: Path) -> list[str]:
    words = []
    for k, arm in enumerate(["baseline", "canary"] * 3):
        path = folder / f"{arm}-{k}.parquet"
        write_requests(path, seed=k, repeat=k // 2)
        words += [f"--{arm}", str(path)]
    return words


def find(rows, key, name):
    return next(row for row in rows if row[key] == name)


def test_a_metric_with_an_option(judged, changed):
    row = find(judged["metrics"], "name", "goodput")
    assert (row["type"], row["direction"], row["unit"]) == ("goodput", "higher_is_better", "ok/60 s")
    per_minute = 60 * row["baseline"]["n"] / judged["window"]["seconds"]
    assert row["baseline"]["value"] == pytest.approx(per_minute, rel=0.1)
    assert find(judged["policy"]["metrics"], "name", "goodput")["seconds"] == 60
    (types,) = [
        definition["allOf"]
        for definition in json.loads(changed.evaluator("policy", "schema"))["$defs"].values()
        if "allOf" in definition
    ]
    (own,) = [case["then"] for case in types if case["if"]["properties"]["type"]["const"] == "goodput"]
    assert (own["required"], own["properties"]["seconds"]["type"]) == (["seconds"], "integer")


def test_a_verdict_read_back_has_every_metric_with_its_options(judged, changed):
    formats = changed.python("-c", "from evaluator.reports import FORMATS; print(*FORMATS)").split()
    for folder in ("direct", "back"):
        (changed.folder / folder).mkdir()
    asked = {folder: [f"--format={name}={folder}/{name}" for name in formats] for folder in ("direct", "back")}
    changed.evaluator("verdict", "shop@1", "--exit-zero", *asked["direct"], "--figures")
    changed.evaluator("render", "direct/json", *asked["back"])
    for name in formats:
        direct, back = ((changed.folder / folder / name).read_text() for folder in ("direct", "back"))
        # JSON has nine digits of a number, and so the lines of a figure may lie a millionth of a pixel beside.
        direct, back = (re.sub(r"\d+\.\d{5,}", lambda found: f"{float(found[0]):.4g}", text) for text in (direct, back))
        assert back == direct, name
    assert "goodput (over 60 s)" in (changed.folder / "back" / "junit").read_text()
    rows = re.findall(r"slow \(.*?\)", (changed.folder / "back" / "human").read_text())
    assert rows == ["slow (beyond 25 ms, of all)", "slow (beyond 25 ms, of ok)"]


def test_a_metric_of_requests_beyond_a_time(judged, changed):
    rows = [find(judged["metrics"], "name", f"slow_of_{of}") for of in ("all", "ok")]
    assert [row["baseline"]["value"] for row in rows] == pytest.approx([0.242, 0.242], abs=0.005)


READINGS = """
import numpy as np
from datetime import UTC, datetime, timedelta
from evaluator.assess.readings import pair_readings
from evaluator.metrics.gauge_above import GaugeAbove
from evaluator.records import Answer, Query, QueryKind, Role, Rule, Rulebook, Series
from evaluator.stats.shaping.readings import sum_up

query, start = Query("load{$selector}", QueryKind.GAUGE), datetime(2026, 1, 5, tzinfo=UTC)
at_ms, rng = (start.timestamp() + 15 * np.arange(121)) * 1000, np.random.default_rng(1)
answers = [
    Answer(query, arm, (query.text,), start, start + timedelta(minutes=30), 15, tuple(
        Series({}, f"{arm}-{k}", "", "value", float("nan"), at_ms.astype(int), rng.normal(100, 5, 121))
        for k in range(3)
    ))
    for arm in ("baseline", "canary")
]
readings = sum_up(answers, ("baseline", "canary"), 15)
rules = [Rule(f"above {level}", GaugeAbove(query=query.text, above=level), Role.WATCH) for level in (95, 105)]

def ask(*rules):
    return [(row.baseline.value, row.candidate.value) for row in pair_readings(readings, (), Rulebook(rules), "x@1")
        .measure().comparisons]

print(*(round(share, 2) for row in ask(*rules) for share in row), ask(*rules) == [*ask(rules[0]), *ask(rules[1])])
"""


def test_a_metric_of_readings_with_a_panel_of_its_own(changed):
    """Two rules that differ by an option answer together what each answers alone."""
    *shares, alike = changed.python("-c", READINGS).split()
    assert [float(share) for share in shares] == pytest.approx([0.84, 0.82, 0.08, 0.16])
    assert alike == "True"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("seconds: 7200", "metrics[1].seconds: must be from 1 to 3600, not 7200"),
        ("seconds: many", "metrics[1].seconds: must be a whole number, not 'many'"),
        ("role: watch", "metrics[1].seconds: is missing: goodput needs one, such as 60"),
        ("seconds: 60, quantile: 0.5", "metrics[1].quantile: is not taken by goodput"),
        ("seconds: 60, secnds: 60", "metrics[1].secnds: there is no key 'secnds'; did you mean 'seconds'?"),
    ],
)
def test_what_is_wrong_with_an_option_is_said_with_its_line(changed, tmp_path, options, says):
    policy = tmp_path / "evaluator.yaml"
    policy.write_text(POLICY.replace("seconds: 60, role: watch", f"{options}, margin: 5%"))
    assert f"{policy}:4: {says}" in changed.evaluator("--policy", str(policy), "policy", "check", code=2)


def test_a_method(judged, changed, tmp_path):
    """The verdict of the project as it is, on the same requests, has another mean."""
    as_it_is = Place(changed.folder, ROOT)
    policy = tmp_path / "evaluator.yaml"
    policy.write_text(OF_TREE.sub("", POLICY))
    words = ("--policy", str(policy), "verdict", "shop@1", "--dry-run", "--exit-zero", "--format", "json")
    before = find(json.loads(as_it_is.evaluator(*words))["metrics"], "name", "latency_mean")
    after = find(judged["metrics"], "name", "latency_mean")
    assert 0.9 * before["baseline"]["value"] < after["baseline"]["value"] < before["baseline"]["value"]


def test_a_health_check(judged):
    assert find(judged["health"], "check", "weekend")["text"].startswith("judged on ")


def test_a_report(judged, changed):
    lines = changed.evaluator("verdict", "shop@1", "--exit-zero", "--format", "lines").splitlines()
    assert [line.split("\t")[0] for line in lines] == [row["name"] for row in judged["metrics"]]


def test_a_source(changed):
    changed.import_tsung()


def test_a_hook(changed):
    assert changed.python("-c", HOOK_SAYS) == "rings the bell in room 4\n"


def test_a_page(changed):
    code = (
        "from streamlit.testing.v1 import AppTest\n"
        "import evaluator.ui, pathlib\n"
        "(place,) = [place for place, (_, said) in enumerate(evaluator.ui.PAGES) if said['title'] == 'Hello']\n"
        "page = f'from evaluator.ui import PAGES\\nPAGES[{place}][0]()'\n"
        "page = AppTest.from_string(page, default_timeout=60).run()\n"
        "print([one.value for one in page.title])\n"
        "app = pathlib.Path(evaluator.ui.__file__).parent.parent / 'starter' / 'app.py'\n"
        "print(len(AppTest.from_file(app, default_timeout=60).run().exception))\n"
    )
    assert changed.python("-W", "ignore", "-c", code).splitlines() == ["['Hello']", "0"]


def test_a_command(changed):
    assert "hello" in changed.evaluator("--help")
    assert changed.evaluator("hello", "--store", "mine.duckdb") == "hello mine.duckdb\n"


def test_a_strategy(changed):
    text = changed.evaluator("plan", "--rate", "30", "--plot", "plan.svg")
    assert len([line for line in text.splitlines() if line.strip().startswith("dark launch")]) == 1
    assert "dark launch" in (changed.folder / "plan.svg").read_text()


# ------------------------------------------------------------------ the document, and its rules


def test_every_place_that_is_named_is_there():
    for path in re.findall(r"`((?:evaluator|tests|docs|\.ci)/[\w./]+)`", TEXT):
        assert (ROOT / path).exists(), path
    for path, table in re.findall(r"\| in `(\w+)` of `([\w/.]+)`", TEXT):
        assert re.search(rf"^{path}: ", (ROOT / table).read_text(encoding="utf-8"), re.MULTILINE), table
    assert all((METRICS, CHECKS, FORMATS, SOURCES, HOOKS, COMMANDS))


def test_every_addition_has_an_example():
    examples = re.findall(r"^\| a.*?`(evaluator/[\w/]+)/<x>\.py`.*\| `(\w+\.py)` \|$", TEXT, re.MULTILINE)
    assert len(examples) == TEXT.count("/<x>.py`")
    for folder, example in examples:
        assert (ROOT / folder / example).exists(), example


def test_every_table_and_view_of_the_store_is_named():
    section = TEXT.split("## What is stored")[1].split("\n## ")[0]
    statements = "\n".join(statement for step in MIGRATIONS for statement in step)
    stored = {*re.findall(r"CREATE (?:TABLE|VIEW) store\.(\w+)", statements), *VIEWS}
    assert {name for name in stored if f"`{name}`" not in section} == set()


@pytest.mark.parametrize(("view", "schema"), [("requests", REQUEST_SCHEMA), ("readings", READING_SCHEMA)])
def test_the_columns_of_the_views_are_named(view, schema):
    (columns,) = re.findall(rf"^\| `{view}` \| (.*) \|$", TEXT, re.MULTILINE)
    assert re.findall(r"`(\w+)`", re.sub(r" \(.*?\)", "", columns)) == schema.names


def test_every_package_is_named():
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    packages = {name for layer in layers for name in layer.split(" | ")} - {"__main__"}
    table = TEXT.split("## The packages")[1].split("## How data flow")[0]
    assert packages <= set(re.findall(r"`(\w+)`", table))


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|    )make ([a-z-]+)", TEXT)) <= targets


MODULES = sorted((ROOT / "evaluator").rglob("*.py"))


LONGER: dict[str, str] = {}
"""Modules and functions beyond the limits (`evaluator/x.py`, `evaluator/x.py: name`) and why they read better whole."""


def measure_lengths():
    """Lines of each module (limit 500) and of each function without its docstring (limit 60)."""
    for path in MODULES:
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        yield name, len(text.splitlines()), 500
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if ast.get_docstring(node, clean=False) is not None:
                    lines -= node.body[0].end_lineno - node.body[0].lineno + 1
                yield f"{name}: {node.name}", lines, 60


def test_longer_modules_and_functions_have_a_reason():
    """An alarm: split what has two concerns; what reads better whole gets a line in `LONGER` with its reason."""
    longer = {name: lines for name, lines, limit in measure_lengths() if lines > limit}
    assert set(longer) == set(LONGER), f"give a reason in LONGER or split: {longer}"
    assert all(reason.count(" ") >= 3 for reason in LONGER.values())


def test_names_say_what_is_in_them():
    assert not {path.stem for path in MODULES} & {
        "utils",
        "util",
        "helpers",
        "helper",
        "manager",
        "handler",
        "misc",
        "common",
    }
