"""Cards: every figure of the frames, every text escaped, nothing that runs or loads."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import polars as pl
import pytest

from atlas.cards.frames import NeuronFrames
from atlas.cards.html import Links, number, percent, render_page, style, with_style, write_page
from atlas.cards.neuron import Neuron
from atlas.cards.rendering import render_neuron, render_steer, render_text, render_topic, render_why
from atlas.errors import StoreError
from atlas.steering.generation import Generation

HOSTILE = "<img src=x onerror=alert(1)>\"'</style><script>alert(2)</script>{{ 7 * 7 }}\u202eevil\x1b[2J"
VOID = {"meta", "rect", "path"}
ALLOWED = {
    "article", "header", "div", "h2", "h3", "small", "span", "nav", "a", "b", "dl", "dt", "dd", "section", "svg", "title", "rect",
    "path", "text", "g", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "code",
}  # fmt: skip


class Reader(HTMLParser):
    """Tags with their attributes, and the texts; every tag is closed in its order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(html):
    """What a card holds, once it is sure that it runs and loads nothing."""
    found = Reader(html)
    assert {tag for tag, _ in found.tags} <= ALLOWED
    for _, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "xlink:href")]
        assert "url(" not in (attributes.get("style") or "")
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "49" not in found.text.replace("149", "")
    return found


def hostile_neuron(text=HOSTILE, **facts) -> Neuron:
    """A neuron whose every text is this one."""
    row = {
        "neuron": 3, "support": 2, "density": 0.5, "max_activation": 4.0, "decoder_norm": 1.0, "label": text, "sae_key": 0,
        "sae_id": text, "release": text, "sae_hash": text, "model": text, "model_hash": text, "hook_name": text,
        "architecture": text, "d_sae": 8, "dtype": "float32", "prepend_bos": True, "context_size": 16, "prompts": 4,
        "tokens": 40, "encoder": text, "encoder_hash": text, "reference_hash": text, **facts,
    }  # fmt: skip
    sample = {
        "prompt_id": 2,
        "rank": 1,
        "act_max": 4.0,
        "source": text,
        "text": text,
        "tokens": [text, "b"],
        "activations": [4.0, None],
    }
    ranged = {"kind": "range", "low": 0.0, "high": 4.0, "share": 1.0}
    samples = [{"kind": "strongest", "low": None, "high": None, "share": None}, ranged, {"kind": "random"}]
    label = {"source": text, "label": text, "quality": 0.8, "created_at": None, "shown": True}
    neighbour = {
        "sae_key": 0,
        "sae_id": text,
        "neuron": 5,
        "cosine": 0.5,
        "support": 9,
        "fires_on": [text],
        "label": None,
    }
    return Neuron(
        facts=pl.DataFrame([row]).with_columns(created_at=pl.datetime(2026, 1, 2)),
        labels=pl.DataFrame([label]),
        samples=pl.DataFrame([{**kind, **sample} for kind in samples]),
        contexts=pl.DataFrame([{"activation": 4.0, "context": f"a«{text}»b"}]),
        histogram=pl.DataFrame({"low": [0.0, 2.0], "high": [2.0, 4.0], "prompts": [1, 3]}),
        written=pl.DataFrame(
            {"side": ["promoted", "suppressed"], "rank": 1, "token": [text, text], "logit": [1.5, -1.5]}
        ),
        neighbours=pl.DataFrame([{**neighbour, "kind": kind} for kind in ("meaning", "co-firing", "decoder")]),
        topics=pl.DataFrame(
            {"topic": [text], "scorer": "distance", "score": 0.5, "se": 0.1, "z": -2.0, "g": 1.0, "rank": 4}
        ),
        notes=pl.DataFrame({"list": [text], "text": text, "created_at": None}),
        notices=(text,),
        token_histogram=pl.DataFrame({"low": [0.0, 2.0], "high": [2.0, 4.0], "tokens": [0, 6]}),
        logit_histogram=pl.DataFrame({"low": [-1.5, 0.0], "high": [0.0, 1.5], "tokens": [900, 1100]}),
    )


def test_each_histogram_says_what_it_counts_and_over_what():
    found = read(render_neuron(hostile_neuron("x")))
    for said in (
        "Activations per prompt the largest in each of all prompts that it fires on",
        "Activations per token all above 0 over the 1 prompts shown below",
        "Logits of all 2,000 tokens of the vocabulary",
        "2.000 to 4.000: 6 tokens",
        "-1.500 to 0.000: 900 tokens",
        "1,100 tokens at most",
    ):
        assert said in " ".join(found.text.split())
    bare = read(
        render_neuron(replace(hostile_neuron("x"), token_histogram=pl.DataFrame(), logit_histogram=pl.DataFrame()))
    )
    assert "per prompt" in bare.text
    assert "per token" not in bare.text
    assert "Logits" not in bare.text


