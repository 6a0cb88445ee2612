"""Atlases in which hardly anything differs: a score is right, absent, or refused in one line; never NaN, infinite or noise."""

from __future__ import annotations

import itertools

import handmade
import numpy as np
import polars as pl
import pytest
import tiny

import atlas
import atlas.building.build
from atlas.errors import AtlasError
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.texts.prompts import collect_texts

PROMPTS, NEURONS = 40, 6
RNG = np.random.default_rng(0)
RAW = handmade.random_raw(RNG, PROMPTS, NEURONS)
VECTORS = handmade.unit_vectors(RNG, PROMPTS)


def odd_numbers(store):
    """(table, column) of every NaN or infinity in the file."""
    found = []
    with store.read() as session:
        columns = session.sql(
            "select table_name, column_name from information_schema.columns where data_type in ('DOUBLE', 'FLOAT')"
        )
        tables = set(
            session.sql("select table_name from information_schema.tables where table_type <> 'VIEW'")["table_name"]
        )
        for table, column in columns.rows():
            if table in tables:
                count = f'select count(*) from "{table}" where not isfinite("{column}")'
                found += [(table, column)] * bool(session.sql(count).item())
    return found


def spread(power):
    """Activations over many orders of magnitude."""
    return (RAW * np.float32(10) ** RNG.uniform(-power, power, RAW.shape)).astype(np.float32)


def one_firing():
    raw = np.zeros_like(RAW)
    raw[:, :, 0] = 1
    return raw


ACTIVATIONS = {
    "usual": RAW,
    "constant": np.ones_like(RAW),
    "huge": RAW * np.float32(1e30),
    "tiny": RAW * np.float32(1e-30),
    "of all sizes": spread(15),
    "dead": np.zeros_like(RAW),
    "one neuron": one_firing(),
    "two neurons": RAW[:, :, :2],
    "each prompt its neuron": np.stack([np.eye(PROMPTS, NEURONS, dtype=np.float32)] * 3),
}
EMBEDDINGS = {
    "usual": VECTORS,
    "equal": np.repeat(VECTORS[:1], PROMPTS, axis=0),
    "two": VECTORS[np.arange(PROMPTS) % 2],
    "opposite": VECTORS[:1] * np.where(np.arange(PROMPTS)[:, None] % 2, 1, -1).astype(np.float32),
    "nearly equal": (VECTORS[:1] + np.float32(1e-7) * VECTORS).astype(np.float32),
}
TOPICS = {
    "usual": handmade.unit_vectors(RNG, 3),
    "one text": VECTORS[7:8],
    "all prompts": VECTORS,
    "equal": VECTORS[[0, 0]],
}


CASES = [*itertools.product(ACTIVATIONS, ("usual", "nearly equal")), *itertools.product(("usual",), EMBEDDINGS)]


@pytest.mark.parametrize(("activations", "embeddings"), dict.fromkeys(CASES))
def test_whatever_is_stored_is_a_number(tmp_path, activations, embeddings):
    raw = ACTIVATIONS[activations]
    raw = np.stack([raw[0], raw[1], np.where(raw[2] > 0, np.maximum(1, raw[2].clip(0, 9)), 0)])  # counts are small
    store = handmade.make_store(tmp_path / "x.atlas", [raw], EMBEDDINGS[embeddings])
    outcomes = set()
    settings = [
        ("usual", "euclidean", 2, 1), ("one text", "cosine", 0.5, 20), ("all prompts", "euclidean", 256, 1),
        ("equal", "euclidean", 2, 20),
    ]  # fmt: skip
    for number, (topic, distance, power, least) in enumerate(settings):
        embed = handmade.Embedder({f"{number} {i}": vector for i, vector in enumerate(TOPICS[topic])})
        config = ScoringConfig(distance=distance, power=power, min_support=least, null_topics=2)
        sets = {f"topic {number}": collect_texts(list(embed.vectors))}
        try:
            score_topics(store, sets, embed=embed, config=config, bootstraps=2)
            outcomes.add("scored")
        except AtlasError as error:
            assert "cannot be told apart" in str(error) and "\n" not in str(error)
            outcomes.add("refused")
    assert odd_numbers(store) == []
    with store.read() as session:
        scores = session.sql("select s.score, s.se, s.z from scores as s where s.score is not null")
    assert scores["score"].is_between(0, 1).all()
    if embeddings in ("equal", "nearly equal") or activations in ("constant", "dead", "one neuron"):
        assert outcomes == {"refused"} and scores.is_empty()
    if (activations, embeddings) == ("usual", "usual"):
        assert "scored" in outcomes and scores["z"].abs().max() > 0
    if not scores.is_empty():
        assert (scores["se"].drop_nulls() < 1e3).all()


@pytest.fixture(scope="module")
def same_words(tmp_path_factory, gpt2_folder, sae_folder, loaders):
    """An atlas of 60 prompts that the sentence encoder reads as one, for it knows no case."""
    path = tmp_path_factory.mktemp("same") / "same.atlas"
    prompts = [
        "".join(c) for c in itertools.islice(itertools.product(*[(x.lower(), x.upper()) for x in "shipsea"]), 60)
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name, loader in loaders.items():
            patch.setattr(atlas.building.build, name, loader)
        report = atlas.building.build.build_atlas(
            path, collect_texts(prompts), model=str(gpt2_folder), saes=[(str(sae_folder), "residual")]
        )
    assert report.same_embeddings == 59
    return path


@pytest.mark.parametrize("texts", [tiny.SEA, ("shipsea",), tiny.MEDICINE[:1]], ids=["other", "the same", "one text"])
@pytest.mark.parametrize("bootstraps", [0, 3])
def test_prompts_of_one_embedding_cannot_be_scored(same_words, texts, bootstraps):
    opened = atlas.open(same_words)
    with pytest.raises(
        AtlasError, match="and all are equal, so scores cannot be told apart: build the atlas of prompts"
    ):
        opened.score("sea", list(texts), min_support=5, bootstraps=bootstraps)
    assert opened.sql("select count(*) from scorings").item() == 0
    assert isinstance(opened.info()["topics"], pl.DataFrame)
