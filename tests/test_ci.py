"""The recipes for CI are executed: their shell, in directories and with variables like those of each CI."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from lxml import etree

from evaluator.__main__ import run

ROOT = Path(__file__).parent.parent
CI = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
BIN = Path(sys.executable).parent
START_US = 1_780_000_000_000_000
POLICY = """
metrics:
  - {name: failure_rate, type: failure_rate, role: gate, margin: 5pp}
  - {name: latency_p95, type: latency_quantile, quantile: 0.95, role: gate, margin: 40%}
  - {name: throughput, type: throughput, role: watch}
"""
VERDICTS = {"good": 0, "slow": 1, "thin": 3}
"""Release in the store → exit code of its verdict."""
TROUBLES = {"nobody": 2, "broken": 4}
"""Unknown release; a store that is none."""


def block(name: str) -> str:
    """A recipe of the document, by the comment that it starts with."""
    return re.search(rf"```\w+\n(?:#|//) {name}\n(.*?)```", CI, re.DOTALL)[1]


def write_requests(path: Path, *, slower: float, seed: int, n: int, repeat: int, seconds: int = 120) -> None:
    """Write the requests of one of several runs, between which lie five minutes."""
    random = np.random.default_rng(seed)
    start_us = START_US + repeat * (seconds + 300) * 1_000_000
    times = start_us + np.sort(random.integers(0, seconds * 1_000_000, n))
    columns = {
        "ts": pa.array(times, pa.timestamp("us", "UTC")),
        "endpoint": pa.array(np.where(random.random(n) < 0.7, "GET /a", "POST /b")),
        "response_time_ms": pa.array(slower * random.lognormal(3.0, 0.3, n)),
        "failed": pa.array(np.zeros(n, bool)),
    }
    pq.write_table(pa.table(columns), path)


@pytest.fixture(scope="module", autouse=True)
def no_compiling() -> Iterator[None]:
    """pip compiles all modules of what it installs, of which these tests import few."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PIP_NO_COMPILE", "1")
        yield


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as an earlier step leaves it: policy and store, with a release of every kind."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "evaluator.yaml").write_text(POLICY)
    requests = tmp_path_factory.mktemp("requests")
    for number, (release, slower, n) in enumerate([("good", 1.0, 6000), ("slow", 2.0, 6000), ("thin", 1.0, 6)]):
        files = []
        for arm, factor in (("baseline", 1.0), ("canary", slower)):
            for replicate in range(4):
                path = requests / f"{release}-{arm}-{replicate}.parquet"
                seed = 100 * number + 10 * replicate + (arm == "canary")
                write_requests(path, slower=factor, seed=seed, n=n, repeat=replicate)
                files += [f"--{arm}", str(path)]
        store = ["--store", str(folder / "evaluator.duckdb"), "-q"]
        assert run([*store, "import", release, *files, "--baseline-version", "1", "--canary-version", "2"]) == 0
    return folder


@pytest.fixture
def workspace(stored: Path, tmp_path: Path) -> Path:
    """A checkout of its own, with spaces in its name."""
    return Path(shutil.copytree(stored, tmp_path / "work space"))


def execute(
    shell: list[str], script: str, cwd: Path, env: dict[str, str], *, path: str | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a script in a clean environment."""
    given = {"PATH": path or f"{BIN}:/usr/bin:/bin", "HOME": str(cwd), "LANG": "C.UTF-8", "CI": "true", **env}
    file = cwd.parent / "script.sh"
    file.write_text(script, encoding="utf-8")
    return subprocess.run(
        [*shell, str(file)], cwd=cwd, env=given, capture_output=True, text=True, timeout=timeout, check=False
    )


def break_store(workspace: Path) -> None:
    (workspace / "evaluator.duckdb").write_bytes(b"not a database" * 1000)


def assert_reports(folder: Path) -> None:
    assert json.loads((folder / "verdict.json").read_text())["schema_version"] == 1
    etree.parse(folder / "junit.xml")


# ------------------------------------------------------------------ GitHub


def fill(text: str, inputs: dict[str, str]) -> str:
    """Replace `${{ inputs.x }}` as the runner does."""
    return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: inputs[found[1]], text)


def run_step(name: str, workspace: Path, **inputs: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Run a step of the action as the runner does, and read the outputs that it left."""
    step = next(step for step in ACTION["runs"]["steps"] if step["name"] == name)
    given = {key: spec.get("default", "") for key, spec in ACTION["inputs"].items()} | inputs
    temp = workspace.parent / "runner"
    temp.mkdir(exist_ok=True)
    env = {key: fill(value, given) for key, value in step["env"].items()}
    runner = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(workspace),
        "GITHUB_ACTION_PATH": str(ROOT),
        "RUNNER_TEMP": str(temp),
        **{f"GITHUB_{name}": str(temp / name) for name in ("OUTPUT", "STEP_SUMMARY", "PATH", "ENV")},
    }
    done = execute(["bash", "--noprofile", "--norc", "-eo", "pipefail"], step["run"], workspace, runner | env)
    return done, read_outputs(temp / "OUTPUT")


