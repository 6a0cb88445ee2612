"""Narrow subjects: the copy without their texts is the atlas of the other prompts, and the areas are those counted by hand."""

from __future__ import annotations

import handmade
import numpy as np
import polars as pl
import pytest
import tiny

import atlas as library
from atlas.models.recorded import RecordedModels
from atlas.reproduction import narrow_subjects as narrow
from atlas.reproduction.exhibit_inputs import ExhibitInputs, NotAvailable, TestTexts
from atlas.scoring.config import ScoringConfig
from atlas.scoring.model_evidence import ModelProbe
from atlas.scoring.score import score_topics
from atlas.steering.selection import RULES

SUBJECTS, EACH, NEURONS = 5, 14, 30
PROMPTS = SUBJECTS * EACH
TEXTS = TestTexts(
    held_out={},
    unaligned=(),
    prompts=(),
    subjects={f"subject {i}": [f"prompt {i * EACH + j}" for j in range(EACH)] for i in range(SUBJECTS)},
)


@pytest.fixture(autouse=True, scope="module")
def sizes():
    """Few texts of few prompts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(narrow, "SIZES", (4, 1))
        patch.setattr(narrow, "TEST_TEXTS", 3)
        patch.setattr(narrow, "BEST", (3, 1))
        yield


@pytest.fixture(scope="module")
def raw():
    """Noise, and a neuron per subject that fires on its prompts and hardly elsewhere."""
    rng = np.random.default_rng(0)
    raw = handmade.random_raw(rng, PROMPTS, NEURONS)
    for subject in range(SUBJECTS):
        own = slice(subject * EACH, (subject + 1) * EACH)
        raw[:, :, subject] *= rng.random(PROMPTS) < 0.1
        raw[:, own, subject] = np.array([9.0, 3.0, 3.0])[:, None]
    return raw


@pytest.fixture(scope="module")
def inputs(raw, tmp_path_factory):
    """An atlas made by hand, whose prompts of one subject are near each other."""
    folder = tmp_path_factory.mktemp("narrow")
    rng = np.random.default_rng(1)
    centres = np.repeat(handmade.unit_vectors(rng, SUBJECTS), EACH, axis=0)
    vectors = centres + 0.3 * handmade.unit_vectors(rng, PROMPTS)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = handmade.make_store(folder / "x.atlas", [raw], vectors)
    topics, embed = handmade.make_topics(rng, any=3)
    score_topics(store, topics, embed=embed, config=ScoringConfig(min_support=2, null_topics=0))
    return ExhibitInputs(library.open(store.path), TEXTS, folder=folder)


@pytest.fixture(scope="module")
def found(inputs):
    before = inputs.atlas.store.path.read_bytes()
    frame = narrow.narrow_subjects(inputs)
    assert inputs.atlas.store.path.read_bytes() == before, "the atlas itself is only read"
    return frame, library.open(inputs.folder / "narrow.atlas")


KNOWN = {f"prompt {i}": (i, handmade.TOKENS) for i in range(PROMPTS)}


def drawn():
    return narrow.draw_subjects(TEXTS.subjects, KNOWN)


def ids_of(texts):
    return [int(text.split()[1]) for text in texts]


def test_topic_and_test_texts_are_a_subjects_own_and_no_text_is_both():
    subjects = drawn()
    assert list(subjects.own) == [f"subject {i}" for i in range(SUBJECTS)]
    assert len(set(subjects.texts)) == len(subjects.texts) == SUBJECTS * (4 + 3)
    for subject, own in subjects.own.items():
        tests = subjects.tests.filter(pl.col("subject") == subject)["text"].to_list()
        assert {f"subject {one // EACH}" for one in ids_of([*tests, *own])} == {subject}
    assert drawn().texts == subjects.texts


def test_texts_that_are_no_reference_prompts_go_first_and_small_subjects_are_left_out():
    texts = {name: [f"{name} {i}" for i in range(9)] for name in ("a", "b")} | {"c": ["c 1"]}
    subjects = narrow.draw_subjects(texts, {f"{name} {i}" for name in "ab" for i in range(3)})
    assert list(subjects.own) == ["a", "b"]
    inside = [text for text in subjects.texts if int(text.split()[1]) < 3]
    assert len(inside) == 2 and not set(inside) & {text for own in subjects.own.values() for text in own}


def test_the_copy_is_an_atlas_of_the_prompts_that_are_left(inputs, found, raw):
    stay = np.setdiff1d(np.arange(PROMPTS), ids_of(drawn().texts))
    rest = raw[:, stay]
    copy = found[1]
    prompts = copy.sql("select prompt_id, text from prompts order by prompt_id")
    assert prompts["prompt_id"].to_list() == list(range(len(stay)))
    assert prompts["text"].to_list() == [f"prompt {one}" for one in stay]
    neurons = copy.sql("from neurons order by neuron")
    weights = np.nan_to_num(rest / rest.sum(axis=2, keepdims=True).astype(float))
    assert neurons["support"].to_list() == (rest[2] > 0).sum(axis=0).tolist()
    for place, name in enumerate(("mean", "max", "count")):
        np.testing.assert_allclose(neurons[f"mass_{name}"], weights[place].sum(axis=0), rtol=1e-6)
        np.testing.assert_allclose(neurons[f"square_{name}"], (weights[place] ** 2).sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(neurons["density"], rest[2].sum(axis=0) / len(stay) / handmade.TOKENS, rtol=1e-6)
    np.testing.assert_allclose(neurons["max_activation"], rest[1].max(axis=0), rtol=1e-6)
    stored = copy.sql("select prompt_id, neuron, act_sum from activations")
    dense = np.zeros(rest.shape[1:], np.float32)
    dense[stored["prompt_id"], stored["neuron"]] = stored["act_sum"]
    np.testing.assert_array_equal(dense, rest[0])


def test_the_copys_neurons_have_vectors_over_the_prompts_that_are_left(inputs, found, raw):
    stay = np.setdiff1d(np.arange(PROMPTS), ids_of(drawn().texts))
    with inputs.session() as session:
        embeddings = np.array(session.ask("embedding_vectors")["vector"].to_list())[stay]
    weights = raw[0][stay] / raw[0][stay].sum(axis=1, keepdims=True)
    stored = found[1].sql("select neuron, vector from neuron_vectors order by neuron")
    expected = (weights.T @ embeddings)[stored["neuron"]] / weights.sum(axis=0)[stored["neuron"], None]
    np.testing.assert_allclose(np.array(stored["vector"].to_list()), expected, atol=1e-5)


def test_a_score_in_the_copy_is_that_of_the_method_over_the_prompts_that_are_left(inputs, found, raw):
    subjects = drawn()
    stay = np.setdiff1d(np.arange(PROMPTS), ids_of(subjects.texts))
    with inputs.session() as session:
        vectors = np.array(session.ask("embedding_vectors")["vector"].to_list(), dtype=np.float32)
    own = ids_of(subjects.own["subject 2"])
    _, expected = handmade.reference_scores(
        raw[0][stay], vectors[stay], vectors[own], distance="euclidean", power=2, min_support=2
    )
    scores = found[1].sql(
        "select score from scores join scorings using (scoring_id) join topics using (topic_id) "
        "where name = 'subject 2, 4 texts' and scorer = 'distance' order by neuron"
    )["score"]
    np.testing.assert_allclose(scores.to_numpy().astype(float), expected, atol=1e-5)


def test_every_rule_and_scorer_that_needs_no_model_is_ranked_and_areas_are_counted_by_hand(inputs, found, raw):
    frame, copy = found
    assert set(frame["ranking"]) == (set(RULES) - {"writes"}) | {
        f"scorer {name}" for name in ("centroid", "contrast", "strawman")
    } | {narrow.NO_SAE}
    assert set(frame.select("texts", "neurons").iter_rows()) == {(4, 3), (4, 1), (1, 3), (1, 1)}
    subjects = drawn()
    ids, owners = ids_of(subjects.tests["text"]), subjects.tests["subject"].to_numpy()
    for ranking in ("score", "z", "centroid", "scorer contrast"):
        areas = {}
        for subject in subjects.own:
            best = narrow.rank_neurons(copy, 0, f"{subject}, 1 texts")[ranking][:3]
            sums = raw[0][ids][:, best].sum(axis=1)
            wins = [(a > b) + 0.5 * (a == b) for a in sums[owners == subject] for b in sums[owners != subject]]
            areas[subject] = np.mean(wins)
        [row] = frame.filter(
            (pl.col("ranking") == ranking) & (pl.col("texts") == 1) & (pl.col("neurons") == 3)
        ).to_dicts()
        assert row["value"] == pytest.approx(np.mean(list(areas.values())))
        assert row["worst"] == pytest.approx(min(areas.values())) == areas[row["worst_subject"]]
        assert row["low"] <= row["value"] <= row["high"] and row["subjects"] == SUBJECTS


def test_the_embeddings_alone_are_ranked_by_their_product_with_the_mean_of_the_subjects_texts(inputs, found):
    subjects = drawn()
    vectors = dict(inputs.atlas.sql("select text, vector from prompts join embeddings using (prompt_id)").iter_rows())
    tests = subjects.tests.rows()
    areas = []
    for subject, own in subjects.own.items():
        mean = np.mean([vectors[text] for text in own[:4]], axis=0)
        close = [(float(np.dot(vectors[text], mean)), owner == subject) for text, owner in tests]
        wins = [(a > b) + 0.5 * (a == b) for a, mine in close if mine for b, other in close if not other]
        areas.append(np.mean(wins))
    rows = found[0].filter((pl.col("ranking") == narrow.NO_SAE) & (pl.col("texts") == 4))
    assert rows["value"].to_list() == pytest.approx([np.mean(areas)] * 2), "the same however many neurons"
    assert rows["worst"].to_list() == pytest.approx([min(areas)] * 2)


def test_the_planted_neurons_find_their_subjects(found):
    best = found[0].filter((pl.col("ranking") == "scorer contrast") & (pl.col("texts") == 4) & (pl.col("neurons") == 1))
    assert best["value"].item() > 0.9
    assert "mean AUROC over 5 subjects (the worst): sae-0: " in narrow.say_narrow_subjects(found[0])


def test_a_ranking_without_a_neuron_tells_nothing():
    assert narrow.area(np.ones((3, 4)), np.array([True, False, False]), np.empty(0, int)) == 0.5


def test_one_subject_is_found_among_no_others():
    with pytest.raises(NotAvailable, match="1 subjects have 7 texts, and two are needed") as error:
        narrow.draw_subjects({"a": [str(i) for i in range(9)], "b": ["x"]}, {})
    assert error.value.command == "atlas reproduce {atlas} --out {out} --subjects FILE"


def test_what_fired_is_what_the_model_gives_on_reference_prompts_and_on_other_texts(atlas_file, encoder, tmp_path):
    opened = library.open(atlas_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atlas.models.encoders.load_encoder", lambda name: encoder)
        opened.score("sea", tiny.SEA, min_support=2)
    inputs = ExhibitInputs(opened, TEXTS, folder=tmp_path)
    texts = [*tiny.PROMPTS[3:40:7], *tiny.MEDICINE, tiny.PROMPTS[50]]
    prompts = {
        row[1]: (row[0], row[2]) for row in opened.sql("select prompt_id, text, n_tokens from prompts").iter_rows()
    }
    found = narrow.TextActivations(inputs, texts, prompts)
    order = texts[::-1]
    counts, rows = found.topic_activations(order, [1, 0])
    expected_counts, expected = ModelProbe(RecordedModels(opened.store)).topic_activations(order, [0, 1])
    assert counts == expected_counts
    keys = ["sae_key", "text_id", "neuron"]
    both = rows.join(expected.cast(dict(rows.schema)), on=keys, how="full", suffix="_run", coalesce=True)
    assert both.height > 100 and both["act_sum"].null_count() == both["act_sum_run"].null_count() == 0
    np.testing.assert_allclose(both["act_sum"], both["act_sum_run"], rtol=1e-4)
    assert (both["act_count"] == both["act_count_run"]).all()
    means = found.means(order, 0, 24)
    one = both.filter((pl.col("sae_key") == 0) & (pl.col("text_id") == 2)).row(0, named=True)
    assert means[2, one["neuron"]] == pytest.approx(one["act_sum"] / counts[2])
    np.testing.assert_allclose(np.array(found.embed(order)["vector"].to_list()), encoder.embed(order), atol=1e-5)
