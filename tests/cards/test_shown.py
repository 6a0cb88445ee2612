"""Results are Polars frames for everything, and cards in a notebook."""

from __future__ import annotations

import pickle
import shutil
from functools import partial

import polars as pl
import pytest
import tiny
from polars.testing import assert_frame_equal

import atlas
from atlas.cards.shown import show_as
from atlas.models.embeddings import embed_frame
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.store.file import Store
from atlas.texts.prompts import collect_texts


@pytest.fixture(scope="module")
def opened(built_atlas, tmp_path_factory, encoder):
    path = shutil.copy(built_atlas, tmp_path_factory.mktemp("shown") / "x.atlas")
    config = ScoringConfig(min_support=5, null_topics=3)
    score_topics(Store(path), {"sea": collect_texts(tiny.SEA)}, embed=partial(embed_frame, encoder), config=config)
    return atlas.open(path)


def test_top_why_and_search_show_themselves_as_cards(opened):
    best = opened.top("sea", 3, sae_id=0)
    card = best._repr_html_()
    assert '<article class="atlas-card">' in card
    assert "<h2>sea</h2>" in card
    assert all(f">{neuron}</td>" in card for neuron in best["neuron"])
    why = opened.why("sea", best["neuron"][0], sae_id=0)._repr_html_()
    assert f"Why neuron {best['neuron'][0]} stands for sea" in why
    found = opened.search(["a boat", "the harbour", "sails"], 2)._repr_html_()
    assert "<h2>a boat and 2 texts more</h2>" in found


def test_texts_of_several_methods_show_themselves_side_by_side_and_are_stored(opened):
    found = opened.generate("sea", "The boat", ["original", "add"], strength=0.5, max_new_tokens=3)
    assert found["method"].to_list() == ["original", "add"]
    assert found["strength"].to_list() == [None, 0.5]
    card = found._repr_html_()
    assert card.count("<div><b>") == 2
    assert "<h3>The boat</h3>" in card
    stored = opened.sql("select method, prompt, text from generations order by generation_id")
    assert_frame_equal(stored, found.select("method", "prompt", "text"))


def test_what_generates_is_what_steers(opened):
    """The same text as by the context manager and the model's own generate."""
    found = opened.generate("sea", "The boat", "add", strength=0.5, max_new_tokens=4, temperature=0, save=False)
    model = opened.recorded().model[0]
    with opened.steer(model, "sea", strength=0.5) as steering:
        given = steering.encode("The boat")
        out = model.generate(**given, max_new_tokens=4, do_sample=False)
    tokenizer = opened.recorded().model[1]
    assert found["text"].item() == tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True)


FRAME = pl.DataFrame({"a": [1, 2, 3], "b": ["x", "y", None]})


@pytest.fixture
def shown():
    return show_as(FRAME, lambda own: f"<article>{own.height}</article>")


def test_a_shown_frame_is_the_frame(shown):
    assert isinstance(shown, pl.DataFrame)
    assert_frame_equal(shown, FRAME)
    assert shown.equals(FRAME)
    assert repr(shown) == repr(FRAME)
    assert shown.to_dicts() == FRAME.to_dicts()
    assert pickle.loads(pickle.dumps(shown)).equals(FRAME)
    assert pl.concat([shown, FRAME]).height == 6
    assert shown.join(shown, on="a").height == 3
    assert shown.lazy().filter(pl.col("a") > 1).collect().height == 2
    assert shown.to_arrow().num_rows == 3
    assert shown.to_pandas().shape == (3, 2)
    assert shown.write_csv() == FRAME.write_csv()


def test_it_is_shown_as_a_card(shown):
    assert shown._repr_html_().endswith("<article>3</article>")


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.head(2),
        lambda frame: frame.filter(pl.col("a") > 1),
        lambda frame: frame.select("a"),
        lambda frame: frame.sort("a", descending=True),
        lambda frame: frame.clone(),
        lambda frame: pickle.loads(pickle.dumps(frame)),
    ],
    ids=["head", "filter", "select", "sort", "clone", "pickle"],
)
def test_what_is_made_of_it_is_shown_as_polars_shows_frames(shown, change):
    assert "<article>" not in change(shown)._repr_html_()
    assert change(shown)._repr_html_() == change(FRAME)._repr_html_()


def test_one_that_was_changed_in_place_is_shown_as_polars_shows_frames(shown):
    shown.drop_in_place("b")
    assert shown._repr_html_() == FRAME.select("a")._repr_html_()