TOP = pl.DataFrame({
    "sae_id": [HOSTILE, HOSTILE], "neuron": [3, 5], "rank": [1, 2], "score": [1.0, 0.25], "se": [0.05, None], "z": [-4.5, -1.0],
    "support": [30, 20], "fires_on": [[HOSTILE], None], "top_tokens": [[HOSTILE], []], "label": [HOSTILE, None],
})  # fmt: skip
WHY = pl.DataFrame({
    "scoring_id": [0] * 30, "sae_id": [HOSTILE] * 30, "distance": [1.0] * 30, "weight": [1 / 30] * 30,
    "contribution": [1 / 30] * 30, "text": [HOSTILE] * 30, "source": [HOSTILE] * 30, "score": [0.5] * 30, "label": [HOSTILE] * 30,
})  # fmt: skip
TEXT = Generation("add", HOSTILE, HOSTILE, 0, 0.5, 1.0, 1.0, 1.0, 0.1)
CARDS = {
    "neuron": lambda: render_neuron(hostile_neuron()),
    "topic": lambda: render_topic(TOP, HOSTILE, subtitle=HOSTILE, notices=[HOSTILE]),
    "why": lambda: render_why(WHY, HOSTILE, notices=[HOSTILE]),
    "text": lambda: render_text([HOSTILE, "b"], [1.0, None], title=HOSTILE, said=HOSTILE),
    "steer": lambda: render_steer([TEXT], HOSTILE, notices=[HOSTILE]),
    "steer with tokens": lambda: render_steer(
        [{"method": HOSTILE, "prompt": HOSTILE, "text": HOSTILE, "tokens": [HOSTILE], "values": [0.5]}]
    ),
}


@pytest.mark.parametrize("name", CARDS)
def test_hostile_texts_stay_texts_on_every_card(name):
    found = read(CARDS[name]())
    shown = HOSTILE.replace("\u202e", "\ufffd").replace("\x1b", "\ufffd")
    assert shown in found.text
    assert not [tag for tag, _ in found.tags if tag in ("img", "script", "style")]


def test_hostile_tooltips_stay_in_their_attribute():
    read(render_neuron(hostile_neuron(HOSTILE)))
    assert 'onerror="' not in render_neuron(hostile_neuron('x" onerror="alert(1)'))


def test_a_card_has_every_figure_in_full_in_its_tooltip():
    card = render_topic(TOP.with_columns(score=pl.Series([1.0, 0.123456789])))
    assert 'title="0.123456789"' in card
    assert ">0.123<" in card


def test_bars_and_whiskers_stand_where_the_score_and_its_interval_are():
    tags = read(render_topic(TOP)).tags
    widths = [float(own["width"]) for tag, own in tags if tag == "rect" and own["class"] == "bar"]
    assert widths == [120.0, 30.0]
    [whisker] = [own["d"] for tag, own in tags if tag == "path"]
    assert whisker.startswith(f"M{120 * (1 - 1.96 * 0.05):.1f} 7H120.0")


def test_a_histogram_has_a_bar_per_range_as_high_as_its_count():
    tags = read(render_neuron(hostile_neuron("a"))).tags
    bars = [own for tag, own in tags if tag == "rect" and own["class"] == "bar" and "y" in own and float(own["y"]) != 3]
    heights = [float(own["height"]) for own in bars]
    assert heights[1] == pytest.approx(3 * heights[0], rel=0.01)


def test_the_fullest_tint_is_that_of_the_largest_value_and_none_is_that_of_no_value():
    card = render_text(["a", "b", "c", "d"], [2.0, 1.0, 0.0, None])
    tints = re.findall(r"rgba\(228,124,24,([\d.]+)\)\" title", card)
    assert tints == ["0.75", "0.40"]
    assert '<span class="skipped"' in card
    assert 'title="1.000, 50 % of 2.000"' in card


def test_a_space_before_a_word_has_no_tint_and_one_alone_has():
    card = render_text(["a", " b", "  "], [0.0, 1.0, 1.0])
    assert re.search(r'a <span style="[^"]*" title="[^"]*">b</span><span style="[^"]*" title="[^"]*">  </span>', card)


def test_contexts_stand_where_no_model_was_run():
    neuron = hostile_neuron("word")
    bare = neuron.samples.with_columns(
        tokens=pl.lit(None, pl.List(pl.String)), activations=pl.lit(None, pl.List(pl.Float64))
    )
    card = render_neuron(Neuron(**{**vars(neuron), "samples": bare}))
    assert re.search(r'a<span style="background:rgba\(228,124,24,0.75\)" title="[^"]*">word</span>b', card)


