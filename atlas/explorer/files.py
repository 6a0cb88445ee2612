"""Tables as files: rows go from the sealed connection into a file without a name, and from there to the browser, in parts.

Only a part of the rows is in memory at a time, and nothing is left on the disk, however a download ends: the file has no name, so
that it is gone as soon as nobody holds it. Nothing of the atlas is held while a browser downloads.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import IO, TYPE_CHECKING

import polars as pl

from atlas.errors import StoreError
from atlas.store.cells import csv_frame
from atlas.store.file import Store

if TYPE_CHECKING:
    import pyarrow as pa

KEPT = 8  # files that wait to be fetched; the oldest goes first
GROUP = 100_000  # rows of a group in a Parquet file
PART = 1 << 20  # bytes sent at a time


class Files:
    """The files that browsers may fetch, each once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, tuple[IO[bytes], str]] = OrderedDict()

    def put(self, file: IO[bytes], name: str) -> str:
        """Keep a file that is to be called so; the word that it is fetched by, which cannot be guessed."""
        word = secrets.token_urlsafe(12)
        with self._lock:
            self._files[word] = file, name
            while len(self._files) > KEPT:
                self._files.popitem(last=False)[1][0].close()
        return word

    def take(self, word: str) -> tuple[IO[bytes], str] | None:
        """The file that was kept under a word and what it is called; None when it is gone."""
        with self._lock:
            return self._files.pop(word, None)


def parts(file: IO[bytes]) -> Generator[bytes]:
    """What a file holds, in parts; it is closed at the end, and when nobody goes on."""
    with closing(file):
        while part := file.read(PART):
            yield part


def write_rows(
    store: Store, sql: str, kind: str, *, stopped: Callable[[], bool], told: Callable[[int], object]
) -> IO[bytes]:
    """All rows of an SQL text as a file without a name, at its beginning; a CSV is the one that `atlas query` prints.

    Args:
        store: the atlas.
        sql: the text.
        kind: key of WRITERS.
        stopped: asked again and again whether to give up, with a StoreError.
        told: called with the number of rows that are written.

    Raises:
        StoreError: the SQL has a fault, there is no room on the disk, or it was stopped.
    """
    file = tempfile.TemporaryFile(prefix="atlas-")  # noqa: SIM115 - whoever fetches it closes it
    try:
        with store.stream(sql, stopped=stopped) as batches:
            WRITERS[kind](_counted(batches, stopped, told), file)
        file.seek(0)
    except OSError as error:
        file.close()
        raise StoreError(
            f"the file cannot be written ({error.strerror or error}): ask for fewer rows, or make room in {tempfile.gettempdir()}"
        ) from error
    except BaseException:
        file.close()
        raise
    return file


def _counted(
    batches: Iterable[pl.DataFrame], stopped: Callable[[], bool], told: Callable[[int], object]
) -> Iterator[pl.DataFrame]:
    rows = 0
    for batch in batches:
        if stopped():
            raise StoreError("the file was stopped")
        yield batch
        rows += batch.height
        told(rows)


def _write_csv(batches: Iterable[pl.DataFrame], file: IO[bytes]) -> None:
    for number, batch in enumerate(batches):
        csv_frame(batch).write_csv(file, include_header=number == 0)


def _write_parquet(batches: Iterable[pl.DataFrame], file: IO[bytes]) -> None:
    import pyarrow.parquet

    groups = _groups(batches)
    first = next(groups)
    with pyarrow.parquet.ParquetWriter(file, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for group in groups:
            writer.write_table(group)


def _groups(batches: Iterable[pl.DataFrame]) -> Iterator[pa.Table]:
    """Batches put together to groups; one at least, which may have no row."""
    held: list[pl.DataFrame] = []
    made = False
    for batch in batches:
        held.append(batch)
        if sum(one.height for one in held) >= GROUP:
            yield _as_arrow(held)
            held, made = [], True
    if held or not made:
        yield _as_arrow(held)


def _as_arrow(frames: list[pl.DataFrame]) -> pa.Table:
    """Frames as Arrow has them in any version; integers of 128 bits, which it lacks, as decimals."""
    frame = pl.concat(frames)
    wide = [name for name, kind in frame.schema.items() if kind == pl.Int128]
    try:
        frame = frame.with_columns(pl.col(wide).cast(pl.Decimal(38, 0)))
    except pl.exceptions.PolarsError as error:
        raise StoreError(
            f"column {wide[0]} has numbers of more than 38 digits, which Parquet lacks: cast it, as in x::varchar"
        ) from error
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


WRITERS = {"csv": _write_csv, "parquet": _write_parquet}
