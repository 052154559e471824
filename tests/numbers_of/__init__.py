"""Reference numbers of `evaluator.stats`: named cases, each a few fields, computed on small seeded inputs.

What the numbers are compared with, and how they are written anew, is said in `stats/test_numbers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numbers_of import estimates, inference, outcomes, readings, shaping

ROOMS = (inference, outcomes, shaping, readings, estimates)
CASES: Mapping[str, Callable[[], Any]] = {name: case for room in ROOMS for name, case in room.CASES.items()}