def read_outputs(path: Path) -> dict[str, str]:
    lines = iter(path.read_text(encoding="utf-8").splitlines() if path.exists() else ())
    found = {}
    for line in lines:
        name, _, delimiter = line.partition("<<")
        found[name] = "\n".join(iter(lambda: next(lines), delimiter))
    return found


@pytest.mark.parametrize(("release", "code"), VERDICTS.items())
def test_the_action_judges_and_says_so(workspace, release, code):
    done, outputs = run_step("Judge", workspace, release=release)
    assert done.returncode == code, done.stderr
    assert outputs["verdict"] == {0: "go", 1: "no_go", 3: "inconclusive"}[code]
    assert outputs["reason"]
    assert outputs["report"] == "evaluator-reports/verdict.md"
    assert (workspace / outputs["report"]).is_file()
    assert set(outputs) == set(ACTION["outputs"])
    assert done.stdout.startswith({0: "::notice ", 1: "::error ", 3: "::warning "}[code])
    assert f"{release} against 1" in done.stdout
    assert (workspace.parent / "runner" / "STEP_SUMMARY").read_text(encoding="utf-8").startswith("## ")
    assert_reports(workspace / "evaluator-reports")


def test_the_action_fails_without_a_verdict(workspace):
    done, outputs = run_step("Judge", workspace, release="nobody")
    assert (done.returncode, outputs) == (2, {})
    assert "Error: there is no release 'nobody'" in done.stderr
    break_store(workspace)
    done, outputs = run_step("Judge", workspace, release="good")
    assert (done.returncode, outputs) == (4, {})


@pytest.mark.parametrize(("fail_on", "code"), [("no-go", 0), ("", 0), ("inconclusive", 3)])
def test_the_action_fails_as_it_is_told(workspace, fail_on, code):
    done, outputs = run_step("Judge", workspace, release="thin", **{"fail-on": fail_on})
    assert done.returncode == code
    assert outputs["verdict"] == "inconclusive"


def test_an_input_is_never_taken_for_shell_or_an_option(workspace):
    for release in ("$(touch owned)", "; touch owned", '"; touch owned; "', "--help", "`touch owned`"):
        done, _ = run_step("Judge", workspace, release=release, reports=release)
        assert done.returncode != 0
        assert "there is no release" in done.stderr
    assert not list(workspace.rglob("owned"))
    assert all("${{" not in step["run"] for step in ACTION["runs"]["steps"])


def test_an_older_report_is_not_shown_for_a_newer_verdict(workspace):
    assert run_step("Judge", workspace, release="good")[0].returncode == 0
    assert "GO ✓" not in run_step("Judge", workspace, release="nobody")[0].stdout


def test_the_action_takes_a_policy_and_a_store_elsewhere(workspace):
    (workspace / "other").mkdir()
    (workspace / "other" / "policy.yaml").write_text(POLICY + "mode: shadow\n")
    store = shutil.move(workspace / "evaluator.duckdb", workspace / "other" / "evaluator.duckdb")
    for name in ("evaluator.control.sqlite", "evaluator.data"):
        shutil.move(workspace / name, workspace / "other" / name)
    done, outputs = run_step("Judge", workspace, release="slow", policy="other/policy.yaml", store=str(store))
    assert (done.returncode, outputs["verdict"]) == (0, "no_go"), done.stderr


def test_the_workflow_of_the_document_names_inputs_and_outputs_that_exist():
    steps = yaml.safe_load(block("github"))
    assert set(steps[0]["with"]) <= set(ACTION["inputs"])
    named = re.findall(r"`(?:steps\.gate\.outputs)?\.?(verdict|reason|report)`", CI)
    assert set(named) == set(ACTION["outputs"])
    assert steps[1]["with"]["path"] == ACTION["inputs"]["reports"]["default"]


# ------------------------------------------------------------------ GitLab


