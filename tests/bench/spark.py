"""Benchmark of scoring on Apache Spark: spark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from atlas.errors import AtlasError
from atlas.scoring.score import score_topics
from atlas.spark.query import open_spark
from atlas.spark.session import require_spark
from atlas.store.exchange import export_atlas
from atlas.store.file import Store
from atlas.store.session import Scan, scan_here

from .measure import Figure, Setting, Unavailable, exponent, figure
from .scoring import COUNTER, DENSITY, PLAIN
from .synthetic import embed, make_atlas, make_topics

MASTER = "local[2]"
ROWS = {
    "small": (1024, [30_000, 90_000, 300_000]),
    "paper": (32768, [3_000_000, 9_000_000, 30_000_000]),
    "large": (32768, [3_000_000, 9_000_000, 30_000_000]),
}
TEXTS = 20


def score_on(store: Store, scan: Scan) -> np.ndarray:
    """The scores [neuron] of a topic that the atlas does not know yet; its embeddings are the same every time."""
    topics = make_topics(1, texts=TEXTS, seed=next(COUNTER))
    [[scoring_id]] = score_topics(store, topics, embed=embed, config=PLAIN, scan=scan).values()
    with store.read() as session:
        found = session.sql("select score from scores where scoring_id = $id order by neuron", id=scoring_id)
    return found["score"].to_numpy()


def spark(setting: Setting) -> Iterator[Figure]:
    """One topic from embeddings to stored scores, the activations read from exported Parquet by Spark, or by DuckDB.

    By the wall clock, whatever is asked for: Spark works in a process of its own.
    """
    try:
        require_spark()
    except AtlasError as error:
        raise Unavailable(str(error)) from error
    setting = replace(setting, clock="wall")
    neurons, sizes = ROWS[setting.scale]
    rows_found, medians, difference = [], {"spark": [], "duckdb": []}, 0.0
    for rows in sizes:
        store = make_atlas(
            setting.folder / f"spark-{rows}.atlas", prompts=round(rows / neurons / DENSITY), neurons=neurons, rows=rows
        )
        folder = setting.folder / f"spark-{rows}"
        count = export_atlas(store, folder).rows("activations")
        with open_spark(folder, master=MASTER) as export:
            calls = {"spark": lambda: score_on(store, export.scan), "duckdb": lambda: score_on(store, scan_here)}
            ours, theirs = (call() for call in calls.values())  # Spark's first query is several times slower
            seconds = setting.time_all(calls)
        difference = max(difference, float(np.nanmax(np.abs(ours - theirs))))
        assert np.array_equal(np.isnan(ours), np.isnan(theirs))
        rows_found.append(count)
        for engine, found in seconds.items():
            medians[engine].append(float(np.median(found)))
        store.path.unlink()
        shutil.rmtree(folder)
        yield figure(f"Spark at {MASTER}, {count:,} rows", seconds["spark"], "s")
        yield figure(f"DuckDB, {count:,} rows", seconds["duckdb"], "s")
        yield figure(f"Spark / DuckDB, {count:,} rows", seconds["spark"] / seconds["duckdb"])
    for engine, name in (("spark", "Spark"), ("duckdb", "DuckDB")):
        yield figure(f"{name}: exponent of time against rows", exponent(rows_found, medians[engine]), "")
    yield figure("largest difference of a score on Spark from DuckDB's", difference, "score", at_most=1e-6)
