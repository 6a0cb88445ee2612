"""The search page shows what `atlas search` and `atlas query` give."""

from __future__ import annotations

import json
import re
import threading
from time import sleep

import polars as pl
import pytest
import tiny
from command import run
from polars.testing import assert_frame_equal

from atlas.errors import AtlasError, UnknownName
from atlas.explorer.found import Filters, mean_embedding, search_errors, search_sql
from atlas.explorer.visit import Visit


@pytest.fixture
def visit(shown):
    return shown


def find(visit, texts, filters=None):
    vector = mean_embedding(visit.embed(texts))
    return vector, visit.atlas.sql(search_sql(vector, texts=len(texts), filters=filters or Filters()))


def test_an_unfiltered_search_of_an_sae_is_that_of_the_command(visit):
    _, found = find(visit, tiny.SEA, Filters(sae_key=0, rows=5))
    searched = visit.atlas.search(tiny.SEA, 5, sae_id=0)
    assert_frame_equal(
        found.select("neuron", "z", "score", "g", "support"), searched.select("neuron", "z", "score", "g", "support")
    )


def test_filters_leave_the_figures_and_drop_rows(visit):
    _, every = find(visit, tiny.SEA, Filters(rows=100))
    narrow = Filters(sae_key=1, support=25, density=0.5, z=-0.1, by="score", rows=7)
    _, found = find(visit, tiny.SEA, narrow)
    wanted = every.filter(
        (pl.col("sae_key") == 1) & (pl.col("support") >= 25) & (pl.col("density") <= 0.5) & (pl.col("z") <= -0.1)
    ).sort("score", "sae_key", "neuron", descending=[True, False, False])
    assert 0 < wanted.height < every.height
    assert_frame_equal(found, wanted.head(7))


def test_the_errors_are_those_of_a_topic_of_the_same_texts(visit):
    vector, found = find(visit, tiny.MEDICINE, Filters(rows=100))
    errors = search_errors(visit.atlas.store, vector, found).select("sae_key", "neuron", "se")
    stored = visit.atlas.top("medicine", 100, scorer="centroid")
    keys = {row["sae_id"]: row["sae_key"] for row in visit.saes()}
    stored = stored.with_columns(sae_key=pl.col("sae_id").replace_strict(keys, return_dtype=pl.UInt32))
    both = stored.join(errors, on=["sae_key", "neuron"], suffix="_found")
    assert both.height == stored.height > 20
    assert both["se"].to_list() == pytest.approx(both["se_found"].to_list(), rel=1e-4)


def test_filters_that_cannot_be_are_refused():
    with pytest.raises(UnknownName, match="unknown order 'g'"):
        Filters(by="g")
    with pytest.raises(AtlasError, match="0 rows are out of range"):
        Filters(rows=0)


def test_what_is_typed_ranks_neurons_with_figures_that_the_shown_sql_gives(page, shown):
    page.goto("/")
    page.get_by_text("Type anything and press Enter").wait_for()
    page.get_by_test_id("search-box").fill("a boat on the sea")
    page.keyboard.press("Enter")
    rows = page.get_by_test_id("found").locator("tbody tr")
    rows.first.wait_for()
    page.locator("svg.bar .whisker").first.wait_for(state="attached")
    lines = [row.locator("td").all_inner_texts() for row in rows.all()]
    page.get_by_test_id("sql").click()
    page.get_by_test_id("sql").get_by_label("Copy").click()
    sql = page.evaluate("navigator.clipboard.readText()")
    code, out, _ = run("query", shown.atlas.store.path, sql, "--format", "json")
    assert code == 0
    wanted = json.loads(out)
    assert [line[1] for line in lines] == [str(row["neuron"]) for row in wanted]
    assert [line[3].split()[-1] for line in lines] == [f"{row['score']:.3f}" for row in wanted]
    exact = page.locator("td .figure").evaluate_all("all => all.map(one => Number(one.title))")
    assert exact == [row["score"] for row in wanted]
    assert re.search(r"\?q=a%20boat%20on%20the%20sea", page.url)


def test_the_encoder_begins_to_load_with_the_first_page_once_and_again_after_a_fault(shown, monkeypatch):
    visit, gate, calls = Visit(shown.atlas), threading.Event(), []

    def embed(texts):
        calls.append(texts)
        assert gate.wait(10)
        if len(calls) == 1:
            raise AtlasError("it is not there")

    monkeypatch.setattr(visit, "embed", embed)
    for number in (1, 2):
        visit.begin_loading()
        visit.begin_loading()
        assert visit.is_loading
        gate.set()
        assert wait_for(lambda: not visit.is_loading)
        assert len(calls) == number
        gate.clear()
    visit.begin_loading()
    assert (visit.is_loading, len(calls)) == (False, 2)


def wait_for(done):
    for _ in range(500):
        if done():
            return True
        sleep(0.01)
    return False


def test_a_search_says_that_it_waits_for_the_encoder(page, shown, monkeypatch):
    gate, embed = threading.Event(), shown.embed
    monkeypatch.setattr(shown, "embed", lambda texts: gate.wait(20) and embed(texts))
    shown.is_loading = True
    page.goto("/?q=a%20boat&n=10")
    state = page.get_by_test_id("search-state")
    state.filter(has_text="loading the sentence encoder").wait_for()
    assert page.get_by_test_id("found").count() == 0
    shown.is_loading = False
    state.filter(has_text="searching ...").wait_for()
    gate.set()
    page.get_by_test_id("found").locator("tbody tr").first.wait_for()
    assert state.inner_text() == ""


def test_a_link_restores_the_search_and_its_filters(page):
    page.goto("/?q=a%20boat&sae=1&support=25&by=score&n=10")
    rows = page.get_by_test_id("found").locator("tbody tr")
    rows.first.wait_for()
    assert rows.count() <= 10
    assert page.get_by_test_id("filter-support").input_value() == "25"
    assert {row.locator("td").nth(2).inner_text() for row in rows.all()} == {"heads"}


def test_what_was_found_can_be_saved_as_a_topic(page, shown):
    page.goto("/?q=warm%20bread%0Acake")
    page.get_by_test_id("save-topic").click()
    page.get_by_test_id("topic-name").fill("baking <b>bold</b>")
    page.get_by_test_id("topic-save").click()
    page.get_by_test_id("top").locator("tbody tr").first.wait_for()
    assert page.locator(".chosen").inner_text() == "baking <b>bold</b>"
    texts = shown.ask("topic_texts", topic="baking <b>bold</b>")["text"].to_list()
    assert texts == ["warm bread", "cake"]
    assert shown.atlas.top("baking <b>bold</b>", 1).height == 2
