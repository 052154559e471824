"""`evaluator init`: something to start from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from evaluator.cli import Session, emit
from evaluator.errors import InputError

STARTERS = {"evaluator.yaml": "evaluator.yaml", "locustfile.py": "locustfile.py.template"}
"""File that is written → file in the package."""


@click.command("init")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.pass_obj
def command(session: Session, folder: Path) -> None:
    """Write a commented evaluator.yaml and a locustfile to DIR (default: here).

    Files that exist are never overwritten.
    """
    taken = [name for name in STARTERS if (folder / name).exists()]
    if taken:
        raise InputError(f"{folder / taken[0]} exists already; nothing was written", hint="choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    starter = files("evaluator") / "starter"
    for name, source in STARTERS.items():
        with (folder / name).open("x", encoding="utf-8") as file:
            file.write((starter / source).read_text(encoding="utf-8"))
        emit(str(folder / name))
    session.say("next: evaluator load RELEASE --baseline URL --canary URL --locustfile locustfile.py")
