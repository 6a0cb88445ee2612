"""Benchmarks over a synthetic atlas: score, score_many, uncertainty, storage, exchange_memory, growth."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse

from atlas.building.finish import write_sorted
from atlas.scoring.config import ScoringConfig
from atlas.scoring.distances import make_distances
from atlas.scoring.score import score_topics
from atlas.store.file import Store
from atlas.store.session import SCANNING, scan_here
from atlas.texts.prompts import TextSet

from .measure import Figure, Setting, exponent, figure, file_bytes, peak_memory
from .published import score_from_csv, write_csv
from .synthetic import EXAMPLES, embed, make_atlas, make_topics, write_shards

PLAIN = ScoringConfig(null_topics=0)
COUNTER = itertools.count(1)
GROWTH = {
    "small": (1024, [30_000, 100_000, 300_000]),
    "paper": (32768, [3_000_000, 9_000_000, 30_000_000]),
    "large": (32768, [30_000_000, 90_000_000, 300_000_000]),
}
MANY = (16, 64)  # topics in one call
DENSITY = 0.11  # share of (neuron, prompt) that fired, in growth
GROWTH_MEMORY = "4GB"
MEAN_WITHOUT_ERROR = """
    select a.neuron, sum(a.act_sum * f.factor) from activations as a join plain_factors as f on f.prompt_id = a.prompt_id
    where a.sae_key = 0 group by a.neuron
