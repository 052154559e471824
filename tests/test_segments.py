"""Segments are whole or absent, numbered, and merge without changing a row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluator import segments
from evaluator.errors import SourceError, StoreError
from evaluator.segments import (
    MERGED_FOLDER,
    REQUEST_SCHEMA,
    VERSION_KEY,
    SegmentWriter,
    compact,
    count_rows,
    data_folder,
    read_segment,
    run_folder,
    segment_paths,
)

START = datetime(2026, 11, 1, tzinfo=UTC)


def make_table(rows: int, first: int = 0) -> pa.Table:
    numbers = range(first, first + rows)
    return segments.make_table(
        REQUEST_SCHEMA,
        {
            "run": "run-1",
            "arm": "baseline",
            "service": "shop",
            "instance": [f"i{k % 3}" for k in numbers],
            "worker": "w0",
            "ts": [START + timedelta(milliseconds=k) for k in numbers],
            "endpoint": [f"GET /{(k + 1) // 60}/{k % 2}" for k in numbers],
            "response_time_ms": [k + 0.5 for k in numbers],
            "failed": [k % 7 == 0 for k in numbers],
            "exception": ["boom" if k % 7 == 0 else None for k in numbers],
            "context": [[("tenant", "a")] if k % 2 else None for k in numbers],
        },
        rows,
    )


def test_a_segment_reads_back_as_it_was_written(tmp_path: Path) -> None:
    table = make_table(100)
    path = SegmentWriter(tmp_path, "w0").write(table)
    assert path.name == "seg-w0-000000.parquet"
    assert read_segment(path).to_pylist() == table.to_pylist()
    assert read_segment(path).schema.equals(REQUEST_SCHEMA)
    assert count_rows(path) == 100


def test_numbers_go_on_where_an_earlier_writer_stopped(tmp_path: Path) -> None:
    first = SegmentWriter(tmp_path, "w0")
    first.write(make_table(1))
    first.write(make_table(1))
    first.close()
    assert SegmentWriter(tmp_path, "w0").write(make_table(1)).name == "seg-w0-000002.parquet"
    assert SegmentWriter(tmp_path, "w0-1").write(make_table(1)).name == "seg-w0-1-000000.parquet"


def test_unfinished_segments_are_not_listed(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "w0")
    writer.write(make_table(1))
    writer.warm_up(make_table(1))
    (tmp_path / "seg-w0-000001.parquet.tmp").write_bytes(b"half")
    assert [path.name for path in segment_paths(tmp_path)] == ["seg-w0-000000.parquet"]


def test_an_unwritable_folder_is_an_os_error_and_leaves_nothing_half(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path / "gone", "w0")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OSError, match="gone"):
        writer.write(make_table(1))
    assert segment_paths(tmp_path) == ()


@pytest.mark.parametrize(
    "content",
    [pytest.param(b"", id="empty"), pytest.param(b"not parquet at all", id="text"), pytest.param(None, id="absent")],
)
def test_what_is_not_a_segment_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "seg-w0-000000.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=r"seg-w0-000000\.parquet"):
        read_segment(path)
    with pytest.raises(SourceError, match=r"seg-w0-000000\.parquet"):
        count_rows(path)


def test_merging_keeps_every_row_in_order(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "w0")
    paths = [writer.write(make_table(50, first=50 * k)) for k in range(6)]
    merged = compact(paths, tmp_path, worker="merged")
    assert list(merged) == paths
    [path] = set(merged.values())
    assert read_segment(path).to_pylist() == make_table(300).to_pylist()
    assert len(segment_paths(tmp_path)) == 7


def test_merging_starts_a_new_file_when_one_is_large_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluator.segments._MERGED_GROUP_ROWS", 100)
    writer = SegmentWriter(tmp_path, "w0")
    paths = [writer.write(make_table(50, first=50 * k)) for k in range(6)]
    merged = compact(paths, tmp_path, worker="merged", min_bytes=1)
    files = list(merged.values())
    assert [files.count(path) for path in dict.fromkeys(files)] == [2, 2, 2]
    assert sum(read_segment(path).num_rows for path in set(files)) == 300


def test_releases_whose_names_look_alike_get_folders_of_their_own(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "evaluator.duckdb")
    names = ["cart@1.5.0", "cart/1.5.0", "cart:1.5.0", "../cart", "..", "é" * 200]
    folders = {run_folder(data, name, "r1") for name in names}
    assert len(folders) == len(names)
    assert all(folder.resolve().is_relative_to(data.resolve()) and folder.name == "r1" for folder in folders)
    assert run_folder(data, "cart@1.5.0", "r1") == tmp_path / "evaluator.data" / "cart@1.5.0" / "r1"


@pytest.mark.parametrize("arm", ["feature/x", "../../x", "größe", ".", "a\nb"])
def test_a_worker_or_arm_may_have_any_name(tmp_path: Path, arm: str) -> None:
    paths = [SegmentWriter(tmp_path / "run", arm).write(make_table(1)) for _ in range(2)]
    assert segment_paths(tmp_path / "run") == tuple(paths)
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_numbers_of_merged_segments_are_not_given_again(tmp_path: Path) -> None:
    first = SegmentWriter(tmp_path, "w0").write(make_table(1))
    (tmp_path / MERGED_FOLDER).mkdir()
    compact([first], tmp_path / MERGED_FOLDER, worker="merged")
    first.unlink()
    assert SegmentWriter(tmp_path, "w0").write(make_table(1)).name != first.name


def test_a_segment_of_a_newer_evaluator_is_left_alone(tmp_path):
    table = make_table(1)
    path = tmp_path / "seg-w-000000.parquet"
    pq.write_table(table.replace_schema_metadata({VERSION_KEY: b"2"}), path)
    before = path.read_bytes()
    for use in (count_rows, read_segment):
        with pytest.raises(
            StoreError, match=r"was written by a newer evaluator \(version 2, this one knows 1\)"
        ) as caught:
            use(path)
        assert "upgrade" in caught.value.hint
    assert path.read_bytes() == before
