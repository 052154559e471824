"""Two thousand changed inputs of every kind: no command may end other than it promises. The checks notice if one does.

`benchmarks/fuzz.py` runs many more.
"""

from __future__ import annotations

import os
import random
import socket
import time
from dataclasses import replace

import pytest
from fuzz.answers import find_server
from fuzz.checking import Case, HangError, limit_time, list_objections
from fuzz.files import write_requests
from fuzz.run import KINDS, describe, run_case, run_cases
from fuzz.targets import ENVIRONMENT, list_targets, write_document
from hooks_world import make_context

import evaluator.__main__
from evaluator.cli.judging import JudgeOptions
from evaluator.hooks import HOOKS, check_hook, make_step, run_hook

SEED = 1
CASES = 2000
PART = 250


@pytest.mark.parametrize("first", range(0, CASES, PART))
def test_no_input_breaks_a_promise(first):
    tally = run_cases(range(first, first + PART), SEED)
    assert not tally.failures, describe(tally, SEED)


def test_every_kind_has_inputs_that_are_taken_and_inputs_that_are_refused():
    for kind in ("requests", "outcomes", "policy", "verdict", "prometheus", "hook"):
        codes = {code for _, code in run_cases(range(15), SEED, kind=kind).codes}
        assert 0 in codes, kind
        assert codes & {2, 4}, kind
    assert KINDS


def test_a_case_is_the_same_each_time():
    first, second = (run_cases(range(40), 3, kind="policy") for _ in range(2))
    assert first.codes == second.codes


# ------------------------------------------------------------------ what the checks notice


@pytest.fixture
def imported(tmp_path, monkeypatch) -> Case:
    """A case with a release that can be judged."""
    monkeypatch.chdir(tmp_path)
    case = Case(tmp_path)
    baseline, canary = write_requests(tmp_path)
    case.run(["import", "fuzz", "--baseline", str(baseline), "--canary", str(canary)], {0})
    assert not case.broken
    return case


def test_an_exit_code_that_is_not_the_verdict_is_noticed(imported, monkeypatch):
    assert imported.judge("fuzz").code == 3
    assert not imported.broken
    write = JudgeOptions.answer
    for wrong in (0, 1, 4):
        monkeypatch.setattr(JudgeOptions, "answer", lambda *args, wrong=wrong: write(*args) and wrong)
        imported.broken.clear()
        imported.judge("fuzz")
        assert f"exit code {wrong} with the verdict inconclusive" in imported.broken


def test_an_exit_code_without_a_verdict_is_noticed(tmp_path, monkeypatch):
    for code in (0, 1):
        monkeypatch.setattr(evaluator.__main__, "run", lambda _words, code=code: code)
        case = Case(tmp_path)
        case.judge("fuzz")
        assert case.broken == [f"exit code {code} without a verdict: "]


def test_an_error_of_ours_and_a_silent_one_are_noticed(tmp_path, monkeypatch):
    case = Case(tmp_path)
    monkeypatch.setattr("evaluator.policy.load_policy", lambda *_: 1 / 0)
    monkeypatch.setattr("evaluator.policy.selection.load_policy", lambda *_: 1 / 0)
    monkeypatch.chdir(tmp_path)
    case.run(["policy", "show"], {0, 2})
    assert any("bug in evaluator" in text for text in case.broken)
    assert any("exit code 4" in text for text in case.broken)
    monkeypatch.setattr(evaluator.__main__, "run", lambda _words: 2)
    silent = Case(tmp_path)
    silent.run(["policy", "show"], {0, 2})
    assert silent.broken == ["exit code 2 without an error: "]


def test_a_hang_is_noticed():
    began = time.monotonic()
    with pytest.raises(HangError), limit_time(0.1):
        time.sleep(5)
    assert time.monotonic() - began < 2


def test_a_connection_that_is_not_closed_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "leak", (lambda _rng, _case: repr(socket.socket()), 1))
    [broken] = run_case(random.Random(1), "leak", tmp_path).broken
    assert broken.startswith("a warning of a library: ResourceWarning: unclosed <socket")


def test_what_a_hook_reports_and_has_not_done_is_noticed(tmp_path, monkeypatch):
    for state, problem in (("acknowledged", "acknowledged, but the value is"), ("failed", "failed, but the value has")):

        def report(step, context, state=state):
            return replace(run_hook(step, context), state=state)

        monkeypatch.setattr("fuzz.hooks.run_hook", report)
        folders = [tmp_path / f"{state}-{number}" for number in range(120)]
        for number, folder in enumerate(folders):
            folder.mkdir()
            if any(problem in text for text in run_case(random.Random(number), "hook", folder).broken):
                break
        else:
            raise AssertionError(state)


def test_targets_of_hooks_are_changed_by_what_they_are_asked(tmp_path, monkeypatch):
    server, kinds = find_server(), set()
    monkeypatch.setattr("os.environ", {**os.environ, **ENVIRONMENT})
    for make_target in list_targets(server.port, tmp_path).values():
        target = make_target()
        server.answer = lambda request, target=target: write_document(target.act(request))
        server.protocol = target.protocol
        step = make_step(target.kind, target.options)
        assert check_hook(step, "promote").state == "acknowledged", target.kind
        outcome = run_hook(step, make_context())
        assert (outcome.state, target.read()) == ("acknowledged", target.wanted), outcome
        kinds.add(target.kind)
    # The target of `command` is any program, and `tcp` reads no answer.
    assert kinds == set(HOOKS) - {"command", "tcp"}, "add a target that acts to tests/fuzz/targets.py"


def test_every_format_of_requests_has_a_valid_file(tmp_path):
    from fuzz.files import make_files
    from fuzz.formats import FORMATS

    from evaluator.sources.files import SOURCES, plan_landing

    recognised = set()
    for name, form in FORMATS.items():
        path = tmp_path / f"{name}.{form.ending}"
        path.write_bytes(make_files(name)[0])
        columns = [text for text in form.options if "=" in text]
        recognised.add(plan_landing({"canary": [str(path)]}, columns=columns).files[0].layout.format)
    # Transactions are of a JTL that is read in another way.
    assert recognised | {"jtl-transactions"} == set(SOURCES), "add a writer to tests/fuzz/formats.py"


def test_a_wrong_go_is_noticed():
    gate = {"role": "gate", "name": "p95", "method": "quantiles", "status": "pass"}
    arm = {"name": "canary", "requests": 10}
    verdict = {"metrics": [gate], "health": [], "arms": [arm], "queries": []}
    assert list(list_objections(verdict)) == []
    for wrong, objection in (
        ({"metrics": []}, "nothing was compared"),
        ({"metrics": [{**gate, "status": "no_data"}]}, "the gate p95 is no_data"),
        ({"health": [{"check": "silence", "status": "fail", "text": "an arm is silent"}]}, "the check silence failed"),
        ({"arms": [{"name": "canary", "requests": 0}]}, "canary has no data"),
    ):
        assert any(objection in text for text in list_objections(verdict | wrong))


def test_changes_depend_on_the_seed_alone():
    from fuzz.mutators import mutate_bytes, mutate_document, mutate_table

    for mutate, valid in (
        (mutate_bytes, b"a,b\n1,2\n"),
        (mutate_table, "a,b\n1,2\n3,4\n"),
        (mutate_document, {"a": [1, {"b": 2}]}),
    ):
        drawn = [repr(mutate(random.Random(seed), valid)) for seed in range(30)]
        assert drawn == [repr(mutate(random.Random(seed), valid)) for seed in range(30)]
        assert len(set(drawn)) > 10