"""


def synthetic_store(setting: Setting) -> Store:
    """A copy of the synthetic atlas, which is made once."""
    size = setting.size
    path = (setting.kept or setting.folder) / f"synthetic-{size.prompts}-{size.neurons}-{size.rows}.atlas"
    if not path.exists():
        make_atlas(path, prompts=size.prompts, neurons=size.neurons, rows=size.rows)
    return Store(shutil.copy(path, setting.folder / f"copy-{next(COUNTER)}.atlas"))


def score_new(store: Store, count: int, config: ScoringConfig = PLAIN) -> dict[str, TextSet]:
    """Score so many topics that the atlas does not know yet, in one call."""
    topics = make_topics(count, seed=next(COUNTER))
    score_topics(store, topics, embed=embed, config=config)
    return topics


def read_matrix(store: Store) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """The weights [neuron, prompt] as SciPy has them, and the embeddings [prompt, dimension]."""
    with store.read() as session:
        rows = session.sql(
            "select a.neuron, a.prompt_id, (a.act_sum / p.sum_total)::float as w from activations as a "
            "join prompt_totals as p on p.prompt_id = a.prompt_id order by a.neuron, a.prompt_id"
        )
        vectors = session.ask("embedding_vectors")["vector"].explode().to_numpy().reshape(-1, _dimension(session))
        neurons = session.sql("select count(*) from neurons").item()
    counts = np.bincount(rows["neuron"].to_numpy(), minlength=neurons)
    pointers = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    columns = rows["prompt_id"].to_numpy().astype(np.int32)
    return scipy.sparse.csr_matrix((rows["w"].to_numpy(), columns, pointers), shape=(neurons, len(vectors))), vectors


def _dimension(session) -> int:
    return int(session.sql("select len(vector) from embeddings limit 1").item())


def score(setting: Setting) -> Iterator[Figure]:
    """One topic from embeddings to stored scores, against the published approach, SciPy and a bare sum."""
    store = synthetic_store(setting)
    matrix, vectors = read_matrix(store)
    topic = embed(range(20))["vector"].explode().to_numpy().reshape(20, -1)
    powers = np.random.default_rng(0).random(matrix.shape[1], dtype=np.float32)
    csv = setting.folder / "dense.csv"
    write_csv(store, csv)

    def bare_sum() -> None:
        with store.read() as session:
            session.sql("select sum(act_sum) from activations")

    seconds = setting.time_all(
        {
            "score": lambda: score_new(store, 1),
            "vectors": lambda: score_new(store, 1, ScoringConfig(scorer="centroid")),
            "published": lambda: score_from_csv(csv, vectors, topic),
            "scipy": lambda: matrix @ powers,
            "bare sum": bare_sum,
        }
    )
    csv.unlink()
    yield figure("one topic, embeddings to stored scores", seconds["score"], "s")
    yield figure("published approach (dense CSV, loop over prompts)", seconds["published"], "s", runs=_runs(seconds))
    yield figure("published approach / ours", seconds["published"] / seconds["score"], at_least=200)
    yield figure("published approach / ours by neuron vectors", seconds["published"] / seconds["vectors"], at_least=200)
    yield figure("ours / SciPy CSR product in memory", seconds["score"] / seconds["scipy"], at_most=4)
    yield figure("ours / bare sum over the column", seconds["score"] / seconds["bare sum"], at_most=5)
    yield figure("largest difference of the scores from the published", _difference(store, csv, vectors), "score")


def _runs(seconds: dict[str, np.ndarray]) -> int:
    return len(set(seconds["published"].tolist()))


def _difference(store: Store, csv: Path, vectors: np.ndarray) -> float:
    """The published code has no support filter: neurons that never fired are left out on both sides."""
    write_csv(store, csv)
    topics = make_topics(1, seed=next(COUNTER))
    ids = score_topics(store, topics, embed=embed, config=ScoringConfig(null_topics=0, min_support=1))
    texts = next(iter(topics.values())).texts
    theirs = score_from_csv(csv, vectors, embed(texts)["vector"].explode().to_numpy().reshape(len(texts), -1))
    csv.unlink()
    with store.read() as session:
        found = session.sql(
            "select score from scores where scoring_id = $id order by neuron", id=next(iter(ids.values()))[0]
        )
    return float(np.nanmax(np.abs(found["score"].to_numpy() - theirs)))


def score_many(setting: Setting) -> Iterator[Figure]:
    """16 and 64 topics in one call, per topic, against one topic and a SciPy product with a dense matrix."""
    store = synthetic_store(setting)
    matrix, _ = read_matrix(store)
    rng = np.random.default_rng(0)
    calls: dict[str, Callable[[], object]] = {"one": lambda: score_new(store, 1)}
    for count in MANY:
        powers = rng.random((matrix.shape[1], count), dtype=np.float32)
        calls[f"ours {count}"] = lambda count=count: score_new(store, count)
        calls[f"scipy {count}"] = lambda powers=powers: matrix @ powers
    seconds = setting.time_all(calls)
    for count in MANY:
        each, theirs = seconds[f"ours {count}"] / count, seconds[f"scipy {count}"] / count
        target = 0.2 if count == 16 else None
        yield figure(f"{count} topics, per topic", each, "s")
        yield figure(f"{count} topics, per topic / one topic", each / seconds["one"], at_most=target)
        yield figure(f"{count} topics, ours / SciPy product with a dense matrix", each / theirs, at_most=4)


def uncertainty(setting: Setting) -> Iterator[Figure]:
    """What the standard error and z add to a topic's scores."""
    store = synthetic_store(setting)
    supports = itertools.count(20)  # another least support is another null, so that none is there already

    def scan(query: Callable) -> Callable[[], object]:
        def call() -> None:
            with store.write() as session:
                topic = pl.DataFrame({"topic_id": pl.Series([topic_id], dtype=pl.UInt32)})
                make_distances(session, [topic_id])
                with session.frame("wanted", topic):
                    session.run("make_factors", sae_key=0, distance="euclidean", power=2.0, summary="mean")
                    session.run("pivot_factors")
                    query(session)

        return call

    def with_error(session) -> None:
        scan_here(session, "sum_distances", sae_key=0, summary="mean")
        session.run("compute_scores", sae_key=0, summary="mean", min_support=20)

    def without_error(session) -> None:
        session.sql(
            "create or replace temp table plain_factors as "
            "select prompt_id, share * columns('distance.*') as factor from factors"
        )
        with session.settings(**SCANNING):
            session.sql("create or replace temp table plain as" + MEAN_WITHOUT_ERROR)

    name = next(iter(score_new(store, 1)))
    with store.read() as session:
        topic_id = session.value("topic_id", topic=name)
    seconds = setting.time_all(
        {
            "plain": scan(without_error),
            "error": scan(with_error),
            "one": lambda: score_new(store, 1),
            "z": lambda: score_new(store, 1, ScoringConfig(min_support=next(supports))),
            "z known": lambda: score_new(store, 1, ScoringConfig(min_support=19)),
        }
    )
    yield figure("score with standard error / mean distance alone", seconds["error"] / seconds["plain"], at_most=2)
    yield figure("score with z, 64 random topics drawn for it / one topic", seconds["z"] / seconds["one"], at_most=12)
    yield figure("score with z, random topics known / one topic", seconds["z known"] / seconds["one"])


