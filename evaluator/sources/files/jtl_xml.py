"""JMeter's XML results, read as a stream and written as a table that the store can land.

Expat parses it. A document type is refused, so there are no entities to expand. Characters that XML does not allow,
which JMeter copies from binary answers, are replaced: they are mostly in parts that are not read.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal
from xml.parsers import expat

import pyarrow as pa
import pyarrow.parquet as pq

from evaluator.errors import InputError
from evaluator.records import LeftOutKind
from evaluator.textfiles import open_bytes

LINE = "line"
"""Column with the line of a row."""

KIND = "kind"
"""Column with the kind of a row that is left out; empty for a request."""

DETAIL = "detail"
"""Column with the name of an element that is no sample."""

JTL_XML_HEADER = (
    "timeStamp",
    "elapsed",
    "label",
    "success",
    "bytes",
    "responseCode",
    "failureMessage",
    "allThreads",
    "SampleCount",
    KIND,
    DETAIL,
    LINE,
)

TRANSACTION = "Number of samples in transaction"
"""How JMeter's message of a transaction starts."""

_SAMPLES = frozenset({"sample", "httpSample"})
_ATTRIBUTES = {
    "ts": "timeStamp",
    "t": "elapsed",
    "lb": "label",
    "s": "success",
    "by": "bytes",
    "rc": "responseCode",
    "na": "allThreads",
    "sc": "SampleCount",
}
_SAMPLE_ATTRIBUTES = frozenset({"ts", "t", "lb", "s"})
"""An element that has two of these attributes is a sample, whatever its name."""

_CHILDREN = {
    "timeStamp": "timeStamp",
    "elapsedTime": "elapsed",
    "label": "label",
    "success": "success",
    "responseCode": "responseCode",
    "responseMessage": "failureMessage",
}
"""Elements that a sampler's own class writes instead of the attributes of JMeter → column."""

_OF_SAMPLE = frozenset(
    ("assertionResult", "responseHeader", "requestHeader", "responseData", "responseFile", "samplerData", "cookies",
     "method", "queryString", "redirectLocation", "java.net.URL")
)  # fmt: skip
"""Elements inside a sample that describe it."""

_CHUNK_BYTES = 1 << 20
_LONGEST_TOKEN = 8 << 20
_LONGEST_TEXT = 10_000
_BATCH_ROWS = 50_000
_SCHEMA = pa.schema([(name, pa.string()) for name in JTL_XML_HEADER])

_Row = dict[str, str | None]


def is_jtl_xml(top: str) -> bool:
    """Recognise JMeter's XML by its first characters."""
    return "<testResults" in top


def rewrite_jtl_xml(source: Path, target: Path) -> None:
    """Write the samples of `source` as Parquet into `target`, all as text. Raises InputError with file:line.

    A sample inside a transaction is a request; one inside another sample (a redirect, an embedded resource) is part of
    it. Another element in the place of a sample is also a row.
    """
    with pq.ParquetWriter(target, _SCHEMA) as writer, open_bytes(source) as opened:
        reader = _JtlParser(source)
        for text in _read_characters(source, opened):
            reader.feed(text)
            if len(reader.rows) >= _BATCH_ROWS:
                writer.write_table(reader.take())
        reader.feed("", final=True)
        writer.write_table(reader.take())


# ------------------------------------------------------------------ characters

