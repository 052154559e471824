"""Changed and broken answers of the targets of hooks: what a hook reports must be so."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from evaluator.hooks import (
    HookContext,
    Outcome,
    Step,
    check_hook,
    describe_current,
    find_obstacle,
    make_step,
    run_hook,
    undo_hook,
)
from evaluator.hooks.base import Action
from fuzz.answers import change_answer, find_server, write_answer
from fuzz.checking import Case
from fuzz.mutators import mutate_bytes, mutate_document
from fuzz.targets import ENVIRONMENT, NGINX_ARGUMENTS, SECRET, Target, list_targets, write_document


def fuzz_hook(rng: random.Random, case: Case) -> None:
    """Change or break answers of a hook's target, and execute the hook: it must say what it knows of the target."""
    server = find_server()
    name, make_target = rng.choice(list(list_targets(server.port, case.folder).items()))
    target = make_target()
    is_broken = rng.random() < 0.4
    server.answer, server.protocol = _make_answer(rng, target, is_broken=is_broken), target.protocol
    if target.kind == "nginx":
        _break_nginx(rng, case.folder, is_broken=is_broken)
    case.commands.append(f"hook {name}, {'broken' if is_broken else 'changed'}")
    with (
        mock.patch.dict("os.environ", ENVIRONMENT),
        mock.patch("evaluator.hooks.webhook._wait_longer", return_value=0.01),
    ):
        step = make_step(target.kind, target.options)
        way = rng.choice((_execute, _execute, _execute, _test, _show))
        way(rng, case, step, target, is_broken)


def _execute(rng: random.Random, case: Case, step: Step, target: Target, is_broken: bool) -> None:
    """Execute a hook, and sometimes undo it. If answers only break off, what it reports of the target is true."""
    context, before = _make_context(rng.choice(("promote", "promote", "promote", "rollback"))), target.read()
    outcome = run_hook(step, context)
    _check(case, outcome)
    if is_broken:
        _compare(case, target, outcome, before, context.action)
    if rng.random() < 0.4:
        earlier = outcome.earlier if is_broken or rng.random() < 0.6 else mutate_document(rng, outcome.earlier)
        undone = undo_hook(step, context, earlier)
        _check(case, undone)
        step.hook.describe_value(earlier)
        is_value = target.kind not in ("webhook", "http", "notify")
        if is_broken and is_value and undone.state == "acknowledged" and target.read() != before:
            case.break_promise(f"undone, but the value is {target.read()!r}: {undone.did}")


def _compare(case: Case, target: Target, outcome: Outcome, before: Any, action: Action) -> None:
    """Compare what a hook reports with its target."""
    after = target.read()
    if outcome.state == "acknowledged" and after != target.wanted:
        case.break_promise(f"acknowledged, but the value is {after!r}: {outcome.did}")
    # On the way back as much is set as possible, and the rest is named. A message may be sent twice, so a notification
    # that may have arrived is reported as failed.
    is_all_or_nothing = action == "promote" and target.kind != "notify"
    if outcome.state == "failed" and after != before and is_all_or_nothing:
        case.break_promise(f"failed, but the value has become {after!r}: {outcome.did}")


def _test(rng: random.Random, case: Case, step: Step, target: Target, is_broken: bool) -> None:
    """Test a hook, which must change nothing."""
    before = target.read()
    _check(case, check_hook(step, rng.choice(("promote", "rollback", "hold"))))
    if target.read() != before:
        case.break_promise(f"a test has changed the value to {target.read()!r}")


def _show(_rng: random.Random, case: Case, step: Step, target: Target, is_broken: bool) -> None:
    """Show what a hook would change, which must change nothing."""
    before = target.read()
    for show in (describe_current, find_obstacle):
        _check_text(case, show(step, _make_context()))
    if target.read() != before:
        case.break_promise(f"the value has become {target.read()!r}")
    case.codes.append(0)


def _make_context(action: Action = "promote") -> HookContext:
    return HookContext(
        release="cart@1", action=action, verdict="go", verdict_hash="sha256:5a", baseline="1", canary="2",
        requester="ann", reason="why", idempotency_key="key", expires_at=datetime.now(UTC) + timedelta(seconds=1.5),
    )  # fmt: skip


def _check(case: Case, outcome: Outcome) -> None:
    if outcome.state not in ("acknowledged", "failed", "unknown"):
        case.break_promise(f"the state {outcome.state}")
    if not outcome.did.strip():
        case.break_promise(f"no sentence: {outcome}")
    _check_text(case, outcome.did)
    if SECRET in repr(outcome):
        case.break_promise("a secret in the outcome")
    case.codes.append({"acknowledged": 0, "failed": 4}.get(outcome.state, 3))


def _check_text(case: Case, text: str) -> None:
    if "unexpected" in text or "Traceback" in text:
        case.break_promise(text)


# ------------------------------------------------------------------ answers


def _make_answer(rng: random.Random, target: Target, *, is_broken: bool) -> Callable[[bytes], bytes]:
    """Make what answers requests: from some request on, answers are broken off or changed."""
    is_right_before = rng.choice((0, 0, 1, 2, 3, 4, 6))
    asked = 0

    def answer(request: bytes) -> bytes:
        nonlocal asked
        asked += 1
        if asked <= is_right_before or (is_broken and rng.random() < 0.3):
            return write_document(target.act(request))
        if is_broken:
            return _break_off(rng, target, request)
        document = target.act(request)
        return mutate_bytes(rng, document) if isinstance(document, bytes) else change_answer(rng, document)

    return answer


def _break_off(rng: random.Random, target: Target, request: bytes) -> bytes:
    """Answer as a server that breaks down, before it acts or afterwards; what it says is true."""
    match rng.randrange(5):
        case 0:
            return b""
        case 1:
            return write_answer(b"later", "503 Later") if target.protocol == "http" else b""
        case 2:
            target.act(request)
            return b""
        case 3:
            target.act(request)
            return write_answer(b"lost", "500 Lost") if target.protocol == "http" else b""
        case _:
            whole = write_document(target.act(request))
            return whole[: rng.randrange(len(whole))]


def _break_nginx(rng: random.Random, folder: Path, *, is_broken: bool) -> None:
    """Change nginx's file, or let the program end with an error."""
    if is_broken or rng.random() < 0.3:
        (folder / rng.choice(NGINX_ARGUMENTS)).write_text(rng.choice(("0", "1", "1")))
    if not is_broken:
        file = folder / "shop.conf"
        file.write_bytes(mutate_bytes(rng, file.read_bytes()))
