"""Which engine a command asks: DuckDB, in the atlas file; or Apache Spark, over a folder that `atlas export` wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from atlas.cli.output import echo

if TYPE_CHECKING:
    from atlas.api import Atlas
    from atlas.spark.query import SparkStore
    from atlas.store.session import Scan

ENGINES = ("duckdb", "spark")
master_option = click.option("--master", default="local[*]", show_default=True, help="Engine spark: Spark's master.")


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options --engine and --master."""
    engine = click.option(
        "--engine",
        default="duckdb",
        show_default=True,
        type=click.Choice(ENGINES),
        help="duckdb, or spark: ATLAS is then a folder that `atlas export` wrote.",
    )
    return engine(master_option(command))


@contextmanager
def open_on(engine: str, path: str, *, master: str) -> Iterator[Atlas]:
    """The atlas file, or the export on Spark, to read."""
    import atlas as library
    from atlas.store.file import Store

    if engine == "duckdb":
        yield library.Atlas(Store(path))  # the first question checks the file
        return
    with _open_on_spark(path, master=master) as store:
        yield library.Atlas(store)


@contextmanager
def _open_on_spark(path: str, *, master: str) -> Iterator[SparkStore]:
    from atlas.cli.exchange import warn_of_missing_hashes

    from atlas.spark.query import open_spark

    echo("starting Spark ...", err=True)
    with open_spark(path, master=master) as store:
        warn_of_missing_hashes(store.manifest)
        yield store


@contextmanager
def open_to_score(engine: str, path: str, *, master: str, into: str | None) -> Iterator[tuple[Atlas, Scan]]:
    """Where topics and scores go, and what runs the queries over the activations.

    On Spark, scores go into the atlas `into`, or, when there is none, into one that is gone afterwards.
    """
    import atlas as library
    from atlas.store.file import Store
    from atlas.store.session import scan_here

    if engine == "duckdb":
        yield library.open(path), scan_here
        return
    from atlas.store.exchange import open_export

    with _open_on_spark(path, master=master) as export:
        if into is None:
            with open_export(path) as store:
                yield library.Atlas(store), export.scan
        else:
            export.require_same(Store(into))
            yield library.open(into), export.scan
