"""Every page in a real browser: what it shows is what SQL says, texts stay texts, and a link brings it back."""

from __future__ import annotations

import io
import json
import tempfile
import threading

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import tiny
from command import run

from atlas.errors import AtlasError, StoreError
from atlas.explorer.files import GROUP, Files, parts, write_rows
from atlas.explorer.points import Points, pack
from atlas.explorer.sql_page import SAMPLES, answer
from atlas.explorer.why import searched_reasons, stored_reasons
from atlas.meaning import neuron_map
from atlas.meaning.notes import read_notes
from atlas.store.querying import BATCH
from atlas.store.session import now


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
    never, at_once = threading.Event(), threading.Event()
    cut = answer(shown, "select * from range(5000)", never, rows=100)
    assert (cut.frame.height, cut.more) == (100, True)
    endless = "select count(*) from range(100000000) a, range(100000) b"
    with pytest.raises(StoreError, match="took longer than 0.3 s and was stopped"):
        answer(shown, endless, never, seconds=0.3)
    at_once.set()
    with pytest.raises(StoreError, match="the query was stopped"):
        answer(shown, endless, at_once)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_queries_that_are_offered_run(shown, name):
    found = answer(shown, SAMPLES[name].replace("cooking", "the sea"), threading.Event())
    assert found.frame.width > 1


def written(visit, sql, kind, stopped=lambda: False):
    with write_rows(visit.atlas.store, sql, kind, stopped=stopped, told=lambda rows: None) as file:
        return file.read()


def test_a_file_has_all_rows_and_few_of_them_are_in_memory_at_a_time(shown):
    sql, told = "select range as nr, 'row ' || range as name from range(250000)", []
    with write_rows(shown.atlas.store, sql, "parquet", stopped=lambda: False, told=told.append) as file:
        found = pq.ParquetFile(file)
        assert found.read()["nr"].to_pylist() == list(range(250_000))
        groups = [found.metadata.row_group(place).num_rows for place in range(found.num_row_groups)]
    assert told[-1] == sum(groups) == 250_000
    assert max(groups) < GROUP + max(np.diff([0, *told])) <= GROUP + BATCH
    lines = written(shown, sql, "csv").splitlines()
    assert (len(lines), lines[0], lines[-1]) == (250_001, b"nr,name", b"249999,row 249999")
    none = "select neuron from neurons where neuron < 0"
    assert written(shown, none, "csv") == b"neuron\n"
    assert pl.read_parquet(io.BytesIO(written(shown, none, "parquet"))).height == 0


def test_numbers_of_128_bits_are_decimals_in_parquet_and_those_it_lacks_are_said(shown):
    found = pl.read_parquet(io.BytesIO(written(shown, "select sum(support) as total from neurons", "parquet")))
    assert found.item() == shown.atlas.sql("select sum(support) from neurons").item()
    with pytest.raises(StoreError, match="column x has numbers of more than 38 digits"):
        written(shown, "select 170141183460469231731687303715884105727::hugeint as x", "parquet")


