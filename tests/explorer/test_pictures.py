"""The pictures in the explorer's README. To make them anew, of an atlas of SmolLM2 with a map (the words go to `atlas explore`):

ATLAS_PICTURES="atlas-demo/smollm2.atlas --model smollm2" pytest tests/explorer/test_pictures.py
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
from browser import looking, serving

import atlas.explorer

ROOM = Path(atlas.explorer.__file__).parent
PICTURES = ROOM / "pictures"
WANTED = os.environ.get("ATLAS_PICTURES", "")
PATIENCE = 180_000  # milliseconds: a model is loaded


def best(page):
    """The first neuron of a topic's list."""
    page.goto("/topics?topic=medicine")
    page.locator("a.neuron").first.wait_for()
    return page.locator("a.neuron").first.get_attribute("href")


def search(page):
    page.goto("/?q=medicine")
    page.locator("svg.bar .whisker").first.wait_for(state="attached", timeout=PATIENCE)


def neuron(page):
    page.goto(best(page))
    page.get_by_text("Suppresses").wait_for(timeout=PATIENCE)
    page.wait_for_function("document.querySelector('[data-testid=neuron-state]').innerText === ''", timeout=PATIENCE)


def steer(page):
    page.goto("/steer?topic=medicine&chat=1&strength=0.1&prompt=What%20did%20you%20do%20at%20the%20weekend%3F")
    page.get_by_test_id("settled").filter(has_text="steer").wait_for(timeout=PATIENCE)
    page.get_by_test_id("generate").click()
    page.get_by_test_id("shuffled").filter(has_text="times the perplexity").wait_for(timeout=PATIENCE)
    page.wait_for_function("!document.querySelector('[data-testid=generate]').disabled", timeout=PATIENCE)


def map_(page):
    page.goto("/map?colour=z&topic=medicine")
    page.wait_for_selector("[data-drawn]", timeout=PATIENCE)


def compare(page):
    page.goto("/compare?a=medicine&b=cooking")
    page.wait_for_selector("[data-drawn]", timeout=PATIENCE)


VIEWS = {"search": search, "neuron": neuron, "steer": steer, "map": map_, "compare": compare}


def test_the_readme_shows_the_five_main_views_and_they_are_small():
    assert {path.stem for path in PICTURES.glob("*.jpg")} == VIEWS.keys()
    shown = re.findall(r"!\[.+?\]\(pictures/(\w+)\.jpg\)", (ROOM / "README.md").read_text())
    assert sorted(shown) == sorted(VIEWS)
    assert sum(path.stat().st_size for path in PICTURES.glob("*.jpg")) < 1_000_000


@pytest.mark.skipif(not WANTED, reason="ATLAS_PICTURES names no atlas: the pictures stay as they are")
def test_pictures_are_made_of_the_atlas_that_is_named(chromium):
    path, *words = shlex.split(WANTED)
    with serving(path, *words, "--read-only") as url:
        for name, show in VIEWS.items():
            with looking(chromium, url, color_scheme="light") as page:
                page.set_viewport_size({"width": 1280, "height": 820})
                show(page)
                page.wait_for_timeout(1500)
                page.mouse.move(640, 5)
                page.screenshot(path=PICTURES / f"{name}.jpg", type="jpeg", quality=80)