_DECLARED = re.compile(rb"""^<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_ILLEGAL = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
_REFERENCE = re.compile("&#(x[0-9a-fA-F]+|[0-9]+);")
_OPEN_REFERENCE = re.compile("&[#0-9a-zA-Z]{0,30}$")
_REPLACEMENT = "\ufffd"


def _read_characters(path: Path, opened: IO[bytes]) -> Iterator[str]:
    """Read a file as characters that XML allows. Raises InputError for an encoding that does not exist."""
    chunk = opened.read(_CHUNK_BYTES)
    declared = _DECLARED.match(chunk)
    name = declared[1].decode("ascii") if declared else "utf-8"
    if name.lower() in ("utf-8", "utf8"):
        name = "utf-8-sig"
    try:
        decoder = codecs.getincrementaldecoder(name)(errors="replace")
    except LookupError as error:
        raise InputError(f"{path}:1: there is no encoding '{name}'", hint="JMeter writes UTF-8") from error
    carried = ""
    while chunk:
        text = carried + decoder.decode(chunk)
        chunk = opened.read(_CHUNK_BYTES)
        cut = _OPEN_REFERENCE.search(text) if chunk else None
        end = cut.start() if cut else len(text)
        yield _REFERENCE.sub(_check_reference, _ILLEGAL.sub(_REPLACEMENT, text[:end]))
        carried = text[end:]


def _check_reference(reference: re.Match[str]) -> str:
    digits = reference[1]
    code = int(digits[1:], 16) if digits[0] == "x" else int(digits)
    legal = code <= 0x10FFFF and not _ILLEGAL.match(chr(code))
    return reference[0] if legal else _REPLACEMENT


# ------------------------------------------------------------------ elements


@dataclass(slots=True)
class _Element:
    """An element that is open, with what matters of its content."""

    role: Literal["root", "transaction", "sample", "unknown", "other"]
    """`unknown`: it is in the place of a sample; its children show whether it is one."""
    row: _Row = field(default_factory=dict)
    text: list[str] | None = None
    """Its text, where that is read; at most some thousand characters."""


class _JtlParser:
    """Collects each sample when its element ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[_Row] = []
        self._open: list[_Element] = []
        self._fed = 0
        # The characters are decoded already, whatever encoding the file declares.
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._add_text

    def feed(self, text: str, *, final: bool = False) -> None:
        encoded = text.encode()
        self._fed += len(encoded)
        try:
            self._parser.Parse(encoded, final)
        except expat.ExpatError as error:
            problem = expat.ErrorString(error.code)
            raise InputError(
                f"{self.path}:{error.lineno}: the XML is broken: {problem}", hint=_HINTS.get(problem, _NO_HINT)
            ) from error
        if self._fed - self._parser.CurrentByteIndex > _LONGEST_TOKEN:
            line = self._parser.CurrentLineNumber
            raise InputError(f"{self.path}:{line}: one element is longer than {_LONGEST_TOKEN >> 20} MB")

    def take(self) -> pa.Table:
        rows, self.rows = self.rows, []
        return pa.Table.from_pylist(rows, schema=_SCHEMA)

    def _refuse(self, *_: object) -> None:
        line = self._parser.CurrentLineNumber
        raise InputError(f"{self.path}:{line}: a document type is not allowed; JMeter writes none")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._open[-1] if self._open else None
        if parent is None:
            self._open.append(_Element("root"))
        elif name in _SAMPLES or (parent.role != "other" and len(_SAMPLE_ATTRIBUTES & attributes.keys()) > 1):
            message = attributes.get("rm", "")
            is_transaction = message.startswith(TRANSACTION)
            is_part = any(element.role in ("sample", "unknown") for element in self._open)
            kind = LeftOutKind.PART if is_part else LeftOutKind.SUMMARY if is_transaction else ""
            row: _Row = {column: attributes.get(key) for key, column in _ATTRIBUTES.items()}
            row |= {"failureMessage": message, KIND: kind, DETAIL: "", LINE: self._line()}
            self._open.append(_Element("transaction" if is_transaction else "sample", row))
        elif parent.role == "root" or (parent.role == "transaction" and name not in _OF_SAMPLE):
            row = {KIND: LeftOutKind.OTHER_KIND, DETAIL: name, LINE: self._line()}
            self._open.append(_Element("unknown", row))
        else:
            is_read = name in _CHILDREN if parent.role == "unknown" else name == "failureMessage"
            self._open.append(_Element("other", text=[] if is_read else None))

    def _line(self) -> str:
        return str(self._parser.CurrentLineNumber)

    def _add_text(self, text: str) -> None:
        element = self._open[-1]
        if element.text is not None and sum(map(len, element.text)) < _LONGEST_TEXT:
            element.text.append(text[:_LONGEST_TEXT])

    def _end(self, name: str) -> None:
        element = self._open.pop()
        if element.text is not None:
            # The text of a child describes the sample around it.
            text = "".join(element.text).strip()
            owner = next(element for element in reversed(self._open) if element.role != "other")
            if owner.role == "unknown":
                owner.row[_CHILDREN[name]] = text
            elif owner.role != "root" and text:
                owner.row["failureMessage"] = text
        elif element.role in ("transaction", "sample"):
            self.rows.append(element.row)
        elif element.role == "unknown":
            if all(element.row.get(column) is not None for column in ("timeStamp", "elapsed", "label", "success")):
                element.row |= {KIND: "", DETAIL: ""}
            self.rows.append(element.row)


_CUT_SHORT = "a test that was killed does not write its last lines: end the file with </testResults>"
_SEVERAL = "several runs were written into one file: split it before each <?xml, and import each file"
_NO_HINT = "JMeter escapes what it writes: was the file edited, or filtered by another tool?"
_HINTS = {
    expat.errors.XML_ERROR_NO_ELEMENTS: _CUT_SHORT,
    expat.errors.XML_ERROR_UNCLOSED_TOKEN: _CUT_SHORT,
    expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION: _CUT_SHORT,
    expat.errors.XML_ERROR_PARTIAL_CHAR: _CUT_SHORT,
    expat.errors.XML_ERROR_JUNK_AFTER_DOC_ELEMENT: _SEVERAL,
    expat.errors.XML_ERROR_MISPLACED_XML_PI: _SEVERAL,
    expat.errors.XML_ERROR_TAG_MISMATCH: "lines are missing, or two tests wrote into one file: record it again",
    expat.errors.XML_ERROR_UNDEFINED_ENTITY: "JMeter writes &amp; &lt; &gt; &quot; only: write others as characters",
}
"""Message of expat → what to do."""
