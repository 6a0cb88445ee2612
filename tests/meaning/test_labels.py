"""Labels are words of a neuron's prompts, are good where the neuron has a meaning, and stand where tokens stood."""

from __future__ import annotations

import handmade
import numpy as np
import polars as pl
import pytest

import atlas
import atlas.meaning.labels
from atlas.errors import AtlasError
from atlas.meaning.label_comparison import KINDS, compare_labels
from atlas.meaning.label_quality import GOOD, measure_quality, split_prompts
from atlas.meaning.labels import choose_terms, label_neurons
from atlas.meaning.terms import collect_terms
from atlas.store.contents import read_sql
from atlas.store.exchange import export_atlas, import_atlas
from atlas.store.file import Store

SUBJECTS = {
    "sea": [
        "harbour",
        "sailor",
        "anchor",
        "lighthouse",
        "ferry",
        "captain",
        "lagoon",
        "tide",
        "oyster",
        "gull",
        "mast",
        "dolphin",
    ],
    "kitchen": [
        "kettle",
        "oven",
        "butter",
        "recipe",
        "spoon",
        "flour",
        "pepper",
        "dinner",
        "saucepan",
        "garlic",
        "noodle",
        "toast",
    ],
    "law": [
        "judge",
        "verdict",
        "lawyer",
        "witness",
        "statute",
        "appeal",
        "bailiff",
        "lawsuit",
        "jury",
        "clerk",
        "tribunal",
        "notary",
    ],
    "snow": [
        "skis",
        "glacier",
        "sledge",
        "avalanche",
        "icicle",
        "blizzard",
        "frost",
        "igloo",
        "slope",
        "chairlift",
        "toboggan",
        "hail",
    ],
}
FILLERS = ("the", "of", "and", "then", "with")
EACH, WIDTH, NEURONS = 90, 8, 6  # prompts of a subject; neuron 4 fires anywhere, neuron 5 nowhere
RNG = np.random.default_rng(3)


def near(subject):
    """An embedding near the axis of a subject."""
    vector = np.eye(WIDTH)[subject] + 0.25 * RNG.standard_normal(WIDTH)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def write_prompts():
    """Texts with two words of their subject each, among words of grammar, and their embeddings."""
    texts, vectors = [], []
    for number, words in enumerate(SUBJECTS.values()):
        for _ in range(EACH):
            one, other = RNG.choice(words, 2, replace=False)
            texts.append(
                " ".join([*RNG.choice(FILLERS, 3), one, *RNG.choice(FILLERS, 2), other, *RNG.choice(FILLERS, 2)])
            )
            vectors.append(near(number))
    return texts, np.array(vectors)


TEXTS, VECTORS = write_prompts()
WORDS = {word: near(number) for number, words in enumerate(SUBJECTS.values()) for word in words}