def storage(setting: Setting) -> Iterator[Figure]:
    """Bytes per activation row in the finished file, against zstd Parquet of the same columns."""
    store = synthetic_store(setting)
    parquet = setting.folder / "activations.parquet"
    with Store(store.path, allowed=[setting.folder]).read_file() as session:
        rows = session.write_parquet("from activations", parquet)
    ours, theirs = file_bytes(store.path), file_bytes(parquet)
    parquet.unlink()
    yield figure("whole atlas file, per activation row", ours / rows, "bytes")
    yield figure("zstd Parquet of the activations, per row", theirs / rows, "bytes")
    yield figure("atlas file / zstd Parquet", ours / theirs, at_most=1.2)


def exchange_memory(setting: Setting) -> Iterator[Figure]:
    """Peak memory of whole processes that export an atlas and import it again, with its rows and with three times them."""
    peaks: dict[str, list[float]] = {"export": [], "import": []}
    for times in (1, 3):
        path, folder, copy = (setting.folder / name for name in ("moved.atlas", "moved", "moved-back.atlas"))
        size, rows = setting.size, times * setting.size.rows
        make_atlas(path, prompts=times * size.prompts, neurons=size.neurons, rows=rows)
        peaks["export"].append(peak_memory("export", path, folder))
        path.unlink()
        peaks["import"].append(peak_memory("import", folder, copy))
        copy.unlink()
        shutil.rmtree(folder)
        for what, found in peaks.items():
            yield figure(f"peak memory of an {what}, {rows:,} rows", found[-1], "MiB")
    for what, (few, many) in peaks.items():
        yield figure(f"{what}: peak at three times the rows / at the rows", many / few, at_most=1.1)


def growth(setting: Setting) -> Iterator[Figure]:
    """How the times of scoring and of finishing a build (sort, settle, write) grow with the rows."""
    neurons, sizes = GROWTH[setting.scale]
    built, scored, rows_found = [], [], []
    for rows in sizes:
        path = setting.folder / f"growth-{rows}.atlas"
        prompts = round(rows / neurons / DENSITY)
        store = write_shards(path, prompts=prompts, neurons=neurons, rows=rows, memory_limit=GROWTH_MEMORY)
        built.append(setting.time_once(lambda store=store: write_sorted(store, EXAMPLES)))
        with store.read() as session:
            rows_found.append(session.sql("select count(*) from activations").item())
        scored.append(np.median(setting.time_all({"score": lambda store=store: score_new(store, 1)})["score"]))
        path.unlink()
        yield figure(f"finish a build of {rows_found[-1]:,} rows", built[-1], "s")
        yield figure(f"score {rows_found[-1]:,} rows", scored[-1], "s", runs=setting.runs)
    yield figure("finish: exponent of time against rows", exponent(rows_found, built), "", at_most=1.05)
    yield figure("score: exponent of time against rows", exponent(rows_found, scored), "", at_most=1.05)
