import bz2
import gzip
import io
import lzma
import zipfile

import pyarrow as pa
import pytest

from evaluator import textfiles
from evaluator.errors import InputError

TEXT = "ts,endpoint\r\n" + "".join(f"{k},GET /ä\r\n" for k in range(3000))
DATA = TEXT.encode()


def write_zip(files, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


PACKED = {
    "gzip": gzip.compress(DATA),
    "bzip2": bz2.compress(DATA),
    "xz": lzma.compress(DATA),
    "zstd": pa.compress(DATA, "zstd", asbytes=True),
    "zip": write_zip({"folder/": b"", "folder/a.csv": DATA}),
}


@pytest.fixture
def write(tmp_path):
    def write_bytes(data, name="file"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write_bytes


def read(path):
    with textfiles.open_text(path) as opened:
        return opened.read()


@pytest.mark.parametrize("packing", PACKED)
def test_packed_files_are_recognised_by_their_bytes(write, tmp_path, packing):
    path = write(PACKED[packing])
    assert textfiles.find_packing(path) == packing
    assert not textfiles.is_plain(path)
    assert read(path) == TEXT
    textfiles.copy_plain(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA


@pytest.mark.parametrize("packing", ["gzip", "bzip2", "xz", "zstd"])
def test_packed_files_may_be_joined(write, packing):
    """As `cat a.gz b.gz` does, and loggers that append."""
    assert read(write(PACKED[packing] * 2)) == TEXT * 2


def test_zeros_may_follow_packed_data(write):
    assert read(write(PACKED["xz"] + bytes(8))) == read(write(PACKED["gzip"] + bytes(8))) == TEXT


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("damage", ["cut", "cut at the top", "turned"])
def test_damaged_files_are_named(write, packing, damage):
    data = PACKED[packing]
    middle = len(data) // 3
    damaged = {
        "cut": data[:-20],
        "cut at the top": data[:14],
        "turned": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
    }[damage]
    if packing == "zstd" and damage == "turned":
        damaged = data[:6] + bytes([data[6] ^ 255]) + data[7:]  # this packing has no checksum, unlike that of `zstd`
    with pytest.raises(InputError, match="is cut short or damaged"):
        read(write(damaged))


@pytest.mark.parametrize("packing", ["gzip", "bzip2", "xz", "zstd"])
def test_bytes_after_packed_data_are_not_lost_in_silence(write, packing):
    with pytest.raises(InputError, match="is cut short or damaged"):
        read(write(PACKED[packing] + b"1790000000,GET /,3,true\n" * 3))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(write_zip({"a.csv": DATA, "b.csv": DATA}), "holds 2 files: a.csv, b.csv$", id="several"),
        pytest.param(write_zip({f"{k}.csv": b"" for k in range(9)}), "holds 9 files: .* and 4 more$", id="many"),
        pytest.param(write_zip({}), "is a zip file without files", id="none"),
        pytest.param(write_zip({"folder/": b""}), "holds 0 files: none", id="folder"),
        pytest.param(gzip.compress(PACKED["zip"]), "is packed twice: zip inside of gzip", id="twice"),
        pytest.param(gzip.compress(b"x" * 257 + b"ustar"), "is packed twice: tar inside of gzip", id="tgz"),
        pytest.param(b"x" * 257 + b"ustar" + bytes(200), "is a tar archive", id="tar"),
        pytest.param(b"7z\xbc\xaf\x27\x1c" + bytes(200), "is a 7z archive", id="7z"),
    ],
)
def test_archives_that_cannot_be_read(write, data, problem):
    with pytest.raises(InputError, match=problem) as caught:
        read(write(data))
    assert "unpack it" in caught.value.hint


def test_an_encrypted_zip_file(write):
    data = bytearray(write_zip({"a.csv": DATA}))
    data[6] |= 1  # the flag, at the file and in the directory at the end
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(InputError, match="is encrypted"):
        read(write(bytes(data)))


def test_a_method_of_zip_that_is_not_known(write):
    data = bytearray(write_zip({"a.csv": DATA}))
    data[8], data[data.rindex(b"PK\x01\x02") + 10] = 9, 9  # deflate64, which Windows uses for large files
    with pytest.raises(InputError, match="cannot be unpacked: That compression method is not supported"):
        read(write(bytes(data)))


def test_files_of_macos_in_zip_are_ignored(write):
    assert read(write(write_zip({"a.csv": DATA, "__MACOSX/._a.csv": b"x"}))) == TEXT


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_bomb_ends(write, monkeypatch, pack):
    monkeypatch.setattr(textfiles, "UNPACKED_WITHOUT_TEST", 1 << 16)
    with pytest.raises(InputError, match="unpacks to more than 250 times its size"):
        read(write(pack(b"\n" * (4 << 20))))


def test_a_file_of_xz_that_needs_much_memory(write):
    data = lzma.compress(DATA, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}])
    with pytest.raises(InputError, match="is cut short or damaged: Memory usage limit exceeded"):
        read(write(data))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_encodings_of_unicode(write, encoding, pack):
    path = write(pack(TEXT.encode(encoding)))
    assert read(path) == TEXT
    assert textfiles.is_plain(path) == (encoding == "utf-8-sig" and pack is bytes)


def test_utf16_that_is_cut(write):
    with pytest.raises(InputError, match="is text of UTF-16, and cut short or damaged"):
        read(write(TEXT.encode("utf-16")[:-1]))


def test_text_that_looks_like_a_packed_file(write):
    """A header that begins with the letters of bzip2 is text."""
    path = write(b"BZhours,endpoint\n1,GET /\n")
    assert textfiles.is_plain(path)
    assert read(path).startswith("BZhours")
