import ast
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest

from evaluator.__main__ import run
from evaluator.policy import load_policy
from evaluator.sources.sample import start_arms, start_prometheus


def test_what_it_writes_changes_nothing(tmp_path, capfd):
    assert run(["init", str(tmp_path / "new" / "place")]) == 0
    out, err = capfd.readouterr()
    policy, locustfile = (tmp_path / "new" / "place" / name for name in ("evaluator.yaml", "locustfile.py"))
    assert out.splitlines() == [str(policy), str(locustfile)]
    assert "evaluator load" in err
    assert load_policy(policy).hash == load_policy().hash


def test_the_locustfile_is_one_that_locust_accepts(tmp_path):
    run(["init", str(tmp_path)])
    ast.parse((tmp_path / "locustfile.py").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", "locustfile.py", "--list"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Visitor" in done.stdout


def test_nothing_is_overwritten(tmp_path, capfd):
    (tmp_path / "evaluator.yaml").write_text("mine")
    assert run(["init", str(tmp_path)]) == 2
    assert "evaluator.yaml exists already" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["evaluator.yaml"]
    assert (tmp_path / "evaluator.yaml").read_text() == "mine"


def test_an_existing_locustfile_is_used(tmp_path, capfd):
    (tmp_path / "locustfile.py").write_text("mine")
    assert run(["init", str(tmp_path)]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines() == [str(tmp_path / "evaluator.yaml")]
    assert "locustfile.py exists already and was not changed" in err
    assert (tmp_path / "locustfile.py").read_text() == "mine"


def test_where_outcomes_have_landed_the_policy_judges_them(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"u{k},{'control' if k % 2 else 'new'},{k % 7 == 0:d},{k % 5}.5,{k % 3}\n" for k in range(2000))
    (tmp_path / "users.csv").write_text(f"user_id,variant,bought,amount,amount_pre\n{rows}")
    assert run(["import", "shop@2", "--outcomes", "users.csv"]) == 0
    assert "{name: bought, type: outcome_proportion, outcome: bought, margin: 1pp}" in capfd.readouterr().err
    assert run(["init"]) == 0
    assert capfd.readouterr().out == "evaluator.yaml\n"
    policy = load_policy(tmp_path / "evaluator.yaml")
    assert [(rule.name, rule.type, rule.metric.covariate_names) for rule in policy.rulebook.rules] == [
        ("bought", "outcome_proportion", ()),
        ("amount", "outcome_mean", ("amount_pre",)),
    ]
    assert policy.rulebook.sample_ratio == {"baseline": 0.5, "new": 0.5}
    assert run(["verdict", "shop@2"]) in {0, 1, 3}
    assert "bought" in capfd.readouterr().out
    assert run(["import", "shop@2", "--outcomes", "users.csv"]) == 0
    assert "no metric of outcomes" not in capfd.readouterr().err


def test_a_folder_that_is_a_file(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    assert run(["init", str(tmp_path / "file")]) == 2
    assert "is a file" in capfd.readouterr().err


def test_a_full_disk_is_reported(tmp_path):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "evaluator", "policy", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ},
            check=False,
        )
    assert done.returncode == 4
    assert done.stderr.decode() == "Error: No space left on device\n"


def test_what_a_metrics_server_has_becomes_a_policy(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    versions = [("baseline", "1.9", "none"), ("canary", "1.10", "none")]
    with (
        start_arms(versions, instances=2, leak_over_s=60, metrics=True) as arms,
        start_prometheus(arms, tmp_path / "prometheus") as server,
    ):
        assert seen_by(server, arms)
        assert run(["init", "--prometheus", server]) == 0
        out, err = capfd.readouterr()
        assert out == "evaluator.yaml\n"
        assert "found red-http at" in err
        policy = load_policy(tmp_path / "evaluator.yaml")
        assert policy.prometheus.selectors == {"baseline": 'arm="baseline"', "canary": 'arm="canary"'}
        assert {rule.name for rule in policy.rulebook.rules} >= {"http_failures", "http_mean"}
        assert run(["collect", "shop@2", "--from", "-20s"]) == 0
    assert run(["verdict", "shop@2"]) in {1, 3}
    assert "http" in capfd.readouterr().out


def seen_by(server, arms):
    """Send requests until the server has scraped both versions."""
    query = urllib.parse.urlencode({"query": "count(count by (arm) (http_requests_total))"})
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # they are still starting
            for url in (url for arm in arms for url in arm.urls):
                urllib.request.urlopen(f"{url}/products", timeout=5).read()
            with urllib.request.urlopen(f"{server}/api/v1/query?{query}", timeout=5) as answer:
                result = json.load(answer)["data"]["result"]
            if result and result[0]["value"][1] == "2":
                return True
        time.sleep(0.3)
    return False


@pytest.mark.parametrize(
    ("url", "says", "code"),
    [
        ("http://127.0.0.1:9", "127.0.0.1:9", 4),
        ("ftp://x", "must be an address such as", 2),
        ("http://ann:hunter2@127.0.0.1:9", "must not hold a password", 2),
    ],
)
def test_a_metrics_server_that_cannot_be_asked(tmp_path, capfd, monkeypatch, url, says, code):
    monkeypatch.chdir(tmp_path)
    assert run(["init", "--prometheus", url]) == code
    err = capfd.readouterr().err
    assert says in err
    assert "hunter2" not in err
    assert list(tmp_path.iterdir()) == []
