"""Write simulated requests as request segments, as a recorder does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from evaluator.records.arrays import BoolArray, IntArray
from evaluator.segments import REQUEST_SCHEMA, SegmentWriter, make_table
from evaluator.simulate.requests import Requests


def to_parquet(requests: Requests, folder: Path, *, service: str = "", rows: int = 1_000_000) -> tuple[Path, ...]:
    """Write the segments of each run into `folder/<run>/`, in the order of time, each with at most `rows` rows.

    Returns the paths of the segments. Raises OSError if the folder cannot be written.
    """
    paths: list[Path] = []
    for run_code, run in enumerate(requests.runs):
        of_run = np.flatnonzero(requests.run == run_code)
        by_time = of_run[np.argsort(requests.ts_us[of_run], kind="stable")]
        writer = SegmentWriter(folder / run, "simulate")
        pieces = [by_time[start : start + rows] for start in range(0, len(by_time), rows)]
        paths += [writer.write(_make_table(requests, piece, service)) for piece in pieces]
        writer.close()
    return tuple(paths)


def _make_table(requests: Requests, rows: IntArray, service: str) -> pa.Table:
    """Build the table of a segment from the requests with these row numbers."""
    exception, status = requests.exception[rows], requests.status[rows]
    columns = {
        "run": _to_name_array(requests.runs, requests.run[rows]),
        "arm": _to_name_array(requests.arms, requests.arm[rows]),
        "service": service,
        "instance": _to_name_array(requests.instances, requests.instance[rows]),
        "worker": "simulate",
        "ts": pa.array(requests.ts_us[rows]).cast(pa.timestamp("us", tz="UTC")),
        "endpoint": _to_name_array(requests.endpoints, requests.endpoint[rows]),
        "response_time_ms": pa.array(requests.response_us[rows] / 1000.0),
        "response_bytes": pa.array(requests.response_bytes[rows]),
        "status_code": pa.array(status, pa.int16(), mask=status < 0),  # -1: no response
        "failed": pa.array(requests.failed[rows]),
        "exception": _to_name_array(requests.exceptions, exception, is_null=exception == 0),
    }
    if requests.users is not None:
        columns["user_count"] = pa.array(requests.users[rows], pa.int32())
    return make_table(REQUEST_SCHEMA, columns, len(rows))


def _to_name_array(names: tuple[str, ...], codes: IntArray, is_null: BoolArray | None = None) -> pa.Array:
    """The name of each row, as a dictionary array, from the row's index into `names`; null where `is_null`."""
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32(), mask=is_null), pa.array(names, pa.string()))
