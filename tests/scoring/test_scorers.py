"""Contrast, strawman and output scores are those of the method, section 3."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest
import tiny
import torch
from contents import change

import atlas
import atlas.scoring.model_evidence
from atlas.errors import AtlasError, ModelError, StoreError, UnknownName
from atlas.models.activations import encode_entries, run_model, tokenize
from atlas.models.recorded import RecordedModels
from atlas.models.saes import load_sae
from atlas.models.tokens import bos_token_id
from atlas.models.unembedding import promoted_ids
from atlas.scoring.config import ScoringConfig
from atlas.scoring.model_evidence import NEUTRAL_PREFIX, RAISED_BY, ModelProbe


@pytest.fixture(scope="module")
def opened(built_atlas, tmp_path_factory, loaders):
    """An atlas with one topic under every scorer."""
    path = shutil.copy(built_atlas, tmp_path_factory.mktemp("scorers") / "x.atlas")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atlas.scoring.model_evidence, "load_language_model", loaders["load_language_model"])
        found = atlas.open(path)
        for scorer in ("distance", "contrast", "strawman", "output"):
            found.score("sea", tiny.SEA, scorer=scorer, min_support=2, candidates=8)
    return found


def texts_by_neuron(language_model, sae_folder, name, texts, summary):
    """The value of every neuron on every text [text, neuron], from the model itself."""
    sae = load_sae(str(sae_folder), name)
    ids, _ = tokenize(language_model, list(texts), prepend_bos=sae.prepend_bos)
    caught = run_model(language_model, ids, [sae.hook_name])[sae.hook_name]
    special = frozenset(language_model.tokenizer.all_special_ids)
    entries = encode_entries(sae, caught, ids, special)
    lengths = np.array([sum(token not in special for token in row) for row in ids])
    values = np.zeros((len(texts), sae.codec.d_sae))
    if summary == "max":
        np.maximum.at(values, (entries.prompt, entries.neuron), entries.value)
        return values
    np.add.at(values, (entries.prompt, entries.neuron), entries.value if summary == "mean" else 1)
    return values / lengths[:, None]


def frame_of(opened, scorer, key=0):
    return opened.sql(
        f"select s.* from scores as s join scorings as g using (scoring_id) join topics as t using (topic_id) "
        f"where t.name = 'sea' and g.scorer = '{scorer}' and g.is_current and g.sae_key = {key} order by s.neuron"
    )


@pytest.mark.parametrize("summary", ["mean", "max", "count"])
@pytest.mark.parametrize(("key", "name"), [(0, "residual"), (1, "heads")])
def test_contrast_is_the_difference_of_means_and_the_auroc(opened, language_model, sae_folder, summary, key, name):
    opened.score("sea", tiny.SEA, scorer="contrast", summary=summary, min_support=2)
    frame = frame_of(opened, "contrast", key)
    prompts = opened.sql("select text from prompts order by prompt_id")["text"].to_list()
    own = texts_by_neuron(language_model, sae_folder, name, tiny.SEA, summary)
    other = texts_by_neuron(language_model, sae_folder, name, prompts, summary)
    np.testing.assert_allclose(frame["g"].to_numpy(), own.mean(axis=0) - other.mean(axis=0), atol=1e-5)
    wins = (own[:, None] > other[None] * (1 + 1e-5) + 1e-9).mean(axis=(0, 1))
    ties = (np.abs(own[:, None] - other[None]) <= 1e-5 * own[:, None] + 1e-9).mean(axis=(0, 1))
    known = frame["score"].is_not_null().to_numpy()
    np.testing.assert_allclose(frame["score"].to_numpy()[known], (wins + ties / 2)[known], atol=1e-6)
    assert known.any() and frame["z"].null_count() == frame.height


def test_strawman_ranks_by_the_mean_activation_on_the_topic(opened, language_model, sae_folder):
    frame = frame_of(opened, "strawman")
    own = texts_by_neuron(language_model, sae_folder, "residual", tiny.SEA, "mean").mean(axis=0)
    np.testing.assert_allclose(frame["g"].to_numpy(), own, atol=1e-5)
    known = frame["score"].is_not_null().to_numpy()
    low, high = own[known].min(), own[known].max()
    np.testing.assert_allclose(frame["score"].to_numpy()[known], (own[known] - low) / (high - low), atol=1e-5)


def test_output_scores_are_those_of_one_forward_pass_per_neuron(opened, language_model, sae_folder):
    frame = frame_of(opened, "output")
    best = frame_of(opened, "distance").filter(pl.col("score").is_not_null())
    assert set(frame["neuron"]) == set(best.sort("score", "neuron", descending=[True, False]).head(8)["neuron"])
    sae = load_sae(str(sae_folder), "residual")
    peaks = opened.sql("select max_activation from neurons where sae_key = 0 order by neuron")["max_activation"]
    tokenizer = language_model.tokenizer
    ids = [bos_token_id(tokenizer), *tokenizer(NEUTRAL_PREFIX, add_special_tokens=False)["input_ids"]]
    for neuron, output in frame.select("neuron", "g").rows():

        def raised(x, hook, neuron=neuron):
            x = x.clone()
            x[0, -1] += RAISED_BY * peaks[neuron] * sae.codec.decoder_rows[neuron]
            return x

        hooks = [(sae.hook_name, raised)]
        chance = language_model.bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)[0, -1].softmax(-1)
        tokens = promoted_ids(language_model, sae, count=20, neurons=torch.tensor([neuron]))[0]
        rank = int((chance > chance[tokens].max()).sum()) + 1
        assert output == pytest.approx(float(chance[tokens].max()) * (1 - rank / len(chance)), abs=1e-5)


def test_known_output_scores_are_not_computed_again(opened, monkeypatch):
    opened.score("medicine", tiny.MEDICINE, min_support=2)
    asked = []
    probe = ModelProbe(RecordedModels(opened.store))
    monkeypatch.setattr(
        probe,
        "output_scores",
        lambda key, neurons: (
            asked.extend((key, n) for n in neurons) or pl.DataFrame({"neuron": neurons, "output": [0.5] * len(neurons)})
        ),
    )
    before = {(key, n) for key in (0, 1) for n in frame_of(opened, "output", key)["neuron"]}
    opened.score_many({"medicine": tiny.MEDICINE}, scorer="output", candidates=8, probe=probe)
    assert asked and not before & set(asked)


def test_every_scorer_stands_side_by_side_in_a_view(opened):
    frame = opened.sql("from neuron_signals where topic = 'sea' and sae_key = 0 order by neuron")
    assert frame.height == 24
    distance, contrast = frame_of(opened, "distance"), frame_of(opened, "contrast")
    assert frame["score"].to_list() == distance["score"].to_list()
    assert frame["auroc"].to_list() == contrast["score"].to_list()
    assert frame["contrast"].to_list() == contrast["g"].to_list()
    assert frame["output"].is_not_null().sum() == 8
    assert frame["density"].is_between(0, 1).all() and frame["density"].max() > 0


def test_top_shows_the_scorer_asked_for(opened):
    assert opened.top("sea", 3, sae_id=0)["scoring_id"].n_unique() == 1
    best = frame_of(opened, "contrast").sort("score", "neuron", descending=[True, False], nulls_last=True)
    assert opened.top("sea", 3, sae_id=0, scorer="contrast")["neuron"].to_list() == best["neuron"].to_list()[:3]
    with pytest.raises(UnknownName, match="unknown scorer 'nope': known are"):
        opened.top("sea", scorer="nope")
    opened.score("dry", tiny.MEDICINE, min_support=2)
    with pytest.raises(
        StoreError, match="topic 'dry' has no contrast scores: run `atlas score --scorer contrast` for it"
    ):
        opened.top("dry", scorer="contrast")


def test_output_needs_distance_scores_first(opened):
    with pytest.raises(StoreError, match="topic 'new' has no distance scores for SAE 0"):
        opened.score("new", ["A new text."], scorer="output")


def test_a_hook_that_does_not_write_has_no_output_score(opened, sae_folder, monkeypatch):
    probe = ModelProbe(RecordedModels(opened.store))
    monkeypatch.setattr(atlas.scoring.model_evidence, "promoted_ids", lambda *args, **options: None)
    with pytest.raises(ModelError, match="does not write to the residual stream"):
        probe.output_scores(0, [1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scorer": "nope"}, "unknown scorer 'nope'"),
        ({"null_topics": 1}, "null_topics 1 gives no spread"),
        ({"candidates": 1}, "candidates 1 cannot be told apart"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(AtlasError, match=message):
        ScoringConfig(**settings)


def test_steering_by_a_rule_that_needs_contrast_scores_the_topic_by_it_first(opened, language_model, transformer):
    opened.score("harbour", ["Ships lie in the harbour."], min_support=2)
    harbour = "select topic_id from topics where name = 'harbour'"
    for model in (transformer, language_model.bridge):
        opened.sql("select 1")
        with opened.store.write() as session:
            change(session, f"delete from topic_activations where topic_id in ({harbour})")
            change(session, f"delete from scorings where scorer = 'contrast' and topic_id in ({harbour})")
        opened.steer(model, "harbour", tokenizer=language_model.tokenizer, select="remarkable")
        count = (
            "select count(*) from scorings join topics using (topic_id) where name = 'harbour' and scorer = 'contrast'"
        )
        assert opened.sql(count).item() == 0
        with opened.store.write() as session:  # so that some neuron is chosen in a tiny atlas
            change(session, "update scores set z = -3 where score is not null and z is not null")
        opened.steer(model, "harbour", tokenizer=language_model.tokenizer, select="combined")
        assert opened.sql(count).item() == 2


def test_top_by_z_orders_by_z(opened):
    frame = opened.top("sea", 30, sae_id=0, by="z")
    assert frame["z"].to_list() == sorted(frame["z"].to_list(), key=lambda z: (z is None, z))
    with pytest.raises(UnknownName, match="unknown order 'nope'"):
        opened.top("sea", by="nope")


def test_the_best_are_ordered_by_z_unless_the_topic_was_compared_with_no_random_ones(opened):
    opened.score("sea", tiny.SEA, min_support=2)
    by_z = opened.top("sea", 5, sae_id=0)
    assert by_z["z"].to_list() == sorted(by_z["z"])
    assert by_z.equals(opened.top("sea", 5, sae_id=0, by="z"))
    assert by_z.equals(opened.sql("select * from top_neurons('sea', 5, sae := 0)"))
    opened.score("land", tiny.SEA[1:], min_support=2, null_topics=0)
    by_score = opened.top("land", 5, sae_id=0)
    assert by_score["z"].null_count() == 5
    assert by_score["score"].to_list() == sorted(by_score["score"], reverse=True)
    assert by_score.equals(opened.top("land", 5, sae_id=0, by="score"))
