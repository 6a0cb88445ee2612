"""Ask and score an export on Apache Spark: the queries of sql/, translated, over the export's Parquet files.

What is per prompt (distances, factors, random topics) is small and made by DuckDB as ever; Spark runs what reads the
activations, and gives back tables of a row per neuron.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import polars as pl

from atlas.errors import StoreError
from atlas.spark.session import start_spark
from atlas.store.contents import read_sql
from atlas.store.file import Store
from atlas.store.manifest import Manifest, check_files, read_manifest
from atlas.store.session import Asks, Session, Version

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OF_THE_BUILD = ("activations", "prompts", "prompt_totals", "neurons", "embeddings", "examples", "saes")
PARTITIONED = ("activations",)


class SparkStore(Store):
    """An export on Spark, where an atlas file does: it is read by the same queries, and never written."""

    def __init__(self, folder: str | Path, session: ExportSession) -> None:
        super().__init__(folder, own=True)
        self._session = session

    @property
    def manifest(self) -> Manifest:
        """What the export holds."""
        return self._session.manifest

    @contextmanager
    def read(self) -> Iterator[Asks]:
        """A session of Spark."""
        yield self._session

    def _require_file(self) -> None:
        """There is no file; see _connect."""

    @contextmanager
    def _connect(self, *, read_only: bool, threads: int | None = None, spoils: bool = False) -> Iterator[NoReturn]:
        """Refused: whatever else a Store does is done to the file of an atlas."""
        raise StoreError(f"{self.path} is an export, which is only read: make an atlas of it with `atlas import` first")
        yield

    def scan(self, session: Session, name: str, **parameters: Any) -> None:
        """Run a query of sql/ on Spark, and leave its rows in a session of DuckDB, where the query says.

        Tables of the build are read from the export; others it reads are taken from the session.
        """
        self._session.scan(session, name, **parameters)

    def require_same(self, store: Store) -> None:
        """Raise StoreError unless an atlas has the prompts and SAEs of this export."""
        with store.read() as session, self.read() as own:
            for query, columns in (("atlas_row", ["reference_hash"]), ("all_saes", ["sae_key", "sae_hash", "sae_id"])):
                one, other = (s.ask(query).select(columns).rows() for s in (session, own))
                if one != other:
                    raise StoreError(
                        f"{store.path} has other prompts or SAEs than {self.path}: export it again, or name the atlas "
                        "the export was made from"
                    )


class ExportSession:
    """Queries of sql/ on Spark. Frames come back as Polars frames; integers are as wide as Spark has them."""

    def __init__(self, spark: SparkSession, manifest: Manifest) -> None:
        from atlas.spark.dialect import read_macros, read_views

        self.version: Version | None = None
        self._spark = spark
        self.manifest = manifest
        self._known: set[str] = set()
        self._macros, self._views = read_macros(read_sql("macros")), read_views(read_sql("views"))

    def ask(self, name: str, /, **parameters: Any) -> pl.DataFrame:
        """Rows of the named query in sql/; parameters are put in the place of its $names."""
        return self.sql(read_sql(name), **parameters)

    def rows(self, name: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """The rows of a named query that gives few."""
        return self.ask(name, **parameters).to_dicts()

    def value(self, name: str, /, **parameters: Any) -> Any:
        """The first column of the first row of a named query; None when there is no row."""
        frame = self.ask(name, **parameters)
        return frame.item(0, 0) if frame.height else None

    def sql(self, text: str, **parameters: Any) -> pl.DataFrame:
        """Rows of an SQL text in DuckDB's words."""
        from atlas.spark.dialect import read_tables, translate

        for table in read_tables(text, self._macros):
            self._register(table)
        return self._rows(translate(text, parameters, macros=self._macros).select)

    def scan(self, session: Session, name: str, **parameters: Any) -> None:
        """See SparkStore.scan."""
        from atlas.spark.dialect import read_tables, translate

        text, columns = read_sql(name), list[str]()
        for table in read_tables(text, {}):
            if table in OF_THE_BUILD:
                self._register(table)
            else:
                frame = session.sql(f'from "{table}"')
                columns += frame.columns
                self._spark.createDataFrame(_signed(frame).to_arrow()).createOrReplaceTempView(table)
        statement = translate(text, parameters, columns=columns)
        if statement.target is None:
            raise ValueError(f"query {name} leaves nothing in the session")
        rows = self._rows(statement.select)
        if statement.kind == "create":
            session.keep(statement.target, rows)
        else:
            names = statement.columns or session.sql(f'from "{statement.target}" limit 0').columns
            rows.columns = list(names)
            session.append(statement.target, rows)

    def _register(self, name: str) -> None:
        """Let Spark know a table or view of the export by its name."""
        from atlas.spark.dialect import read_tables, spark_schema

        if name in self._known:
            return
        self._known.add(name)
        if name in self._views:
            for table in read_tables(self._views[name], {}):
                self._register(table)
            self._spark.sql(self._views[name]).createOrReplaceTempView(name)
        else:
            check_files(self.manifest, [name])
            if not self.manifest.files(name):  # an older export lacks a table, or has no activations
                self._spark.createDataFrame([], spark_schema(name)).createOrReplaceTempView(name)
                return
            files = [f"file://{path}" for path in self.manifest.files(name)]
            base = f"file://{self.manifest.folder}/{name if name in PARTITIONED else ''}"
            self._spark.read.option("basePath", base).parquet(*files).createOrReplaceTempView(name)

    def _rows(self, text: str) -> pl.DataFrame:
        return pl.DataFrame(pl.from_arrow(self._spark.sql(text).toArrow()))


def _signed(frame: pl.DataFrame) -> pl.DataFrame:
    """Spark knows no unsigned integers."""
    return frame.with_columns(pl.col(pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64).cast(pl.Int64))


@contextmanager
def open_spark(folder: str | Path, *, master: str = "local[*]") -> Iterator[SparkStore]:
    """An export on Spark, until the context ends.

    Args:
        folder: what `atlas export` wrote, at the same path on every machine of the cluster.
        master: Spark's master: local[*], local[2], spark://host:7077 ...

    Raises:
        AtlasError: pyspark or Java is missing, or Spark cannot be started.
        StoreError: the folder is no whole export of this schema version.
    """
    manifest = read_manifest(folder)
    with start_spark(master) as spark:
        yield SparkStore(folder, ExportSession(spark, manifest))
