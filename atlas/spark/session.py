"""Start Apache Spark, which is an extra and needs Java."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import AtlasError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JAVA_VERSION = 17
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


@contextmanager
def start_spark(master: str) -> Iterator[SparkSession]:
    """A session of Spark, until the context ends.

    Its executors run the Python of this process, unless PYSPARK_PYTHON names another one.

    Args:
        master: Spark's master: local[*], local[2], spark://host:7077 ...

    Raises:
        AtlasError: pyspark or Java is missing, or Spark cannot be started.
    """
    require_spark()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = _start(master)
    try:
        yield spark
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
            reason = first_cause(f"{said.read().decode(errors='replace')}\n{error}") or str(error).partition("\n")[0]
            raise AtlasError(
                f"Apache Spark does not start at {master}: {reason.rstrip('.')}; give another --master"
            ) from error
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def first_cause(said: str) -> str | None:
    """What lies at the bottom of the first stack trace in Java's words; None where there is none.

    A trace is told by its frames, which begin with a tab; the line before them is the exception, and "Caused by: " goes on
    with what lies below it (Throwable.printStackTrace).
    """
    found = None
    for line, following in pairwise([*said.splitlines(), ""]):
        if line.startswith("\t") or not following.startswith("\tat "):
            continue
        if found is not None and not line.startswith("Caused by: "):
            break
        found = line.removeprefix("Caused by: ").removeprefix('Exception in thread "main" ').removeprefix(": ")
    return found


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
