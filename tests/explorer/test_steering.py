"""Steering from the page: three texts that other doors give too, hostile texts that stay texts, and turns."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import threading
from dataclasses import replace
from time import sleep

import polars as pl
import pytest
from atlas.cli.evaluate import evaluate
from command import run

from atlas.evaluation.runs import MethodSetting
from atlas.explorer.address import link, read_selection, selection
from atlas.explorer.comparison import Comparison, compare_texts, settle
from atlas.explorer.curve import calibrate_command, curve_figure, strength_curve
from atlas.explorer.tokens import tint_range, token_html
from atlas.explorer.visit import Turns
from atlas.explorer.wish import ORDERS, Wish
from atlas.steering.generations import METRIC_SCHEMA
from atlas.steering.selection import RULES
from atlas.steering.streaming import Token
from atlas.store.session import now

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>&amp;\"'"
WISH = Wish(prompt="The doctor", topic="medicine", select="score", strength=0.5, tokens=8, seed=5)


def texts_of(going):
    return {name: streamed.generation.text for name, streamed in going.done.items()}


def go(visit, wish):
    going = Comparison()
    settled = settle(visit, wish, going)
    compare_texts(visit, settled, going)
    return settled, going


def test_a_wish_is_restored_by_its_link():
    odd = replace(WISH, prompt="a&b=c #?\n<i>", topic="the sea", neurons="0:3,5;1:7", sae=1, count=4, chat=True, system="so",
                  positions="generated", temperature=0.7, top_k=0, top_p=0.9)  # fmt: skip
    from urllib.parse import parse_qsl, urlsplit

    assert Wish.read(dict(parse_qsl(urlsplit(odd.link()).query, keep_blank_values=True))) == odd
    assert Wish().link() == "/steer"
    assert Wish.read({"strength": "much", "method": "magic", "tokens": "", "sae": "x"}) == Wish()
    assert read_selection(selection({0: [3, 5], 1: [7]})) == {0: [3, 5], 1: [7]}
    assert read_selection("a:1;2;:;3:-1") == {}
    assert link("/x", a=None, b="", c=[], d=0, e=False, f=True, g=0.5) == "/x?d=0&f=1&g=0.5"


def test_the_command_the_program_and_the_page_give_the_same_texts(shown):
    settled, going = go(shown, WISH)
    texts = texts_of(going)
    assert list(texts) == ["unsteered", "steered", "shuffled"]
    path = shown.atlas.store.path
    words = shlex.split(settled.wish.command(path))
    assert words[0] == "atlas"
    code, out, err = run(*words[1:], "--no-save", "--format", "json")
    assert code == 0, err
    assert {row["method"]: row["text"] for row in json.loads(out)} == {
        "original": texts["unsteered"],
        "add": texts["steered"],
    }
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(settled.wish.python(path), {})
    assert said.getvalue() == f"original {texts['unsteered']}\nadd {texts['steered']}\n"
    kept = shown.atlas.sql("select method, text from generations order by generation_id desc limit 2")
    assert kept.rows() == [("add", texts["steered"]), ("original", texts["unsteered"])]


def test_neurons_of_choice_go_through_every_door_too(shown):
    settled, going = go(shown, Wish(prompt="The doctor", neurons="0:5,2", strength=0.4, tokens=6))
    words = shlex.split(settled.wish.command(shown.atlas.store.path))
    rows = json.loads(run(*words[1:], "--no-save", "--format", "json")[1])
    assert rows[1]["text"] == going.done["steered"].generation.text
    found = shown.atlas.sql(settled.wish.sql(0))
    assert sorted(found.select("sae_key", "neuron").rows()) == [(0, 2), (0, 5)]
    assert (settled.neurons, settled.raw) == (2, pytest.approx(found["max_activation"].mean()))


def test_a_list_goes_through_every_door_too(shown):
    shown.atlas.add_notes([5, 2], name="blood's", sae_id=0)
    shown.atlas.add_notes([3], name="blood's", sae_id=1)
    settled, going = go(shown, Wish(prompt="The doctor", listed="blood's", topic="medicine", strength=0.4, tokens=6))
    texts = texts_of(going)
    words = shlex.split(settled.wish.command(shown.atlas.store.path))
    rows = json.loads(run(*words[1:], "--no-save", "--format", "json")[1])
    assert rows[1]["text"] == texts["steered"] != texts["shuffled"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(settled.wish.python(shown.atlas.store.path), {})
    assert said.getvalue() == f"original {texts['unsteered']}\nadd {texts['steered']}\n"
    assert shown.atlas.sql(settled.wish.sql(0)).select("sae_key", "neuron").rows() == [(0, 2), (0, 5), (1, 3)]
    assert settled.neurons == 3
    assert settle(shown, replace(settled.wish, sae=1), Comparison()).neurons == 1


@pytest.mark.parametrize("rule", ["score", "z", "combined", "centroid", "centroid-joint"])
def test_the_sql_of_a_steer_names_the_neurons_that_steer_in_their_order(shown, rule):
    wish = Wish(topic="medicine", select=rule, count=5, strength=0.1)
    try:
        settled = settle(shown, wish, Comparison())
    except Exception as error:
        assert "leaves no neuron" in str(error)  # z of a small atlas is seldom so low
        assert shown.atlas.sql(wish.sql(0)).is_empty()
        return
    target = settled.prepared.saes[0].target
    assert shown.atlas.sql(settled.wish.sql(0))["neuron"].to_list() == target.best[: settled.wish.count].tolist()


def test_every_selection_rule_has_its_sql():
    assert ORDERS.keys() == RULES.keys()


def test_strength_0_gives_the_unsteered_text_byte_for_byte_and_the_control_too(shown):
    texts = texts_of(go(shown, replace(WISH, strength=0.0))[1])
    assert len(texts) == 3
    assert len({text.encode() for text in texts.values()}) == 1


def test_one_visitor_generates_at_a_time_and_the_others_are_told_how_many_are_before_them():
    turns, order, release = Turns(), [], threading.Event()
    tickets = [object() for _ in range(3)]

    def take(number):
        with turns.wait(tickets[number], threading.Event()) as mine:
            order.append((number, mine))
            release.wait(10)

    threads = []
    for number in range(3):
        threads.append(threading.Thread(target=take, args=(number,)))
        threads[-1].start()
        while number not in [n for n, ticket in enumerate(tickets) if ticket in turns._waiting]:
            sleep(0.01)
    assert [turns.before(ticket) for ticket in tickets] == [0, 1, 2]
    gone = threading.Event()
    gone.set()
    with turns.wait(object(), gone) as mine:
        assert not mine
    release.set()
    for thread in threads:
        thread.join(10)
    assert order == [(0, True), (1, True), (2, True)]


def test_tokens_are_tinted_on_one_scale_and_stay_texts():
    tokens = [Token(HOSTILE, 0.5, ((HOSTILE, 0.5),), 0.4), Token("b", 0.1, (), 0.8), Token("c", 0.1, ())]
    tints = tint_range([tokens, []])
    assert tints == (0.4, 0.8)
    made = str(token_html(tokens, HOSTILE, tints=tints))
    assert "<img" not in made
    assert "<script" not in made
    assert "--c:0.000" in made
    assert "--c:1.000" in made
    assert made.count("--c:") == 2
    assert "--c" not in token_html(tokens, "", tints=None)


def store_calibration(store, prepared, method, strengths, *, evaluation, **other):
    """Runs as a calibration stores them, with figures that are made up: value n + 1 at the nth strength, 0 the first."""
    shared = {**prepared.settings.stored(), "sae_keys": prepared.sae_keys, "vectors": [], **other}
    settings = [MethodSetting("original")]
    settings += [MethodSetting(method, replace(prepared.options[method], strength=one)) for one in strengths]
    rows = [
        (10 * evaluation + n, evaluation, "medicine", one.method, json.dumps({**one.flat(), **shared}), 0)
        for n, one in enumerate(settings)
    ]
    schema = {"run_id": pl.UInt32, "evaluation_id": pl.UInt32, "topic": pl.String, "method": pl.String,
              "parameters": pl.String, "seed": pl.UInt64}  # fmt: skip
    values = [
        (row[0], None, name, n + 1.0, n + 0.5, n + 1.5)
        for n, row in enumerate(rows)
        for name in ("perplexity", "distance_topic")
    ]
    with store.write() as session:
        session.append("runs", pl.DataFrame(rows, schema=schema, orient="row").with_columns(created_at=pl.lit(now())))
        session.append("metrics", pl.DataFrame(values, schema=METRIC_SCHEMA, orient="row"))


def test_the_calibration_that_is_drawn_is_that_of_the_settings_in_the_form(shown):
    prepared = settle(shown, WISH, Comparison()).prepared
    store, drawn = shown.atlas.store, [0.1, 0.2, 0.3]
    assert strength_curve(shown, prepared, "add").is_empty()
    store_calibration(store, prepared, "add", drawn, evaluation=90)
    for number, other in enumerate(({"select": "z"}, {"sae_keys": [1]}, {"chat": True}, {"scorer": "centroid"})):
        store_calibration(store, prepared, "add", [7, 8, 9], evaluation=91 + number, **other)
    store_calibration(store, prepared, "add", [7, 8], evaluation=96)  # of an evaluation: two strengths are no curve
    with store.write() as session:  # not ours
        odd = {"run_id": pl.lit(999, pl.UInt32), "evaluation_id": pl.lit(99, pl.UInt32), "parameters": pl.lit("[]")}
        session.append("runs", session.sql("from runs where method = 'add' limit 1").with_columns(**odd))
    curve = strength_curve(shown, prepared, "add")
    assert curve.filter(pl.col("name") == "perplexity")["strength"].to_list() == [0, *drawn]
    assert curve["value"].to_list() == [1, 2, 3, 4] * 2
    other = settle(shown, replace(WISH, sae=1), Comparison()).prepared
    assert strength_curve(shown, other, "add")["strength"].max() == 9
    for wish in (replace(WISH, count=3), replace(WISH, method="clamp"), replace(WISH, positions="prompt")):
        assert strength_curve(shown, settle(shown, wish, Comparison()).prepared, wish.method).is_empty()
    figure = curve_figure(curve, 0.25, 0.2)
    assert [(one["text"], one["x"]) for one in figure["layout"]["annotations"]] == [
        ("in use", 0.25),
        ("picked by calibration", 0.2),
    ]
    assert curve_figure(curve, 0.2, 0.2)["layout"]["annotations"][0]["text"] == "in use, picked by calibration"
    assert figure["data"][0]["y"] == [1, 2, 3, 4]


def test_the_command_that_is_offered_measures_under_the_settings_of_the_form(shown):
    wish = replace(WISH, select="score", count=3, positions="generated", sae=1)
    settled = settle(shown, wish, Comparison())
    words = shlex.split(calibrate_command("x.atlas", settled.wish, settled.prepared))
    assert words == shlex.split(
        "atlas evaluate x.atlas medicine --method add --calibrate --sae-id 1 --select score --positions generated --neurons 3"
    )
    with evaluate.make_context("evaluate", words[2:]) as context:  # the command takes them
        assert context.params["sae_ids"] == ("1",)


def test_the_page_steers_side_by_side_and_hostile_texts_stay_texts(page, shown):
    shown.atlas.score(HOSTILE[:60], ["Bread in the oven", "A loaf of bread"], null_topics=2)
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    wish = Wish(prompt=HOSTILE[:28], topic=HOSTILE[:60], select="score", strength=0.0, tokens=4)
    page.goto(wish.link())
    page.get_by_test_id("settled").filter(has_text="steer").wait_for()
    page.get_by_test_id("generate").click()
    page.get_by_test_id("shuffled").filter(has_text="times the perplexity").wait_for()
    columns = {name: page.get_by_test_id(name).locator(".generated") for name in ("unsteered", "steered", "shuffled")}
    texts = {name: place.inner_text() for name, place in columns.items()}
    assert texts["unsteered"].startswith(HOSTILE[:28])
    assert len(set(texts.values())) == 1
    token = columns["steered"].locator(".t").first
    assert "likelihood" in token.get_attribute("title")
    page.get_by_text("As a command").click()
    assert shlex.quote(HOSTILE[:60]) in page.locator(".source").first.inner_text()
    page.goto(link("/topics", topic=HOSTILE[:60]))
    page.get_by_test_id("top").locator("tbody tr").first.wait_for()
    assert page.locator(".chosen").inner_text() == HOSTILE[:60]
    assert page.locator("img, .nicegui-content script").count() == 0
    assert dialogs == []


def test_a_visitor_who_waits_is_told_so_and_can_stop(page, shown):
    page.goto(replace(WISH, tokens=20).link())
    page.get_by_test_id("settled").filter(has_text="steer").wait_for()
    with shown.turns.wait(object(), threading.Event()):  # somebody else generates
        page.get_by_test_id("generate").click()
        page.get_by_test_id("state").filter(has_text="waiting: 1 before you").wait_for()
        page.get_by_test_id("stop").click()
        page.wait_for_function("!document.querySelector('[data-testid=generate]').disabled")
    assert page.get_by_test_id("state").inner_text() == ""
    assert page.get_by_test_id("unsteered").locator(".t").count() == 0
