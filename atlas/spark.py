"""Ask and score an export on Apache Spark: the queries of sql/, translated, over the export's Parquet files.

What is per prompt (distances, factors, random topics) is small and made by DuckDB as ever; Spark runs what reads the
activations, and gives back tables of a row per neuron.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from atlas.errors import AtlasError, StoreError
from atlas.exchange import Manifest, read_manifest
from atlas.store import Session, Store, read_sql

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JAVA_VERSION = 17
OF_THE_BUILD = ("activations", "prompts", "prompt_totals", "neurons", "embeddings", "examples", "saes")
PARTITIONED = ("activations",)
BROADCAST_BYTES = str(256 * 2**20)  # tables per prompt go to every executor, so that no activation has to move
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "16",  # what is shuffled is a row per neuron
    "spark.sql.autoBroadcastJoinThreshold": BROADCAST_BYTES,
    "spark.sql.execution.arrow.localRelationThreshold": BROADCAST_BYTES,
}


class SparkStore(Store):
    """An export on Spark, where an atlas file does: it is read by the same queries, and never written."""

    def __init__(self, folder: str | Path, session: ExportSession) -> None:
        super().__init__(folder)
        self._session = session

    @contextmanager
    def read(self, *, sealed: bool = False) -> Iterator[Session]:
        """A session of Spark."""
        yield self._session

    @contextmanager
    def write(self, *, threads: int | None = None) -> Iterator[Session]:
        """Refused."""
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


class ExportSession(Session):
    """Queries of sql/ on Spark. Frames come back as Polars frames; integers are as wide as Spark has them."""

    def __init__(self, spark: SparkSession, manifest: Manifest) -> None:
        from atlas.dialect import read_macros, read_views

        self._spark = spark
        self._manifest = manifest
        self._known: set[str] = set()
        self._macros, self._views = read_macros(read_sql("macros")), read_views(read_sql("views"))

    def sql(self, text: str, **parameters: Any) -> pl.DataFrame:
        """Rows of an SQL text in DuckDB's words."""
        from atlas.dialect import read_tables, translate

        for table in read_tables(text, self._macros):
            self._register(table)
        return self._rows(translate(text, parameters, macros=self._macros).select)

    def scan(self, session: Session, name: str, **parameters: Any) -> None:
        """See SparkStore.scan."""
        from atlas.dialect import read_tables, translate

        text, columns = read_sql(name), list[str]()
        for table in read_tables(text, {}):
            if table in OF_THE_BUILD:
                self._register(table)
            else:
                frame = session.sql(f'from "{table}"')
                columns += frame.columns
                self._spark.createDataFrame(_signed(frame).to_arrow()).createOrReplaceTempView(table)
        statement = translate(text, parameters, columns=columns)
        rows = self._rows(statement.select)
        assert statement.target is not None, f"{name} leaves nothing behind"
        if statement.kind == "create":
            session.keep(statement.target, rows)
        else:
            names = statement.columns or session.sql(f'from "{statement.target}" limit 0').columns
            rows.columns = list(names)
            session.append(statement.target, rows)

    def _register(self, name: str) -> None:
        """Let Spark know a table or view of the export by its name."""
        from atlas.dialect import read_tables

        if name in self._known:
            return
        self._known.add(name)
        if name in self._views:
            for table in read_tables(self._views[name], {}):
                self._register(table)
            self._spark.sql(self._views[name]).createOrReplaceTempView(name)
        else:
            files = [f"file://{path}" for path in self._manifest.files(name)]
            base = f"file://{self._manifest.folder}/{name if name in PARTITIONED else ''}"
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
    manifest = read_manifest(Path(folder).resolve())
    require_spark()
    spark = _start(master)
    try:
        yield SparkStore(folder, ExportSession(spark, manifest))
    finally:
        spark.stop()


def _start(master: str) -> SparkSession:
    """A session of Spark. What Java has to say goes into a file, and is read when it does not start."""
    with warnings.catch_warnings(), tempfile.TemporaryFile() as said:
        warnings.simplefilter("ignore", FutureWarning)  # pyspark 4 says so of every pandas 3
        from pyspark.sql import SparkSession

        builder = SparkSession.builder.master(master).appName("neuron-atlas")
        for name, value in SETTINGS.items():
            builder = builder.config(name, value)
        if master.startswith("local"):
            builder = builder.config("spark.driver.host", "localhost").config("spark.driver.bindAddress", "127.0.0.1")
        stderr = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            return builder.getOrCreate()
        except Exception as error:  # Java's, Py4J's and pyspark's, which share no parent
            said.seek(0)
            lines = f"{said.read().decode()}\n{error}".splitlines()
            reason = next((line for line in lines if "xception" in line), str(error)).strip()
            raise AtlasError(f"Apache Spark does not start at {master}: {reason}") from error
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def require_spark() -> None:
    """Raise AtlasError unless pyspark, sqlglot and a Java that Spark takes are there."""
    missing = [name for name in ("pyspark", "sqlglot") if importlib.util.find_spec(name) is None]
    if missing:
        raise AtlasError(f"engine spark needs {' and '.join(missing)}: pip install 'neuron-atlas[spark]'")
    found = java_version()
    if found is None or found < JAVA_VERSION:
        what = "there is none" if found is None else f"the one found is {found}"
        raise AtlasError(
            f"engine spark needs Java {JAVA_VERSION} or later, and {what}: install Debian's package "
            f"openjdk-{JAVA_VERSION}-jre-headless, or set JAVA_HOME"
        )


def java_version() -> int | None:
    """The version of the Java that Spark would take; None when there is none."""
    home = os.environ.get("JAVA_HOME")
    program = f"{home}/bin/java" if home else shutil.which("java")
    if program is None or not Path(program).exists():
        return None
    said = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else None
