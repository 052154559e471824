"""Judge the golden inputs: `python -m golden.run --out DIR [--evaluator CHECKOUT]`, in the folder `tests`.

Each input is prepared in a folder of its own, its commands are run in this process as the command line would, and what
they gave is written to DIR as JSON, one file an input. With `--evaluator` another checkout judges the same inputs.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fnmatch
import hashlib
import io
import json
import logging
import multiprocessing
import os
import re
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import click

from golden.inputs import Input, list_inputs
from golden.server import serving

ENVIRONMENT = {"COLUMNS": "120", "NO_COLOR": "1", "TZ": "UTC", "CI": "1"}
"""What a terminal and a machine would have a say in."""

MOST_IDS = 10_000

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Folders are made where nothing waits for a disk."""

KEPT = Path(__file__).parent / "kept"

_UNSTABLE: tuple[tuple[re.Pattern[str], str], ...] = (
    # The id of a run has the time at which it landed; those of recordings are as old as their requests.
    (re.compile(r"\b(?!20260302T)20\d{6}T\d{6}Z-[0-9a-f]{6}\b"), "<run>"),
    # Versions of the program: 1.4.1.dev3+g0a1b2c3d4.dirty
    (re.compile(r"\b\d+\.\d+\.\d+(?:\.dev\d+)?\+g[0-9a-f]{9}(?:\.dirty)?"), "<version>"),
    # The delimiter of outputs of GitHub is random.
    (re.compile(r"\bevaluator_[0-9a-f]{32}\b"), "<delimiter>"),
)
_NOW = re.compile(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00| UTC)?")
"""Moments; those of today are told apart from those of the data, which lie in another month."""

_DATA = re.compile(r"data:text/csv;base64,([\w+/=]+)")
"""Downloads inside of a report, which have ids of runs."""

_TAGS = re.compile(r"<(style|svg)\b.*?</\1>|<[^>]+>", re.DOTALL)


def main() -> int:
    options = _read_options()
    if options.evaluator:
        sys.path.insert(0, str(options.evaluator.resolve()))
    if options.keep:
        return _keep()
    patterns = [f"*{part}*" for part in options.only or ("",)]
    chosen = [one for one in list_inputs() if any(fnmatch.fnmatch(one.name, pattern) for pattern in patterns)]
    chosen = chosen[:: max(1, len(chosen) // options.sample)] if options.sample else chosen
    began = time.monotonic()
    import evaluator

    click.echo(f"{len(chosen)} inputs, judged by {Path(evaluator.__file__).parent}")
    options.out.mkdir(parents=True, exist_ok=True)
    slowest = []
    for name, result, seconds in _run_all([one.name for one in chosen], options.processes):
        path = options.out / f"{name.replace('/', '__')}.json"
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
        slowest.append((seconds, name))
    click.echo(f"{len(chosen)} inputs in {time.monotonic() - began:.0f} s; in {options.out}")
    click.echo(
        "slowest: " + ", ".join(f"{name} {seconds:.1f} s" for seconds, name in sorted(slowest, reverse=True)[:5])
    )
    return 0


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m golden.run", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("golden-out"), metavar="DIR", help="where to write")
    parser.add_argument("--evaluator", type=Path, metavar="CHECKOUT", help="judge by this checkout of the project")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="inputs whose name has it; may be repeated")
    parser.add_argument("-j", "--processes", type=int, default=2, metavar="N")
    parser.add_argument("--sample", type=int, metavar="N", help="about so many of them, evenly chosen")
    parser.add_argument("--keep", action="store_true", help="renew tests/golden/kept; say in the commit why")
    return parser.parse_args()


def _run_all(names: Sequence[str], processes: int) -> Iterator[tuple[str, dict[str, Any], float]]:
    if processes < 2:
        yield from map(_run_named, names)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=None) as pool:
        yield from pool.map(_run_named, names, chunksize=4)


def _run_named(name: str) -> tuple[str, dict[str, Any], float]:
    began = time.monotonic()
    found = next(one for one in list_inputs() if one.name == name)
    return name, run_input(found), time.monotonic() - began


def run_input(one: Input) -> dict[str, Any]:
    """Run the commands of an input in a fresh folder: what each said, wrote and ended with."""
    with tempfile.TemporaryDirectory(prefix="golden-", dir=MEMORY) as place, contextlib.ExitStack() as stack:
        folder = Path(place).resolve()
        one.prepare(folder)
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(_same_surroundings())
        if one.metrics:
            stack.enter_context(serving(one.metrics()))
        result = {"input": one.name, "calls": [_call(words, folder) for words in one.calls]}
        return hide_data_hashes(result) if one.metrics else result


