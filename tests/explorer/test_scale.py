"""Many neurons, many visitors, and a writer beside them."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import polars as pl
import pytest
import tiny
from browser import looking, serving

import atlas
from atlas.store.file import Store
from atlas.store.session import now

SIZES = (32_768, 393_232)  # of two SAEs; 426,000 together
SECONDS = {"32768": 3, "426000": 8}  # in which they are drawn, from asking for the points to their standing there


@pytest.fixture(scope="module")
def wide_atlas(tmp_path_factory, built_atlas):
    """A small atlas with two wide SAEs more, whose neurons are like its own and have a place on the map."""
    path = shutil.copy(built_atlas, tmp_path_factory.mktemp("wide") / "wide.atlas")
    generator = np.random.default_rng(0)
    with Store(path).write() as session:
        sae = session.sql("select * from saes where sae_key = 0")
        own = session.sql("select * from neurons where sae_key = 0")
        for key, size in enumerate(SIZES, start=2):
            wide = own[np.arange(size) % own.height].with_columns(
                sae_key=pl.lit(key, pl.UInt32), neuron=pl.Series(np.arange(size), dtype=pl.UInt32)
            )
            changed = {"sae_key": key, "sae_id": f"wide{key}", "sae_hash": f"hash{key}", "d_sae": size}
            session.append("saes", sae.with_columns(pl.lit(value).alias(name) for name, value in changed.items()))
            session.append("neurons", wide)
            places = {name: pl.Series(generator.normal(size=size), dtype=pl.Float32) for name in ("x", "y")}
            made = {
                "basis": pl.lit("vectors"),
                "seed": pl.lit(0),
                "made_of": pl.lit("tests"),
                "created_at": pl.lit(now()),
            }
            session.append("map", wide.select("sae_key", "neuron").with_columns(**places, **made))
    return path


def test_a_map_of_426000_neurons_is_drawn_and_a_point_of_it_clicked(chromium, wide_atlas):
    with serving(wide_atlas, "--read-only") as url:
        for address, count in (("/map?sae=2", "32768"), ("/map", "426000")):
            with looking(chromium, url) as page:
                page.goto(address)
                page.wait_for_selector("[data-drawn]")
                scatter = page.get_by_test_id("scatter")
                assert scatter.get_attribute("data-drawn") == count
                print(f"{count} points drawn in {scatter.get_attribute('data-seconds')} s")
                assert float(scatter.get_attribute("data-seconds")) < SECONDS[count]
                box = scatter.bounding_box()
                middle = box["x"] + box["width"] * 0.48, box["y"] + box["height"] / 2
                page.mouse.move(middle[0] - 3, middle[1])
                page.mouse.move(*middle, steps=3)
                page.get_by_test_id("caption").filter(has_text="neuron").wait_for()
                page.mouse.click(*middle)
                page.get_by_test_id("listed-count").filter(has_text="One neuron: 1 rows").wait_for()
                assert page.get_by_test_id("listed").locator("a.neuron").count() == 1


def test_ten_visitors_at_once_find_what_each_asked_for_while_another_process_writes(chromium, served, shown, elsewhere):
    path = str(shown.atlas.store.path)
    writer = threading.Thread(target=lambda: results.append(elsewhere(score_beside, path)))
    results = []
    words = [f"the boat number {number} sailed at dawn" for number in range(10)]
    with looking(chromium, served) as first:
        pages = [first, *(first.context.new_page() for _ in words[1:])]
        writer.start()
        for page, word in zip(pages, words, strict=True):
            page.set_default_timeout(60_000)
            page.goto(f"{served}/?q={word.replace(' ', '%20')}&n=10", wait_until="commit")
        for page, word in zip(pages, words, strict=True):
            rows = page.get_by_test_id("found").locator("tbody tr")
            rows.first.wait_for()
            wanted = (
                shown.atlas.search(word, 10, encoder=None).sort("z", "sae_key", "neuron").head(10)["neuron"].to_list()
            )
            assert [int(row.locator("td").nth(1).inner_text()) for row in rows.all()] == wanted
    writer.join(60)
    assert results == [0]
    assert "written beside" in shown.topics()


def score_beside(path):
    """Score a topic from a process of its own."""
    atlas.open(path, patience=60).score("written beside", list(tiny.SEA), null_topics=2)


def test_the_first_page_stands_in_less_than_two_seconds(page):
    page.goto("/")
    page.goto("/")
    timing = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    page.get_by_text("Type anything and press Enter").wait_for()
    assert timing < 2000