def test_a_file_that_is_given_up_or_not_fetched_leaves_nothing(shown, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    asked = iter([False] * 3)
    with pytest.raises(StoreError):
        written(shown, "select * from range(3000000)", "csv", stopped=lambda: next(asked, True))
    with pytest.raises(StoreError, match="Binder Error"):
        written(shown, "select nothing from neurons", "parquet")
    file = write_rows(shown.atlas.store, "from neurons", "csv", stopped=lambda: False, told=lambda rows: None)
    assert list(tmp_path.iterdir()) == []  # a file without a name
    begun = parts(file)
    next(begun)
    begun.close()  # the browser went away
    assert file.closed
    kept = Files()
    files = [io.BytesIO(b"x") for _ in range(9)]
    words = [kept.put(one, "x.csv") for one in files]
    assert (files[0].closed, kept.take(words[0])) == (True, None)
    assert kept.take(words[8]) == (files[8], "x.csv")
    assert kept.take(words[8]) is None


def test_a_table_is_given_as_the_csv_that_the_command_prints_and_as_parquet(shown):
    sql = "select neuron, top_tokens, label, '=1+1' as risky, density from neurons where sae_key = 0 order by neuron"
    code, out, _ = run("query", shown.atlas.store.path, sql, "--format", "csv")
    assert code == 0
    assert written(shown, sql, "csv").decode() == out
    assert pl.read_parquet(io.BytesIO(written(shown, sql, "parquet"))).equals(shown.atlas.sql(sql))


def test_a_file_of_a_table_is_downloaded(page, shown):
    page.goto("/topics?topic=medicine&sae=0")
    page.get_by_test_id("top").locator("tbody tr").first.wait_for()
    with page.expect_download() as given:
        page.get_by_test_id("csv").click()
    assert given.value.suggested_filename == "medicine.csv"
    rows = pl.read_csv(given.value.path())
    assert rows["neuron"].to_list() == shown.atlas.top("medicine", 20, sae_id=0)["neuron"].to_list()


def test_labels_with_markup_stay_texts_wherever_neurons_are_listed(page, shown):
    markup = "<img src=x onerror=alert(1)><b>label</b>"
    neuron = shown.atlas.top("medicine", 1, sae_id=0).item(0, "neuron")
    with shown.atlas.store.write() as session:
        row = {"sae_key": [0], "neuron": [neuron], "source": ["user"], "label": [markup], "quality": [0.9]}
        kinds = {
            "sae_key": pl.UInt32,
            "neuron": pl.UInt32,
            "source": pl.String,
            "label": pl.String,
            "quality": pl.Float32,
        }
        session.append("labels", pl.DataFrame(row, schema=kinds).with_columns(created_at=pl.lit(now())))
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for address in (
        "/topics?topic=medicine&sae=0",
        "/?q=a%20doctor&sae=0&n=100",
        f"/neuron/0/{neuron}",
        "/sql?q=from%20labels",
    ):
        page.goto(address)
        page.get_by_text(markup, exact=False).first.wait_for()
        assert page.locator("img").count() == 0
    assert dialogs == []


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
    page.get_by_test_id("keep").click()  # none is ticked: all of them
    page.get_by_test_id("list-name").fill("drawn around")
    page.get_by_test_id("list-keep").click()
    page.locator(".q-notification").filter(has_text="kept in drawn around").wait_for()
    count = page.get_by_test_id("listed-count").inner_text().split(": ")[1].split()[0]
    assert read_notes(shown.atlas.store, "drawn around").height == int(count)


def test_neurons_are_kept_in_a_list_noted_steered_with_and_taken_out_again(page, shown):
    page.goto("/topics?topic=medicine&sae=0&n=10")
    rows = page.get_by_test_id("top").locator("tbody tr")
    rows.first.wait_for()
    wanted = [int(rows.nth(place).locator("a.neuron").inner_text()) for place in (0, 2)]
    for place in (0, 2):
        rows.nth(place).locator(".q-checkbox").click()
    page.get_by_test_id("keep").click()
    page.get_by_test_id("list-name").fill("mine <i>&")
    page.get_by_test_id("list-text").fill("<b>bold</b>")
    page.get_by_test_id("list-keep").click()
    page.locator(".q-notification").filter(has_text="kept in mine <i>&").wait_for()
    kept = read_notes(shown.atlas.store, "mine <i>&")
    assert sorted(kept["neuron"]) == sorted(wanted)
    assert set(kept["text"]) == {"<b>bold</b>"}
    page.goto("/lists?name=mine%20%3Ci%3E%26")
    rows = page.get_by_test_id("list").locator("tbody tr")
    rows.first.wait_for()
    assert "<b>bold</b>" in rows.first.inner_text()
    rows.first.locator(".q-checkbox").click()
    page.get_by_test_id("take-out").click()
    page.wait_for_function("document.querySelectorAll('[data-testid=list] tbody tr').length === 1")
    page.get_by_text("Steer with the list").click()
    page.wait_for_url(lambda url: "/steer?listed=mine%20%3Ci%3E%26" in url)
    page.get_by_test_id("settled").filter(has_text="1 neurons of the list mine <i>& steer").wait_for()
    page.goto("/lists?name=mine%20%3Ci%3E%26")
    page.get_by_text("Steer by it: as a command").click()
    assert "--list 'mine <i>&'" in page.locator(".source").first.inner_text()


def test_a_neurons_page_shows_its_card_and_tries_a_text(page, shown):
    neuron = shown.atlas.top("medicine", 1, sae_id=0).item(0, "neuron")
    page.goto(f"/neuron/0/{neuron}?text=%3Cimg%20src=x%20onerror=alert(1)%3E%20doctor")
    card = page.get_by_test_id("neuron").locator(".atlas-card")
    card.wait_for()
    page.get_by_test_id("own-result").locator(".atlas-card").wait_for()
    assert "<img src=x onerror=alert(1)>" in page.get_by_test_id("own-result").inner_text()
    assert page.locator("img").count() == 0
    figures = shown.atlas.sql(
        f"select support, max_activation from neurons where sae_key = 0 and neuron = {neuron}"
    ).row(0)
    assert f"{figures[0]} of 60 prompts" in " ".join(card.inner_text().split())
    assert card.locator(".sample .tokens span").count() > 5
    page.locator(".atlas-card .turn a").last.click()
    page.wait_for_url(f"**/neuron/0/{neuron + 1}")


def test_a_narrow_window_has_all_views_without_scrolling_sideways(page, shown):
    neuron = shown.atlas.top("medicine", 1, sae_id=0).item(0, "neuron")
    shown.atlas.add_notes(
        [neuron], "a note that is rather long, so that it has to go over several lines", name="n", sae_id=0
    )
    page.set_viewport_size({"width": 390, "height": 844})
    for address, mark in (
        ("/", ".sample"),
        ("/?q=a%20doctor", "[data-testid=found] tbody tr"),
        ("/topics?topic=medicine", "[data-testid=top] tbody tr"),
        ("/compare?a=medicine&b=the%20sea&by=score", "[data-drawn]"),
        (f"/why/0/{neuron}?topic=medicine", "[data-testid=reasons] tbody tr"),
        (f"/neuron/0/{neuron}", ".atlas-card"),
        ("/steer?topic=medicine&select=score&strength=1", "[data-testid=shuffled]"),
        ("/sql?q=from%20neurons", "[data-testid=answer] tbody tr"),
        ("/lists?name=n", "[data-testid=list] tbody tr"),
        ("/map", "[data-testid=scatter]"),
    ):
        page.goto(address)
        page.locator(mark).first.wait_for(state="attached")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, address
        inside = "all => all.map(one => one.scrollWidth - one.clientWidth)"
        if "answer" not in mark:  # a visitor's own columns may be many
            assert all(over <= 1 for over in page.locator(".neurons .q-table__middle").evaluate_all(inside)), address
        for link in page.locator(".bar .links a").all():
            assert link.bounding_box()["x"] + link.bounding_box()["width"] < 350


def test_a_dead_neuron_and_one_that_is_not_there_say_so(page):
    page.goto("/neuron/0/4")
    page.get_by_text("Dead:").wait_for()
    page.goto("/neuron/0/99")
    page.locator(".q-notification").filter(has_text="unknown neuron '99': known are 0 to 23").wait_for()


def test_the_map_is_made_from_the_page_coloured_by_a_topic_and_searched(page, shown, monkeypatch):
    places = np.random.default_rng(0)  # UMAP itself is tested in its room: to import and compile it takes many seconds
    monkeypatch.setattr(
        neuron_map, "place_points", lambda points, **_: places.normal(size=(len(points), 2)).astype(np.float32)
    )
    page.goto("/map")
    page.get_by_test_id("make-map").or_(page.locator("[data-drawn]")).first.wait_for()
    if page.get_by_test_id("make-map").count():
        page.get_by_test_id("make-map").click()
    page.wait_for_selector("[data-drawn]", timeout=60_000)
    assert int(page.get_by_test_id("scatter").get_attribute("data-drawn")) == shown.atlas.sql("from map").height
    page.get_by_test_id("map-colour").click()
    page.get_by_role("option", name="a topic's z").click()
    page.wait_for_selector("[data-recoloured='z for medicine']")
    word = shown.atlas.sql(
        "select lower(token) from examples where regexp_matches(token, '^[a-z]{2,}$') order by 1 limit 1"
    ).item()
    page.get_by_test_id("map-find").fill(word)
    rows = page.get_by_test_id("listed").locator("tbody tr")
    rows.first.wait_for()
    holding = shown.atlas.sql(
        f"select distinct sae_key, neuron from examples where lower(token) like '%{word}%'"
    ).height
    assert rows.count() == min(holding, 50) > 0
    page.goto("/map?colour=sql&sql=select%20sae_key%2C%20neuron%2C%20support%20from%20neurons")
    page.wait_for_selector("[data-drawn]")
    page.goto("/map?colour=sql&sql=select%201%20as%20one")
    page.locator(".q-notification").filter(has_text="needs the columns sae_key and neuron").wait_for()
