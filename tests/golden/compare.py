"""Compare two folders of golden.run: `python -m golden.compare DIR_A DIR_B`. Exit code 1 where anything differs.

Texts must be the same, numbers within 1e-9 of each other. DIR_B may have a part of the inputs only.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

TOLERANCE = 1e-9
SHOWN = 5
"""Differences shown of one kind, and characters of a text around the place where it differs."""
AROUND = 60

Difference = tuple[str, Any, Any]
"""Where in the JSON, and what is there on either side."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m golden.compare", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--summary", action="store_true", help="count the verdicts, metrics and findings of one folder")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of numbers, relative; absolute near 0")
    parser.add_argument("--all", action="store_true", help="show every difference")
    options = parser.parse_args()
    if options.summary:
        click.echo("\n".join(summarise(options.folders[-1])))
        return 0
    if len(options.folders) != 2:
        parser.error("two folders are compared")
    return _compare(*options.folders, options.tolerance, sys.maxsize if options.all else SHOWN)


def _compare(first: Path, second: Path, tolerance: float, shown: int) -> int:
    names = [{path.name for path in folder.glob("*.json")} for folder in (first, second)]
    for folder, lost in ((second, names[0] - names[1]), (first, names[1] - names[0])):
        if lost:
            click.echo(f"{len(lost)} inputs are not in {folder}: {', '.join(sorted(lost)[:shown])}")
    both = sorted(names[0] & names[1])
    groups: dict[str, list[tuple[str, str, Any, Any]]] = defaultdict(list)
    differing = set()
    for name in both:
        a, b = (json.loads((folder / name).read_text(encoding="utf-8")) for folder in (first, second))
        for where, one, other in find_differences(a, b, tolerance):
            groups[_kind_of(where)].append((name.removesuffix(".json"), where, one, other))
            differing.add(name)
    for kind, found in sorted(groups.items(), key=lambda item: -len(item[1])):
        click.echo(f"\n{kind}: {len(found)} in {len({one[0] for one in found})} inputs")
        for name, where, one, other in found[:shown]:
            click.echo(f"  {name}  {where}\n    - {_show(one, other)}\n    + {_show(other, one)}")
    click.echo(f"\n{len(both)} inputs compared, {len(differing)} differ")
    return int(bool(differing or names[1] - names[0] or not both))


def find_differences(one: Any, other: Any, tolerance: float = TOLERANCE, where: str = "") -> Iterator[Difference]:
    """Every place in which two values of JSON differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys((*one, *other)):
            if key not in one or key not in other:
                yield f"{where}.{key}", one.get(key, "(nothing)"), other.get(key, "(nothing)")
            else:
                yield from find_differences(one[key], other[key], tolerance, f"{where}.{key}")
        if one.keys() == other.keys() and list(one) != list(other):
            yield f"{where} (order)", list(one), list(other)
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield f"{where} (length)", len(one), len(other)
        for place, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from find_differences(a, b, tolerance, f"{where}[{place}]")
    elif not _same(one, other, tolerance):
        yield where, one, other


def _same(one: Any, other: Any, tolerance: float) -> bool:
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)]
    if not all(numbers):
        return type(one) is type(other) and one == other
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)


def _kind_of(where: str) -> str:
    """The place without numbers of lists: differences of one kind are shown together."""
    return "".join(part.split("]", 1)[-1] if k else part for k, part in enumerate(where.split("[")))


def _show(one: Any, other: Any) -> str:
    if not isinstance(one, str) or not isinstance(other, str):
        return json.dumps(one, ensure_ascii=False)[:300]
    # The first place in which they differ, with what is around it.
    same = next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    lines = difflib.SequenceMatcher(None, one[same : same + 400], other[same : same + 400], autojunk=False)
    last = max((block.a for block in lines.get_matching_blocks()[:1]), default=0)
    return repr(one[max(0, same - AROUND) : same + max(last, AROUND)])


# ------------------------------------------------------------------ what the inputs cover


def summarise(folder: Path) -> list[str]:
    """Count what the verdicts of a folder say."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        for call in result["calls"]:
            counts["exit code"][str(call["code"])] += 1
            verdict = call["files"].get("verdict.json")
            if isinstance(verdict, dict):
                _count_verdict(verdict, counts)
    lines = []
    for name, found in counts.items():
        lines.append(f"{name}: " + ", ".join(f"{key} {n}" for key, n in sorted(found.items())))
    return lines


def _count_verdict(verdict: dict[str, Any], counts: dict[str, Counter[str]]) -> None:
    counts["verdict"][verdict["verdict"]] += 1
    counts["monitoring"][verdict["monitoring"]] += 1
    counts["reason"].update(reason["code"] for reason in verdict["reasons"])
    counts["metric"].update(f"{row['type']} {row['status']}" for row in verdict["metrics"])
    counts["method"].update(row["method"].split(" (")[0].partition(", adj")[0] for row in verdict["metrics"])
    counts["check"].update(f"{one['check']} {one['status']}" for one in verdict["health"])


if __name__ == "__main__":
    sys.exit(main())
