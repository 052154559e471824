"""Files that may be packed (compressed) and in any encoding of Unicode, recognised by their bytes, not their names.

All files that a user gives are opened here, so a fault of a packed file is named in one place: each function raises
InputError, also while the opened file is read.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import itertools
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO, cast

from evaluator.errors import InputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CHUNK_BYTES = 1 << 20
_MOST_CHUNKS_OF_LINE = 16
"""A text with more chunks in a row without the end of a line is refused."""
UNPACKED_WITHOUT_TEST = 256 << 20
"""Bytes that any packed file may have when it is unpacked."""
LARGEST_RATIO = 250
"""Longer ones may have at most this many times their packed bytes; logs of requests have 5 to 50 times."""
_XZ_MEMORY = 256 << 20
"""Bytes of memory that a file of xz may need to be unpacked; the strongest level of `xz` needs 65 MB."""
_MOST_NAMES = 5
_FETCH_AGAIN = "fetch it again"


# ------------------------------------------------------------------ opening


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacked if it is packed. Raises InputError, also while it is read."""
    packing = find_packing(path)
    if not packing:
        return path.open("rb")
    opened = _open_unpacked(path, packing)
    inner = _recognise_packing(opened.peek(_BYTES_OF_MAGIC))
    if inner:
        opened.close()
        raise InputError(
            f"{path} is packed twice: {inner} inside of {packing}",
            hint="unpack it, and give its files" if inner == _TAR_NAME else "unpack it once",
        )
    return opened


def open_utf8(path: Path) -> IO[bytes]:
    """Open a text, unpacked and encoded as UTF-8 if it is UTF-16 or UTF-32. Other bytes stay as they are.

    Raises InputError, also while it is read.
    """
    opened = open_bytes(path)
    top = opened.read(_BYTES_OF_ENCODING)
    opened.close()
    encoding = _recognise_encoding(top)
    opened = open_bytes(path)
    return opened if encoding == _UTF8 else io.BufferedReader(_Recoded(path, opened, encoding), _CHUNK_BYTES)


def open_text(path: Path, errors: str = "strict") -> TextIO:
    """Open a text for reading, unpacked, in any encoding of Unicode, with line ends as they are.

    `errors`: what to do with bytes that are not UTF-8, as for `open`. Raises InputError, also while it is read.
    """
    return io.TextIOWrapper(open_utf8(path), encoding="utf-8-sig", errors=errors, newline="")


def is_plain(path: Path) -> bool:
    """Is this file neither packed nor a text of UTF-16 or UTF-32, so that any program reads it as it is?"""
    if find_packing(path):
        return False
    with path.open("rb") as opened:
        return _recognise_encoding(opened.read(_BYTES_OF_ENCODING)) == _UTF8


def copy_plain(source: Path, target: Path) -> None:
    """Write a packed file, or one of UTF-16 or UTF-32, as plain UTF-8 into `target`. Raises InputError and OSError."""
    with open_utf8(source) as opened, target.open("wb") as copy:
        while chunk := opened.read(_CHUNK_BYTES):
            copy.write(chunk)


# ------------------------------------------------------------------ packing

_MAGIC: Mapping[str, re.Pattern[bytes]] = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
    "zip": re.compile(rb"PK\x03\x04"),
}
"""Packing that can be read → first bytes of such a file."""

_UNREADABLE: Mapping[str, bytes] = {
    "a zip file without files": b"PK\x05\x06",
    "a 7z archive": b"7z\xbc\xaf\x27\x1c",
    "a RAR archive": b"Rar!\x1a\x07",
    "packed with lz4": b"\x04\x22\x4d\x18",
    "packed with compress": b"\x1f\x9d",
    "packed with lzip": b"LZIP\x01",
}
"""What a file is that cannot be read → its first bytes."""
_TAR = b"ustar"
_TAR_NAME = "tar"
_TAR_POSITION = 257
_BYTES_OF_MAGIC = _TAR_POSITION + len(_TAR)


def find_packing(path: Path) -> str:
    """Name of the packing of a file, by its first bytes; empty if it is not packed.

    Raises InputError for an archive or a packing that cannot be read, and OSError.
    """
    with path.open("rb") as opened:
        first_bytes = opened.read(_BYTES_OF_MAGIC)
    what = next((what for what, magic in _UNREADABLE.items() if first_bytes.startswith(magic)), "")
    if not what and first_bytes[_TAR_POSITION:] == _TAR:
        what = "a tar archive"
    if what:
        raise InputError(
            f"{path} is {what}",
            hint="unpack it; gzip, bzip2, xz, zstd, and zip with one file, can be given packed",
        )
    return _recognise_packing(first_bytes)