@pytest.mark.parametrize(("release", "code"), {**VERDICTS, **TROUBLES}.items())
def test_the_job_of_gitlab_ends_as_the_document_says(workspace, release, code):
    (job,) = yaml.safe_load(block("gitlab")).values()
    env = {"CI_PROJECT_DIR": str(workspace), "GITLAB_CI": "true", "RELEASE": release}
    env |= {key: value.replace("$CI_PROJECT_DIR", str(workspace)) for key, value in job["variables"].items()}
    if release == "broken":
        break_store(workspace)
    done = execute(["bash", "-eo", "pipefail"], "\n".join(job["script"]), workspace, env)
    assert done.returncode == code, done.stderr
    outcome = "passed" if code == 0 else "warning" if code in job["allow_failure"]["exit_codes"] else "failed"
    assert outcome == {0: "passed", 3: "warning"}.get(code, "failed")
    reports = job["artifacts"]["reports"]
    assert all((workspace / path).is_file() == (release in VERDICTS) for path in reports.values())
    if release in VERDICTS:
        assert_reports(workspace / "evaluator-reports")
        assert (workspace / reports["metrics"]).read_text().endswith("# EOF\n")
        load = json.loads((workspace / reports["load_performance"]).read_text())
        assert ("http_reqs" in load["metrics"]) == (release != "thin")  # too few requests to say how many a second
        assert (load["metrics"]["checks"]["fails"] == 0) == (code == 0)


# ------------------------------------------------------------------ Jenkins


def test_the_stage_of_jenkins_names_what_the_codes_mean():
    cases = re.findall(r"(case (\d)|default): (\w+)", block("jenkins"))
    assert [(code or "else", action) for _, code, action in cases] == [
        ("0", "break"),
        ("3", "unstable"),
        ("else", "error"),
    ]


@pytest.mark.parametrize(("release", "code"), {**VERDICTS, **TROUBLES}.items())
def test_the_shell_of_jenkins_ends_with_the_code_of_the_verdict(workspace, release, code):
    script = re.search(r"sh\(returnStatus: true, script: '''\n(.*?)'''\)", block("jenkins"), re.DOTALL)[1]
    # Groovy takes the backslash before a newline for its own, and joins the lines.
    script = script.replace("\\\n", "")
    (workspace / "evaluator-reports").mkdir()
    (workspace / "evaluator-reports" / "junit.xml").write_text("of an earlier build")
    if release == "broken":
        break_store(workspace)
    env = {"WORKSPACE": str(workspace), "JENKINS_HOME": "/var/jenkins", "RELEASE": release}
    done = execute(["sh", "-xe"], script, workspace, env)
    assert done.returncode == code, done.stderr
    if release in VERDICTS:
        assert_reports(workspace / "evaluator-reports")
    else:
        assert not list((workspace / "evaluator-reports").iterdir())


# ------------------------------------------------------------------ the image, and Argo Rollouts


def read_dockerfile() -> list[tuple[str, str]]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line]


