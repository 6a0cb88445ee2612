"""Every page in a real browser: what it shows is what SQL says, texts stay texts, and a link brings it back."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import tiny
from command import run

from atlas.errors import AtlasError, StoreError
from atlas.explorer.points import Points, pack
from atlas.explorer.sql_page import answer
from atlas.explorer.why import searched_reasons, stored_reasons


def test_the_topic_page_shows_the_best_neurons_as_the_command_does(page, shown):
    page.goto("/topics?topic=medicine&n=10&sae=0")
    rows = page.get_by_test_id("top").locator("tbody tr")
    rows.first.wait_for()
    lines = [row.locator("td").all_inner_texts() for row in rows.all()]
    code, out, _ = run("top", shown.atlas.store.path, "medicine", "-n", "10", "--sae-id", "0", "--format", "json")
    wanted = json.loads(out)
    assert code == 0
    assert [line[2] for line in lines] == [str(row["neuron"]) for row in wanted]
    exact = page.get_by_test_id("top").locator(".figure").evaluate_all("all => all.map(one => Number(one.title))")
    assert exact == [row["score"] for row in wanted]
    page.get_by_test_id("topic-scorer").click()
    page.get_by_role("option", name="centroid").click()
    page.wait_for_url(lambda url: "scorer=centroid" in url)


@pytest.mark.parametrize("scorer", ["distance", "centroid"])
def test_the_reasons_sum_to_g_and_dropping_prompts_moves_the_score(shown, scorer):
    best = shown.atlas.top("medicine", 1, sae_id=0, scorer=scorer).row(0, named=True)
    reasons = stored_reasons(shown, "medicine", 0, best["neuron"], scorer=scorer)
    assert reasons.prompts["contribution"].sum() == pytest.approx(reasons.g, abs=1e-5)
    assert (reasons.score, reasons.g) == (best["score"], best["g"])
    g, score = reasons.without([])
    assert (g, score) == (pytest.approx(reasons.g, abs=1e-5), pytest.approx(reasons.score, abs=1e-4))
    heaviest = reasons.prompts.row(0, named=True)
    rest = reasons.prompts.slice(1)
    wanted = rest["contribution"].sum() / rest["weight"].sum()
    assert reasons.without([heaviest["prompt_id"]])[0] == pytest.approx(wanted)
    assert reasons.without(reasons.prompts["prompt_id"].to_list()) is None


def test_the_reasons_of_a_search_are_those_of_the_same_topic(shown):
    neuron = shown.atlas.top("medicine", 1, sae_id=0, scorer="centroid").item(0, "neuron")
    stored = stored_reasons(shown, "medicine", 0, neuron, scorer="centroid")
    found = searched_reasons(shown, tiny.MEDICINE, 0, neuron)
    assert found.prompts["prompt_id"].to_list() == stored.prompts["prompt_id"].to_list()
    for name in ("weight", "distance", "contribution"):
        assert found.prompts[name].to_list() == pytest.approx(stored.prompts[name].to_list(), abs=1e-5)
    assert (found.g, found.score) == (pytest.approx(stored.g, abs=1e-5), pytest.approx(stored.score, abs=1e-4))
    assert shown.atlas.sql(found.sql)["contribution"].to_list() == found.prompts["contribution"].to_list()


def test_a_neuron_that_never_fired_has_no_reasons(shown):
    with pytest.raises(AtlasError, match="fired on no reference prompt"):
        stored_reasons(shown, "medicine", 0, 4)
    with pytest.raises(AtlasError, match="fired on no reference prompt"):
        searched_reasons(shown, ["a boat"], 0, 4)


def test_unticking_a_prompt_shows_the_score_without_it(page, shown):
    neuron = shown.atlas.top("medicine", 1, sae_id=0).item(0, "neuron")
    page.goto(f"/why/0/{neuron}?topic=medicine")
    result = page.get_by_test_id("why-result")
    result.wait_for()
    assert "Without" not in result.inner_text()
    page.locator(".reasons tbody .q-checkbox").first.click()
    page.get_by_text("Without 1 of its prompts").wait_for()
    reasons = stored_reasons(shown, "medicine", 0, neuron)
    g, score = reasons.without([reasons.prompts.item(0, "prompt_id")])
    assert f"Without 1 of its prompts: g {g:.4f}, score {score:.3f}." in result.inner_text()
    assert f"{reasons.prompts['contribution'].sum():.6f}" in page.get_by_test_id("why-sum").inner_text()


def test_sql_gives_the_rows_of_the_command_and_links_neurons(page, shown):
    sql = "select sae_key, neuron, support, label from neurons order by support desc, neuron limit 7"
    page.goto(f"/sql?q={sql.replace(' ', '%20')}")
    rows = page.get_by_test_id("answer").locator("tbody tr")
    rows.first.wait_for()
    wanted = json.loads(run("query", shown.atlas.store.path, sql, "--format", "json")[1])
    lines = [row.locator("td").all_inner_texts() for row in rows.all()]
    assert [line[:3] for line in lines] == [[str(row[n]) for n in ("sae_key", "neuron", "support")] for row in wanted]
    link = rows.first.locator("a").get_attribute("href")
    assert link == f"/neuron/{wanted[0]['sae_key']}/{wanted[0]['neuron']}"
    assert page.get_by_test_id("sql-count").inner_text().startswith("7 rows")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("delete from notes", "is no query"),
        ("select * from read_csv('/etc/passwd')", "SQL error: Permission Error"),
        ("select * from nowhere", "SQL error: Catalog Error"),
    ],
)
def test_sql_that_does_more_than_ask_the_file_is_refused_in_one_line(page, sql, said):
    page.goto(f"/sql?q={sql.replace(' ', '%20')}")
    page.locator(".q-notification").filter(has_text=said).wait_for()


def test_a_query_that_takes_long_is_stopped_and_one_with_many_rows_is_cut(shown):
    import threading

    never, at_once = threading.Event(), threading.Event()
    cut = answer(shown, "select * from range(5000)", never, rows=100)
    assert (cut.frame.height, cut.more) == (100, True)
    endless = "select count(*) from range(100000000) a, range(100000) b"
    with pytest.raises(StoreError, match="took longer than 0.3 s and was stopped"):
        answer(shown, endless, never, seconds=0.3)
    at_once.set()
    with pytest.raises(StoreError, match="the query was stopped"):
        answer(shown, endless, at_once)


def test_points_are_packed_as_numbers_of_32_bits_and_the_oldest_are_dropped():
    frame = pl.DataFrame({"x": [1.0, 2.0], "y": [3, None], "colour": [0.5, 0.25]})
    content = pack(frame)
    assert np.frombuffer(content[:4], "<u4").item() == 2
    assert np.frombuffer(content[4:], "<f4").tolist() == pytest.approx([1, 2, 3, float("nan"), 0.5, 0.25], nan_ok=True)
    kept = Points()
    names = [kept.put(frame) for _ in range(65)]
    assert kept.get(names[0]) is None
    assert kept.get(names[1]) == content


def test_two_topics_are_compared_and_what_stands_for_one_alone_is_listed(page, shown):
    page.goto("/compare?a=medicine&b=the%20sea&by=score")
    scatter = page.get_by_test_id("scatter")
    page.wait_for_selector("[data-drawn]")
    counted = (
        "select count(*) from scores x join scorings g using (scoring_id) join topics t using (topic_id) "
        "where t.name = 'medicine' and g.scorer = 'distance' and x.score is not null"
    )
    assert int(scatter.get_attribute("data-drawn")) == shown.atlas.sql(counted).item()
    box = scatter.bounding_box()
    corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.02)]
    for number, (x, y) in enumerate(corners):
        page.mouse.move(box["x"] + 60 + x * (box["width"] - 160), box["y"] + 20 + y * (box["height"] - 80), steps=4)
        if not number:
            page.mouse.down()
    page.mouse.up()
    rows = page.get_by_test_id("listed").locator("tbody tr")
    rows.first.wait_for()
    line = rows.first.locator("td").all_inner_texts()
    wanted = shown.atlas.sql(
        f"select topic, score from neuron_scores where neuron = {line[1]} and sae_id = '{line[2]}' and scorer = 'distance' "
        "and topic in ('medicine', 'the sea') order by topic"
    )
    exact = [rows.first.locator("td").nth(place).get_attribute("title") for place in (3, 4)]
    assert [float(value) for value in exact] == wanted["score"].to_list()
    assert line[3:5] == [f"{value:.3f}" for value in wanted["score"]]