def _recognise_packing(first_bytes: bytes) -> str:
    """Name of a packing that can be read, by the first bytes of a file; empty if they have none."""
    if first_bytes[_TAR_POSITION:_BYTES_OF_MAGIC] == _TAR:
        return _TAR_NAME
    return next((name for name, magic in _MAGIC.items() if magic.match(first_bytes)), "")


def _open_unpacked(path: Path, packing: str) -> io.BufferedReader:
    """Open a file of this packing, a key of `_MAGIC`, unpacked. Raises InputError, also while it is read."""
    openers: Mapping[str, Callable[[Path], IO[bytes]]] = {
        "gzip": lambda path: cast("IO[bytes]", gzip.open(path)),  # noqa: SIM115 - `_Unpacked` closes it
        "bzip2": lambda path: cast("IO[bytes]", _Streams(path, bz2.BZ2Decompressor)),
        "xz": lambda path: cast("IO[bytes]", _Streams(path, _begin_xz)),
        "zstd": _open_zstd,
        "zip": _open_zip,
    }
    return io.BufferedReader(_Unpacked(path, openers[packing]), _CHUNK_BYTES)


def _open_zstd(path: Path) -> IO[bytes]:
    import pyarrow as pa  # here, because it is slow to load

    return cast("IO[bytes]", pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))


def _open_zip(path: Path) -> IO[bytes]:
    """Open the only file in a zip file. Raises InputError if it holds several files or none, or is encrypted."""
    archive = zipfile.ZipFile(path)
    # The Finder of macOS adds a second file for each file.
    members = [
        member for member in archive.infolist() if not member.is_dir() and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        names = ", ".join(member.filename for member in members[:_MOST_NAMES]) or "none"
        unshown = f" and {len(members) - _MOST_NAMES} more" if len(members) > _MOST_NAMES else ""
        archive.close()
        raise InputError(
            f"{path} holds {len(members)} files: {names}{unshown}",
            hint="unpack it, and give the files that belong to this arm",
        )
    if members[0].flag_bits & 1:
        archive.close()
        raise InputError(f"{path} is encrypted", hint="unpack it with its password")
    return archive.open(members[0])


_FAULTS = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, OSError, ValueError)
"""What readers of packed files raise for damaged ones."""
_UNSUPPORTED = (NotImplementedError, RuntimeError)
"""What `zipfile` raises for a method that it does not know."""


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a packed file. Faults of the file are raised as InputError."""

    def __init__(self, path: Path, open_file: Callable[[Path], IO[bytes]]) -> None:
        self._path = path
        self._packed_bytes = path.stat().st_size
        self._unpacked_bytes = 0
        try:
            self._opened = open_file(path)
        except (*_FAULTS, *_UNSUPPORTED) as error:
            raise self._explain(error) from error

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer with the next bytes; returns how many, 0 at the end. Raises InputError."""
        view = memoryview(buffer)
        try:
            chunk = self._opened.read(len(view))
        except (*_FAULTS, *_UNSUPPORTED) as error:
            raise self._explain(error) from error
        view[: len(chunk)] = chunk
        self._unpacked_bytes += len(chunk)
        if self._unpacked_bytes > max(UNPACKED_WITHOUT_TEST, LARGEST_RATIO * self._packed_bytes):
            raise InputError(
                f"{self._path} unpacks to more than {LARGEST_RATIO} times its size, which no file of requests does",
                hint="look what it holds; if it is what it should be, unpack it and give that file",
            )
        return len(chunk)

    def _explain(self, error: Exception) -> InputError:
        """Make the error of a file that cannot be unpacked."""
        if isinstance(error, _UNSUPPORTED):
            return InputError(f"{self._path} cannot be unpacked: {error}", hint="unpack it, and give that file")
        return InputError(f"{self._path} is cut short or damaged: {error}", hint=_FETCH_AGAIN)