class Image:
    """What the Dockerfile would make, in a folder: each stage is executed there, with its paths moved below it."""

    arguments: ClassVar = {"VERSION": "1.4.0"}

    def __init__(self, folder: Path) -> None:
        self.folder, self.env = folder, {}
        self.cwd, self.user, self.entrypoint, self.command = "/", "root", [], []
        for directory in ("opt", "src", "tmp"):
            (folder / directory).mkdir(parents=True)

    def move(self, text: str) -> str:
        return re.sub(r"(?<![\w/])/(?=(?:opt|src|judged)\b)", f"{self.folder}/", text)

    def build(self) -> None:
        for instruction, rest in read_dockerfile():
            getattr(self, f"do_{instruction.lower()}")(rest)

    def do_from(self, rest: str) -> None:
        assert rest.startswith("python:3.13-slim")
        self.cwd = "/"

    def do_arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        self.env[name] = self.arguments.get(name, value.strip('"'))

    def do_workdir(self, rest: str) -> None:
        self.cwd = rest

    def do_user(self, rest: str) -> None:
        self.user = rest

    def do_env(self, rest: str) -> None:
        for word in shlex.split(rest):
            name, _, value = word.partition("=")
            self.env[name] = self.move(value).replace("$PATH", "/usr/bin:/bin")

    def do_copy(self, rest: str) -> None:
        *sources, target = rest.split()
        if sources[0].startswith("--from="):
            assert sources[1] == target  # the stages share the folder: it is there already
            return
        for source in sources:
            to = self.folder / self.cwd.lstrip("/") / target
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, to)

    def do_run(self, rest: str) -> None:
        done = self.execute(self.move(rest))
        assert done.returncode == 0, done.stderr

    def do_entrypoint(self, rest: str) -> None:
        self.entrypoint = [self.move(word) for word in json.loads(rest)]

    def do_cmd(self, rest: str) -> None:
        self.command = json.loads(rest)

    def execute(self, script: str) -> subprocess.CompletedProcess[str]:
        cwd = Path(self.move(self.cwd)) if self.cwd != "/" else self.folder / "tmp"
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP", "XDG_"))}
        path = f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin"
        env = {"PATH": path, "HOME": str(self.folder / "tmp"), **kept, **self.env}
        return subprocess.run(
            ["sh", "-c", script], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
        )

    def start(self, cwd: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [*self.entrypoint, *(args or self.command)]
        return subprocess.run(
            command, cwd=cwd, env={**self.env, **env}, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    image = Image(tmp_path_factory.mktemp("image"))
    image.build()
    return image


def test_the_image_says_what_it_can_do(image):
    done = image.start(image.folder / "judged")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: evaluator")
    assert image.env["HOME"] == str(image.folder / "judged")
    assert image.start(image.folder / "judged", "--version").stdout == "evaluator 1.4.0\n"


def test_the_image_is_small_and_runs_as_nobody(image):
    assert image.user == "10001:10001"
    assert (image.folder / "judged").stat().st_mode & 0o7777 == 0o1777
    installed = {path.name.split("-")[0].lower() for path in image.folder.glob("opt/**/*.dist-info")}
    assert {"release_evaluator", "duckdb"} <= installed
    assert not {"locust", "streamlit", "pandas", "pytest", "altair"} & installed
    assert not (image.folder / "src" / "tests").exists()


def test_what_the_image_needs_of_the_sources_is_not_ignored():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for name, rest in read_dockerfile() if name == "COPY" for word in rest.split()[:-1]}
    assert {word for word in copied if not word.startswith(("--", "/"))} == kept


@pytest.mark.parametrize(("release", "code"), {**VERDICTS, **TROUBLES}.items())
def test_the_job_of_argo_is_successful_only_on_go(image, workspace, release, code):
    job = yaml.safe_load(block("argo"))["spec"]["metrics"][0]["provider"]["job"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert pod["securityContext"]["fsGroup"] == int(image.user.split(":")[1])
    if release == "broken":
        break_store(workspace)
    args = [word.replace("{{args.release}}", release) for word in container["args"]]
    env = {entry["name"]: entry["value"].replace("/judged", str(workspace)) for entry in container["env"]}
    done = image.start(workspace, *args, **env)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_the_action_installs_what_it_is_checked_out_at(workspace, monkeypatch):
    step = next(step for step in ACTION["runs"]["steps"] if step["name"] == "Install evaluator")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.setitem(step["env"], name, os.environ[name])
    done, _ = run_step("Install evaluator", workspace)
    assert done.returncode == 0, done.stderr
    made = workspace.parent / "runner" / "evaluator" / "bin"
    assert (workspace.parent / "runner" / "PATH").read_text().strip() == str(made)
    done = subprocess.run(
        [made / "evaluator", "verdict", "good"], cwd=workspace, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_version_that_is_named_is_the_one_that_is_asked_for(workspace, tmp_path):
    """With a Python that only says what it would do."""
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "python3").write_text(
        '#!/bin/sh\nmkdir -p "$3/bin"\nprintf "#!/bin/sh\\necho \\"\\$@\\"\\n" > "$3/bin/python"\n'
        'chmod +x "$3/bin/python"\n'
    )
    (fake / "python3").chmod(0o755)
    step = next(step for step in ACTION["runs"]["steps"] if step["name"] == "Install evaluator")
    env = {"VERSION": "1.2.3", "RUNNER_TEMP": str(tmp_path), "GITHUB_PATH": str(tmp_path / "PATH")}
    done = execute(["bash", "-eo", "pipefail"], step["run"], workspace, env, path=f"{fake}:/usr/bin:/bin")
    assert done.stdout.split()[-1] == "release-evaluator==1.2.3"
    assert step["if"] == "inputs.version != 'none'"


# ------------------------------------------------------------------ pre-commit


def test_the_hook_checks_every_policy_that_is_committed(workspace):
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    (repository,) = yaml.safe_load(block("pre-commit"))["repos"]
    assert [given["id"] for given in repository["hooks"]] == [hook["id"]]
    names = ["evaluator.yaml", "a/evaluator.yml", "my-evaluator.yaml", "evaluator.yaml.j2", "a/b/evaluator.yaml"]
    assert [bool(re.search(hook["files"], name)) for name in names] == [True, True, False, False, True]
    (workspace / "bad").mkdir()
    (workspace / "bad" / "evaluator.yaml").write_text("metrics:\n  - {nam: x}\n")
    command = shlex.split(hook["entry"])
    for files, code in ((["evaluator.yaml"], 0), (["evaluator.yaml", "bad/evaluator.yaml"], 2)):
        done = subprocess.run(
            [BIN / command[0], *command[1:], *files], cwd=workspace, capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        assert done.stdout.startswith("evaluator.yaml: ok; gates: failure_rate")
    assert "bad/evaluator.yaml:2" in done.stderr


# ------------------------------------------------------------------ the document


def test_every_format_is_explained():
    from evaluator.reports import FORMATS

    table = CI.split("## Formats")[1].split("\n## ")[0]
    assert all(f"\n| `{name}` |" in table for name in FORMATS)
