"""Benchmarks of neuron vectors: search, vectors, small_topic."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl

import atlas
import atlas.meaning.vector_products
from atlas.api import Atlas
from atlas.meaning.neuron_vectors import make_neuron_vectors
from atlas.meaning.vector_memory import VectorMemory
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.store.file import SCHEMA_VERSION, Store
from atlas.store.session import now
from atlas.texts.prompts import TextSet

from .building import build_loaded, some_prompts
from .measure import Figure, Setting, figure
from .scoring import read_matrix, synthetic_store
from .synthetic import DIMENSION, embed, make_atlas, make_topics, vectors_frame

COUNTER = itertools.count(1)
SAES = {  # SAEs, and neurons of each, that are searched
    "small": ((1, 2048),),
    "paper": ((1, 32_768), (26, 16_384)),
    "large": ((1, 32_768), (26, 16_384)),
}
SEVERAL = 64  # topics in one call
AIMS = {32_768: 0.03, 425_984: 0.3}  # seconds of a search
PROMPTS = {"small": 64, "paper": 8192, "large": 8192}


def write_vectors(path: Path, saes: int, neurons: int) -> Store:
    """A finished atlas of one prompt whose neurons have random vectors, and enough support to be found."""
    rng = np.random.default_rng(0)
    store = Store(path)
    store.create()
    ones = dict.fromkeys(("mass_mean", "mass_max", "mass_count", "square_mean", "square_max", "square_count"), 1.0)
    with store.write() as session:
        session.append("atlas", pl.DataFrame({
            "schema_version": [SCHEMA_VERSION], "state": ["complete"], "encoder": ["none"], "encoder_hash": ["none"],
            "reference_hash": ["synthetic"], "created_at": [now()], "libraries": ["{}"],
        }))  # fmt: skip
        session.append("prompts", pl.DataFrame({"prompt_id": [0], "text": ["a prompt"], "n_tokens": [1]}))
        session.append("embeddings", vectors_frame(rng, 1).with_row_index("prompt_id"))
        session.append("embedding_moments", pl.DataFrame({
            "mean": pl.Series(np.zeros((1, DIMENSION), np.float32)).arr.to_list(),
            "covariance": pl.Series([np.eye(DIMENSION, dtype=np.float32).tolist()]),
        }))  # fmt: skip
        for sae_key in range(saes):
            key = pl.lit(sae_key, pl.UInt32).alias("sae_key")
            session.append("saes", pl.DataFrame({
                "sae_id": [f"sae {sae_key}"], "release": ["synthetic"], "sae_hash": ["none"], "model": ["synthetic"],
                "model_hash": ["none"], "tokenizer_hash": ["none"], "hook_name": ["none"], "d_in": [8], "d_sae": [neurons],
                "dtype": ["float32"], "context_size": [64], "prepend_bos": [True], "center_writing_weights": [False],
            }).with_columns(key))  # fmt: skip
            session.append("neurons", pl.DataFrame({
                "neuron": range(neurons), "support": [100] * neurons, "density": [0.01] * neurons,
                "max_activation": [1.0] * neurons, "decoder_norm": [1.0] * neurons,
            }).with_columns(key, **{name: pl.lit(value) for name, value in ones.items()}))  # fmt: skip
            vectors = rng.standard_normal((neurons, DIMENSION), dtype=np.float32) / 50
            session.append("neuron_vectors", pl.DataFrame({
                "neuron": pl.Series(range(neurons), dtype=pl.UInt32), "vector": pl.Series(vectors).arr.to_list(),
                "square": [1.0] * neurons, "expected_g": [1.9] * neurons, "spread": 0.5 + rng.random(neurons),
            }).with_columns(key))  # fmt: skip
    return store


class Searched(Atlas):
    """An atlas whose texts are embedded at once: what is timed is all that a search takes but the encoder."""

    def _embedder(self, *_: object) -> object:  # type: ignore[override]
        self._row()  # as the encoder's name is looked up
        return lambda texts: vectors_frame(np.random.default_rng(len(texts)), len(texts))


def search(setting: Setting) -> Iterator[Figure]:
    """`a.search` of one text and of many, the encoder's time apart, against the bare products in SQL."""
    for saes, neurons in SAES[setting.scale]:
        path = (setting.kept or setting.folder) / f"vectors-{saes}-{neurons}.atlas"
        store = Store(path) if path.exists() else write_vectors(path, saes, neurons)
        opened, every = Searched(store), saes * neurons
        query = embed([1])["vector"][0].to_list()

        def products(store: Store = store, query: list[float] = query) -> None:
            with store.read() as session:
                session.sql("select max(list_inner_product(v.vector, $q::float[])) from neuron_vectors as v", q=query)

        def several(opened: Atlas = opened) -> None:
            opened.search_many({str(number): [f"text {number}"] for number in range(SEVERAL)})

        def first(opened: Atlas = opened) -> None:
            with patch.object(atlas.meaning.vector_products, "MEMORY", VectorMemory(0)):
                opened.search("a text")

        seconds = setting.time_all(
            {"one": lambda opened=opened: opened.search("a text"), "first": first, "several": several, "bare": products}
        )
        yield figure(f"a.search of one text, {every:,} neurons", seconds["one"], "s", at_most=AIMS.get(every))
        yield figure(f"the same with no vectors in memory, {every:,} neurons", seconds["first"], "s")
        yield figure(
            f"a.search of one text / products in bare SQL, {every:,} neurons", seconds["one"] / seconds["bare"]
        )
        ratio = seconds["several"] / seconds["one"]
        yield figure(f"{SEVERAL} topics in one call / one text, {every:,} neurons", ratio, at_most=3)