class Embedder:
    """Embeds words of subjects near their prompts, and others anywhere; keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked += texts
        found = [
            next((v for word, v in WORDS.items() if set(word.split()) & set(text.split())), None) for text in texts
        ]
        other = handmade.unit_vectors(np.random.default_rng(5), len(texts), WIDTH)
        vectors = [other[i] if vector is None else vector for i, vector in enumerate(found)]
        return pl.DataFrame({"vector": [vector.tolist() for vector in vectors]}, schema={"vector": pl.List(pl.Float32)})


def planted_raw():
    """Neuron n of the first four fires on subject n, strongly, and here and there weakly; one fires anywhere."""
    subject = np.repeat(np.arange(4), EACH)
    count = (RNG.random((4 * EACH, NEURONS)) < 0.1).astype(float)
    peak = 0.1 * count * RNG.random(count.shape)
    for neuron in range(4):
        fires = (subject == neuron) & (RNG.random(4 * EACH) < 0.9)
        count[fires, neuron] = 2
        peak[fires, neuron] = 1 + RNG.random(fires.sum())
    count[:, 4] = RNG.random(4 * EACH) < 0.5
    peak[:, 4] = count[:, 4] * RNG.random(4 * EACH)
    count[:, 5] = peak[:, 5] = 0
    return np.stack([peak, peak, count]).astype(np.float32)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    store = handmade.make_store(tmp_path_factory.mktemp("labels") / "x.atlas", [planted_raw()], VECTORS)
    tokens = [("harbour", 0), (" sailor", 0), ("oven", 1), ("judge", 2), ("skis", 3), ("of", 4)]
    with store.write() as session:
        session._execute("delete from prompts")
        session.append(
            "prompts", pl.DataFrame({"prompt_id": range(len(TEXTS)), "text": TEXTS, "n_tokens": [9] * len(TEXTS)})
        )
        session.append("examples", pl.DataFrame({
            "sae_key": 0, "neuron": [n for _, n in tokens], "rank": range(1, 7), "token": [t for t, _ in tokens],
            "prompt_id": [int(split_prompts(len(TEXTS))[0][0])] * 6, "position": 1, "activation": 1.0, "context": "«»",
        }))  # fmt: skip
    return store


@pytest.fixture(scope="module")
def store(unlabelled, tmp_path_factory):
    path = tmp_path_factory.mktemp("labelled") / "x.atlas"
    path.write_bytes(unlabelled.path.read_bytes())
    store = Store(path)
    label_neurons(store, embed=Embedder())
    return store


def labels_of(store):
    with store.read() as session:
        return session.ask("labelled_neurons", source="words", sae=None)


def test_a_neuron_with_a_meaning_gets_words_of_its_prompts_and_a_good_quality(store):
    found = labels_of(store)
    assert found["neuron"].to_list()[:4] == [0, 1, 2, 3]
    for row, words in zip(found.head(4).iter_rows(named=True), SUBJECTS.values(), strict=True):
        assert set(row["label"].split(", ")) <= set(words)
        assert row["quality"] > 0.8  # 7/8 tells the subject, and nothing more
        assert row["shown"]


def test_a_neuron_without_a_meaning_is_not_shown_by_a_label_and_one_that_never_fired_has_none(store):
    found = labels_of(store).filter(pl.col("neuron") >= 4)
    assert not found["shown"].any()
    assert 5 not in found["neuron"]


def test_no_label_knows_the_prompts_that_it_is_tested_on(unlabelled, store, tmp_path):
    making, testing = split_prompts(len(TEXTS))
    assert not set(making) & set(testing)
    assert len(making) + len(testing) == len(TEXTS)
    path = tmp_path / "y.atlas"
    path.write_bytes(unlabelled.path.read_bytes())
    other = Store(path)
    with other.write() as session:
        session._execute(
            f"update prompts set text = 'penguin ' || prompt_id where prompt_id in {tuple(map(int, testing))}"
        )
        session._execute(f"update activations set act_sum = 9 where prompt_id in {tuple(map(int, testing))}")
    label_neurons(other, embed=Embedder())
    assert labels_of(other)["label"].to_list() == labels_of(store)["label"].to_list()


def test_each_word_is_embedded_once(unlabelled, tmp_path, monkeypatch):
    path = tmp_path / "y.atlas"
    path.write_bytes(unlabelled.path.read_bytes())
    monkeypatch.setattr(atlas.meaning.labels, "EMBEDDED", 7)
    embedder = Embedder()
    label_neurons(Store(path), embed=embedder)
    assert len(embedder.asked) == len(set(embedder.asked)) > 15


def test_runs_of_any_length_give_the_same_labels(unlabelled, store, tmp_path, monkeypatch):
    path = tmp_path / "y.atlas"
    path.write_bytes(unlabelled.path.read_bytes())
    monkeypatch.setattr(atlas.meaning.labels, "NEURONS", 1)
    monkeypatch.setattr(atlas.store.weights, "ROWS", 100)
    label_neurons(Store(path), embed=Embedder())
    assert labels_of(Store(path)).equals(labels_of(store))


def test_quality_is_the_share_of_pairs_that_stand_right():
    embeddings = np.array([[1, 0], [0.9, 0], [0.5, 0], [0.1, 0], [-1, 0]])
    best, worst = np.array([0, 1]), np.array([4])
    assert measure_quality(np.array([[2.0, 0]] * 3), [best, worst, None], embeddings) == [1.0, 0.0, None]
    assert measure_quality(np.array([[0.0, 0]]), [best], embeddings) == [0.5]


def test_labels_tell_more_than_random_words(store):
    found = compare_labels(store, embed=Embedder(), source="words")
    assert found["words"].to_list() == list(KINDS)
    mean = dict(zip(found["words"], found["mean"], strict=True))
    assert mean["label"] > 0.75
    assert mean["label"] > mean["random words"] + 0.2
    assert mean["tokens it writes"] == pytest.approx(0.5, abs=0.25)


def test_terms_neither_begin_nor_end_with_a_word_of_grammar():
    texts = [f"the salt water of harbour {word}" for word in ("x", "y", "z")] * 10 + ["of the of the"] * 1000
    found = collect_terms(texts)
    names = set(found.names)
    assert {"salt", "water", "salt water"} <= names
    assert not any(name.split()[0] in ("the", "of") or name.split()[-1] in ("the", "of") for name in names)
    assert "x" not in names
    column = found.names.index("salt water")
    assert found.occurrences[:, [column]].toarray().ravel().tolist() == [1] * 30 + [0] * 1000


def test_a_label_says_nothing_twice():
    names = ["heart", "heart attack", "hearts", "surgeon", "surely", "far behind"]
    assert choose_terms(np.array([9, 10, 8, 6, 5.5, 1.0]), names) == [1, 3, 4]
    assert choose_terms(np.array([3, 2.9, 2.8, 2.7]), ["take", "taking", "seal", "seed"]) == [0, 2, 3]
    assert choose_terms(np.array([3, 2.9, 2.8]), ["seed", "seeds", "own"]) == [0, 2]
    assert choose_terms(np.full(5, -np.inf), names) == []


def test_an_atlas_without_words_is_refused_in_a_line(unlabelled, tmp_path):
    path = tmp_path / "y.atlas"
    path.write_bytes(unlabelled.path.read_bytes())
    with Store(path).write() as session:
        session._execute("update prompts set text = prompt_id::varchar")
    with pytest.raises(AtlasError, match="no word stands in enough of the 240 prompts"):
        label_neurons(Store(path), embed=Embedder())


def test_the_view_shows_labels_from_the_quality_that_the_program_says():
    assert f"l.quality >= {GOOD} " in read_sql("views")
    assert f"quality is {GOOD} or more" in read_sql("views")


def test_a_users_own_label_is_shown_before_others_and_a_second_call_keeps_it(store, tmp_path):
    path = tmp_path / "y.atlas"
    path.write_bytes(store.path.read_bytes())
    own = {
        "sae_key": [0, 0, 0],
        "neuron": [0, 1, 4],
        "source": ["neuronpedia", "user", "user"],
        "label": ["ports", "my own", "any"],
    }
    with Store(path).write() as session:
        session.append("labels", pl.DataFrame(own, schema_overrides={"sae_key": pl.UInt32, "neuron": pl.UInt32}))
    label_neurons(Store(path), embed=Embedder())
    with Store(path).read() as session:
        shown = session.sql("select neuron, label from neuron_labels order by neuron").rows()
    assert [shown[0], shown[1], shown[4]] == [(0, "ports"), (1, "my own"), (4, "any")]
    assert shown[2][1] == labels_of(store)["label"][2]


def test_an_export_carries_labels(store, tmp_path):
    export_atlas(store, tmp_path / "out")
    import_atlas(tmp_path / "out", tmp_path / "y.atlas")
    assert labels_of(Store(tmp_path / "y.atlas")).equals(labels_of(store))
