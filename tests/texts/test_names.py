"""A topic or behaviour may be called anything that can be read, typed and told apart; nothing else is stored."""

from __future__ import annotations

import json

import handmade
import numpy as np
import pytest
from atlas.cli.main import cli
from click.testing import CliRunner

from atlas.api import Atlas
from atlas.contrast.make_vectors import make_vectors
from atlas.errors import AtlasError
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.texts.names import LONGEST, require_name
from atlas.texts.pairs import collect_pairs

BAD = {
    "": "is empty or shows nothing",
    "  ": "is empty or shows nothing",
    "\u200b\ufeff": "is empty or shows nothing",
    "-": "stands for no topic on the command line",
    "x" * (LONGEST + 1): "is longer than 200 characters",
    "a\nb": "holds a line break or another character that does not show",
    "a\x1b[2J": "holds a line break or another",
    "a\0": "holds a line break or another",
    "a\u202eb": "holds a line break or another",
    "a\ud800": "holds a character that no UTF-8 text has",
    " a": "begins or ends with a space",
}


@pytest.mark.parametrize("name", [*BAD, 7, None, b"a", ["a"]], ids=ascii)
def test_a_name_that_cannot_be_read_is_refused_before_anything_is_stored(tmp_path, name):
    rng = np.random.default_rng(0)
    store = handmade.make_store(tmp_path / "a.atlas", [handmade.random_raw(rng, 30, 6)], handmade.unit_vectors(rng, 30))
    topics, embed = handmade.make_topics(rng, sea=2)
    message = BAD.get(name, "is no text") if isinstance(name, str) else "is no text"
    if not isinstance(name, list):
        with pytest.raises(AtlasError, match=message):
            score_topics(store, {name: topics["sea"]}, embed=embed, config=ScoringConfig(min_support=1))
    with pytest.raises(AtlasError, match=message) as caught:
        make_vectors(store, name, collect_pairs([("", "a", "b")]))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert embed.calls == 0
    assert store.query("from topics").height == store.query("from pairs").height == 0


@pytest.mark.parametrize(
    "name", ['{"a": [1, null]}', "null", "a'); drop table topics; --", "日本 語", "naïve", "=1+1", "../x"]
)
def test_any_words_are_a_name_and_come_back_as_they_are(tmp_path, name):
    rng = np.random.default_rng(0)
    store = handmade.make_store(tmp_path / "a.atlas", [handmade.random_raw(rng, 30, 6)], handmade.unit_vectors(rng, 30))
    topics, embed = handmade.make_topics(rng, sea=2)
    score_topics(store, {name: topics["sea"]}, embed=embed, config=ScoringConfig(min_support=1, null_topics=0))
    assert Atlas(store).top(name, 1)["topic"].to_list() == [name]
    found = CliRunner().invoke(cli, ["top", str(store.path), name, "-n", "1", "--format", "json"])
    assert json.loads(found.stdout)[0]["topic"] == name


def test_a_behaviour_is_not_called_like_several():
    with pytest.raises(AtlasError, match=r"holds ' \+ ', which joins the names of several"):
        require_name("behaviour", "a + b")
    require_name("topic", "a + b")
    require_name("behaviour", "a+b")
