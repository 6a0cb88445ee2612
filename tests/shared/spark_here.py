"""Whether Spark can run here, and how it starts soonest."""

from __future__ import annotations

import importlib.util

import pytest

from atlas.errors import AtlasError
from atlas.spark.session import require_spark

QUICK = {  # a short life is not worth compiling for
    "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1",
    "PYSPARK_SUBMIT_ARGS": "--conf spark.sql.codegen.wholeStage=false --conf spark.sql.codegen.factoryMode=NO_CODEGEN "
    "pyspark-shell",
}


def why_not() -> str | None:
    """Why Spark cannot run here."""
    try:
        require_spark()
    except AtlasError as error:
        return str(error)
    return None


REASON = why_not()

needs_spark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

needs_sqlglot = pytest.mark.skipif(importlib.util.find_spec("sqlglot") is None, reason="sqlglot is not installed")
