"""The DuckDB file of a store and the folder next to it. It is opened for one transaction, then closed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from evaluator.errors import StoreError
from evaluator.permissions import is_private, private_files
from evaluator.segments import data_folder, run_folder
from evaluator.store.engine import Engine, attach, reuse_engine, transaction

WAIT_S = 30.0
"""How long (s) to wait for other processes."""

_READING_ENGINES: ContextVar[Mapping[Path, Engine]] = ContextVar("_READING_ENGINES", default=MappingProxyType({}))
"""Store → the engine that it is attached to for reading, within `StoreFile.reading`."""


@dataclass(frozen=True, slots=True)
class StoreFile:
    """Where a store is, and how long (s) to wait for other processes that have it open."""

    path: Path
    wait_s: float = WAIT_S

    @property
    def folder(self) -> Path:
        """Folder of the segments."""
        return data_folder(self.path)

    @property
    def empty_segment(self) -> Path:
        """Segment without rows that keeps the view `requests` valid before anything was recorded.

        Readers of request rows hold a shared lock on it; deleting rows needs an exclusive one.
        """
        return self.folder / "schema.parquet"

    def run_folder(self, release: str, run: str) -> Path:
        """Folder that the segments of a run are written to (made by the writer)."""
        return run_folder(self.folder, release, run)

    def keeping_private(self) -> AbstractContextManager[None]:
        """Make private files in the body of the `with` statement if the store is private: only its owner can read it.

        A store is made private for a sensitive service, and stays so for all services that share it.
        """
        return private_files(when=is_private(self.path))

    @contextmanager
    def opened(self, *, write: bool = False) -> Iterator[Engine]:
        """Open the file, as the database `store`, to read from it or for one transaction.

        Raises StoreBusy where another process keeps the file, StoreError where it cannot be used.
        """
        engine_for_reading = _READING_ENGINES.get().get(
            self.path
        )  # of a `with file.reading()` around this call; else None
        if engine_for_reading is not None:
            if write:
                raise StoreError(f"the store {self.path} cannot be written while it is read")
            yield engine_for_reading
            return
        with reuse_engine(search=self.path.parent) as engine, self.attached(engine, write=write):
            yield engine

    @contextmanager
    def attached(self, engine: Engine, *, write: bool = False) -> Iterator[None]:
        """Attach the file, as the database `store`, to an open engine: to read from it or for one transaction."""
        # DuckDB makes a log next to the file.
        with (
            self.keeping_private() if write else nullcontext(),
            attach(engine, self.path, write=write, wait_s=self.wait_s),
            transaction(engine) if write else nullcontext(),
        ):
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Open the file once for all reads in the body of the `with` statement; writers wait meanwhile."""
        if self.path in _READING_ENGINES.get():
            yield  # an outer `reading` has opened it
            return
        with self.opened() as engine:
            token = _READING_ENGINES.set({**_READING_ENGINES.get(), self.path: engine})
            try:
                yield
            finally:
                _READING_ENGINES.reset(token)
