"""The samples of an answer, read all at once.

An answer of the query API is JSON that consists mostly of pairs of a time and a number in quotes. Making a list, a
float and a text of each pair takes several times as long as all the rest. So the pairs are cut out of the text and read
as a table; the remaining JSON has a number in the place of each series. An answer of another form is not changed, and
is read as JSON.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

FloatArray = npt.NDArray[np.float64]
Lifted = tuple[FloatArray, FloatArray]
"""Times (s) and values of one series."""

# None of these can be inside a text of JSON, where each quote has a backslash before it.
_OPENING, _CLOSING, _BETWEEN = b'"values":[[', b"]]", b"],["
_COLUMNS = {"ts": pa.float64(), "value": pa.float64()}


def lift_samples(body: bytes) -> tuple[bytes, list[Lifted]]:
    """Take the samples out of an answer: `"values":[[1,"2"],…]` of the K-th series (from 0) becomes `"values":K`.

    Returns the remaining JSON and the samples of each series; the answer as it is, and no samples, if it has another
    form.
    """
    head, *pieces = body.split(_OPENING)
    parts = [piece.partition(_CLOSING) for piece in pieces]  # samples, closing brackets, JSON up to the next samples
    if not parts or not all(closing for _, closing, _ in parts):
        return body, []
    sample_texts = [text for text, _, _ in parts]
    sizes = [text.count(_BETWEEN) + 1 for text in sample_texts]
    try:
        # Without brackets and quotes the samples are a CSV file: a row a sample.
        table = csv.read_csv(
            pa.BufferReader(b"\n".join(sample_texts).replace(_BETWEEN, b"\n").replace(b'"', b"")),
            read_options=csv.ReadOptions(column_names=list(_COLUMNS), use_threads=False),
            convert_options=csv.ConvertOptions(column_types=_COLUMNS, null_values=[]),
        )
    except pa.ArrowInvalid:
        return body, []
    if table.num_rows != sum(sizes):
        return body, []
    times_s, values = table["ts"].to_numpy(), table["value"].to_numpy()
    ends = np.cumsum(sizes)
    series = [(times_s[end - size : end], values[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
    numbered = [b'"values":%d%s' % (number, tail) for number, (_, _, tail) in enumerate(parts)]
    return b"".join([head, *numbered]), series
