"""JMeter's XML results, read as a stream and written as a table that the store can land.

Expat alone is fed; a document type, without which there are no entities to expand, is refused.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import IO, cast
from xml.parsers import expat

import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.errors import InputError

__all__ = ["JTL_XML_HEADER", "LINE", "SUMMARY", "is_jtl_xml", "rewrite_jtl_xml"]

LINE = "line"
"""Column with the line that a row stands on."""

JTL_XML_HEADER = (
    "timeStamp",
    "elapsed",
    "label",
    "success",
    "bytes",
    "responseCode",
    "failureMessage",
    "allThreads",
    "summary",
    LINE,
)

SUMMARY = "transaction"
_SAMPLES = frozenset({"sample", "httpSample"})
_ATTRIBUTES = {
    "ts": "timeStamp",
    "t": "elapsed",
    "lb": "label",
    "s": "success",
    "by": "bytes",
    "rc": "responseCode",
    "na": "allThreads",
}
_TRANSACTION = "Number of samples in transaction"
_CHUNK_BYTES = 1 << 20
_BATCH_ROWS = 50_000
_SCHEMA = pa.schema([(name, pa.string()) for name in JTL_XML_HEADER])

_Row = dict[str, str | None]


def is_jtl_xml(top: str) -> bool:
    """Tell JMeter's XML by its first characters."""
    return "<testResults" in top


def rewrite_jtl_xml(source: Path, target: Path) -> None:
    """Write the samples of `source` as Parquet into `target`, all as text. Raises InputError with file:line.

    A sample inside a transaction counts; one inside another sample (a redirect, an embedded resource) is part of it, as
    in JMeter's CSV.
    """
    with pq.ParquetWriter(target, _SCHEMA) as writer, _open(source) as opened:
        reader = _Reader(source)
        for chunk in iter(lambda: opened.read(_CHUNK_BYTES), b""):
            reader.feed(chunk)
            if len(reader.rows) >= _BATCH_ROWS:
                writer.write_table(reader.take())
        reader.feed(b"", final=True)
        writer.write_table(reader.take())


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


class _Reader:
    """Samples as they end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[_Row] = []
        self._open: list[_Row] = []
        self._text: list[str] | None = None
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._add_text

    def feed(self, chunk: bytes, *, final: bool = False) -> None:
        try:
            self._parser.Parse(chunk, final)
        except expat.ExpatError as error:
            raise InputError(
                f"{self.path}:{error.lineno}: the XML is broken: {expat.ErrorString(error.code)}",
                hint="a test that was killed leaves its last lines unwritten: close them with </testResults>",
            ) from error

    def take(self) -> pa.Table:
        rows, self.rows = self.rows, []
        return pa.Table.from_pylist(rows, schema=_SCHEMA)

    def _refuse(self, *_: object) -> None:
        line = self._parser.CurrentLineNumber
        raise InputError(f"{self.path}:{line}: a document type is not taken; JMeter writes none")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name in _SAMPLES:
            row: _Row = {column: attributes.get(key) for key, column in _ATTRIBUTES.items()}
            message = attributes.get("rm", "")
            row["summary"] = SUMMARY if message.startswith(_TRANSACTION) else ""
            row["failureMessage"] = message
            row[LINE] = str(self._parser.CurrentLineNumber)
            self._open.append(row)
        elif name == "failureMessage" and self._open:
            self._text = []

    def _add_text(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, name: str) -> None:
        if name == "failureMessage" and self._text is not None:
            self._open[-1]["failureMessage"] = "".join(self._text).strip() or self._open[-1]["failureMessage"]
            self._text = None
        elif name in _SAMPLES:
            row = self._open.pop()
            if not self._open or self._open[-1]["summary"]:
                self.rows.append(row)