def vectors(setting: Setting) -> Iterator[Figure]:
    """A topic from vectors to stored scores with z against SciPy; what vectors add to a build and to the file."""
    store = synthetic_store(setting)
    with store.write() as session:
        session.run("drop_neuron_vectors")
    before = used_bytes(store)
    made = setting.time_once(lambda: _make(store))
    yield figure("neuron vectors of the synthetic atlas", made, "s")
    yield figure("bytes that they add to the file / the file without them", used_bytes(store) / before - 1, at_most=0.2)
    matrix, _ = read_matrix(store)
    powers = np.random.default_rng(0).random(matrix.shape[1], dtype=np.float32)
    config, opened = ScoringConfig(scorer="centroid"), Searched(store)

    def shown() -> None:
        opened.score(f"shown {next(COUNTER)}", ["a text", "another"], scorer="centroid")

    seconds = setting.time_all(
        {"centroid": lambda: score_one(store, config), "shown": shown, "scipy": lambda: matrix @ powers}
    )
    yield figure("one topic, vectors to stored scores with z", seconds["centroid"], "s")
    yield figure("it / SciPy CSR product in memory", seconds["centroid"] / seconds["scipy"], at_most=2)
    yield figure("the same by a.score, which gives the ten best neurons too", seconds["shown"], "s")


def used_bytes(store: Store) -> int:
    """Bytes of a file that are in use: DuckDB keeps what was dropped, and fills it again."""
    with store.read() as session:
        size = session.sql("from pragma_database_size() as s where s.database_name = 'held'")
    return int(size.item(0, "used_blocks")) * int(size.item(0, "block_size"))


def _make(store: Store) -> None:
    with store.write() as session:
        make_neuron_vectors(session)


def score_one(store: Store, config: ScoringConfig) -> dict[str, TextSet]:
    """Score a topic that the atlas does not know yet."""
    topics = make_topics(1, seed=next(COUNTER), prefix=config.scorer)
    score_topics(store, topics, embed=embed, config=config)
    return topics


def vector_build(setting: Setting) -> Iterator[Figure]:
    """The share of a real build that making vectors takes."""
    prompts = some_prompts(PROMPTS[setting.scale])
    path = setting.folder / "with-vectors.atlas"
    whole = setting.time_once(lambda: build_loaded(path, prompts))
    with Store(path).write() as session:
        session.run("drop_neuron_vectors")
    made = setting.time_once(lambda: _make(Store(path)))
    path.unlink()
    yield figure(f"build of {len(prompts.texts):,} prompts", whole, "s")
    yield figure("making its neuron vectors / the build", made / whole, at_most=0.1)


def small_topic(setting: Setting) -> Iterator[Figure]:
    """A topic on a small atlas, in a warm process and without the encoder: connections, statements, checkpoint."""
    path = setting.folder / "small.atlas"
    store = make_atlas(path, prompts=400, neurons=512, rows=20_000)
    opened = atlas.open(path)
    known = next(iter(score_one(store, ScoringConfig())))
    seconds = setting.time_all(
        {
            scorer: lambda config=ScoringConfig(scorer=scorer): score_one(store, config)
            for scorer in ("distance", "centroid")
        }
        | {"top": lambda: opened.top(known)}
    )
    for scorer in ("distance", "centroid"):
        yield figure(f"one topic by scorer {scorer}, 20,000 activation rows", seconds[scorer], "s", at_most=0.05)
    yield figure("its best neurons", seconds["top"], "s")