class _Streams(io.RawIOBase):
    """The unpacked bytes of a file of bzip2 or xz: one packed stream, or several, one after another.

    `bz2.open` and `lzma.open` ignore what they do not understand after the first stream, so rows would be lost; and
    `lzma.open` takes any amount of memory.
    """

    def __init__(self, path: Path, begin: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> None:
        """`begin`: makes the decompressor of a stream."""
        self._opened = path.open("rb")
        self._begin = begin
        self._decompressor = begin()

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._opened.close()
        super().close()

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer with the next bytes; returns how many, 0 at the end. Raises errors of `_FAULTS`."""
        view = memoryview(buffer)
        packed = b""
        while True:
            if self._decompressor.eof:  # another stream may follow, with zeros between
                packed = (self._decompressor.unused_data or self._opened.read(_CHUNK_BYTES)).lstrip(b"\0")
                if not packed:
                    return 0
                self._decompressor = self._begin()
            elif self._decompressor.needs_input:
                packed = self._opened.read(_CHUNK_BYTES)
                if not packed:
                    raise EOFError("the file ends before the end of its data")
            chunk = self._decompressor.decompress(packed, len(view))
            packed = b""
            if chunk:
                view[: len(chunk)] = chunk
                return len(chunk)


def _begin_xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


# ------------------------------------------------------------------ encoding

_UTF8 = "utf-8"
_MARKS = (
    (codecs.BOM_UTF8, _UTF8),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like the next
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""First bytes of a text that name its encoding (byte order mark) → the encoding."""
_BYTES_OF_ENCODING = 64


def _recognise_encoding(top: bytes) -> str:
    """Encoding of a text, by its first bytes: UTF-8 unless a mark, or the zeros in it, show another one."""
    marked = next((encoding for mark, encoding in _MARKS if top.startswith(mark)), "")
    if marked:
        return marked
    # Without a mark: every second byte of Latin letters in UTF-16 is zero, which UTF-8 never has.
    even, odd = top[::2], top[1::2]
    if len(top) >= 4 and even.count(0) == 0 and odd.count(0) == len(odd):
        return "utf-16-le"
    if len(top) >= 4 and odd.count(0) == 0 and even.count(0) == len(even):
        return "utf-16-be"
    return _UTF8


class _Recoded(io.RawIOBase):
    """A text of another encoding of Unicode, as UTF-8."""

    def __init__(self, path: Path, opened: IO[bytes], encoding: str) -> None:
        self._path = path
        self._opened = opened
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._unread = b""
        """Bytes of UTF-8 that did not fit into the last buffer."""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._opened.close()
        super().close()

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer with the next bytes; returns how many, 0 at the end. Raises InputError."""
        view = memoryview(buffer)
        while not self._unread:
            chunk = self._opened.read(_CHUNK_BYTES)
            try:
                self._unread = self._decoder.decode(chunk, final=not chunk).encode()
            except UnicodeError as error:
                name = self._encoding.upper().removesuffix("-LE").removesuffix("-BE")
                raise InputError(
                    f"{self._path} is text of {name}, and cut short or damaged: {error}",
                    hint=f"{_FETCH_AGAIN}, or save it as UTF-8",
                ) from error
            if not chunk:
                break
        count = min(len(view), len(self._unread))
        view[:count] = self._unread[:count]
        self._unread = self._unread[count:]
        return count


def refuse_long_lines(path: Path) -> None:
    """Refuse a text with a line of more than 16 MB, which DuckDB would leave out without a word.

    The text is read to its end. Raises InputError, also for a packed file that is damaged.
    """
    lines, chunks_without_end = 0, 0
    with open_utf8(path) as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            has_end = b"\n" in chunk or b"\r" in chunk
            lines += chunk.count(b"\n")
            chunks_without_end = 0 if has_end else chunks_without_end + 1
            if chunks_without_end > _MOST_CHUNKS_OF_LINE:
                raise InputError(
                    f"{path}:{lines + 1} is longer than {_MOST_CHUNKS_OF_LINE * _CHUNK_BYTES >> 20} MB",
                    hint="write each row on a line of its own",
                )


def find_line(path: Path, delimiter: str, record: int) -> int:
    """Find the number of the line on which a record of a CSV file begins: quoted values may span several lines.

    `record`: number of the record from 1, the header included; it is returned if the file cannot be read.
    """
    try:
        with open_text(path, errors="replace") as opened:
            reader = csv.reader(opened, delimiter=delimiter)
            for _ in itertools.islice(reader, record - 1):
                pass
            return reader.line_num + 1  # `line_num`: the last line of the records before
    except (OSError, InputError, csv.Error):
        return record