def hide_data_hashes(result: dict[str, Any]) -> dict[str, Any]:
    """Take out the hashes of the data: files of readings have the id of their run, and that has the time."""
    verdicts = [call["files"].get("verdict.json") for call in result["calls"]]
    text = json.dumps(result, ensure_ascii=False)
    for verdict in verdicts:
        if isinstance(verdict, dict):
            text = text.replace(verdict["data_hash"], "<data>")
    return json.loads(text)


@contextlib.contextmanager
def _same_surroundings() -> Iterator[None]:
    """The same environment and time zone for every input, no log handler that is left over, and ids that sort.

    Ids of runs that land within one second would be in another order each time.
    """
    handlers = list(logging.root.handlers)
    ids = [uuid.UUID(int=number << 104) for number in range(1, MOST_IDS)]
    with mock.patch.dict(os.environ, ENVIRONMENT), mock.patch("uuid.uuid4", side_effect=ids):
        time.tzset()
        yield
    time.tzset()
    logging.root.handlers[:] = handlers


def _call(words: Sequence[str], folder: Path) -> dict[str, Any]:
    from evaluator.__main__ import run

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n") for _ in range(2))
    began = time.time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.root.handlers.clear()
        code = run(list(words))
    settle = _make_settle(folder, began)
    files = {}
    for path in sorted((folder / "out").iterdir()):
        files[path.name] = _read(path, settle)
        path.unlink()
    return {
        "call": " ".join(words),
        "code": code,
        "stdout": _parse(settle(_text(out))),
        "stderr": settle(_text(err)),
        "files": files,
    }


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined]


def _make_settle(folder: Path, began: float) -> Callable[[str], str]:
    """What takes out of a text that is another one each time: folder, run ids, version, moments of the judging."""
    from evaluator.version import find_version

    today = {time.strftime("%Y-%m-%d", time.gmtime(began + shift)) for shift in (-60, 0, 60)}

    def settle(text: str) -> str:
        text = text.replace(str(folder), "<folder>").replace(find_version(), "<version>")
        for pattern, name in _UNSTABLE:
            text = pattern.sub(name, text)
        return _NOW.sub(lambda found: "<now>" if found[0][:10] in today else found[0], text)

    return settle


def _parse(text: str) -> Any:
    """JSON as what it says, anything else as it is."""
    if text.startswith(("{", "[")):
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return text


def _read(path: Path, settle: Callable[[str], str]) -> Any:
    text = settle(_DATA.sub(lambda found: base64.b64decode(found[1]).decode(), path.read_text(encoding="utf-8")))
    if path.suffix == ".html":
        words = " ".join(_TAGS.sub(" ", text).split())
        return {"text": words, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return _parse(text)


# ------------------------------------------------------------------ those that are kept


def verdicts_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Exit code, verdict and what went wrong of each command: what is kept in the repository."""
    return [{"call": call["call"], "code": call["code"], **_keep_call(call)} for call in result["calls"]]


def _keep_call(call: dict[str, Any]) -> dict[str, Any]:
    verdict = call["files"].get("verdict.json")
    if "--dry-run" in call["call"]:  # the same once more, for its figures
        return {}
    if isinstance(verdict, dict):
        # The effective policy is in the input, the hash of the data depends on the version of pyarrow.
        dropped = ("policy", "policy_hash", "data_hash", "evaluator_version", "judged_at", "schema_version", "figures")
        return {"verdict": {key: value for key, value in verdict.items() if key not in dropped}}
    return {"said": call["stderr"]} if call["code"] else {}


def _keep() -> int:
    KEPT.mkdir(exist_ok=True)
    for name in kept_names():
        found = next(one for one in list_inputs() if one.name == name)
        text = json.dumps(verdicts_of(run_input(found)), ensure_ascii=False, separators=(",", ":"))
        (KEPT / f"{name.replace('/', '__')}.json").write_text(text + "\n", encoding="utf-8")
        click.echo(name)
    return 0


def kept_names() -> tuple[str, ...]:
    """Inputs whose verdicts are kept."""
    from golden.kept_inputs import KEPT_INPUTS

    return KEPT_INPUTS


if __name__ == "__main__":
    sys.exit(main())