def test_a_long_prompt_shows_what_is_around_its_strongest_token_and_all_when_opened():
    neuron = hostile_neuron("x")
    tokens = [f"t{place} " for place in range(100)]
    values = [4.0 if place == 60 else 0.0 for place in range(100)]
    row = {**neuron.samples.row(0, named=True), "tokens": tokens, "activations": values}
    card = render_neuron(Neuron(**{**vars(neuron), "samples": pl.DataFrame([row])}))
    short = re.search(r'<span class="short">(.*?)</summary>', card, re.DOTALL)[1]
    assert "t38 " in short
    assert "t37 " not in short
    assert "t83 " not in short
    assert re.sub("<.*?>", "", card.partition("</summary>")[2]).startswith("".join(tokens))


def test_dead_neurons_say_so():
    text = read(render_neuron(hostile_neuron("a", support=0))).text
    assert "Dead: it fired on none of the 4 reference prompts" in text
    assert "Dead" not in read(render_neuron(hostile_neuron("a"))).text


def test_folders_of_this_machine_are_shown_by_their_last_part():
    places = {"model": "/home/me/tiny", "release": "/home/me/saes", "encoder": "~/encoder"}
    card = render_neuron(hostile_neuron("a", **places))
    assert "/home" not in card
    assert "model tiny" in read(card).text
    assert "SAE saes / a" in read(card).text
    assert "model package:x" in read(render_neuron(hostile_neuron("a", model="package:x"))).text


def test_links_lead_where_they_are_told_to_and_nowhere_else():
    links = Links(lambda key, neuron: f"/neuron/{key}/{neuron}", lambda topic: f"/topic/{len(topic)}")
    found = {own["href"] for tag, own in read(render_neuron(hostile_neuron("ab"), links=links)).tags if tag == "a"}
    assert found == {"/neuron/0/2", "/neuron/0/4", "/neuron/0/5", "/topic/2"}
    assert not [tag for tag, _ in read(render_neuron(hostile_neuron("ab"))).tags if tag == "a"]
    keyed = render_topic(TOP, sae_keys={HOSTILE: 7}, links=links)
    assert {own["href"] for tag, own in read(keyed).tags if tag == "a"} == {"/neuron/7/3", "/neuron/7/5"}


def test_saes_of_one_name_in_two_releases_are_told_apart():
    both = pl.concat([TOP.with_columns(release=pl.lit(name), sae_key=key) for key, name in enumerate("ab")])
    card = render_topic(both, links=Links(lambda key, neuron: f"/{key}/{neuron}"))
    assert card.count("<h3>") == 2
    assert re.findall('href="([^"]*)"', card) == ["/0/3", "/0/5", "/1/3", "/1/5"]


def test_columns_that_a_frame_lacks_are_left_out():
    text = read(render_topic(TOP.select("sae_id", "neuron", "z"))).text
    assert "score" not in text
    assert "z" in text
    assert "No neuron is there" in read(render_topic(TOP.clear())).text


def test_the_contributions_of_why_sum_to_g_and_what_is_not_listed_is_counted():
    text = read(render_why(WHY, prompts=20)).text
    assert "summing to g = 1.000" in text
    assert "and 10 prompts of less weight, with a contribution of 0.333 together" in text


def test_texts_of_a_steer_stand_side_by_side_by_prompt():
    other = Generation("original", HOSTILE, "plain", 0, None, 0.0, 0.0, 0.0)
    card = render_steer([other, TEXT])
    assert card.count('<div class="steer">') == 1
    assert "contamination" in card
    assert card.index("plain") < card.index("strength")


def test_a_page_needs_and_may_load_nothing_else():
    page = render_page("</title><script>", [render_topic(TOP)])
    assert "default-src 'none'" in unescape(page)
    assert "<script" not in page
    assert not re.search(r"https?://|@import|url\(|<link", page)
    assert "prefers-color-scheme: dark" in page
    assert style().strip() in page


def test_in_a_notebook_a_card_brings_its_style():
    html = Neuron(**vars(hostile_neuron("a")))._repr_html_()
    assert html == with_style(render_neuron(hostile_neuron("a")))
    assert html.startswith("<style>.atlas-card")
    assert isinstance(hostile_neuron("a"), NeuronFrames)


def test_a_page_is_written_once_and_only_where_it_can_be(tmp_path):
    write_page(tmp_path / "x.html", "a", ["<article></article>"])
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")
    with pytest.raises(StoreError, match="is there already: remove it"):
        write_page(tmp_path / "x.html", "a", [])
    with pytest.raises(StoreError, match="cannot be written"):
        write_page(tmp_path / "none" / "x.html", "a", [])


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.5, "0.500"), (0.00012345, "0.00012"), (1234.5, "1,234.5"), (55.22, "55.22"), (1200, "1,200"), (-3.0, "-3.000"),
     (float("nan"), "nan")],
)  # fmt: skip
def test_figures_have_so_many_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (1, "100 %"), (0.0123, "1.2 %"), (0.000176, "0.018 %"), (None, "–")]
)
def test_shares_are_percents(share, text):
    assert percent(share) == text
