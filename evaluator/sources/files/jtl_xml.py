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
from evaluator.textfiles import open_utf8

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
    """Write the samples of `source` as Parquet into `target`, all values as text. Raises InputError with file:line.

    A sample inside a transaction is a request; a sample inside another sample (a redirect, an embedded resource) is
    part of it. Another element in the place of a sample is also a row. The column `kind` distinguishes them.
    """
    with pq.ParquetWriter(target, _SCHEMA) as writer, open_utf8(source) as opened:
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
"""A reference that the end of a chunk cuts off."""
_REPLACEMENT = "\ufffd"
_LONGEST_CODE_POINT = 20
"""Digits of a reference; far more than any character needs, and Python does not convert thousands of digits."""


def _read_characters(path: Path, opened: IO[bytes]) -> Iterator[str]:
    """Read a file as pieces of text, with a replacement in the place of each character that XML does not allow.

    Raises InputError for an encoding that does not exist, or is none of text (such as `hex`).
    """
    chunk = opened.read(_CHUNK_BYTES)
    declaration = _DECLARED.match(chunk)
    encoding = declaration[1].decode("ascii") if declaration else "utf-8"
    # What declares UTF-16 or UTF-32 is UTF-8 by now.
    if encoding.lower().replace("_", "-").startswith(("utf-8", "utf8", "utf-16", "utf16", "utf-32", "utf32")):
        encoding = "utf-8-sig"  # also skips a byte order mark
    try:
        decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        is_text = b"<".decode(encoding) + decoder.decode(b"") == "<"
    except (LookupError, UnicodeError):
        is_text = False
    if not is_text:
        raise InputError(f"{path}:1: there is no encoding '{encoding}' of text", hint="JMeter writes UTF-8")
    unfinished = ""
    while chunk:
        next_chunk = opened.read(_CHUNK_BYTES)
        text = unfinished + decoder.decode(chunk, final=not next_chunk)
        chunk = next_chunk
        # A reference (&#31;) that the end of the chunk cuts off waits for the next chunk.
        cut_reference = _OPEN_REFERENCE.search(text) if chunk else None
        end = cut_reference.start() if cut_reference else len(text)
        yield _REFERENCE.sub(_replace_illegal_reference, _ILLEGAL.sub(_REPLACEMENT, text[:end]))
        unfinished = text[end:]


def _replace_illegal_reference(reference: re.Match[str]) -> str:
    """Keep a reference to a character (&#9; or &#x1F600;) that XML allows; return the replacement for any other.

    Group 1 of the match is the number of the character: decimal, or hexadecimal after an x.
    """
    number_text = reference[1]
    if len(number_text) > _LONGEST_CODE_POINT:
        return _REPLACEMENT
    code_point = int(number_text[1:], 16) if number_text[0] == "x" else int(number_text)
    is_legal = code_point <= 0x10FFFF and not _ILLEGAL.match(chr(code_point))
    return reference[0] if is_legal else _REPLACEMENT


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
        """Prepare to parse a file; `path`: its name in errors."""
        self.path = path
        self.rows: list[_Row] = []
        """Rows of the elements that have ended, until `take` takes them."""
        self._open: list[_Element] = []
        """The elements that have not ended, from the root to the innermost."""
        self._bytes_fed = 0
        # The characters are decoded already, whatever encoding the file declares.
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse_document_type
        self._parser.StartElementHandler = self._start_element
        self._parser.EndElementHandler = self._end_element
        self._parser.CharacterDataHandler = self._add_text

    def feed(self, text: str, *, final: bool = False) -> None:
        """Parse the next piece of the file; `final`: the file ends with it. Raises InputError with file:line."""
        encoded = text.encode()
        self._bytes_fed += len(encoded)
        try:
            self._parser.Parse(encoded, final)
        except expat.ExpatError as error:
            problem = expat.ErrorString(error.code)
            raise InputError(
                f"{self.path}:{error.lineno}: the XML is broken: {problem}", hint=_HINTS.get(problem, _NO_HINT)
            ) from error
        # Expat keeps a tag in memory until it is complete; a tag without an end must not fill the memory.
        if self._bytes_fed - self._parser.CurrentByteIndex > _LONGEST_TOKEN:
            line = self._parser.CurrentLineNumber
            raise InputError(f"{self.path}:{line}: one element is longer than {_LONGEST_TOKEN >> 20} MB")

    def take(self) -> pa.Table:
        """Take the rows of the elements that have ended out of the parser, as a table of texts."""
        rows, self.rows = self.rows, []
        return pa.Table.from_pylist(rows, schema=_SCHEMA)

    def _refuse_document_type(self, *_: object) -> None:
        line = self._parser.CurrentLineNumber
        raise InputError(f"{self.path}:{line}: a document type is not allowed; JMeter writes none")

    def _start_element(self, name: str, attributes: dict[str, str]) -> None:
        """Push an element with its role on the stack of open elements.

        Roles: root; sample or transaction, each with its row; unknown (in the place of a sample); other (describes a
        sample). An element is a sample by its name, or by its attributes.
        """
        parent = self._open[-1] if self._open else None
        looks_like_sample = len(_SAMPLE_ATTRIBUTES & attributes.keys()) > 1  # whatever its name
        if parent is None:
            self._open.append(_Element("root"))
        elif name in _SAMPLES or (looks_like_sample and parent.role != "other"):
            message = attributes.get("rm", "")  # the response message
            is_transaction = message.startswith(TRANSACTION)
            row: _Row = {column: attributes.get(key) for key, column in _ATTRIBUTES.items()}
            row |= {"failureMessage": message, KIND: "", DETAIL: "", LINE: self._current_line()}
            if any(element.role in ("sample", "unknown") for element in self._open):
                row[KIND] = LeftOutKind.PART  # inside of a sample: a redirect, an embedded file
            elif is_transaction:
                row[KIND] = LeftOutKind.SUMMARY
            self._open.append(_Element("transaction" if is_transaction else "sample", row))
        elif parent.role == "root" or (parent.role == "transaction" and name not in _OF_SAMPLE):
            # In the place of a sample: its children will show whether it is one.
            row = {KIND: LeftOutKind.OTHER_KIND, DETAIL: name, LINE: self._current_line()}
            self._open.append(_Element("unknown", row))
        else:
            # Of the children of an unknown element, those that would make it a sample are read; of all other elements,
            # only the message of a failed assertion.
            is_text_read = name in _CHILDREN if parent.role == "unknown" else name == "failureMessage"
            self._open.append(_Element("other", text=[] if is_text_read else None))

    def _current_line(self) -> str:
        return str(self._parser.CurrentLineNumber)

    def _add_text(self, text: str) -> None:
        """Add text to the innermost element, if its text is read and is not too long yet."""
        element = self._open[-1]
        if element.text is not None and sum(map(len, element.text)) < _LONGEST_TEXT:
            element.text.append(text[:_LONGEST_TEXT])

    def _end_element(self, name: str) -> None:
        """Close the innermost element: keep the row of a sample, or add the text of another element to its sample."""
        element = self._open.pop()
        if element.text is not None:
            text = "".join(element.text).strip()
            # The sample, unknown element or root that the text describes.
            owner = next(outer for outer in reversed(self._open) if outer.role != "other")
            if owner.role == "unknown":
                owner.row[_CHILDREN[name]] = text
            elif owner.role != "root" and text:
                owner.row["failureMessage"] = text
        elif element.role in ("transaction", "sample"):
            self.rows.append(element.row)
        elif element.role == "unknown":
            # With all that a request needs it is a sample of a sampler that has a class of its own.
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
