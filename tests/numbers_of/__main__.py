"""Write the reference numbers anew: `cd tests; ../.venv/bin/python -m numbers_of > stats/numbers.json`."""

from __future__ import annotations

import json
import sys

from numbers_of import CASES
from numbers_of.fields import list_fields, pack


def write(value: object) -> str:
    """JSON in few characters: files of numbers grow."""
    return json.dumps(_shorten(value), ensure_ascii=False, separators=(",", ":"))


def _shorten(value: object) -> object:
    """1 for 1.0, wherever it stands."""
    if isinstance(value, dict):
        return {key: _shorten(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_shorten(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e9 else value


if __name__ == "__main__":
    file = pack({name: list_fields(case()) for name, case in CASES.items()})
    fields = ",\n".join(write(kind) for kind in file["fields"])
    cases = ",\n".join(f"{write(name)}:{write(rows)}" for name, rows in file["cases"].items())
    sys.stdout.write(f'{{"fields":[\n{fields}\n],"cases":{{\n{cases}\n}}}}\n')
